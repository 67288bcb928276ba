-- :name: session
-- Every statement here finds its rows by an index; without this a plan that was made while the
-- tables were empty would read them whole once they have grown.
SELECT set_config('application_name', 'aura', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('jit', 'off', false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, false)

-- :name: guest_session
SELECT set_config('application_name', 'aura', false)

-- :name: ping
SELECT 1

-- :name: lock_schema
SELECT pg_advisory_xact_lock(hashtextextended('aura.migrations', 0))

-- :name: lock_online
-- Not waited for: whoever waits in a statement keeps an index from being built concurrently.
SELECT pg_try_advisory_lock(hashtextextended('aura.online', 0))

-- :name: unlock_online
SELECT pg_advisory_unlock(hashtextextended('aura.online', 0))

-- :name: has_schema
SELECT to_regclass('aura.migrations') IS NOT NULL

-- :name: create_schema
CREATE SCHEMA IF NOT EXISTS aura;
CREATE TABLE aura.migrations (
    id         text PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at double precision NOT NULL
)

-- :name: applied_migrations
SELECT id, checksum FROM aura.migrations

-- :name: record_migration
INSERT INTO aura.migrations (id, checksum, applied_at)
VALUES ($1, $2, extract(epoch FROM clock_timestamp()))

-- :name: has_workers
SELECT to_regclass('aura.workers') IS NOT NULL

-- :name: oldest_worker
SELECT min(schema) FROM aura.workers
WHERE lease_until > extract(epoch FROM clock_timestamp())

-- :name: forget_workers
DELETE FROM aura.workers
WHERE lease_until < extract(epoch FROM clock_timestamp()) - 86400
  AND NOT EXISTS (SELECT FROM aura.runs WHERE owner = workers.id)

-- :name: commit
SELECT * FROM aura.commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                          $18)

-- :name: append_one
INSERT INTO aura.journal (run_id, seq, key, kind, fingerprint, input, output, error, attempt,
                          started_at, recorded_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
FROM (SELECT FROM aura.runs AS r WHERE r.id = $1 AND r.epoch = $12 AND r.state = 'running'
      FOR KEY SHARE) AS held
ON CONFLICT (run_id, seq) DO NOTHING

-- :name: start_one
INSERT INTO aura.runs (id, workflow, version, state, epoch, owner, origin, input, fingerprint,
                       deadline, created_at, started_at)
SELECT $1, $2, $3, 'running', 1, $4, $5, $6, $7, $8, now.moment, now.moment
FROM aura.moment() AS now (moment)
ON CONFLICT (id) DO NOTHING
RETURNING created_at

-- :name: settle_one
UPDATE aura.runs AS r
SET state = $3, output = $4, error = $5, owner = NULL, wake_at = NULL, finished_at = aura.moment()
WHERE r.id = $1 AND r.epoch = $2 AND r.state = 'running' AND r.parent IS NULL
  AND NOT EXISTS (SELECT FROM aura.runs AS c WHERE c.parent = $1)

-- :name: finish_one
WITH ended AS (
    UPDATE aura.runs AS r
    SET state = $3, output = $4, error = $5, owner = NULL, wake_at = NULL,
        finished_at = aura.moment()
    WHERE r.id = $1 AND r.epoch = $2 AND r.state = 'running' AND r.parent IS NULL
      AND NOT EXISTS (SELECT FROM aura.runs AS c WHERE c.parent = $1)
    RETURNING r.id
)
INSERT INTO aura.journal (run_id, seq, key, kind, fingerprint, input, output, error, attempt,
                          started_at, recorded_at)
SELECT ended.id, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15 FROM ended
ON CONFLICT (run_id, seq) DO NOTHING

-- :name: append
SELECT aura.append_or_tell($1)

-- :name: claim
-- Takes up to $4 runs of the default queue, those first that could be taken for the longest time:
-- runs of dead workers, waiting runs that are due, pending runs. Only what is taken gets locked (the
-- limit stops the locking), so other claimers pass by. Owners are found by jumping from one to the
-- next.
WITH RECURSIVE clock AS MATERIALIZED (SELECT aura.moment() AS now),
asked AS MATERIALIZED (
    SELECT DISTINCT workflow, version FROM unnest($2::text[], $3::text[]) AS a (workflow, version)
),
owners (id) AS (
    SELECT (SELECT min(owner) FROM aura.runs)
    UNION ALL
    SELECT (SELECT min(r.owner) FROM aura.runs AS r WHERE r.owner > owners.id)
    FROM owners WHERE owners.id IS NOT NULL
),
dead AS (
    SELECT owners.id, coalesce(w.lease_until, 0) AS since
    FROM owners LEFT JOIN aura.workers AS w ON w.id = owners.id, clock
    WHERE owners.id <> $1::text AND coalesce(w.lease_until, 0) <= clock.now
),
heads AS (
    SELECT head.id, head.epoch, head.state, dead.since
    FROM dead, asked, LATERAL (
        SELECT r.id, r.epoch, r.state FROM aura.runs AS r
        WHERE r.owner = dead.id AND r.workflow = asked.workflow AND r.version = asked.version
          AND r.queue IS NULL AND ($5::text IS NULL OR r.id = $5::text)
        LIMIT $4::integer * 4) AS head
    UNION ALL
    SELECT head.id, head.epoch, head.state, head.ready_at
    FROM clock, asked, LATERAL (
        SELECT r.id, r.epoch, r.state, r.ready_at FROM aura.runs AS r
        WHERE r.workflow = asked.workflow AND r.version = asked.version
          AND r.ready_at <= clock.now AND ($5::text IS NULL OR r.id = $5::text)
        ORDER BY r.ready_at LIMIT $4::integer * 4) AS head
),
taken AS MATERIALIZED (
    SELECT r.id, r.state
    FROM heads JOIN aura.runs AS r
      ON r.id = heads.id AND r.epoch = heads.epoch AND r.state = heads.state
    ORDER BY heads.since, heads.id
    LIMIT $4::integer
    FOR UPDATE OF r SKIP LOCKED
)
UPDATE aura.runs AS r SET
    state = 'running',
    epoch = r.epoch + 1,
    owner = $1::text,
    wake_at = NULL,
    started_at = coalesce(r.started_at, (SELECT now FROM clock)),
    recoveries = r.recoveries + CASE taken.state WHEN 'running' THEN 1 ELSE 0 END
FROM taken
WHERE r.id = taken.id
RETURNING :columns, taken.state = 'running'

-- :name: moment
SELECT aura.moment()

-- :name: outlook
-- In how many seconds the earliest of the waiting runs is due, or the first lease is over of those
-- that were not at the moment $4; which runs of the worker are asked to stop; whether a run in a
-- queue can be taken, if its limits allow it; what time it is; and whether a run can be taken from
-- the default queue.
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT DISTINCT workflow, version FROM unnest($1::text[], $2::text[]) AS a (workflow, version)
),
owners (id) AS (
    SELECT (SELECT min(owner) FROM aura.runs)
    UNION ALL
    SELECT (SELECT min(r.owner) FROM aura.runs AS r WHERE r.owner > owners.id)
    FROM owners WHERE owners.id IS NOT NULL
)
SELECT least(
           (SELECT min(head.wake_at) FROM asked, LATERAL (
                SELECT r.wake_at FROM aura.runs AS r
                WHERE r.workflow = asked.workflow AND r.version = asked.version
                  AND r.wake_at IS NOT NULL
                ORDER BY r.wake_at LIMIT 1) AS head),
           (SELECT min(w.lease_until) FROM owners JOIN aura.workers AS w ON w.id = owners.id
            WHERE owners.id <> $3
              AND w.lease_until > $4)
       ) - aura.moment(),
       (SELECT coalesce(array_agg(r.id), '{}') FROM aura.runs AS r
        WHERE r.owner = $3 AND r.cancel_requested),
       EXISTS (SELECT FROM asked, LATERAL (
            SELECT FROM aura.runs AS r
            WHERE r.workflow = asked.workflow AND r.version = asked.version
              AND r.queue IS NOT NULL AND r.state = 'pending' LIMIT 1) AS head)
       OR EXISTS (SELECT FROM aura.runs AS r
                  WHERE r.queue IS NOT NULL AND r.wake_at <= (SELECT aura.moment()))
       OR EXISTS (SELECT FROM owners LEFT JOIN aura.workers AS w ON w.id = owners.id
                  WHERE owners.id <> $3 AND coalesce(w.lease_until, 0) <= aura.moment()
                    AND EXISTS (SELECT FROM aura.runs AS r
                                WHERE r.owner = owners.id AND r.queue IS NOT NULL)),
       aura.moment(),
       EXISTS (SELECT FROM asked, LATERAL (
            SELECT FROM aura.runs AS r
            WHERE r.workflow = asked.workflow AND r.version = asked.version
              AND r.ready_at <= (SELECT aura.moment()) LIMIT 1) AS head)
       OR EXISTS (SELECT FROM owners LEFT JOIN aura.workers AS w ON w.id = owners.id
                  WHERE owners.id <> $3 AND coalesce(w.lease_until, 0) <= aura.moment()
                    AND EXISTS (SELECT FROM aura.runs AS r
                                WHERE r.owner = owners.id AND r.queue IS NULL)) AS ready

-- :name: queue_promote
-- Runs whose time has come compete from now on.
UPDATE aura.runs SET state = 'pending', wake_at = NULL
WHERE id = ANY (ARRAY(
    SELECT r.id FROM aura.runs AS r
    WHERE r.queue IS NOT NULL AND r.wake_at <= (SELECT aura.moment())
    ORDER BY r.wake_at LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- :name: queue_orphans
-- Runs in queues whose owner's lease is over.
WITH RECURSIVE clock AS MATERIALIZED (SELECT aura.moment() AS now),
asked AS MATERIALIZED (
    SELECT DISTINCT workflow, version FROM unnest($2::text[], $3::text[]) AS a (workflow, version)
),
owners (id) AS (
    SELECT (SELECT min(owner) FROM aura.runs)
    UNION ALL
    SELECT (SELECT min(r.owner) FROM aura.runs AS r WHERE r.owner > owners.id)
    FROM owners WHERE owners.id IS NOT NULL
),
dead AS (
    SELECT owners.id FROM owners LEFT JOIN aura.workers AS w ON w.id = owners.id, clock
    WHERE owners.id <> $1::text AND coalesce(w.lease_until, 0) <= clock.now
)
SELECT head.id, head.epoch, head.state, head.queue, head.key, true, coalesce(head.rank, 0)
FROM dead, asked, LATERAL (
    SELECT r.id, r.epoch, r.state, r.queue, r.key, r.rank FROM aura.runs AS r
    WHERE r.owner = dead.id AND r.workflow = asked.workflow AND r.version = asked.version
      AND r.queue IS NOT NULL AND ($5::text IS NULL OR r.id = $5::text)
    LIMIT $4::integer * 4) AS head

-- :name: queue_doors
-- The queues in which a run can be taken, of $4, and of this worker's runs, with their definitions.
-- The first ones are locked, if they have to be; the last column says whether they are.
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT DISTINCT workflow, version FROM unnest($2::text[], $3::text[]) AS a (workflow, version)
),
spots (workflow, version, queue) AS (
    SELECT asked.workflow, asked.version, head.queue FROM asked, LATERAL (
        SELECT r.queue FROM aura.runs AS r
        WHERE r.workflow = asked.workflow AND r.version = asked.version
          AND r.queue IS NOT NULL AND r.state = 'pending'
        ORDER BY r.queue LIMIT 1) AS head
    UNION ALL
    SELECT spots.workflow, spots.version, head.queue FROM spots, LATERAL (
        SELECT r.queue FROM aura.runs AS r
        WHERE r.workflow = spots.workflow AND r.version = spots.version
          AND r.queue > spots.queue AND r.queue IS NOT NULL AND r.state = 'pending'
        ORDER BY r.queue LIMIT 1) AS head
),
doors AS MATERIALIZED (
    SELECT one.queue, bool_or(one.taken_from) AS taken_from
    FROM (SELECT queue, true AS taken_from FROM spots
          UNION ALL SELECT unnest($4::text[]), false
          UNION ALL SELECT r.queue, false FROM aura.runs AS r
                    WHERE r.owner = $1 AND r.queue IS NOT NULL) AS one
    GROUP BY one.queue
)
SELECT doors.queue, q.limits,
       CASE WHEN doors.taken_from AND coalesce(q.exclusive, false)
            THEN pg_try_advisory_xact_lock(hashtextextended('aura.queue.' || doors.queue, 0))
            ELSE true END
FROM doors LEFT JOIN aura.queues AS q ON q.name = doors.queue

-- :name: queue_loads
SELECT r.queue, r.key, count(*)::integer,
       (count(*) FILTER (WHERE r.owner = $1))::double precision
FROM aura.runs AS r
WHERE r.queue = ANY ($2::text[]) AND r.queue IS NOT NULL AND r.owner IS NOT NULL
GROUP BY r.queue, r.key
UNION ALL
SELECT q.name, NULL, count(r.started_at)::integer, min(r.started_at) + q.per
FROM aura.queues AS q
LEFT JOIN aura.runs AS r ON r.queue = q.name AND r.started_at > (SELECT aura.moment()) - q.per
WHERE q.name = ANY ($2::text[]) AND q.rate IS NOT NULL
GROUP BY q.name, q.per

-- :name: queue_now
SELECT aura.moment()

-- :name: queue_heads
-- The first runs of each key in the queues $3: of few keys up to $4, of many about $6 in all.
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT DISTINCT a.workflow, a.version, queue
    FROM unnest($1::text[], $2::text[]) AS a (workflow, version), unnest($3::text[]) AS queue
),
spots (workflow, version, queue, key) AS (
    SELECT asked.workflow, asked.version, asked.queue, head.key FROM asked, LATERAL (
        SELECT r.key FROM aura.runs AS r
        WHERE r.workflow = asked.workflow AND r.version = asked.version
          AND r.queue = asked.queue AND r.queue IS NOT NULL AND r.state = 'pending'
        ORDER BY r.key LIMIT 1) AS head
    UNION ALL
    SELECT spots.workflow, spots.version, spots.queue, head.key FROM spots, LATERAL (
        SELECT r.key FROM aura.runs AS r
        WHERE r.workflow = spots.workflow AND r.version = spots.version
          AND r.queue = spots.queue AND r.queue IS NOT NULL AND r.state = 'pending'
          AND r.key > spots.key
        ORDER BY r.key LIMIT 1) AS head
)
SELECT head.id, head.epoch, head.state, head.queue, head.key, head.begun, head.rank
FROM spots, LATERAL (
    SELECT r.id, r.epoch, r.state, r.queue, r.key, r.started_at IS NOT NULL AS begun,
           coalesce(r.rank, r.created_at) AS rank
    FROM aura.runs AS r
    WHERE r.workflow = spots.workflow AND r.version = spots.version AND r.queue = spots.queue
      AND r.key = spots.key AND r.queue IS NOT NULL AND r.state = 'pending'
      AND ($5::text IS NULL OR r.id = $5::text)
    ORDER BY (r.started_at IS NULL), r.rank  -- as the index has it
    LIMIT (SELECT greatest(1, least($4::bigint, $6::bigint / greatest(1, count(*))))
           FROM spots)) AS head

-- :name: queue_claim
WITH taken AS MATERIALIZED (
    SELECT r.id, r.state
    FROM unnest($2::text[], $3::integer[], $4::text[]) AS chosen (id, epoch, state)
    JOIN aura.runs AS r
      ON r.id = chosen.id AND r.epoch = chosen.epoch AND r.state = chosen.state
    FOR UPDATE OF r SKIP LOCKED
)
UPDATE aura.runs AS r SET
    state = 'running',
    epoch = r.epoch + 1,
    owner = $1::text,
    wake_at = NULL,
    started_at = coalesce(r.started_at, aura.moment()),
    recoveries = r.recoveries + CASE taken.state WHEN 'running' THEN 1 ELSE 0 END
FROM taken
WHERE r.id = taken.id
RETURNING :columns, taken.state = 'running'

-- :name: put_queue
INSERT INTO aura.queues AS q (name, epoch, limits, exclusive, rate, per, updated_at)
VALUES ($1, 1, $2, $3, $4, $5, aura.moment())
ON CONFLICT (name) DO UPDATE SET
    epoch = q.epoch + 1, limits = excluded.limits, exclusive = excluded.exclusive,
    rate = excluded.rate, per = excluded.per, updated_at = excluded.updated_at
WHERE $6::boolean AND q.limits <> excluded.limits

-- :name: queues
SELECT name, epoch, limits, updated_at FROM aura.queues ORDER BY name

-- :name: tally
SELECT aura.tally($1, $2)

-- :name: tally_arrived
SELECT aura.tally_arrived($1)

-- :name: count_runs
-- What was tallied, what has ended since, and the other runs, which `runs_listed` has.
SELECT :names, sum(r.runs)::bigint FROM (
    SELECT t.workflow, t.version, t.state, nullif(t.queue, '') AS queue, t.runs
    FROM aura.tallies AS t
    UNION ALL
    SELECT e.workflow, e.version, e.state, e.queue, count(*) FROM aura.runs AS e
    WHERE e.finished_at IS NOT NULL AND e.state IN ('completed', 'failed', 'cancelled')
      AND e.finished_at > (SELECT m.until FROM aura.tally_mark AS m)
    GROUP BY e.workflow, e.version, e.state, e.queue
    UNION ALL
    SELECT o.workflow, o.version, o.state, o.queue, count(*)
    FROM unnest(ARRAY['pending', 'running', 'waiting', 'parked', 'moved']) AS s (state),
         aura.runs AS o
    WHERE o.state COLLATE "POSIX" = s.state
    GROUP BY o.workflow, o.version, o.state, o.queue
) AS r
WHERE $1::text IS NULL OR r.queue = $1
GROUP BY :names HAVING sum(r.runs) > 0

-- :name: count_open
-- Of the runs that have not ended. OFFSET keeps the plan to `runs_listed`: the index of a queue's
-- runs has those that have ended, too.
SELECT :names, count(*) FROM (
    SELECT o.* FROM unnest(ARRAY['pending', 'running', 'waiting', 'parked', 'moved']) AS s (state),
                    aura.runs AS o
    WHERE o.state COLLATE "POSIX" = s.state OFFSET 0
) AS r
WHERE $1::text IS NULL OR r.queue = $1
GROUP BY :names

-- :name: depths
-- By the predicates of runs_ready, runs_queued and runs_owned.
SELECT NULL::text, 'pending', count(*) FROM aura.runs AS r
WHERE r.ready_at IS NOT NULL AND r.state = 'pending'
UNION ALL
SELECT r.queue, 'pending', count(*) FROM aura.runs AS r
WHERE r.queue IS NOT NULL AND r.state = 'pending' GROUP BY r.queue
UNION ALL
SELECT r.queue, 'running', count(*) FROM aura.runs AS r
WHERE r.owner IS NOT NULL GROUP BY r.queue

-- :name: owners
-- Of those that nobody has locked: a claim whose commit is still under way has.
SELECT r.id, r.epoch, r.owner FROM aura.runs AS r WHERE r.id = ANY ($1::text[])
FOR NO KEY UPDATE SKIP LOCKED

-- :name: run
SELECT :columns FROM aura.runs AS r WHERE r.id = $1

-- :name: runs_by_id
SELECT :columns FROM aura.runs AS r WHERE r.id = ANY ($1::text[])

-- :name: children
SELECT :columns FROM aura.runs AS r
WHERE r.parent = $4
  AND ($5::text IS NULL OR r.state = $5)
  AND ($6::text IS NULL OR r.workflow = $6)
  AND (r.created_at, r.id) < ($1, $2)
ORDER BY r.created_at DESC, r.id DESC
LIMIT $3

-- :name: runs
-- Lists are of the runs before ($1, $2), newest first, at most $3.
SELECT :columns FROM aura.runs AS r
WHERE (r.created_at, r.id) < ($1, $2)
ORDER BY r.created_at DESC, r.id DESC
LIMIT $3

-- :name: runs_of_workflow
-- In the states $4: the newest of each, and of those the newest.
SELECT :columns FROM (
    SELECT head.id FROM unnest($4::text[]) AS s (state), LATERAL (
        SELECT r.created_at, r.id FROM aura.runs AS r
        WHERE r.state COLLATE "POSIX" = s.state AND r.workflow = $5
          AND (r.created_at, r.id) < ($1, $2)
        ORDER BY r.created_at DESC, r.id DESC
        LIMIT $3) AS head
    ORDER BY head.created_at DESC, head.id DESC
    LIMIT $3) AS newest
JOIN aura.runs AS r ON r.id = newest.id
ORDER BY r.created_at DESC, r.id DESC

-- :name: runs_in_state
-- The newest of each workflow that has such runs (found by jumping from one to the next), and of
-- those the newest.
WITH RECURSIVE found (workflow) AS (
    SELECT (SELECT r.workflow FROM aura.runs AS r WHERE r.state COLLATE "POSIX" = $4
            ORDER BY r.workflow LIMIT 1)
    UNION ALL
    SELECT (SELECT r.workflow FROM aura.runs AS r
            WHERE r.state COLLATE "POSIX" = $4 AND r.workflow > found.workflow
            ORDER BY r.workflow LIMIT 1)
    FROM found WHERE found.workflow IS NOT NULL
)
SELECT :columns FROM (
    SELECT head.id FROM found, LATERAL (
        SELECT r.created_at, r.id FROM aura.runs AS r
        WHERE r.state COLLATE "POSIX" = $4 AND r.workflow = found.workflow
          AND (r.created_at, r.id) < ($1, $2)
        ORDER BY r.created_at DESC, r.id DESC
        LIMIT $3) AS head
    ORDER BY head.created_at DESC, head.id DESC
    LIMIT $3) AS newest
JOIN aura.runs AS r ON r.id = newest.id
ORDER BY r.created_at DESC, r.id DESC

-- :name: journals
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM aura.journal
JOIN (SELECT r.id, r.base FROM aura.runs AS r WHERE r.id = ANY ($1::text[])) AS wanted
  ON run_id = wanted.id AND seq > wanted.base
ORDER BY run_id, seq

-- :name: journal
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM aura.journal
WHERE run_id = $1
  AND seq > coalesce((SELECT r.base FROM aura.runs AS r WHERE r.id = $1), 0)
ORDER BY seq

-- :name: entries
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM aura.journal WHERE run_id = $1 AND kind = $2 AND seq > $3 ORDER BY seq

-- :name: entries_of
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM aura.journal
WHERE run_id = $1 AND seq > coalesce((SELECT r.base FROM aura.runs AS r WHERE r.id = $1), 0)
  AND key = ANY ($2::text[]) ORDER BY seq

-- :name: outline
SELECT seq, key, kind, fingerprint, attempt, started_at, recorded_at, error IS NOT NULL,
       :size(input), :size(output)
FROM aura.journal
WHERE run_id = $1
  AND seq > greatest($2, coalesce((SELECT r.base FROM aura.runs AS r WHERE r.id = $1), 0))
ORDER BY seq LIMIT $3

-- :name: shown_entries
-- Of one of the kinds that have an index.
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM aura.journal
WHERE run_id = $1 AND kind = $2 AND seq > $3 AND kind IN ('state', 'stream', 'answer')
ORDER BY seq

-- :name: take_runs
-- Of these runs, those that are the worker's, after it has taken what waits at the epochs that it
-- knows. A run that has never begun, or is asked to stop, is for a claim.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::integer[]) AS a (id, worker, epoch)
),
taken AS (
    UPDATE aura.runs AS r SET
        state = 'running', epoch = r.epoch + 1, owner = asked.worker, wake_at = NULL
    FROM asked
    WHERE r.id = asked.id AND r.epoch = asked.epoch AND r.state = 'pending' AND r.queue IS NULL
      AND r.started_at IS NOT NULL AND NOT r.cancel_requested
    RETURNING r.id
)
SELECT id FROM taken
UNION
SELECT r.id FROM asked JOIN aura.runs AS r
  ON r.id = asked.id AND r.epoch = asked.epoch + 1 AND r.owner = asked.worker
 AND r.state = 'running'

-- :name: signals
SELECT s.run_id, s.seq, s.name, s.id, s.priority, s.deadline, :whole(s.payload), s.sent_at, s.late
FROM unnest($1::text[], $2::integer[]) AS wanted (run_id, after)
JOIN aura.runs AS r ON r.id = wanted.run_id
JOIN aura.signals AS s
  ON s.run_id = wanted.run_id AND s.seq > greatest(wanted.after, r.drained) AND NOT s.taken
ORDER BY s.run_id, s.seq

-- :name: document
SELECT kind, name, epoch, body, updated_at FROM aura.documents WHERE kind = $1 AND name = $2

-- :name: documents
SELECT kind, name, epoch, body, updated_at FROM aura.documents WHERE kind = $1 ORDER BY name

-- :name: feed
SELECT seq, at, payload FROM aura.feeds WHERE feed = $1 AND seq > $2 ORDER BY seq LIMIT $3

-- :name: workers
SELECT id, lease_until, started_at, info FROM aura.workers ORDER BY started_at, id

-- :name: requeue
UPDATE aura.runs SET
    state = 'pending', error = NULL, finished_at = NULL, recoveries = 0,
    version = coalesce($2::text, version)
WHERE id = $1 AND state = 'parked'
RETURNING id

-- :name: sweep
SELECT * FROM aura.sweep($1, $2, $3, $4, $5)

-- :name: sweepable
WITH old AS MATERIALIZED (
    SELECT r.id FROM aura.runs AS r
    WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
      AND r.finished_at < aura.moment() - $1 AND aura.is_free(r.parent, r.detached)
      AND NOT EXISTS (SELECT FROM aura.queues AS q
                      WHERE q.name = r.queue AND r.started_at > aura.moment() - q.per)
)
SELECT (SELECT count(*) FROM old),
       (SELECT count(*) FROM old JOIN aura.journal AS j ON j.run_id = old.id),
       (SELECT count(*) FROM old JOIN aura.signals AS s ON s.run_id = old.id),
       (SELECT count(*) FROM aura.aging_feeds($2, $3) AS aging (feed), aura.feeds AS f
        WHERE f.feed = aging.feed AND f.at < aura.moment() - $1
          AND f.seq < (SELECT max(e.seq) FROM aura.feeds AS e WHERE e.feed = aging.feed)),
       (SELECT count(*) FROM aura.workers AS w WHERE w.lease_until < aura.moment() - $4
          AND NOT EXISTS (SELECT FROM aura.runs AS r WHERE r.owner = w.id)),
       (WITH of_old AS (
            SELECT u.mark, EXISTS (
                SELECT FROM aura.runs AS r
                WHERE r.id = u.run_id AND r.state IN ('completed', 'failed', 'cancelled')
                  AND r.finished_at < aura.moment() - $1
                  AND aura.is_free(r.parent, r.detached)) AS goes
            FROM aura.payload_uses AS u)
        SELECT count(*) FROM (SELECT FROM of_old GROUP BY mark HAVING bool_and(goes)) AS gone)

-- :name: settings
SELECT aura.moment() AS now,
       current_setting('server_version') AS server_version,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('wal_level') AS wal_level,
       current_setting('max_connections') AS max_connections

-- :name: layout
SELECT c.relname::text, a.attname::text
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE n.nspname = 'aura' AND c.relkind IN ('r', 'p') AND a.attnum > 0
  AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY c.relname, a.attnum

-- :name: rows
SELECT :names FROM aura.:table WHERE :conditions ORDER BY :key LIMIT $1

-- :name: fence
UPDATE aura.runs AS r SET
    moved = json_build_object(
        'move', $1::text, 'state', CASE r.state WHEN 'running' THEN 'pending' ELSE r.state END,
        'wake_at', r.wake_at)::text,
    state = 'moved',
    epoch = r.epoch + 1,
    owner = NULL,
    wake_at = NULL
WHERE r.id = ANY (ARRAY(
    SELECT one.id FROM aura.runs AS one
    WHERE one.state IN ('pending', 'running', 'waiting', 'parked')
      AND ($2::text[] IS NULL OR one.id = ANY ($2::text[]))
      AND (one.state <> 'running' OR $3::boolean OR NOT EXISTS (
          SELECT FROM aura.workers AS w
          WHERE w.id = one.owner AND w.lease_until > aura.moment()))
    ORDER BY one.id LIMIT $4 FOR UPDATE SKIP LOCKED))
RETURNING r.id

-- :name: identity
SELECT r.state, r.epoch, r.workflow, r.created_at FROM aura.runs AS r WHERE r.id = $1 FOR UPDATE

-- :name: forget_rows
DELETE FROM aura.:table WHERE :run = $1

-- :name: insert_row
INSERT INTO aura.:table (:names) VALUES (:values)

-- :name: add_row
INSERT INTO aura.:table (:names) VALUES (:values) ON CONFLICT DO NOTHING RETURNING 1

-- :name: replace_row
UPDATE aura.:table SET :changes WHERE :conditions RETURNING 1

-- :name: count_signals
-- A copy of a run that went on meanwhile may have signals that came after its row was read.
UPDATE aura.runs AS r SET signals = greatest(r.signals, (
    SELECT coalesce(max(s.seq), 0) FROM aura.signals AS s WHERE s.run_id = r.id))
WHERE r.id = $1

-- :name: begin
BEGIN :isolation; SET LOCAL idle_in_transaction_session_timeout = '60s'

-- :name: finish
-- The entries at the end of a user's transaction, with the settings that Aura's statements need:
-- its durability and indexes are not for the user's settings to decide.
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true),
       set_config('enable_seqscan', 'off', true),
       aura.append($1) AS landed

-- :name: wait_shortly
SET LOCAL lock_timeout = '2s'

-- :name: lock_run
SELECT r.epoch FROM aura.runs AS r WHERE r.id = $1 FOR UPDATE

-- :name: entry_key
SELECT j.key FROM aura.journal AS j WHERE j.run_id = $1 AND j.seq = $2

-- :name: keep_payloads
SELECT aura.keep_payloads($1, $2)

-- :name: use_payloads
SELECT aura.use_payloads($1, $2, $3)

-- :name: loosen_payload
INSERT INTO aura.payloads_loose (run_id, mark) VALUES ($1, $2)

-- :name: sweep_payloads
SELECT aura.sweep_payloads($1)
