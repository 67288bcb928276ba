"""Bringing the schema in PostgreSQL up to date.

All processes may do it at once: one of them does, in one transaction. What is `online` comes after
it, a statement at a time, so that the others can write meanwhile however long that takes: an index
of a large table. A process whose Aura needs it waits for it before it begins to work.
"""

from __future__ import annotations

from collections.abc import Sequence

from aura.clock import Clock
from aura.store.postgres_link import Connection
from aura.store.queries import Migration, migrations, outstanding, queries

_SQL = queries("postgres")
_LONGEST = 86_400.0  # seconds that an index may take
_PAUSE = 0.1


async def migrate(connection: Connection, clock: Clock) -> frozenset[str]:
    """Apply what is outstanding; the ids of all that is. Raises SchemaTooNew, SchemaMismatch."""
    later = await _together(connection)
    if later:
        await _beside(connection, later, clock)
    return frozenset(await _applied(connection))


async def _beside(connection: Connection, later: Sequence[Migration], clock: Clock) -> None:
    while not await connection.fetchval(_SQL["lock_online"]):
        await clock.sleep(_PAUSE)
    try:
        there = await _applied(connection)
        for one in later:
            if one.id not in there:
                await _online(connection, one)
    finally:
        if not connection.is_closed():
            await connection.execute(_SQL["unlock_online"])


async def _together(connection: Connection) -> Sequence[Migration]:
    """Apply what is for one transaction; the rest. A fresh database is small enough for all."""
    later = []
    async with connection.transaction():
        await connection.execute(_SQL["lock_schema"])
        if not await connection.fetchval(_SQL["has_schema"]):
            await connection.execute(_SQL["create_schema"])
        applied = await _applied(connection)
        oldest = None
        if await connection.fetchval(_SQL["has_workers"]):
            oldest = await connection.fetchval(_SQL["oldest_worker"])
        for one in outstanding(migrations("postgres"), applied, oldest):
            if one.online and applied:
                later.append(one)
                continue
            await connection.execute(one.sql.replace(" CONCURRENTLY", ""))
            await connection.execute(_SQL["record_migration"], one.id, one.checksum)
        await connection.execute(_SQL["forget_workers"])
    return later


async def _applied(connection: Connection) -> dict[str, str]:
    return {row[0]: row[1] for row in await connection.fetch(_SQL["applied_migrations"])}


async def _online(connection: Connection, one: Migration) -> None:
    for statement in one.sql.split(";"):
        if statement.strip():
            await connection.execute(statement, timeout=_LONGEST)
    await connection.execute(_SQL["record_migration"], one.id, one.checksum)
