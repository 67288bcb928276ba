-- :name: balance
SELECT * FROM aura.balance($1, $2, $3, $4, $5)

-- :name: leave
WITH gone AS (DELETE FROM aura.members WHERE worker = $1)
UPDATE aura.partitions SET owner = NULL WHERE owner = $1

-- :name: read
SELECT e.topic, e.seq, e.id, e.key, e.part, e.payload, e.at, t.tail
FROM aura.topics AS t LEFT JOIN LATERAL (
    SELECT v.topic, v.seq, v.id, v.key, v.part, v.payload, v.at FROM aura.events AS v
    WHERE v.topic = $1 AND v.seq > $2 AND v.part = ANY ($3::smallint[])
    ORDER BY v.seq LIMIT $4) AS e ON true
WHERE t.topic = $1
ORDER BY e.seq

-- :name: events
SELECT e.topic, e.seq, e.id, e.key, e.part, e.payload, e.at FROM aura.events AS e
WHERE e.topic = $1 AND e.seq = ANY ($2::bigint[]) ORDER BY e.seq

-- :name: deliveries
SELECT d.topic, d.group_name, d.seq, d.part, d.key, d.state, d.attempts, d.due_at, d.history,
       d.version, d.changed_at
FROM aura.deliveries AS d
WHERE d.topic = $1 AND d.group_name = $2 AND d.part = ANY ($3::smallint[])
  AND (d.state <> 'dead' OR d.seq > $4::bigint)
ORDER BY d.seq

-- :name: dead_letters
SELECT d.topic, d.group_name, d.seq, d.part, d.key, d.state, d.attempts, d.due_at, d.history,
       d.version, d.changed_at, e.topic, e.seq, e.id, e.key, e.part, e.payload, e.at
FROM aura.deliveries AS d JOIN aura.events AS e ON e.topic = d.topic AND e.seq = d.seq
WHERE d.state = 'dead' AND ($1::text IS NULL OR d.topic = $1)
  AND ($2::text IS NULL OR d.group_name = $2) AND ($3::bigint IS NULL OR d.seq = $3)
  AND d.changed_at <= $5::double precision
  AND (d.changed_at, d.seq, d.topic, d.group_name) < ($5, $6::bigint, $7::text, $8::text)
ORDER BY d.changed_at DESC, d.seq DESC, d.topic DESC, d.group_name DESC LIMIT $4

-- :name: requeue_delivery
UPDATE aura.deliveries SET state = 'requeued', version = $4, changed_at = aura.moment()
WHERE topic = $1 AND group_name = $2 AND seq = $3 AND state = 'dead' RETURNING 'requeued'

-- :name: drop_delivery
UPDATE aura.deliveries SET state = 'dropped', changed_at = aura.moment()
WHERE topic = $1 AND group_name = $2 AND seq = $3 AND state = 'dead' RETURNING 'dropped'

-- :name: replay
SELECT aura.replay($1, $2, $3)

-- :name: forget
WITH deliveries AS (DELETE FROM aura.deliveries WHERE topic = $1 AND group_name = $2),
parts AS (DELETE FROM aura.partitions WHERE topic = $1 AND group_name = $2),
members AS (DELETE FROM aura.members WHERE topic = $1 AND group_name = $2)
DELETE FROM aura.consumers WHERE topic = $1 AND group_name = $2 RETURNING group_name

-- :name: topics
SELECT topic, tail, events, bytes FROM aura.topics ORDER BY topic

-- :name: groups
SELECT c.topic, c.group_name, ahead.events + late.waiting, late.waiting, late.dead,
       aura.moment() - least(ahead.oldest, late.oldest),
       (SELECT count(*) FROM aura.members AS m JOIN aura.workers AS w ON w.id = m.worker
        WHERE m.topic = c.topic AND m.group_name = c.group_name
          AND w.lease_until > aura.moment())
FROM aura.consumers AS c,
LATERAL (
    SELECT count(*) AS events, min(e.at) AS oldest
    FROM aura.events AS e JOIN aura.partitions AS p
      ON p.topic = e.topic AND p.group_name = c.group_name AND p.part = e.part
    WHERE e.topic = c.topic AND e.seq > p.cursor
      AND e.seq > (SELECT min(f.cursor) FROM aura.partitions AS f
                   WHERE f.topic = c.topic AND f.group_name = c.group_name)) AS ahead,
LATERAL (
    SELECT count(*) FILTER (WHERE d.state IN ('waiting', 'requeued')) AS waiting,
           count(*) FILTER (WHERE d.state = 'dead') AS dead,
           min(e.at) FILTER (WHERE d.state IN ('waiting', 'requeued')) AS oldest
    FROM aura.deliveries AS d LEFT JOIN aura.events AS e ON e.topic = d.topic AND e.seq = d.seq
    WHERE d.topic = c.topic AND d.group_name = c.group_name) AS late
WHERE $1::text IS NULL OR c.topic = $1
ORDER BY c.topic, c.group_name

-- :name: sweep_events
SELECT aura.sweep_events($1, $2, $3)

-- :name: sweepable_events
SELECT count(*)
FROM (SELECT t.topic, aura.first_since(t.topic, aura.moment() - $1) AS old,
             aura.first_since(t.topic, aura.moment() - $2) AS unread,
             (SELECT min(p.cursor) FROM aura.partitions AS p WHERE p.topic = t.topic) AS cursor
      FROM aura.topics AS t) AS one
JOIN aura.events AS o ON o.topic = one.topic AND o.seq < one.old
WHERE (o.seq <= coalesce(one.cursor, o.seq) OR o.seq < one.unread)
  AND NOT EXISTS (SELECT FROM aura.deliveries AS d WHERE d.topic = o.topic AND d.seq = o.seq)
