-- How many runs have ended, so that nobody has to count a million of them: all that ended until
-- `until` (epoch seconds) are in `runs`, later ones are counted when somebody asks. Ends write
-- nothing here; `aura.tally` moves `until`. The queue '' is the default one.
CREATE TABLE aura.tallies (
    workflow text COLLATE "C" NOT NULL,
    version  text COLLATE "C" NOT NULL,
    state    text COLLATE "C" NOT NULL,
    queue    text COLLATE "C" NOT NULL,
    runs     bigint NOT NULL,
    PRIMARY KEY (workflow, version, state, queue)
) WITH (fillfactor = 50);
CREATE TABLE aura.tally_mark (until double precision NOT NULL) WITH (fillfactor = 10);
INSERT INTO aura.tally_mark VALUES ('-infinity');

-- Counts up to about `most` runs more; whether there may be others. It does nothing while there are
-- fewer than `least_many` to count, or another process is at it. A run whose commit is still under
-- way may have any end since that transaction began, so `until` stays behind it; of transactions
-- that this user may not see it is assumed that they take less than a minute.
CREATE FUNCTION aura.tally(least_many integer, most integer) RETURNS boolean LANGUAGE plpgsql AS
$$
DECLARE
    since double precision;
    upto double precision;
    cut double precision;
BEGIN
    SELECT m.until INTO since FROM aura.tally_mark AS m;
    upto := aura.moment() - 60;
    IF NOT EXISTS (SELECT FROM aura.runs AS r
                   WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
                     AND r.finished_at > since AND r.finished_at <= upto
                   ORDER BY r.finished_at OFFSET least_many LIMIT 1) THEN
        RETURN false;
    END IF;
    SELECT m.until INTO since FROM aura.tally_mark AS m FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    upto := least(upto, (SELECT extract(epoch FROM min(a.xact_start))::double precision - 1
                         FROM pg_stat_activity AS a
                         WHERE a.backend_xid IS NOT NULL AND a.datname = current_database()
                           AND a.pid <> pg_backend_pid()));
    SELECT r.finished_at INTO cut FROM aura.runs AS r
    WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
      AND r.finished_at > since AND r.finished_at <= upto
    ORDER BY r.finished_at OFFSET most LIMIT 1;
    upto := coalesce(cut, upto);
    IF upto <= since THEN
        RETURN false;
    END IF;
    INSERT INTO aura.tallies AS t (workflow, version, state, queue, runs)
    SELECT r.workflow, r.version, r.state, coalesce(r.queue, ''), count(*) FROM aura.runs AS r
    WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
      AND r.finished_at > since AND r.finished_at <= upto
    GROUP BY r.workflow, r.version, r.state, coalesce(r.queue, '')
    ON CONFLICT (workflow, version, state, queue) DO UPDATE SET runs = t.runs + excluded.runs;
    UPDATE aura.tally_mark SET until = upto;
    RETURN cut IS NOT NULL;
END
$$;

-- Whether an end is in the tallies. Until this transaction is over `until` stays what it is.
CREATE FUNCTION aura.is_tallied(finished_at double precision) RETURNS boolean LANGUAGE plpgsql AS
$$
DECLARE
    since double precision;
BEGIN
    SELECT m.until INTO since FROM aura.tally_mark AS m FOR SHARE;
    RETURN finished_at <= since;
END
$$;

-- A run that ended elsewhere, and has arrived with its end.
CREATE FUNCTION aura.tally_arrived(run_id text) RETURNS void LANGUAGE sql VOLATILE AS
$$
    INSERT INTO aura.tallies AS t (workflow, version, state, queue, runs)
    SELECT r.workflow, r.version, r.state, coalesce(r.queue, ''), 1 FROM aura.runs AS r
    WHERE r.id = run_id AND r.state IN ('completed', 'failed', 'cancelled')
      AND aura.is_tallied(r.finished_at)
    ON CONFLICT (workflow, version, state, queue) DO UPDATE SET runs = t.runs + 1
$$;

-- What is deleted is not counted any more, whoever deletes it.
CREATE FUNCTION aura.tally_deleted() RETURNS trigger LANGUAGE plpgsql AS
$$
BEGIN
    IF aura.is_tallied(OLD.finished_at) THEN
        UPDATE aura.tallies AS t SET runs = t.runs - 1
        WHERE t.workflow = OLD.workflow AND t.version = OLD.version AND t.state = OLD.state
          AND t.queue = coalesce(OLD.queue, '');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER runs_deleted AFTER DELETE ON aura.runs FOR EACH ROW
WHEN (OLD.state IN ('completed', 'failed', 'cancelled')) EXECUTE FUNCTION aura.tally_deleted();
