"""Queues in PostgreSQL: their definitions, runs that are placed in them, and their depths."""

from __future__ import annotations

from typing import Any

from aura.store.base import StartRun
from aura.store.postgres_link import Connection
from aura.store.queries import queries
from aura.store.queues import PRIORITY_WORTH, QueueLimits, QueueRecord

_SQL = queries("postgres")


class Placed(StartRun):
    """The kind of a start that has a place, in the batch of a commit."""


def placed_row(op: StartRun, run: tuple[Any, ...]) -> tuple[Any, ...]:
    """`run` is the row of the start itself."""
    place = op.place
    assert place is not None  # noqa: S101  (that is what makes it a placed one)
    return (
        *(run, place.queue, place.key, place.priority, PRIORITY_WORTH * place.priority),
        *(place.delay, place.at, place.dedup, place.debounce, place.debounce_limit),
    )


async def put_queue(
    connection: Connection, name: str, limits: QueueLimits, replace: bool
) -> QueueRecord:
    per = limits.per if limits.rate is not None else None
    values = (name, limits.dump(), limits.exclusive, limits.rate, per, replace)
    await connection.execute(_SQL["put_queue"], *values)
    [found] = [one for one in await all_queues(connection) if one.name == name]
    return found


async def all_queues(connection: Connection) -> list[QueueRecord]:
    rows = await connection.fetch(_SQL["queues"])
    return [QueueRecord(row[0], row[1], QueueLimits.load(row[2]), row[3]) for row in rows]


async def depths(connection: Connection) -> dict[tuple[str | None, str], int]:
    rows = await connection.fetch(_SQL["depths"])
    return {(queue, state): count for queue, state, count in map(tuple, rows) if count}
