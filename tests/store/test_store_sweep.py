"""Deleting what is old, in every store: small batches, whole runs, nothing that is not over."""

from __future__ import annotations

import asyncio

from aura.store.base import (
    AppendFeed,
    Heartbeat,
    RequestCancel,
    RunFilter,
    SendSignal,
    Settle,
    StartRun,
    Store,
    Sweep,
    Swept,
)
from tests.store.kit import Backend, append, beat, settle, start, the_run

ALL = Sweep(-60.0, ("observations/", "orders/"), dead=-1e6)
"""Everything that is over is older than -60 seconds; live workers are dead to it."""


async def ended(store: Store, run_id: str, entries: int = 2, signals: int = 0) -> None:
    await store.commit(
        [
            start(run_id, owner="w"),
            *(append(run_id, seq) for seq in range(1, entries + 1)),
            *(SendSignal(run_id, "go", b"1", f"id-{n}") for n in range(signals)),
        ]
    )
    assert await store.commit([settle(run_id)]) == [None]


async def ids(store: Store) -> list[str]:
    return sorted(run.id for run in await store.runs(RunFilter(limit=1000)))


async def sweep_all(store: Store, what: Sweep) -> Swept:
    total = Swept()
    while sum(swept := await store.sweep(what)):
        assert sum(swept) <= what.limit
        total = Swept(*map(sum, zip(total, swept, strict=True)))
    return total


async def test_ended_runs_go_with_their_journals_and_signals(store: Store) -> None:
    await ended(store, "a", entries=3, signals=2)
    await ended(store, "b")
    expected = Swept(runs=2, entries=5, signals=2)
    assert (await store.sweepable(ALL))._replace(workers=0) == expected
    assert (await store.sweep(ALL))._replace(workers=0) == expected
    assert await ids(store) == []
    assert await store.journal("a") == []
    assert await store.signals([("a", 0)]) == []
    assert await store.sweep(ALL) == Swept()


async def test_what_is_not_old_stays(store: Store) -> None:
    await ended(store, "a", signals=1)
    await beat(store, "w")
    await store.commit([AppendFeed("observations/s", (b"1", b"2"))])
    recent = Sweep(60.0, ("observations/",))
    assert await store.sweepable(recent) == Swept()
    assert await store.sweep(recent) == Swept()
    assert len(await store.journal("a")) == 2
    assert len(await store.feed("observations/s")) == 2


async def test_runs_that_are_not_over_stay(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start(name, owner="w") for name in ("running", "waiting", "parked")])
    await store.commit([append(name, 1) for name in ("running", "waiting", "parked")])
    await store.commit([start("pending"), start("cancelled")])
    await store.commit([settle("waiting", "waiting", wake_at=1e12), settle("parked", "parked")])
    await store.commit([RequestCancel("cancelled")])
    assert (await sweep_all(store, Sweep(-60.0))).runs == 1
    assert await ids(store) == ["parked", "pending", "running", "waiting"]
    assert [len(await store.journal(name)) for name in ("running", "waiting", "parked")] == [1] * 3


async def test_a_long_journal_goes_from_its_end_in_batches(store: Store) -> None:
    await ended(store, "a", entries=25)
    what = Sweep(-60.0, limit=10)
    assert await store.sweep(what) == Swept(entries=10)
    assert [one.seq for one in await store.journal("a")] == list(range(1, 16))
    assert await sweep_all(store, what) == Swept(runs=1, entries=15)


async def test_the_oldest_go_first(store: Store) -> None:
    for name in ("first", "second", "third"):
        await ended(store, name, entries=0)
    assert await store.sweep(Sweep(-60.0, limit=2)) == Swept(runs=2)
    assert await ids(store) == ["third"]


async def test_a_feed_keeps_its_last_item_and_its_numbers(store: Store) -> None:
    for name in ("observations/s", "observations/kept", "other/s"):
        await store.commit([AppendFeed(name, tuple(b"%d" % n for n in range(5)))])
    what = Sweep(-60.0, ("observations/",), ("observations/kept",), limit=3)
    assert await store.sweepable(what) == Swept(items=4)
    assert await store.sweep(what) == Swept(items=3)
    assert [item.seq for item in await store.feed("observations/s")] == [4, 5]
    assert await sweep_all(store, what) == Swept(items=1)
    assert await store.commit([AppendFeed("observations/s", (b"next",))]) == [6]
    assert len(await store.feed("observations/kept")) == len(await store.feed("other/s")) == 5


async def test_no_feed_ages_unless_it_is_named(store: Store) -> None:
    await store.commit([AppendFeed("observations/s", (b"1", b"2"))])
    assert await store.sweep(Sweep(-60.0)) == Swept()


async def test_dead_workers_that_own_nothing_go(store: Store) -> None:
    await store.commit([Heartbeat("gone", 0.0), Heartbeat("owner", 0.0), Heartbeat("live", 60.0)])
    await store.commit([start("a", owner="owner")])
    assert await store.sweep(Sweep(60.0, dead=-1.0)) == Swept(workers=1)
    assert sorted(one.id for one in await store.workers()) == ["live", "owner"]


async def test_a_swept_run_takes_no_more_writes(store: Store) -> None:
    """A worker that comes back late finds nothing of its run."""
    await ended(store, "a")
    await store.sweep(ALL)
    outcomes = await store.commit([append("a", 3), settle("a")])
    assert [type(outcome).__name__ for outcome in outcomes] == ["LeaseLost"] * 2
    assert await store.journal("a") == []
    [again] = await store.commit([start("a")])
    assert getattr(again, "created", None) is True


async def test_sweeps_beside_live_runs_touch_none(shared: Backend) -> None:
    """Runs are started, written and ended by one process while two others sweep."""
    work, one, other = [await shared.open() for _ in range(3)]
    await beat(work, "w")
    rounds, done = 40, asyncio.Event()

    async def sweeping(store: Store) -> int:
        runs = 0
        while not done.is_set():
            runs += (await store.sweep(Sweep(-60.0, limit=20))).runs
            await asyncio.sleep(0)
        return runs

    async def working() -> None:
        for at in range(rounds):
            names = [f"{at}-{n}" for n in range(10)]
            await work.commit([start(name, owner="w") for name in names])
            for seq in (1, 2, 3):
                assert await work.commit([append(name, seq) for name in names]) == [None] * 10
            for name in names[:5]:
                assert len(await work.journal(name)) == 3
            assert await work.commit([settle(name) for name in names[:9]]) == [None] * 9
        done.set()

    *swept, _ = await asyncio.gather(sweeping(one), sweeping(other), working())
    rest = await sweep_all(work, Sweep(-60.0))
    assert sum(swept) + rest.runs == 9 * rounds
    assert await ids(work) == sorted(f"{at}-9" for at in range(rounds))
    for at in range(rounds):
        assert [entry.seq for entry in await work.journal(f"{at}-9")] == [1, 2, 3]


async def test_a_parked_run_that_goes_on_is_kept_until_it_has_ended(store: Store) -> None:
    op = StartRun("a", "research", "1.0.0", b"1", "f", "o", "w")
    await beat(store, "w")
    await store.commit([op])
    await store.commit([Settle("a", 1, "parked")])
    assert (await store.sweep(ALL)).runs == 0
    assert (await the_run(store, "a")).state == "parked"
