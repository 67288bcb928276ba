"""Signals: never lost, once per id, in order, typed, replayed; also from other processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import aura
from aura import Aura, SignalTimeout, Workflow, step
from aura.codec import plain, to_json
from aura.errors import (
    CodecError,
    ConfigError,
    InvalidInput,
    RegistrationError,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunNotFound,
)
from aura.store.base import Append, Entry, Op, Outcome, SendSignal, Signal
from tests.engine.kit import World, declare, replayed, resumed, until


@dataclass
class Approval:
    ok: bool
    by: str


@step
async def double(value: int) -> int:
    return 2 * value


async def one(timeout: float | None = None) -> str:
    return await aura.receive("go", type=str, timeout=timeout)


async def three() -> list[int]:
    return [await aura.receive("go", type=int) for _ in range(3)]


one_workflow, three_workflow = declare(one), declare(three)


async def leaves_memory_soon(app: Aura) -> Aura:
    """Runs that wait leave memory after some milliseconds."""
    assert app._worker is not None
    services = app._worker._services
    app._worker._services = replace(services, suspend_after=0.01, keep_in_memory=0.05, linger=0.01)
    return app


async def signals_taken(world: World, run_id: str) -> list[Entry]:
    return [entry for entry in await world.journal(run_id) if entry.kind == "signal"]


async def test_an_early_signal_waits_for_its_receiver(world: World) -> None:
    started = asyncio.Event()

    @step
    async def slow() -> None:
        await started.wait()

    async def late_receiver() -> str:
        await slow()
        return await aura.receive("go", type=str)

    workflow = declare(late_receiver)
    app = await world.open(workflow)
    run = await app.start(workflow)
    sent = await run.signal("go", "early")
    assert (sent.seq, sent.duplicate, sent.late, sent.state) == (1, False, False, "running")
    started.set()
    assert await run.result(timeout=60) == "early"


async def test_a_signal_to_a_run_that_no_worker_has_taken_yet(world: World) -> None:
    client = await world.open(one_workflow, worker=False)
    run = await client.start(one_workflow)
    assert (await run.signal("go", "first")).state == "pending"
    await world.open(one_workflow)
    assert await run.result(timeout=60) == "first"


async def test_a_signal_that_races_with_the_start_is_not_lost(world: World) -> None:
    client = await world.open(one_workflow, worker=False)
    await world.open(one_workflow)
    runs = [await client.start(one_workflow) for _ in range(20)]
    await asyncio.gather(*(run.signal("go", run.id) for run in runs))
    assert [await run.result(timeout=60) for run in runs] == [run.id for run in runs]


async def test_a_signal_that_races_with_leaving_memory_is_not_lost(world: World) -> None:
    app = await leaves_memory_soon(await world.open(one_workflow))
    client = await world.open(one_workflow, worker=False)
    runs = [await app.start(one_workflow) for _ in range(20)]
    for run in runs:
        await asyncio.sleep(0.004)
        await client.run(run.id).signal("go", run.id)
    assert [await run.result(timeout=60) for run in runs] == [run.id for run in runs]


async def test_a_run_that_left_memory_is_woken_by_another_process(world: World) -> None:
    app = await leaves_memory_soon(await world.open(one_workflow))
    client = await world.open(one_workflow, worker=False)
    run = await app.start(one_workflow)
    worker = app._worker
    assert worker is not None

    async def gone() -> bool:
        return await run.status() == "waiting" and not worker._executions

    await until(gone)
    record = await world.record(run.id)
    assert (record.wake_at, record.owner) == (None, None)
    assert (await client.run(run.id).signal("go", "wake")).state == "pending"
    assert await run.result(timeout=60) == "wake"


async def test_a_topic_that_was_missed_costs_a_look(world: World) -> None:
    """No topic is heard at all: the lease's rhythm finds the signal."""
    app = await world.open(one_workflow, lease=0.6)
    assert app._worker is not None
    app._worker._unlisten()
    run = await app.start(one_workflow)
    await run.signal("go", "found")
    assert await run.result(timeout=60) == "found"
    app._worker._unlisten = lambda: None


async def test_a_signal_of_the_same_process_is_not_read_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = await world.open(three_workflow, lease=3600.0)
    run = await app.start(three_workflow)

    async def never(_: object) -> list[Signal]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(app.store, "signals", never)
    for number in range(3):
        await run.signal("go", number)
    assert await run.result(timeout=60) == [0, 1, 2]


async def test_a_signal_that_was_not_heard_of_is_not_overtaken(world: World) -> None:
    """What another process has sent comes first, though only the later one was noticed here."""
    app = await world.open(three_workflow, lease=3600.0)
    client = await world.open(three_workflow, worker=False)
    run = await app.start(three_workflow)
    worker = app._worker
    assert worker is not None
    hear, worker._mail.heard = worker._mail.heard, _deaf  # type: ignore[method-assign, assignment]
    await client.run(run.id).signal("go", 0)
    worker._mail.heard = hear  # type: ignore[method-assign]
    await run.signal("go", 1)
    await client.run(run.id).signal("go", 2)
    assert await run.result(timeout=60) == [0, 1, 2]


def _deaf(_: str, *, coming: bool) -> None:
    """Hears nothing."""


async def test_all_waiters_wake(world: World) -> None:
    async def fan() -> list[int]:
        return list(await asyncio.gather(*(aura.receive("go", type=int) for _ in range(5))))

    workflow = declare(fan)
    app = await world.open(workflow)
    run = await app.start(workflow)
    for number in range(5):
        await run.signal("go", number)
    assert await run.result(timeout=60) == [0, 1, 2, 3, 4], "in the order in which they began"
    journal = await world.journal(run.id)
    for cut in range(len(journal)):
        again = await resumed(app, workflow, journal[:cut])
        for number in range(5):  # those that the journal has were taken
            await again.signal("go", number)
        assert await again.result(timeout=60) == [0, 1, 2, 3, 4]


async def test_signals_come_in_order_within_a_priority(world: World) -> None:
    client = await world.open(three_workflow, worker=False)
    run = await client.start(three_workflow)
    for number in range(3):
        await run.signal("go", number)
    await world.open(three_workflow)
    assert await run.result(timeout=60) == [0, 1, 2]


async def test_higher_priorities_and_earlier_deadlines_come_first(world: World) -> None:
    async def five() -> list[str]:
        return [await aura.receive("go", type=str) for _ in range(5)]

    workflow = declare(five)
    client = await world.open(workflow, worker=False)
    run = await client.start(workflow)
    await run.signal("go", "low", priority="low")
    await run.signal("go", "normal")
    await run.signal("go", "soon", deadline=timedelta(seconds=60))
    await run.signal("go", "sooner", deadline=30.0)
    await run.signal("go", "critical", priority="critical")
    await world.open(workflow)
    expected = ["critical", "sooner", "soon", "normal", "low"]
    assert await run.result(timeout=60) == expected


async def test_a_signal_is_sent_once_per_id(world: World) -> None:
    app = await world.open(three_workflow)
    run = await app.start(three_workflow)
    first = await run.signal("go", 1, id="a")
    again = await run.signal("go", 99, id="a")
    assert (again.seq, again.duplicate, first.duplicate) == (first.seq, True, False)
    await run.signal("go", 2, id="b")
    await run.signal("go", 3, id="c")
    assert await run.result(timeout=60) == [1, 2, 3]
    assert (await run.signal("go", 3, id="c")).duplicate, "also when the run has ended"


async def test_a_signal_that_comes_too_late_is_marked_and_delivered(world: World) -> None:
    app = await world.open(one_workflow)
    run = await app.start(one_workflow)
    sent = await run.signal("go", "late", deadline=datetime(2020, 1, 1, tzinfo=UTC))
    assert sent.late
    assert await run.result(timeout=60) == "late"


async def test_receive_any(world: World) -> None:
    async def either() -> list[tuple[str, Any]]:
        found = [await aura.receive(("yes", "no"), type=int) for _ in range(3)]
        return [(got.name, got.value) for got in found]

    workflow = declare(either)
    app = await world.open(workflow)
    run = await app.start(workflow)
    await run.signal("maybe", 0)
    for number, name in enumerate(["no", "yes", "no"]):
        await run.signal(name, number)
    expected = [("no", 0), ("yes", 1), ("no", 2)]
    assert await run.result(timeout=60) == expected
    journal = await world.journal(run.id)
    assert await replayed(app, workflow, journal) == expected


async def test_signals_are_typed(world: World) -> None:
    async def approve() -> str:
        approval = await aura.receive("approval", type=Approval)
        assert isinstance(approval, Approval)
        return approval.by

    workflow = declare(approve)
    app = await world.open(workflow)
    run = await app.start(workflow)
    await run.signal("approval", Approval(ok=True, by="Ada"))
    assert await run.result(timeout=60) == "Ada"


async def test_a_payload_that_does_not_fit_is_an_error_in_the_workflow(world: World) -> None:
    async def patient() -> str:
        try:
            await aura.receive("approval", type=Approval)
        except CodecError as error:
            return f"{error} then {(await aura.receive('approval', type=Approval)).by}"
        return "no error"

    workflow = declare(patient)
    app = await world.open(workflow)
    run = await app.start(workflow)
    await run.signal("approval", {"ok": "perhaps"})
    await run.signal("approval", {"ok": True, "by": "Bo"})
    said = await run.result(timeout=60)
    assert "signal approval" in said
    assert said.endswith("then Bo")
    kept, _ = await signals_taken(world, run.id)
    assert kept.output == b'{"ok":"perhaps"}'
    assert await replayed(app, workflow, await world.journal(run.id)) == said


async def test_a_wait_that_times_out_is_replayed(world: World) -> None:
    async def patient() -> str:
        try:
            await aura.receive("go", timeout=0.05)
        except SignalTimeout as error:
            return f"{error} {await aura.receive('go', type=str)}"
        return "a signal"

    workflow = declare(patient)
    app = await world.open(workflow)
    run = await app.start(workflow)

    async def timed_out() -> bool:
        return bool(await signals_taken(world, run.id))

    await until(timed_out)
    await run.signal("go", "later")
    said = await run.result(timeout=60)
    assert said == "no signal go came within 0.05 s later"
    assert await replayed(app, workflow, await world.journal(run.id)) == said


async def test_a_timeout_counts_over_a_crash(world: World) -> None:
    """The hour is over when the run comes back: a wait that began anew would take another one."""
    journal = await journal_of_a_wait(world)
    app = await world.open(one_workflow)
    run = await resumed(app, one_workflow, journal, 3_600.0)
    with pytest.raises(RunFailed, match="SignalTimeout"):
        await run.result(timeout=60)
    assert (await world.journal(run.id))[0].output == journal[0].output


async def journal_of_a_wait(world: World) -> list[Entry]:
    """Of a run that has begun to wait for an hour, an hour and a second ago; it has crashed."""
    app = await world.open(one_workflow)
    run = await app.start(one_workflow, 3_600.0)

    async def waits() -> bool:
        return [entry.kind for entry in await world.journal(run.id)] == ["wait"]

    await until(waits)
    [entry] = await world.journal(run.id)
    until_then = float(plain(entry.output))
    assert until_then - entry.recorded_at == pytest.approx(3_600.0, abs=60)
    await world.crash(app)
    return [entry._replace(output=to_json(until_then - 3_601))]


async def test_a_timeout_wakes_a_run_that_left_memory(world: World) -> None:
    app = await leaves_memory_soon(await world.open(one_workflow))
    run = await app.start(one_workflow, 1.0)
    with pytest.raises(RunFailed, match="SignalTimeout"):
        await run.result(timeout=60)
    assert (await world.record(run.id)).epoch > 1


async def test_a_signal_wins_over_a_timeout_that_was_not_seen(world: World) -> None:
    journal = await journal_of_a_wait(world)
    client = await world.open(one_workflow, worker=False)
    run = await resumed(client, one_workflow, journal, 3_600.0)
    await run.signal("go", "in time")
    await world.open(one_workflow)
    assert await run.result(timeout=60) == "in time"


@asynccontextmanager
async def journal_of(
    world: World, workflow: Workflow[..., Any], *signals: tuple[str, Any]
) -> AsyncIterator[list[Entry]]:
    app = await world.open(workflow)
    run = await app.start(workflow)
    for name, value in signals:
        await run.signal(name, value)
    await run.result(timeout=60)
    yield await world.journal(run.id)


async def test_a_signal_survives_a_crash_at_any_point(world: World) -> None:
    """Signals are sent once. After a crash behind each entry, those that the journal has were
    taken and the others are there."""

    async def work() -> list[int]:
        return [await double(await aura.receive("go", type=int)) for _ in range(3)]

    workflow = declare(work)
    async with journal_of(world, workflow, *[("go", n) for n in range(3)]) as journal:
        app = world.apps[0]
    for cut in range(len(journal) + 1):
        client = await world.open(workflow, worker=False)
        await app._worker.close() if app._worker else None
        app._worker = None
        run = await resumed(client, workflow, journal[:cut])
        for number in range(3):
            await run.signal("go", number, id=str(number))
        app = await world.open(workflow)
        assert await run.result(timeout=60) == [0, 2, 4], f"cut at {cut}"


async def test_a_signal_of_a_cancelled_branch_goes_to_the_next_receiver(world: World) -> None:
    async def impatient() -> list[str]:
        waiting = asyncio.create_task(receive_one())
        await aura.receive("stop")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return [await receive_one()]

    async def receive_one() -> str:
        return await aura.receive("go", type=str)

    workflow = declare(impatient)
    app = await world.open(workflow)
    run = await app.start(workflow)
    await run.signal("stop")
    await run.signal("go", "kept")
    assert await run.result(timeout=60) == ["kept"]
    assert await replayed(app, workflow, await world.journal(run.id)) == ["kept"]


async def test_the_first_of_two_receivers_wins_the_same_way_again(world: World) -> None:
    async def race() -> str:
        tasks = [
            asyncio.create_task(aura.receive(name, type=str), name=name) for name in ("a", "b")
        ]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return "".join(sorted(task.result() for task in done))

    workflow = declare(race)
    app = await world.open(workflow)
    for name in ("a", "b"):
        run = await app.start(workflow)
        await run.signal(name, name)
        assert await run.result(timeout=60) == name
        assert await replayed(app, workflow, await world.journal(run.id)) == name


async def test_cancelling_ends_a_wait(world: World) -> None:
    app = await leaves_memory_soon(await world.open(one_workflow))
    run = await app.start(one_workflow)

    async def waits() -> bool:
        return await run.status() == "waiting"

    await until(waits)
    await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)


async def test_who_may_be_signalled(world: World) -> None:
    app = await world.open(one_workflow)
    with pytest.raises(RunNotFound):
        await app.run("nobody").signal("go")
    run = await app.start(one_workflow)
    await run.signal("go", "done")
    await run.result(timeout=60)
    with pytest.raises(RunEnded, match="completed"):
        await run.signal("go", "more")


async def test_bad_signals_are_refused(memory: World) -> None:
    app = await memory.open(one_workflow)
    run = await app.start(one_workflow)
    with pytest.raises(RegistrationError):
        await run.signal("a/b")
    with pytest.raises(RegistrationError):
        await run.signal("")
    with pytest.raises(RegistrationError, match="has the name 5"):
        aura.receive(5)  # type: ignore[call-overload]  # what is tested
    with pytest.raises(InvalidInput, match="urgent"):
        await run.signal("go", priority="urgent")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidInput):
        await run.signal("go", id="")
    with pytest.raises(CodecError):
        await run.signal("go", object())
    await run.signal("go", "ok")
    assert await run.result(timeout=60) == "ok"


@pytest.mark.parametrize("bad", ["a\x00b", "\ud800", "two\nlines", 5])
async def test_an_id_that_no_database_takes_harms_nobody_else(world: World, bad: Any) -> None:
    """What is written at the same time is in one transaction with it."""
    app = await world.open(three_workflow)
    runs = [await app.start(three_workflow) for _ in range(3)]
    for number in range(3):
        sent = [run.signal("go", number) for run in runs]
        odd = runs[0].signal("go", 7, id=bad)
        *fine, refused = await asyncio.gather(*sent, odd, return_exceptions=True)
        assert not any(isinstance(one, BaseException) for one in fine)
        assert isinstance(refused, InvalidInput)
    assert [await run.result(timeout=60) for run in runs] == [[0, 1, 2]] * 3
    assert [(await run.record()).epoch for run in runs] == [1, 1, 1]


@pytest.mark.parametrize("bad", ["a\x00b", "\ud800", 5, None])
async def test_what_can_be_no_id_of_a_run_is_refused(world: World, bad: Any) -> None:
    app = await world.open(one_workflow)
    with pytest.raises(InvalidInput, match="no id of a run"):
        app.run(bad)
    run = await app.start(one_workflow)
    with pytest.raises(InvalidInput, match="semantic version"):
        await run.requeue("1.x" if bad is None else bad)
    await run.signal("go", "ok")
    await run.result(timeout=60)


@pytest.mark.parametrize("limit", ["5", float("nan"), float("inf"), object()])
async def test_a_timeout_that_is_no_time_is_refused(memory: World, limit: Any) -> None:
    async def waits(updates: bool) -> None:
        if updates:
            await aura.receive_update("go", timeout=limit)
        await aura.receive("go", timeout=limit)

    app = await memory.open(declare(waits))
    for updates in (False, True):
        run = await app.start("waits", updates)
        with pytest.raises(RunFailed, match=r"InvalidInput.*timeout"):
            await run.result(timeout=60)
        assert await memory.journal(run.id) == []


async def test_receiving_is_for_workflow_code() -> None:
    with pytest.raises(ConfigError, match=r"aura\.receive"):
        await aura.receive("go")
    with pytest.raises(ConfigError, match=r"aura\.receive_update"):
        await aura.receive_update("go")


async def test_a_signal_that_came_to_a_branch_as_it_was_cancelled_is_handed_back(
    world: World,
) -> None:
    """Both receivers are given theirs, the first one's consequence cancels the other; what the
    other had got is there for the next, live and after a crash behind each entry."""

    async def race() -> list[str]:
        tasks = [asyncio.create_task(aura.receive(name, type=str)) for name in ("a", "b")]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        first = [task.result() for task in done]
        return [*first, str(await double(1)), (await aura.receive(("a", "b"), type=str)).value]

    workflow = declare(race)
    client = await world.open(workflow, worker=False)
    run = await client.start(workflow)
    await run.signal("a", "a")
    await run.signal("b", "b")
    app = await world.open(workflow)
    assert await run.result(timeout=60) == ["a", "2", "b"]
    journal = await world.journal(run.id)
    assert [entry.kind for entry in journal] == ["signal", "signal", "back", "step", "signal"]
    for cut in range(len(journal)):
        again = await resumed(app, workflow, journal[:cut])
        with contextlib.suppress(RunEnded):  # it has both in its journal
            await again.signal("a", "a")
            await again.signal("b", "b")
        assert await again.result(timeout=60) == ["a", "2", "b"], f"cut at {cut}"
    assert await replayed(app, workflow, journal) == ["a", "2", "b"]


async def test_a_signal_leaves_a_run_after_what_it_depends_on(memory: World) -> None:
    """The result of a step may be handed on before it is durable, but not to the outside."""

    @step
    async def decide() -> str:
        return "yes"

    @declare
    async def waits() -> str:
        return str(await aura.receive("go"))

    app = memory.app(waits)

    @app.workflow(version="1.0.0")
    async def sends(to: str) -> None:
        await app.run(to).signal("go", await decide())

    async with app:
        batches: list[list[type]] = []
        commit = app.store.commit

        async def seen(ops: Sequence[Op]) -> list[Outcome]:
            batches.append([type(op) for op in ops])
            return await commit(ops)

        setattr(app.store, "commit", seen)  # noqa: B010  (a method of one object)
        run = await app.start(waits)
        await (await app.start(sends, run.id)).result()
        assert await run.result() == "yes"
    sent = next(at for at, kinds in enumerate(batches) if SendSignal in kinds)
    assert any(Append in kinds for kinds in batches[:sent])
    assert Append not in batches[sent]
