"""Promises that have no test of their own elsewhere, in every store."""

from __future__ import annotations

import asyncio

import pytest

from aura import Aura, NonRetryable, RunFailed, StepFailed, idempotency_key, step
from aura.engine import Retry
from aura.errors import RunParked
from aura.server import letters
from aura.store.base import Append, Heartbeat
from tests.engine.kit import Ledger, World, declare, until


async def test_a_failed_step_stores_no_result(world: World) -> None:
    @step
    async def failing() -> str:
        raise OSError("the disk")

    async def flow() -> str:
        try:
            return await failing()
        except StepFailed as failed:
            return failed.reason

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=20) == "the disk"
    [entry] = await world.journal("r")
    assert entry.output is None
    assert entry.error is not None


async def test_a_kill_between_effect_and_record_repeats_the_effect_with_the_same_key(
    world: World, ledger: Ledger
) -> None:
    keys: list[str] = []
    reached = asyncio.Event()

    @step
    async def charge() -> int:
        keys.append(idempotency_key())
        ledger("charge")
        return len(keys)

    async def pay() -> int:
        return await charge()

    workflow = declare(pay)
    first = await world.open(workflow)
    _never_record(first, reached)
    await first.start(workflow, id="r")
    async with asyncio.timeout(20):
        await reached.wait()  # the effect was made, and its entry is about to be written
    await world.crash(first)
    assert await world.journal("r") == []
    second = await world.open(workflow)
    assert await second.run("r", workflow).result(timeout=20) == 2
    assert ledger.count("charge") == 2
    assert len(set(keys)) == 1
    assert (await world.record("r")).recoveries == 1


def _never_record(app: Aura, reached: asyncio.Event) -> None:
    """Commits with entries do not come about any more."""
    commit = app.store.commit

    async def stuck(ops: list[object]) -> object:
        if any(isinstance(op, Append) for op in ops):
            reached.set()
            await asyncio.get_running_loop().create_future()
        return await commit(ops)  # type: ignore[arg-type]

    app.store.commit = stuck  # type: ignore[method-assign, assignment]


async def test_after_the_recovery_cap_a_run_is_parked_and_goes_on_when_it_is_requeued(
    world: World, ledger: Ledger
) -> None:
    killing = True

    @step
    async def before() -> str:
        ledger("before")
        return "before"

    @step
    async def kills() -> str:
        ledger("kills")
        if killing:
            await asyncio.Event().wait()  # until its process is killed
        return "kills"

    async def poison() -> list[str]:
        return [await before(), await kills()]

    workflow = declare(poison)
    client = await world.open(workflow, worker=False)
    run = await client.start(workflow, id="r")
    for crash in range(1, 4):
        app = await world.open(workflow, max_recoveries=2)
        await until(lambda crash=crash: ledger.count("kills") == crash)  # type: ignore[misc]
        await world.crash(app)
    await world.open(workflow, max_recoveries=2)
    with pytest.raises(RunParked, match="PoisonRun"):
        await run.result(timeout=60)
    assert ledger.count("kills") == 3
    killing = False
    await letters.requeue_letter(client, "run:r")
    assert await run.result(timeout=60) == ["before", "kills"]
    assert (ledger.count("before"), ledger.count("kills")) == (1, 4)
    assert await run.status() == "completed"


async def test_what_must_not_be_retried_and_what_has_been_tried_enough(
    world: World, ledger: Ledger
) -> None:
    @step(retries=5)
    async def closed() -> None:
        ledger("closed")
        raise NonRetryable("the account is closed")

    @step(retries=Retry(attempts=5, first=0.01, never=(KeyError,)))
    async def never() -> None:
        ledger("never")
        raise KeyError("no")

    @step(retries=Retry(attempts=3, first=0.01))
    async def exhausted() -> None:
        ledger("exhausted")
        raise OSError(f"try {ledger.count('exhausted')}")

    async def flow() -> list[str]:
        found = []
        for one in (closed, never, exhausted):
            try:
                await one()
            except StepFailed as error:
                found.append(f"{error.type}: {error.reason} ({error.attempts})")
        await exhausted()
        return found

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    with pytest.raises(RunFailed, match="try 8") as failed:
        await run.result(timeout=60)
    assert failed.value.type == "StepFailed"
    assert ledger.ran == ["closed", "never", *["exhausted"] * 8]
    kinds = [(entry.key, entry.attempt) for entry in await world.journal("r")]
    assert [kinds.count(("0/closed#1", n)) for n in (1, 2)] == [1, 0]
    assert [n for key, n in kinds if key == "0/exhausted#2"] == [1, 2, 3, 4]


async def test_recovery_does_not_double_a_running_run(world: World, ledger: Ledger) -> None:
    opened = asyncio.Event()

    @step
    async def work() -> str:
        ledger("work")
        await opened.wait()
        return "done"

    async def flow() -> str:
        return await work()

    workflow = declare(flow)
    first = await world.open(workflow)
    run = await first.start(workflow, id="r")
    await until(lambda: ledger.count("work") == 1)
    second = await world.open(workflow)  # looks for what others have left behind
    free = await second.start(workflow, id="free")
    await until(lambda: ledger.count("work") == 2)
    record = await world.record("r")
    assert (record.state, record.epoch, record.recoveries) == ("running", 1, 0)
    assert second._worker is not None
    assert not second._worker.executes("r")
    opened.set()
    assert await run.result(timeout=60) == await free.result(timeout=60) == "done"
    assert ledger.count("work") == 2


async def test_a_lease_is_extended_for_as_long_as_a_step_takes(
    world: World, ledger: Ledger
) -> None:
    opened = asyncio.Event()

    @step
    async def long() -> str:
        ledger("long")
        await opened.wait()
        return "done"

    async def flow() -> str:
        return await long()

    workflow = declare(flow)
    first = await world.open(workflow, lease=3.0)
    run = await first.start(workflow, id="r")
    await until(lambda: ledger.count("long") == 1)
    async with world.store() as store:
        [worker] = await store.workers()

        async def is_over() -> bool:
            [now] = await store.workers()
            return now.lease_until > worker.lease_until + 3.0

        await until(is_over)  # longer than a lease has passed since it was claimed
    record = await world.record("r")
    assert (record.owner, record.epoch, record.recoveries) == (worker.id, 1, 0)
    opened.set()
    assert await run.result(timeout=60) == "done"
    assert ledger.count("long") == 1


async def test_a_late_writer_loses(world: World, ledger: Ledger) -> None:
    """Its worker was taken for dead, and another one has ended the run meanwhile."""
    opened = asyncio.Event()

    @step
    async def work() -> str:
        ledger("work")
        if ledger.count("work") == 1:
            await opened.wait()
            return "late"
        return "in time"

    async def flow() -> str:
        return await work()

    workflow = declare(flow)
    late = await world.open(workflow, lease=60.0)
    run = await late.start(workflow, id="r")
    await until(lambda: ledger.count("work") == 1)
    assert late._worker is not None
    async with world.store() as store:
        await store.commit([Heartbeat(late._worker.id, 0.0)])
    other = await world.open(workflow)
    assert await other.run("r", workflow).result(timeout=60) == "in time"
    journal = await world.journal("r")
    opened.set()
    await until(lambda: late._worker is not None and not late._worker._tasks)
    assert await world.journal("r") == journal
    assert await run.result(timeout=60) == "in time"
    record = await world.record("r")
    assert (record.state, record.epoch, record.output) == ("completed", 2, journal[0].output)
