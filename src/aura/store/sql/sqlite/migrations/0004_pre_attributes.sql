CREATE TABLE attributes (
    run_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;
CREATE INDEX attributes_newest ON attributes (name, value, created_at, run_id);
CREATE INDEX runs_parked ON runs (finished_at, id)
    WHERE finished_at IS NOT NULL AND state = 'parked';
