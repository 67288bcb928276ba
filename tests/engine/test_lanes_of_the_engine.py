"""What the engine does for itself opens no lane in a run. Found by the simulation (seed 231)."""

from __future__ import annotations

import asyncio

from aura import step
from tests.engine.kit import World, declare


@step(idempotent=True)
async def look(number: int) -> int:
    return number


async def branching() -> list[int]:
    first = await look(1)  # the first entry of the process that may wait
    return [first, *await asyncio.gather(look(2), look(3))]


async def test_looking_up_how_often_processes_fail_opens_no_lane(world: World) -> None:
    workflow = declare(branching)
    app = await world.open(workflow, durability="adaptive")
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=20) == [1, 2, 3]
    keys = sorted(entry.key for entry in await world.journal("r"))
    assert keys == ["0.1/look#1", "0.2/look#1", "0/look#1"]


async def test_a_critical_signal_that_a_run_sends_opens_no_lane(world: World) -> None:
    async def sending() -> list[int]:
        await app.run("r").signal("hello", priority="critical", id="once")
        return list(await asyncio.gather(look(2), look(3)))

    workflow = declare(sending)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=20) == [2, 3]
    keys = sorted(entry.key for entry in await world.journal("r"))
    assert keys == ["0.1/look#1", "0.2/look#1"]
