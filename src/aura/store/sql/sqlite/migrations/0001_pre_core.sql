CREATE TABLE runs (
    id               TEXT PRIMARY KEY,
    workflow         TEXT NOT NULL,
    version          TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('pending', 'running', 'waiting', 'completed',
                                                    'failed', 'cancelled', 'parked', 'moved')),
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
    parent           TEXT,
    detached         INTEGER NOT NULL DEFAULT 0,
    execution        INTEGER NOT NULL DEFAULT 1,
    base             INTEGER NOT NULL DEFAULT 0,
    drained          INTEGER NOT NULL DEFAULT 0,
    created_at       REAL NOT NULL,
    started_at       REAL,
    finished_at      REAL,
    deadline         REAL,
    moved            TEXT,
    queue            TEXT,
    key              TEXT NOT NULL DEFAULT '',
    priority         INTEGER NOT NULL DEFAULT 0,
    rank             REAL,
    dedup            TEXT,
    debounced        INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_pending ON runs (workflow, version, created_at)
    WHERE state = 'pending' AND queue IS NULL;
CREATE INDEX runs_waiting ON runs (workflow, version, wake_at) WHERE state = 'waiting';
CREATE INDEX runs_running ON runs (owner) WHERE state = 'running';
CREATE INDEX runs_stopping ON runs (owner) WHERE state = 'running' AND cancel_requested;
CREATE INDEX runs_newest ON runs (created_at, id);
CREATE INDEX runs_queued ON runs (workflow, version, queue, key, (started_at IS NULL), rank)
    WHERE queue IS NOT NULL AND state = 'pending';
CREATE INDEX runs_put_off ON runs (wake_at) WHERE queue IS NOT NULL AND state = 'waiting';
CREATE INDEX runs_under_way ON runs (queue, key, owner)
    WHERE queue IS NOT NULL AND state = 'running';
CREATE INDEX runs_of_queue ON runs (queue, started_at) WHERE queue IS NOT NULL;
CREATE UNIQUE INDEX runs_dedup ON runs (workflow, dedup)
    WHERE dedup IS NOT NULL AND state IN ('pending', 'running', 'waiting', 'parked')
      AND (started_at IS NULL OR NOT debounced);
CREATE INDEX runs_children ON runs (parent, created_at, id) WHERE parent IS NOT NULL;
CREATE INDEX runs_continued ON runs (id) WHERE base > 0;
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

CREATE INDEX journal_shown ON journal (run_id, kind, seq)
    WHERE kind IN ('state', 'stream', 'answer');

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
    taken    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, seq),
    UNIQUE (run_id, id)
) WITHOUT ROWID;

CREATE TABLE queues (
    name       TEXT PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    limits     TEXT NOT NULL,
    exclusive  INTEGER NOT NULL,
    rate       INTEGER,
    per        REAL,
    updated_at REAL NOT NULL
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

CREATE TABLE topics (
    topic  TEXT PRIMARY KEY,
    tail   INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    bytes  INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE events (
    topic   TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    id      TEXT NOT NULL,
    key     TEXT,
    part    INTEGER NOT NULL,
    payload BLOB NOT NULL,
    at      REAL NOT NULL,
    PRIMARY KEY (topic, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_ids ON events (topic, id);

CREATE TABLE consumers (
    topic       TEXT NOT NULL,
    group_name  TEXT NOT NULL,
    generation  INTEGER NOT NULL DEFAULT 0,
    replayed_to INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, group_name)
) WITHOUT ROWID;

CREATE TABLE members (
    topic      TEXT NOT NULL,
    group_name TEXT NOT NULL,
    worker     TEXT NOT NULL,
    PRIMARY KEY (topic, group_name, worker)
) WITHOUT ROWID;

CREATE TABLE partitions (
    topic      TEXT NOT NULL,
    group_name TEXT NOT NULL,
    part       INTEGER NOT NULL,
    owner      TEXT,
    epoch      INTEGER NOT NULL DEFAULT 0,
    cursor     INTEGER NOT NULL,
    takeovers  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, group_name, part)
) WITHOUT ROWID;

CREATE TABLE deliveries (
    topic      TEXT NOT NULL,
    group_name TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    part       INTEGER NOT NULL,
    key        TEXT,
    state      TEXT NOT NULL CHECK (state IN ('waiting', 'dead', 'requeued', 'dropped')),
    attempts   INTEGER NOT NULL,
    due_at     REAL,
    history    BLOB,
    version    TEXT,
    changed_at REAL NOT NULL,
    PRIMARY KEY (topic, group_name, seq)
) WITHOUT ROWID;
CREATE INDEX deliveries_of_event ON deliveries (topic, seq);
CREATE INDEX deliveries_dead ON deliveries (changed_at) WHERE state = 'dead';
CREATE INDEX deliveries_told ON deliveries (topic, group_name)
    WHERE state IN ('requeued', 'dropped');
