-- Large values, each of them once; see `aura.store.payloads`. `payload_uses` says which runs have
-- one, `payloads_loose` which may not have it any more.
CREATE TABLE aura.payloads (
    mark bytea PRIMARY KEY,
    body bytea NOT NULL
);
ALTER TABLE aura.payloads ALTER body SET STORAGE EXTERNAL;
CREATE TABLE aura.payload_uses (
    run_id text COLLATE "C" NOT NULL,
    mark   bytea NOT NULL,
    PRIMARY KEY (run_id, mark)
);
CREATE INDEX payload_uses_of ON aura.payload_uses (mark);
CREATE TABLE aura.payloads_loose (
    run_id text COLLATE "C" NOT NULL,
    mark   bytea NOT NULL,
    id     bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (run_id, mark, id)
);

-- Have these values be there, and stay there until the end of the transaction: a row that is locked
-- is not swept, and what is being swept is waited for. In order, so that nobody waits in a circle.
CREATE FUNCTION aura.keep_payloads(marks bytea[], bodies bytea[]) RETURNS void LANGUAGE plpgsql AS
$$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT u.mark, u.body FROM unnest(marks, bodies) AS u (mark, body) ORDER BY u.mark
    LOOP
        LOOP
            PERFORM FROM aura.payloads AS p WHERE p.mark = one.mark FOR KEY SHARE;
            EXIT WHEN FOUND;
            INSERT INTO aura.payloads (mark, body) VALUES (one.mark, one.body)
            ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
        END LOOP;
    END LOOP;
END
$$;

-- Say which runs have the values that are kept (the run '' is none). What is not sure is looked at
-- by a sweep.
CREATE FUNCTION aura.use_payloads(runs text[], marks bytea[], sure boolean[]) RETURNS void
LANGUAGE sql AS
$$
    INSERT INTO aura.payload_uses (run_id, mark)
    SELECT DISTINCT u.run_id, u.mark FROM unnest(runs, marks) AS u (run_id, mark)
    WHERE u.run_id <> '' ORDER BY u.run_id, u.mark
    ON CONFLICT DO NOTHING;
    INSERT INTO aura.payloads_loose (run_id, mark)
    SELECT u.run_id, u.mark FROM unnest(runs, marks, sure) AS u (run_id, mark, sure)
    WHERE NOT u.sure
$$;

CREATE FUNCTION aura.has_payload(run text, value bytea) RETURNS boolean LANGUAGE sql VOLATILE AS
$$
    SELECT EXISTS (SELECT FROM aura.runs AS r
                   WHERE r.id = run AND (r.input = value OR r.output = value))
        OR EXISTS (SELECT FROM aura.journal AS j
                   WHERE j.run_id = run AND (j.input = value OR j.output = value))
        OR EXISTS (SELECT FROM aura.signals AS s WHERE s.run_id = run AND s.payload = value)
$$;

-- Deletes about `most` values that no run has any more; how many. Whoever writes a mark has its
-- value locked until its commit (`aura.keep_payloads`). So once the value is locked here, all uses
-- that there are can be seen, by statements that begin after it. One process sweeps at a time.
CREATE FUNCTION aura.sweep_payloads(most integer) RETURNS integer LANGUAGE plpgsql AS
$$
DECLARE
    one record;
    done integer;
    gone integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('aura.sweep', 0));
    FOR one IN
        SELECT l.run_id, l.mark, array_agg(l.id) AS ids
        FROM (SELECT * FROM aura.payloads_loose LIMIT 20 * greatest(most, 0)) AS l
        GROUP BY l.run_id, l.mark
    LOOP
        EXIT WHEN gone >= most;
        PERFORM FROM aura.payloads AS p WHERE p.mark = one.mark FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND AND EXISTS (SELECT FROM aura.payloads AS p WHERE p.mark = one.mark);
        DELETE FROM aura.payload_uses AS u
        WHERE u.run_id = one.run_id AND u.mark = one.mark
          AND NOT aura.has_payload(one.run_id, one.mark);
        DELETE FROM aura.payloads AS p
        WHERE p.mark = one.mark
          AND NOT EXISTS (SELECT FROM aura.payload_uses AS u WHERE u.mark = one.mark);
        GET DIAGNOSTICS done = ROW_COUNT;
        gone := gone + done;
        DELETE FROM aura.payloads_loose AS l
        WHERE l.run_id = one.run_id AND l.mark = one.mark AND l.id = ANY (one.ids);
    END LOOP;
    RETURN gone;
END
$$;
