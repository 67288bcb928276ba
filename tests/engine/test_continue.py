"""Beginning anew under the same id, and the limit that makes it necessary."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

import aura
from aura import Aura, Run, RunFailed, step
from aura.errors import ConfigError, InvalidInput, LeaseLost, RunCancelled, RunParked
from aura.store.base import Append, Continue, Entry, Heartbeat
from tests.engine.kit import Ledger, World, declare, until
from tests.engine.test_children import (
    children_of,
    has_children,
    leaves_memory_soon,
    part_workflow,
    state_is,
)


@step
async def add(one: int, two: int) -> int:
    return one + two


async def count_down(left: int, total: int = 0) -> int:
    """Five steps per execution."""
    for _ in range(5):
        total = await add(total, 1)
    if left:
        aura.continue_as_new(left - 1, total)
    return total


counting = declare(count_down)


async def test_the_chain_is_one_run(world: World) -> None:
    app = await world.open(counting)
    client = await world.open(worker=False)
    run = await app.start(counting, 9, id="c")
    outside = asyncio.create_task(client.run("c").result(timeout=60))
    assert await run.result(timeout=60) == 50
    assert await outside == 50
    record = await world.record("c")
    assert (record.execution, record.base, record.state) == (10, 45, "completed")
    journal = await world.journal("c")
    assert [(one.seq, one.key) for one in journal] == [(46 + n, f"0/add#{1 + n}") for n in range(5)]
    again = await app.start(counting, 9, id="c")
    assert await again.result(timeout=60) == 50, "the first input finds it"


async def test_a_crash_at_any_point_of_the_chain_repeats_nothing(
    world: World, ledger: Ledger
) -> None:
    @step
    async def note(name: str) -> None:
        ledger(name)

    async def chain(turn: int) -> str:
        for number in range(3):
            await note(f"{turn}.{number}")
        if turn < 8:
            aura.continue_as_new(turn + 1)
        return "done"

    workflow = declare(chain)
    run: Run[str] | None = None
    for stop in (1, 2, 3, 4, 5):
        reached = asyncio.Event()
        app = await world.open(workflow)
        commit = app.store.commit
        left = stop

        async def cut(
            ops: Any, commit: Any = commit, reached: asyncio.Event = reached
        ) -> list[Any]:
            nonlocal left
            if any(not isinstance(op, Heartbeat) for op in ops):
                left -= 1
            if left < 0:
                reached.set()
                await asyncio.Event().wait()
            outcomes: list[Any] = await commit(ops)
            return outcomes

        app.store.commit = cut  # type: ignore[method-assign]
        if run is None:
            run = await app.start(workflow, 1, id="c")
        await asyncio.wait_for(reached.wait(), 60)
        worker = app._worker
        assert worker is not None
        for task in worker._tasks.values():
            task.cancel()  # also where it waits for the commit that ends its execution
        await world.crash(app)
    app = await world.open(workflow)
    assert await app.run("c").result(timeout=60) == "done"
    assert sorted(set(ledger.ran)) == [f"{turn}.{n}" for turn in range(1, 9) for n in range(3)]
    assert len(ledger.ran) <= 24 + 5, "at each crash the one step that was under way"


async def test_signals_around_the_switch_are_not_lost(world: World) -> None:
    """Each execution takes one of what has come, and leaves the rest to the next one."""

    async def collect(seen: list[int], wanted: int) -> list[int]:
        seen.append(await aura.receive("number", type=int))
        if len(seen) < wanted:
            aura.continue_as_new(seen, wanted)
        return seen

    workflow = declare(collect)
    app = await world.open(workflow)
    client = await world.open(worker=False)
    count = 30
    run = await app.start(workflow, [], count, id="c")
    for number in range(0, count, 3):
        senders = (run, client.run("c"), run)
        for offset, sender in enumerate(senders):
            await sender.signal("number", number + offset, id=f"s{number + offset}")
            again = await sender.signal("number", -1, id=f"s{number + offset}")
            assert again.duplicate, "an id counts for the whole chain"
    assert await run.result(timeout=60) == list(range(count))
    assert (await world.record("c")).execution == count


async def test_a_signal_before_the_switch_waits_for_whoever_wants_it(world: World) -> None:
    go = asyncio.Event()

    @step
    async def hold() -> None:
        await go.wait()

    async def first(turn: int) -> str:
        if turn == 1:
            await hold()
            aura.continue_as_new(2)
        return await aura.receive("late", type=str)

    workflow = declare(first)
    app = await world.open(workflow)
    run = await app.start(workflow, 1, id="c")
    await run.signal("late", "kept")
    await run.signal("other", "nobody wants this")
    go.set()
    assert await run.result(timeout=60) == "kept"


async def test_a_signal_handed_to_a_branch_that_ends_with_its_execution_moves_along(
    world: World,
) -> None:
    async def flow(turn: int) -> str:
        if turn == 2:
            return await aura.receive("go", type=str)
        task = asyncio.create_task(aura.receive("go", type=str))
        await aura.receive("now")
        task.cancel()
        return aura.continue_as_new(2)

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, 1, id="c")
    await asyncio.sleep(0)
    await run.signal("now")
    await run.signal("go", "still here")
    assert await run.result(timeout=60) == "still here"


async def test_a_run_that_began_anew_leaves_memory(world: World) -> None:
    """Signals that earlier executions took do not keep it awake."""

    async def flow(turn: int) -> str:
        name = await aura.receive("go", type=str)
        if turn < 3:
            aura.continue_as_new(turn + 1)
        return name

    workflow = declare(flow)
    app = await leaves_memory_soon(await world.open(workflow))
    run = await app.start(workflow, 1, id="c")
    for name in ("a", "b"):
        await run.signal("go", name)

    async def third() -> bool:
        return (await world.record("c")).execution == 3

    await until(third, timeout=20)
    await state_is(run, "waiting")
    epoch = (await world.record("c")).epoch
    await run.signal("go", "c")
    assert await run.result(timeout=60) == "c"
    assert (await world.record("c")).epoch == epoch + 1, "one claim for one signal"


async def test_names_made_of_keys_have_the_number_of_the_execution(world: World) -> None:
    keys: list[str] = []

    @step
    async def pay() -> None:
        keys.append(aura.idempotency_key())

    async def flow(turn: int) -> int:
        await pay()
        found = await part_workflow(turn)
        if turn < 3:
            aura.continue_as_new(turn + 1)
        return found

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, 1, id="c")
    assert await run.result(timeout=60) == 6
    assert keys == ["c:0/pay#1", "c@2:0/pay#1", "c@3:0/pay#1"]
    ids = [one.id for one in await children_of(app, "c")]
    assert ids == ["c/0/part#1", "c@2/0/part#1", "c@3/0/part#1"]


async def test_a_parent_gets_the_end_of_the_chain(world: World) -> None:
    async def whole() -> int:
        return await counting(3)

    app = await world.open()
    run = await app.start(declare(whole), id="w")
    assert await run.result(timeout=60) == 20
    [child] = await children_of(app, "w")
    assert (child.id, child.execution) == ("w/0/count_down#1", 4)


async def test_children_outlive_the_switch_and_end_with_the_chain(world: World) -> None:
    go = asyncio.Event()

    async def wait() -> None:
        await aura.receive("never")

    waiting = declare(wait)

    @step
    async def hold() -> None:
        await go.wait()

    async def flow(turn: int) -> str:
        if turn == 1:
            await world.apps[-1].start(waiting)
            aura.continue_as_new(2)
        await hold()
        return "done"

    workflow = declare(flow)
    app = await world.open(workflow, waiting)
    run = await app.start(workflow, 1, id="c")
    await has_children(app, "c", 1, "running")

    async def second() -> bool:
        return (await world.record("c")).execution == 2

    await until(second, timeout=20)
    [child] = await children_of(app, "c")
    assert not child.cancel_requested
    go.set()
    assert await run.result(timeout=60) == "done"
    with pytest.raises(RunCancelled):
        await app.run(child.id).result(timeout=60)


async def test_what_a_run_shows_stays(world: World) -> None:
    async def flow(turn: int) -> int:
        aura.stream("turns").write(turn)
        if turn == 1:
            aura.set_state("began", "early")
        aura.set_state("turn", turn)
        if turn < 3:
            aura.continue_as_new(turn + 1)
        return turn

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, 1, id="c")
    assert [item async for item in run.stream("turns")] == [1, 2, 3]
    assert [item async for item in run.stream("turns", after=2)] == [3]
    for wrong in ("2", -1):
        with pytest.raises(InvalidInput, match="a number from 0 on"):
            await anext(run.stream("turns", after=wrong))  # type: ignore[arg-type]
    assert await run.state() == {"began": "early", "turn": 3}


async def test_an_update_is_answered_by_the_next_execution(world: World) -> None:
    async def flow(turn: int) -> None:
        if turn == 1:
            await aura.receive("switch")
            aura.continue_as_new(2)
        update = await aura.receive_update("add", type=int)
        update.answer(update.value + 1)

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, 1, id="c")
    asked = asyncio.create_task(run.update("add", 41, timeout=30))

    async def there() -> bool:
        return (await world.record("c")).signals == 1

    await until(there, timeout=20)
    await run.signal("switch")
    assert await asked == 42


async def test_another_version_goes_on(world: World) -> None:
    async def flow(turn: int) -> str:
        aura.continue_as_new(turn + 1, version="2.0.0")

    async def newer(turn: int) -> str:
        return f"second version, turn {turn}"

    old, new = declare(flow, name="flow"), declare(newer, "2.0.0", name="flow")
    app = await world.open(old, new)
    run = await app.start(old, 1, id="c")
    assert await run.result(timeout=60) == "second version, turn 2"
    assert (await world.record("c")).version == "2.0.0"


async def test_an_encrypted_run_begins_anew(world: World) -> None:
    app = await world.open(counting, encryption_keys=("k1:" + "A" * 43 + "=",))
    run = await app.start(counting, 3, id="c")
    assert await run.result(timeout=60) == 20
    assert (await app.run("c").record()).input == b'{"left":0,"total":15}'
    stored = await world.record("c")  # read without the key
    assert stored.execution == 4
    assert stored.input[:1] == b"\x02"


async def test_cancelling_reaches_the_next_execution(world: World) -> None:
    go = asyncio.Event()

    async def flow(turn: int) -> None:
        if turn == 1:
            try:
                await aura.receive("never")
            except asyncio.CancelledError:
                aura.continue_as_new(2)
        go.set()
        await aura.receive("never")

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, 1, id="c")
    await state_is(run, "running")
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)
    assert (await world.record("c")).execution == 2


@pytest.mark.parametrize("place", ["step", "branch", "saga", "outside"])
async def test_where_a_run_cannot_begin_anew(memory: World, place: str) -> None:
    @step
    async def inside() -> None:
        aura.continue_as_new()

    async def branch() -> None:
        aura.continue_as_new()

    async def flow() -> None:
        if place == "step":
            await inside()
        elif place == "branch":
            await asyncio.gather(branch())
        else:
            async with aura.saga():
                aura.continue_as_new()

    if place == "outside":
        with pytest.raises(ConfigError, match="outside a workflow"):
            aura.continue_as_new()
        return
    app = await memory.open()
    run = await app.start(declare(flow))
    with pytest.raises(RunFailed, match=r"was called (outside|inside)"):
        await run.result(timeout=60)


async def test_wrong_arguments_are_an_error_where_they_are_given(memory: World) -> None:
    async def flow(turn: int) -> str:
        try:
            aura.continue_as_new("many")
        except InvalidInput as error:
            return str(error)

    app = await memory.open()
    run = await app.start(declare(flow), 1)
    assert "argument 'turn' of workflow flow" in await run.result(timeout=60)


async def test_a_stale_worker_lets_nothing_begin_anew(world: World) -> None:
    async def flow() -> None:
        await aura.receive("never")

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="c")
    await world.crash(app)
    app = await world.open(workflow)

    async def taken() -> bool:
        return (await world.record("c")).epoch == 2

    await until(taken, timeout=20)
    with pytest.raises(LeaseLost):
        await app.committer.submit(Continue("c", 1, "1.0.0", b"{}", 0, 0))
    assert (await world.record("c")).execution == 1


# The limit.


def limited(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "begin anew" in one.getMessage()]


async def test_a_journal_has_a_limit_with_a_warning_before(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def flow(count: int) -> int:
        for _ in range(count):
            await add(1, 1)
        return count

    workflow = declare(flow)
    caplog.set_level(logging.WARNING, "aura.worker")
    app = await world.open(workflow, max_history=40)
    run = await app.start(workflow, 20, id="short")
    assert await run.result(timeout=60) == 20
    assert limited(caplog) == []
    run = await app.start(workflow, 40, id="just")
    assert await run.result(timeout=60) == 40
    [warning] = limited(caplog)
    assert "the journal of run just has 21 entries" in warning
    run = await app.start(workflow, 41, id="long")
    with pytest.raises(RunParked, match="HistoryTooLong: the journal of run long is full") as told:
        await run.result(timeout=60)
    assert "aura.continue_as_new" in str(told.value) or "parked" in str(told.value)
    assert len(await world.journal("long")) == 40
    await app.close()
    world.apps.remove(app)
    app = await world.open(workflow, max_history=100)
    assert await app.run("long").requeue() != "parked"
    assert await app.run("long").result(timeout=60) == 41


async def test_a_journal_has_a_limit_in_bytes(world: World) -> None:
    @step
    async def long() -> str:
        return "x" * 1_000

    async def flow() -> None:
        for _ in range(20):
            await long()

    workflow = declare(flow)
    app = await world.open(workflow, max_history_bytes=10_000)
    run = await app.start(workflow, id="long")
    with pytest.raises(RunParked, match=r"9 entries with 9,\d\d\d bytes"):
        await run.result(timeout=60)


async def test_code_cannot_swallow_the_limit(memory: World) -> None:
    async def flow() -> str:
        for _ in range(20):
            with contextlib.suppress(Exception):
                await add(1, 1)
        return "never"

    app = await memory.open(max_history=10)
    run = await app.start(declare(flow))
    with pytest.raises(RunParked, match="HistoryTooLong"):
        await run.result(timeout=60)


async def test_a_stream_cannot_grow_beyond_the_limit(memory: World) -> None:
    async def flow() -> str:
        for number in range(20):
            aura.stream("s").write(number)
            await aura.sleep(0.03)
        return "never"

    app = await memory.open(max_history=10)
    run = await app.start(declare(flow))
    with pytest.raises(RunParked, match="HistoryTooLong"):
        await run.result(timeout=60)


async def test_each_execution_has_a_limit_of_its_own(world: World) -> None:
    app = await world.open(counting, max_history=6)
    run = await app.start(counting, 9, id="c")
    assert await run.result(timeout=60) == 50


async def test_the_limits_are_checked(memory: World) -> None:
    for name in ("max_history", "max_history_bytes"):
        with pytest.raises(ConfigError, match=name):
            memory.app(**{name: 0})


async def test_an_entry_of_an_earlier_execution_is_refused(world: World) -> None:
    app: Aura = await world.open(counting)
    run = await app.start(counting, 1, id="c")
    await run.result(timeout=60)
    entry = Entry("c", 11, "0/add#6", "step", "", None, b"1", None, 1, 0.0, 0.0)
    with pytest.raises(LeaseLost):
        await app.committer.submit(Append(1, entry))
