-- :name: create_migrations
CREATE TABLE IF NOT EXISTS migrations (
    id         TEXT PRIMARY KEY,
    checksum   TEXT NOT NULL,
    applied_at REAL NOT NULL
) WITHOUT ROWID

-- :name: applied_migrations
SELECT id, checksum FROM migrations

-- :name: record_migration
INSERT INTO migrations (id, checksum, applied_at) VALUES (?, ?, ?)

-- :name: oldest_worker
SELECT min(schema) FROM workers WHERE lease_until > ?

-- :name: has_workers
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'workers'

-- :name: heartbeat
INSERT INTO workers (id, lease_until, started_at, schema, info) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, info = excluded.info

-- :name: start_runs
INSERT INTO runs (id, workflow, version, state, epoch, owner, origin, input, fingerprint,
                  created_at, started_at)
VALUES :rows
ON CONFLICT (id) DO NOTHING
RETURNING id

-- :name: append_entries
INSERT INTO journal (run_id, seq, key, kind, fingerprint, input, output, error, attempt,
                     started_at, recorded_at)
SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10,
       column11
FROM (VALUES :rows) AS entry
JOIN runs ON runs.id = entry.column1 AND runs.epoch = entry.column12 AND runs.state = 'running'
WHERE true
ON CONFLICT (run_id, seq) DO NOTHING

-- :name: entry_is_ours
SELECT 1 FROM journal JOIN runs ON runs.id = journal.run_id
WHERE journal.run_id = ? AND journal.seq = ? AND journal.key = ? AND runs.epoch = ?

-- :name: settle_runs
UPDATE runs SET
    state = CASE WHEN op.column3 = 'waiting'
                      AND (runs.cancel_requested OR coalesce(runs.signals > op.column8, 0))
                 THEN 'pending' ELSE op.column3 END,
    output = op.column4,
    error = op.column5,
    wake_at = CASE WHEN op.column3 = 'waiting' AND NOT runs.cancel_requested
                        AND NOT coalesce(runs.signals > op.column8, 0)
                   THEN op.column6 END,
    finished_at = op.column7,
    owner = NULL
FROM (VALUES :rows) AS op
WHERE runs.id = op.column1 AND runs.epoch = op.column2 AND runs.state = 'running'

-- :name: settled_before
-- Only a settlement of the same epoch can have made the run what it is now, be it that a signal or
-- a cancel request has woken it since.
SELECT 1 FROM runs WHERE id = :id AND epoch = :epoch
AND (state = :state OR (state = 'pending' AND :state = 'waiting'))

-- :name: request_cancel
UPDATE runs SET
    cancel_requested = 1,
    finished_at = CASE WHEN state = 'parked' OR (state = 'pending' AND started_at IS NULL)
                       THEN :now ELSE finished_at END,
    state = CASE WHEN state = 'parked' OR (state = 'pending' AND started_at IS NULL)
                 THEN 'cancelled'
                 WHEN state = 'waiting' THEN 'pending'
                 ELSE state END,
    wake_at = NULL
WHERE id = :id AND state IN ('pending', 'running', 'waiting', 'parked')

-- :name: requeue
UPDATE runs SET state = 'pending', error = NULL, finished_at = NULL
WHERE id = ? AND state = 'parked'

-- :name: signal_state
SELECT state, signals FROM runs WHERE id = ?

-- :name: signal_by_id
SELECT seq, late FROM signals WHERE run_id = ? AND id = ?

-- :name: add_signal
INSERT INTO signals (run_id, seq, name, id, priority, deadline, payload, sent_at, late)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- :name: signalled
UPDATE runs SET signals = ?, state = ?, wake_at = NULL WHERE id = ?

-- :name: signals
SELECT s.run_id, s.seq, s.name, s.id, s.priority, s.deadline, s.payload, s.sent_at, s.late
FROM (VALUES :rows) AS wanted
JOIN signals AS s ON s.run_id = wanted.column1 AND s.seq > wanted.column2

-- :name: put_document
INSERT INTO documents (kind, name, epoch, body, updated_at)
SELECT :kind, :name, 1, :body, :now
WHERE :expected IS NULL OR :expected = 0
   OR EXISTS (SELECT 1 FROM documents WHERE kind = :kind AND name = :name)
ON CONFLICT (kind, name) DO UPDATE SET
    epoch = documents.epoch + 1, body = excluded.body, updated_at = excluded.updated_at
WHERE :expected IS NULL OR documents.epoch = :expected
RETURNING epoch

-- :name: document
SELECT kind, name, epoch, body, updated_at FROM documents WHERE kind = ? AND name = ?

-- :name: documents
SELECT kind, name, epoch, body, updated_at FROM documents WHERE kind = ? ORDER BY name

-- :name: feed_end
SELECT coalesce(max(seq), 0) FROM feeds WHERE feed = ?

-- :name: append_feed
INSERT INTO feeds (feed, seq, at, payload) VALUES :rows

-- :name: feed
SELECT seq, at, payload FROM feeds WHERE feed = ? AND seq > ? ORDER BY seq LIMIT ?

-- :name: run
SELECT :columns FROM runs WHERE id = ?

-- :name: runs
SELECT :columns FROM runs
WHERE (:state IS NULL OR state = :state)
  AND (:workflow IS NULL OR workflow = :workflow)
  AND (:before_at IS NULL OR (created_at, id) < (:before_at, :before_id))
ORDER BY created_at DESC, id DESC
LIMIT :limit

-- :name: journal
SELECT run_id, seq, key, kind, fingerprint, input, output, error, attempt, started_at, recorded_at
FROM journal WHERE run_id = ? ORDER BY seq

-- :name: entries
SELECT run_id, seq, key, kind, fingerprint, input, output, error, attempt, started_at, recorded_at
FROM journal WHERE run_id = ? AND kind = ? AND seq > ? ORDER BY seq

-- :name: workers
SELECT id, lease_until, started_at, info FROM workers ORDER BY started_at, id

-- :name: claim
UPDATE runs SET
    recoveries = recoveries + (state = 'running'),
    state = 'running',
    epoch = epoch + 1,
    owner = :worker,
    wake_at = NULL,
    started_at = coalesce(started_at, :now)
WHERE id IN (
    SELECT id FROM (
        SELECT * FROM (
            SELECT id, created_at AS since FROM runs
            WHERE state = 'pending' AND (workflow, version) IN (VALUES :versions)
              AND (:only IS NULL OR id = :only)
            ORDER BY created_at LIMIT :limit
        )
        UNION ALL
        SELECT * FROM (
            SELECT id, wake_at FROM runs
            WHERE state = 'waiting' AND wake_at <= :now
              AND (workflow, version) IN (VALUES :versions)
              AND (:only IS NULL OR id = :only)
            ORDER BY wake_at LIMIT :limit
        )
        UNION ALL
        SELECT * FROM (
            SELECT id, created_at FROM runs
            WHERE state = 'running' AND (workflow, version) IN (VALUES :versions)
              AND (:only IS NULL OR id = :only)
              AND owner IN (
                  SELECT DISTINCT holder.owner FROM runs AS holder
                  LEFT JOIN workers ON workers.id = holder.owner
                  WHERE holder.state = 'running' AND holder.owner <> :worker
                    AND (workers.id IS NULL OR workers.lease_until <= :now)
              )
            LIMIT :limit
        )
    )
    ORDER BY since LIMIT :limit
)
RETURNING :columns

-- :name: cancels
SELECT id FROM runs WHERE state = 'running' AND cancel_requested AND owner = ?

-- :name: next_wake
SELECT min(wake_at) FROM runs
WHERE state = 'waiting' AND (workflow, version) IN (VALUES :versions)

-- :name: ended_runs
SELECT id FROM runs
WHERE state IN ('completed', 'failed', 'cancelled') AND finished_at < :before
ORDER BY finished_at LIMIT :limit

-- :name: sweep_journal
-- From its end, so that what is left is a journal too.
DELETE FROM journal WHERE run_id = :run AND seq IN (
    SELECT seq FROM journal WHERE run_id = :run ORDER BY seq DESC LIMIT :room)

-- :name: sweep_signals
DELETE FROM signals WHERE run_id = :run AND seq IN (
    SELECT seq FROM signals WHERE run_id = :run ORDER BY seq DESC LIMIT :room)

-- :name: sweep_run
DELETE FROM runs WHERE id = ?

-- :name: feed_names
WITH RECURSIVE names (feed) AS (
    SELECT min(feed) FROM feeds
    UNION ALL
    SELECT (SELECT min(feed) FROM feeds WHERE feed > names.feed) FROM names
    WHERE names.feed IS NOT NULL
)
SELECT feed FROM names WHERE feed IS NOT NULL

-- :name: sweep_feed
DELETE FROM feeds
WHERE feed = :feed AND at < :before
  AND seq < (SELECT max(seq) FROM feeds WHERE feed = :feed)
  AND seq IN (SELECT seq FROM feeds WHERE feed = :feed ORDER BY seq LIMIT :room)

-- :name: sweep_workers
DELETE FROM workers WHERE id IN (
    SELECT id FROM workers
    WHERE lease_until < :dead
      AND NOT EXISTS (SELECT 1 FROM runs WHERE state = 'running' AND owner = workers.id)
    LIMIT :room)

-- :name: sweepable
WITH old AS (
    SELECT id FROM runs
    WHERE state IN ('completed', 'failed', 'cancelled') AND finished_at < :before
)
SELECT (SELECT count(*) FROM old),
       (SELECT count(*) FROM old JOIN journal ON journal.run_id = old.id),
       (SELECT count(*) FROM old JOIN signals ON signals.run_id = old.id),
       0,
       (SELECT count(*) FROM workers WHERE lease_until < :dead
          AND NOT EXISTS (SELECT 1 FROM runs WHERE state = 'running' AND owner = workers.id))

-- :name: sweepable_items
SELECT count(*) FROM feeds
WHERE feed = :feed AND at < :before AND seq < (SELECT max(seq) FROM feeds WHERE feed = :feed)
