"""What is written next: fair between classes, earliest deadline first in one, nobody starves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.clock import SystemClock
from aura.store.base import Announce, Op, Outcome, Priority, SendSignal, Sent
from aura.store.committer import Committer
from aura.store.routing import PATIENCE, SHARES, SMALLEST, CommitTimes, Router
from aura.store.sqlite import SqliteStore
from tests.store.kit import start

BATCHED: tuple[Priority, ...] = ("high", "normal", "low")
pushes = st.lists(
    st.tuples(
        st.sampled_from(["work", *BATCHED]),
        st.none() | st.floats(0, 100),
        st.floats(0, 100),
    ),
    max_size=60,
)
Item = tuple[str, int]


def push(router: Router[Item], name: str, number: int, deadline: float | None, now: float) -> None:
    if name == "work":
        router.push((name, number))
    else:
        priority = next(one for one in BATCHED if one == name)
        router.push_signal((name, number), priority, deadline, now)


@given(pushes, st.lists(st.integers(1, 20), min_size=60, max_size=60))
def test_everything_is_taken_once_and_work_in_order(
    given_pushes: list[tuple[str, float | None, float]], sizes: list[int]
) -> None:
    router: Router[Item] = Router()
    for number, (name, deadline, now) in enumerate(given_pushes):
        push(router, name, number, deadline, now)
    taken = []
    for size in sizes:
        before = len(router)
        batch = router.take(size)
        assert len(batch) == min(size, before)
        assert len(router) == before - len(batch)
        taken += batch
    assert sorted(number for _, number in taken) == list(range(len(given_pushes)))
    work = [number for name, number in taken if name == "work"]
    assert work == sorted(work)


@given(st.integers(SMALLEST, 40), st.integers(2, 30))
def test_classes_share_by_weight(size: int, rounds: int) -> None:
    """While all of them have enough waiting, each gets its share, but for the pressing ones."""
    router: Router[Item] = Router()
    for number in range(size * rounds):
        for name in SHARES:
            push(router, name, number, None, 0.0)
    got = Counter(name for _ in range(rounds) for name, _ in router.take(size))
    total = sum(SHARES.values())
    for name, weight in SHARES.items():
        assert got[name] >= size * rounds * weight / total - rounds - 2, (name, got)


@pytest.mark.parametrize("name", BATCHED)
def test_nobody_starves(name: Priority) -> None:
    """Pressing signals of all classes, and work, come four times as fast as they are written. The
    one without a deadline waits only for those of its class that came in its second of patience."""
    router: Router[Item] = Router()
    numbers = count(1)
    push(router, name, 0, None, 0.0)
    share = SHARES[name] / sum(SHARES.values())
    for step in range(int(PATIENCE / 0.01 / share * 1.1)):
        now = step * 0.01
        for other in SHARES:
            for _ in range(SMALLEST):
                push(router, other, next(numbers), now + 0.005, now)
        if (name, 0) in router.take(SMALLEST):
            return
    raise AssertionError("never taken")


def test_the_earliest_deadline_goes_first_within_a_class() -> None:
    router: Router[Item] = Router()
    for number, deadline in enumerate([30.0, None, 10.0, 20.0, 0.5]):
        push(router, "normal", number, deadline, 0.0)
    for number in range(10):
        push(router, "work", number, None, 0.0)
    taken = [number for _ in range(5) for name, number in router.take(2) if name == "normal"]
    assert taken[:3] == [4, 1, 2], "no deadline counts as one in a second"


@given(st.floats(1e-4, 1e-2), st.floats(1e-6, 1e-4), st.floats(0.001, 0.5))
def test_sizes_follow_measured_commits(fixed: float, each: float, room: float) -> None:
    times = CommitTimes()
    assert times.largest(room, 2_000) == 2_000, "nothing is known yet"
    for size in (1, 10, 100, 1_000, 5, 50):
        times.observe(size, fixed + each * size)
    assert abs(times.estimate(200) - (fixed + each * 200)) < 1e-6 + 0.01 * fixed
    largest = times.largest(room, 2_000)
    assert SMALLEST <= largest <= 2_000
    if largest > SMALLEST:
        assert times.estimate(largest) <= room * 1.01 + 1e-6


class _Watched(SqliteStore):
    """Notes the batches; the first one takes its time."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.batches: list[list[Op]] = []
        self.gate = asyncio.Event()

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        self.batches.append(list(ops))
        if isinstance(ops[0], Announce):
            await self.gate.wait()
        return await super().commit(ops)


async def test_a_critical_signal_passes_a_batch_that_is_under_way() -> None:
    store = _Watched()
    await store.open()
    await store.commit([start("a")])
    committer = Committer(store, SystemClock())
    committer.open()
    slow = committer.submit(Announce("slow"))
    await asyncio.sleep(0)
    waiting = [committer.submit(SendSignal("a", "go", b"1", f"n{n}")) for n in range(5)]
    sent = await committer.submit(SendSignal("a", "go", b"2", "c", "critical"))
    assert isinstance(sent, Sent)
    assert sent.seq == 1
    assert not slow.done()
    store.gate.set()
    await asyncio.gather(slow, *waiting)
    await committer.close()
    sizes = [len(batch) for batch in store.batches]
    assert sizes == [1, 1, 1, 5]
    await store.close()


async def test_a_deadline_that_cannot_be_met_is_seen_at_admission() -> None:
    store = _Watched()
    await store.open()
    await store.commit([start("a")])
    clock = SystemClock()
    committer = Committer(store, clock)
    committer._times.observe(1, 5.0)  # commits take five seconds of late
    committer.open()
    priorities: tuple[Priority, ...] = ("critical", "high", "normal", "low")
    for priority in priorities:
        op = SendSignal("a", "go", b"1", priority, priority, clock.now() + 1)
        hopeless = await committer.submit(op)
        assert isinstance(hopeless, Sent)
        assert hopeless.late
    assert len(await store.signals([("a", 0)])) == 4, "none is dropped"
    await committer.close()
    await store.close()


def test_what_is_promoted_goes_first_and_others_go_along() -> None:
    router: Router[str] = Router()
    for number in range(100):
        router.push(f"{'ab'[number % 2]}{number}")
    router.promote(lambda item: item.startswith("b"))
    batch = router.take(60)
    assert batch[:50] == [f"b{n}" for n in range(1, 100, 2)]
    assert batch[50:] == [f"a{n}" for n in range(0, 20, 2)]
    assert len(router) == 40
    router.promote(lambda item: item.startswith("a"))
    assert router.take(10) == [f"a{n}" for n in range(20, 40, 2)]
    assert len(router.take(1_000)) == 30


def test_what_is_promoted_starves_nobody() -> None:
    router: Router[str] = Router()
    for number in range(SMALLEST):
        router.push(f"a{number}")
    for number in range(20):
        router.push(f"b{number}")
    router.promote(lambda item: item.startswith("b"))
    assert router.take(20)[20:] == [f"a{n}" for n in range(SMALLEST)]


def test_the_rest_of_what_was_promoted_is_not_overtaken() -> None:
    """Entries of one run have to be written in their order, also when they do not fit."""
    router: Router[int] = Router()
    for number in range(10):
        router.push(number)
    router.promote(lambda item: item < 5)
    for number in range(10, 12):
        router.push(number)
    router.promote(lambda item: item == 11)
    assert router.take(3) == [0, 1, 2]
    assert router.take(100) == [3, 4, 11, *range(5, 11)]


def test_brief_batches_take_twice_as_long_as_none() -> None:
    times = CommitTimes()
    assert times.brief(32) == 32, "nothing is known yet"
    for size in (1, 10, 100):
        times.observe(size, 0.002 + 0.0001 * size)
    assert times.brief(2_000) in (19, 20)
    for _ in range(200):
        for size in (1, 10, 100):
            times.observe(size, 0.001 * size)
    assert times.brief(2_000) == 2 * SMALLEST
