"""Starts that nobody waits for any more, results asked for at the last moment, endless sleeps."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import aura
from aura import RunFailed, Workflow
from aura.store.base import Op, Outcome
from tests.engine.kit import World, declare


async def one() -> int:
    return 1


ONE: Workflow[[], int] = declare(one)


async def test_a_start_that_is_cancelled_while_it_is_written_runs_all_the_same(
    world: World,
) -> None:
    app = await world.open(ONE)
    commit = app.store.commit
    writing = asyncio.Event()

    async def slowly(ops: list[Op]) -> list[Outcome]:
        writing.set()
        await asyncio.sleep(0.05)
        return await commit(ops)

    app.store.commit = slowly  # type: ignore[method-assign, assignment]  # a slow disk
    start = asyncio.create_task(app.start(ONE, id="cut"))
    await writing.wait()
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await start
    assert start.cancelled()
    async with asyncio.timeout(60):
        while await app.store.run("cut") is None:
            await asyncio.sleep(0.01)
    assert await app.run("cut").result(timeout=60) == 1


async def test_a_result_that_is_asked_for_as_the_run_ends_comes_at_once(
    memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.engine.handle._POLL", 3_600.0)  # what a missed wake-up would cost
    app = await memory.open(ONE)
    for number in range(200):
        run = await app.start(ONE, id=f"r{number}")
        for _ in range(number % 12):  # so that the question comes at every moment of the end
            await asyncio.sleep(0)
        assert await run.result(timeout=60) == 1


async def test_a_sleep_without_an_end_is_refused(memory: World) -> None:
    async def doze(seconds: Any) -> None:
        await aura.sleep(seconds)

    app = await memory.open(workflow := declare(doze))
    for endless in (float("nan"), float("inf"), "long"):
        with pytest.raises(RunFailed, match="has no end"):
            await (await app.start(workflow, endless)).result()
