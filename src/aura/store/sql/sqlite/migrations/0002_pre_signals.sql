ALTER TABLE runs ADD COLUMN signals INTEGER NOT NULL DEFAULT 0;

CREATE TABLE signals (
    run_id   TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    name     TEXT NOT NULL,
    id       TEXT NOT NULL,
    priority TEXT NOT NULL CHECK (priority IN ('critical', 'high', 'normal', 'low')),
    deadline REAL,
    payload  BLOB NOT NULL,
    sent_at  REAL NOT NULL,
    late     INTEGER NOT NULL,
    PRIMARY KEY (run_id, seq),
    UNIQUE (run_id, id)
) WITHOUT ROWID;
