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

-- :name: ping
SELECT 1

-- :name: lock_schema
SELECT pg_advisory_xact_lock(hashtextextended('aura.migrations', 0))

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
SELECT * FROM aura.commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- :name: append_one
INSERT INTO aura.journal (run_id, seq, key, kind, fingerprint, input, output, error, attempt,
                          started_at, recorded_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
FROM (SELECT FROM aura.runs AS r WHERE r.id = $1 AND r.epoch = $12 AND r.state = 'running'
      FOR KEY SHARE) AS held
ON CONFLICT (run_id, seq) DO NOTHING

-- :name: append
SELECT aura.append_or_tell($1)

-- :name: claim
-- Takes up to $4 runs, those first that could be taken for the longest time: runs of dead workers,
-- waiting runs that are due, pending runs. Only what is taken gets locked (the limit stops the
-- locking), so other claimers pass by. Owners are found by jumping from one to the next.
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
          AND ($5::text IS NULL OR r.id = $5::text)
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
RETURNING :columns

-- :name: outlook
SELECT min(head.wake_at) - aura.moment(),
       (SELECT coalesce(array_agg(r.id), '{}') FROM aura.runs AS r
        WHERE r.owner = $3 AND r.cancel_requested)
FROM unnest($1::text[], $2::text[]) AS asked (workflow, version), LATERAL (
    SELECT r.wake_at FROM aura.runs AS r
    WHERE r.workflow = asked.workflow AND r.version = asked.version AND r.wake_at IS NOT NULL
    ORDER BY r.wake_at LIMIT 1) AS head

-- :name: still_mine
SELECT r.id FROM unnest($2::text[], $3::integer[]) AS c (id, epoch)
JOIN aura.runs AS r ON r.id = c.id AND r.epoch = c.epoch AND r.owner = $1

-- :name: run
SELECT :columns FROM aura.runs AS r WHERE r.id = $1

-- :name: runs_by_id
SELECT :columns FROM aura.runs AS r WHERE r.id = ANY ($1::text[])

-- :name: runs
SELECT :columns FROM aura.runs AS r
WHERE ($1::text IS NULL OR r.state = $1)
  AND ($2::text IS NULL OR r.workflow = $2)
  AND ($3::double precision IS NULL OR (r.created_at, r.id) < ($3, $4::text))
ORDER BY r.created_at DESC, r.id DESC
LIMIT $5

-- :name: journals
SELECT run_id, seq, key, kind, fingerprint, input, output, error, attempt, started_at, recorded_at
FROM aura.journal WHERE run_id = ANY ($1::text[]) ORDER BY run_id, seq

-- :name: journal
SELECT run_id, seq, key, kind, fingerprint, input, output, error, attempt, started_at, recorded_at
FROM aura.journal WHERE run_id = $1 ORDER BY seq

-- :name: entries
SELECT run_id, seq, key, kind, fingerprint, input, output, error, attempt, started_at, recorded_at
FROM aura.journal WHERE run_id = $1 AND kind = $2 AND seq > $3 ORDER BY seq

-- :name: signals
SELECT s.run_id, s.seq, s.name, s.id, s.priority, s.deadline, s.payload, s.sent_at, s.late
FROM unnest($1::text[], $2::integer[]) AS wanted (run_id, after)
JOIN aura.signals AS s ON s.run_id = wanted.run_id AND s.seq > wanted.after
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
UPDATE aura.runs SET state = 'pending', error = NULL, finished_at = NULL
WHERE id = $1 AND state = 'parked'
RETURNING id

-- :name: sweep
SELECT * FROM aura.sweep($1, $2, $3, $4, $5)

-- :name: sweepable
WITH old AS MATERIALIZED (
    SELECT r.id FROM aura.runs AS r
    WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
      AND r.finished_at < aura.moment() - $1
)
SELECT (SELECT count(*) FROM old),
       (SELECT count(*) FROM old JOIN aura.journal AS j ON j.run_id = old.id),
       (SELECT count(*) FROM old JOIN aura.signals AS s ON s.run_id = old.id),
       (SELECT count(*) FROM aura.aging_feeds($2, $3) AS aging (feed), aura.feeds AS f
        WHERE f.feed = aging.feed AND f.at < aura.moment() - $1
          AND f.seq < (SELECT max(e.seq) FROM aura.feeds AS e WHERE e.feed = aging.feed)),
       (SELECT count(*) FROM aura.workers AS w WHERE w.lease_until < aura.moment() - $4
          AND NOT EXISTS (SELECT FROM aura.runs AS r WHERE r.owner = w.id))

-- :name: settings
SELECT aura.moment() AS now,
       current_setting('server_version') AS server_version,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('wal_level') AS wal_level,
       current_setting('max_connections') AS max_connections
