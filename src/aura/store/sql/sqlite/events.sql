-- :name: topic_tail
SELECT tail FROM topics WHERE topic = ?

-- :name: known_events
SELECT v.topic, v.id FROM (VALUES :rows) AS wanted
JOIN events AS v ON v.topic = wanted.column1 AND v.id = wanted.column2

-- :name: add_events
INSERT INTO events (topic, seq, id, key, part, payload, at) VALUES :rows

-- :name: grow_topic
INSERT INTO topics (topic, tail, events, bytes) VALUES (:topic, :count, :count, :bytes)
ON CONFLICT (topic) DO UPDATE SET
    tail = tail + :count, events = events + :count, bytes = bytes + :bytes

-- :name: progress
UPDATE partitions SET
    takeovers = CASE WHEN cursor < :cursor OR :release THEN 0 ELSE takeovers END,
    cursor = max(cursor, :cursor), owner = CASE WHEN :release THEN NULL ELSE owner END
WHERE topic = :topic AND group_name = :group AND part = :part AND epoch = :epoch

-- :name: delivery_gone
DELETE FROM deliveries WHERE topic = ? AND group_name = ? AND seq = ?

-- :name: put_delivery
INSERT INTO deliveries (topic, group_name, seq, part, key, state, attempts, due_at, history,
                        version, changed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (topic, group_name, seq) DO UPDATE SET
    state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at,
    history = excluded.history, version = excluded.version, changed_at = excluded.changed_at

-- :name: consumer
SELECT generation, replayed_to FROM consumers WHERE topic = ? AND group_name = ?

-- :name: add_consumer
INSERT INTO consumers (topic, group_name) VALUES (?, ?)

-- :name: add_partition
INSERT INTO partitions (topic, group_name, part, cursor) VALUES (?, ?, ?, ?)

-- :name: forget_members
DELETE FROM members
WHERE topic = :topic AND group_name = :group AND worker <> :me
  AND NOT EXISTS (SELECT 1 FROM workers
                  WHERE workers.id = members.worker AND workers.lease_until > :now)

-- :name: join_group
INSERT INTO members (topic, group_name, worker) VALUES (:topic, :group, :me)
ON CONFLICT DO NOTHING

-- :name: rank
SELECT count(*), coalesce(sum(worker < :me), 0) FROM members
WHERE topic = :topic AND group_name = :group

-- :name: take_partitions
UPDATE partitions SET
    takeovers = takeovers + (owner IS NOT NULL), owner = :me, epoch = epoch + 1
WHERE topic = :topic AND group_name = :group AND part IN (
    SELECT free.part FROM partitions AS free
    WHERE free.topic = :topic AND free.group_name = :group AND free.owner IS NOT :me
      AND NOT EXISTS (SELECT 1 FROM workers
                      WHERE workers.id = free.owner AND workers.lease_until > :now)
    ORDER BY free.part
    LIMIT max(0, :quota - (SELECT count(*) FROM partitions AS mine
                           WHERE mine.topic = :topic AND mine.group_name = :group
                             AND mine.owner = :me)))

-- :name: my_partitions
SELECT part, epoch, cursor, takeovers FROM partitions
WHERE topic = :topic AND group_name = :group AND owner = :me ORDER BY part

-- :name: told
SELECT d.seq FROM deliveries AS d JOIN partitions AS p
  ON p.topic = d.topic AND p.group_name = d.group_name AND p.part = d.part AND p.owner = :me
WHERE d.topic = :topic AND d.group_name = :group AND d.state IN ('requeued', 'dropped')
ORDER BY d.seq

-- :name: leave_groups
DELETE FROM members WHERE worker = ?

-- :name: free_partitions
UPDATE partitions SET owner = NULL WHERE owner = ?

-- :name: read_events
SELECT topic, seq, id, key, part, payload, at FROM events
WHERE topic = ? AND seq > ? AND part IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?

-- :name: events
SELECT topic, seq, id, key, part, payload, at FROM events
WHERE topic = ? AND seq IN (SELECT value FROM json_each(?)) ORDER BY seq

-- :name: deliveries
SELECT topic, group_name, seq, part, key, state, attempts, due_at, history, version, changed_at
FROM deliveries
WHERE topic = ? AND group_name = ? AND part IN (SELECT value FROM json_each(?))
  AND (state <> 'dead' OR seq > ?)
ORDER BY seq

-- :name: dead_letters
SELECT d.topic, d.group_name, d.seq, d.part, d.key, d.state, d.attempts, d.due_at, d.history,
       d.version, d.changed_at, e.topic, e.seq, e.id, e.key, e.part, e.payload, e.at
FROM deliveries AS d JOIN events AS e ON e.topic = d.topic AND e.seq = d.seq
WHERE d.state = 'dead' AND (:topic IS NULL OR d.topic = :topic)
  AND (:group IS NULL OR d.group_name = :group) AND (:seq IS NULL OR d.seq = :seq)
  AND d.changed_at <= :before_changed_at
  AND (d.changed_at, d.seq, d.topic, d.group_name)
      < (:before_changed_at, :before_seq, :before_topic, :before_group)
ORDER BY d.changed_at DESC, d.seq DESC, d.topic DESC, d.group_name DESC LIMIT :limit

-- :name: requeue_delivery
UPDATE deliveries SET state = 'requeued', version = :version, changed_at = :now
WHERE topic = :topic AND group_name = :group AND seq = :seq AND state = 'dead'

-- :name: drop_delivery
UPDATE deliveries SET state = 'dropped', changed_at = :now
WHERE topic = :topic AND group_name = :group AND seq = :seq AND state = 'dead'

-- :name: begin_replay
UPDATE consumers SET
    generation = generation + 1,
    replayed_to = coalesce((SELECT tail FROM topics WHERE topics.topic = :topic), 0)
WHERE topic = :topic AND group_name = :group

-- :name: set_back
UPDATE partitions SET
    cursor = min(cursor, :start - 1), epoch = epoch + 1, owner = NULL, takeovers = 0
WHERE topic = :topic AND group_name = :group

-- :name: forget_deliveries
DELETE FROM deliveries WHERE topic = :topic AND group_name = :group AND seq >= :start

-- :name: count_since
SELECT count(*) FROM events WHERE topic = :topic AND seq >= :start

-- :name: forget_partitions
DELETE FROM partitions WHERE topic = :topic AND group_name = :group

-- :name: forget_all_members
DELETE FROM members WHERE topic = :topic AND group_name = :group

-- :name: forget_consumer
DELETE FROM consumers WHERE topic = :topic AND group_name = :group

-- :name: event_bounds
SELECT min(seq), max(seq) FROM events WHERE topic = ?

-- :name: event_from
SELECT seq, at FROM events WHERE topic = ? AND seq >= ? ORDER BY seq LIMIT 1

-- :name: topics
SELECT topic, tail, events, bytes FROM topics ORDER BY topic

-- :name: groups
SELECT c.topic, c.group_name,
       (SELECT count(*) FROM events AS e JOIN partitions AS p
          ON p.topic = e.topic AND p.group_name = c.group_name AND p.part = e.part
        WHERE e.topic = c.topic AND e.seq > p.cursor
          AND e.seq > (SELECT min(f.cursor) FROM partitions AS f
                       WHERE f.topic = c.topic AND f.group_name = c.group_name)),
       (SELECT min(e.at) FROM events AS e JOIN partitions AS p
          ON p.topic = e.topic AND p.group_name = c.group_name AND p.part = e.part
        WHERE e.topic = c.topic AND e.seq > p.cursor
          AND e.seq > (SELECT min(f.cursor) FROM partitions AS f
                       WHERE f.topic = c.topic AND f.group_name = c.group_name)),
       (SELECT count(*) FROM deliveries AS d
        WHERE d.topic = c.topic AND d.group_name = c.group_name
          AND d.state IN ('waiting', 'requeued')),
       (SELECT min(e.at) FROM deliveries AS d JOIN events AS e
          ON e.topic = d.topic AND e.seq = d.seq
        WHERE d.topic = c.topic AND d.group_name = c.group_name
          AND d.state IN ('waiting', 'requeued')),
       (SELECT count(*) FROM deliveries AS d
        WHERE d.topic = c.topic AND d.group_name = c.group_name AND d.state = 'dead'),
       (SELECT count(*) FROM members AS m JOIN workers AS w ON w.id = m.worker
        WHERE m.topic = c.topic AND m.group_name = c.group_name AND w.lease_until > :now)
FROM consumers AS c
WHERE :topic IS NULL OR c.topic = :topic
ORDER BY c.topic, c.group_name

-- :name: least_cursor
SELECT min(cursor) FROM partitions WHERE topic = ?

-- :name: old_events
SELECT o.seq, length(o.payload) FROM events AS o
WHERE o.topic = :topic AND o.seq < :old AND (o.seq <= :cursor OR o.seq < :unread)
  AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.topic = o.topic AND d.seq = o.seq)
ORDER BY o.seq LIMIT :room

-- :name: delete_events
DELETE FROM events WHERE topic = ? AND seq IN (SELECT value FROM json_each(?))

-- :name: shrink_topic
UPDATE topics SET events = events - :count, bytes = bytes - :bytes WHERE topic = :topic
