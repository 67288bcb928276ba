-- :name: add_attributes
INSERT INTO aura.attributes (run_id, name, value, created_at)
SELECT r.id, a.name, a.value, r.created_at
FROM unnest($1::text[], $2::text[], $3::text[]) AS a (run_id, name, value)
JOIN aura.runs AS r ON r.id = a.run_id

-- :name: attributes
SELECT a.run_id, a.name, a.value FROM aura.attributes AS a
WHERE a.run_id = ANY ($1::text[]) ORDER BY a.run_id, a.name

-- :name: runs_by_attribute
-- By the index of the first attribute, in the order of the list; the others are looked up.
SELECT :columns
FROM aura.attributes AS a JOIN aura.runs AS r ON r.id = a.run_id
WHERE a.name = ($8::text[])[1] AND a.value = ($9::text[])[1]
  AND (a.created_at, a.run_id) < ($3::double precision, $4::text)
  AND ($1::text IS NULL OR r.state = $1) AND ($2::text IS NULL OR r.workflow = $2)
  AND ($6::text IS NULL OR r.parent = $6) AND ($7::text IS NULL OR r.owner = $7)
  AND NOT EXISTS (
      SELECT FROM unnest($8::text[], $9::text[]) AS wanted (name, value)
      WHERE NOT EXISTS (SELECT FROM aura.attributes AS o
                        WHERE o.run_id = a.run_id AND o.name = wanted.name
                          AND o.value = wanted.value))
ORDER BY a.created_at DESC, a.run_id DESC
LIMIT $5

-- :name: runs_of_owner
SELECT :columns FROM aura.runs AS r
WHERE r.owner = $7::text AND (r.created_at, r.id) < ($3::double precision, $4::text)
  AND ($1::text IS NULL OR r.state = $1) AND ($2::text IS NULL OR r.workflow = $2)
  AND ($6::text IS NULL OR r.parent = $6)
  AND $8::text[] IS NOT NULL AND $9::text[] IS NOT NULL
ORDER BY r.created_at DESC, r.id DESC
LIMIT $5

-- :name: runs_parked
SELECT :columns FROM aura.runs AS r
WHERE r.finished_at IS NOT NULL AND r.state = 'parked'
  AND (r.finished_at, r.id) < ($3::double precision, $4::text)
  AND coalesce($1::text, 'parked') = 'parked' AND ($2::text IS NULL OR r.workflow = $2)
  AND $6::text IS NULL AND $7::text IS NULL
  AND $8::text[] IS NOT NULL AND $9::text[] IS NOT NULL
ORDER BY r.finished_at DESC, r.id DESC
LIMIT $5

-- :name: changed_runs
SELECT found.id, found.workflow, found.version, found.state, found.at FROM (
    (SELECT r.id, r.workflow, r.version, r.state, r.created_at AS at FROM aura.runs AS r
     WHERE r.created_at > $1 ORDER BY r.created_at DESC LIMIT $2)
    UNION ALL
    (SELECT r.id, r.workflow, r.version, r.state, r.finished_at FROM aura.runs AS r
     WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
       AND r.finished_at > $1 ORDER BY r.finished_at DESC LIMIT $2)
    UNION ALL
    (SELECT r.id, r.workflow, r.version, r.state, r.finished_at FROM aura.runs AS r
     WHERE r.finished_at IS NOT NULL AND r.state = 'parked'
       AND r.finished_at > $1 ORDER BY r.finished_at DESC LIMIT $2)
) AS found
ORDER BY found.at DESC LIMIT $2

-- :name: pulses
SELECT r.id, r.workflow, r.state, r.epoch,
       coalesce((SELECT max(j.seq) FROM aura.journal AS j WHERE j.run_id = r.id), 0), r.signals
FROM aura.runs AS r WHERE r.id = ANY ($1::text[])

-- :name: runs_by_attribute_among
-- Of runs in the states $1 (and of the workflow $2): when there are few of those, they are looked
-- through, else those that have the first attribute, in the order of the list.
WITH RECURSIVE spots (state, workflow) AS (
    SELECT s.state, (SELECT r.workflow FROM aura.runs AS r WHERE r.state COLLATE "POSIX" = s.state
                     ORDER BY r.workflow LIMIT 1)
    FROM unnest($1::text[]) AS s (state)
    UNION ALL
    SELECT spots.state, (SELECT r.workflow FROM aura.runs AS r
                         WHERE r.state COLLATE "POSIX" = spots.state AND r.workflow > spots.workflow
                         ORDER BY r.workflow LIMIT 1)
    FROM spots WHERE spots.workflow IS NOT NULL
),
listed AS MATERIALIZED (
    SELECT head.id, head.created_at FROM spots, LATERAL (
        SELECT r.id, r.created_at FROM aura.runs AS r
        WHERE r.state COLLATE "POSIX" = spots.state AND r.workflow = spots.workflow
          AND (r.created_at, r.id) < ($3::double precision, $4::text)
        LIMIT 5001) AS head
    WHERE $2::text IS NULL OR spots.workflow = $2
    LIMIT 5001
),
few AS MATERIALIZED (SELECT count(*) <= 5000 AS so FROM listed),
newest AS (
    SELECT one.id FROM (
        (SELECT listed.id FROM listed
         WHERE (SELECT so FROM few)
           AND (SELECT count(*) FROM unnest($6::text[], $7::text[]) AS wanted (name, value)
                JOIN aura.attributes AS o ON o.run_id = listed.id AND o.name = wanted.name
                 AND o.value = wanted.value) = cardinality($6::text[])
         ORDER BY listed.created_at DESC, listed.id DESC LIMIT $5)
        UNION ALL
        (SELECT r.id
         FROM aura.attributes AS a JOIN aura.runs AS r ON r.id = a.run_id
         WHERE (SELECT NOT so FROM few)
           AND a.name = ($6::text[])[1] AND a.value = ($7::text[])[1]
           AND (a.created_at, a.run_id) < ($3::double precision, $4::text)
           AND r.state = ANY ($1::text[]) AND ($2::text IS NULL OR r.workflow = $2)
           AND (SELECT count(*) FROM unnest($6::text[], $7::text[]) AS wanted (name, value)
                JOIN aura.attributes AS o ON o.run_id = a.run_id AND o.name = wanted.name
                 AND o.value = wanted.value) = cardinality($6::text[])
         ORDER BY a.created_at DESC, a.run_id DESC LIMIT $5)
    ) AS one
)
SELECT :columns FROM newest JOIN aura.runs AS r ON r.id = newest.id
ORDER BY r.created_at DESC, r.id DESC
