-- Names compare byte by byte ("C"): faster than a language's order, and the same on every server.
-- Payloads are compressed by the codec, so large ones are stored aside as they are (EXTERNAL).
CREATE TABLE aura.runs (
    id               text COLLATE "C" PRIMARY KEY,
    workflow         text COLLATE "C" NOT NULL,
    version          text COLLATE "C" NOT NULL,
    state            text COLLATE "C" NOT NULL
        CHECK (state IN ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled',
                         'parked', 'moved')),
    epoch            integer NOT NULL,
    owner            text COLLATE "C",
    origin           text NOT NULL,
    input            bytea NOT NULL,
    fingerprint      text NOT NULL,
    output           bytea,
    error            bytea,
    wake_at          double precision,
    cancel_requested boolean NOT NULL DEFAULT false,
    recoveries       integer NOT NULL DEFAULT 0,
    -- How many were sent to it: numbers the next one under the lock of this row, and shows whoever
    -- lets the run wait that there is one it has not seen.
    signals          integer NOT NULL DEFAULT 0,
    -- Who started it, if a run did; a detached one goes on when that has ended.
    parent           text COLLATE "C",
    detached         boolean NOT NULL DEFAULT false,
    -- How often it has begun anew; where the journal of this execution begins; up to which seq
    -- earlier ones have taken all signals.
    execution        integer NOT NULL DEFAULT 1,
    base             integer NOT NULL DEFAULT 0,
    drained          integer NOT NULL DEFAULT 0,
    created_at       double precision NOT NULL,
    started_at       double precision,
    finished_at      double precision,
    -- When its worker fails it.
    deadline         double precision,
    -- Of a run that goes on in another database: by which move, and what it was before.
    moved            text,
    -- Where and in which order it waits: NULL is the default queue, '' no key. The smallest rank of
    -- a key goes first.
    queue            text COLLATE "C",
    key              text COLLATE "C" NOT NULL DEFAULT '',
    priority         integer NOT NULL DEFAULT 0,
    rank             double precision,
    -- While it has not ended (debounced: not begun), it stands for all starts with this word.
    dedup            text COLLATE "C",
    debounced        boolean NOT NULL DEFAULT false,
    -- Since when a worker may take the run from the default queue.
    ready_at         double precision GENERATED ALWAYS AS (
        CASE WHEN queue IS NULL THEN
            CASE state WHEN 'pending' THEN created_at WHEN 'waiting' THEN wake_at END
        END) STORED,
    CHECK ((state = 'running') = (owner IS NOT NULL)),
    CHECK (state = 'waiting' OR wake_at IS NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE aura.runs
    ALTER input SET STORAGE EXTERNAL,
    ALTER output SET STORAGE EXTERNAL,
    ALTER error SET STORAGE EXTERNAL;
-- None of the predicates names `state`, so a search by id and state cannot stray into them.
CREATE INDEX runs_ready ON aura.runs (workflow, version, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX runs_asleep ON aura.runs (workflow, version, wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_owned ON aura.runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX runs_stopping ON aura.runs (owner) WHERE owner IS NOT NULL AND cancel_requested;
CREATE INDEX runs_newest ON aura.runs (created_at, id);
CREATE INDEX runs_children ON aura.runs (parent, created_at, id) WHERE parent IS NOT NULL;
CREATE INDEX runs_continued ON aura.runs (id) WHERE base > 0;
-- Queues: runs that can be taken, in their order; those whose time has not come; those under way;
-- all by the time of their beginning.
CREATE INDEX runs_queued ON aura.runs (workflow, version, queue, key, (started_at IS NULL), rank)
    WHERE queue IS NOT NULL AND state = 'pending';
CREATE INDEX runs_put_off ON aura.runs (wake_at) WHERE queue IS NOT NULL AND wake_at IS NOT NULL;
CREATE INDEX runs_under_way ON aura.runs (queue, key, owner)
    WHERE queue IS NOT NULL AND owner IS NOT NULL;
CREATE INDEX runs_of_queue ON aura.runs (queue, started_at) WHERE queue IS NOT NULL;
CREATE UNIQUE INDEX runs_dedup ON aura.runs (workflow, dedup)
    WHERE dedup IS NOT NULL AND state IN ('pending', 'running', 'waiting', 'parked')
      AND (started_at IS NULL OR NOT debounced);
-- Ended runs by age. A search by id and state cannot stray into it: it names no finished_at.
CREATE INDEX runs_finished ON aura.runs (finished_at)
    WHERE finished_at IS NOT NULL AND state IN ('completed', 'failed', 'cancelled');

-- No foreign key to runs: every write locks its run and compares the epoch already.
CREATE TABLE aura.journal (
    run_id      text COLLATE "C" NOT NULL,
    seq         integer NOT NULL,
    key         text NOT NULL,
    kind        text NOT NULL,
    fingerprint text NOT NULL,
    input       bytea,
    output      bytea,
    error       bytea,
    attempt     integer NOT NULL,
    started_at  double precision NOT NULL,
    recorded_at double precision NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
ALTER TABLE aura.journal
    ALTER input SET STORAGE EXTERNAL,
    ALTER output SET STORAGE EXTERNAL,
    ALTER error SET STORAGE EXTERNAL;

-- What a run shows to those outside, found without reading its steps.
CREATE INDEX journal_shown ON aura.journal (run_id, kind, seq)
    WHERE kind IN ('state', 'stream', 'answer');

CREATE TABLE aura.signals (
    run_id   text COLLATE "C" NOT NULL,
    seq      integer NOT NULL,
    name     text NOT NULL,
    id       text COLLATE "C" NOT NULL,
    priority text NOT NULL CHECK (priority IN ('critical', 'high', 'normal', 'low')),
    deadline double precision,
    payload  bytea NOT NULL,
    sent_at  double precision NOT NULL,
    late     boolean NOT NULL,
    taken    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (run_id, seq),
    UNIQUE (run_id, id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE aura.signals ALTER payload SET STORAGE EXTERNAL;

CREATE TABLE aura.queues (
    name       text COLLATE "C" PRIMARY KEY,
    epoch      integer NOT NULL,
    limits     text NOT NULL,
    exclusive  boolean NOT NULL,
    rate       integer,
    per        double precision,
    updated_at double precision NOT NULL
);

CREATE TABLE aura.documents (
    kind       text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    epoch      integer NOT NULL,
    body       bytea NOT NULL,
    updated_at double precision NOT NULL,
    PRIMARY KEY (kind, name)
) WITH (fillfactor = 70);
ALTER TABLE aura.documents ALTER body SET STORAGE EXTERNAL;

CREATE TABLE aura.feeds (
    feed    text COLLATE "C" NOT NULL,
    seq     bigint NOT NULL,
    at      double precision NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (feed, seq)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE aura.feeds ALTER payload SET STORAGE EXTERNAL;

CREATE TABLE aura.workers (
    id          text COLLATE "C" PRIMARY KEY,
    lease_until double precision NOT NULL,
    started_at  double precision NOT NULL,
    schema      integer NOT NULL,
    info        bytea NOT NULL
) WITH (fillfactor = 50);

-- Events. The row of a topic is locked by whoever adds to it, until the commit is visible: that
-- keeps seq gapless and in commit order.
CREATE TABLE aura.topics (
    topic      text COLLATE "C" PRIMARY KEY,
    tail       bigint NOT NULL DEFAULT 0,
    events     bigint NOT NULL DEFAULT 0,
    bytes      bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

CREATE TABLE aura.events (
    topic   text COLLATE "C" NOT NULL,
    seq     bigint NOT NULL,
    id      text COLLATE "C" NOT NULL,
    key     text,
    part    smallint NOT NULL,
    payload bytea NOT NULL,
    at      double precision NOT NULL,
    PRIMARY KEY (topic, seq),
    UNIQUE (topic, id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE aura.events ALTER payload SET STORAGE EXTERNAL;

CREATE TABLE aura.consumers (
    topic       text COLLATE "C" NOT NULL,
    group_name  text COLLATE "C" NOT NULL,
    generation  integer NOT NULL DEFAULT 0,
    replayed_to bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, group_name)
);

CREATE TABLE aura.members (
    topic      text COLLATE "C" NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    worker     text COLLATE "C" NOT NULL,
    PRIMARY KEY (topic, group_name, worker)
);

CREATE TABLE aura.partitions (
    topic      text COLLATE "C" NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    part       smallint NOT NULL,
    owner      text COLLATE "C",
    epoch      integer NOT NULL DEFAULT 0,
    cursor     bigint NOT NULL,
    takeovers  integer NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, group_name, part)
) WITH (fillfactor = 10);

CREATE TABLE aura.deliveries (
    topic      text COLLATE "C" NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL,
    part       smallint NOT NULL,
    key        text,
    state      text NOT NULL CHECK (state IN ('waiting', 'dead', 'requeued', 'dropped')),
    attempts   integer NOT NULL,
    due_at     double precision,
    history    bytea,
    version    text,
    changed_at double precision NOT NULL,
    PRIMARY KEY (topic, group_name, seq)
) WITH (fillfactor = 70);
ALTER TABLE aura.deliveries ALTER history SET STORAGE EXTERNAL;
CREATE INDEX deliveries_of_event ON aura.deliveries (topic, seq);
CREATE INDEX deliveries_dead ON aura.deliveries (changed_at) WHERE state = 'dead';
CREATE INDEX deliveries_told ON aura.deliveries (topic, group_name)
    WHERE state IN ('requeued', 'dropped');

-- The database's time in epoch seconds.
CREATE FUNCTION aura.moment() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::double precision $$;

-- Notifies other processes of topics, in payloads of at most 8,000 bytes (PostgreSQL's limit).
CREATE FUNCTION aura.announce(sender text, topics text[]) RETURNS void LANGUAGE sql VOLATILE AS
$$
    SELECT pg_notify('aura', sender || E'\n' || string_agg(topic, E'\n'))
    FROM (
        SELECT topic, (sum(octet_length(topic) + 1) OVER (ORDER BY topic)) / 3900 AS piece
        FROM (SELECT DISTINCT unnest(topics) AS topic) AS each
        WHERE octet_length(topic) < 3900
    ) AS cut
    GROUP BY piece
$$;

-- The operations of a batch, as clients send them: one row each. A row is one value to a driver,
-- where a column of each field would be many arrays.
CREATE TYPE aura.op_heartbeat AS (worker text, lease double precision, info bytea);
CREATE TYPE aura.op_start AS (
    id text, workflow text, version text, input bytea, fingerprint text, origin text, owner text,
    parent text, parent_epoch integer, detached boolean, deadline double precision);
CREATE TYPE aura.op_placed AS (
    run aura.op_start, queue text, key text, priority integer, worth double precision,
    delay double precision, at double precision, dedup text, debounce double precision,
    debounce_limit double precision);
-- Which run a placed start stands for.
CREATE TYPE aura.stood AS (id text, created boolean);
CREATE TYPE aura.op_append AS (
    run_id text, seq integer, key text, kind text, fingerprint text, input bytea, output bytea,
    error bytea, attempt integer, started_at double precision, recorded_at double precision,
    epoch integer);
CREATE TYPE aura.op_settle AS (
    id text, epoch integer, state text, output bytea, error bytea, wake_at double precision,
    topic text, seen integer, frees boolean);
CREATE TYPE aura.op_continue AS (
    id text, epoch integer, version text, input bytea, base integer, seen integer,
    unread integer[]);
CREATE TYPE aura.op_cancel AS (id text, key text);
CREATE TYPE aura.op_signal AS (
    run_id text, name text, id text, priority text, deadline double precision, payload bytea,
    late boolean, topic text);
-- What became of a signal. Without a state there is no such run, without a seq it has ended.
CREATE TYPE aura.sent AS (seq integer, duplicate boolean, late boolean, state text);
CREATE TYPE aura.op_document AS (kind text, name text, body bytea, expected integer, topic text);
CREATE TYPE aura.op_feed AS (feed text, payload bytea);
CREATE TYPE aura.op_emit AS (
    topic text, id text, key text, part smallint, payload bytea, entry integer);
CREATE TYPE aura.op_progress AS (
    topic text, group_name text, part smallint, epoch integer, cursor bigint, release boolean);
CREATE TYPE aura.op_change AS (
    op integer, seq bigint, key text, state text, attempts integer, due_at double precision,
    history bytea, version text);

CREATE FUNCTION aura.heartbeat(ops aura.op_heartbeat[], schema_number integer) RETURNS void
LANGUAGE plpgsql AS
$$
BEGIN
    INSERT INTO aura.workers AS w (id, lease_until, started_at, schema, info)
    SELECT DISTINCT ON (beat.worker)
        beat.worker, aura.moment() + greatest(beat.lease, 0), aura.moment(), schema_number,
        beat.info
    FROM unnest(ops) WITH ORDINALITY AS beat (worker, lease, info, n)
    ORDER BY beat.worker, beat.n DESC
    ON CONFLICT (id) DO UPDATE SET
        lease_until = excluded.lease_until, schema = excluded.schema, info = excluded.info;
END
$$;

-- Creates the runs whose id is free; answers with the ids that were created. Runs of one batch
-- are a microsecond apart, so that their order stays. A child is created only for a parent that is
-- running at the epoch that its owner knows; as for entries, that is read under the row's lock.
CREATE FUNCTION aura.start(moment double precision, ops aura.op_start[]) RETURNS text[]
LANGUAGE plpgsql AS
$$
DECLARE
    created text[];
    total integer := cardinality(ops);
BEGIN
    WITH fresh AS (
        INSERT INTO aura.runs (id, workflow, version, state, epoch, owner, origin, input,
                               fingerprint, created_at, started_at, parent, detached, deadline)
        SELECT s.id, s.workflow, s.version,
               CASE WHEN s.owner IS NULL THEN 'pending' ELSE 'running' END,
               CASE WHEN s.owner IS NULL THEN 0 ELSE 1 END,
               s.owner, s.origin, s.input, s.fingerprint,
               moment - '1e-6'::double precision * (total - s.n),
               CASE WHEN s.owner IS NOT NULL
                    THEN moment - '1e-6'::double precision * (total - s.n) END,
               s.parent, s.detached, s.deadline
        FROM unnest(ops) WITH ORDINALITY
             AS s (id, workflow, version, input, fingerprint, origin, owner, parent, parent_epoch,
                   detached, deadline, n)
        LEFT JOIN LATERAL (SELECT r.epoch, r.state FROM aura.runs AS r WHERE r.id = s.parent
                           OFFSET 0 FOR KEY SHARE) AS held ON true
        WHERE s.parent IS NULL OR (held.epoch = s.parent_epoch AND held.state = 'running')
        ORDER BY s.id COLLATE "C", s.n
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    SELECT coalesce(array_agg(id), '{}') INTO created FROM fresh;
    RETURN created;
END
$$;

-- Creates runs that wait in a queue or for their time, or finds those that they stand for. In order
-- of their ids, so that two processes cannot wait for each other.
CREATE FUNCTION aura.start_placed(moment double precision, ops aura.op_placed[])
RETURNS aura.stood[] LANGUAGE plpgsql AS
$$
DECLARE
    one record;
    born double precision;
    due double precision;
    found_id text;
    total integer := cardinality(ops);
    answers aura.stood[] := array_fill(NULL::aura.stood, ARRAY[total]);
BEGIN
    FOR one IN
        SELECT (p.run).*, p.queue, p.key, p.priority, p.delay, p.at, p.dedup, p.debounce,
               p.debounce_limit, p.worth, p.ordinality::integer AS n
        FROM unnest(ops) WITH ORDINALITY AS p
        ORDER BY (p.run).id COLLATE "C", p.ordinality
    LOOP
        IF one.parent IS NOT NULL THEN
            PERFORM FROM aura.runs AS p
            WHERE p.id = one.parent AND p.epoch = one.parent_epoch AND p.state = 'running'
            FOR KEY SHARE;
            CONTINUE WHEN NOT FOUND;
        END IF;
        born := moment - '1e-6'::double precision * (total - one.n);
        due := coalesce(one.at, born + coalesce(one.debounce, one.delay, 0));
        LOOP
            IF one.debounce IS NOT NULL THEN
                UPDATE aura.runs AS r SET
                    version = one.version,
                    input = one.input,
                    fingerprint = one.fingerprint,
                    state = 'waiting',
                    wake_at = least(due, r.created_at + one.debounce_limit),
                    queue = one.queue,
                    key = one.key,
                    priority = one.priority,
                    rank = least(due, r.created_at + one.debounce_limit) - one.worth
                WHERE r.workflow = one.workflow AND r.dedup = one.dedup AND r.debounced
                  AND r.started_at IS NULL AND r.state IN ('pending', 'waiting')
                RETURNING r.id INTO found_id;
                IF FOUND THEN
                    answers[one.n] := ROW(found_id, false)::aura.stood;
                    EXIT;
                END IF;
            END IF;
            INSERT INTO aura.runs (id, workflow, version, state, epoch, origin, input, fingerprint,
                                   created_at, wake_at, queue, key, priority, rank, dedup, debounced,
                                   parent, detached, deadline)
            VALUES (one.id, one.workflow, one.version,
                    CASE WHEN due > moment THEN 'waiting' ELSE 'pending' END, 0, one.origin,
                    one.input, one.fingerprint, born, CASE WHEN due > moment THEN due END,
                    one.queue, one.key, one.priority, due - one.worth, one.dedup,
                    one.debounce IS NOT NULL, one.parent, one.detached,
                    one.deadline)
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                answers[one.n] := ROW(one.id, true)::aura.stood;
                EXIT;
            END IF;
            SELECT r.id INTO found_id FROM aura.runs AS r WHERE r.id = one.id;
            IF NOT FOUND THEN
                SELECT r.id INTO found_id FROM aura.runs AS r
                WHERE r.workflow = one.workflow AND r.dedup = one.dedup
                  AND r.state IN ('pending', 'running', 'waiting', 'parked')
                  AND (r.started_at IS NULL OR NOT r.debounced);
            END IF;
            IF FOUND THEN
                answers[one.n] := ROW(found_id, false)::aura.stood;
                EXIT;
            END IF;
            -- The run that was in the way has ended meanwhile: once more.
        END LOOP;
    END LOOP;
    RETURN answers;
END
$$;

-- Writes entries whose epoch is their run's; answers with how many. Sharing the run's row keeps
-- claims away until the commit; whoever claimed it just before has changed the epoch, which is
-- read under the lock.
CREATE FUNCTION aura.append(ops aura.op_append[]) RETURNS integer LANGUAGE plpgsql AS
$$
DECLARE
    landed integer;
BEGIN
    INSERT INTO aura.journal (run_id, seq, key, kind, fingerprint, input, output, error, attempt,
                              started_at, recorded_at)
    SELECT a.run_id, a.seq, a.key, a.kind, a.fingerprint, a.input, a.output, a.error, a.attempt,
           a.started_at, a.recorded_at
    FROM unnest(ops) AS a,
         LATERAL (SELECT r.epoch, r.state FROM aura.runs AS r WHERE r.id = a.run_id
                  OFFSET 0 FOR KEY SHARE) AS held
    WHERE held.epoch = a.epoch AND held.state = 'running'
    ON CONFLICT (run_id, seq) DO NOTHING;
    GET DIAGNOSTICS landed = ROW_COUNT;
    RETURN landed;
END
$$;

-- Which of the entries (numbered from 1) neither belong to their run's current epoch nor are
-- there from an earlier try.
CREATE FUNCTION aura.stale(ops aura.op_append[]) RETURNS integer[] LANGUAGE sql VOLATILE AS
$$
    SELECT coalesce(array_agg(a.n::integer ORDER BY a.n), '{}')
    FROM (SELECT run_id, seq, key, kind, epoch, ordinality AS n
          FROM unnest(ops) WITH ORDINALITY) AS a
    WHERE NOT EXISTS (SELECT FROM aura.runs AS r WHERE r.id = a.run_id AND r.epoch = a.epoch)
       OR NOT EXISTS (SELECT FROM aura.journal AS j
                      WHERE j.run_id = a.run_id AND j.seq = a.seq
                        AND j.key = a.key AND j.kind = a.kind)
$$;

-- Writes entries; answers with the numbers (from 1) of the refused ones. In one transaction, so that
-- a claim cannot come between the two and make an entry that was written look refused.
CREATE FUNCTION aura.append_or_tell(ops aura.op_append[]) RETURNS integer[] LANGUAGE plpgsql AS
$$
BEGIN
    RETURN CASE WHEN aura.append(ops) < cardinality(ops) THEN aura.stale(ops) ELSE '{}' END;
END
$$;

-- Takes runs out of `running`; answers with the numbers (from 1) of the refused ones. A run that is
-- asked to stop, or has a signal that its owner has not seen, does not go to sleep.
CREATE FUNCTION aura.settle(moment double precision, ops aura.op_settle[]) RETURNS integer[]
LANGUAGE plpgsql AS
$$
DECLARE
    settled integer;
    refused integer[] := '{}';
BEGIN
    UPDATE aura.runs AS r SET
        state = CASE WHEN z.state = 'waiting' AND (r.cancel_requested OR r.signals > z.seen)
                     THEN 'pending' ELSE z.state END,
        output = z.output,
        error = z.error,
        owner = NULL,
        wake_at = CASE WHEN z.state = 'waiting'
                        AND NOT (r.cancel_requested OR r.signals > coalesce(z.seen, r.signals))
                       THEN z.wake_at END,
        finished_at = CASE WHEN z.state NOT IN ('pending', 'waiting') THEN moment END
    FROM unnest(ops) AS z
    WHERE r.id = z.id AND r.epoch = z.epoch AND r.state = 'running';
    GET DIAGNOSTICS settled = ROW_COUNT;
    IF settled < cardinality(ops) THEN
        -- Only a settlement of the same epoch can have made the run what it is now, be it that a
        -- signal or a cancel request has woken it since.
        SELECT coalesce(array_agg(z.n::integer ORDER BY z.n), '{}') INTO refused
        FROM (SELECT id, epoch, state, ordinality AS n FROM unnest(ops) WITH ORDINALITY) AS z
        WHERE NOT EXISTS (
            SELECT FROM aura.runs AS r
            WHERE r.id = z.id AND r.epoch = z.epoch
              AND (r.state = z.state OR (r.state = 'pending' AND z.state = 'waiting')));
    END IF;
    RETURN refused;
END
$$;

-- Asks runs to stop; answers with the topics that follow. `key` is the id as topics write it.
CREATE FUNCTION aura.request_cancel(moment double precision, ops aura.op_cancel[])
RETURNS text[] LANGUAGE plpgsql AS
$$
DECLARE
    heard text[];
BEGIN
    WITH asked AS (
        UPDATE aura.runs AS r SET
            cancel_requested = true,
            state = CASE
                WHEN r.state = 'parked' THEN 'cancelled'
                WHEN r.state <> 'running' AND r.started_at IS NULL THEN 'cancelled'
                WHEN r.state = 'waiting' THEN 'pending'
                ELSE r.state END,
            wake_at = NULL,
            finished_at = CASE
                WHEN r.state = 'parked' THEN moment
                WHEN r.state <> 'running' AND r.started_at IS NULL THEN moment END
        FROM (SELECT DISTINCT id, key FROM unnest(ops)) AS c
        WHERE r.id = c.id AND r.state NOT IN ('completed', 'failed', 'cancelled', 'moved')
        RETURNING c.key, r.state
    )
    SELECT coalesce(array_agg(said.topic), '{}') INTO heard
    FROM asked
    CROSS JOIN LATERAL (
        VALUES ('cancel:' || asked.key),
               (CASE asked.state WHEN 'cancelled' THEN 'run:' || asked.key
                                 WHEN 'pending' THEN 'ready' END)
    ) AS said (topic)
    WHERE said.topic IS NOT NULL;
    RETURN heard;
END
$$;

-- Stores signals one after the other, each id once per run, and wakes runs that wait. The rows of
-- the runs are locked by now.
CREATE FUNCTION aura.send_signals(
    moment double precision, ops aura.op_signal[], OUT answers aura.sent[], OUT heard text[]
) LANGUAGE plpgsql AS
$$
DECLARE
    one record;
    was record;
    old record;
BEGIN
    answers := array_fill(NULL::aura.sent, ARRAY[cardinality(ops)]);
    heard := '{}';
    FOR one IN
        SELECT s.*, s.ordinality::integer AS n FROM unnest(ops) WITH ORDINALITY AS s
        ORDER BY s.run_id COLLATE "C", s.ordinality
    LOOP
        SELECT r.state, r.signals, r.wake_at, r.started_at IS NULL AS fresh INTO was FROM aura.runs AS r WHERE r.id = one.run_id
        FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            answers[one.n] := ROW(NULL, false, false, NULL)::aura.sent;
            CONTINUE;
        END IF;
        SELECT s.seq, s.late INTO old FROM aura.signals AS s
        WHERE s.run_id = one.run_id AND s.id = one.id;
        IF FOUND THEN
            answers[one.n] := ROW(old.seq, true, old.late, was.state)::aura.sent;
            CONTINUE;
        END IF;
        IF was.state IN ('completed', 'failed', 'cancelled', 'moved') THEN
            answers[one.n] := ROW(NULL, false, false, was.state)::aura.sent;
            CONTINUE;
        END IF;
        IF was.state = 'waiting' AND NOT was.fresh THEN  -- a new run waits for its time
            was.state := 'pending';
            was.wake_at := NULL;
        END IF;
        UPDATE aura.runs AS r SET
            signals = was.signals + 1, state = was.state, wake_at = was.wake_at
        WHERE r.id = one.run_id;
        one.late := one.late OR coalesce(one.deadline < moment, false);
        INSERT INTO aura.signals (run_id, seq, name, id, priority, deadline, payload, sent_at, late)
        VALUES (one.run_id, was.signals + 1, one.name, one.id, one.priority, one.deadline,
                one.payload, moment, one.late);
        answers[one.n] := ROW(was.signals + 1, false, one.late, was.state)::aura.sent;
        heard := heard || one.topic;
        IF was.state = 'pending' THEN
            heard := heard || 'ready'::text;
        END IF;
    END LOOP;
END
$$;

-- An id as topics write it.
CREATE FUNCTION aura.topic_key(id text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT replace(replace(id, '%', '%25'), E'\n', '%0A') $$;

-- Lets runs begin anew, with an empty journal; answers with the numbers (from 1) of the refused
-- ones.
CREATE FUNCTION aura.continue(ops aura.op_continue[]) RETURNS integer[] LANGUAGE plpgsql AS
$$
DECLARE
    one record;
    refused integer[] := '{}';
BEGIN
    FOR one IN SELECT o.* FROM unnest(ops) WITH ORDINALITY
                   AS o (id, epoch, version, input, base, seen, unread, n) ORDER BY o.id
    LOOP
        UPDATE aura.runs AS r SET
            state = 'pending', owner = NULL, recoveries = 0, error = NULL, version = one.version,
            input = one.input, execution = r.execution + 1, base = one.base,
            drained = coalesce((SELECT min(u) - 1 FROM unnest(one.unread) AS u), one.seen)
        WHERE r.id = one.id AND r.epoch = one.epoch AND r.state = 'running';
        IF FOUND THEN
            UPDATE aura.signals AS s SET taken = true FROM aura.runs AS r
            WHERE r.id = one.id AND s.run_id = one.id AND s.seq > r.drained AND s.seq <= one.seen
              AND s.seq <> ALL (one.unread);
        ELSIF NOT EXISTS (SELECT FROM aura.runs AS r WHERE r.id = one.id AND r.epoch = one.epoch
                            AND r.base = one.base AND r.state = 'pending') THEN
            refused := refused || one.n::integer;
        END IF;
    END LOOP;
    RETURN refused;
END
$$;

-- What follows when runs have ended: parents are told, by a signal that wakes them, and children
-- are asked to stop. Answers with the topics that follow.
CREATE FUNCTION aura.after_the_end(moment double precision, ended text[]) RETURNS text[]
LANGUAGE plpgsql AS
$$
DECLARE
    heard text[] := '{}';
    more text[];
    children aura.op_cancel[];
BEGIN
    LOOP
        WITH told AS (
            SELECT c.id, c.parent, row_number() OVER (PARTITION BY c.parent ORDER BY c.id) AS n,
                   count(*) OVER (PARTITION BY c.parent) AS total
            FROM aura.runs AS c
            WHERE c.id = ANY (ended) AND c.parent IS NOT NULL AND NOT c.detached
              AND c.state IN ('completed', 'failed', 'cancelled')
              AND NOT EXISTS (SELECT FROM aura.signals AS s
                              WHERE s.run_id = c.parent AND s.id = '~child:' || c.id)
        ),
        parents AS (
            UPDATE aura.runs AS p SET
                signals = p.signals + t.total,
                state = CASE p.state WHEN 'waiting' THEN 'pending' ELSE p.state END,
                wake_at = NULL
            FROM (SELECT DISTINCT parent, total FROM told) AS t
            WHERE p.id = t.parent AND p.state IN ('pending', 'running', 'waiting', 'parked')
            RETURNING p.id, p.signals - t.total AS before, p.state
        ),
        written AS (
            INSERT INTO aura.signals (run_id, seq, name, id, priority, payload, sent_at, late)
            SELECT p.id, p.before + t.n, '~child', '~child:' || t.id, 'normal', 'null'::bytea,
                   moment, false
            FROM told AS t JOIN parents AS p ON p.id = t.parent
        )
        SELECT array_agg('signal:' || aura.topic_key(p.id)) ||
               array_agg('ready'::text) FILTER (WHERE p.state = 'pending')
        INTO more FROM parents AS p;
        heard := heard || coalesce(more, '{}');
        SELECT array_agg(ROW(c.id, aura.topic_key(c.id))::aura.op_cancel ORDER BY c.id)
        INTO children
        FROM aura.runs AS p JOIN aura.runs AS c ON c.parent = p.id
        WHERE p.id = ANY (ended) AND p.state IN ('completed', 'failed', 'cancelled')
          AND c.state IN ('pending', 'running', 'waiting', 'parked')
          AND NOT c.detached AND NOT c.cancel_requested;
        EXIT WHEN children IS NULL;
        heard := heard || aura.request_cancel(moment, children);
        ended := ARRAY(SELECT r.id FROM unnest(children) AS c JOIN aura.runs AS r ON r.id = c.id
                       WHERE r.state = 'cancelled');
        EXIT WHEN cardinality(ended) = 0;
    END LOOP;
    RETURN heard;
END
$$;

-- Replaces documents one after the other; answers with the new epochs, NULL where `expected` does
-- not hold. In order of their names, so that two processes cannot wait for each other.
CREATE FUNCTION aura.put_documents(moment double precision, ops aura.op_document[])
RETURNS integer[] LANGUAGE plpgsql AS
$$
DECLARE
    put record;
    fresh integer;
    epochs integer[] := array_fill(NULL::integer, ARRAY[cardinality(ops)]);
BEGIN
    FOR put IN
        SELECT d.kind, d.name, d.body, d.expected, d.ordinality AS n
        FROM unnest(ops) WITH ORDINALITY AS d
        ORDER BY d.kind COLLATE "C", d.name COLLATE "C", d.ordinality
    LOOP
        fresh := NULL;
        IF put.expected > 0 THEN
            UPDATE aura.documents AS old
            SET epoch = old.epoch + 1, body = put.body, updated_at = moment
            WHERE old.kind = put.kind AND old.name = put.name AND old.epoch = put.expected
            RETURNING old.epoch INTO fresh;
        ELSE
            INSERT INTO aura.documents AS old (kind, name, epoch, body, updated_at)
            VALUES (put.kind, put.name, 1, put.body, moment)
            ON CONFLICT (kind, name) DO UPDATE
            SET epoch = old.epoch + 1, body = excluded.body, updated_at = excluded.updated_at
            WHERE put.expected IS NULL
            RETURNING old.epoch INTO fresh;
        END IF;
        epochs[put.n] := fresh;
    END LOOP;
    RETURN epochs;
END
$$;

-- Appends to feeds; answers with the last seq of each of `names`. One lock per feed, held until
-- the commit is visible, keeps seq gapless and in commit order.
CREATE FUNCTION aura.append_feeds(moment double precision, names text[], ops aura.op_feed[])
RETURNS bigint[] LANGUAGE plpgsql AS
$$
DECLARE
    door bigint;
    tails bigint[];
BEGIN
    FOR door IN
        SELECT DISTINCT hashtextextended('aura.feed.' || name, 0) AS number
        FROM unnest(names) AS name ORDER BY number
    LOOP
        PERFORM pg_advisory_xact_lock(door);
    END LOOP;
    INSERT INTO aura.feeds (feed, seq, at, payload)
    SELECT p.feed, tail.seq + row_number() OVER (PARTITION BY p.feed ORDER BY p.n), moment,
           p.payload
    FROM unnest(ops) WITH ORDINALITY AS p (feed, payload, n)
    JOIN (SELECT name, (SELECT coalesce(max(f.seq), 0) FROM aura.feeds AS f
                        WHERE f.feed = name) AS seq
          FROM unnest(names) AS name) AS tail ON tail.name = p.feed;
    SELECT array_agg((SELECT coalesce(max(f.seq), 0) FROM aura.feeds AS f WHERE f.feed = name)
                     ORDER BY n)
    INTO tails FROM unnest(names) WITH ORDINALITY AS asked (name, n);
    RETURN tails;
END
$$;

-- One batch of operations in one transaction and one round trip: nothing stays locked while a
-- client is paused. Every array may be empty; the numbers in the answer count from 1 within the
-- kind of operation.
--
-- Locks are taken in one order by everybody: workers, new runs by id, journals (sharing the run's
-- row, which a claim locks alone and never waits for), runs by id, documents by name, feeds by
-- number.
CREATE FUNCTION aura.commit(
    sender text, schema_number integer, heartbeats aura.op_heartbeat[], starts aura.op_start[],
    appends aura.op_append[], settles aura.op_settle[], cancels aura.op_cancel[],
    sends aura.op_signal[], documents aura.op_document[], feed_names text[], feed_topics text[],
    feeds aura.op_feed[], notices text[],
    emits aura.op_emit[], moves aura.op_progress[], changes aura.op_change[],
    placed aura.op_placed[], continues aura.op_continue[],
    OUT moment double precision, OUT created text[], OUT stale integer[], OUT refused integer[],
    OUT sent aura.sent[], OUT epochs integer[], OUT tails bigint[],
    OUT stood aura.stood[], OUT behind integer[],
    OUT stayed integer[], OUT after text[]
) LANGUAGE plpgsql AS
$$
DECLARE
    heard text[] := notices;
    woken text[];
    ended text[];
BEGIN
    moment := aura.moment();
    IF cardinality(heartbeats) > 0 THEN
        PERFORM aura.heartbeat(heartbeats, schema_number);
    END IF;
    IF cardinality(starts) > 0 THEN
        created := aura.start(moment, starts);
        IF EXISTS (SELECT FROM unnest(starts) AS s WHERE s.owner IS NULL AND s.id = ANY (created))
        THEN
            heard := heard || 'ready'::text;
        END IF;
    END IF;
    IF cardinality(placed) > 0 THEN
        stood := aura.start_placed(moment, placed);
        IF EXISTS (SELECT FROM unnest(stood) AS s WHERE s.created) THEN
            heard := heard || 'ready'::text;
        END IF;
    END IF;
    IF cardinality(appends) > 0 AND aura.append(appends) < cardinality(appends) THEN
        stale := aura.stale(appends);
    END IF;
    IF cardinality(settles) + cardinality(cancels) > 0 THEN
        ended := ARRAY(SELECT z.id FROM unnest(settles) AS z
                       WHERE z.state IN ('completed', 'failed', 'cancelled')
                       UNION ALL SELECT c.id FROM unnest(cancels) AS c);
    END IF;
    IF cardinality(settles) + cardinality(continues) + cardinality(cancels) + cardinality(sends) > 0
    THEN
        PERFORM FROM aura.runs AS r
        WHERE r.id IN (SELECT z.id FROM unnest(settles) AS z
                       UNION SELECT c.id FROM unnest(cancels) AS c
                       UNION SELECT s.run_id FROM unnest(sends) AS s
                       UNION SELECT c.id FROM unnest(continues) AS c
                       UNION SELECT c.parent FROM aura.runs AS c
                             WHERE c.id = ANY (ended) AND c.parent IS NOT NULL AND NOT c.detached
                       UNION SELECT c.id FROM aura.runs AS c
                             WHERE c.parent = ANY (ended) AND NOT c.detached
                               AND c.state IN ('pending', 'running', 'waiting', 'parked'))
        ORDER BY r.id FOR NO KEY UPDATE OF r;
    END IF;
    IF cardinality(settles) > 0 THEN
        refused := aura.settle(moment, settles);
        heard := heard || ARRAY(
            SELECT z.topic FROM unnest(settles) WITH ORDINALITY AS z
            WHERE z.topic IS NOT NULL AND z.ordinality <> ALL (refused));
        IF EXISTS (SELECT FROM unnest(settles) AS z WHERE z.frees) THEN
            heard := heard || 'ready'::text;
        END IF;
    END IF;
    IF cardinality(continues) > 0 THEN
        stayed := aura.continue(continues);
        heard := heard || 'ready'::text;
    END IF;
    IF cardinality(cancels) > 0 THEN
        heard := heard || aura.request_cancel(moment, cancels);
    END IF;
    IF cardinality(ended) > 0 THEN
        after := aura.after_the_end(moment, ended);
        heard := heard || after;
    END IF;
    IF cardinality(sends) > 0 THEN
        SELECT s.answers, s.heard INTO sent, woken FROM aura.send_signals(moment, sends) AS s;
        heard := heard || woken;
    END IF;
    IF cardinality(documents) > 0 THEN
        epochs := aura.put_documents(moment, documents);
        heard := heard || ARRAY(
            SELECT d.topic FROM unnest(documents) WITH ORDINALITY AS d
            WHERE epochs[d.ordinality] IS NOT NULL);
    END IF;
    IF cardinality(feed_names) > 0 THEN
        tails := aura.append_feeds(moment, feed_names, feeds);
        heard := heard || feed_topics;
    END IF;
    IF cardinality(emits) > 0 THEN
        heard := heard || aura.emit(moment, emits, coalesce(stale, '{}'));
    END IF;
    IF cardinality(moves) > 0 THEN
        behind := aura.progress(moment, moves, changes);
        IF EXISTS (SELECT FROM unnest(moves) AS m WHERE m.release) THEN
            heard := heard || 'groups'::text;
        END IF;
    END IF;
    IF cardinality(heard) > 0 THEN
        PERFORM aura.announce(sender, heard);
    END IF;
END
$$;

-- The feeds whose items may be deleted: those that begin with one of `prefixes`, without `keep`.
CREATE FUNCTION aura.aging_feeds(prefixes text[], keep text[]) RETURNS SETOF text
LANGUAGE sql STABLE AS
$$
    WITH RECURSIVE names (feed) AS (
        SELECT (SELECT min(f.feed) FROM aura.feeds AS f)
        UNION ALL
        SELECT (SELECT min(f.feed) FROM aura.feeds AS f WHERE f.feed > names.feed)
        FROM names WHERE names.feed IS NOT NULL
    )
    SELECT names.feed FROM names
    WHERE names.feed IS NOT NULL AND names.feed <> ALL (keep)
      AND EXISTS (SELECT FROM unnest(prefixes) AS p (prefix) WHERE starts_with(names.feed, p.prefix))
$$;

-- Whether a run that has ended is nobody's child any more: its parent may still ask for its result.
CREATE FUNCTION aura.is_free(of_run text, detached boolean) RETURNS boolean LANGUAGE sql STABLE AS
$$
    SELECT of_run IS NULL OR detached OR NOT EXISTS (
        SELECT FROM aura.runs AS p
        WHERE p.id = of_run AND p.state IN ('pending', 'running', 'waiting', 'parked'))
$$;

-- Deletes at most `most` rows of what is over for `age` seconds. A run goes last, after its journal
-- (from its end, so that what is left is a journal too) and its signals. One process sweeps at a
-- time, and no run waits for it or the other way round: those that someone has locked are passed by.
CREATE FUNCTION aura.sweep(
    age double precision, prefixes text[], keep text[], most integer, dead double precision,
    OUT runs integer, OUT entries integer, OUT signals integer, OUT items integer,
    OUT workers integer
) LANGUAGE plpgsql AS
$$
DECLARE
    moment double precision := aura.moment();
    room integer := most;
    done integer;
    one record;
BEGIN
    runs := 0; entries := 0; signals := 0; items := 0; workers := 0;
    PERFORM pg_advisory_xact_lock(hashtextextended('aura.sweep', 0));
    FOR one IN
        SELECT r.id FROM aura.runs AS r
        WHERE r.finished_at IS NOT NULL AND r.state IN ('completed', 'failed', 'cancelled')
          AND r.finished_at < moment - age AND aura.is_free(r.parent, r.detached)
          AND NOT EXISTS (SELECT FROM aura.queues AS q  -- whose rate still counts it
                          WHERE q.name = r.queue AND r.started_at > moment - q.per)
        ORDER BY r.finished_at LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM aura.journal AS j WHERE j.run_id = one.id AND j.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.journal AS e WHERE e.run_id = one.id
            ORDER BY e.seq DESC LIMIT room));
        GET DIAGNOSTICS done = ROW_COUNT;
        entries := entries + done;
        room := room - done;
        DELETE FROM aura.signals AS s WHERE s.run_id = one.id AND s.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.signals AS e WHERE e.run_id = one.id
            ORDER BY e.seq DESC LIMIT room));
        GET DIAGNOSTICS done = ROW_COUNT;
        signals := signals + done;
        room := room - done;
        EXIT WHEN room <= 0;
        DELETE FROM aura.runs AS r WHERE r.id = one.id;
        runs := runs + 1;
        room := room - 1;
    END LOOP;
    FOR one IN
        SELECT r.id, r.base, r.drained FROM aura.runs AS r
        WHERE r.base > 0 AND r.state IN ('pending', 'running', 'waiting', 'parked')
          AND (EXISTS (SELECT FROM aura.journal AS j WHERE j.run_id = r.id AND j.seq <= r.base
                       AND j.recorded_at < moment - age AND j.kind NOT IN ('state', 'stream'))
               OR EXISTS (SELECT FROM aura.signals AS s
                          WHERE s.run_id = r.id AND s.sent_at < moment - age
                            AND (s.taken OR s.seq <= r.drained)))
        LIMIT greatest(room, 0)
    LOOP
        DELETE FROM aura.journal AS j WHERE j.run_id = one.id AND j.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.journal AS e
            WHERE e.run_id = one.id AND e.seq <= one.base AND e.recorded_at < moment - age
              AND e.kind NOT IN ('state', 'stream')
            ORDER BY e.seq LIMIT greatest(room, 0)));
        GET DIAGNOSTICS done = ROW_COUNT;
        entries := entries + done;
        room := room - done;
        DELETE FROM aura.signals AS s WHERE s.run_id = one.id AND s.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.signals AS e
            WHERE e.run_id = one.id AND e.sent_at < moment - age
              AND (e.taken OR e.seq <= one.drained)
            ORDER BY e.seq LIMIT greatest(room, 0)));
        GET DIAGNOSTICS done = ROW_COUNT;
        signals := signals + done;
        room := room - done;
    END LOOP;
    FOR one IN SELECT f.feed FROM aura.aging_feeds(prefixes, keep) AS f (feed) LOOP
        EXIT WHEN room <= 0;
        DELETE FROM aura.feeds AS f WHERE f.feed = one.feed AND f.at < moment - age
          AND f.seq < (SELECT max(e.seq) FROM aura.feeds AS e WHERE e.feed = one.feed)
          AND f.seq = ANY (ARRAY(
            SELECT e.seq FROM aura.feeds AS e WHERE e.feed = one.feed ORDER BY e.seq LIMIT room));
        GET DIAGNOSTICS done = ROW_COUNT;
        items := items + done;
        room := room - done;
    END LOOP;
    DELETE FROM aura.workers AS w WHERE w.id = ANY (ARRAY(
        SELECT e.id FROM aura.workers AS e
        WHERE e.lease_until < moment - dead
          AND NOT EXISTS (SELECT FROM aura.runs AS r WHERE r.owner = e.id)
        LIMIT greatest(room, 0)));
    GET DIAGNOSTICS workers = ROW_COUNT;
END
$$;

-- Adds events whose id is new in their topic, except those of entries (numbers from 1) that are
-- `stale`; answers with the topics to announce. Topics are locked in order of their names; what
-- others added before is seen by the statements after that.
CREATE FUNCTION aura.emit(moment double precision, ops aura.op_emit[], stale integer[])
RETURNS text[] LANGUAGE plpgsql AS
$$
DECLARE
    wanted text[];
    locked integer;
BEGIN
    SELECT array_agg(DISTINCT e.topic) INTO wanted FROM unnest(ops) AS e
    WHERE e.entry IS NULL OR e.entry <> ALL (stale);
    IF wanted IS NULL THEN
        RETURN '{}';
    END IF;
    PERFORM FROM aura.topics AS t WHERE t.topic = ANY (wanted)
    ORDER BY t.topic FOR NO KEY UPDATE;
    GET DIAGNOSTICS locked = ROW_COUNT;
    IF locked < cardinality(wanted) THEN
        INSERT INTO aura.topics (topic)
        SELECT name FROM unnest(wanted) AS name ORDER BY name COLLATE "C"
        ON CONFLICT DO NOTHING;
        PERFORM FROM aura.topics AS t WHERE t.topic = ANY (wanted)
        ORDER BY t.topic FOR NO KEY UPDATE;
    END IF;
    WITH fresh AS (
        SELECT DISTINCT ON (e.topic, e.id) e.topic, e.id, e.key, e.part, e.payload, e.n
        FROM (SELECT u.*, u.ordinality AS n FROM unnest(ops) WITH ORDINALITY AS u) AS e
        WHERE (e.entry IS NULL OR e.entry <> ALL (stale))
          AND NOT EXISTS (SELECT FROM aura.events AS v WHERE v.topic = e.topic AND v.id = e.id)
        ORDER BY e.topic, e.id, e.n
    ),
    put AS (
        INSERT INTO aura.events (topic, seq, id, key, part, payload, at)
        SELECT f.topic, t.tail + row_number() OVER (PARTITION BY f.topic ORDER BY f.n),
               f.id, f.key, f.part, f.payload, moment
        FROM fresh AS f JOIN aura.topics AS t ON t.topic = f.topic
        RETURNING topic, octet_length(payload) AS size
    )
    UPDATE aura.topics AS t SET
        tail = t.tail + added.events, events = t.events + added.events,
        bytes = t.bytes + added.bytes
    FROM (SELECT put.topic, count(*) AS events, sum(put.size) AS bytes
          FROM put GROUP BY put.topic) AS added
    WHERE t.topic = added.topic;
    RETURN ARRAY(SELECT 'events:' || replace(name, '%', '%25') FROM unnest(wanted) AS name);
END
$$;

-- Moves groups on in their partitions; answers with the numbers (from 1) of the refused ones.
CREATE FUNCTION aura.progress(
    moment double precision, ops aura.op_progress[], changes aura.op_change[]
) RETURNS integer[] LANGUAGE plpgsql AS
$$
DECLARE
    refused integer[];
BEGIN
    PERFORM FROM aura.partitions AS p
    WHERE (p.topic, p.group_name, p.part) IN (SELECT o.topic, o.group_name, o.part
                                              FROM unnest(ops) AS o)
    ORDER BY p.topic, p.group_name, p.part FOR NO KEY UPDATE OF p;
    SELECT coalesce(array_agg(o.n::integer), '{}') INTO refused
    FROM (SELECT u.*, u.ordinality AS n FROM unnest(ops) WITH ORDINALITY AS u) AS o
    WHERE NOT EXISTS (
        SELECT FROM aura.partitions AS p
        WHERE p.topic = o.topic AND p.group_name = o.group_name AND p.part = o.part
          AND p.epoch = o.epoch);
    UPDATE aura.partitions AS p SET
        cursor = greatest(p.cursor, o.cursor),
        owner = CASE WHEN o.release THEN NULL ELSE p.owner END,
        takeovers = CASE WHEN p.cursor < o.cursor OR o.release THEN 0 ELSE p.takeovers END
    FROM unnest(ops) AS o
    WHERE p.topic = o.topic AND p.group_name = o.group_name AND p.part = o.part
      AND p.epoch = o.epoch;
    IF cardinality(changes) > 0 THEN
        DELETE FROM aura.deliveries AS d
        USING unnest(changes) AS c, unnest(ops) WITH ORDINALITY AS o
        WHERE c.state = 'gone' AND o.ordinality = c.op AND c.op <> ALL (refused)
          AND d.topic = o.topic AND d.group_name = o.group_name AND d.seq = c.seq;
        INSERT INTO aura.deliveries AS d (topic, group_name, seq, part, key, state, attempts,
                                          due_at, history, version, changed_at)
        SELECT o.topic, o.group_name, c.seq, o.part, c.key, c.state, c.attempts, c.due_at,
               c.history, c.version, moment
        FROM unnest(changes) AS c JOIN unnest(ops) WITH ORDINALITY AS o ON o.ordinality = c.op
        WHERE c.state <> 'gone' AND c.op <> ALL (refused)
        ON CONFLICT (topic, group_name, seq) DO UPDATE SET
            state = excluded.state, attempts = excluded.attempts, due_at = excluded.due_at,
            history = excluded.history, version = excluded.version,
            changed_at = excluded.changed_at;
    END IF;
    RETURN refused;
END
$$;

-- Takes part in groups, one after the other in order of their names: frees what dead workers had,
-- and takes free partitions up to a fair share. Writes only what changes.
CREATE FUNCTION aura.balance(
    me text, topic_names text[], group_names text[], latest boolean[], partition_count integer
) RETURNS TABLE (
    n integer, parts smallint[], epochs integer[], cursors bigint[], takeovers integer[],
    quota integer, tail bigint, generation integer, replayed_to bigint, joined boolean,
    told bigint[]
) LANGUAGE plpgsql AS
$$
DECLARE
    one record;
    moment double precision := aura.moment();
    live integer;
    ahead integer;
BEGIN
    FOR one IN
        SELECT a.topic, a.name, a.latest, a.n::integer AS n
        FROM unnest(topic_names, group_names, latest) WITH ORDINALITY AS a (topic, name, latest, n)
        ORDER BY a.topic COLLATE "C", a.name COLLATE "C"
    LOOP
        n := one.n;
        SELECT t.tail INTO tail FROM aura.topics AS t WHERE t.topic = one.topic;
        tail := coalesce(tail, 0);
        SELECT c.generation, c.replayed_to INTO generation, replayed_to
        FROM aura.consumers AS c WHERE c.topic = one.topic AND c.group_name = one.name;
        IF NOT FOUND THEN
            INSERT INTO aura.topics (topic) VALUES (one.topic) ON CONFLICT DO NOTHING;
            INSERT INTO aura.consumers (topic, group_name) VALUES (one.topic, one.name)
            ON CONFLICT DO NOTHING;
            INSERT INTO aura.partitions (topic, group_name, part, cursor)
            SELECT one.topic, one.name, number, CASE WHEN one.latest THEN tail ELSE 0 END
            FROM generate_series(0, partition_count - 1) AS number
            ON CONFLICT DO NOTHING;
            generation := 0;
            replayed_to := 0;
        END IF;
        DELETE FROM aura.members AS m
        WHERE m.topic = one.topic AND m.group_name = one.name AND m.worker <> me
          AND NOT EXISTS (SELECT FROM aura.workers AS w
                          WHERE w.id = m.worker AND w.lease_until > moment);
        joined := NOT EXISTS (SELECT FROM aura.members AS m
                              WHERE m.topic = one.topic AND m.group_name = one.name
                                AND m.worker = me);
        IF joined THEN
            INSERT INTO aura.members (topic, group_name, worker) VALUES (one.topic, one.name, me)
            ON CONFLICT DO NOTHING;
        END IF;
        SELECT count(*), count(*) FILTER (WHERE m.worker < me) INTO live, ahead
        FROM aura.members AS m WHERE m.topic = one.topic AND m.group_name = one.name;
        quota := partition_count / live + CASE WHEN ahead < partition_count % live THEN 1 ELSE 0 END;
        UPDATE aura.partitions AS p SET
            owner = me, epoch = p.epoch + 1,
            takeovers = p.takeovers + CASE WHEN p.owner IS NULL THEN 0 ELSE 1 END
        FROM (SELECT f.part FROM aura.partitions AS f
              WHERE f.topic = one.topic AND f.group_name = one.name
                AND f.owner IS DISTINCT FROM me
                AND NOT EXISTS (SELECT FROM aura.workers AS w
                                WHERE w.id = f.owner AND w.lease_until > moment)
              ORDER BY f.part
              LIMIT greatest(0, quota - (SELECT count(*) FROM aura.partitions AS mine
                                         WHERE mine.topic = one.topic
                                           AND mine.group_name = one.name AND mine.owner = me))
              FOR NO KEY UPDATE OF f SKIP LOCKED) AS free
        WHERE p.topic = one.topic AND p.group_name = one.name AND p.part = free.part;
        SELECT coalesce(array_agg(p.part ORDER BY p.part), '{}'), array_agg(p.epoch ORDER BY p.part),
               array_agg(p.cursor ORDER BY p.part), array_agg(p.takeovers ORDER BY p.part)
        INTO parts, epochs, cursors, takeovers
        FROM aura.partitions AS p
        WHERE p.topic = one.topic AND p.group_name = one.name AND p.owner = me;
        told := ARRAY(SELECT d.seq FROM aura.deliveries AS d
                      WHERE d.topic = one.topic AND d.group_name = one.name
                        AND d.state IN ('requeued', 'dropped') AND d.part = ANY (parts)
                      ORDER BY d.seq);
        RETURN NEXT;
    END LOOP;
END
$$;

-- The seq of the first event that was emitted at or after a time, or one past the last event.
CREATE FUNCTION aura.first_since(name text, since double precision) RETURNS bigint
LANGUAGE plpgsql AS
$$
DECLARE
    low bigint;
    high bigint;
    middle bigint;
    found record;
BEGIN
    SELECT min(e.seq), max(e.seq) + 1 INTO low, high FROM aura.events AS e WHERE e.topic = name;
    WHILE low < high LOOP
        middle := (low + high) / 2;
        SELECT e.seq, e.at INTO found FROM aura.events AS e
        WHERE e.topic = name AND e.seq >= middle ORDER BY e.seq LIMIT 1;
        IF found.at < since THEN
            low := found.seq + 1;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN coalesce(low, (SELECT t.tail + 1 FROM aura.topics AS t WHERE t.topic = name), 1);
END
$$;

-- Sets a group back to what was emitted since then, under new epochs; answers with the number of
-- events from there on, or NULL when there is no such group.
CREATE FUNCTION aura.replay(name text, grp text, since double precision) RETURNS bigint
LANGUAGE plpgsql AS
$$
DECLARE
    start bigint;
BEGIN
    PERFORM FROM aura.partitions AS p WHERE p.topic = name AND p.group_name = grp
    ORDER BY p.part FOR NO KEY UPDATE;
    UPDATE aura.consumers AS c SET
        generation = c.generation + 1,
        replayed_to = (SELECT t.tail FROM aura.topics AS t WHERE t.topic = name)
    WHERE c.topic = name AND c.group_name = grp;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    start := aura.first_since(name, since);
    UPDATE aura.partitions AS p SET
        cursor = least(p.cursor, start - 1), epoch = p.epoch + 1, owner = NULL, takeovers = 0
    WHERE p.topic = name AND p.group_name = grp;
    DELETE FROM aura.deliveries AS d
    WHERE d.topic = name AND d.group_name = grp AND d.seq >= start;
    RETURN (SELECT count(*) FROM aura.events AS e WHERE e.topic = name AND e.seq >= start);
END
$$;

-- Deletes at most `most` events that are older than `age` seconds: handled by every group, or older
-- than `unread` seconds; never one that a group still has among its deliveries.
CREATE FUNCTION aura.sweep_events(
    age double precision, unread double precision, most integer
) RETURNS integer LANGUAGE plpgsql AS
$$
DECLARE
    moment double precision := aura.moment();
    room integer := most;
    done integer;
    one record;
BEGIN
    FOR one IN
        SELECT t.topic, aura.first_since(t.topic, moment - age) AS old,
               aura.first_since(t.topic, moment - unread) AS unread,
               (SELECT min(p.cursor) FROM aura.partitions AS p WHERE p.topic = t.topic) AS cursor
        FROM aura.topics AS t WHERE t.events > 0 ORDER BY t.topic
    LOOP
        EXIT WHEN room <= 0;
        PERFORM FROM aura.topics AS t WHERE t.topic = one.topic FOR NO KEY UPDATE;
        WITH gone AS (
            DELETE FROM aura.events AS e
            WHERE e.topic = one.topic AND e.seq = ANY (ARRAY(
                SELECT o.seq FROM aura.events AS o
                WHERE o.topic = one.topic AND o.seq < one.old
                  AND (o.seq <= coalesce(one.cursor, o.seq) OR o.seq < one.unread)
                  AND NOT EXISTS (SELECT FROM aura.deliveries AS d
                                  WHERE d.topic = o.topic AND d.seq = o.seq)
                ORDER BY o.seq LIMIT room))
            RETURNING octet_length(e.payload) AS size
        )
        UPDATE aura.topics AS t SET events = t.events - sums.events, bytes = t.bytes - sums.bytes
        FROM (SELECT count(*) AS events, coalesce(sum(gone.size), 0) AS bytes FROM gone) AS sums
        WHERE t.topic = one.topic
        RETURNING sums.events INTO done;
        room := room - done;
    END LOOP;
    RETURN most - room;
END
$$;
