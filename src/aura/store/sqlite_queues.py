"""Queues in SQLite: their definitions, runs that are placed in them, taking those, and depths.

A claim has the whole file for itself, so what it counts is true until it ends.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from aura.errors import LeaseLost
from aura.store.base import Claim, StartRun, no_child_of
from aura.store.queries import queries
from aura.store.queues import (
    MOST_HEADS,
    Head,
    QueueLimits,
    QueueRecord,
    choose,
    loads_from,
    next_look,
    open_queues,
)

_SQL = queries("sqlite")


def put_queue(
    db: sqlite3.Connection, name: str, limits: QueueLimits, replace: bool, now: float
) -> QueueRecord:
    per = limits.per if limits.rate is not None else None
    values = (name, limits.dump(), limits.exclusive, limits.rate, per, now, replace)
    db.execute(_SQL["put_queue"], values)
    [found] = [one for one in all_queues(db) if one.name == name]
    return found


def all_queues(db: sqlite3.Connection) -> list[QueueRecord]:
    rows = db.execute(_SQL["queues"]).fetchall()
    return [QueueRecord(row[0], row[1], QueueLimits.load(row[2]), row[3]) for row in rows]


def depths(db: sqlite3.Connection) -> dict[tuple[str | None, str], int]:
    rows = db.execute(_SQL["depths"]).fetchall()
    return {(queue, state): count for queue, state, count in rows if count}


def start_placed(db: sqlite3.Connection, op: StartRun, now: float) -> tuple[str, bool] | LeaseLost:
    """The id of the run that the start stands for, and whether it is new."""
    place = op.place
    assert place is not None  # noqa: S101  (the caller has looked)
    due = place.due(now)
    values: dict[str, Any] = {
        "id": op.id, "workflow": op.workflow, "version": op.version, "origin": op.origin,
        "input": op.input, "fingerprint": op.fingerprint, "now": now, "due": due,
        "state": "waiting" if due > now else "pending", "wake_at": due if due > now else None,
        "queue": place.queue, "key": place.key, "priority": place.priority,
        "rank": place.rank(due), "worth": due - place.rank(due), "dedup": place.dedup,
        "debounced": place.debounce is not None, "limit": place.debounce_limit,
        "parent": op.parent, "parent_epoch": op.parent_epoch, "detached": op.detached,
        "deadline": op.deadline,
    }  # fmt: skip
    if place.debounce is not None:
        found = db.execute(_SQL["put_off"], values).fetchall()
        if found:
            return found[0][0], False
    if db.execute(_SQL["place_run"], values).fetchall():
        return op.id, True
    standing = db.execute(_SQL["standing"], values).fetchone()
    return no_child_of(op.parent or "") if standing is None else (standing[0], False)


def any_in_queues(db: sqlite3.Connection, claim: Claim, now: float) -> bool:
    """Whether a run in a queue can be taken, if its limits allow it."""
    return bool(db.execute(_SQL["any_in_queues"], _values(claim, now)).fetchone()[0])


def take_from_queues(
    db: sqlite3.Connection, claim: Claim, room: int, now: float, columns: str
) -> tuple[list[tuple[Any, ...]], float | None]:
    """The rows of the runs that are the claimer's from now on, at most `room`, each with whether it
    was taken over; and in how many seconds there may be more for a reason that nobody tells."""
    values = {**_values(claim, now), "room": room, "most": MOST_HEADS}
    ask: Callable[..., list[tuple[Any, ...]]] = lambda name, **more: db.execute(  # noqa: E731
        _SQL[name], values | more
    ).fetchall()
    ask("queue_promote")
    orphans = [_head(row) for row in ask("queue_orphans")]
    others = json.dumps(sorted({one.queue for one in orphans}))
    definitions = {row[0]: (row[1], True) for row in ask("queue_doors", others=others)}
    counts = ask("queue_loads", names=json.dumps(list(definitions)))
    loads = loads_from(definitions, counts)
    names = json.dumps(open_queues(loads, claim.offer))
    heads = [_head(row) for row in ask("queue_heads", names=names)]
    chosen = choose(loads, [*orphans, *heads], room, claim.offer)
    look = next_look(loads, now, heads, chosen, room)
    if not chosen:
        return [], look
    return take(db, [(one.id, one.state) for one in chosen], claim.worker, now, columns), look


def take(
    db: sqlite3.Connection, heads: Sequence[tuple[str, str]], worker: str, now: float, columns: str
) -> list[tuple[Any, ...]]:
    """Make these runs (id, state) the worker's; their rows, each with whether it was taken over."""
    over = {run_id for run_id, state in heads if state == "running"}
    values = {"ids": json.dumps([run_id for run_id, _ in heads]), "worker": worker, "now": now}
    rows = db.execute(_SQL["claim"].replace(":columns", columns), values).fetchall()
    return [(*row, row[0] in over) for row in rows]


def _values(claim: Claim, now: float) -> dict[str, Any]:
    return {
        "worker": claim.worker,
        "asked": json.dumps(claim.versions),
        "only": claim.only,
        "now": now,
    }


def _head(row: Sequence[Any]) -> Head:
    head = Head(*row)
    return head._replace(begun=bool(head.begun))
