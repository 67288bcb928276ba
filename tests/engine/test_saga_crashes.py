"""Sagas whose process dies, or whose run is cancelled, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import aura
from aura import RunFailed, saga, step
from aura.errors import RunCancelled, RunParked
from aura.store.base import Entry
from tests.engine.kit import World, declare, resumed, until
from tests.engine.saga_kit import breaking, broken, fail, keys, make, ran, unmake, unmake_nothing


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    ran.clear()
    yield
    broken.clear()


def in_order(journal: list[Entry], needed: dict[str, set[str]]) -> None:
    """Every compensation has its step and comes once, after those of the steps that needed it."""
    found = keys(journal)
    assert len(found) == len(set(found))
    taken_back = [key for key in found if "~" in key]
    for place, key in enumerate(taken_back):
        assert found.index(key.replace("~", "")) < found.index(key)
        for later in needed.get(key, set()):
            assert later not in taken_back[place:], f"{key} before {later}"


async def branches() -> None:
    """a, then b c beside d, then e; then it waits or fails."""
    async with saga("branches") as order:
        await order.step(make, "a", compensate=unmake)

        async def first() -> None:
            await order.step(make, "b", compensate=unmake)
            await order.step(make, "c", compensate=unmake)

        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            group.create_task(order.step(make, "d", compensate=unmake))
        await order.step(make, "e", compensate=unmake)
        await order.step(last, compensate=unmake_nothing)


@step
async def last() -> None:
    ran.append("last")
    if "last" in broken:
        raise ValueError("last is broken")
    await asyncio.Event().wait()


NEEDED = {
    "0/~make#1": {"0.1/~make#1", "0.1/~make#2", "0.2/~make#1", "0/~make#2"},
    "0.1/~make#1": {"0.1/~make#2", "0/~make#2"},
    "0.1/~make#2": {"0/~make#2"},
    "0.2/~make#1": {"0/~make#2"},
}
TAKEN_BACK = {"0/~make#2", *NEEDED}


async def test_a_failed_saga_survives_a_crash_after_every_append(world: World) -> None:
    workflow = declare(branches)
    app = await world.open(workflow)
    with breaking("last"):
        run = await app.start(workflow)
        with pytest.raises(RunFailed):
            await run.result(timeout=60)
        journal = await app.store.journal(run.id)
        assert set(keys(journal)) == TAKEN_BACK | {key.replace("~", "") for key in TAKEN_BACK}
        for cut in range(len(journal) + 1):
            ran.clear()
            again = await resumed(app, workflow, journal[:cut])
            with pytest.raises(RunFailed):
                await again.result(timeout=60)
            grown = await app.store.journal(again.id)
            in_order(grown, NEEDED)
            assert {key for key in keys(grown) if "~" in key} == TAKEN_BACK
            assert len(ran) == len(keys(grown)) + 1 - len(keys(journal[:cut])) - (
                any(entry.key == "0/last#1" for entry in journal[:cut])
            )


async def test_a_cancelled_saga_survives_a_crash_after_every_append(world: World) -> None:
    workflow = declare(branches)
    app = await world.open(workflow)
    run = await app.start(workflow)
    await until(lambda: "last" in ran)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    journal = await app.store.journal(run.id)
    assert {key for key in keys(journal) if "~" in key} == TAKEN_BACK
    for cut in range(len(journal) + 1):
        ran.clear()
        again = await resumed(app, workflow, journal[:cut], cancelled=True)
        with pytest.raises(RunCancelled):
            await again.result(timeout=60)
        grown = await app.store.journal(again.id)
        in_order(grown, NEEDED)
        made = {key.replace("/", "/~") for key in keys(grown) if "~" not in key}
        assert {key for key in keys(grown) if "~" in key} == made
        if cut > 5:
            assert made == TAKEN_BACK


@pytest.mark.parametrize("rounds", range(1, 12))
async def test_a_cancel_at_any_moment_compensates_what_has_finished(
    world: World, rounds: int
) -> None:
    """Also a step whose result was being written when the cancel came."""

    async def flow() -> None:
        async with saga() as order:
            for name in "abc":
                await order.step(make, name, compensate=unmake)

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id=f"r{rounds}")
    await until(lambda: "a" in ran)
    for _ in range(rounds * 2):
        await asyncio.sleep(0)
    execution = app._worker and app._worker._executions.get(run.id)
    if execution:
        execution.cancel()
    try:
        await run.result(timeout=60)
        cancelled = False
    except RunCancelled:
        cancelled = True
    journal = await world.journal(run.id)
    found = keys(journal)
    made = [key for key in found if "~" not in key]
    expected = [key.replace("/", "/~") for key in reversed(made)] if cancelled else []
    assert [key for key in found if "~" in key] == expected
    for cut in range(len(made), len(journal) + 1):
        again = await resumed(app, workflow, journal[:cut], cancelled=cancelled)
        if cancelled:
            ended = await asyncio.gather(again.result(timeout=60), return_exceptions=True)
            grown = keys(await app.store.journal(again.id))
            made = [key for key in grown if "~" not in key]
            if ended[0] is None:  # the cancel came when nothing was left to do
                assert len(grown) == 3
                assert not any(entry.key == "0/~~saga#1" for entry in journal[:cut])
                continue
            assert isinstance(ended[0], RunCancelled)
            assert grown == [*made, *(key.replace("/", "/~") for key in reversed(made))]


async def test_a_cancelled_run_whose_compensation_fails_is_parked_and_ends_cancelled(
    world: World,
) -> None:
    workflow = declare(branches)
    app = await world.open(workflow)
    with breaking("<d>"):
        run = await app.start(workflow)
        await until(lambda: "last" in ran)
        await run.cancel()
        with pytest.raises(RunParked, match=r"failed 0\.2/make#1"):
            await run.result(timeout=60)
        done = {key for key in keys(await world.journal(run.id)) if "~" in key}
        assert done == TAKEN_BACK - {"0.2/~make#1", "0/~make#1"}
    await run.requeue()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    found = [key for key in keys(await world.journal(run.id)) if "~" in key]
    assert found[-2:] == ["0.2/~make#1#2", "0/~make#1"]
    assert len(found) == len(TAKEN_BACK)


async def test_a_cancel_while_a_failed_scope_is_compensated_waits_for_it(world: World) -> None:
    stuck, go_on = asyncio.Event(), asyncio.Event()

    async def take_back(made: str) -> None:
        ran.append(f"not {made}")
        stuck.set()
        await go_on.wait()

    async def flow() -> None:
        try:
            async with saga() as order:
                await order.step(make, "a", compensate=unmake)
                await order.step(make, "b", compensate=take_back)
                await fail()
        except RuntimeError:
            await make("after")

    app = await world.open()
    run = await app.start(declare(flow))
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    await asyncio.sleep(0.02)
    go_on.set()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert ran[:4] == ["a", "b", "not <b>", "not <a>"]


async def test_a_branch_that_is_cancelled_by_another_one_is_compensated(world: World) -> None:
    async def branch(made: asyncio.Event) -> None:
        async with saga() as order:
            await order.step(make, "a", compensate=unmake)
            await order.step(make, "b", compensate=unmake)
            made.set()
            await asyncio.Event().wait()

    async def other(made: asyncio.Event) -> None:
        await made.wait()
        await aura.sleep(0.01)
        await fail()

    async def flow() -> str:
        made = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(branch(made))
                group.create_task(other(made))
        except* RuntimeError:
            await make("c")
        return "went on"

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow)
    assert await run.result(timeout=60) == "went on"
    assert ran == ["a", "b", "not <b>", "not <a>", "c"]
    journal = await world.journal(run.id)
    for cut in range(len(journal) + 1):
        again = await resumed(app, workflow, journal[:cut])
        assert await again.result(timeout=60) == "went on"
        grown = [key for key in keys(await world.journal(again.id)) if key.startswith("0.1/")]
        made = [key for key in grown if "~" not in key]
        assert grown == [*made, *(key.replace("/", "/~") for key in reversed(made))]


async def test_a_scope_with_a_time_limit_is_compensated_when_it_is_over(world: World) -> None:
    async def flow() -> str:
        try:
            async with asyncio.timeout(None) as limit, saga() as order:
                await order.step(make, "a", compensate=unmake)
                limit.reschedule(0)  # its time is over now, and not when the machine thinks so
                await asyncio.Event().wait()
        except TimeoutError:
            return "too late"
        return "never"

    app = await world.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == "too late"
    assert ran == ["a", "not <a>"]
