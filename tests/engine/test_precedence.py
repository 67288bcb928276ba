"""Whose turn it is when many signals are here: critical ones at once, others a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import aura
from aura.clock import SystemClock
from aura.engine.mailbox import Mailbox, Waiter
from aura.engine.precedence import AT_ONCE, Precedence
from aura.store.base import Op, Outcome, Priority, SendSignal, Signal
from tests.engine.kit import World, declare, until

RUNS = 50


def signal(
    number: int, priority: Priority = "normal", deadline: float | None = None, run: str = "r"
) -> Signal:
    return Signal(run, number, "go", f"s{number}", priority, deadline, b"1", 0.0, False)


class Crowd:
    """Mailboxes of many runs, each with a receiver; who has got something, in order."""

    def __init__(self, runs: int) -> None:
        self.precedence = Precedence(SystemClock())
        self.boxes = [Mailbox((), (), self.precedence) for _ in range(runs)]
        self.order: list[tuple[int, Priority]] = []
        for at in range(runs):
            self.wait(at)

    def wait(self, at: int) -> Waiter:
        waiter = self.boxes[at].wait(("go",))
        waiter.future.add_done_callback(lambda done: self._note(at, done))
        return waiter

    def _note(self, at: int, done: asyncio.Future[Signal | None]) -> None:
        if not done.cancelled() and (got := done.result()) is not None:
            self.order.append((at, got.priority))

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)


async def test_few_go_on_in_one_round() -> None:
    crowd = Crowd(100)
    for box in crowd.boxes:
        box.deliver([signal(1)])
    await crowd.rounds(1)
    first = len(crowd.order)
    assert first <= 2 * AT_ONCE, "those of this round and of the one that begins"
    await crowd.rounds(4)
    assert len(crowd.order) <= first + 4 * AT_ONCE
    await crowd.rounds(100 // AT_ONCE + 2)
    assert sorted(at for at, _ in crowd.order) == list(range(100)), "nobody is left out"


async def test_a_critical_one_goes_before_all_that_wait() -> None:
    crowd = Crowd(501)
    for box in crowd.boxes[:500]:
        box.deliver([signal(1, "low")])
    crowd.boxes[500].deliver([signal(1, "critical")])
    await crowd.rounds(1)
    assert (500, "critical") in crowd.order
    assert crowd.order.index((500, "critical")) <= AT_ONCE


async def test_a_better_signal_moves_its_run_up() -> None:
    """A run that waits in a low class for its turn, and gets something critical, has that first."""
    crowd = Crowd(101)
    for box in crowd.boxes:
        box.deliver([signal(1, "low")])
    last = crowd.boxes[100]
    assert last.due
    last.deliver([signal(2, "critical")])
    await crowd.rounds(1)
    assert (100, "critical") in crowd.order
    crowd.wait(100)
    await crowd.rounds(60)
    assert [at for at, _ in crowd.order].count(100) == 2, "the low one is not forgotten"
    assert not last.due


async def test_classes_share_and_none_starves() -> None:
    crowd = Crowd(200)
    for at, box in enumerate(crowd.boxes):
        box.deliver([signal(1, "low" if at < 100 else "high")])
    await crowd.rounds(16)
    ahead = [priority for _, priority in crowd.order]
    assert 5 < ahead.count("low") < ahead.count("high")


async def test_the_earliest_deadline_goes_first_within_a_class() -> None:
    crowd = Crowd(60)
    now = SystemClock().now()
    for box in crowd.boxes[:20]:
        box.deliver([signal(1)])
    for at in range(20, 60):
        crowd.boxes[at].deliver([signal(1, deadline=now + 0.5 - at / 1000)])
    await crowd.rounds(40)
    timed = [at for at, _ in crowd.order if at >= 20]
    assert timed == list(range(59, 19, -1))
    plain = [place for place, (at, _) in enumerate(crowd.order) if at < 20]
    assert plain[AT_ONCE:] == list(range(40 + AT_ONCE, 60)), "they have a second, those have less"


async def test_a_receiver_that_has_gone_gives_up_its_turn() -> None:
    crowd = Crowd(30)
    for box in crowd.boxes:
        box.deliver([signal(1)])
    gone = crowd.boxes[29]
    waiter = next(iter(gone._receivers))
    waiter.future.cancel()
    gone.leave(waiter)
    await crowd.rounds(20)
    assert [at for at, _ in crowd.order] == list(range(29))
    assert [one.seq for one in gone.unread()] == [1]
    assert not gone.due


async def test_an_early_signal_is_taken_in_turn() -> None:
    """Also a run that has a backlog of its own does not handle it in one go."""
    precedence = Precedence(SystemClock())
    box = Mailbox([signal(n) for n in range(1, 50)], (), precedence)
    taken = 0
    while box.take_in_turn(("go",)) is not None:
        taken += 1
    assert taken == AT_ONCE
    await asyncio.sleep(0)
    assert box.take_in_turn(("go",)) is not None


async def many(name: str) -> list[str]:
    """What it has received, in order, until it is told to stop."""
    got: list[str] = []
    while (word := await aura.receive("go", type=str)) != "stop":
        got.append(word)
        handled.append((name, word))
    return got


handled: list[tuple[str, str]] = []


async def test_a_critical_signal_behind_many_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critical one that is durable when 250 low ones are is handled before all but those under
    way. All the low ones are handled, each run's in their order, and none is lost."""
    handled.clear()
    workflow = declare(many)
    app = await world.open(workflow, keep_in_memory=600.0)
    runs = [await app.start(workflow, f"r{n}") for n in range(RUNS)]
    worker = app._worker
    assert worker is not None
    await until(lambda: [one.mailbox.awaited for one in worker.under_way] == [True] * RUNS)
    commit, durable, written = app.store.commit, asyncio.Event(), asyncio.Event()

    async def together(ops: Sequence[Op]) -> list[Outcome]:
        outcomes = await commit(ops)
        kinds = {op.priority for op in ops if isinstance(op, SendSignal)}
        if "critical" in kinds:
            durable.set()
        elif kinds:
            written.set()
            await durable.wait()
        return outcomes

    async def no_sooner(wanted: Sequence[tuple[str, int]]) -> list[Signal]:
        await durable.wait()
        return await read(wanted)

    read = app.store.signals
    monkeypatch.setattr(app.store, "commit", together)
    monkeypatch.setattr(app.store, "signals", no_sooner)
    sending = [
        asyncio.create_task(runs[number % RUNS].signal("go", str(number), priority="low"))
        for number in range(500)
    ]
    await written.wait()
    sent = await runs[7].signal("go", "urgent", priority="critical")
    assert sent.seq > 1, "there are low ones before it"
    await asyncio.gather(*sending)
    await until(lambda: len(handled) == 501)
    assert [word for _, word in handled].index("urgent") <= 2 * AT_ONCE
    for run in runs:
        await run.signal("go", "stop", priority="low")
    results = await asyncio.gather(*(run.result(timeout=60) for run in runs))
    for number, words in enumerate(results):
        own = [str(n) for n in range(number, 500, RUNS)]
        assert [word for word in words if word != "urgent"] == own


async def test_a_run_does_not_sleep_over_a_signal_whose_turn_has_not_come(memory: World) -> None:
    workflow = declare(many)
    app = await memory.open(workflow)
    run = await app.start(workflow, "one")
    assert app._worker is not None
    await until(lambda: bool(app._worker and app._worker.under_way))
    [execution] = app._worker.under_way
    await until(lambda: execution.mailbox.awaited)
    execution.mailbox._precedence._room = 0  # as if others had used this round up
    execution.mailbox.deliver([signal(1, run=run.id)._replace(payload=b'"x"')])
    assert execution.mailbox.due
    execution.idleness._look(execution.activity)
    assert not execution.stopped, "it is not idle: a signal is here"
