"""A start and a claim that find the same run at the same time."""

from __future__ import annotations

import asyncio

from aura import step
from aura.store.base import Claim, ClaimResult
from tests.engine.kit import Ledger, World, declare, until


async def test_a_run_that_a_start_and_a_claim_give_is_executed_once(
    world: World, ledger: Ledger
) -> None:
    finish, taken, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @step
    async def charge() -> int:
        ledger("charge")
        await finish.wait()
        return 1

    async def pay() -> int:
        return await charge()

    paying = declare(pay)
    app = await world.open(paying)
    claim = app.store.claim

    async def answers_late(asked: Claim) -> ClaimResult:
        found = await claim(asked)
        if found.runs:
            taken.set()
            await go_on.wait()
        return found

    setattr(app.store, "claim", answers_late)  # noqa: B010  (a slow network)
    client = await world.open(paying, worker=False)
    await client.start(paying, id="r")
    async with asyncio.timeout(20):
        await taken.wait()  # the run is the worker's, which does not know it yet
    run = await app.start(paying, id="r")
    worker = app._worker
    assert worker is not None
    go_on.set()
    await until(lambda: not worker._claiming)
    finish.set()
    assert await run.result(timeout=20) == 1
    assert ledger.count("charge") == 1
    assert [entry.key for entry in await world.journal("r")] == ["0/charge#1"]
