"""`aura.map`: results in order, bounded, with keys that do not depend on who finished first."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import aura
from aura import RunFailed, StepFailed, step
from aura.errors import InvalidInput, RunCancelled
from tests.engine.kit import Ledger, World, declare, replayed, until
from tests.engine.test_children import children_of, part, part_workflow


class Meter:
    """How many calls were under way at once."""

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0
        self.together = 1  # the first calls wait until so many are under way
        self._all_here = asyncio.Event()
        self._chance = random.Random(5)

    async def visit(self) -> None:
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= self.together:
            self._all_here.set()
        await self._all_here.wait()
        for _ in range(self._chance.randrange(5)):
            await asyncio.sleep(0)
        self.now -= 1


@pytest.fixture
def meter() -> Meter:
    return Meter()


async def test_steps_in_order_and_bounded(world: World, meter: Meter) -> None:
    meter.together = 7

    @step
    async def square(value: int) -> int:
        await meter.visit()
        return value * value

    async def flow(count: int) -> list[int]:
        return await aura.map(square, range(count), concurrency=7)

    app = await world.open()
    run = await app.start(declare(flow), 100, id="m")
    assert await run.result(timeout=60) == [n * n for n in range(100)]
    assert (meter.calls, meter.most) == (100, 7)
    keys = {one.key for one in await world.journal("m") if one.kind == "step"}
    assert keys == {f"0.1.{n}/square#1" for n in range(1, 101)}


async def test_two_thousand_items_are_replayed_from_any_point(memory: World) -> None:
    count = 2_000
    meter = Meter()

    @step(idempotent=True)
    async def square(value: int) -> int:
        await meter.visit()
        return value * value

    async def flow(count: int) -> int:
        return sum(await aura.map(square, range(count), concurrency=50))

    workflow = declare(flow)
    app = await memory.open()
    run = await app.start(workflow, count, id="m")
    expected = sum(n * n for n in range(count))
    assert await run.result(timeout=60) == expected
    journal = await app.store.journal("m")
    assert meter.calls == count
    for cut in (1, count // 2, count, len(journal)):
        meter.calls = 0
        assert await replayed(app, workflow, journal[:cut], count) == expected
        steps = sum(one.kind == "step" for one in journal[:cut])
        assert meter.calls == count - steps, "what is in the journal does not run again"


async def test_workflows(world: World) -> None:
    async def flow(count: int) -> list[int]:
        return await aura.map(part_workflow, range(count), concurrency=10)

    workflow = declare(flow)
    app = await world.open()
    run = await app.start(workflow, 60, id="m")
    assert await run.result(timeout=60) == [2 * n for n in range(60)]
    ids = {one.id for one in await children_of(app, "m")}
    assert ids == {f"m/0.1.{n}/part#1" for n in range(1, 61)}
    assert await replayed(app, workflow, await world.journal("m"), 60) == [2 * n for n in range(60)]


async def test_any_function_and_several_maps_side_by_side(memory: World) -> None:
    @step
    async def add(one: int, two: int) -> int:
        return one + two

    async def both(value: int) -> int:
        return await add(await add(value, 1), 1)

    async def flow() -> list[list[int]]:
        first = aura.map(both, [1, 2])
        second = aura.map(lambda value: add(value, 10), iter([3, 4]))
        return list(await asyncio.gather(first, second))

    app = await memory.open()
    run = await app.start(declare(flow), id="m")
    assert await run.result(timeout=20) == [[3, 4], [13, 14]]
    keys = [one.key for one in await app.store.journal("m") if one.kind == "step"]
    assert sorted(keys) == sorted(
        [
            *(f"0.1.1.{item}/add#{call}" for item in (1, 2) for call in (1, 2)),
            *(f"0.2.1.{item}/add#1" for item in (1, 2)),
        ]
    )


async def test_no_items(memory: World) -> None:
    async def flow() -> list[int]:
        return await aura.map(part_workflow, [])

    app = await memory.open()
    assert await (await app.start(declare(flow))).result(timeout=20) == []


async def test_outside_a_run(meter: Meter) -> None:
    async def square(value: int) -> int:
        await meter.visit()
        return value * value

    meter.together = 3
    assert await aura.map(square, range(20), concurrency=3) == [n * n for n in range(20)]
    assert meter.most == 3
    assert await aura.map(part_workflow, [1, 2]) == [2, 4]


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "many"])
async def test_what_is_no_number_at_once(concurrency: Any) -> None:
    with pytest.raises(InvalidInput, match="concurrency"):
        await aura.map(part, [1], concurrency=concurrency)


async def test_the_first_failure_ends_the_map(world: World, ledger: Ledger) -> None:
    @step
    async def check(value: int) -> int:
        ledger(str(value))
        if value == 3:
            raise aura.NonRetryable("three is bad")
        if value < 3:
            return value
        await asyncio.Event().wait()
        return value

    async def flow() -> list[int]:
        return await aura.map(check, range(100), concurrency=5)

    workflow = declare(flow)
    app = await world.open()
    run = await app.start(workflow, id="m")
    with pytest.raises(RunFailed, match="three is bad") as caught:
        await run.result(timeout=20)
    assert caught.value.type == StepFailed.__name__
    assert len(ledger.ran) < 20, "no more are begun"


async def test_failures_as_results(world: World) -> None:
    async def odd(value: int) -> int:
        if value % 2:
            raise ValueError(value)
        return value

    child = declare(odd)

    async def flow() -> list[str]:
        found = await aura.map(child, range(4), return_exceptions=True)
        return [
            f"{one.run_id}: {one.type}" if isinstance(one, RunFailed) else str(one) for one in found
        ]

    workflow = declare(flow)
    app = await world.open()
    run = await app.start(workflow, id="m")
    said = ["0", "m/0.1.2/odd#1: ValueError", "2", "m/0.1.4/odd#1: ValueError"]
    assert await run.result(timeout=20) == said
    assert await replayed(app, workflow, await world.journal("m")) == said


async def test_a_crash_in_the_middle(world: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()
    free = asyncio.Event()

    @step
    async def one(value: int) -> int:
        ledger(str(value))
        if value >= 50 and not free.is_set():
            stuck.set()
            await asyncio.Event().wait()
        return value

    async def flow() -> list[int]:
        return await aura.map(one, range(100), concurrency=10)

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="m")
    await asyncio.wait_for(stuck.wait(), 20)

    async def written() -> bool:
        return len([one for one in await world.journal("m") if one.kind == "step"]) == 50

    await until(written, timeout=20)
    await world.crash(app)
    free.set()
    app = await world.open(workflow)
    assert await app.run("m").result(timeout=60) == list(range(100))
    assert {name: ledger.count(name) for name in map(str, range(50))} == dict.fromkeys(
        map(str, range(50)), 1
    )


async def test_a_cancelled_map_cancels_its_children(world: World) -> None:
    async def wait() -> None:
        await aura.receive("never")

    waiting = declare(wait)

    async def flow() -> None:
        await aura.map(lambda _: waiting(), range(20))

    app = await world.open()
    run = await app.start(declare(flow), id="m")

    async def all_there() -> bool:
        return len(await children_of(app, "m")) == 20

    await until(all_there, timeout=20)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=20)
    for child in await children_of(app, "m"):
        with pytest.raises(RunCancelled):
            await app.run(child.id).result(timeout=20)


async def test_another_concurrency_on_replay_changes_nothing(memory: World) -> None:
    at_once = iter([20, 3])

    @step(idempotent=True)
    async def one(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def flow() -> list[int]:
        return await aura.map(one, range(60), concurrency=next(at_once))

    workflow = declare(flow)
    app = await memory.open()
    await (await app.start(workflow, id="m")).result(timeout=20)
    journal = await app.store.journal("m")
    assert await replayed(app, workflow, journal[:30]) == list(range(60))
