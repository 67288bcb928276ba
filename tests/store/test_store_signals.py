"""Signals in every store: numbered, once per id, and no run goes to sleep over one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import chain

import pytest

from aura.errors import LeaseLost, RunEnded, RunNotFound
from aura.store.base import (
    Announce,
    Append,
    Op,
    Outcome,
    RequestCancel,
    RunState,
    SendSignal,
    Sent,
    Settle,
    Store,
)
from tests.store.kit import (
    Backend,
    append,
    beat,
    claim,
    claimed_ids,
    database_now,
    entry,
    eventually,
    settle,
    start,
    the_run,
)


def signal(run_id: str, number: int = 1, *, name: str = "go", key: str = "") -> SendSignal:
    return SendSignal(run_id, name, b"%d" % number, key or f"id-{number}")


async def send(store: Store, op: SendSignal) -> Sent:
    [outcome] = await store.commit([op])
    assert isinstance(outcome, Sent), outcome
    return outcome


async def asleep(store: Store, run_id: str, *, seen: int | None = 0) -> None:
    """A run that waits for a signal only."""
    await beat(store, "w")
    await store.commit([start(run_id, owner="w")])
    assert await store.commit([Settle(run_id, 1, "waiting", seen=seen)]) == [None]


async def test_signals_are_numbered_and_kept(store: Store) -> None:
    before = await database_now(store)
    await store.commit([start("a"), start("b")])
    ops = [signal("a", 1), signal("b", 1), signal("a", 2, name="stop")]
    assert await store.commit(ops) == [
        Sent(1, False, False, "pending"),
        Sent(1, False, False, "pending"),
        Sent(2, False, False, "pending"),
    ]
    found = await store.signals([("a", 0), ("b", 0)])
    assert [(one.run_id, one.seq, one.name, one.payload) for one in found] == [
        ("a", 1, "go", b"1"),
        ("a", 2, "stop", b"2"),
        ("b", 1, "go", b"1"),
    ]
    assert all(before - 0.01 <= one.sent_at <= before + 60 for one in found)
    assert {one.priority for one in found} == {"normal"}
    assert [one.seq for one in await store.signals([("a", 1), ("b", 1)])] == [2]
    assert await store.signals([]) == []
    assert (await the_run(store, "a")).signals == 2


async def test_the_same_id_is_one_signal(store: Store) -> None:
    await store.commit([start("a")])
    first, again = await store.commit([signal("a", 1, key="x"), signal("a", 2, key="x")])
    assert isinstance(first, Sent)
    assert again == first._replace(duplicate=True)
    assert await send(store, signal("a", 3, key="x")) == again
    assert [one.payload for one in await store.signals([("a", 0)])] == [b"1"]
    assert await send(store, signal("a", 4)) == Sent(2, False, False, "pending")


async def test_a_deadline_that_is_over_marks_the_signal_late(store: Store) -> None:
    now = await database_now(store)
    await store.commit([start("a")])
    over = SendSignal("a", "go", b"1", "over", "high", now - 1)
    ahead = SendSignal("a", "go", b"2", "ahead", "low", now + 60)
    hopeless = SendSignal("a", "go", b"3", "hopeless", "critical", now + 60, late=True)
    outcomes = await store.commit([over, ahead, hopeless])
    assert [isinstance(one, Sent) and one.late for one in outcomes] == [True, False, True]
    found = await store.signals([("a", 0)])
    assert [one.late for one in found] == [True, False, True]
    assert [one.priority for one in found] == ["high", "low", "critical"]
    assert found[0].deadline == now - 1


async def test_no_run_takes_no_signal(store: Store) -> None:
    outcomes = await store.commit([start("a"), signal("nobody"), signal("a")])
    assert isinstance(outcomes[1], RunNotFound)
    assert isinstance(outcomes[2], Sent)


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_an_ended_run_takes_no_new_signal(store: Store, state: RunState) -> None:
    await store.commit([start("a", owner="w"), signal("a", 1)])
    await store.commit([settle("a", state)])
    again, fresh = await store.commit([signal("a", 1), signal("a", 2)])
    assert again == Sent(1, True, False, state)
    assert isinstance(fresh, RunEnded)
    assert state in str(fresh)


async def test_a_parked_run_keeps_its_signals(store: Store) -> None:
    await store.commit([start("a", owner="w")])
    await store.commit([settle("a", "parked")])
    assert await send(store, signal("a")) == Sent(1, False, False, "parked")
    assert (await the_run(store, "a")).state == "parked"


async def test_a_signal_wakes_a_waiting_run(store: Store) -> None:
    await asleep(store, "a")
    assert await claimed_ids(store) == []
    assert await send(store, signal("a")) == Sent(1, False, False, "pending")
    run = await the_run(store, "a")
    assert (run.state, run.wake_at, run.signals) == ("pending", None, 1)
    [claimed] = await claim(store)
    assert (claimed.run.id, claimed.run.epoch, claimed.run.recoveries) == ("a", 2, 0)
    assert [one.payload for one in claimed.signals] == [b"1"]


async def test_a_signal_wakes_a_sleeping_run_before_its_time(store: Store) -> None:
    later = await database_now(store) + 1000
    await store.commit([start("a", owner="w")])
    await store.commit([Settle("a", 1, "waiting", wake_at=later, seen=0)])
    assert (await the_run(store, "a")).wake_at == later
    await send(store, signal("a"))
    assert await claimed_ids(store) == ["a"]


async def test_a_signal_leaves_a_running_run_to_its_owner(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w")])
    assert await send(store, signal("a")) == Sent(1, False, False, "running")
    run = await the_run(store, "a")
    assert (run.state, run.owner, run.epoch) == ("running", "w", 1)
    assert await store.commit([append("a", 1)]) == [None]


@pytest.mark.parametrize(("seen", "state"), [(0, "pending"), (1, "waiting"), (None, "waiting")])
async def test_a_run_does_not_sleep_over_a_signal_it_has_not_seen(
    store: Store, seen: int | None, state: RunState
) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w"), signal("a")])
    later = await database_now(store) + 1000
    op = Settle("a", 1, "waiting", wake_at=later, seen=seen)
    assert await store.commit([op]) == [None]
    run = await the_run(store, "a")
    assert run.state == state
    assert run.wake_at == (None if state == "pending" else later)
    assert await store.commit([op]) == [None], "a settlement may be repeated"


async def test_signals_come_after_settlements_in_one_batch(store: Store) -> None:
    await store.commit([start("a", owner="w"), start("b", owner="w")])
    ops: list[Op] = [signal("a"), signal("b"), settle("a"), Settle("b", 1, "waiting", seen=0)]
    ended, woken, *_ = await store.commit(ops)
    assert isinstance(ended, RunEnded)
    assert woken == Sent(1, False, False, "pending")


async def test_a_repeated_settlement_is_accepted_after_a_signal(store: Store) -> None:
    """Its outcome was unknown, it had landed, and a signal has woken the run since."""
    await asleep(store, "a")
    await send(store, signal("a"))
    assert await store.commit([Settle("a", 1, "waiting", seen=0)]) == [None]
    assert (await the_run(store, "a")).state == "pending"


async def test_claims_bring_the_signals_of_each_run(store: Store) -> None:
    await store.commit([start(name) for name in "abc"])
    await store.commit([signal("a", 1), signal("c", 1), signal("a", 2), signal("c", 2)])
    found = {one.run.id: [s.seq for s in one.signals] for one in await claim(store)}
    assert found == {"a": [1, 2], "b": [], "c": [1, 2]}


async def test_signals_and_claims_and_settlements_at_once(shared: Backend) -> None:
    """However they interleave: each signal has its number, and nothing sleeps over one."""
    one, other = await shared.open(), await shared.open()
    names = [f"run-{n}" for n in range(5)]
    await beat(one, "w")
    await one.commit([start(name, owner="w") for name in names])

    async def signaller(at: int) -> list[Outcome]:
        store = (one, other)[at % 2]
        ops: list[Op] = [signal(name, at, key=f"{at}") for name in names]
        return await store.commit(ops if at % 3 else ops[::-1])

    async def settler() -> list[Outcome]:
        return await one.commit([Settle(name, 1, "waiting", seen=0) for name in names[::-1]])

    *sent, settled = await asyncio.gather(*(signaller(at) for at in range(8)), settler())
    assert settled == [None] * 5
    for outcome in chain.from_iterable(sent):
        assert isinstance(outcome, Sent)
    for name in names:
        assert [s.seq for s in await one.signals([(name, 0)])] == list(range(1, 9))
        assert (await the_run(one, name)).state == "pending"


async def test_a_signal_is_heard_here_and_elsewhere(shared: Backend) -> None:
    here, there = await shared.open(), await shared.open()
    heard: dict[str, list[str]] = {"here": [], "there": []}
    here.listen(heard["here"].append)
    there.listen(heard["there"].append)
    await asleep(here, "50%\nof a")
    for topics in heard.values():
        topics.clear()
    await send(here, signal("50%\nof a"))
    for topics in heard.values():

        async def complete(said: list[str] = topics) -> bool:
            return {"signal:50%\nof a", "ready"} <= set(said)

        await eventually(complete)
    await send(here, signal("50%\nof a"))
    assert heard["here"].count("signal:50%\nof a") == 1, "a duplicate is no news"


async def test_an_announcement_is_heard_after_what_was_written_with_it(shared: Backend) -> None:
    here, there = await shared.open(), await shared.open()
    heard: list[str] = []
    there.listen(heard.append)
    await here.commit([start("a", owner="w")])
    stream = entry("a", 1)._replace(kind="stream")
    assert await here.commit([Append(1, stream), Announce("stream:a")]) == [None, None]

    async def told() -> bool:
        return "stream:a" in heard

    await eventually(told)
    assert await there.entries("a", "stream") == [stream]


async def test_entries_are_read_by_kind(store: Store) -> None:
    await store.commit([start("a", owner="w"), start("b", owner="w")])
    kinds = ["state", "step", "state", "stream"]
    lines = [entry("a", at)._replace(kind=kind) for at, kind in enumerate(kinds, 1)]
    await store.commit([Append(1, line) for line in lines])
    assert await store.entries("a", "state") == [lines[0], lines[2]]
    assert await store.entries("a", "state", after=1) == [lines[2]]
    assert await store.entries("b", "state") == []


async def test_a_cancelled_wait_stays_cancelled(store: Store) -> None:
    await asleep(store, "a")
    await store.commit([RequestCancel("a"), signal("a")])
    [claimed] = await claim(store)
    assert claimed.run.cancel_requested
    assert len(claimed.signals) == 1


def aimed(run_id: str, worker: str, epoch: int = 1, number: int = 1) -> SendSignal:
    return replace(signal(run_id, number), taker=(worker, epoch))


async def test_a_signal_takes_a_run_that_sleeps(store: Store) -> None:
    await asleep(store, "a")
    assert await send(store, aimed("a", "w")) == Sent(1, False, False, "running", taken=True)
    run = await the_run(store, "a")
    assert (run.state, run.epoch, run.owner, run.wake_at) == ("running", 2, "w", None)
    assert await claimed_ids(store) == []
    late = await store.commit([append("a", 1, epoch=1), append("a", 1, epoch=2)])
    assert [type(one) for one in late] == [LeaseLost, type(None)]


async def test_a_commit_that_is_repeated_says_again_whose_run_it_is(store: Store) -> None:
    await asleep(store, "a")
    await send(store, aimed("a", "w"))
    assert await send(store, aimed("a", "w")) == Sent(1, True, False, "running", taken=True)
    assert (await the_run(store, "a")).epoch == 2


async def test_a_signal_takes_nothing_at_another_epoch_or_from_another(store: Store) -> None:
    await asleep(store, "a")
    assert await send(store, aimed("a", "w", epoch=0)) == Sent(1, False, False, "pending")
    assert await claimed_ids(store) == ["a"]
    sent = await send(store, aimed("a", "v", number=2))
    assert (sent.state, sent.taken) == ("running", False)
    run = await the_run(store, "a")
    assert (run.epoch, run.owner) == (2, "w")


async def test_a_signal_takes_no_run_that_is_new_or_asked_to_stop(store: Store) -> None:
    await asleep(store, "a")
    await store.commit([RequestCancel("a"), start("b")])
    assert (await send(store, aimed("a", "w"))).taken is False
    assert (await send(store, aimed("b", "w", epoch=0))).taken is False
    assert sorted(await claimed_ids(store)) == ["a", "b"]
