-- :name: add_attributes
INSERT INTO attributes (run_id, name, value, created_at)
SELECT runs.id, a.column2, a.column3, runs.created_at
FROM (VALUES :rows) AS a JOIN runs ON runs.id = a.column1

-- :name: attributes
SELECT run_id, name, value FROM attributes
WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id, name

-- :name: sweep_attributes
DELETE FROM attributes WHERE run_id = ?

-- :name: runs_by_attribute
-- By the index of the first attribute, in the order of the list; the others are looked up.
SELECT :columns FROM runs JOIN (
    SELECT a.run_id AS found, a.created_at AS at FROM attributes AS a INDEXED BY attributes_newest
    WHERE a.name = json_extract(:attributes, '$[0][0]')
      AND a.value = json_extract(:attributes, '$[0][1]')
      AND (a.created_at, a.run_id) < (:before_at, :before_id)
    ORDER BY a.created_at DESC, a.run_id DESC
) ON id = found
WHERE (:state IS NULL OR state = :state) AND (:workflow IS NULL OR workflow = :workflow)
  AND (:parent IS NULL OR parent = :parent) AND (:owner IS NULL OR owner = :owner)
  AND NOT EXISTS (
      SELECT 1 FROM json_each(:attributes) AS wanted
      WHERE NOT EXISTS (SELECT 1 FROM attributes AS o
                        WHERE o.run_id = found AND o.name = json_extract(wanted.value, '$[0]')
                          AND o.value = json_extract(wanted.value, '$[1]')))
ORDER BY at DESC, found DESC
LIMIT :limit

-- :name: runs_of_owner
SELECT :columns FROM runs
WHERE state = 'running' AND owner = :owner AND (created_at, id) < (:before_at, :before_id)
  AND (:state IS NULL OR state = :state) AND (:workflow IS NULL OR workflow = :workflow)
  AND (:parent IS NULL OR parent = :parent)
ORDER BY created_at DESC, id DESC
LIMIT :limit

-- :name: runs_parked
SELECT :columns FROM runs INDEXED BY runs_parked
WHERE finished_at IS NOT NULL AND state = 'parked'
  AND (finished_at, id) < (:before_at, :before_id)
  AND coalesce(:state, 'parked') = 'parked' AND (:workflow IS NULL OR workflow = :workflow)
ORDER BY finished_at DESC, id DESC
LIMIT :limit

-- :name: changed_runs
SELECT id, workflow, version, state, at FROM (
    SELECT * FROM (
        SELECT id, workflow, version, state, created_at AS at FROM runs
        WHERE created_at > :after ORDER BY created_at DESC LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT id, workflow, version, state, finished_at FROM runs
        WHERE state IN ('completed', 'failed', 'cancelled') AND finished_at > :after
        ORDER BY finished_at DESC LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT id, workflow, version, state, finished_at FROM runs
        WHERE finished_at IS NOT NULL AND state = 'parked' AND finished_at > :after
        ORDER BY finished_at DESC LIMIT :limit)
)
ORDER BY at DESC LIMIT :limit

-- :name: pulses
SELECT id, workflow, state, epoch,
       coalesce((SELECT max(seq) FROM journal WHERE run_id = runs.id), 0), signals
FROM runs WHERE id IN (SELECT value FROM json_each(?))
