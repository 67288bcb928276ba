"""Lists and counts read what they show and no more, however many runs there are.

Asserted is what PostgreSQL does for each statement, not how long it takes: the rows that are read,
with the database analysed. SQLite's statements name their indexes (`INDEXED BY`), which are used or
the statement fails.
"""

from __future__ import annotations

import time
from dataclasses import replace

from aura import Aura, Config
from aura.server import operations, queues
from aura.server.operations import write_cursor
from aura.store.base import RunFilter
from aura.store.postgres import PostgresStore
from benchmarks.plans import Plan, explained, recorded
from benchmarks.seeding import seed

RUNS = 50_000
PAGE = 50
LARGE = ("runs", "journal", "attributes")
MOST = 6_000
"""Rows that one statement may read: a page from each of thirteen workflows in each of eight states,
or the runs of a state that has few."""


async def plans_of_everything(url: str) -> list[Plan]:
    with recorded() as statements:
        app = Aura("plans", config=Config(database=url))
        await app.open(worker=False)
        try:
            await app.store.count_runs(("state",))  # tallies
            statements.clear()
            await _ask(app)
        finally:
            await app.close()
    return await explained(url, statements)


async def _ask(app: Aura) -> None:
    store = app.store
    cursor = write_cursor(time.time() - 15 * 86_400.0, "")
    for state in (None, "completed", "parked"):
        for workflow in (None, "research", "audit-yearly"):
            for words in ((), ("tier:gold",), ("customer:c-7", "tier:gold")):
                page = await operations.list_runs(
                    app, state=state, workflow=workflow, limit=PAGE, cursor=cursor, attributes=words
                )
                assert page.runs or workflow == "audit-yearly" or words or state == "parked"
    first = RunFilter(limit=PAGE)
    await store.runs(replace(first, owner="seed-worker"))
    await store.runs(replace(first, parent="seed-000000900"))
    await store.runs(replace(first, state="parked", by="parked"))
    overview = await operations.overview(app)
    assert sum(overview.runs.values()) == RUNS
    assert (await operations.show_run(app, "seed-000000900")).journal
    found = {one.name: one for one in await queues.list_queues(app)}
    assert (await queues.show_queue(app, "gpu")).queue == found["gpu"]
    await store.count_runs(("workflow", "version", "state"))
    await store.depths()


async def test_nothing_reads_all_runs(postgres_url: str) -> None:
    await seed(postgres_url, RUNS, steps=200)
    plans = await plans_of_everything(postgres_url)
    assert len(plans) >= 12
    used = {how for plan in plans for how, _, _ in plan.scans}
    assert any("runs_listed" in how for how in used)
    assert any("attributes_newest" in how for how in used)
    for plan in plans:
        told = f"{plan.statement.sql}\n{plan.brief()}"
        scanned = [table for how, table, _ in plan.scans if how == "Seq Scan" and table in LARGE]
        assert not scanned, told
        assert max((plan.rows(table) for table in LARGE), default=0) <= MOST, told


async def test_a_list_that_is_read_whole_would_be_seen(postgres_url: str) -> None:
    """The test of the test: what an index does not answer reads more than is allowed."""
    await seed(postgres_url, 20_000, steps=10)
    with recorded() as statements:
        store = PostgresStore(postgres_url)
        await store.open()
        await store.runs(RunFilter(limit=PAGE))
        await store.close()
    [listed] = [one for one in statements if "runs AS r" in one.sql and "ORDER BY" in one.sql]
    slow = listed._replace(sql=listed.sql.replace("WHERE", "WHERE r.origin = 'nobody' AND"))
    [fast_plan, slow_plan] = await explained(postgres_url, [listed, slow])
    assert fast_plan.rows("runs") <= PAGE
    assert slow_plan.rows("runs") == 20_000
