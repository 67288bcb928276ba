"""What steps write to streams, beside what their workflow writes: order, crashes and forks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aura
from aura import step
from aura.engine import streams
from tests.engine.kit import World, declare


@pytest.fixture(autouse=True)
def _gathered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No item is written just because some milliseconds are over."""
    monkeypatch.setattr(streams, "_GATHER", 3_600.0)


async def told(run: aura.Run[Any]) -> list[Any]:
    return [item async for item in run.stream("tokens")]


@step
async def talks(name: str) -> str:
    for number in (1, 2):
        aura.stream("tokens").write(f"{name}{number}")
    return name


@step
def talks_in_a_thread(name: str) -> str:
    aura.stream("tokens").write(name)
    return name


@step(idempotent=True)
async def looks(name: str) -> str:
    aura.stream("tokens").write(name)
    return name


@step.transaction
async def writes(tx: Any, name: str) -> str:
    await tx.fetchval("SELECT 1")
    aura.stream("tokens").write(name)
    return name


async def conversation() -> None:
    for name in ("a", "b"):
        aura.stream("tokens").write(f"begin {name}")
        await talks(name)
    await talks_in_a_thread("thread")
    await looks("look")
    await writes("transaction")
    aura.stream("tokens").write("end")


WORDS = ["begin a", "a1", "a2", "begin b", "b1", "b2", "thread", "look", "transaction", "end"]


@pytest.mark.parametrize("durability", ["sync", "adaptive"])
async def test_items_of_workflow_and_steps_come_in_the_order_in_which_they_were_written(
    world: World, durability: Any
) -> None:
    workflow = declare(conversation)
    app = await world.open(workflow, durability=durability)
    run = await app.start(workflow)
    await run.result(timeout=60)
    assert await told(run) == WORDS


async def test_what_a_finished_step_has_written_outlives_its_process(world: World) -> None:
    """The step does not run again, so nobody would write it again."""
    reached, dead = asyncio.Event(), False

    @step
    async def kills() -> None:
        reached.set()
        if not dead:
            await asyncio.Event().wait()

    async def flow() -> None:
        await talks("a")
        await kills()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    async with asyncio.timeout(60):
        await reached.wait()
    await world.crash(app)
    dead = True
    again = await world.open(workflow)
    await again.run("r").result(timeout=60)
    assert await told(again.run("r")) == ["a1", "a2"]


async def test_a_fork_has_what_its_finished_steps_have_written(world: World) -> None:
    workflow = declare(conversation)
    app = await world.open(workflow)
    run = await app.start(workflow)
    await run.result(timeout=60)
    forked = await run.fork(at="0/talks#2")
    await forked.result(timeout=60)
    assert await told(forked) == WORDS


async def test_a_step_that_runs_again_in_another_process_writes_again(world: World) -> None:
    tries: list[int] = []
    written = asyncio.Event()

    @step
    async def generates() -> None:
        tries.append(1)
        for number in range(300):  # more than one batch has: the first one is written at once
            aura.stream("tokens").write([len(tries), number])
        if len(tries) == 1:
            written.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        await generates()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    async with asyncio.timeout(60):
        await written.wait()
        while not await app.store.entries("r", "stream"):
            await asyncio.sleep(0.005)
    await world.crash(app)
    again = await world.open(workflow)
    await again.run("r").result(timeout=60)
    items = await told(again.run("r"))
    assert [item for item in items if item[0] == 2] == [[2, number] for number in range(300)]
    keys = [entry.key for entry in await world.journal("r")]
    assert len(set(keys)) == len(keys)
