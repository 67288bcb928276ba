"""Lists and counts of runs in PostgreSQL, of which there may be a million: see `search.sql`, and
the tables of the migration 0002."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aura.store.base import RunFilter
from aura.store.postgres_link import Connection
from aura.store.queries import queries
from aura.store.queues import LEAST_TALLIED, MOST_TALLIED, CountBy, counted, only_open
from aura.store.search import STATES

_SQL = queries("postgres")


def listing(where: RunFilter) -> tuple[str, list[Any]]:
    """The query for these runs, by their state, workflow or parent, and its values."""
    first = [*where.end, where.limit]
    if where.parent is not None:
        return "children", [*first, where.parent, where.state, where.workflow]
    if where.workflow is not None:
        states = list(STATES) if where.state is None else [where.state]
        return "runs_of_workflow", [*first, states, where.workflow]
    if where.state is not None:
        return "runs_in_state", [*first, where.state]
    return "runs", first


def listing_among(where: RunFilter) -> tuple[list[str], str | None] | None:
    """The states and the workflow among whose runs is searched; None for all runs."""
    if where.state is None and where.workflow is None:
        return None
    return list(STATES) if where.state is None else [where.state], where.workflow


async def count_runs(
    connection: Connection, by: Sequence[CountBy], queue: str | None
) -> dict[tuple[str | None, ...], int]:
    names = ", ".join(f"r.{name}" for name in counted(by))
    query = "count_open"
    if not only_open(by):
        query = "count_runs"
        while await connection.fetchval(_SQL["tally"], LEAST_TALLIED, MOST_TALLIED):
            pass
    rows = await connection.fetch(_SQL[query].replace(":names", names), queue)
    return {tuple(row[:-1]): row[-1] for row in map(tuple, rows)}
