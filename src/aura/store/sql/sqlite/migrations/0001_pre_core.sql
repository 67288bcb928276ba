CREATE TABLE runs (
    id               TEXT PRIMARY KEY,
    workflow         TEXT NOT NULL,
    version          TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('pending', 'running', 'waiting', 'completed',
                                                    'failed', 'cancelled', 'parked')),
    epoch            INTEGER NOT NULL,
    owner            TEXT,
    origin           TEXT NOT NULL,
    input            BLOB NOT NULL,
    fingerprint      TEXT NOT NULL,
    output           BLOB,
    error            BLOB,
    wake_at          REAL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    recoveries       INTEGER NOT NULL DEFAULT 0,
    signals          INTEGER NOT NULL DEFAULT 0,
    created_at       REAL NOT NULL,
    started_at       REAL,
    finished_at      REAL
);
CREATE INDEX runs_pending ON runs (workflow, version, created_at) WHERE state = 'pending';
CREATE INDEX runs_waiting ON runs (workflow, version, wake_at) WHERE state = 'waiting';
CREATE INDEX runs_running ON runs (owner) WHERE state = 'running';
CREATE INDEX runs_stopping ON runs (owner) WHERE state = 'running' AND cancel_requested;
CREATE INDEX runs_newest ON runs (created_at, id);
CREATE INDEX runs_finished ON runs (finished_at)
    WHERE state IN ('completed', 'failed', 'cancelled');

CREATE TABLE journal (
    run_id      TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    key         TEXT NOT NULL,
    kind        TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    input       BLOB,
    output      BLOB,
    error       BLOB,
    attempt     INTEGER NOT NULL,
    started_at  REAL NOT NULL,
    recorded_at REAL NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;

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

CREATE TABLE documents (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    body       BLOB NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

CREATE TABLE feeds (
    feed    TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    at      REAL NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (feed, seq)
) WITHOUT ROWID;

CREATE TABLE workers (
    id          TEXT PRIMARY KEY,
    lease_until REAL NOT NULL,
    started_at  REAL NOT NULL,
    schema      INTEGER NOT NULL,
    info        BLOB NOT NULL
) WITHOUT ROWID;
