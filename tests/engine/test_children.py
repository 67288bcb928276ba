"""Runs that runs start: awaited, started, detached, failing, cancelled, and over crashes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

import aura
from aura import Aura, Run, RunFailed, Workflow, step
from aura.errors import (
    InvalidInput,
    NonDeterminism,
    RegistrationError,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunNotFound,
)
from aura.store.base import RunFilter, RunRecord
from tests.engine.kit import Ledger, World, declare, replayed, until


@dataclass
class Report:
    title: str
    pages: int


@step
async def double(value: int) -> int:
    return 2 * value


async def part(value: int) -> int:
    return await double(value)


part_workflow = declare(part)


async def leaves_memory_soon(app: Aura) -> Aura:
    """Runs that wait leave memory after some milliseconds."""
    worker = app._worker
    assert worker is not None
    services = replace(worker._services, suspend_after=0.01, keep_in_memory=0.05, linger=0.01)
    worker._services = services
    return app


async def children_of(app: Aura, run_id: str) -> list[RunRecord]:
    return sorted(await app.runs(RunFilter(parent=run_id, limit=2_000)), key=lambda one: one.id)


async def state_is(run: Run[Any], state: str) -> None:
    async def holds() -> bool:
        try:
            return await run.status() == state
        except RunNotFound:
            return False

    await until(holds, timeout=20)


async def has_children(app: Aura, run_id: str, count: int, state: str | None = None) -> None:
    async def holds() -> bool:
        found = await children_of(app, run_id)
        return len([one for one in found if state in (None, one.state)]) == count

    await until(holds, timeout=20)


class Gate:
    """A step that waits until the test lets it go on, in whatever app it runs."""

    def __init__(self, ledger: Ledger) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        self.ledger = ledger

        @step
        async def hold(name: str) -> str:
            self.ledger(name)
            self.reached.set()
            await self.opened.wait()
            return name

        self.hold = hold


@pytest.fixture
def gate(ledger: Ledger) -> Gate:
    return Gate(ledger)


# Calling a workflow.


async def test_a_call_of_a_workflow_in_a_run_is_a_run_of_its_own(world: World) -> None:
    async def whole(value: int) -> int:
        return await part_workflow(value) + await part_workflow(value + 1)

    app = await world.open()
    run = await app.start(declare(whole), 1, id="w")
    assert await run.result(timeout=20) == 6
    first, second = await children_of(app, "w")
    assert (first.id, second.id) == ("w/0/part#1", "w/0/part#2")
    assert (first.state, first.parent, first.detached) == ("completed", "w", False)
    kinds = [(one.key, one.kind) for one in await world.journal("w")]
    assert kinds == [
        ("0/part#1", "child"),
        ("0/part#1/ended", "ended"),
        ("0/part#2", "child"),
        ("0/part#2/ended", "ended"),
    ]
    assert [one.key for one in await world.journal(first.id)] == ["0/double#1"]


async def test_outside_a_run_and_in_a_step_it_is_the_plain_function(memory: World) -> None:
    @step
    async def inside() -> int:
        return await part_workflow(4)

    async def flow() -> int:
        return await inside()

    assert await part_workflow(3) == 6
    app = await memory.open()
    run = await app.start(declare(flow), id="f")
    assert await run.result(timeout=20) == 8
    assert await children_of(app, "f") == []


async def test_arguments_and_results_are_typed(memory: World) -> None:
    async def make(title: str, pages: int = 3) -> Report:
        return Report(title, pages)

    made = declare(make)

    async def flow() -> list[Report]:
        return [await made("a"), await made(title="b", pages=4)]

    app = await memory.open()
    run = await app.start(declare(flow))
    assert await run.result(timeout=20) == [Report("a", 3), Report("b", 4)]


async def test_wrong_arguments_start_nothing(memory: World) -> None:
    async def flow() -> str:
        try:
            await part_workflow("many")  # type: ignore[arg-type]
        except InvalidInput as error:
            return str(error)
        return "never"

    app = await memory.open()
    run = await app.start(declare(flow), id="f")
    assert "argument 'value' of workflow part" in await run.result(timeout=20)
    assert await children_of(app, "f") == []


async def test_a_call_that_is_not_awaited_is_an_error(memory: World) -> None:
    async def flow() -> None:
        part_workflow(1)  # type: ignore[unused-coroutine]

    app = await memory.open()
    run = await app.start(declare(flow))
    with pytest.raises(RunFailed, match="called part without awaiting it"):
        await run.result(timeout=20)


async def test_generations(world: World) -> None:
    async def fall(depth: int) -> int:
        return 1 if depth == 0 else 1 + await falling(depth - 1)

    falling: Workflow[[int], int] = declare(fall)
    app = await world.open()
    run = await app.start(falling, 60, id="top")
    assert await run.result(timeout=60) == 61
    runs = await app.runs(RunFilter(limit=500))
    assert len(runs) == 61
    assert max(len(one.id) for one in runs) <= 500, "long ids are cut and hashed"


async def test_children_of_branches_side_by_side(world: World) -> None:
    async def whole(count: int) -> list[int]:
        return list(await asyncio.gather(*(part_workflow(n) for n in range(count))))

    workflow = declare(whole)
    app = await world.open()
    run = await app.start(workflow, 50, id="w")
    assert await run.result(timeout=30) == [2 * n for n in range(50)]
    assert len(await children_of(app, "w")) == 50
    journal = await world.journal("w")
    for cut in (0, 30, 75, len(journal)):
        assert await replayed(app, workflow, journal[:cut], 50) == [2 * n for n in range(50)]


async def test_a_changed_child_is_noticed(memory: World) -> None:
    numbers = iter([1, 2])

    async def whole() -> int:
        return await part_workflow(next(numbers))

    workflow = declare(whole)
    app = await memory.open()
    await (await app.start(workflow, id="w")).result(timeout=20)
    journal = await app.store.journal("w")
    with pytest.raises(aura.AuraError, match="NonDeterminism") as caught:
        await replayed(app, workflow, journal)
    assert NonDeterminism.__name__ in str(caught.value)


# Failures.


async def test_the_failure_of_a_child_is_an_error_with_its_id(world: World) -> None:
    async def bad() -> None:
        raise ValueError("no such page")

    failing = declare(bad)

    async def whole() -> list[str]:
        try:
            await failing()
        except RunFailed as error:
            return [error.run_id, error.type, str(error)]
        return []

    workflow = declare(whole)
    app = await world.open()
    run = await app.start(workflow, id="w")
    said = await run.result(timeout=20)
    assert said[:2] == ["w/0/bad#1", "ValueError"]
    assert "run w/0/bad#1 of bad 1.0.0 failed: ValueError: no such page" in said[2]
    again = await replayed(app, workflow, await world.journal("w"))
    assert again == said, "the same error live and on replay"


async def test_a_failure_that_nobody_catches_fails_the_parent(memory: World) -> None:
    async def bad() -> None:
        raise ValueError("deep below")

    failing = declare(bad)

    async def middle() -> None:
        await failing()

    between = declare(middle)

    async def whole() -> None:
        await between()

    app = await memory.open()
    run = await app.start(declare(whole), id="w")
    with pytest.raises(RunFailed, match="ValueError: deep below") as caught:
        await run.result(timeout=20)
    assert (caught.value.run_id, caught.value.type) == ("w", "RunFailed")


async def test_a_child_that_is_cancelled_by_somebody(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        try:
            return await slowly()
        except RunCancelled as error:
            return error.run_id

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    await asyncio.wait_for(gate.reached.wait(), 20)
    await app.run("w/0/slow#1").cancel()
    assert await run.result(timeout=20) == "w/0/slow#1"


async def test_the_parent_of_a_parked_child_waits_until_it_is_mended(
    world: World, ledger: Ledger
) -> None:
    broken = True

    @step
    async def book() -> str:
        return "booked"

    @step
    async def unbook() -> None:
        ledger("unbook")
        if broken:
            raise aura.NonRetryable("the other side is down")

    @step
    async def no_train() -> None:
        raise aura.NonRetryable("no train")

    async def trip() -> str:
        try:
            async with aura.saga() as saga:
                await saga.step(book, compensate=unbook)
                await no_train()
        except aura.StepFailed:
            pass
        return "taken back"

    tripping = declare(trip)

    async def whole() -> str:
        return await tripping()

    app = await leaves_memory_soon(await world.open())
    run = await app.start(declare(whole), id="w")
    await state_is(app.run("w/0/trip#1"), "parked")
    await state_is(run, "waiting")
    broken = False
    await app.run("w/0/trip#1").requeue()
    assert await run.result(timeout=20) == "taken back"


# `app.start` in a run.


async def test_starting_and_waiting_are_two_things(world: World, gate: Gate) -> None:
    async def slow(name: str) -> str:
        return await gate.hold(name)

    slowly = declare(slow)

    async def whole() -> list[str]:
        app = world.apps[-1]
        one = await app.start(slowly, "a")
        two = await app.start("slow", "b", id="mine")
        gate.ledger("both started")
        return [one.id, two.id, await two.result(), await one.result(), await one.result()]

    app = await world.open(slowly)
    workflow = declare(whole)
    run = await app.start(workflow, id="w")
    await until(lambda: gate.ledger.count("both started") == 1, timeout=20)
    gate.opened.set()
    said = await run.result(timeout=20)
    assert said == ["w/0/start:slow#1", "mine", "b", "a", "a"]
    assert {one.parent for one in await children_of(app, "w")} == {"w"}
    assert await replayed(app, workflow, await world.journal("w")) == said
    assert len(await app.runs(RunFilter(workflow="slow"))) == 2, "a replay starts nothing"


async def test_a_result_that_is_not_there_in_time(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        run = await world.apps[-1].start(slowly)
        try:
            await run.result(timeout=0.05)
        except ResultTimeout:
            gate.opened.set()
        return "late " + await run.result(timeout=60)

    workflow = declare(whole)
    app = await world.open()
    run = await app.start(workflow, id="w")
    assert await run.result(timeout=20) == "late slow"
    gate.opened.clear()  # the recorded time-out must be enough
    assert await replayed(app, workflow, await world.journal("w")) == "late slow"


async def test_an_id_that_is_taken_is_the_same_conflict_on_replay(world: World) -> None:
    async def whole() -> str:
        try:
            await world.apps[-1].start(part_workflow, 2, id="taken")
        except RunConflict as error:
            return str(error)
        return "never"

    workflow = declare(whole)
    app = await world.open()
    await app.start(part_workflow, 1, id="taken")
    run = await app.start(workflow, id="w")
    said = await run.result(timeout=20)
    assert "run taken exists with another input" in said
    assert await replayed(app, workflow, await world.journal("w")) == said


async def test_waiting_for_a_run_that_is_nobodys_child(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    async def watch(run_id: str) -> Any:
        return await world.apps[-1].run(run_id).result()

    slowly, watching = declare(slow), declare(watch)
    app = await world.open(slowly, watching)
    client = await world.open(worker=False)
    world.apps.reverse()  # the workflow asks the app with the worker
    await app.start(slowly, id="s")
    inside = await app.start(watching, "s", id="w")
    missing = await app.start(watching, "nobody", id="m")
    with pytest.raises(RunFailed, match="there is no run nobody") as caught:
        await missing.result(timeout=20)
    assert caught.value.type == RunNotFound.__name__
    await asyncio.wait_for(gate.reached.wait(), 20)
    gate.opened.set()
    assert await inside.result(timeout=20) == "slow"
    assert await client.run("s").result(timeout=20) == "slow"


async def test_who_is_waited_for_may_leave_memory(world: World) -> None:
    """That is no end, also for those that wait in the same process though it is not their child."""

    async def slow() -> str:
        return str(await aura.receive("go"))

    async def watch(run_id: str) -> Any:
        return await world.apps[0].run(run_id).result()

    slowly, watching = declare(slow), declare(watch)
    app = await leaves_memory_soon(await world.open(slowly, watching))
    worker = app._worker
    assert worker is not None
    # Only who waits without a limit leaves memory: "w" looks again some time.
    worker._services = replace(
        worker._services, keep_in_memory=10_000.0, suspend_after=0.3, linger=0.3
    )
    await app.start(slowly, id="s")
    inside = await app.start(watching, "s", id="w")
    await until(lambda: "s" in worker._family._visitors)
    await state_is(app.run("s"), "waiting")
    assert await inside.status() == "running"
    await app.run("s").signal("go", "on")
    assert await inside.result(timeout=60) == "on"


async def test_a_workflow_is_no_step(memory: World) -> None:
    async def flow() -> None:
        async with aura.saga() as saga:
            await saga.step(part_workflow, 1)

    with pytest.raises(RegistrationError, match="workflow part cannot be a step"):
        step(part_workflow)
    app = await memory.open()
    run = await app.start(declare(flow))
    with pytest.raises(RunFailed, match="workflow part cannot be a step"):
        await run.result(timeout=20)
