"""Time limits over crashes, waits until a time, and deadlines of runs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import aura
from aura import Retry, RunFailed, step
from aura.codec import to_json
from aura.errors import InvalidInput, RunCancelled
from aura.store.base import Entry
from tests.engine.jumps import Jumps
from tests.engine.kit import Ledger, World, declare, replayed, until


async def never() -> None:
    await asyncio.Event().wait()


def entry(seq: int, key: str, kind: str, output: Any = None) -> Entry:
    data = None if output is None else to_json(output)
    return Entry("", seq, key, kind, "", None, data, None, 1, 0.0, 0.0)


# -- over crashes ------------------------------------------------------------------------------


async def test_time_outs_count_across_recovery(world: World, jumps: Jumps) -> None:
    stuck = asyncio.Event()

    @step
    async def hang() -> None:
        stuck.set()
        await never()

    async def flow() -> str:
        started = aura.now()
        try:
            async with aura.timeout(60):
                await hang()
        except TimeoutError:
            return f"{(aura.now() - started).total_seconds():.3f}"
        return "?"

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 10)
    await until(lambda: _has(world, "r", "timeout"))
    deadline = next(one for one in await world.journal("r") if one.kind == "timeout").output
    await world.crash(app)
    await jumps.on(100)
    app = await world.open(workflow)
    assert float(await app.run("r", workflow).result(timeout=60)) >= 60
    after = [one for one in await world.journal("r") if one.kind == "timeout"]
    assert [one.output for one in after] == [deadline]


async def _has(world: World, run_id: str, kind: str) -> bool:
    return any(one.kind == kind for one in await world.journal(run_id))


async def test_nothing_new_begins_after_the_time_was_over_in_a_crash(
    memory: World, ledger: Ledger
) -> None:
    @step
    async def hang() -> None:
        ledger("hang")
        await never()

    async def flow() -> str:
        try:
            async with aura.timeout(60):
                await hang()
        except TimeoutError:
            return "over"
        return "?"

    workflow = declare(flow)
    app = await memory.open(workflow)
    passed = [entry(1, "0/timeout#1", "timeout", time.time() - 1)]
    assert await replayed(app, workflow, passed) == "over"
    assert ledger.ran == []


async def test_a_back_off_survives_a_restart_and_its_scope_ends_it(
    world: World, jumps: Jumps, ledger: Ledger
) -> None:
    @step(retries=Retry(attempts=5, first=3_600.0))
    async def failing() -> None:
        ledger("try")
        raise ValueError("again")

    async def flow() -> str:
        try:
            async with aura.timeout(600):
                await failing()
        except TimeoutError:
            return "over"
        return "?"

    workflow = declare(flow)
    app = await world.open(workflow, keep_in_memory=0.1)
    await app.start(workflow, id="r")
    await until(lambda: _has(world, "r", "attempt"))
    await world.crash(app)
    app = await world.open(workflow, keep_in_memory=0.1)
    await until(lambda: _is_waiting(world))
    await jumps.on(700)
    assert await app.run("r", workflow).result(timeout=60) == "over"
    assert ledger.ran == ["try"]


async def test_a_run_with_a_limit_leaves_memory_and_wakes_for_it(
    world: World, jumps: Jumps
) -> None:
    async def flow() -> str:
        try:
            async with aura.timeout(60):
                await aura.sleep(3_600)
        except TimeoutError:
            return "over"
        return "?"

    workflow = declare(flow)
    app = await world.open(workflow, keep_in_memory=0.2)
    run = await app.start(workflow, id="r")
    await until(lambda: _is_waiting(world))
    record = await world.record("r")
    assert record.wake_at is not None
    assert record.wake_at < jumps.now() + 60
    await jumps.on(100)
    assert await run.result(timeout=60) == "over"


async def _is_waiting(world: World) -> bool:
    return (await world.record("r")).state == "waiting"


async def test_a_limit_alone_takes_no_run_out_of_memory(memory: World, ledger: Ledger) -> None:
    """The code waits for something that is not durable: it would have to begin again."""

    async def flow() -> str:
        ledger("flow")
        async with aura.timeout(3_600):
            await asyncio.sleep(0.6)
        return "done"

    workflow = declare(flow)
    app = await memory.open(workflow, keep_in_memory=0.05)
    assert await (await app.start(workflow, id="r")).result(timeout=60) == "done"
    assert ledger.ran == ["flow"]


async def test_cancelling_the_run_is_no_timeout(world: World) -> None:
    inside = asyncio.Event()

    async def flow() -> str:
        try:
            async with aura.timeout(3_600):
                inside.set()
                await aura.sleep(3_600)
        except TimeoutError:
            return "timeout"
        return "?"

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    await asyncio.wait_for(inside.wait(), 10)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)


# -- sleep_until -------------------------------------------------------------------------------


async def test_sleep_until_a_moment(world: World) -> None:
    async def flow() -> float:
        moment = aura.now() + timedelta(seconds=0.3)
        await aura.sleep_until(moment)
        return (aura.now() - moment).total_seconds()

    workflow = declare(flow)
    app = await world.open(workflow)
    late = await (await app.start(workflow, id="r")).result(timeout=60)
    assert -0.01 <= late < 8
    journal = await world.journal("r")
    assert [one.kind for one in journal] == ["value", "sleep", "woke", "value"]


async def test_sleep_until_what_has_passed(memory: World) -> None:
    async def flow() -> str:
        await aura.sleep_until(datetime(2001, 1, 1, tzinfo=UTC))
        return "at once"

    app = await memory.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == "at once"


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), 5, None])  # noqa: DTZ001
def test_sleep_until_what_is_no_moment(moment: Any) -> None:
    with pytest.raises(InvalidInput, match="knows its zone"):
        _ = aura.sleep_until(moment)


async def test_sleep_until_outside_a_run() -> None:
    started = time.monotonic()
    await aura.sleep_until(datetime.now(UTC) + timedelta(seconds=0.05))
    assert time.monotonic() - started >= 0.04


# -- deadlines of runs -------------------------------------------------------------------------


async def test_a_run_is_interrupted_at_its_deadline(world: World) -> None:
    cleaned: list[str] = []

    async def flow() -> str:
        try:
            await aura.receive("nothing")
        finally:
            cleaned.append("up")
        return "?"

    workflow = declare(flow)
    app = await world.open(workflow, keep_in_memory=0.1)
    run = await app.start(workflow, id="r", deadline=timedelta(seconds=3.0))
    with pytest.raises(RunFailed, match="DeadlineExceeded: the run was not done") as caught:
        await run.result(timeout=60)
    assert caught.value.type == "DeadlineExceeded"
    assert cleaned[-1] == "up"
    record = await world.record("r")
    assert (record.state, record.deadline is not None) == ("failed", True)


async def test_a_run_that_is_done_in_time_has_met_its_deadline(world: World) -> None:
    async def flow() -> str:
        await aura.sleep(0.01)
        return "done"

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r", deadline=3_600)
    assert await run.result(timeout=60) == "done"
    assert [one.kind for one in await world.journal("r")] == ["sleep", "woke"]


async def test_starting_again_keeps_the_first_deadline(world: World) -> None:
    async def flow() -> None:
        await aura.sleep(3_600)

    workflow = declare(flow)
    app = await world.open(workflow, worker=False)
    await app.start(workflow, id="r", deadline=60)
    first = (await world.record("r")).deadline
    await app.start(workflow, id="r", deadline=600)
    assert (await world.record("r")).deadline == first
    await app.start(workflow, id="q", queue=app.place(delay=60), deadline=600)
    assert (await world.record("q")).deadline is not None


async def test_a_run_whose_deadline_passed_before_it_began_does_nothing(
    world: World, ledger: Ledger
) -> None:
    @step
    async def work() -> None:
        ledger("work")

    async def flow() -> None:
        await work()

    workflow = declare(flow)
    app = await world.open(workflow, worker=False)
    run = await app.start(workflow, id="r", deadline=datetime(2020, 1, 1, tzinfo=UTC))
    await world.open(workflow)
    with pytest.raises(RunFailed, match="DeadlineExceeded"):
        await run.result(timeout=60)
    assert ledger.ran == []


async def test_a_run_may_give_something_at_its_deadline(memory: World) -> None:
    async def flow() -> str:
        try:
            await aura.sleep(3_600)
        except asyncio.CancelledError:
            return "half of it"
        return "?"

    app = await memory.open()
    run = await app.start(declare(flow), id="r", deadline=1.5)
    assert await run.result(timeout=60) == "half of it"


@pytest.mark.parametrize("deadline", [datetime(2030, 1, 1), float("nan")])  # noqa: DTZ001
async def test_what_is_no_deadline_is_refused(memory: World, deadline: Any) -> None:
    app = await memory.open()

    async def flow() -> None: ...

    with pytest.raises(InvalidInput):
        await app.start(declare(flow), deadline=deadline)
