"""Runs that a worker cannot write for, and what it does with them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import aura
from aura import step
from aura.engine import Transaction
from aura.store.base import Append, Op, Outcome
from aura.store.events import PARTITIONS
from aura.store.portable import Fence
from tests.engine.bank import Bank, opened
from tests.engine.kit import Ledger, World, declare, until


async def test_an_unknown_failure_of_a_commit_does_not_leave_a_run_behind(
    world: World, ledger: Ledger
) -> None:
    """Whatever the driver raised: the run is free when the lease is over, and taken again."""

    @step
    async def one() -> int:
        ledger("one")
        return 1

    @step
    async def two(number: int) -> int:
        ledger("two")
        return number + 1

    async def flow() -> int:
        return await two(await one())

    workflow = declare(flow)
    app = await world.open(workflow, lease=1.0)
    commit = app.store.commit
    faults = [RuntimeError("a bug")]

    async def faulty(ops: Sequence[Op]) -> list[Outcome]:
        if faults and any(isinstance(op, Append) for op in ops):
            raise faults.pop()
        return await commit(ops)

    app.store.commit = faulty  # type: ignore[method-assign]
    run = await app.start(workflow)
    assert await run.result(timeout=20) == 2
    assert not faults


async def test_a_run_that_cleans_up_is_not_taken_again_and_again(
    world: World, ledger: Ledger
) -> None:
    """After its cancellation it waits long; nothing wakes it meanwhile."""
    begun = asyncio.Event()

    @step
    async def hold() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def flow() -> str:
        try:
            await hold()
        except asyncio.CancelledError:
            await aura.sleep(60)
            raise
        return "done"

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, id="r")
    await asyncio.wait_for(begun.wait(), 30)
    await run.cancel()
    await until(lambda: _has(world, "r", "sleep"))
    await asyncio.sleep(1)  # several times what a run that waits stays in memory for
    assert (await world.record("r")).epoch == 1


async def _has(world: World, run_id: str, kind: str) -> bool:
    return any(one.kind == kind for one in await world.journal(run_id))


async def test_a_slow_commit_keeps_its_turn(bank: Bank) -> None:
    """What was recorded behind a transaction is given behind it, however long it takes to commit:
    a replay finds them in this order."""
    committing, go_on = asyncio.Event(), asyncio.Event()

    @step.transaction
    async def add(tx: Transaction, cents: int) -> str:
        await bank.add(tx, cents)
        return "add"

    @step
    async def other() -> str:
        await committing.wait()
        return "other"

    async def flow() -> str:
        tasks = {asyncio.create_task(add(5)), asyncio.create_task(other())}
        done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        names = sorted(task.result() for task in done)
        await asyncio.wait(late)
        return ",".join(names)

    app = await opened(bank, workflow := declare(flow))
    worker = app._worker
    assert worker is not None
    make = worker._services.session

    def session(isolation: Any) -> Any:
        made: Any = make(isolation)
        commit = made.commit

        async def slowly(entries: Any) -> None:
            committing.set()
            await go_on.wait()
            await commit(entries)

        made.commit = slowly
        return made

    worker._services = dataclasses.replace(worker._services, session=session)
    run = await app.start(workflow)
    await asyncio.wait_for(committing.wait(), 30)
    await asyncio.sleep(0.5)  # ten times what a turn that nobody takes is waited for
    go_on.set()
    assert await run.result(timeout=30) == "add"


async def test_a_step_of_a_run_that_is_lost_emits_nothing_by_itself(world: World) -> None:
    """`app.emit` and `fork` wait, as signals and starts do, until what they depend on is durable:
    the entry before is refused here, because somebody else has the run."""
    tried: list[str] = []

    @step(idempotent=True)
    async def one(run_id: str) -> str:
        async with world.store() as store:
            assert await store.fence(Fence("move", (run_id,), force=True)) == [run_id]
        return run_id

    @step(idempotent=True)
    async def two(run_id: str, what: str) -> None:
        try:
            if what == "emit":
                await app.emit("news", run_id, id="only")
            else:
                await app.run("other").fork(id="fork")
        finally:
            tried.append(what)

    async def flow(what: str) -> None:
        await two(await one(f"r-{what}"), what)

    async def idle() -> None:
        return None

    workflow, other = declare(flow), declare(idle)
    app = await world.open(workflow, other)
    await (await app.start(other, id="other")).result(timeout=30)
    for what in ("emit", "fork"):
        run = await app.start(workflow, what, id=f"r-{what}")
        await until(lambda run=run: not app._worker.executes(run.id))  # type: ignore[misc,union-attr]
    assert tried == ["emit", "fork"]
    async with world.store() as store:
        assert (await store.events.read("news", 0, list(range(PARTITIONS)), 10)).events == []
        assert await store.run("fork") is None
