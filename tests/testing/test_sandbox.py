"""An app in memory: time that is skipped, crashes at fault points, commits that fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import aura
from aura import Aura, Config, Retry, SignalTimeout, StepFailed, step
from aura.errors import ResultTimeout, RunFailed, SandboxError, StoreUnavailable
from aura.testing import ManualClock, Sandbox

app = Aura("shop", config=Config(database="./must-not-be-made.db"))
ran: list[str] = []
DAY = timedelta(days=1)


@step
async def charge(order: str) -> str:
    ran.append(f"charge {order}")
    return f"receipt-{order}"


@step(idempotent=True)
async def look(order: str) -> str:
    ran.append(f"look {order}")
    return order


@step(retries=Retry(attempts=3, first=3600.0, factor=2.0, longest=7200.0))
async def flaky() -> str:
    ran.append("flaky")
    if ran.count("flaky") < 4:
        raise OSError("the network")
    return "at last"


@app.workflow(version="1.0.0")
async def order(number: str) -> list[str]:
    began = aura.now()
    receipt = await charge(number)
    await aura.sleep(2 * DAY)
    return [receipt, str(aura.now() - began)]


@app.workflow(version="1.0.0")
async def patient() -> str:
    return await flaky()


@app.workflow(version="1.0.0")
async def asking(wait: float | None) -> str:
    try:
        answer = await aura.receive("answer", type=str, timeout=wait)
    except SignalTimeout:
        return "nobody answered"
    return answer


@app.workflow(version="1.0.0")
async def limited() -> str:
    try:
        async with aura.timeout(DAY):
            await aura.sleep(9 * DAY)
    except TimeoutError:
        return "too late"
    return "in time"


@app.workflow(version="1.0.0")
async def paying(number: str) -> list[str]:
    return [await look(number), await charge(number), await charge(number)]


@app.workflow(version="1.0.0")
async def branches() -> list[str]:
    async def wait(hours: int) -> str:
        await aura.sleep(timedelta(hours=hours))
        return f"{hours}h at {aura.now():%d %H:%M}"

    return list(await asyncio.gather(wait(30), wait(1), wait(5)))


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(app) as opened:
        yield opened


async def test_two_days_take_no_time(sandbox: Sandbox) -> None:
    began = time.monotonic()
    before = sandbox.clock.time
    run = await sandbox.start(order, "A-1")
    assert await run.result(timeout=30) == ["receipt-A-1", "2 days, 0:00:00"]
    assert sandbox.clock.time - before == 2 * DAY
    assert time.monotonic() - began < 20  # and not 172,800
    assert ran == ["charge A-1"]


async def test_branches_wake_in_order_of_time(sandbox: Sandbox) -> None:
    run = await sandbox.start(branches)
    assert await run.result(timeout=30) == ["30h at 02 06:00", "1h at 01 01:00", "5h at 01 05:00"]


async def test_back_off_is_skipped(sandbox: Sandbox) -> None:
    before = sandbox.clock.time
    assert await (await sandbox.start(patient)).result(timeout=30) == "at last"
    assert ran == ["flaky"] * 4
    assert timedelta(hours=2) < sandbox.clock.time - before < timedelta(hours=6)


async def test_time_limits_are_skipped(sandbox: Sandbox) -> None:
    before = sandbox.clock.time
    assert await (await sandbox.start(limited)).result(timeout=30) == "too late"
    assert sandbox.clock.time - before == DAY


async def test_a_wait_for_a_signal_ends_in_its_time(sandbox: Sandbox) -> None:
    before = sandbox.clock.time
    run = await sandbox.start(asking, 3600.0)
    assert await run.result(timeout=30) == "nobody answered"
    assert sandbox.clock.time - before == timedelta(hours=1)


async def test_time_stands_still_until_somebody_waits_for_a_result(sandbox: Sandbox) -> None:
    before = sandbox.clock.time
    run = await sandbox.start(asking, 3600.0)
    await sandbox.settle()
    await asyncio.sleep(0.3)  # longer than a run that waits stays in memory
    await sandbox.settle()
    await run.signal("answer", "yes")
    assert await run.result(timeout=30) == "yes"
    assert sandbox.clock.time == before


async def test_time_goes_on_by_hand(sandbox: Sandbox) -> None:
    run = await sandbox.start(order, "A-1")
    await sandbox.skip(2 * DAY - timedelta(seconds=1))
    assert await run.status() in ("running", "waiting")
    await sandbox.skip(1.0)
    assert await run.status() == "completed"
    target = sandbox.clock.time + 3 * DAY
    await sandbox.skip_to(target)
    assert sandbox.clock.time == target


async def test_what_is_due_on_the_way_happens_at_its_time(sandbox: Sandbox) -> None:
    run = await sandbox.start(branches)
    await sandbox.skip(10 * DAY)
    assert await run.status() == "completed"
    assert (await run.result())[1] == "1h at 01 01:00"


async def test_runs_that_left_memory_wake_all_the_same(sandbox: Sandbox) -> None:
    runs = [await sandbox.start(order, f"A-{number}") for number in range(5)]
    worker = app._worker
    assert worker is not None
    give_up = time.monotonic() + 20
    while worker.under_way:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)
    assert [await run.status() for run in runs] == ["waiting"] * 5
    results = [await run.result(timeout=30) for run in runs]
    assert [result[1] for result in results] == ["2 days, 0:00:00"] * 5


async def test_without_skipping_results_do_not_come_by_themselves() -> None:
    async with Sandbox(app, skipping=False) as sandbox:
        run = await sandbox.start(order, "A-1")
        with pytest.raises(ResultTimeout):
            await run.result(timeout=0.2)
        await sandbox.skip(2 * DAY)
        assert (await run.result(timeout=30))[0] == "receipt-A-1"


async def test_code_that_uses_the_app_itself_is_tested_as_it_is(sandbox: Sandbox) -> None:
    run = await app.start(order, "A-1", id="mine")
    assert await run.result(timeout=30) == ["receipt-A-1", "2 days, 0:00:00"]
    assert [one.id for one in await app.runs()] == ["mine"]


async def test_the_app_is_as_before_afterwards() -> None:
    config, clock = app.config, app.clock
    async with Sandbox(app, capacity=7):
        assert (app.config.database, app.config.capacity) == (":memory:", 7)
    assert (app.config, app.clock) == (config, clock)
    assert "_open_store" not in vars(app)
    async with Sandbox(app):
        assert await app.runs() == []  # nothing is left of the sandbox before


# Faults.


async def test_a_crash_before_the_entry_repeats_the_step(sandbox: Sandbox) -> None:
    sandbox.crash_at(before="0/charge#2")
    run = await sandbox.start(paying, "A-1")
    receipts = await run.result(timeout=30)
    assert receipts == ["A-1", "receipt-A-1", "receipt-A-1"]
    assert ran == ["look A-1", "charge A-1", "charge A-1", "charge A-1"]
    assert sandbox.crashes == 1
    assert (await run.record()).recoveries == 1


async def test_a_crash_after_the_entry_repeats_nothing(sandbox: Sandbox) -> None:
    sandbox.crash_at(after="0/charge#1")
    run = await sandbox.start(paying, "A-1")
    await run.result(timeout=30)
    assert ran.count("charge A-1") == 2
    assert sandbox.crashes == 1


async def test_a_crash_can_be_meant_for_one_run(sandbox: Sandbox) -> None:
    sandbox.crash_at(before="0/charge#1", run="second")
    first = await sandbox.start(paying, "A-1", id="first")
    await first.result(timeout=30)
    assert sandbox.crashes == 0
    second = await sandbox.start(paying, "A-2", id="second")
    await second.result(timeout=30)
    assert sandbox.crashes == 1
    assert (ran.count("charge A-1"), ran.count("charge A-2")) == (2, 3)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_any_commit_may_be_the_last_one(number: int, written: bool) -> None:
    async with Sandbox(app) as sandbox:
        run = await sandbox.start(asking, None)
        await sandbox.settle()
        sandbox.crash_at(commit=number, written=written)
        for attempt in range(10):
            try:
                await sandbox.run(run.id).signal("answer", f"{attempt}", id="one")
                break
            except (StoreUnavailable, aura.AuraError):
                await asyncio.sleep(0.02)
        for _ in range(number):  # something to commit
            await (await sandbox.start(asking, 0.0)).result(timeout=30)
        assert (await run.result(timeout=30)).isdigit()
        assert sandbox.crashes == 1


async def test_a_crash_by_hand(sandbox: Sandbox) -> None:
    run = await sandbox.start(asking, None)
    waiting = asyncio.create_task(run.result(timeout=30))
    await sandbox.settle()
    await sandbox.crash()
    await sandbox.settle()
    await run.signal("answer", "still here")
    assert await waiting == "still here"
    assert sandbox.crashes == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_commits_that_fail_are_made_again(sandbox: Sandbox, when: Any) -> None:
    sandbox.fail_commits(3, when=when)
    run = await sandbox.start(paying, "A-1")
    assert await run.result(timeout=30) == ["A-1", "receipt-A-1", "receipt-A-1"]
    assert ran == ["look A-1", "charge A-1", "charge A-1"]


async def test_a_failure_is_a_failure(sandbox: Sandbox) -> None:
    @app.workflow(version="1.0.0", name="broken")
    async def broken() -> None:
        raise ValueError("no")

    with pytest.raises(RunFailed, match="no"):
        await (await sandbox.start(broken)).result(timeout=30)


# Wrong use.


async def test_wrong_use_says_what_to_do(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="is open"):
        async with Sandbox(app):
            pass
    with pytest.raises(SandboxError, match="one of before="):
        sandbox.crash_at()
    with pytest.raises(SandboxError, match="one of before="):
        sandbox.crash_at(before="0/charge#1", commit=1)
    with pytest.raises(SandboxError, match="The next one is 1"):
        sandbox.crash_at(commit=0)
    with pytest.raises(SandboxError, match="1 or more"):
        sandbox.fail_commits(0)
    with pytest.raises(SandboxError, match="0 or more"):
        await sandbox.skip(-1)
    with pytest.raises(SandboxError, match="0 or more"):
        await sandbox.skip(float("nan"))
    with pytest.raises(SandboxError, match="time zone"):
        await sandbox.skip_to(datetime(2031, 1, 1))  # noqa: DTZ001
    with pytest.raises(SandboxError, match="time zone"):
        Sandbox(app, start=datetime(2031, 1, 1))  # noqa: DTZ001


async def test_a_sandbox_outside_of_its_with() -> None:
    sandbox = Sandbox(app)
    with pytest.raises(SandboxError, match="not open"):
        await sandbox.start(order, "A-1")
    with pytest.raises(SandboxError, match="not open"):
        await sandbox.skip(1)
    with pytest.raises(SandboxError, match="not open"):
        await sandbox.crash()
    async with sandbox:
        pass
    with pytest.raises(SandboxError, match="not open"):
        await sandbox.start(order, "A-1")


async def test_the_clock_wakes_those_whose_time_has_come() -> None:
    clock = ManualClock(datetime(2031, 1, 1, tzinfo=UTC))
    woke: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woke.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (300, 100, 200)]
    await asyncio.sleep(0)
    clock.move(timedelta(seconds=150))
    await asyncio.sleep(0.01)
    assert woke == [100]
    clock.move(150)
    await asyncio.gather(*tasks)
    assert woke == [100, 200, 300]
    assert clock.time == datetime(2031, 1, 1, 0, 5, tzinfo=UTC)
    with pytest.raises(SandboxError):
        clock.move(-1)


async def test_steps_that_give_up_are_seen(sandbox: Sandbox) -> None:
    @step
    async def doomed() -> None:
        raise OSError("the disk")

    @app.workflow(version="1.0.0", name="doomed")
    async def flow() -> str:
        try:
            await doomed()
        except StepFailed as failed:
            return failed.reason
        return ""

    assert await (await sandbox.start(flow)).result(timeout=30) == "the disk"
