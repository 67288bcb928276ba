-- Names compare byte by byte ("C"): faster than a language's order, and the same on every server.
-- Payloads are compressed by the codec, so large ones are stored aside as they are (EXTERNAL).
CREATE TABLE aura.runs (
    id               text COLLATE "C" PRIMARY KEY,
    workflow         text COLLATE "C" NOT NULL,
    version          text COLLATE "C" NOT NULL,
    state            text COLLATE "C" NOT NULL
        CHECK (state IN ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled',
                         'parked')),
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
    created_at       double precision NOT NULL,
    started_at       double precision,
    finished_at      double precision,
    -- Since when a worker may take the run from the queue.
    ready_at         double precision GENERATED ALWAYS AS (
        CASE state WHEN 'pending' THEN created_at WHEN 'waiting' THEN wake_at END) STORED,
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
    PRIMARY KEY (run_id, seq),
    UNIQUE (run_id, id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE aura.signals ALTER payload SET STORAGE EXTERNAL;

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
    id text, workflow text, version text, input bytea, fingerprint text, origin text, owner text);
CREATE TYPE aura.op_append AS (
    run_id text, seq integer, key text, kind text, fingerprint text, input bytea, output bytea,
    error bytea, attempt integer, started_at double precision, recorded_at double precision,
    epoch integer);
CREATE TYPE aura.op_settle AS (
    id text, epoch integer, state text, output bytea, error bytea, wake_at double precision,
    topic text, seen integer);
CREATE TYPE aura.op_cancel AS (id text, key text);
CREATE TYPE aura.op_signal AS (
    run_id text, name text, id text, priority text, deadline double precision, payload bytea,
    late boolean, topic text);
-- What became of a signal. Without a state there is no such run, without a seq it has ended.
CREATE TYPE aura.sent AS (seq integer, duplicate boolean, late boolean, state text);
CREATE TYPE aura.op_document AS (kind text, name text, body bytea, expected integer, topic text);
CREATE TYPE aura.op_feed AS (feed text, payload bytea);

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
-- are a microsecond apart, so that their order stays.
CREATE FUNCTION aura.start(moment double precision, ops aura.op_start[]) RETURNS text[]
LANGUAGE plpgsql AS
$$
DECLARE
    created text[];
    total integer := cardinality(ops);
BEGIN
    WITH fresh AS (
        INSERT INTO aura.runs (id, workflow, version, state, epoch, owner, origin, input,
                               fingerprint, created_at, started_at)
        SELECT s.id, s.workflow, s.version,
               CASE WHEN s.owner IS NULL THEN 'pending' ELSE 'running' END,
               CASE WHEN s.owner IS NULL THEN 0 ELSE 1 END,
               s.owner, s.origin, s.input, s.fingerprint,
               moment - '1e-6'::double precision * (total - s.n),
               CASE WHEN s.owner IS NOT NULL
                    THEN moment - '1e-6'::double precision * (total - s.n) END
        FROM unnest(ops) WITH ORDINALITY
             AS s (id, workflow, version, input, fingerprint, origin, owner, n)
        ORDER BY s.id COLLATE "C", s.n
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    SELECT coalesce(array_agg(id), '{}') INTO created FROM fresh;
    RETURN created;
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
                WHEN r.state = 'pending' AND r.started_at IS NULL THEN 'cancelled'
                WHEN r.state = 'waiting' THEN 'pending'
                ELSE r.state END,
            wake_at = NULL,
            finished_at = CASE
                WHEN r.state = 'parked' THEN moment
                WHEN r.state = 'pending' AND r.started_at IS NULL THEN moment END
        FROM (SELECT DISTINCT id, key FROM unnest(ops)) AS c
        WHERE r.id = c.id AND r.state NOT IN ('completed', 'failed', 'cancelled')
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
        SELECT r.state, r.signals INTO was FROM aura.runs AS r WHERE r.id = one.run_id
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
        IF was.state IN ('completed', 'failed', 'cancelled') THEN
            answers[one.n] := ROW(NULL, false, false, was.state)::aura.sent;
            CONTINUE;
        END IF;
        IF was.state = 'waiting' THEN
            was.state := 'pending';
        END IF;
        UPDATE aura.runs AS r SET
            signals = was.signals + 1, state = was.state, wake_at = NULL
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
    OUT moment double precision, OUT created text[], OUT stale integer[], OUT refused integer[],
    OUT sent aura.sent[], OUT epochs integer[], OUT tails bigint[]
) LANGUAGE plpgsql AS
$$
DECLARE
    heard text[] := notices;
    woken text[];
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
    IF cardinality(appends) > 0 AND aura.append(appends) < cardinality(appends) THEN
        stale := aura.stale(appends);
    END IF;
    IF cardinality(settles) + cardinality(cancels) + cardinality(sends) > 1 THEN
        PERFORM FROM aura.runs AS r
        WHERE r.id IN (SELECT z.id FROM unnest(settles) AS z
                       UNION SELECT c.id FROM unnest(cancels) AS c
                       UNION SELECT s.run_id FROM unnest(sends) AS s)
        ORDER BY r.id FOR NO KEY UPDATE OF r;
    END IF;
    IF cardinality(settles) > 0 THEN
        refused := aura.settle(moment, settles);
        heard := heard || ARRAY(
            SELECT z.topic FROM unnest(settles) WITH ORDINALITY AS z
            WHERE z.topic IS NOT NULL AND z.ordinality <> ALL (refused));
    END IF;
    IF cardinality(cancels) > 0 THEN
        heard := heard || aura.request_cancel(moment, cancels);
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
          AND r.finished_at < moment - age
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
