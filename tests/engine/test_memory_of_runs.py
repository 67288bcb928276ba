"""A run's memory is free when it has ended, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

import aura
from aura import Aura, Config, step
from aura.engine import execution
from aura.engine.departed import Departed
from aura.engine.execution import Execution
from aura.engine.faults import dump_run_error
from aura.errors import LeaseLost, RunCancelled
from tests.engine.kit import World, declare, until


@step
async def one(number: int) -> int:
    return number


async def busy(count: int) -> int:
    await asyncio.gather(*(one(number) for number in range(count)))
    aura.stream("log").write("done")
    aura.set_state("at", count)
    return await one(count)


async def test_a_run_that_has_ended_leaves_nothing_in_circles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[weakref.ref[Execution]] = []
    begin = Execution.__init__

    def remember(self: Execution, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]  # handed on as they come
        seen.append(weakref.ref(self))

    monkeypatch.setattr(Execution, "__init__", remember)
    app = Aura("memory", config=Config(database=":memory:"))
    app.workflow(version="1.0.0")(busy)
    async with app:
        gc.collect()
        gc.disable()
        try:
            assert await (await app.start("busy", 5)).result() == 5
            await until(lambda: [ref() for ref in seen] == [None])  # what is due is written first
        finally:
            gc.enable()


async def waits(seconds: float) -> str:
    await aura.sleep(seconds)
    return "awake"


async def test_a_run_that_leaves_memory_describes_no_error(
    memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback costs more than all else that is done then."""
    described: list[BaseException] = []

    def describe(error: BaseException) -> bytes:
        described.append(error)
        return dump_run_error(error)

    monkeypatch.setattr(execution, "dump_run_error", describe)
    app = await memory.open(declare(waits), keep_in_memory=0.05)
    run = await app.start("waits", 3600.0, id="r")

    async def is_away() -> bool:
        return await run.status() == "waiting"

    await until(is_away)
    assert described == []
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert len(described) == 1


def test_what_has_departed_says_so() -> None:
    departed = Departed("r-1")
    departed.lose(ValueError())
    with pytest.raises(LeaseLost, match="r-1"):
        departed.recorder.record()
    with pytest.raises(LeaseLost):
        departed.raise_if_stopped()
