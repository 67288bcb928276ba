"""Large payloads in SQLite, see `aura.store.payloads`; each is part of a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from aura.store.base import Op, Outcome
from aura.store.payloads import Bodies, Use, put_back, uses
from aura.store.queries import queries

_SQL = queries("sqlite")
_LOOKS = 20  # lines are looked at for each value that may be deleted

Write = Callable[[Sequence[Op]], list[Outcome]]


def write_apart(
    db: sqlite3.Connection, ops: Sequence[Op], bodies: Bodies, write: Write
) -> list[Outcome]:
    """The outcomes of operations that have marks, whose values are stored with them."""
    keep(db, bodies)
    outcomes = write(ops)
    use(db, uses(ops, outcomes, bodies))
    return put_back(outcomes, bodies)


def keep(db: sqlite3.Connection, bodies: Bodies) -> None:
    """Have these values be there."""
    db.executemany(_SQL["keep_payload"], bodies.items())


def use(db: sqlite3.Connection, users: Iterable[Use]) -> None:
    """Say who has values that are kept."""
    for run_id, mark, sure in users:
        if run_id:
            db.execute(_SQL["use_payload"], (run_id, mark))
        if not sure:
            db.execute(_SQL["loosen_payload"], (run_id, mark))


def loosen(db: sqlite3.Connection, run_id: str, marks: Iterable[bytes]) -> None:
    """Say that a run may not have these values any more."""
    db.executemany(_SQL["loosen_payload"], [(run_id, mark) for mark in marks])


def sweep_payloads(db: sqlite3.Connection, room: int) -> int:
    """Delete at most so many values that no run has any more; how many those were."""
    gone = 0
    for run_id, mark in db.execute(_SQL["loose_payloads"], (_LOOKS * max(0, room),)).fetchall():
        if gone >= room:
            break
        values = {"run": run_id, "mark": mark}
        db.execute(_SQL["sweep_use"], values)
        gone += db.execute(_SQL["sweep_payload"], values).rowcount
        db.execute(_SQL["sweep_loose"], values)
    return gone
