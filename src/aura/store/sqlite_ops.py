"""How each kind of operation is written to SQLite.

By multi-row statements: each call into SQLite gives up the interpreter lock once, and a statement
per row would hand it over a hundred times per commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from aura.errors import EpochConflict, LeaseLost
from aura.store.base import (
    CLOSED,
    SETTLED,
    Announce,
    Append,
    AppendFeed,
    Continue,
    Heartbeat,
    Op,
    Outcome,
    PutDocument,
    RequestCancel,
    RunRecord,
    RunState,
    SendSignal,
    Sent,
    Settle,
    Started,
    StartRun,
    no_child_of,
    no_run,
    run_ended,
)
from aura.store.queries import migrations, queries, whole
from aura.store.search import attribute_rows
from aura.store.sqlite_ends import continues
from aura.store.sqlite_queues import start_placed

Rows = Sequence[tuple[Any, ...]]

_SQL = queries("sqlite")
COLUMNS = ", ".join(
    whole(f":whole({name})", "sqlite") if name in ("input", "output") else name
    for name in RunRecord._fields
)
_CHUNK = 256  # rows per statement; with 13 columns far below SQLite's limit of variables


def _heartbeats(db: sqlite3.Connection, ops: Sequence[Heartbeat], now: float) -> list[Outcome]:
    schema = max(one.number for one in migrations("sqlite"))
    for op in ops:
        db.execute(_SQL["heartbeat"], (op.worker, now + max(op.lease, 0.0), now, schema, op.info))
    return [None] * len(ops)


def _starts(db: sqlite3.Connection, ops: Sequence[StartRun], now: float) -> list[Outcome]:
    rows = [
        (
            *(op.id, op.workflow, op.version, "running" if op.owner else "pending"),
            *(1 if op.owner else 0, op.owner, op.origin, op.input, op.fingerprint),
            *(now, now if op.owner else None, op.parent, op.parent_epoch, op.detached),
            op.deadline,
        )
        for op in ops
        if op.place is None
    ]
    created = {row[0] for row in select(db, "start_runs", rows)}
    outcomes: list[Outcome] = []
    for at, op in enumerate(ops):
        if op.place is not None:  # a microsecond apart, so that their order stays
            outcomes.append(_placed(db, op, now - 1e-6 * (len(ops) - 1 - at)))
        elif op.id in created:
            created.remove(op.id)
            outcomes.append(Started(True, _new_record(op, now)))
        else:
            sql = _SQL["run"].replace(":columns", COLUMNS)
            row = db.execute(sql, (op.id,)).fetchone()
            outcomes.append(
                no_child_of(op.parent or "") if row is None else Started(False, record(row))
            )
    change(db, "add_attributes", attribute_rows(ops, outcomes))
    return outcomes


def _placed(db: sqlite3.Connection, op: StartRun, now: float) -> Outcome:
    stands = start_placed(db, op, now)
    if isinstance(stands, LeaseLost):
        return stands
    run_id, created = stands
    sql = _SQL["run"].replace(":columns", COLUMNS)
    return Started(created, record(db.execute(sql, (run_id,)).fetchone()))


def _appends(db: sqlite3.Connection, ops: Sequence[Append], _: float) -> list[Outcome]:
    rows = [(*op.entry, op.epoch) for op in ops]
    if change(db, "append_entries", rows) == len(ops):
        return [None] * len(ops)
    return [
        _accept_or_lost(
            db.execute(
                _SQL["entry_is_ours"],
                (op.entry.run_id, op.entry.seq, op.entry.key, op.epoch),
            ).fetchone(),
            op.entry.run_id,
        )
        for op in ops
    ]


def _settles(db: sqlite3.Connection, ops: Sequence[Settle], now: float) -> list[Outcome]:
    rows = [
        (
            *(op.run_id, op.epoch, op.state, op.output, op.error, op.wake_at),
            now if op.state in SETTLED else None,
            op.seen,
        )
        for op in ops
    ]
    if change(db, "settle_runs", rows) == len(ops):
        return [None] * len(ops)
    return [
        _accept_or_lost(
            db.execute(
                _SQL["settled_before"],
                {"id": op.run_id, "epoch": op.epoch, "state": op.state},
            ).fetchone(),
            op.run_id,
        )
        for op in ops
    ]


def _cancels(db: sqlite3.Connection, ops: Sequence[RequestCancel], now: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for op in ops:
        db.execute(_SQL["request_cancel"], {"id": op.run_id, "now": now})
        sql = _SQL["run"].replace(":columns", COLUMNS)
        row = db.execute(sql, (op.run_id,)).fetchone()
        outcomes.append(record(row) if row else None)
    return outcomes


def _documents(db: sqlite3.Connection, ops: Sequence[PutDocument], now: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for op in ops:
        values = {
            "kind": op.kind,
            "name": op.name,
            "body": op.body,
            "expected": op.expected,
            "now": now,
        }
        rows = db.execute(_SQL["put_document"], values).fetchall()
        outcomes.append(rows[0][0] if rows else _conflict(op))
    return outcomes


def _feeds(db: sqlite3.Connection, ops: Sequence[AppendFeed], now: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    ends: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    for op in ops:
        if op.feed not in ends:
            ends[op.feed] = db.execute(_SQL["feed_end"], (op.feed,)).fetchone()[0]
        for payload in op.payloads:
            ends[op.feed] += 1
            rows.append((op.feed, ends[op.feed], now, payload))
        outcomes.append(ends[op.feed])
    change(db, "append_feed", rows)
    return outcomes


def _sends(db: sqlite3.Connection, ops: Sequence[SendSignal], now: float) -> list[Outcome]:
    """Looks up all runs and ids first, decides here, and writes signals and runs at once."""
    ids = [(run_id,) for run_id in dict.fromkeys(op.run_id for op in ops)]
    runs = {row[0]: row[1:] for row in select(db, "signal_states", ids)}
    keys = list(dict.fromkeys((op.run_id, op.id) for op in ops))
    old = {row[:2]: row[2:] for row in select(db, "signals_by_id", keys)}
    added: list[tuple[Any, ...]] = []
    changed: dict[str, tuple[Any, ...]] = {}
    outcomes: list[Outcome] = []
    for op in ops:
        if op.run_id not in runs:
            outcomes.append(no_run(op.run_id))
            continue
        state, count, fresh = runs[op.run_id]
        if (op.run_id, op.id) in old:
            seq, late = old[op.run_id, op.id]
            outcomes.append(Sent(seq, True, bool(late), state))
            continue
        if state in CLOSED:
            outcomes.append(run_ended(op.run_id, state))
            continue
        late = op.late or (op.deadline is not None and op.deadline < now)
        after: RunState = "pending" if state == "waiting" and not fresh else state
        seq = count + 1
        head = (op.run_id, seq, op.name, op.id, op.priority, op.deadline, op.payload, now, late)
        added.append(head)
        runs[op.run_id] = (after, seq, fresh)
        old[op.run_id, op.id] = (seq, late)
        changed[op.run_id] = (op.run_id, seq, after)
        outcomes.append(Sent(seq, False, late, after))
    change(db, "add_signals", added)
    change(db, "signalled", list(changed.values()))
    return outcomes


def take_runs(db: sqlite3.Connection, ops: Sequence[Op], outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes, after the takers of signals have taken their runs."""
    for at, op in enumerate(ops):
        if type(op) is not SendSignal or op.taker is None:
            continue
        sent = outcomes[at]
        if isinstance(sent, Sent) and sent.state in ("pending", "running"):
            values = {"id": op.run_id, "worker": op.taker[0], "epoch": op.taker[1]}
            db.execute(_SQL["take_run"], values)
            if db.execute(_SQL["taken"], values).fetchone() is not None:
                outcomes[at] = sent._replace(state="running", taken=True)
    return outcomes


def _announces(_db: sqlite3.Connection, ops: Sequence[Announce], _now: float) -> list[Outcome]:
    return [None] * len(ops)


# The order in which the operations of one batch are applied.
APPLIERS: tuple[tuple[type, Callable[..., list[Outcome]]], ...] = (
    (Heartbeat, _heartbeats),
    (StartRun, _starts),
    (Append, _appends),
    (Settle, _settles),
    (Continue, continues),
    (RequestCancel, _cancels),
    (SendSignal, _sends),
    (PutDocument, _documents),
    (AppendFeed, _feeds),
    (Announce, _announces),
)


@lru_cache(maxsize=256)
def _multi_row(name: str, rows: int, columns: int) -> str:
    row = "(" + ", ".join("?" * columns) + ")"
    return _SQL[name].replace(":rows", ", ".join([row] * rows))


def _chunks(name: str, rows: Rows) -> Iterator[tuple[str, list[Any]]]:
    """A multi-row statement and its values, in powers of two so that few texts are prepared."""
    start = 0
    while start < len(rows):
        size = min(_CHUNK, 1 << ((len(rows) - start).bit_length() - 1))
        chunk = rows[start : start + size]
        yield _multi_row(name, size, len(chunk[0])), list(chain.from_iterable(chunk))
        start += size


def change(db: sqlite3.Connection, name: str, rows: Rows) -> int:
    """Run a multi-row statement over all rows; how many rows of the table it changed."""
    return sum(db.execute(sql, values).rowcount for sql, values in _chunks(name, rows))


def select(db: sqlite3.Connection, name: str, rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Run a multi-row statement over all rows; the rows that it returns."""
    for sql, values in _chunks(name, rows):
        yield from db.execute(sql, values).fetchall()


def _accept_or_lost(found: object, run_id: str) -> Outcome:
    if found is not None:
        return None
    return LeaseLost(f"run {run_id} belongs to another worker now")


def _conflict(op: PutDocument) -> EpochConflict:
    return EpochConflict(
        f"{op.kind} {op.name} is not at epoch {op.expected} any more",
        hint="Read it again and decide anew",
    )


def record(row: Sequence[Any]) -> RunRecord:
    found = RunRecord(*row)
    return found._replace(
        cancel_requested=bool(found.cancel_requested),
        detached=bool(found.detached),
        debounced=bool(found.debounced),
    )


def _new_record(op: StartRun, now: float) -> RunRecord:
    return RunRecord(
        id=op.id,
        workflow=op.workflow,
        version=op.version,
        state="running" if op.owner else "pending",
        epoch=1 if op.owner else 0,
        owner=op.owner,
        origin=op.origin,
        input=op.input,
        fingerprint=op.fingerprint,
        output=None,
        error=None,
        wake_at=None,
        cancel_requested=False,
        recoveries=0,
        created_at=now,
        started_at=now if op.owner else None,
        finished_at=None,
        parent=op.parent,
        detached=op.detached,
        deadline=op.deadline,
    )
