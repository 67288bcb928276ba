"""What follows in SQLite when runs end, or begin anew: in the transaction in which they do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from aura.errors import LeaseLost
from aura.store.base import (
    CHILD_ENDED,
    TERMINAL,
    Continue,
    Op,
    Outcome,
    RequestCancel,
    Settle,
)
from aura.store.queries import queries

_SQL = queries("sqlite")
Select = Callable[[sqlite3.Connection, str, Sequence[tuple[Any, ...]]], Iterator[tuple[Any, ...]]]


def after_the_end(
    db: sqlite3.Connection, ops: Sequence[Op], select: Select, now: float
) -> list[str]:
    """Tell the parents of the runs that the batch has ended, and ask their children to stop; the
    topics that follow. `select` runs a multi-row statement."""
    topics: list[str] = []
    ids = (
        op.run_id
        for op in ops
        if isinstance(op, RequestCancel) or (isinstance(op, Settle) and op.state in TERMINAL)
    )
    ended = [(run_id,) for run_id in dict.fromkeys(ids)]  # a run may be in the batch twice
    while ended:
        told = sorted(select(db, "ended_children", ended))
        for parent, children in groupby(told, lambda row: row[0]):
            topics += _tell(db, parent, [child for _, child in children], now)
        stopped = []
        for (child,) in list(select(db, "orphans", ended)):
            db.execute(_SQL["request_cancel"], {"id": child, "now": now})
            state = db.execute(_SQL["signal_state"], (child,)).fetchone()[0]
            topics.append(f"cancel:{child}")
            if state == "cancelled":
                topics.append(f"run:{child}")
                stopped.append((child,))
            elif state == "pending":
                topics.append("ready")
        ended = stopped
    return topics


def _tell(db: sqlite3.Connection, parent: str, children: Sequence[str], now: float) -> list[str]:
    state, count = db.execute(_SQL["signal_state"], (parent,)).fetchone()
    rows = [
        (parent, count + n, CHILD_ENDED, f"{CHILD_ENDED}:{child}", "normal", None, b"null", now, 0)
        for n, child in enumerate(children, 1)
    ]
    db.executemany(_SQL["add_signal"], rows)
    after = "pending" if state == "waiting" else state
    db.execute(_SQL["signalled_once"], (count + len(rows), after, parent))
    return [f"signal:{parent}", "ready"] if after == "pending" else [f"signal:{parent}"]


def continues(db: sqlite3.Connection, ops: Sequence[Continue], _: float) -> list[Outcome]:
    """Let runs begin anew."""
    return [_continue(db, op) for op in ops]


def _continue(db: sqlite3.Connection, op: Continue) -> Outcome:
    values: dict[str, Any] = {
        "id": op.run_id,
        "epoch": op.epoch,
        "version": op.version,
        "input": op.input,
        "base": op.base,
        "seen": op.seen,
        "unread": json.dumps(op.unread),
    }
    if db.execute(_SQL["continue_run"], values).rowcount:
        db.execute(_SQL["take_signals"], values)
        return None
    if db.execute(_SQL["continued_before"], values).fetchone() is not None:
        return None
    return LeaseLost(f"run {op.run_id} belongs to another worker now")
