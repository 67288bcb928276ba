"""What a commit writes to PostgreSQL beside `aura.commit`, in the same transaction; and the search
for runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aura.store.base import Op, Outcome, RunFilter, SendSignal, Sent
from aura.store.postgres_link import Connection
from aura.store.postgres_lists import listing, listing_among
from aura.store.queries import queries
from aura.store.search import attribute_rows

_SQL = queries("postgres")


async def take_runs(
    connection: Connection,
    ops: Sequence[Op],
    outcomes: list[Outcome],
    takers: Mapping[str, tuple[str, int]],
) -> list[Outcome]:
    """The outcomes, after the takers of signals have taken their runs."""
    if not takers:
        return outcomes
    asked = [(run_id, *taker) for run_id, taker in takers.items()]
    rows = await connection.fetch(_SQL["take_runs"], *zip(*asked, strict=True))
    taken = {row[0] for row in rows}
    return [
        sent._replace(state="running", taken=True)
        if isinstance(op, SendSignal) and op.taker and op.run_id in taken and isinstance(sent, Sent)
        else sent
        for op, sent in zip(ops, outcomes, strict=True)
    ]


async def add_attributes(
    connection: Connection, ops: Sequence[Op], outcomes: Sequence[Outcome]
) -> None:
    """Write the attributes of the runs that were created."""
    rows = attribute_rows(ops, outcomes)
    if rows:
        await connection.execute(_SQL["add_attributes"], *zip(*rows, strict=True))


def search(where: RunFilter) -> tuple[str, list[Any]]:
    """The query for these runs, and its values."""
    if where.query is not None:
        names, values = zip(*where.attributes, strict=True) if where.attributes else ((), ())
        if where.attributes and where.parent is None and where.owner is None:
            among = listing_among(where)
            if among is not None:
                return "runs_by_attribute_among", [*among, *where.end, where.limit, names, values]
        more = (where.limit, where.parent, where.owner, names, values)
        return where.query, [where.state, where.workflow, *where.end, *more]
    return listing(where)
