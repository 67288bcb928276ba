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
