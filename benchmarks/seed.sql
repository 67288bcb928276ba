-- Runs as an installation of two years has them, numbered from $1 to $2, the newest of $3 in all; $4
-- is when the newest was started (epoch seconds). What is random depends on the number only.
--
-- Thirteen workflows (the rarest has one run in ten thousand), 30 days, a fifth of the runs in three
-- queues with 1,000 keys, one in twenty is a child, 4 % have failed, 2 % were cancelled, one in 2,000
-- is parked, one in 500 waits; of the newest 1,000 some are still pending or running.

-- :name: runs
WITH chance AS (
    SELECT n, 'seed-' || to_char(n, 'FM000000000') AS id,
           (hashint8extended(n, 1) & 1048575) / 1048576.0 AS a,
           (hashint8extended(n, 2) & 1048575) / 1048576.0 AS b,
           (hashint8extended(n, 3) & 1048575) / 1048576.0 AS c,
           (hashint8extended(n, 4) & 1048575) AS d,
           $4::float8 - ($3::bigint - n) * (30 * 86400.0 / $3::bigint) AS at
    FROM generate_series($1::bigint, $2::bigint) AS n
),
told AS (
    SELECT *,
        CASE WHEN a < 0.0001 THEN 'audit-yearly'
             ELSE (ARRAY['research', 'answer', 'ingest', 'classify', 'summarize', 'route',
                         'extract-invoice', 'moderate', 'embed', 'translate', 'plan', 'bill'])
                  [1 + floor(12 * a * a)::int] END AS workflow,
        (ARRAY['1.0.0', '1.1.0', '2.0.0'])[1 + floor(3 * sqrt(n::float8 / $3::bigint) * c)::int]
            AS version,
        CASE WHEN n > $3::bigint - 1000 AND b < 0.5 THEN
                 CASE WHEN b < 0.2 THEN 'running' ELSE 'pending' END
             WHEN b < 0.0005 THEN 'parked'
             WHEN b < 0.0025 THEN 'waiting'
             WHEN b < 0.0425 THEN 'failed'
             WHEN b < 0.0625 THEN 'cancelled'
             ELSE 'completed' END AS state
    FROM chance
)
INSERT INTO aura.runs (id, workflow, version, state, epoch, owner, origin, input, fingerprint, output,
                       error, created_at, started_at, finished_at, parent, queue, key, rank)
SELECT id, workflow, version, state, 1, CASE state WHEN 'running' THEN 'seed-worker' END, 'seed',
       convert_to('{"text":"document ' || n || ', ' || repeat('words and more ', 4) || '"}', 'UTF8'),
       'd9e75fb97542f602',
       CASE state WHEN 'completed' THEN convert_to('{"words":' || d || '}', 'UTF8') END,
       CASE WHEN state IN ('failed', 'parked') THEN convert_to(
           '{"type":"StepFailed","message":"step fetch failed after 3 attempts: TimeoutError: ' ||
           'no answer from model ' || d % 7 || '","traceback":"' ||
           repeat('  File \"research.py\", line 60, in fetch\n', 12) || '"}', 'UTF8') END,
       at, CASE WHEN state <> 'pending' THEN at + 0.05 END,
       CASE WHEN state NOT IN ('pending', 'running', 'waiting') THEN at + 0.05 + c * c * 30 END,
       CASE WHEN d % 20 = 0 AND n > 1
            THEN 'seed-' || to_char(n - 1 - d % least(n - 1, 50), 'FM000000000') END,
       queue.name, CASE WHEN queue.name IS NULL THEN '' ELSE 'customer-' || d % 1000 END,
       CASE WHEN queue.name IS NOT NULL THEN at END
FROM told, LATERAL (SELECT CASE WHEN d % 5 = 1 THEN (ARRAY['gpu', 'mail', 'nightly'])[1 + d % 3] END)
     AS queue (name)

-- :name: journal
-- Three or four steps each, one of them tried twice in those that have failed.
INSERT INTO aura.journal (run_id, seq, key, kind, fingerprint, input, output, error, attempt,
                          started_at, recorded_at)
SELECT r.id, s, '0/' || (ARRAY['fetch', 'extract', 'answer', 'store'])[s] || '#1', 'step',
       'd9e75fb97542f602', convert_to('{"text":"document"}', 'UTF8'),
       CASE WHEN r.error IS NULL OR s < steps.many THEN convert_to('{"words":' || s || '}', 'UTF8') END,
       CASE WHEN r.error IS NOT NULL AND s = steps.many THEN r.error END, 1,
       r.created_at + s * 0.5, r.created_at + s * 0.5 + 0.4
FROM aura.runs AS r, LATERAL (SELECT 3 + length(r.version || r.workflow) % 2) AS steps (many),
     generate_series(1, steps.many) AS s
WHERE r.id >= 'seed-' || to_char($1::bigint, 'FM000000000')
  AND r.id <= 'seed-' || to_char($2::bigint, 'FM000000000') AND r.state <> 'pending'

-- :name: attributes
-- A third of the runs have a customer, of which there are 1,000, and one of three tiers.
INSERT INTO aura.attributes (run_id, name, value, created_at)
SELECT r.id, a.name, a.value, r.created_at
FROM aura.runs AS r, LATERAL (SELECT hashtextextended(r.id, 5) & 1048575) AS chance (d),
     LATERAL (VALUES ('customer', 'c-' || chance.d % 1000),
                     ('tier', (ARRAY['free', 'team', 'gold'])[1 + (chance.d % 3)::int]))
         AS a (name, value)
WHERE r.id >= 'seed-' || to_char($1::bigint, 'FM000000000')
  AND r.id <= 'seed-' || to_char($2::bigint, 'FM000000000') AND chance.d / 4096 % 3 = 0

-- :name: long_journal
-- Of a run that has made many steps.
INSERT INTO aura.journal (run_id, seq, key, kind, fingerprint, input, output, attempt, started_at,
                          recorded_at)
SELECT r.id, s, '0/answer#' || s, 'step', 'd9e75fb97542f602',
       convert_to('{"text":"document ' || s || '"}', 'UTF8'), convert_to('{"words":3}', 'UTF8'), 1,
       r.created_at + s * 0.001, r.created_at + s * 0.001 + 0.0005
FROM aura.runs AS r, generate_series(5, $2::int) AS s
WHERE r.id = 'seed-' || to_char($1::bigint, 'FM000000000')
ON CONFLICT DO NOTHING

-- :name: worker
INSERT INTO aura.workers (id, lease_until, started_at, schema, info)
VALUES ('seed-worker', $1::float8 + 86400, $1::float8, 1, '{}') ON CONFLICT DO NOTHING

-- :name: settings
-- Nothing here has to survive a crash.
SELECT set_config('synchronous_commit', 'off', false), set_config('enable_seqscan', 'on', false)

-- :name: vacuum
VACUUM ANALYZE
