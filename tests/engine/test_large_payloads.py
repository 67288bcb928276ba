"""A document that children, steps, signals and forks have is in the database once."""

from __future__ import annotations

import random

import aura
from aura import step
from aura.engine import retention
from aura.store.base import Store, Sweep
from aura.store.payloads import mark_of
from aura.store.portable import OF_RUNS, TABLES, Page
from tests.engine.kit import World, declare

CHILDREN = 12
DOCUMENT = random.Random(1).randbytes(200_000).hex()
"""Half of it is left when it is compressed."""


@step
async def first_words(document: str) -> str:
    return document[:8]


@step(idempotent=True)
async def corrected(document: str) -> str:
    return document


async def reader(document: str) -> str:
    return await first_words(await corrected(document))


reads = declare(reader)


async def readers(document: str) -> list[str]:
    again = await aura.receive("document", type=str)
    assert again == document
    return await aura.map(reads, [document] * CHILDREN, concurrency=4)


async def _large(store: Store) -> list[bytes]:
    """All large values that rows have, as they are read."""
    found: list[bytes] = []
    for table in ("runs", *OF_RUNS):
        page = Page(table)
        while rows := await store.rows(page):
            values = [value for row in rows for value in row.values()]
            found += [value for value in values if mark_of(value) is not None]
            page = Page(table, tuple(rows[-1][name] for name in TABLES[table].key))
    return found


async def test_a_document_that_many_runs_have(world: World) -> None:
    reading = declare(readers)
    app = await world.open(reading, reads)
    run = await app.start(reading, DOCUMENT, id="all")
    await run.signal("document", DOCUMENT)
    result = await run.result(timeout=60)
    assert result == [DOCUMENT[:8]] * CHILDREN
    again = await run.fork(at="0/signal:document#1/got", id="again")
    await again.signal("document", DOCUMENT)
    assert await again.result(timeout=60) == result
    values = await _large(app.store)
    assert len(values) > 3 * CHILDREN
    assert len(set(values)) == 2, "as a list of arguments, and as itself"

    async def plan() -> Sweep:
        return Sweep(-60.0)

    swept = await retention.sweep(app.store, app.clock, plan)
    assert swept.payloads == 2
