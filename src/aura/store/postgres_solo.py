"""The commits of a run that is alone: its start, an entry, its end. Each is one statement.

Between two steps of a lone run there is nothing but such a commit, and the function that takes
whole batches, with an array for each kind of operation, costs three times as much processor time.
What is not as usual (the id is there, the epoch is stale, there is a family) changes nothing here
and is left to that function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aura.store.base import SETTLED, Append, Op, Outcome, RunRecord, Settle, Started, StartRun
from aura.store.postgres_link import Connection
from aura.store.queries import queries

_SQL = queries("postgres")

NewRun = Callable[[StartRun, float], RunRecord]


async def commit_alone(
    connection: Connection, ops: Sequence[Op], new_run: NewRun
) -> list[Outcome] | None:
    """The outcomes, or None when nothing was done: the batch is not of this kind."""
    first, last = ops[0], ops[-1]
    if type(first) is Append and len(ops) == 1:
        return await _append(connection, first)
    entry = first if type(first) is Append and len(ops) == 2 else None
    if type(last) is Settle and (entry is not None or len(ops) == 1):
        return await _finish(connection, entry, last)
    if type(first) is StartRun and len(ops) == 1:
        return await _start(connection, first, new_run)
    return None


async def _append(connection: Connection, op: Append) -> list[Outcome] | None:
    done = await connection.execute(_SQL["append_one"], *op.entry, op.epoch)
    return [None] if done == "INSERT 0 1" else None


async def _start(connection: Connection, op: StartRun, new_run: NewRun) -> list[Outcome] | None:
    if not op.owner or op.parent is not None or op.place is not None or op.attributes:
        return None
    at = await connection.fetchval(
        _SQL["start_one"],
        *(op.id, op.workflow, op.version, op.owner, op.origin, op.input, op.fingerprint),
        op.deadline,
    )
    return None if at is None else [Started(True, new_run(op, at))]


async def _finish(connection: Connection, entry: Append | None, op: Settle) -> list[Outcome] | None:
    """The end of a run for which nobody waits elsewhere, with its last entry."""
    if op.announce or op.frees or op.state not in SETTLED:
        return None
    values = (op.run_id, op.epoch, op.state, op.output, op.error)
    if entry is None:
        done = await connection.execute(_SQL["settle_one"], *values)
        return [None] if done == "UPDATE 1" else None
    last = entry.entry
    if last.run_id != op.run_id or entry.epoch != op.epoch:
        return None
    done = await connection.execute(_SQL["finish_one"], *values, *last[1:])
    return [None, None] if done == "INSERT 0 1" else None
