"""Large payloads in PostgreSQL, see `aura.store.payloads`; each is part of a transaction."""

from __future__ import annotations

from collections.abc import Iterable

from aura.store.payloads import Bodies, Use
from aura.store.postgres_link import Connection
from aura.store.queries import queries

_SQL = queries("postgres")


async def keep(connection: Connection, bodies: Bodies) -> None:
    """Have these values be there until the end of the transaction, whatever is swept meanwhile."""
    await connection.execute(_SQL["keep_payloads"], list(bodies), list(bodies.values()))


async def use(connection: Connection, users: Iterable[Use]) -> None:
    """Say who has values that are kept."""
    await connection.execute(_SQL["use_payloads"], *zip(*users, strict=True))


async def loosen(connection: Connection, run_id: str, marks: Iterable[bytes]) -> None:
    """Say that a run may not have these values any more."""
    await connection.executemany(_SQL["loosen_payload"], [(run_id, mark) for mark in marks])
