"""Cancelling runs: before, while and after they run, and with crashes in between."""

from __future__ import annotations

import asyncio

import pytest

import aura
from aura import Retry, RunFailed, step
from aura.errors import LeaseLost, RunCancelled, RunNotFound
from aura.store.base import Append, Entry, RequestCancel
from tests.engine.kit import Ledger, World, declare, until


async def test_cancel_while_a_step_runs_is_idempotent(world: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()

    @step(retries=5)
    async def hold() -> None:
        ledger("began")
        stuck.set()
        try:
            await asyncio.Event().wait()
        finally:
            ledger("ended")

    async def flow() -> None:
        await hold()

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    assert await run.cancel() in ("running", "cancelled")
    assert await run.cancel() in ("running", "cancelled")
    with pytest.raises(RunCancelled, match=r"run r of flow 1\.0\.0 was cancelled") as caught:
        await run.result(timeout=60)
    assert caught.value.run_id == "r"
    assert await run.cancel() == "cancelled"
    assert ledger.ran == ["began", "ended"]
    assert await world.journal("r") == []


async def test_cancel_before_the_start_never_runs(world: World, ledger: Ledger) -> None:
    async def flow() -> None:
        ledger("flow")

    workflow = declare(flow)
    client = await world.open(workflow, worker=False)
    run = await client.start(workflow, id="r")
    assert await run.cancel() == "cancelled"
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    worker = await world.open(workflow)
    other = await worker.start(workflow, id="other")
    await other.result(timeout=60)
    assert ledger.ran == ["flow"]
    assert await run.status() == "cancelled"


async def test_cancel_after_the_end_changes_nothing(memory: World) -> None:
    async def flow() -> int:
        return 7

    app = await memory.open()
    run = await app.start(declare(flow))
    assert await run.result(timeout=60) == 7
    assert await run.cancel() == "completed"
    assert await run.result(timeout=60) == 7


async def test_cancel_of_an_unknown_run(memory: World) -> None:
    app = await memory.open()
    for ask in (app.run("nobody").cancel, app.run("nobody").status, app.run("nobody").result):
        with pytest.raises(RunNotFound, match="nobody"):
            await ask()


@pytest.mark.parametrize("keep", [0.0, 7200.0], ids=["long", "short"])
async def test_cancel_while_sleeping(world: World, ledger: Ledger, keep: float) -> None:
    """A long sleep, for which the run has left memory, and one that is short beside `keep`."""

    @step
    async def clean() -> str:
        ledger("clean")
        return "cleaned"

    async def flow() -> None:
        try:
            await aura.sleep(3600.0)
        except asyncio.CancelledError:
            await clean()
            raise

    workflow = declare(flow)
    app = await world.open(workflow, keep_in_memory=keep)
    run = await app.start(workflow, id="r")

    async def sleeps() -> bool:
        return bool(await world.journal("r"))

    await until(sleeps)
    if not keep:

        async def waits() -> bool:
            return await run.status() == "waiting"

        await until(waits)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert ledger.ran == ["clean"]


async def test_cleanup_may_run_steps(world: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()

    @step(retries=Retry(attempts=1, first=0.01))
    async def work(name: str) -> str:
        ledger(name)
        if name == "hold":
            stuck.set()
            await asyncio.Event().wait()
        if ledger.ran.count("retried") == 1 and name == "retried":
            raise ValueError
        return name

    async def flow() -> None:
        try:
            await work("first")
            await work("hold")
        except asyncio.CancelledError:
            await work("undo")
            raise
        finally:
            await aura.sleep(0.01)
            await asyncio.gather(work("retried"), work("last"))

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert ledger.ran[:3] == ["first", "hold", "undo"]
    assert sorted(ledger.ran[3:]) == ["last", "retried", "retried"]


async def test_a_crash_in_the_cleanup_does_not_repeat_it(world: World, ledger: Ledger) -> None:
    stuck, cleaning = asyncio.Event(), asyncio.Event()

    @step
    async def work(name: str) -> None:
        ledger(name)
        if name == "hold":
            stuck.set()
            await asyncio.Event().wait()
        if name == "undo 2" and ledger.count(name) == 1:
            cleaning.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        await work("first")
        try:
            await work("hold")
        finally:
            await work("undo 1")
            await work("undo 2")

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    await asyncio.wait_for(cleaning.wait(), 60)
    await world.crash(app)
    app = await world.open(workflow)
    with pytest.raises(RunCancelled):
        await app.run("r").result(timeout=60)
    assert ledger.ran == ["first", "hold", "undo 1", "undo 2", "undo 2"]


@pytest.mark.parametrize("where", ["step", "sleep", "wait", "branches", "cleanup"])
async def test_a_cancel_request_survives_a_crash(world: World, ledger: Ledger, where: str) -> None:
    """The worker dies before it hears of the request; the next one delivers it."""
    stuck = asyncio.Event()

    @step
    async def work(name: str) -> None:
        ledger(name)
        if name == "hold":
            stuck.set()
            await asyncio.Event().wait()

    async def hold() -> None:
        if where == "sleep":
            stuck.set()
            await aura.sleep(3600)
        elif where == "wait":
            stuck.set()
            await asyncio.Event().wait()
        elif where == "branches":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.wait_for(work("hold"), 3600))
                group.create_task(aura.sleep(3600))
        else:
            await work("hold")

    async def flow() -> None:
        await work("first")
        try:
            await hold()
        finally:
            await work("clean")

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await asyncio.sleep(0.02)
    await world.crash(app)
    held = ledger.count("hold")
    async with world.store() as store:
        await store.commit([RequestCancel("r")])
    app = await world.open(workflow)
    with pytest.raises(RunCancelled):
        await app.run("r").result(timeout=60)
    assert [one for one in ledger.ran if one != "hold"] == ["first", "clean"]
    assert ledger.count("hold") <= held + 1


async def test_a_cancelled_run_accepts_no_writes(world: World) -> None:
    stuck = asyncio.Event()

    @step
    async def hold() -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def flow() -> None:
        await hold()

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    entry = Entry("r", 1, "0/late#1", "step", "", None, b"1", None, 1, 0.0, 0.0)
    epoch = (await run.record()).epoch
    with pytest.raises(LeaseLost):
        await app.committer.submit(Append(epoch, entry))
    assert await world.journal("r") == []


async def test_a_cancel_reaches_a_worker_in_another_process(world: World) -> None:
    stuck = asyncio.Event()

    @step
    async def hold() -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def flow() -> None:
        await hold()

    workflow = declare(flow)
    await world.open(workflow, poll=3600.0, lease=3600.0)  # it is told, or never knows
    client = await world.open(workflow, worker=False)
    run = await client.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)


async def test_code_that_swallows_a_cancel_completes(memory: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()

    @step
    async def hold() -> None:
        stuck.set()
        await asyncio.Event().wait()

    @step
    async def after() -> str:
        ledger("after")
        return "went on"

    async def flow() -> str:
        try:
            await hold()
        except asyncio.CancelledError:
            return await after()
        return "never"

    app = await memory.open()
    run = await app.start(declare(flow))
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    assert await run.result(timeout=60) == "went on"


async def test_a_workflow_may_cancel_its_own_branches(memory: World, ledger: Ledger) -> None:
    begun = asyncio.Event()

    @step
    async def hold() -> None:
        ledger("hold")
        begun.set()
        await asyncio.Event().wait()

    async def flow() -> str:
        task = asyncio.create_task(hold())
        await begun.wait()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "stopped"
        return "never"

    app = await memory.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == "stopped"
    assert ledger.ran == ["hold"]


async def test_a_branch_that_was_cancelled_by_its_own_workflow_fails_the_run(
    memory: World,
) -> None:
    @step
    async def hold() -> None:
        await asyncio.Event().wait()

    async def flow() -> None:
        task = asyncio.create_task(hold())
        await aura.sleep(0.02)
        task.cancel()
        await task

    app = await memory.open()
    run = await app.start(declare(flow))
    with pytest.raises(RunFailed) as caught:
        await run.result(timeout=60)
    assert caught.value.type == "CancelledError"


async def test_cancel_while_a_run_waits_for_its_next_try(world: World, ledger: Ledger) -> None:
    @step(retries=Retry(attempts=1, first=100))
    async def flaky() -> None:
        ledger("flaky")
        raise ValueError

    async def flow() -> None:
        await flaky()

    app = await world.open(keep_in_memory=0.1)
    run = await app.start(declare(flow), id="r")

    async def waits() -> bool:
        return await run.status() == "waiting"

    await until(waits)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert ledger.ran == ["flaky"]


async def test_cancel_of_a_late_step_after_an_abandoned_branch(
    world: World, ledger: Ledger
) -> None:
    """What an abandoned branch has left in the journal does not keep a cancel away."""
    stuck = asyncio.Event()

    @step
    async def work(name: str) -> str:
        ledger(name)
        if name == "hold":
            stuck.set()
            await asyncio.Event().wait()
        return name

    async def branch() -> None:
        await work("a")
        await work("b")
        await asyncio.Event().wait()

    async def flow() -> None:
        task = asyncio.create_task(branch())
        await asyncio.sleep(0.1)
        if ledger.count("hold") == 0:
            await asyncio.sleep(0.1)
        task.cancel()
        await work("hold")

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    stuck.clear()
    app = await world.open(workflow)
    run = app.run("r")
    await asyncio.wait_for(stuck.wait(), 60)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
