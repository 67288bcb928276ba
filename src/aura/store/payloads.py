"""Large payloads, each of them stored once, however many runs and entries have it.

A stored value of more than LARGE bytes is replaced by its mark, a byte 0x05 and the SHA-256 of the
value, before it is written; the value is in `payloads`, with the mark as its key. `payload_uses`
says which runs have it. Statements that read payloads put the value in the place of its mark
(`:whole` in .sql files), so nobody but the stores knows of marks.

A row that goes, or gets another value, leaves a line in `payloads_loose`, by a trigger. A sweep
looks at these: what no row of that run has any more is not used by it, and what no run uses is
deleted. Encrypted values differ even when their contents are equal, so each is stored for itself.

Marks are written once no live worker runs code that does not know them: by then the triggers are
there, which the second part of the migration creates (`READY`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from aura.codec import APART
from aura.errors import BundleDamaged
from aura.store.base import (
    Append,
    Continue,
    Op,
    Outcome,
    SendSignal,
    Sent,
    Settle,
    Started,
    StartRun,
)
from aura.store.events import Emit
from aura.store.portable import Row
from aura.store.queries import whole

LARGE = 64 * 1024
"""Longer stored values are kept apart, in bytes (after compression and encryption)."""
READY = "0006_post"
"""The migration after which values are kept apart."""
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "runs": ("input", "output"),
    "journal": ("input", "output"),
    "signals": ("payload",),
}
"""Where values may be kept apart, by table."""

_FIELDS: Mapping[type, str] = {
    StartRun: "input", Continue: "input", SendSignal: "payload", Settle: "output"
}  # fmt: skip

Bodies = dict[bytes, bytes]
"""Mark to value."""


def set_apart(ops: Sequence[Op]) -> tuple[Sequence[Op], Bodies]:
    """The operations with marks in place of large values, and those values."""
    bodies: Bodies = {}
    for op in ops:
        if _is_large(op):
            return [_marked(one, bodies) for one in ops], bodies
    return ops, bodies


def put_back(outcomes: Iterable[Outcome], bodies: Bodies) -> list[Outcome]:
    """The outcomes, with values in place of the marks of runs that were created."""
    return [
        Started(one.created, one.run._replace(input=bodies[one.run.input]))
        if isinstance(one, Started) and one.run.input in bodies
        else one
        for one in outcomes
    ]


class Use(NamedTuple):
    """A run has a value. When that is not `sure`, a sweep looks whether it has; without a run (the
    empty id) nobody has it."""

    run_id: str
    mark: bytes
    sure: bool = True


def uses(ops: Iterable[Op], outcomes: Iterable[Outcome], bodies: Bodies) -> list[Use]:
    """Which run has which value, after the operations took place."""
    found = {
        Use(run_id, value, _is_written(outcome))
        for op, outcome in zip(ops, outcomes, strict=True)
        if (run_id := _user(op, outcome)) is not None
        for value in _values(op)
        if value is not None and value in bodies
    }
    unused = bodies.keys() - {one.mark for one in found}
    return sorted(found | {Use("", mark, False) for mark in unused})


def refuse_marks(table: str, row: Row) -> None:
    """Raises BundleDamaged for a value that is a mark: it would show what another run has."""
    if any((row.get(name) or b"")[:1] == APART for name in COLUMNS.get(table, ())):
        raise BundleDamaged(
            f"a row of {table} has a mark where its value should be",
            hint="No export of Aura has such rows: export the runs again",
        )


def row_apart(table: str, row: Row) -> tuple[Row, Bodies]:
    """A row with marks in place of large values, and those values. Raises BundleDamaged."""
    refuse_marks(table, row)
    bodies: Bodies = {}
    found = [name for name in COLUMNS.get(table, ()) if name in row]
    marked = {name: _kept(row[name], bodies) for name in found}
    return ({**row, **marked} if bodies else row), bodies


def loosened(table: str, was: Row, becomes: Row) -> list[bytes]:
    """The marks of values that a row has no more when it becomes another."""
    changed = (was[name] for name in COLUMNS.get(table, ()) if was[name] != becomes[name])
    return [mark for mark in map(mark_of, changed) if mark is not None]


def reading(table: str, column: str, dialect: str) -> str:
    """How a column is read, as SQL."""
    if column in COLUMNS.get(table, ()):
        return whole(f":whole({column})", dialect)
    return f'"{column}"'


def mark_of(value: object) -> bytes | None:
    """The mark of a value that is large enough to be kept apart; None for others."""
    if isinstance(value, bytes) and len(value) > LARGE:
        return APART + hashlib.sha256(value).digest()
    return None


def _kept(value: bytes | None, bodies: Bodies) -> Any:
    """What is stored in the place of a value; the value itself goes to `bodies` if it is large."""
    mark = mark_of(value)
    if mark is None or value is None:
        return value
    bodies[mark] = value
    return mark


def _is_large(op: Op) -> bool:
    if type(op) is Append:  # most are
        entry = op.entry
        given, gave = entry.input, entry.output
        return (given is not None and len(given) > LARGE) or (
            gave is not None and len(gave) > LARGE
        )
    return any(value is not None and len(value) > LARGE for value in _values(op))


def _values(op: Op) -> tuple[bytes | None, ...]:
    if type(op) in _FIELDS:
        return (getattr(op, _FIELDS[type(op)]),)
    append = op.append if isinstance(op, Emit) else op
    return (append.entry.input, append.entry.output) if isinstance(append, Append) else ()


def _marked(op: Op, bodies: Bodies) -> Op:
    if type(op) in _FIELDS:
        name = _FIELDS[type(op)]
        return replace(op, **{name: _kept(getattr(op, name), bodies)})  # type: ignore[type-var]
    if isinstance(op, Emit) and op.append is not None:
        return replace(op, append=_marked_append(op.append, bodies))
    return _marked_append(op, bodies) if isinstance(op, Append) else op


def _marked_append(op: Append, bodies: Bodies) -> Append:
    given, gave = _kept(op.entry.input, bodies), _kept(op.entry.output, bodies)
    return Append(op.epoch, op.entry._replace(input=given, output=gave))


def _is_written(outcome: Outcome) -> bool:
    """Not for what was there before, which has another value or the same."""
    if isinstance(outcome, Started):
        return outcome.created
    return not (isinstance(outcome, Sent) and outcome.duplicate)


def _user(op: Op, outcome: Outcome) -> str | None:
    """The id of the run that has the operation's values now, if any."""
    if isinstance(outcome, BaseException):
        return None
    if isinstance(op, Emit):
        return None if op.append is None else op.append.entry.run_id
    if isinstance(op, Append):
        return op.entry.run_id
    if isinstance(outcome, Started):
        return outcome.run.id
    return op.run_id if isinstance(op, Settle | Continue | SendSignal) else None
