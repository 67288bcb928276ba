-- Large values, each of them once; see `aura.store.payloads`. `payload_uses` says which runs have
-- one, `payloads_loose` which may not have it any more.
CREATE TABLE payloads (
    mark BLOB PRIMARY KEY,
    body BLOB NOT NULL
);
CREATE TABLE payload_uses (
    run_id TEXT NOT NULL,
    mark   BLOB NOT NULL,
    PRIMARY KEY (run_id, mark)
) WITHOUT ROWID;
CREATE INDEX payload_uses_of ON payload_uses (mark);
CREATE TABLE payloads_loose (
    run_id TEXT NOT NULL,
    mark   BLOB NOT NULL,
    PRIMARY KEY (run_id, mark)
) WITHOUT ROWID;
