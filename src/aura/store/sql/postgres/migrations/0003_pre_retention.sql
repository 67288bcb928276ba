-- Ended runs by age. A search by id and state cannot stray into it: it names no finished_at.
CREATE INDEX runs_finished ON aura.runs (finished_at)
    WHERE finished_at IS NOT NULL AND state IN ('completed', 'failed', 'cancelled');

-- The feeds whose items may be deleted: those that begin with one of `prefixes`, without `keep`.
CREATE FUNCTION aura.aging_feeds(prefixes text[], keep text[]) RETURNS SETOF text
LANGUAGE sql STABLE AS
$$
    WITH RECURSIVE names (feed) AS (
        SELECT (SELECT min(f.feed) FROM aura.feeds AS f)
        UNION ALL
        SELECT (SELECT min(f.feed) FROM aura.feeds AS f WHERE f.feed > names.feed)
        FROM names WHERE names.feed IS NOT NULL
    )
    SELECT names.feed FROM names
    WHERE names.feed IS NOT NULL AND names.feed <> ALL (keep)
      AND EXISTS (SELECT FROM unnest(prefixes) AS p (prefix) WHERE starts_with(names.feed, p.prefix))
$$;

-- Deletes at most `most` rows of what is over for `age` seconds. A run goes last, after its journal
-- (from its end, so that what is left is a journal too) and its signals. One process sweeps at a
-- time, and no run waits for it or the other way round: those that someone has locked are passed by.
CREATE FUNCTION aura.sweep(
    age double precision, prefixes text[], keep text[], most integer, dead double precision,
    OUT runs integer, OUT entries integer, OUT signals integer, OUT items integer,
    OUT workers integer
) LANGUAGE plpgsql AS
$$
DECLARE
    moment double precision := aura.moment();
    room integer := most;
    done integer;
    one record;
BEGIN
    runs := 0; entries := 0; signals := 0; items := 0; workers := 0;
    PERFORM pg_advisory_xact_lock(hashtextextended('aura.sweep', 0));
    FOR one IN
        SELECT r.id FROM aura.runs AS r
        WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
          AND r.finished_at < moment - age
        ORDER BY r.finished_at LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM aura.journal AS j WHERE j.run_id = one.id AND j.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.journal AS e WHERE e.run_id = one.id
            ORDER BY e.seq DESC LIMIT room));
        GET DIAGNOSTICS done = ROW_COUNT;
        entries := entries + done;
        room := room - done;
        DELETE FROM aura.signals AS s WHERE s.run_id = one.id AND s.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.signals AS e WHERE e.run_id = one.id
            ORDER BY e.seq DESC LIMIT room));
        GET DIAGNOSTICS done = ROW_COUNT;
        signals := signals + done;
        room := room - done;
        EXIT WHEN room <= 0;
        DELETE FROM aura.runs AS r WHERE r.id = one.id;
        runs := runs + 1;
        room := room - 1;
    END LOOP;
    FOR one IN SELECT f.feed FROM aura.aging_feeds(prefixes, keep) AS f (feed) LOOP
        EXIT WHEN room <= 0;
        DELETE FROM aura.feeds AS f WHERE f.feed = one.feed AND f.at < moment - age
          AND f.seq < (SELECT max(e.seq) FROM aura.feeds AS e WHERE e.feed = one.feed)
          AND f.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.feeds AS e WHERE e.feed = one.feed ORDER BY e.seq LIMIT room));
        GET DIAGNOSTICS done = ROW_COUNT;
        items := items + done;
        room := room - done;
    END LOOP;
    DELETE FROM aura.workers AS w WHERE w.id = ANY (ARRAY(
        SELECT e.id FROM aura.workers AS e
        WHERE e.lease_until < moment - dead
          AND NOT EXISTS (SELECT FROM aura.runs AS r WHERE r.owner = e.id)
        LIMIT greatest(room, 0)));
    GET DIAGNOSTICS workers = ROW_COUNT;
END
$$;
