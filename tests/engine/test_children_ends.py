"""Children over crashes and out of memory; and how the ends of parents and children meet."""

from __future__ import annotations

import asyncio
import re

import pytest

import aura
from aura import Aura, Config, Run, step
from aura.codec import plain
from aura.engine.rehearsal import rehearse
from aura.errors import LeaseLost, RunCancelled
from aura.store.base import CHILD_ENDED, Claimed, Heartbeat, StartRun
from tests.engine.kit import Ledger, World, declare, until
from tests.engine.test_children import (
    Gate,
    children_of,
    has_children,
    leaves_memory_soon,
    part_workflow,
    state_is,
)


@pytest.fixture
def gate(ledger: Ledger) -> Gate:
    return Gate(ledger)


# Memory and crashes.


async def test_a_parent_that_is_not_in_memory_is_woken_by_its_child(
    world: World, gate: Gate
) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        return await slowly()

    app = await leaves_memory_soon(await world.open())
    run = await app.start(declare(whole), id="w")
    await state_is(run, "waiting")
    worker = app._worker
    assert worker is not None
    assert (await world.record("w")).wake_at is None
    await until(lambda: "w" not in worker._executions)
    gate.opened.set()
    assert await run.result(timeout=60) == "slow"
    async with world.store() as store:
        told = [one.id for one in await store.signals([("w", 0)])]
    assert told == [f"{CHILD_ENDED}:w/0/slow#1"]


async def test_the_worker_of_the_parent_dies_between_start_and_end_of_the_child(
    world: World, gate: Gate
) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        gate.ledger("whole")
        return "got " + await slowly()

    workflow = declare(whole)
    app = await world.open(workflow)  # it does not know the child's workflow
    app.registry.add(slowly)
    run = await app.start(workflow, id="w")
    await asyncio.wait_for(gate.reached.wait(), 60)
    await run.status()
    await world.crash(app)
    gate.opened.set()
    app = await world.open(workflow, slowly)
    assert await app.run("w").result(timeout=60) == "got slow"
    assert gate.ledger.count("whole") == 2
    assert len(await children_of(app, "w")) == 1


async def test_the_child_ends_elsewhere_while_its_parent_is_in_memory(
    world: World, gate: Gate
) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        run = await parents.start(slowly, id="c")
        return "got " + await run.result()

    parents = await world.open(capacity=1)  # has no room for the child
    workflow = declare(whole)
    run = await parents.start(workflow, id="w")
    await has_children(parents, "w", 1)
    assert (await world.record("c")).state == "pending"
    children = await world.open(slowly)
    await asyncio.wait_for(gate.reached.wait(), 60)
    await world.crash(children)
    gate.reached.clear()
    await world.open(slowly)
    await asyncio.wait_for(gate.reached.wait(), 60)
    gate.opened.set()
    assert await run.result(timeout=60) == "got slow"
    assert gate.ledger.count("slow") == 2, "the child's worker was killed, and it began again"
    assert (await world.record("w")).recoveries == 0


async def test_a_stale_worker_starts_no_children(world: World, gate: Gate) -> None:
    """Its parent was taken by another worker; the next call is refused with the lease."""

    async def whole() -> str:
        await gate.hold("first")
        return str(await part_workflow(1))

    workflow = declare(whole)
    stale = await world.open(workflow, part_workflow)
    await stale.start(workflow, id="w")
    await asyncio.wait_for(gate.reached.wait(), 60)
    worker = stale._worker
    assert worker is not None
    execution = worker._executions["w"]
    gate.reached.clear()
    async with world.store() as store:
        await store.commit([Heartbeat(worker.id, 0.0)])
    fresh = await world.open(workflow, part_workflow)
    await asyncio.wait_for(gate.reached.wait(), 60)
    op = StartRun("w/0/part#1", "part", "1.0.0", b"{}", "", "o", parent="w", parent_epoch=1)
    with pytest.raises(LeaseLost):
        await execution.children.family.start(op)
    assert await children_of(fresh, "w") == []
    gate.opened.set()
    assert await fresh.run("w").result(timeout=60) == "2"
    assert [one.id for one in await children_of(fresh, "w")] == ["w/0/part#1"]


async def test_encrypted_children(world: World) -> None:
    keys = ("k1:" + "A" * 43 + "=",)

    async def whole(value: int) -> int:
        return await part_workflow(value)

    app = await world.open(encryption_keys=keys)
    run = await app.start(declare(whole), 21, id="w")
    assert await run.result(timeout=60) == 42
    entries = await world.journal("w")  # as they are stored
    assert all(one.output is None or one.output[:1] == b"\x02" for one in entries)


# Ends and cancellation.


async def test_cancelling_a_parent_cancels_its_children_and_theirs(
    world: World, gate: Gate
) -> None:
    async def slow() -> str:
        try:
            return await gate.hold("slow")
        finally:
            gate.ledger("cleaned")

    slowly = declare(slow)

    async def middle() -> str:
        return await slowly()

    between = declare(middle)

    async def whole() -> str:
        return await between()

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    await asyncio.wait_for(gate.reached.wait(), 60)
    for _ in range(3):
        await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    for child in ("w/0/middle#1", "w/0/middle#1/0/slow#1"):
        with pytest.raises(RunCancelled):
            await app.run(child).result(timeout=60)
    assert gate.ledger.ran == ["slow", "cleaned"]


async def test_a_parent_that_ends_cancels_what_it_does_not_wait_for(
    world: World, gate: Gate
) -> None:
    async def slow(name: str) -> str:
        return await gate.hold(name)

    slowly = declare(slow)

    async def whole() -> str:
        app = world.apps[-1]
        await app.start(slowly, "left behind", id="left")
        await app.start(slowly, "on its own", id="free", detached=True)
        return "done"

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    assert await run.result(timeout=60) == "done"
    with pytest.raises(RunCancelled):
        await app.run("left").result(timeout=60)
    assert await app.run("free").status() == "running"
    gate.opened.set()
    assert await app.run("free").result(timeout=60) == "on its own"
    assert (await world.record("free")).parent == "w"


async def test_a_detached_child_can_be_awaited(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        run = await world.apps[-1].start(slowly, detached=True)
        gate.opened.set()
        return await run.result()

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    assert await run.result(timeout=60) == "slow"
    async with world.store() as store:
        assert await store.signals([("w", 0)]) == []


async def test_a_branch_that_is_cancelled_stops_its_child(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        task = asyncio.create_task(slowly())
        await until(gate.reached.is_set)
        task.cancel()
        await asyncio.wait([task])
        run = world.apps[-1].run("w/0.1/slow#1")
        try:
            await run.result()
        except RunCancelled as error:
            return f"{error.run_id} was cancelled"
        return "never"

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    assert await run.result(timeout=60) == "w/0.1/slow#1 was cancelled"


async def test_whoever_waits_for_a_result_may_stop_waiting(world: World, gate: Gate) -> None:
    """Cancelling the wait of a handle leaves the run alone."""

    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        run = await world.apps[-1].start(slowly)
        task = asyncio.create_task(run.result())
        await until(gate.reached.is_set)
        task.cancel()
        await asyncio.wait([task])
        gate.opened.set()
        return await run.result()

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    assert await run.result(timeout=60) == "slow"


async def test_a_crash_or_a_shutdown_cancels_no_children(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    async def whole() -> str:
        return await slowly()

    workflow = declare(whole)
    app = await world.open(workflow, slowly, grace=0.0)
    await app.start(workflow, id="w")
    await asyncio.wait_for(gate.reached.wait(), 60)
    world.apps.remove(app)
    await app.close()
    assert not (await world.record("w/0/slow#1")).cancel_requested
    app = await world.open(workflow, slowly)
    gate.opened.set()
    assert await app.run("w").result(timeout=60) == "slow"


async def test_cancel_while_the_parent_is_not_in_memory(world: World, gate: Gate) -> None:
    async def slow() -> str:
        return await gate.hold("slow")

    slowly = declare(slow)

    @step
    async def clean() -> None:
        gate.ledger("clean")

    async def whole() -> str:
        try:
            return await slowly()
        finally:
            await clean()

    app = await leaves_memory_soon(await world.open())
    run = await app.start(declare(whole), id="w")
    await state_is(run, "waiting")
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    with pytest.raises(RunCancelled):
        await app.run("w/0/slow#1").result(timeout=60)
    assert gate.ledger.ran == ["slow", "clean"]


async def test_children_that_never_began_are_cancelled_at_once(world: World) -> None:
    """Nobody runs their workflow; cancelling does not wait for anybody."""

    async def whole() -> list[int]:
        return list(await aura.map(part_workflow, range(20)))

    workflow = declare(whole)
    app = await world.open(workflow, capacity=1)
    run = await app.start(workflow, id="w")
    await has_children(app, "w", 20, "pending")
    await asyncio.gather(*(run.cancel() for _ in range(5)))
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    await has_children(app, "w", 20, "cancelled")


async def test_many_children_find_room_though_their_parents_fill_the_worker(
    world: World,
) -> None:
    async def whole(value: int) -> int:
        return await part_workflow(value)

    workflow = declare(whole)
    app = await leaves_memory_soon(await world.open(workflow, part_workflow, capacity=3))
    runs = [await app.start(workflow, n) for n in range(9)]
    assert [await run.result(timeout=60) for run in runs] == [2 * n for n in range(9)]


async def test_a_thousand_children_are_joined(memory: World) -> None:
    async def bare(value: int) -> int:
        return value

    child = declare(bare)

    async def whole(count: int) -> int:
        return sum(await asyncio.gather(*(child(n) for n in range(count))))

    app = await memory.open(capacity=2_000)
    run = await app.start(declare(whole), 1_000)
    assert await run.result(timeout=60) == 499_500


async def test_ids_of_children_say_where_they_were_started(memory: World) -> None:
    async def branch() -> int:
        return await part_workflow(1)

    async def whole() -> int:
        return sum(await asyncio.gather(branch(), branch()))

    app = await memory.open()
    run = await app.start(declare(whole), id="w")
    await run.result(timeout=60)
    ids = [one.id for one in await children_of(app, "w")]
    assert ids == ["w/0.1/part#1", "w/0.2/part#1"]
    entries = {one.key: one for one in await app.store.journal("w")}
    said = plain(entries["0.1/part#1"].output)
    assert said == {"id": ids[0], "workflow": "part", "version": "1.0.0", "parent": "w"}
    assert all(re.fullmatch(r"w/0\.\d/part#1", one) for one in ids)


async def test_an_app_of_another_database_starts_no_children(world: World) -> None:
    other = Aura("other", config=Config(database=":memory:"))

    async def whole() -> str:
        run = await other.start(part_workflow, 1)
        await run.result(timeout=60)
        return run.id

    async with other:
        app = await world.open()
        run = await app.start(declare(whole), id="w")
        there = await run.result(timeout=60)
        assert (await other.run(there).record()).parent is None
    assert await children_of(app, "w") == []


# Other ways to run them.


async def test_a_recorded_parent_is_rehearsed_without_its_app(world: World) -> None:
    async def whole() -> int:
        run = await app.start(part_workflow, 1)
        there: Run[int] = app.run(run.id, part_workflow)
        return await run.result() + await part_workflow(2) + await there.result()

    workflow = declare(whole)
    app = await world.open(workflow, part_workflow)
    run = await app.start(workflow, id="w")
    assert await run.result(timeout=60) == 8
    history = Claimed(await run.record(), await app.store.journal("w"))
    world.apps.remove(app)
    await app.close()
    assert (await rehearse(workflow, history)).divergences == ()


async def test_a_worker_for_one_run_takes_the_runs_that_it_starts(world: World) -> None:
    """Also those that leave memory, and no others."""

    async def ask(number: int) -> int:
        return number * await aura.receive("factor", type=int)

    asking = declare(ask)

    async def whole() -> list[int]:
        return await aura.map(asking, range(1, 4))

    workflow = declare(whole)
    client = await world.open(worker=False)
    other = await client.start(asking, 7, id="other")
    await client.start(workflow, id="w")
    app = world.app(workflow, asking)
    await app.open(only="w")
    world.apps.append(app)
    await leaves_memory_soon(app)
    await has_children(app, "w", 3, "waiting")
    for child in await children_of(app, "w"):
        await app.run(child.id).signal("factor", 10)
    assert await app.run("w").result(timeout=60) == [10, 20, 30]
    assert await other.status() == "pending"
