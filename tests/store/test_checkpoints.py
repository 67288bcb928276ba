"""How long entries may wait: the decision, and the committer that asks it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.clock import SystemClock
from aura.errors import StoreUnavailable
from aura.store.base import Announce, Append, Heartbeat, Op, Outcome, Worker
from aura.store.checkpoints import (
    UNKNOWN_MTBF,
    Bounds,
    Pace,
    Waiting,
    due,
    estimated_mtbf,
    interval,
    is_burst,
)
from aura.store.committer import Committer
from aura.store.sqlite import SqliteStore
from tests.store.kit import append, settle, start

COSTS = st.floats(1e-4, 0.1)
MTBFS = st.floats(10.0, 1e7)
FAR = Bounds(longest=math.inf, entries=10**9, size=10**12)


def waiting(work: float = 0.0, entries: int = 1, size: int = 0, gap: float = 1.0) -> Waiting:
    return Waiting(100.0, work, entries, size, gap)


# -- the decision ------------------------------------------------------------------------------


def test_youngs_interval() -> None:
    assert interval(0.005, 3_600.0) == pytest.approx(6.0)
    assert interval(0.0, 1.0) > 0.0


@given(COSTS, MTBFS, st.floats(0.1, 10.0))
def test_his_interval_loses_least(cost: float, mtbf: float, other: float) -> None:
    """What an interval of T seconds costs per second: cost / T in writes, T / 2 / mtbf in work."""
    best = interval(cost, mtbf)

    def loss(seconds: float) -> float:
        return cost / seconds + seconds / 2 / mtbf

    assert loss(best) <= loss(best * other) * (1 + 1e-9)


@given(COSTS, MTBFS, st.floats(0.0, 1e5))
def test_work_that_is_worth_a_write_is_written_at_once(
    cost: float, mtbf: float, work: float
) -> None:
    at = due(waiting(work), cost, mtbf, FAR)
    worth = interval(cost, mtbf)
    assert at == (100.0 if work >= worth else pytest.approx(100.0 + worth))


@given(COSTS, MTBFS)
def test_bursts_wait_longer_but_their_work_is_worth_no_more(cost: float, mtbf: float) -> None:
    calm = due(waiting(gap=cost), cost, mtbf, FAR)
    burst = due(waiting(gap=cost / 10), cost, mtbf, FAR)
    assert not is_burst(cost, cost)
    assert burst - 100.0 == pytest.approx(4 * (calm - 100.0))
    risky = waiting(work=interval(cost, mtbf), gap=cost / 10)
    assert due(risky, cost, mtbf, FAR) == 100.0


def test_the_bounds_hold_whatever_it_is_worth() -> None:
    bounds = Bounds(longest=2.0, entries=10, size=1_000)
    assert due(waiting(), 1.0, 1e9, bounds) == 102.0
    assert due(waiting(entries=10), 1.0, 1e9, bounds) == 100.0
    assert due(waiting(size=1_000), 1.0, 1e9, bounds) == 100.0


def test_failures_are_counted_from_workers_that_did_not_say_goodbye() -> None:
    def life(began: float, until: float, info: bytes = b'{"pid":1}') -> Worker:
        return Worker(f"w{began}", until, began, info)

    now = 10_000.0
    assert estimated_mtbf([], now) == UNKNOWN_MTBF
    alive, gone, dead = life(0.0, now + 5), life(1_000, 6_000, b"{}"), life(2_000, 4_000)
    assert estimated_mtbf([alive], now) == UNKNOWN_MTBF + 10_000
    assert estimated_mtbf([alive, gone], now) == UNKNOWN_MTBF + 15_000
    assert estimated_mtbf([alive, gone, dead], now) == (UNKNOWN_MTBF + 17_000) / 2


def test_the_pace_of_entries() -> None:
    pace = Pace(1e6, Bounds(longest=10.0))
    for at in (5.0, 6.0, 7.0):
        pace.add(at, 0.5, 10)
    assert pace.due(0.1) == 15.0
    assert pace.written() == 3
    assert pace.written() == 0
    pace.add(8.0, 1e9, 10)
    assert pace.due(0.1) == 8.0


def test_a_burst_is_seen_after_some_entries() -> None:
    pace = Pace(1.0, FAR)
    steady, bursty = [], []
    for at in range(40):
        pace.add(at * 0.01, 0.0, 0)
        steady.append(pace.due(0.001))
    for at in range(40):
        pace.add(0.4 + at * 0.000_01, 0.0, 0)
        bursty.append(pace.due(0.001))
    assert len(set(steady)) == 1
    assert bursty[-1] == pytest.approx(4 * steady[-1])
    assert bursty.index(bursty[-1]) < 15


# -- the committer -----------------------------------------------------------------------------


class _Clock(SystemClock):
    """Its monotonic time goes on when it is told to."""

    def __init__(self) -> None:
        self.time = 50.0
        self.asleep: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.asleep.append((self.time + seconds, asyncio.get_running_loop().create_future()))
        await self.asleep[-1][1]

    async def pass_on(self, seconds: float) -> None:
        self.time += seconds
        for at, future in self.asleep:
            if at <= self.time and not future.done():
                future.set_result(None)
        await rounds()


async def rounds() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class _Watched(SqliteStore):
    """Notes the batches; those that `fail` says are refused first."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.batches: list[list[Op]] = []
        self.fail = 0

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        if self.fail:
            self.fail -= 1
            raise StoreUnavailable("away")
        self.batches.append(list(ops))
        return await super().commit(ops)


class Desk:
    """A committer with a run "r" that is running."""

    def __init__(self) -> None:
        self.store = _Watched()
        self.clock = _Clock()
        self.told: list[int] = []

    async def open(self, mtbf: float | None = 1e9) -> None:
        await self.store.open()
        await self.store.commit([start("r", owner="w")])
        self.store.batches.clear()
        self.committer = Committer(self.store, self.clock, mtbf=mtbf)
        self.committer.open()

    def post(self, *seqs: int, later: bool = True) -> None:
        post = self.committer.post_later if later else self.committer.post
        for seq in seqs:
            op = append("r", seq)
            post(Append(1, op.entry._replace(started_at=10.0, recorded_at=10.0)), self._done(seq))

    def _done(self, seq: int):  # type: ignore[no-untyped-def]
        def told(outcome: object) -> None:
            assert outcome is None
            self.told.append(seq)

        return told

    async def wrote(self, *sizes: int) -> None:
        """Return when batches of these sizes, and no others, have been written and told."""
        await rounds()
        give_up = time.monotonic() + 30
        while len(self.told) < sum(sizes):
            assert time.monotonic() < give_up, (self.sizes, self.told)
            await asyncio.sleep(0.001)
        assert self.sizes == list(sizes)
        assert self.told == list(range(1, len(self.told) + 1))

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.store.batches]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    await desk.open()
    yield desk
    await desk.committer.close()
    await desk.store.close()


async def test_entries_wait_until_somebody_depends_on_them(desk: Desk) -> None:
    desk.post(1, 2, 3)
    await rounds()
    assert desk.sizes == []
    desk.committer.hurry()
    await desk.wrote(3)
    desk.post(4)
    await rounds()
    assert desk.sizes == [3], "a hurry is for what was there"
    counts = desk.committer.counts
    assert (counts.entries, counts.deferred, counts.saved) == (3, 3, 2)


async def test_they_go_along_with_what_does_not_wait_and_before_it(desk: Desk) -> None:
    desk.post(1, 2)
    await rounds()
    desk.post(3, later=False)
    await desk.wrote(3)
    assert (desk.committer.counts.commits, desk.committer.counts.saved) == (1, 2)
    desk.post(4, later=False)
    await desk.wrote(3, 1)  # what cannot wait never does


@pytest.mark.parametrize("op", [Heartbeat("w", 10.0), Announce("x"), settle("r")])
async def test_every_other_operation_takes_them_along(desk: Desk, op: Op) -> None:
    desk.post(1)
    await rounds()
    assert await desk.committer.submit(op) is None
    assert desk.sizes == [2]


async def test_their_time_comes(desk: Desk) -> None:
    desk.post(1)
    await rounds()
    await desk.clock.pass_on(1.9)
    desk.post(2)
    await rounds()
    assert desk.sizes == []
    await desk.clock.pass_on(0.2)
    await desk.wrote(2)
    await desk.clock.pass_on(10.0)
    assert desk.sizes == [2]


async def test_a_close_writes_them(desk: Desk) -> None:
    desk.post(1, 2)
    await rounds()
    await desk.committer.close()
    assert desk.told == [1, 2]
    desk.committer.open()


async def test_too_many_are_written_at_once(desk: Desk) -> None:
    desk.post(*range(1, 1_000))
    await rounds()
    assert desk.sizes == []
    desk.post(1_000)
    await desk.wrote(1_000)


async def test_they_are_tried_again_while_the_database_is_away(desk: Desk) -> None:
    desk.post(1, 2)
    await rounds()
    desk.store.fail = 1
    desk.committer.hurry()
    await rounds()
    assert (desk.sizes, desk.told) == ([], [])
    desk.post(3)
    await desk.clock.pass_on(0.1)
    await desk.wrote(2)
    desk.committer.hurry()
    await desk.wrote(2, 1)


async def test_a_hurry_without_anything_makes_nothing_hurry_later(desk: Desk) -> None:
    desk.committer.hurry()
    desk.post(1)
    await rounds()
    assert desk.sizes == []


async def test_how_often_processes_fail_is_looked_up() -> None:
    desk = Desk()
    await desk.open(mtbf=None)
    now = desk.clock.now()
    await desk.store.commit([Heartbeat("alive", 60.0, b'{"pid":1}')])
    desk.post(1)
    await rounds()
    while desk.committer._learning is None or not desk.committer._learning.done():
        await asyncio.sleep(0.001)
    pace = desk.committer._pace
    assert pace is not None
    assert UNKNOWN_MTBF <= pace.mtbf <= UNKNOWN_MTBF + desk.clock.now() - now + 1.0
    await desk.committer.close()
    await desk.store.close()
