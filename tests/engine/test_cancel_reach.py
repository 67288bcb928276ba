"""How far cancelling reaches: threads, streams, cleanup, and many requests at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

import aura
from aura import step
from aura.engine import cancelled
from aura.errors import LeaseLost, RunCancelled, TryOver
from aura.store.base import StartRun
from tests.engine.kit import Ledger, World, declare, until
from tests.engine.test_children import children_of, part_workflow

PATIENCE = 60.0


class Thread:
    """What a plain `def` step does after its run was cancelled."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.told = threading.Event()
        self.write = threading.Event()
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def body(self) -> str:
        aura.stream("log").write("began")
        self.began.set()
        while not cancelled():
            assert not self.told.wait(0.005), "nobody said that it is over"
        self.write.wait(PATIENCE)
        try:
            aura.stream("log").write("too late")
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()
        return "never"


async def test_a_thread_sees_that_its_run_was_cancelled_and_writes_nothing_more(
    world: World,
) -> None:
    thread = Thread()

    @step
    def work() -> str:
        return thread.body()

    async def flow() -> str:
        return await work()

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    await until(thread.began.is_set, timeout=20)

    async def written() -> bool:
        return bool(await world.journal("r"))

    await until(written, timeout=20)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=20)
    assert not thread.ended.is_set(), "the run does not wait for the thread"
    before = await world.journal("r")
    thread.write.set()
    await until(thread.ended.is_set, timeout=20)
    assert isinstance(thread.error, TryOver)
    assert await world.journal("r") == before
    assert [item async for item in run.stream("log")] == ["began"]


async def test_what_a_thread_returns_too_late_is_thrown_away(world: World) -> None:
    go, began, ended = threading.Event(), threading.Event(), threading.Event()

    @step
    def work() -> str:
        began.set()
        go.wait(PATIENCE)
        ended.set()
        return "late"

    @step
    async def clean() -> None:
        go.set()
        await until(ended.is_set, timeout=20)

    async def flow() -> str:
        try:
            return await work()
        finally:
            await clean()

    app = await world.open()
    run = await app.start(declare(flow), id="r")
    await until(began.is_set, timeout=20)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=20)
    assert [one.key for one in await world.journal("r")] == ["0/clean#1"]


async def test_a_thread_sees_that_its_time_is_over(memory: World) -> None:
    seen, began = threading.Event(), threading.Event()

    @step(timeout=0.05)
    def slow() -> None:
        began.set()
        while not cancelled():
            threading.Event().wait(0.005)
        seen.set()

    @step
    def quick() -> bool:
        return cancelled()

    async def flow() -> bool:
        try:
            await slow()
        except aura.StepFailed:
            return await quick()
        return True

    app = await memory.open()
    run = await app.start(declare(flow))
    assert await run.result(timeout=20) is False, "another step goes on undisturbed"
    await until(seen.is_set, timeout=20)
    assert cancelled() is False, "outside a step"


async def test_many_requests_at_once_are_one(world: World, ledger: Ledger) -> None:
    """From several processes, while steps, children and cleanup are under way: no deadlock."""
    stuck = asyncio.Event()

    @step
    async def hold(number: int) -> None:
        if number == 9:
            stuck.set()
        await asyncio.Event().wait()

    @step
    async def clean(number: int) -> None:
        ledger(f"clean {number}")

    async def child(number: int) -> None:
        try:
            await hold(number)
        finally:
            await clean(number)

    below = declare(child)

    async def flow() -> None:
        try:
            await aura.map(below, range(10))
        finally:
            await clean(-1)

    app = await world.open()
    clients = [await world.open(worker=False) for _ in range(2)]
    run = await app.start(declare(flow), id="r")
    await asyncio.wait_for(stuck.wait(), 20)
    everybody = ["r", *(one.id for one in await children_of(app, "r"))]
    requests = [
        where.run(one).cancel() for where in (app, *clients) for one in everybody for _ in range(5)
    ]
    async with asyncio.timeout(30):
        states = await asyncio.gather(*requests)
    assert set(states) <= {"running", "pending", "waiting", "cancelled"}
    for one in everybody:
        with pytest.raises(RunCancelled):
            await app.run(one).result(timeout=30)
    assert sorted(ledger.ran) == sorted(f"clean {number}" for number in range(-1, 10))
    assert await run.cancel() == "cancelled"


async def test_cleanup_may_start_children(world: World, ledger: Ledger) -> None:
    async def undo(what: str) -> str:
        ledger(f"undo {what}")
        return what

    undoing = declare(undo)

    async def flow() -> None:
        try:
            await aura.receive("never")
        finally:
            ledger(await undoing("all"))

    app = await world.open()
    run = await app.start(declare(flow), id="r")

    async def runs() -> bool:
        return await run.status() in ("running", "waiting")

    await until(runs, timeout=20)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=20)
    assert ledger.ran == ["undo all", "all"]
    assert await app.run("r/0/undo#1").status() == "completed"


async def test_a_cancelled_run_starts_no_children(world: World) -> None:
    async def flow() -> None:
        await aura.receive("never")

    app = await world.open(part_workflow)
    run = await app.start(declare(flow), id="r")
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=20)
    epoch = (await run.record()).epoch
    late = StartRun("late", "part", "1.0.0", b'{"value":1}', "f", "o", None, "r", epoch)
    with pytest.raises(LeaseLost):
        await app.committer.submit(late)
    assert await children_of(app, "r") == []
