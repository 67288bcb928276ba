"""Time limits of scopes: journalled, kept over crashes, the same on every replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import aura
from aura import Aura, Workflow, step
from aura.errors import ConfigError, InvalidInput
from aura.store.base import Entry, RunFilter
from tests.engine.jumps import Jumps
from tests.engine.kit import World, declare, replayed, resumed, until


async def never() -> None:
    await asyncio.Event().wait()


# -- what is interrupted -----------------------------------------------------------------------


@step
async def slow(text: str) -> str:
    await never()
    return text


async def in_a_step() -> None:
    await slow("a")


async def in_a_sleep() -> None:
    await aura.sleep(3_600)


async def in_a_receive() -> None:
    await aura.receive("nothing")


async def in_a_receive_with_more_time() -> None:
    await aura.receive("nothing", timeout=3_600)


async def in_an_update() -> None:
    await aura.receive_update("nothing")


async def in_branches() -> None:
    await asyncio.gather(slow("a"), aura.sleep(3_600), aura.receive("nothing"))


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(aura.sleep(3_600))
        group.create_task(slow("b"))


async def in_a_branch_with_a_limit_of_its_own() -> None:
    async def limited() -> None:
        async with aura.timeout(3_600):
            await slow("c")

    await asyncio.gather(limited(), limited())


async def in_something_that_is_not_durable() -> None:
    await never()


WAITS: list[Callable[[], Any]] = [
    in_a_step, in_a_sleep, in_a_receive, in_a_receive_with_more_time, in_an_update, in_branches,
    in_a_group, in_a_branch_with_a_limit_of_its_own, in_something_that_is_not_durable,
]  # fmt: skip


@pytest.mark.parametrize("wait", WAITS)
async def test_whatever_waits_is_interrupted_now_and_on_replay(
    memory: World, jumps: Jumps, wait: Callable[[], Any]
) -> None:
    @step
    async def work(text: str) -> str:
        return text

    async def flow() -> list[str]:
        done = [await work("before")]
        try:
            async with aura.timeout(60) as limit:
                done.append(await work("inside"))
                await wait()
                done.append("too far")
        except TimeoutError:
            done.append(await work("after"))
        assert limit.expired()
        return done

    workflow = declare(flow)
    app = await memory.open(workflow)
    expected = ["before", "inside", "after"]
    run = await app.start(workflow, id="r")
    await until(lambda: _has_entries(app, 3))
    await jumps.on(61)
    assert await run.result(timeout=20) == expected
    journal = await app.store.journal("r")
    assert [one.key for one in journal if one.kind == "over"] == ["0/timeout#1/over"]
    for length in range(len(journal)):
        found = await _resumed(jumps, app, workflow, journal[:length])
        early = length <= 2  # the time may have been over before the step inside had begun
        assert found == expected or (early and found == ["before", "after"]), length


async def test_what_is_done_in_time_is_not_interrupted(world: World) -> None:
    async def flow() -> tuple[str, bool]:
        async with aura.timeout(timedelta(seconds=60)) as limit:
            await aura.sleep(0.01)
        return "done", limit.expired()

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=10) == ("done", False)
    assert [one.kind for one in await world.journal("r")] == ["timeout", "sleep", "woke"]


async def test_no_limit_is_none(memory: World) -> None:
    async def flow() -> str:
        async with aura.timeout(None) as limit:
            await aura.sleep(0.01)
        assert limit.when() is None
        return "done"

    app = await memory.open()
    assert await (await app.start(declare(flow), id="r")).result(timeout=10) == "done"


@pytest.mark.parametrize("limit", [0, -5, timedelta(days=-1)])
async def test_no_time_at_all(memory: World, limit: Any) -> None:
    async def flow() -> str:
        try:
            async with aura.timeout(limit):
                await slow("a")
        except TimeoutError as error:
            return str(error)
        return "?"

    app = await memory.open()
    assert "not done within" in await (await app.start(declare(flow))).result(timeout=10)


async def test_a_deadline_that_is_no_time_is_refused(memory: World) -> None:
    async def flow() -> None: ...

    app = await memory.open(workflow := declare(flow))
    deadline: Any = "tomorrow"
    with pytest.raises(InvalidInput, match="'tomorrow' is no time"):
        await app.start(workflow, deadline=deadline)


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), "5"])
def test_what_is_no_time_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidInput, match="has no end"):
        aura.timeout(limit)


async def test_a_limit_is_entered_once(memory: World) -> None:
    async def flow() -> str:
        limit = aura.timeout(5)
        async with limit:
            await aura.sleep(0)
        try:
            async with limit:
                await aura.sleep(0)
        except ConfigError as error:
            return error.message
        return "?"

    app = await memory.open()
    assert "entered twice" in await (await app.start(declare(flow))).result(timeout=10)


async def test_outside_a_run_it_is_a_plain_one() -> None:
    with pytest.raises(TimeoutError):
        async with aura.timeout(0.01) as limit:
            await never()
    assert limit.expired()
    async with aura.timeout(timedelta(seconds=60)) as limit:
        await asyncio.sleep(0)
    assert not limit.expired()


async def test_in_a_step_it_is_a_plain_one(memory: World) -> None:
    @step
    async def careful() -> str:
        try:
            async with aura.timeout(0.01):
                await never()
        except TimeoutError:
            return "in time"
        return "?"

    async def flow() -> str:
        return await careful()

    app = await memory.open()
    run = await app.start(declare(flow), id="r")
    assert await run.result(timeout=10) == "in time"
    assert [one.kind for one in await app.store.journal("r")] == ["step"]


# -- scopes in scopes --------------------------------------------------------------------------


async def test_the_inner_one_first(jumps: Jumps) -> None:
    async def flow() -> list[str]:
        said = []
        try:
            async with aura.timeout(150):
                try:
                    async with aura.timeout(60):
                        await aura.sleep(3_600)
                except TimeoutError:
                    said.append("inner")
                await aura.sleep(3_600)
        except TimeoutError:
            said.append("outer")
        return said

    await _same_for_all_prefixes(jumps, flow, ["inner", "outer"], ["outer"], after=(3, 5))


async def test_the_outer_one_first(jumps: Jumps) -> None:
    async def flow() -> list[str]:
        said = []
        try:
            async with aura.timeout(50):
                try:
                    async with aura.timeout(600):
                        await aura.sleep(3_600)
                except TimeoutError:
                    said.append("inner")
        except TimeoutError:
            said.append("outer")
        return said

    await _same_for_all_prefixes(jumps, flow, ["outer"], after=(3,))


async def test_both_at_once(jumps: Jumps) -> None:
    async def flow() -> list[str]:
        said = []
        try:
            async with aura.timeout(0), aura.timeout(0):
                await aura.sleep(60)
        except TimeoutError:
            said.append("timeout")
        await aura.sleep(0.01)
        return said

    await _same_for_all_prefixes(jumps, flow, ["timeout"], after=())


async def test_one_after_the_other(jumps: Jumps) -> None:
    async def flow() -> list[int]:
        said = []
        for number in range(3):
            try:
                async with aura.timeout(60):
                    await aura.sleep(3_600)
            except TimeoutError:
                said.append(number)
        return said

    await _same_for_all_prefixes(jumps, flow, [0, 1, 2], after=(2, 5, 8))


async def test_cleaning_up_may_take_steps(jumps: Jumps) -> None:
    @step
    async def clean(what: str) -> str:
        return what

    async def flow() -> list[str]:
        said = []
        try:
            async with aura.timeout(60):
                try:
                    await slow("a")
                finally:
                    said.append(await clean("up"))
        except TimeoutError:
            said.append("late")
        return said

    await _same_for_all_prefixes(jumps, flow, ["up", "late"])


async def test_another_error_is_not_hidden(jumps: Jumps) -> None:
    async def flow() -> str:
        try:
            async with aura.timeout(60):
                try:
                    await slow("a")
                except asyncio.CancelledError:
                    raise KeyError("mine") from None
        except KeyError:
            await aura.sleep(0.01)  # the cancellation does not come again
            return "mine"
        return "?"

    await _same_for_all_prefixes(jumps, flow, "mine")


async def test_a_timeout_of_one_branch_leaves_the_others(jumps: Jumps) -> None:
    @step
    async def work(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    async def impatient() -> str:
        try:
            async with aura.timeout(60):
                await slow("a")
        except TimeoutError:
            return "late"
        return "?"

    async def patient() -> list[int]:
        found = [await work(number) for number in range(8)]
        await aura.sleep(30)
        return found

    async def flow() -> tuple[str, list[int]]:
        one, other = await asyncio.gather(impatient(), patient())
        return one, other

    await _same_for_all_prefixes(jumps, flow, ("late", list(range(8))), after=(10,))


async def test_what_a_race_left_behind_is_left_behind_again(memory: World) -> None:
    """A scope that ends as its time is over, and a step that ends as it does."""

    @step
    async def quick(number: int) -> int:
        return number

    async def flow() -> list[str]:
        said = []
        for number in range(12):
            try:
                async with aura.timeout(0.004):
                    while True:
                        said.append(f"{number}:{await quick(number)}")
            except TimeoutError:
                said.append(f"{number} over")
        return said

    workflow = declare(flow)
    app = await memory.open(workflow)
    run = await app.start(workflow, id="r")
    expected = await run.result(timeout=30)
    journal = await app.store.journal("r")
    assert await replayed(app, workflow, journal) == expected


async def _same_for_all_prefixes(
    jumps: Jumps,
    flow: Callable[[], Any],
    expected: object,
    *others: object,
    after: tuple[int, ...] = (1,),
) -> None:
    """The flow gives what is expected, live and however much of its journal a crash leaves.

    `after`: when there are so many entries, time is moved on by 100 s. `others`: or one of these,
    when the time was over before the crash had left an `over`.
    """
    workflow = declare(flow)
    app = await jumps.world.open(workflow)
    run = await app.start(workflow, id="r")
    for count in after:
        await until(lambda count=count: _has_entries(app, count))  # type: ignore[misc]
        await jumps.on(100)
    assert await run.result(timeout=30) == expected
    journal = await app.store.journal("r")
    assert any(one.kind == "over" for one in journal)
    for length in range(len(journal) + 1):
        found = await _resumed(jumps, app, workflow, journal[:length])
        over = any(one.kind == "over" for one in journal[:length])
        assert found == expected or (found in others and not over), length


async def _resumed(
    jumps: Jumps, app: Aura, workflow: Workflow[..., Any], journal: list[Entry]
) -> Any:
    """What a run gives whose journal begins so, while time goes on in steps of 100 s: when it has
    left memory, or has done nothing else for a while."""
    run = await resumed(app, workflow, journal)
    task = asyncio.create_task(run.result(timeout=60))
    while not task.done():
        give_up = time.monotonic() + 0.3
        while not task.done() and time.monotonic() < give_up and await run.status() != "waiting":
            await asyncio.wait([task], timeout=0.02)
        await jumps.on(100)
        await asyncio.wait([task], timeout=0.02)
    return task.result()


async def _has_entries(app: Aura, count: int) -> bool:
    return len(await app.store.journal("r")) >= count


async def test_a_child_is_asked_to_stop(world: World, jumps: Jumps) -> None:
    async def below() -> None:
        await aura.receive("nothing")

    child = declare(below)

    async def flow() -> str:
        try:
            async with aura.timeout(60):
                await asyncio.gather(child(), child())
        except TimeoutError:
            return "late"
        return "?"

    workflow = declare(flow)
    app = await world.open(workflow, child)
    run = await app.start(workflow, id="r")

    async def states() -> list[str]:
        found = await app.store.runs(RunFilter(workflow="below"))
        return [one.state for one in found]

    async def begun() -> bool:
        return len(await states()) == 2

    async def stopped() -> bool:
        return await states() == ["cancelled"] * 2

    await until(begun)
    await jumps.on(100)
    assert await run.result(timeout=30) == "late"
    await until(stopped)


# -- sagas -------------------------------------------------------------------------------------


async def test_a_saga_in_a_limit_is_compensated(jumps: Jumps) -> None:
    done: list[str] = []

    @step
    async def pay() -> str:
        return "paid"

    @step
    async def refund(paid: str) -> None:
        done.append(f"refund {paid}")

    async def flow() -> str:
        try:
            async with aura.timeout(60), aura.saga() as saga:
                await saga.step(pay, compensate=refund)
                await aura.sleep(3_600)
        except TimeoutError:
            return "taken back"
        return "?"

    await _same_for_all_prefixes(jumps, flow, "taken back", after=(3,))
    assert "refund paid" in done


async def test_after_a_pivot_a_limit_around_the_saga_waits_for_its_end(jumps: Jumps) -> None:
    @step
    async def pay() -> str:
        return "paid"

    async def flow() -> list[str]:
        said = []
        try:
            async with aura.timeout(60), aura.saga() as saga:
                await saga.step(pay, pivot=True)
                await aura.sleep(90)
                try:
                    async with aura.timeout(60):  # inside: it is the saga's own business
                        await aura.sleep(3_600)
                except TimeoutError:
                    said.append("inner")
                said.append("all of it")
        except TimeoutError:
            said.append("then late")
        await aura.sleep(0.01)
        return said

    expected = ["inner", "all of it", "then late"]
    await _same_for_all_prefixes(jumps, flow, expected, ["then late"], after=(3, 7))
