-- Words by which runs are found. Few runs have some, so they are no columns of runs; `created_at` is
-- the run's, so that a search reads them in the order of the list and stops at the end of its page.
CREATE TABLE aura.attributes (
    run_id     text COLLATE "C" NOT NULL REFERENCES aura.runs (id) ON DELETE CASCADE,
    name       text COLLATE "C" NOT NULL,
    value      text COLLATE "C" NOT NULL,
    created_at double precision NOT NULL,
    PRIMARY KEY (run_id, name)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
CREATE INDEX attributes_newest ON aura.attributes (name, value, created_at, run_id);

-- Parked runs by the time since when they wait for a person. A search by id and state cannot stray
-- into it: it names no finished_at.
CREATE INDEX runs_parked ON aura.runs (finished_at, id)
    WHERE finished_at IS NOT NULL AND state = 'parked';
