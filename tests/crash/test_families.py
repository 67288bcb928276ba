"""Parents and children whose workers are killed: no child is lost, none is started twice, and each
parent gets what its children gave, over executions that begin anew."""

from __future__ import annotations

import asyncio
import random
import time

from aura import Aura
from aura.codec import plain
from aura.store.base import RunFilter
from tests.crash.kit import Nursery
from tests.crash.program import family

KILLS, WORKERS, FAMILIES, SIZE, TURNS = 6, 3, 4, 6, 3
POINTS = ("before-commit", "after-commit", "before-claim", "after-claim")
TOTAL = TURNS * 2 * sum(range(SIZE)) + 2 * sum(1_000 * turn for turn in range(1, TURNS + 1))


async def recoveries(app: Aura) -> int:
    return sum([run.recoveries for run in await app.runs(RunFilter(limit=2_000))])


async def murder(nursery: Nursery, app: Aura, over: asyncio.Event) -> None:
    """Workers die, by a signal or at a fault point, until enough have, and some at work."""
    dice = random.Random(3)
    give_up = time.monotonic() + 120
    while nursery.deaths < KILLS or not await recoveries(app):
        assert time.monotonic() < give_up, f"{nursery.deaths} deaths: {nursery.log()}"
        while len(nursery.alive) < WORKERS:
            if dice.random() < 0.5:
                await nursery.fork(dice.choice(POINTS), dice.randint(1, 40))
            else:
                await nursery.fork()
        await asyncio.sleep(0.3 * dice.random())
        for pid in dice.sample(sorted(nursery.alive), min(len(nursery.alive), 1)):
            nursery.kill(pid)
        await asyncio.sleep(0.05)
    over.set()


async def keep_starting(app: Aura, over: asyncio.Event) -> list[str]:
    """At least so many families, and more while workers are killed."""
    ids: list[str] = []
    while len(ids) < FAMILIES or not over.is_set():
        ids.append(f"f{len(ids)}")
        await app.start(family, SIZE, 1, 0, id=ids[-1])
        await asyncio.sleep(0.5)
    return ids


def expected(parent: str) -> set[str]:
    """The ids of all children of a family."""
    executions = [parent, *(f"{parent}@{turn}" for turn in range(2, TURNS + 1))]
    return {
        f"{one}/{key}"
        for one in executions
        for key in ("0/start:member#1", *(f"0.1.{n}/member#1" for n in range(1, SIZE + 1)))
    }


async def test_no_child_is_lost_and_none_is_started_twice(nursery: Nursery) -> None:
    over = asyncio.Event()
    async with nursery.client() as app:
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(keep_starting(app, over))
            await murder(nursery, app, over)
        while not nursery.alive:
            await nursery.fork()
        await nursery.fork()  # a healthy one
        for parent in starting.result():
            assert await app.run(parent).result(timeout=120) == TOTAL
            record = await app.run(parent).record()
            assert record.execution == TURNS
            children = await app.runs(RunFilter(parent=parent, limit=1_000))
            assert {one.id for one in children} == expected(parent)
            assert {one.state for one in children} == {"completed"}
            assert record.signals == len(children), "each told of its end once"
            for child in children:
                journal = await app.store.journal(child.id)
                noted = [plain(entry.output) for entry in journal if entry.kind == "step"]
                assert 2 * noted[:1] == noted, "each step once"
