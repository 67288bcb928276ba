"""Branches: gather, TaskGroup and create_task replay right whatever order they finished in."""

from __future__ import annotations

import asyncio
import itertools
import logging
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest

import aura
from aura import RunFailed, StepFailed, step
from aura.errors import NonDeterminism, RunParked
from tests.engine.kit import Ledger, World, declare, replayed, until

ORDERS = list(itertools.permutations("abc"))


@pytest.mark.parametrize("order", ORDERS, ids="".join)
@pytest.mark.parametrize("shape", ["gather", "group", "tasks"])
async def test_branches_with_several_steps_in_any_order(
    memory: World, ledger: Ledger, order: tuple[str, ...], shape: str
) -> None:
    doors = {name + number: asyncio.Event() for name in "abc" for number in "12"}

    @step
    async def work(name: str) -> str:
        ledger(name)
        await doors[name].wait()
        return name.upper()

    async def branch(name: str) -> str:
        return await work(name + "1") + await work(name + "2") + str(int(10 * aura.random()))

    async def flow() -> list[str]:
        if shape == "gather":
            return list(await asyncio.gather(*(branch(name) for name in "abc")))
        if shape == "tasks":
            tasks = [asyncio.create_task(branch(name)) for name in "abc"]
            return [await task for task in reversed(tasks)]
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(branch(name)) for name in "abc"]
        return [task.result() for task in made]

    workflow = declare(flow)
    app = await memory.open(workflow)
    run = await app.start(workflow, id="r")
    for number in "12":
        for name in order if number == "1" else reversed(order):
            await until(lambda key=name + number: key in ledger.ran)  # type: ignore[misc]
            doors[name + number].set()
            await asyncio.sleep(0)
    live = await run.result(timeout=60)
    journal = await app.store.journal("r")
    assert {e.key for e in journal if e.kind == "step"} == {
        f"0.{lane}/work#{n}" for lane in (1, 2, 3) for n in (1, 2)
    }
    ledger.ran.clear()
    for cut in range(len(journal) + 1):
        assert await replayed(app, workflow, journal[:cut]) == live or cut < len(journal)
        done = {e.key for e in journal[:cut] if e.kind == "step"}
        assert len(ledger.ran) == 6 - len(done)
        ledger.ran.clear()


@pytest.mark.parametrize("first", ["a", "b", "ab"])
async def test_the_first_completed_is_the_same_on_replay(
    memory: World, ledger: Ledger, first: str
) -> None:
    doors = {name: asyncio.Event() for name in "ab"}

    @step
    async def work(name: str) -> str:
        ledger(name)
        await doors[name].wait()
        return name

    @step
    async def after(names: list[str]) -> str:
        ledger("after")
        return "+".join(names)

    async def flow() -> str:
        tasks = [asyncio.create_task(work(name), name=name) for name in "ab"]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        said = await after([task.get_name() for task in tasks if task in done])
        rest = await asyncio.gather(*pending)
        return said + "," + "".join(rest)

    workflow = declare(flow)
    app = await memory.open(workflow)
    run = await app.start(workflow, id="r")
    await until(lambda: len(ledger.ran) == 2)
    for name in first:
        doors[name].set()
    if len(first) == 1:
        await until(lambda: ledger.count("after") == 1)
        doors["b" if first == "a" else "a"].set()
    live = await run.result(timeout=60)
    journal = await app.store.journal("r")
    ledger.ran.clear()
    for cut in range(1, len(journal) + 1):
        assert await replayed(app, workflow, journal[:cut]) == live
        assert ledger.count("a") + ledger.count("b") + ledger.count("after") == 3 - cut
        ledger.ran.clear()


@pytest.mark.parametrize("order", ORDERS, ids="".join)
async def test_as_completed_is_the_same_on_replay(
    memory: World, ledger: Ledger, order: tuple[str, ...]
) -> None:
    doors = {name: asyncio.Event() for name in "abc"}

    @step
    async def work(name: str) -> str:
        ledger(name)
        await doors[name].wait()
        return name

    @step(idempotent=True)
    async def quick(name: str) -> str:
        ledger(name)
        await doors[name].wait()
        return name

    async def nested(name: str) -> str:
        (one,) = await asyncio.gather(work(name))
        return one

    over: list[str] = []

    async def noted(branch: Coroutine[Any, Any, str]) -> str:
        over.append(await branch)
        return over[-1]

    async def flow() -> list[str]:
        branches = [nested("a"), quick("b"), work("c")]
        tasks = [asyncio.create_task(noted(one)) for one in branches]
        return [await one for one in asyncio.as_completed(tasks)]

    workflow = declare(flow)
    app = await memory.open(workflow)
    run = await app.start(workflow, id="r")
    await until(lambda: len(ledger.ran) == 3)
    for name in order:
        doors[name].set()
        await until(lambda name=name: name in over)  # type: ignore[misc]
    live = await run.result(timeout=60)
    journal = await app.store.journal("r")
    assert tuple(live) == order
    for _ in range(3):
        assert await replayed(app, workflow, journal) == live
    assert len(ledger.ran) == 3


async def test_as_completed_of_bare_coroutines_is_refused(memory: World) -> None:
    @step
    async def work(name: str) -> str:
        return name

    async def flow() -> list[str]:
        return [await one for one in asyncio.as_completed([work("a")])]

    app = await memory.open()
    with pytest.raises(RunFailed, match="as_completed begins coroutines in random order"):
        await (await app.start(declare(flow))).result(timeout=60)


async def test_the_loser_of_a_race_is_not_begun_again(world: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()

    @step
    async def slow() -> str:
        ledger("slow")
        await asyncio.Event().wait()
        return "slow"

    @step
    async def fast() -> str:
        ledger("fast")
        return "fast"

    @step
    async def hold() -> None:
        ledger("hold")
        if ledger.count("hold") == 1:
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> str:
        tasks = [asyncio.create_task(slow()), asyncio.create_task(fast())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await hold()
        return done.pop().result()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    app = await world.open(workflow)
    assert await app.run("r").result(timeout=60) == "fast"
    assert ledger.ran == ["slow", "fast", "hold", "hold"]


async def test_a_branch_that_asks_late_still_gets_its_answers(
    memory: World, ledger: Ledger
) -> None:
    """Its turn was passed over because nobody asked for it in time."""

    @step
    async def work(name: str) -> str:
        ledger(name)
        return name

    async def late() -> str:
        one = await work("late 1")
        await asyncio.sleep(0.12)  # not durable: the replay has to wait for it
        return one + await work("late 2")

    async def early() -> str:
        await asyncio.sleep(0.2)
        return await work("early")

    async def flow() -> list[str]:
        return list(await asyncio.gather(late(), early()))

    workflow = declare(flow)
    app = await memory.open(workflow)
    live = await (await app.start(workflow, id="r")).result(timeout=60)
    journal = await app.store.journal("r")
    ledger.ran.clear()
    assert await replayed(app, workflow, journal) == live
    swapped = [journal[0], journal[2]._replace(seq=2), journal[1]._replace(seq=3)]
    assert await replayed(app, workflow, swapped) == live
    assert ledger.ran == []


async def test_an_abandoned_branch_ends_with_its_run(
    memory: World, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = asyncio.Event()

    @step
    async def work(name: str) -> str:
        ledger(name)
        if name == "stuck":
            stuck.set()
            await asyncio.Event().wait()
        return name

    async def branch() -> None:
        await work("one")
        await work("stuck")
        await work("never")

    async def broken() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("nobody looks at it")

    async def flow() -> str:
        tasks = [asyncio.create_task(branch()), asyncio.create_task(broken())]
        await stuck.wait()
        return f"{len(tasks)} left"

    app = await memory.open()
    with caplog.at_level(logging.ERROR):
        assert await (await app.start(declare(flow), id="r")).result(timeout=60) == "2 left"
        await asyncio.sleep(0.05)
    assert ledger.ran == ["one", "stuck"]
    assert [e.key for e in await app.store.journal("r") if e.kind == "step"] == ["0.1/work#1"]
    assert "never retrieved" not in caplog.text


async def test_a_failing_branch_of_gather_and_of_a_group(world: World) -> None:
    seen: list[list[str]] = []
    stuck = asyncio.Event()

    @step
    async def work(name: str) -> str:
        if name.startswith("bad"):
            raise ValueError(name)
        if name == "slow":
            await asyncio.sleep(0.03)
        return name

    @step
    async def hold() -> None:
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        found = await asyncio.gather(work("a"), work("bad 1"), work("b"), return_exceptions=True)
        texts = [str(one) for one in found]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work("slow"))
                group.create_task(work("bad 2"))
        except* StepFailed as errors:
            texts += [str(one) for one in errors.exceptions]
        seen.append(texts)
        await hold()

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    app = await world.open(workflow)
    await app.run("r").result(timeout=60)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4


async def test_a_step_without_await_is_told(memory: World) -> None:
    @step
    async def forgotten() -> int:
        return 1

    async def flow() -> str:
        forgotten()  # type: ignore[unused-coroutine]  # wrong on purpose
        return "done"

    async def sleepless() -> None:
        aura.sleep(1)  # type: ignore[unused-coroutine]  # wrong on purpose

    app = await memory.open()
    with pytest.raises(RunFailed, match="sleep without awaiting it"):
        await (await app.start(declare(sleepless))).result(timeout=60)
    run = await app.start(declare(flow))
    with pytest.raises(RunFailed, match=r"forgotten without awaiting it.*Write `await`"):
        await run.result(timeout=60)


async def test_a_branch_cancelled_before_it_began_was_not_forgotten(memory: World) -> None:
    @step
    async def work() -> int:
        return 1

    async def flow() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work())
                int("x")
        except* ValueError:
            pass
        task = asyncio.create_task(work())
        task.cancel()
        await asyncio.wait([task])
        return "done"

    app = await memory.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == "done"


async def test_a_workflow_that_returns_a_coroutine_is_told(memory: World) -> None:
    @step
    async def work() -> int:
        return 1

    async def other() -> int:
        return 1

    async def flow() -> Any:
        return work()

    async def strange() -> Any:
        return other()

    app = await memory.open()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RunFailed, match="work without awaiting it"):
            await (await app.start(declare(flow))).result(timeout=60)
        with pytest.raises(RunFailed, match="the result of workflow strange cannot be stored"):
            await (await app.start(declare(strange))).result(timeout=60)


async def _begun(world: World, ledger: Ledger) -> None:
    """Run `r` of `flow` 1.0.0 has the journal of `old` and is nobody's."""
    stuck = asyncio.Event()

    @step
    async def work(number: int) -> int:
        return number

    @step
    async def hold() -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def old() -> int:
        found = await work(1) + await work(2)
        await hold()
        return found

    workflow = declare(old, name="flow")
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)


async def test_a_changed_path_parks_the_run_with_both_sides(world: World, ledger: Ledger) -> None:
    await _begun(world, ledger)

    @step
    async def work(number: int) -> int:
        ledger("work")
        return number

    async def new() -> int:
        try:
            return await work(1) + await work(3)
        except Exception:  # noqa: BLE001  (what careless code does)
            ledger("swallowed")
        return await work(5)

    workflow = declare(new, name="flow")
    app = await world.open(workflow)
    run = app.run("r", workflow)
    with pytest.raises(RunParked, match="NonDeterminism") as caught:
        await run.result(timeout=60)
    text = str(caught.value)
    assert "0/work#2" in text
    assert '{"number":2}' in text
    assert '{"number":3}' in text
    assert "work" not in ledger.ran
    assert await run.status() == "parked"
    assert len(await world.journal("r")) == 2
    assert await run.cancel() == "cancelled"


async def test_an_inserted_step_of_another_name_shifts_nothing(
    world: World, ledger: Ledger
) -> None:
    await _begun(world, ledger)

    @step
    async def work(number: int) -> int:
        ledger("work")
        return number

    @step
    async def inserted() -> int:
        ledger("inserted")
        return 10

    async def new() -> int:
        return await work(1) + await inserted() + await work(2)

    workflow = declare(new, name="flow")
    app = await world.open(workflow)
    assert await app.run("r", workflow).result(timeout=60) == 13
    assert ledger.ran == ["inserted"]


async def test_a_sleep_in_place_of_a_step_is_non_deterministic(
    world: World, ledger: Ledger
) -> None:
    @step(name="sleep")
    async def pause() -> None: ...

    stuck = asyncio.Event()

    @step
    async def hold() -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def old() -> None:
        await pause()
        await hold()

    app = await world.open(declare(old, name="flow"))
    await app.start(declare(old, name="flow"), id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)

    async def new() -> None:
        await aura.sleep(0)

    app = await world.open(declare(new, name="flow"))
    with pytest.raises(RunParked, match=r"journal has a step.*asks for a sleep"):
        await app.run("r").result(timeout=60)


def test_the_error_names_are_public() -> None:
    assert issubclass(NonDeterminism, aura.AuraError)
