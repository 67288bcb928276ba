-- Signals: messages to runs. `runs.signals` counts them: it numbers the next one under the lock of
-- the run's row, and shows whoever lets the run wait that there is one it has not seen.
ALTER TABLE aura.runs ADD COLUMN signals integer NOT NULL DEFAULT 0;

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

CREATE TYPE aura.op_signal AS (
    run_id text, name text, id text, priority text, deadline double precision, payload bytea,
    late boolean, topic text);
-- What became of a signal. Without a state there is no such run, without a seq it has ended.
CREATE TYPE aura.sent AS (seq integer, duplicate boolean, late boolean, state text);

-- Takes runs out of `running`, as the function of the first migration does. `seen` has the last
-- signal that each owner knows; a run with a newer one does not go to sleep.
CREATE FUNCTION aura.settle(moment double precision, ops aura.op_settle[], seen integer[])
RETURNS integer[] LANGUAGE plpgsql AS
$$
DECLARE
    settled integer;
    refused integer[] := '{}';
BEGIN
    UPDATE aura.runs AS r SET
        state = CASE WHEN z.state = 'waiting' AND (r.cancel_requested OR r.signals > z.known)
                     THEN 'pending' ELSE z.state END,
        output = z.output,
        error = z.error,
        owner = NULL,
        wake_at = CASE WHEN z.state = 'waiting'
                        AND NOT (r.cancel_requested OR r.signals > coalesce(z.known, r.signals))
                       THEN z.wake_at END,
        finished_at = CASE WHEN z.state NOT IN ('pending', 'waiting') THEN moment END
    FROM (SELECT o.*, seen[o.ordinality] AS known
          FROM unnest(ops) WITH ORDINALITY AS o) AS z
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

-- Writes entries; answers with the numbers (from 1) of the refused ones. In one transaction, so that
-- a claim cannot come between the two and make an entry that was written look refused.
CREATE FUNCTION aura.append_or_tell(ops aura.op_append[]) RETURNS integer[] LANGUAGE plpgsql AS
$$
BEGIN
    RETURN CASE WHEN aura.append(ops) < cardinality(ops) THEN aura.stale(ops) ELSE '{}' END;
END
$$;

-- One batch of operations, as the function of the first migration (which workers of then still
-- call), with signals, and with topics that are only told. Locks are taken in the same order.
CREATE FUNCTION aura.commit(
    sender text, schema_number integer, heartbeats aura.op_heartbeat[], starts aura.op_start[],
    appends aura.op_append[], settles aura.op_settle[], seen integer[], cancels aura.op_cancel[],
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
        refused := aura.settle(moment, settles, seen);
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
