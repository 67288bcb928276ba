"""Queues in every store: order, limits, rates, keys, and what one word stands for."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest

from aura.store.base import (
    Claim,
    Continue,
    RequestCancel,
    RunRecord,
    SendSignal,
    Sent,
    Settle,
    Started,
    StartRun,
    Store,
    Sweep,
)
from aura.store.keys import Keyring
from aura.store.portable import Page
from aura.store.queues import Offer, Placement, QueueLimits
from aura.store.sealed import sealed
from tests.store.kit import (
    PAIRS,
    Backend,
    beat,
    claim,
    claimed_ids,
    database_now,
    eventually,
    settle,
    start,
    started,
    the_run,
)


def queued(run_id: str, queue: str | None = "q", **place: Any) -> StartRun:
    return replace(start(run_id), place=Placement(queue, **place))


async def define(store: Store, name: str = "q", **limits: Any) -> None:
    await store.put_queue(name, QueueLimits(**limits), replace=True)


async def place(store: Store, *ops: StartRun) -> list[Started]:
    return [started(one) for one in await store.commit(ops)]


async def test_a_queue_is_first_come_first_served(store: Store) -> None:
    for name in "abc":
        [one] = await place(store, queued(name))
        assert one.created
        assert one.run.queue == "q"
        assert one.run.state == "pending"
    await store.commit([start("default")])
    assert sorted(await claimed_ids(store, limit=2)) == ["a", "default"], "each gets its half"
    assert await claimed_ids(store) == ["b", "c"]
    assert await claimed_ids(store) == []


async def test_the_batch_keeps_its_order(store: Store) -> None:
    await store.commit([queued(name) for name in "dacb"])
    order = []
    for _ in "dacb":
        order += await claimed_ids(store, limit=1)
    assert order == list("dacb")


async def test_no_more_run_at_once_than_the_limit(store: Store) -> None:
    await define(store, concurrency=2)
    await beat(store, "w")
    await beat(store, "other")
    await place(store, *(queued(name) for name in "abcd"))
    assert await claimed_ids(store) == ["a", "b"]
    assert await claimed_ids(store, "other") == []
    await store.commit([settle("a")])
    assert await claimed_ids(store, "other") == ["c"]
    assert await claimed_ids(store) == []
    await store.commit([settle("b", "waiting"), settle("c", "parked")])
    assert await claimed_ids(store) == ["d"], "runs that wait or are parked hold no place"


async def test_a_worker_gets_its_share_only(store: Store) -> None:
    await define(store, per_worker=1)
    await beat(store, "one")
    await place(store, *(queued(name) for name in "abc"))
    assert await claimed_ids(store, "one") == ["a"]
    assert await claimed_ids(store, "one") == []
    assert await claimed_ids(store, "two") == ["b"]


async def test_a_key_gets_its_share_only(store: Store) -> None:
    await define(store, per_key=1)
    await place(store, *(queued(f"a{n}", key="a") for n in range(3)), queued("b0", key="b"))
    await place(store, queued("x"), queued("y"))
    assert sorted(await claimed_ids(store)) == ["a0", "b0", "x", "y"], "no key has no such limit"
    await store.commit([settle("b0")])
    assert await claimed_ids(store) == []
    await store.commit([settle("a0")])
    assert await claimed_ids(store) == ["a1"]


async def test_keys_take_turns(store: Store) -> None:
    """One tenant's hundred runs do not make the others wait."""
    await define(store, concurrency=3)
    await place(store, *(queued(f"a{n}", key="a") for n in range(100)))
    await place(store, queued("b0", key="b"), queued("b1", key="b"), queued("c0", key="c"))
    assert sorted(await claimed_ids(store)) == ["a0", "b0", "c0"]
    await store.commit([settle("c0")])
    assert await claimed_ids(store) == ["a1"], "as few as b has; it waits longer"
    await store.commit([settle("a0"), settle("b0")])
    assert sorted(await claimed_ids(store)) == ["a2", "b1"]


async def test_priority_goes_before_age(store: Store) -> None:
    await place(store, queued("low", priority=-10), queued("first"), queued("high", priority=10))
    order = []
    for _ in range(3):
        order += await claimed_ids(store, limit=1)
    assert order == ["high", "first", "low"]


async def test_priority_is_worth_a_minute_each(store: Store) -> None:
    """So whoever has waited long enough goes first, whatever comes later."""
    now = await database_now(store)
    await place(store, queued("patient", priority=-10, at=now - 1261))
    await place(store, queued("high", priority=10, at=now - 60))
    await place(store, queued("impatient", priority=-10, at=now - 1259))
    order = []
    for _ in range(3):
        order += await claimed_ids(store, limit=1)
    assert order == ["patient", "high", "impatient"]


async def test_what_has_begun_goes_on_first(store: Store) -> None:
    await place(store, queued("a"))
    assert await claimed_ids(store) == ["a"]
    await place(store, queued("b", priority=100))
    await store.commit([settle("a", "pending")])
    assert await claimed_ids(store, limit=1) == ["a"]


async def test_queues_share_the_room(store: Store) -> None:
    await place(store, *(queued(f"p{n}", "p") for n in range(50)))
    await place(store, *(queued(f"q{n}", "q") for n in range(2)))
    assert sorted(await claimed_ids(store, limit=4)) == ["p0", "p1", "q0", "q1"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_neither_the_default_queue_nor_another_starves(store: Store, limit: int) -> None:
    await store.commit([start(f"d{n}") for n in range(40)])
    await place(store, *(queued(f"q{n}") for n in range(40)))
    taken = [name[0] for _ in range(8) for name in await claimed_ids(store, limit=limit)]
    assert min(taken.count("d"), taken.count("q")) >= len(taken) // 2 - 1


async def test_only_one_run_is_claimed_from_its_queue(store: Store) -> None:
    await define(store, concurrency=1)
    await place(store, *(queued(name) for name in "abc"))
    only = Claim("w", PAIRS, 10, only="b")
    assert [one.run.id for one in (await store.claim(only)).runs] == ["b"]
    assert (await store.claim(replace(only, only="c"))).runs == []


# Recovery.


async def test_a_dead_workers_run_keeps_its_place(store: Store) -> None:
    await define(store, concurrency=1)
    await beat(store, "dead")
    await place(store, queued("a"), queued("b"))
    assert await claimed_ids(store, "dead") == ["a"]
    await beat(store, "dead", 0.0)
    assert await claimed_ids(store, "heir") == ["a"], "it is taken over in its place; b waits"
    run = await the_run(store, "a")
    assert (run.owner, run.recoveries, run.epoch) == ("heir", 1, 2)
    await store.commit([settle("a", epoch=2)])
    assert await claimed_ids(store, "heir") == ["b"]


async def test_a_dead_worker_of_another_version_blocks_its_place_only(store: Store) -> None:
    await define(store, concurrency=2)
    await beat(store, "dead")
    other = replace(queued("old"), version="0.9.0")
    await place(store, other)
    assert (await store.claim(Claim("dead", (("research", "0.9.0"),), 1))).runs
    await beat(store, "dead", 0.0)
    await place(store, queued("a"), queued("b"))
    assert await claimed_ids(store) == ["a"]


async def test_an_heir_takes_no_more_than_a_worker_may_have(store: Store) -> None:
    await define(store, per_worker=1)
    for worker, name in (("one", "a"), ("two", "b")):
        await beat(store, worker)
        await place(store, queued(name))
        assert await claimed_ids(store, worker) == [name]
    await beat(store, "one", 0.0)
    await beat(store, "two", 0.0)
    await beat(store, "heir")
    assert len(await claimed_ids(store, "heir")) == 1
    assert await claimed_ids(store, "heir") == []
    assert len(await claimed_ids(store, "other")) == 1


# Rates.


async def test_a_rate_counts_what_began(store: Store) -> None:
    await define(store, rate=2, per=3600.0)
    await place(store, *(queued(name) for name in "abc"))
    assert await claimed_ids(store) == ["a", "b"]
    found = await store.claim(Claim("w", PAIRS, 10))
    assert found.runs == []
    assert found.next_wake is not None
    assert 3000 < found.next_wake <= 3600
    await store.commit([settle("a"), settle("b")])
    assert await claimed_ids(store) == [], "ended runs count, too"


async def test_a_recovered_run_does_not_count_again(store: Store) -> None:
    await define(store, rate=2, per=3600.0)
    await beat(store, "dead")
    await place(store, queued("a"), queued("b"), queued("c"))
    assert await claimed_ids(store, "dead") == ["a", "b"]
    await store.commit([settle("b", "pending")])
    await beat(store, "dead", 0.0)
    assert sorted(await claimed_ids(store, "heir")) == ["a", "b"], "both had begun"
    assert await claimed_ids(store, "heir") == []


async def test_a_rate_lets_runs_begin_again_when_the_window_has_moved_on(store: Store) -> None:
    await define(store, rate=1, per=0.3)
    await place(store, queued("a"), queued("b"))
    assert await claimed_ids(store) == ["a"]
    assert await eventually(lambda: claimed_ids(store)) == ["b"]
    a, b = await the_run(store, "a"), await the_run(store, "b")
    assert a.started_at
    assert b.started_at
    assert b.started_at - a.started_at >= 0.3


async def test_runs_that_a_rate_counts_are_not_swept(store: Store) -> None:
    await define(store, rate=1, per=3600.0)
    await place(store, queued("a"), queued("b"), queued("other", "p"))
    assert sorted(await claimed_ids(store)) == ["a", "other"]
    await store.commit([settle("a"), settle("other")])
    assert (await store.sweepable(Sweep(-60.0))).runs == 1
    assert (await store.sweep(Sweep(-60.0))).runs == 1
    assert await store.run("other") is None
    assert await claimed_ids(store) == []
    await define(store)
    assert (await store.sweep(Sweep(-60.0))).runs == 1


# Tags and resources.


def offering(worker: str, *tags: str, **resources: float) -> Claim:
    return Claim(worker, PAIRS, 10, offer=Offer(frozenset(tags), resources))


async def test_a_queue_is_served_by_workers_with_its_tags(store: Store) -> None:
    await define(store, requires=frozenset({"gpu", "eu"}))
    await place(store, queued("a"))
    assert (await store.claim(offering("w", "gpu"))).runs == []
    found = await store.claim(offering("w", "gpu", "eu", "more"))
    assert [one.run.id for one in found.runs] == ["a"]


async def test_resources_are_used_while_runs_run(store: Store) -> None:
    await define(store, "big", resources={"gpu": 2})
    await define(store, "small", resources={"gpu": 1, "ram": 10})
    await place(store, queued("b", "big"), queued("s", "small"), queued("t", "small"))
    assert (await store.claim(offering("poor"))).runs == []
    rich = offering("rich", gpu=3, ram=100)
    assert sorted(one.run.id for one in (await store.claim(rich)).runs) == ["b", "s"]
    assert (await store.claim(rich)).runs == []
    await store.commit([settle("s")])
    assert [one.run.id for one in (await store.claim(rich)).runs] == ["t"]


# Put off.


async def test_a_run_waits_for_its_time(store: Store) -> None:
    now = await database_now(store)
    [one] = await place(store, queued("later", None, delay=3600.0))
    [two] = await place(store, queued("then", at=now + 3600))
    assert one.run.state == two.run.state == "waiting"
    assert one.run.wake_at
    assert abs(one.run.wake_at - now - 3600) < 60
    found = await store.claim(Claim("w", PAIRS, 10))
    assert found.runs == []
    assert found.next_wake is not None
    assert 3000 < found.next_wake <= 3601
    await place(store, queued("past", at=now - 10), queued("past, default", None, at=now - 10))
    assert sorted(await claimed_ids(store)) == ["past", "past, default"]


@pytest.mark.parametrize("queue", ["q", None])
async def test_it_begins_when_its_time_has_come(store: Store, queue: str | None) -> None:
    await place(store, queued("a", queue, delay=0.2))
    assert await eventually(lambda: claimed_ids(store)) == ["a"]
    run = await the_run(store, "a")
    assert run.started_at is not None
    assert run.started_at - run.created_at >= 0.2


async def test_a_signal_does_not_begin_it_early(store: Store) -> None:
    await place(store, queued("a", delay=3600.0), queued("b", None, delay=3600.0))
    [sent, _] = await store.commit([SendSignal(name, "go", b"1", "x") for name in "ab"])
    assert isinstance(sent, Sent)
    assert sent[0] == 1
    assert sent.state == "waiting"
    assert await claimed_ids(store) == []
    run = await the_run(store, "b")
    assert run.state == "waiting"
    assert run.wake_at is not None
    assert run.signals == 1


async def test_a_run_that_never_began_is_cancelled_at_once(store: Store) -> None:
    await place(store, queued("a", delay=3600.0), queued("b", None, delay=3600.0))
    for name in "ab":
        [run] = await store.commit([RequestCancel(name)])
        assert isinstance(run, RunRecord)
        assert run.state == "cancelled"
        assert run.finished_at is not None
    assert await claimed_ids(store) == []


async def test_a_run_that_wakes_waits_for_its_turn(store: Store) -> None:
    await define(store, concurrency=1)
    await place(store, queued("a"), queued("b"))
    assert await claimed_ids(store) == ["a"]
    now = await database_now(store)
    await store.commit([Settle("a", 1, "waiting", wake_at=now - 1)])
    assert await claimed_ids(store) == ["a"], "it had begun, so it goes before b"
    await store.commit([Settle("a", 2, "waiting", wake_at=now + 3600)])
    assert await claimed_ids(store) == ["b"]
    await store.commit([SendSignal("a", "go", b"1", "x")])
    assert await claimed_ids(store) == [], "b has the place"


# One word for many starts.


async def test_one_word_one_run(store: Store) -> None:
    [first] = await place(store, queued("a", dedup="doc-7"))
    [second, other] = await place(store, queued("b", dedup="doc-7"), queued("c", dedup="doc-8"))
    assert first.created
    assert not second.created
    assert second.run.id == "a"
    assert other.created
    [elsewhere] = await place(store, queued("d", "p", dedup="doc-7"))
    assert elsewhere.run.id == "a", "whatever the queue"
    [stranger] = await place(store, replace(queued("e", dedup="doc-7"), workflow="other"))
    assert stranger.created
    assert sorted(await claimed_ids(store)) == ["a", "c"]
    [again] = await place(store, queued("f", dedup="doc-7"))
    assert again.run.id == "a"
    await store.commit([settle("a")])
    [fresh] = await place(store, queued("g", dedup="doc-7"))
    assert fresh.created
    assert fresh.run.id == "g"


async def test_the_id_comes_before_the_word(store: Store) -> None:
    await place(store, queued("a", dedup="x"), queued("b", dedup="y"))
    [one] = await place(store, queued("a", dedup="y"))
    assert one.run.id == "a"
    assert not one.created


async def test_one_word_in_one_batch(store: Store) -> None:
    found = await place(store, *(queued(f"r{n}", dedup="x") for n in range(5)))
    assert [one.created for one in found].count(True) == 1
    assert len({one.run.id for one in found}) == 1


async def test_one_word_from_many_processes(shared: Backend) -> None:
    stores = [await shared.open() for _ in range(4)]
    for turn in range(5):
        ops = [queued(f"{turn}-{n}", dedup=f"x{turn}") for n in range(4)]
        found = await asyncio.gather(*(place(one, op) for one, op in zip(stores, ops, strict=True)))
        assert [one.created for [one] in found].count(True) == 1
        assert len({one.run.id for [one] in found}) == 1


def debounced(run_id: str, value: bytes, wait: float = 3600.0, **more: Any) -> StartRun:
    op = queued(run_id, dedup="doc", debounce=wait, **more)
    return replace(op, input=value, fingerprint=f"print of {value!r}", version="1.0.0")


async def test_later_starts_put_a_run_off_and_give_it_their_input(store: Store) -> None:
    [first] = await place(store, debounced("a", b"1"))
    [second] = await place(store, debounced("b", b"2", 7200.0))
    assert first.created
    assert not second.created
    assert (second.run.id, second.run.input) == ("a", b"2")
    assert second.run.fingerprint == "print of b'2'"
    assert second.run.wake_at
    assert first.run.wake_at
    assert second.run.wake_at - first.run.wake_at >= 3600


async def test_but_no_longer_than_the_limit(store: Store) -> None:
    await place(store, debounced("a", b"1"))
    [second] = await place(store, debounced("b", b"2", 7200.0, debounce_limit=4000.0))
    assert second.run.wake_at == pytest.approx(second.run.created_at + 4000)


async def test_after_it_has_begun_there_is_a_new_one(store: Store) -> None:
    await place(store, debounced("a", b"1", 0.05))
    assert await eventually(lambda: claimed_ids(store)) == ["a"]
    [second] = await place(store, debounced("b", b"2", 0.05))
    assert second.created
    assert second.run.id == "b"
    assert await eventually(lambda: claimed_ids(store)) == ["b"]
    assert (await the_run(store, "a")).input == b"1"
    await store.commit([settle("a"), settle("b")])


async def test_a_word_finds_what_is_put_off(store: Store) -> None:
    await place(store, debounced("a", b"1"))
    [plain] = await place(store, replace(queued("b", dedup="doc"), input=b"2"))
    assert plain.run.id == "a"
    assert plain.run.input == b"1"


async def test_a_sealed_input_opens_wherever_it_has_gone(store: Store) -> None:
    """A later start gives a run its input without knowing the run's id."""
    keys = Keyring(("k:" + base64.b64encode(bytes(range(32))).decode(),))
    safe = await sealed(store, keys)
    await place(safe, debounced("a", b'"first"'))
    [second] = await place(safe, debounced("b", b'"second"', 0.01))
    assert (second.run.id, second.run.input) == ("a", b'"second"')
    stored = await the_run(store, "a")
    assert b"second" not in stored.input
    assert "second" not in stored.fingerprint
    [row] = await safe.rows(Page("runs", opened=True))
    assert row["input"] == b'"second"'
    [taken] = await eventually(lambda: claim(safe))
    assert taken.run.input == b'"second"'
    await safe.commit([Continue("a", 1, "1.0.0", b'"third"', base=0, seen=0)])
    again = await the_run(safe, "a")
    assert (again.input, again.fingerprint) == (b'"third"', second.run.fingerprint)


# Definitions and counts.


async def test_definitions_are_for_all(shared: Backend) -> None:
    here, there = await shared.open(), await shared.open()
    limits = QueueLimits(1, 2, 3, 4, 5.0, frozenset({"b", "a"}), {"gpu": 2.0})
    made = await here.put_queue("q", limits, replace=False)
    assert made.epoch == 1
    assert made.limits == limits
    assert await there.queues() == [made]
    kept = await there.put_queue("q", QueueLimits(9), replace=False)
    assert kept == made
    changed = await there.put_queue("q", QueueLimits(9), replace=True)
    assert changed.epoch == 2
    assert changed.limits == QueueLimits(9)
    same = await here.put_queue("q", QueueLimits(9), replace=True)
    assert same == changed, "the same again is no change"


async def test_a_changed_limit_counts_at_once(store: Store) -> None:
    await define(store, concurrency=3)
    await place(store, *(queued(name) for name in "abcd"))
    assert await claimed_ids(store, limit=2) == ["a", "b"]
    await define(store, concurrency=1)
    assert await claimed_ids(store) == []
    await store.commit([settle("a")])
    assert await claimed_ids(store) == []
    await define(store)
    assert await claimed_ids(store) == ["c", "d"]


async def test_runs_are_counted(store: Store) -> None:
    await place(store, queued("a"), queued("b", key="k"), queued("c", "p"))
    await store.commit([start("d", owner="w"), start("e")])
    assert await store.depths() == {
        ("q", "pending"): 2,
        ("p", "pending"): 1,
        (None, "pending"): 1,
        (None, "running"): 1,
    }
    await store.commit([settle("d")])
    assert (None, "running") not in await store.depths()
    assert await store.count_runs(["state"]) == {("completed",): 1, ("pending",): 4}
    assert await store.count_runs(["queue", "state"]) == {
        ("q", "pending"): 2,
        ("p", "pending"): 1,
        (None, "pending"): 1,
        (None, "completed"): 1,
    }
    assert await store.count_runs(["key"], "q") == {("",): 1, ("k",): 1}
    await store.commit([start("f", owner="v")])
    assert await store.count_runs(["owner", "state"]) == {
        (None, "pending"): 4,
        ("v", "running"): 1,
    }
    with pytest.raises(ValueError, match="counted by"):
        await store.count_runs(["state; DROP TABLE runs"])  # type: ignore[list-item]


# Many at once.


async def test_workers_that_race_stay_within_the_limits(shared: Backend) -> None:
    """Four processes claim and settle as fast as they can; nobody ever sees one too many."""
    stores = [await shared.open() for _ in range(4)]
    await define(stores[0], concurrency=5, per_worker=2, per_key=2)
    for n in range(4):
        await beat(stores[0], f"w{n}")
    keys = "abc"
    await stores[0].commit([queued(f"r{n:02}", key=keys[n % 3]) for n in range(60)])
    running: dict[str, tuple[str, str]] = {}
    most = {"all": 0, "worker": 0, "key": 0}
    done: list[str] = []

    def look() -> None:
        owners = [owner for owner, _ in running.values()]
        used = [key for _, key in running.values()]
        most["all"] = max(most["all"], len(running))
        most["worker"] = max(most["worker"], *map(owners.count, owners), 0)
        most["key"] = max(most["key"], *map(used.count, used), 0)

    async def work(store: Store, worker: str) -> None:
        held: list[str] = []
        while len(done) < 60:
            for one in (await store.claim(Claim(worker, PAIRS, 10))).runs:
                running[one.run.id] = (worker, one.run.key)
                held.append(one.run.id)
                look()
            if most["all"] < 5:
                continue  # until all places were taken once, nobody gives one up
            for name in held:
                del running[name]  # before the store knows, so it is never counted too often
            done.extend(held)
            await store.commit([settle(name) for name in held])
            held = []

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(one, f"w{n}") for n, one in enumerate(stores)))
    assert sorted(done) == [f"r{n:02}" for n in range(60)]
    assert most == {"all": 5, "worker": 2, "key": 2}
