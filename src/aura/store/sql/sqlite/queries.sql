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
-- A child only for a parent that is running, at the epoch that its owner knows.
INSERT INTO runs (id, workflow, version, state, epoch, owner, origin, input, fingerprint,
                  created_at, started_at, parent, detached, deadline)
SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10,
       column11, column12, column14, column15
FROM (VALUES :rows) AS op
WHERE op.column12 IS NULL
   OR EXISTS (SELECT 1 FROM runs AS parent WHERE parent.id = op.column12
              AND parent.epoch = op.column13 AND parent.state = 'running')
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
    finished_at = CASE WHEN state = 'parked' OR (state <> 'running' AND started_at IS NULL)
                       THEN :now ELSE finished_at END,
    state = CASE WHEN state = 'parked' OR (state <> 'running' AND started_at IS NULL)
                 THEN 'cancelled'
                 WHEN state = 'waiting' THEN 'pending'
                 ELSE state END,
    wake_at = NULL
WHERE id = :id AND state IN ('pending', 'running', 'waiting', 'parked')

-- :name: ended_children
-- Of these runs, those that have ended and whose parent has not been told.
SELECT child.parent, child.id
FROM (VALUES :rows) AS ended
JOIN runs AS child ON child.id = ended.column1
 AND child.state IN ('completed', 'failed', 'cancelled') AND NOT child.detached
JOIN runs AS parent ON parent.id = child.parent
 AND parent.state IN ('pending', 'running', 'waiting', 'parked')
WHERE NOT EXISTS (SELECT 1 FROM signals
                  WHERE signals.run_id = child.parent AND signals.id = '~child:' || child.id)

-- :name: orphans
-- The children of these runs, when they have ended, that go on and should not.
SELECT child.id
FROM (VALUES :rows) AS ended
JOIN runs AS parent ON parent.id = ended.column1
 AND parent.state IN ('completed', 'failed', 'cancelled')
JOIN runs AS child ON child.parent = parent.id
WHERE child.state IN ('pending', 'running', 'waiting', 'parked')
  AND NOT child.detached AND NOT child.cancel_requested

-- :name: continue_run
UPDATE runs SET
    state = 'pending', owner = NULL, recoveries = 0, error = NULL,
    version = :version, input = :input, execution = execution + 1, base = :base,
    drained = coalesce((SELECT min(value) - 1 FROM json_each(:unread)), :seen)
WHERE id = :id AND epoch = :epoch AND state = 'running'

-- :name: take_signals
UPDATE signals SET taken = 1
WHERE run_id = :id AND seq <= :seen AND seq > (SELECT drained FROM runs WHERE id = :id)
  AND seq NOT IN (SELECT value FROM json_each(:unread))

-- :name: continued_before
SELECT 1 FROM runs WHERE id = :id AND epoch = :epoch AND base = :base AND state = 'pending'

-- :name: requeue
UPDATE runs SET
    state = 'pending', error = NULL, finished_at = NULL, recoveries = 0,
    version = coalesce(?, version)
WHERE id = ? AND state = 'parked'

-- :name: signal_state
SELECT state, signals FROM runs WHERE id = ?

-- :name: add_signal
INSERT INTO signals (run_id, seq, name, id, priority, deadline, payload, sent_at, late)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- :name: signalled_once
UPDATE runs SET signals = ?, state = ?, wake_at = NULL WHERE id = ?

-- :name: signal_states
SELECT id, state, signals, started_at IS NULL
FROM (VALUES :rows) AS wanted JOIN runs ON id = wanted.column1

-- :name: signals_by_id
SELECT s.run_id, s.id, s.seq, s.late
FROM (VALUES :rows) AS wanted
JOIN signals AS s ON s.run_id = wanted.column1 AND s.id = wanted.column2

-- :name: add_signals
INSERT INTO signals (run_id, seq, name, id, priority, deadline, payload, sent_at, late)
VALUES :rows

-- :name: signalled
-- A run that is new waits for its time whatever is sent to it.
UPDATE runs SET
    signals = sent.column2,
    state = sent.column3,
    wake_at = CASE WHEN started_at IS NULL THEN wake_at END
FROM (VALUES :rows) AS sent
WHERE id = sent.column1

-- :name: take_run
-- A run that has never begun, or is asked to stop, is for a claim.
UPDATE runs SET state = 'running', epoch = epoch + 1, owner = :worker, wake_at = NULL
WHERE id = :id AND epoch = :epoch AND state = 'pending' AND queue IS NULL
  AND started_at IS NOT NULL AND NOT cancel_requested

-- :name: taken
SELECT 1 FROM runs
WHERE id = :id AND epoch = :epoch + 1 AND owner = :worker AND state = 'running'

-- :name: signals
SELECT s.run_id, s.seq, s.name, s.id, s.priority, s.deadline, :whole(s.payload), s.sent_at, s.late
FROM (VALUES :rows) AS wanted
JOIN runs ON runs.id = wanted.column1
JOIN signals AS s ON s.run_id = wanted.column1
 AND s.seq > max(wanted.column2, runs.drained) AND NOT s.taken

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

-- :name: runs_by_id
SELECT :columns FROM runs WHERE id IN (SELECT value FROM json_each(?))

-- :name: children
SELECT :columns FROM runs INDEXED BY runs_children
WHERE parent = :parent
  AND (:state IS NULL OR state = :state)
  AND (:workflow IS NULL OR workflow = :workflow)
  AND (created_at, id) < (:before_at, :before_id)
ORDER BY created_at DESC, id DESC
LIMIT :limit

-- :name: runs
SELECT :columns FROM runs INDEXED BY runs_newest
WHERE (created_at, id) < (:before_at, :before_id)
ORDER BY created_at DESC, id DESC
LIMIT :limit

-- :name: runs_resting
-- Of one state but "running", and one workflow: where they are in the list, and their rows.
SELECT rowid, created_at, id FROM runs INDEXED BY runs_resting
WHERE state = :state AND state <> 'running' AND workflow = :workflow
  AND (created_at, id) < (:before_at, :before_id)
ORDER BY created_at DESC, id DESC
LIMIT :limit

-- :name: runs_running
-- The same of those that are being executed. They are as many as workers have room for.
SELECT rowid, created_at, id FROM runs INDEXED BY runs_running
WHERE state = 'running' AND (:workflow IS NULL OR workflow = :workflow)
  AND (created_at, id) < (:before_at, :before_id)
ORDER BY created_at DESC, id DESC
LIMIT :limit

-- :name: workflows_in_state
-- Found by jumping from one to the next.
WITH RECURSIVE found (workflow) AS (
    SELECT min(workflow) FROM runs INDEXED BY runs_resting
    WHERE state = :state AND state <> 'running'
    UNION ALL
    SELECT (SELECT min(workflow) FROM runs INDEXED BY runs_resting
            WHERE state = :state AND state <> 'running' AND workflow > found.workflow)
    FROM found WHERE found.workflow IS NOT NULL
)
SELECT workflow FROM found WHERE workflow IS NOT NULL

-- :name: runs_by_row
SELECT :columns FROM runs WHERE rowid IN (SELECT value FROM json_each(?))

-- :name: journal
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM journal
WHERE run_id = :run AND seq > coalesce((SELECT base FROM runs WHERE id = :run), 0) ORDER BY seq

-- :name: entries
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM journal WHERE run_id = ? AND kind = ? AND seq > ? ORDER BY seq

-- :name: entries_of
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM journal
WHERE run_id = :run AND seq > coalesce((SELECT base FROM runs WHERE id = :run), 0)
  AND key IN (SELECT value FROM json_each(:keys)) ORDER BY seq

-- :name: outline
SELECT seq, key, kind, fingerprint, attempt, started_at, recorded_at, error IS NOT NULL,
       :size(input), :size(output)
FROM journal
WHERE run_id = :run
  AND seq > max(:after, coalesce((SELECT base FROM runs WHERE id = :run), 0))
ORDER BY seq LIMIT :limit

-- :name: shown_entries
-- Of one of the kinds that have an index.
SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt,
       started_at, recorded_at
FROM journal INDEXED BY journal_shown
WHERE run_id = ? AND kind = ? AND seq > ? AND kind IN ('state', 'stream', 'answer')
ORDER BY seq

-- :name: workers
SELECT id, lease_until, started_at, info FROM workers ORDER BY started_at, id

-- :name: claim_heads
SELECT id, state FROM (
    SELECT * FROM (
        SELECT id, state, created_at AS since FROM runs
        WHERE state = 'pending' AND queue IS NULL AND (workflow, version) IN (VALUES :versions)
          AND (:only IS NULL OR id = :only)
        ORDER BY created_at LIMIT :limit
    )
    UNION ALL
    SELECT * FROM (
        SELECT id, state, wake_at FROM runs
        WHERE state = 'waiting' AND queue IS NULL AND wake_at <= :now
          AND (workflow, version) IN (VALUES :versions)
          AND (:only IS NULL OR id = :only)
        ORDER BY wake_at LIMIT :limit
    )
    UNION ALL
    SELECT * FROM (
        SELECT id, state, created_at FROM runs
        WHERE state = 'running' AND queue IS NULL AND (workflow, version) IN (VALUES :versions)
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

-- :name: any_in_queues
SELECT EXISTS (
    SELECT 1 FROM json_each(:asked) AS asked CROSS JOIN runs
    WHERE workflow = json_extract(asked.value, '$[0]')
      AND version = json_extract(asked.value, '$[1]')
      AND queue IS NOT NULL AND state = 'pending'
) OR EXISTS (
    SELECT 1 FROM runs WHERE queue IS NOT NULL AND state = 'waiting' AND wake_at <= :now
) OR EXISTS (
    SELECT 1 FROM runs AS held INDEXED BY runs_under_way
    LEFT JOIN workers ON workers.id = held.owner
    WHERE held.queue IS NOT NULL AND held.state = 'running' AND held.owner <> :worker
      AND (workers.id IS NULL OR workers.lease_until <= :now)
)

-- :name: queue_promote
UPDATE runs SET state = 'pending', wake_at = NULL
WHERE queue IS NOT NULL AND state = 'waiting' AND wake_at <= :now

-- :name: queue_orphans
SELECT held.id, held.epoch, held.state, held.queue, held.key, 1, coalesce(held.rank, 0)
FROM runs AS held INDEXED BY runs_under_way
    LEFT JOIN workers ON workers.id = held.owner
WHERE held.queue IS NOT NULL AND held.state = 'running' AND held.owner <> :worker
  AND (workers.id IS NULL OR workers.lease_until <= :now)
  AND (held.workflow, held.version) IN (
      SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:asked))
  AND (:only IS NULL OR held.id = :only)
LIMIT :room * 4

-- :name: queue_doors
WITH RECURSIVE asked (workflow, version) AS (
    SELECT DISTINCT json_extract(value, '$[0]'), json_extract(value, '$[1]')
    FROM json_each(:asked)
),
spots (workflow, version, queue) AS (
    SELECT workflow, version, (
        SELECT r.queue FROM runs AS r
        WHERE r.workflow = asked.workflow AND r.version = asked.version
          AND r.queue IS NOT NULL AND r.state = 'pending' ORDER BY r.queue LIMIT 1)
    FROM asked
    UNION ALL
    SELECT workflow, version, (
        SELECT r.queue FROM runs AS r
        WHERE r.workflow = spots.workflow AND r.version = spots.version
          AND r.queue > spots.queue AND r.queue IS NOT NULL AND r.state = 'pending'
        ORDER BY r.queue LIMIT 1)
    FROM spots WHERE queue IS NOT NULL
)
SELECT doors.queue, queues.limits
FROM (SELECT queue FROM spots WHERE queue IS NOT NULL
      UNION SELECT value FROM json_each(:others)
      UNION SELECT r.queue FROM runs AS r
            WHERE r.state = 'running' AND r.owner = :worker AND r.queue IS NOT NULL) AS doors
LEFT JOIN queues ON queues.name = doors.queue

-- :name: queue_loads
SELECT r.queue, r.key, count(*), sum(r.owner = :worker)
FROM json_each(:names) AS name CROSS JOIN runs AS r INDEXED BY runs_under_way
WHERE r.queue = name.value AND r.queue IS NOT NULL AND r.state = 'running'
GROUP BY r.queue, r.key
UNION ALL
SELECT q.name, NULL, count(r.started_at), min(r.started_at) + q.per
FROM json_each(:names) AS name CROSS JOIN queues AS q
LEFT JOIN runs AS r ON r.queue = q.name AND r.started_at > :now - q.per AND r.queue IS NOT NULL
WHERE q.name = name.value AND q.rate IS NOT NULL
GROUP BY q.name

-- :name: queue_heads
WITH RECURSIVE asked (workflow, version, queue) AS (
    SELECT DISTINCT json_extract(pair.value, '$[0]'), json_extract(pair.value, '$[1]'), name.value
    FROM json_each(:asked) AS pair, json_each(:names) AS name
),
spots (workflow, version, queue, key) AS (
    SELECT workflow, version, queue, (
        SELECT r.key FROM runs AS r
        WHERE r.workflow = asked.workflow AND r.version = asked.version
          AND r.queue = asked.queue AND r.queue IS NOT NULL AND r.state = 'pending'
        ORDER BY r.key LIMIT 1)
    FROM asked
    UNION ALL
    SELECT workflow, version, queue, (
        SELECT r.key FROM runs AS r
        WHERE r.workflow = spots.workflow AND r.version = spots.version
          AND r.queue = spots.queue AND r.queue IS NOT NULL AND r.state = 'pending'
          AND r.key > spots.key
        ORDER BY r.key LIMIT 1)
    FROM spots WHERE key IS NOT NULL
)
SELECT r.id, r.epoch, r.state, r.queue, r.key, r.started_at IS NOT NULL,
       coalesce(r.rank, r.created_at)
FROM spots CROSS JOIN runs AS r
WHERE spots.key IS NOT NULL AND r.rowid IN (
    SELECT one.rowid FROM runs AS one
    WHERE one.workflow = spots.workflow AND one.version = spots.version
      AND one.queue = spots.queue AND one.key = spots.key
      AND one.queue IS NOT NULL AND one.state = 'pending'
      AND (:only IS NULL OR one.id = :only)
    ORDER BY (one.started_at IS NULL), one.rank
    LIMIT max(1, min(:room, :most / max(1, (SELECT count(*) FROM spots)))))

-- :name: claim
UPDATE runs SET
    recoveries = recoveries + (state = 'running'),
    state = 'running',
    epoch = epoch + 1,
    owner = :worker,
    wake_at = NULL,
    started_at = coalesce(started_at, :now)
WHERE id IN (SELECT value FROM json_each(:ids))
RETURNING :columns

-- :name: put_off
-- A run that has not begun takes the input of a later start that stands for the same, and waits on.
UPDATE runs SET
    version = :version, input = :input, fingerprint = :fingerprint,
    state = 'waiting',
    wake_at = min(:due, coalesce(created_at + :limit, :due)),
    queue = :queue, key = :key, priority = :priority,
    rank = min(:due, coalesce(created_at + :limit, :due)) - :worth
WHERE workflow = :workflow AND dedup = :dedup AND debounced
  AND started_at IS NULL AND state IN ('pending', 'waiting')
RETURNING id

-- :name: place_run
INSERT INTO runs (id, workflow, version, state, epoch, origin, input, fingerprint, created_at,
                  wake_at, queue, key, priority, rank, dedup, debounced, parent, detached,
                  deadline)
SELECT :id, :workflow, :version, :state, 0, :origin, :input, :fingerprint, :now,
       :wake_at, :queue, :key, :priority, :rank, :dedup, :debounced, :parent, :detached,
       :deadline
WHERE :parent IS NULL
   OR EXISTS (SELECT 1 FROM runs AS parent WHERE parent.id = :parent
              AND parent.epoch = :parent_epoch AND parent.state = 'running')
ON CONFLICT DO NOTHING
RETURNING id

-- :name: standing
SELECT id FROM runs
WHERE id = :id OR (workflow = :workflow AND dedup = :dedup
                   AND state IN ('pending', 'running', 'waiting', 'parked')
                   AND (started_at IS NULL OR NOT debounced))
ORDER BY id = :id DESC LIMIT 1

-- :name: put_queue
INSERT INTO queues (name, epoch, limits, exclusive, rate, per, updated_at)
VALUES (?, 1, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    epoch = epoch + 1, limits = excluded.limits, exclusive = excluded.exclusive,
    rate = excluded.rate, per = excluded.per, updated_at = excluded.updated_at
WHERE ? AND queues.limits <> excluded.limits

-- :name: queues
SELECT name, epoch, limits, updated_at FROM queues ORDER BY name

-- :name: tally_since
SELECT until FROM tally_mark

-- :name: tally_cut
-- The end of the run before which so many others have ended.
SELECT finished_at FROM runs INDEXED BY runs_finished
WHERE state IN ('completed', 'failed', 'cancelled')
  AND finished_at > :since AND finished_at <= :upto
ORDER BY finished_at LIMIT 1 OFFSET :skip

-- :name: tally_runs
INSERT INTO tallies (workflow, version, state, queue, runs)
SELECT workflow, version, state, coalesce(queue, ''), count(*)
FROM runs INDEXED BY runs_finished
WHERE state IN ('completed', 'failed', 'cancelled')
  AND finished_at > :since AND finished_at <= :upto
GROUP BY workflow, version, state, coalesce(queue, '')
ON CONFLICT (workflow, version, state, queue) DO UPDATE SET runs = tallies.runs + excluded.runs

-- :name: tally_until
UPDATE tally_mark SET until = :upto

-- :name: tally_arrived
INSERT INTO tallies (workflow, version, state, queue, runs)
SELECT workflow, version, state, coalesce(queue, ''), 1 FROM runs
WHERE id = ? AND state IN ('completed', 'failed', 'cancelled')
  AND finished_at <= (SELECT until FROM tally_mark)
ON CONFLICT (workflow, version, state, queue) DO UPDATE SET runs = tallies.runs + 1

-- :name: count_runs
-- What was tallied, what has ended since, and the other runs.
SELECT :names, sum(runs) FROM (
    SELECT workflow, version, state, nullif(queue, '') AS queue, runs FROM tallies
    UNION ALL
    SELECT workflow, version, state, queue, count(*) FROM runs INDEXED BY runs_finished
    WHERE state IN ('completed', 'failed', 'cancelled')
      AND finished_at > (SELECT until FROM tally_mark)
    GROUP BY workflow, version, state, queue
    UNION ALL
    SELECT workflow, version, state, queue, count(*) FROM runs INDEXED BY runs_resting
    WHERE state IN ('pending', 'waiting', 'parked', 'moved') AND state <> 'running'
    GROUP BY workflow, version, state, queue
    UNION ALL
    SELECT workflow, version, state, queue, count(*) FROM runs INDEXED BY runs_running
    WHERE state = 'running'
    GROUP BY workflow, version, queue
)
WHERE :queue IS NULL OR queue = :queue
GROUP BY :names HAVING sum(runs) > 0

-- :name: count_open
-- Of the runs that have not ended.
SELECT :names, count(*) FROM (
    SELECT workflow, version, state, queue, key, owner FROM runs INDEXED BY runs_resting
    WHERE state IN ('pending', 'waiting', 'parked', 'moved') AND state <> 'running'
    UNION ALL
    SELECT workflow, version, state, queue, key, owner FROM runs INDEXED BY runs_running
    WHERE state = 'running'
)
WHERE :queue IS NULL OR queue = :queue
GROUP BY :names

-- :name: depths
SELECT NULL, 'pending', count(*) FROM runs INDEXED BY runs_pending
WHERE state = 'pending' AND queue IS NULL
UNION ALL
SELECT queue, 'pending', count(*) FROM runs INDEXED BY runs_queued
WHERE queue IS NOT NULL AND state = 'pending' GROUP BY queue
UNION ALL
SELECT queue, 'running', count(*) FROM runs INDEXED BY runs_running
WHERE state = 'running' GROUP BY queue

-- :name: cancels
SELECT id FROM runs WHERE state = 'running' AND cancel_requested AND owner = ?

-- :name: next_wake
-- When the earliest of the waiting runs is due, or the first lease of a worker with runs is over.
SELECT min(at) FROM (
    SELECT min(wake_at) AS at FROM runs
    WHERE state = 'waiting' AND (workflow, version) IN (VALUES :versions)
    UNION ALL
    SELECT min(lease_until) FROM workers
    WHERE lease_until > :now AND id <> :worker
      AND EXISTS (SELECT 1 FROM runs WHERE owner = workers.id AND state = 'running')
)

-- :name: ended_runs
-- None that the rate of a queue still counts.
SELECT id FROM runs
WHERE state IN ('completed', 'failed', 'cancelled') AND finished_at < :before
  AND NOT EXISTS (SELECT 1 FROM queues
                  WHERE queues.name = runs.queue AND runs.started_at > :now - queues.per)
  AND (parent IS NULL OR detached OR NOT EXISTS (
      SELECT 1 FROM runs AS parent WHERE parent.id = runs.parent
      AND parent.state IN ('pending', 'running', 'waiting', 'parked')))
ORDER BY finished_at LIMIT :limit

-- :name: continued_runs
SELECT id FROM runs
WHERE base > 0 AND state IN ('pending', 'running', 'waiting', 'parked')
  AND (EXISTS (SELECT 1 FROM journal WHERE run_id = runs.id AND seq <= runs.base
               AND recorded_at < :before AND kind NOT IN ('state', 'stream'))
       OR EXISTS (SELECT 1 FROM signals WHERE run_id = runs.id AND sent_at < :before
                  AND (taken OR seq <= runs.drained)))
LIMIT :limit

-- :name: sweep_earlier
-- What earlier executions have left, except what they show to those outside.
DELETE FROM journal WHERE run_id = :run AND seq IN (
    SELECT seq FROM journal
    WHERE run_id = :run AND seq <= (SELECT base FROM runs WHERE id = :run)
      AND recorded_at < :before AND kind NOT IN ('state', 'stream')
    ORDER BY seq LIMIT :room)

-- :name: sweep_taken
DELETE FROM signals WHERE run_id = :run AND seq IN (
    SELECT seq FROM signals
    WHERE run_id = :run AND sent_at < :before
      AND (taken OR seq <= (SELECT drained FROM runs WHERE id = :run))
    ORDER BY seq LIMIT :room)

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
      AND NOT EXISTS (SELECT 1 FROM queues
                      WHERE queues.name = runs.queue AND runs.started_at > :now - queues.per)
      AND (parent IS NULL OR detached OR NOT EXISTS (
          SELECT 1 FROM runs AS parent WHERE parent.id = runs.parent
          AND parent.state IN ('pending', 'running', 'waiting', 'parked')))
)
SELECT (SELECT count(*) FROM old),
       (SELECT count(*) FROM old JOIN journal ON journal.run_id = old.id),
       (SELECT count(*) FROM old JOIN signals ON signals.run_id = old.id),
       0,
       (SELECT count(*) FROM workers WHERE lease_until < :dead
          AND NOT EXISTS (SELECT 1 FROM runs WHERE state = 'running' AND owner = workers.id)),
       (SELECT count(*) FROM (SELECT mark FROM payload_uses
                              GROUP BY mark HAVING min(run_id IN (SELECT id FROM old))))

-- :name: sweepable_items
SELECT count(*) FROM feeds
WHERE feed = :feed AND at < :before AND seq < (SELECT max(seq) FROM feeds WHERE feed = :feed)

-- :name: layout
SELECT tables.name, columns.name
FROM sqlite_master AS tables JOIN pragma_table_xinfo(tables.name) AS columns
WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%' AND columns.hidden = 0
ORDER BY tables.name, columns.cid

-- :name: rows
SELECT :columns FROM :table WHERE :conditions ORDER BY :key LIMIT ?

-- :name: fence
UPDATE runs SET
    moved = json_object('move', :move, 'state', iif(state = 'running', 'pending', state),
                        'wake_at', wake_at),
    state = 'moved',
    epoch = epoch + 1,
    owner = NULL,
    wake_at = NULL
WHERE id IN (
    SELECT id FROM runs
    WHERE state IN ('pending', 'running', 'waiting', 'parked')
      AND (:runs IS NULL OR id IN (SELECT value FROM json_each(:runs)))
      AND (state <> 'running' OR :force OR NOT EXISTS (
          SELECT 1 FROM workers WHERE workers.id = runs.owner AND workers.lease_until > :now))
    LIMIT :limit)
RETURNING id

-- :name: identity
SELECT state, epoch, workflow, created_at FROM runs WHERE id = ?

-- :name: forget_rows
DELETE FROM :table WHERE :run = ?

-- :name: insert_row
INSERT INTO :table (:columns) VALUES (:values)

-- :name: add_row
INSERT INTO :table (:columns) VALUES (:values) ON CONFLICT DO NOTHING

-- :name: replace_row
UPDATE :table SET :changes WHERE :conditions

-- :name: count_signals
-- A copy of a run that went on meanwhile may have signals that came after its row was read.
UPDATE runs SET signals = max(signals, (
    SELECT coalesce(max(signals.seq), 0) FROM signals WHERE signals.run_id = runs.id))
WHERE id = ?

-- :name: keep_payload
INSERT INTO payloads (mark, body) VALUES (?, ?) ON CONFLICT DO NOTHING

-- :name: use_payload
INSERT INTO payload_uses (run_id, mark) VALUES (?, ?) ON CONFLICT DO NOTHING

-- :name: loosen_payload
INSERT INTO payloads_loose (run_id, mark) VALUES (?, ?) ON CONFLICT DO NOTHING

-- :name: loose_payloads
SELECT run_id, mark FROM payloads_loose LIMIT ?

-- :name: sweep_use
DELETE FROM payload_uses
WHERE run_id = :run AND mark = :mark
  AND NOT EXISTS (SELECT 1 FROM runs WHERE id = :run AND (input = :mark OR output = :mark))
  AND NOT EXISTS (SELECT 1 FROM journal
                  WHERE run_id = :run AND (input = :mark OR output = :mark))
  AND NOT EXISTS (SELECT 1 FROM signals WHERE run_id = :run AND payload = :mark)

-- :name: sweep_payload
DELETE FROM payloads
WHERE mark = :mark AND NOT EXISTS (SELECT 1 FROM payload_uses WHERE payload_uses.mark = :mark)

-- :name: sweep_loose
DELETE FROM payloads_loose WHERE run_id = :run AND mark = :mark
