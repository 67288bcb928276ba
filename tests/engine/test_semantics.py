"""Promises that have no test of their own elsewhere, in every store."""

from __future__ import annotations

import asyncio

from aura import Aura, StepFailed, idempotency_key, step
from aura.store.base import Append
from tests.engine.kit import Ledger, World, declare


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
