"""Queues, leases and fencing: the same on every store."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from aura.errors import LeaseLost
from aura.store.base import Claim, ClaimResult, Heartbeat, Op, RequestCancel, Store
from tests.store.kit import (
    PAIRS,
    Backend,
    append,
    beat,
    claim,
    claimed_ids,
    database_now,
    eventually,
    settle,
    start,
    the_run,
)


async def test_a_claim_takes_pending_runs_oldest_first(store: Store) -> None:
    for run_id in ("c", "a", "b"):
        await store.commit([start(run_id)])
    first = await claim(store, limit=2)
    assert [one.run.id for one in first] == ["c", "a"]
    for one in first:
        assert (one.run.state, one.run.epoch, one.run.owner) == ("running", 1, "w")
        assert one.run.started_at is not None
        assert one.run.recoveries == 0
        assert one.run == await store.run(one.run.id)
        assert one.journal == []
    assert await claimed_ids(store) == ["b"]
    assert await claim(store) == []


async def test_a_claim_takes_only_what_is_asked_for(store: Store) -> None:
    await store.commit([start("a"), start("b", version="2.0.0"), start("c", workflow="other")])
    asked = Claim("w", (("research", "2.0.0"), ("other", "1.0.0"), ("none", "1.0.0")), 10)
    assert [one.run.id for one in (await store.claim(asked)).runs] == ["b", "c"]
    assert (await store.claim(Claim("w", (), 10))).runs == []
    assert (await store.claim(Claim("w", PAIRS, 0))).runs == []
    assert (await the_run(store, "a")).state == "pending"


async def test_a_claim_for_one_run_takes_no_other(store: Store) -> None:
    await beat(store, "one")
    await store.commit([start("a"), start("b"), start("dead", owner="gone")])
    now = await database_now(store)
    await store.commit([start("due", owner="w"), settle("due", "waiting", wake_at=now - 1)])
    for run_id in ("b", "dead", "due", "none"):
        claim_one = Claim("one", PAIRS, 10, only=run_id)
        taken = [one.run.id for one in (await store.claim(claim_one)).runs]
        assert taken == ([run_id] if run_id != "none" else [])
    assert await claimed_ids(store) == ["a"]


async def test_runs_of_other_versions_do_not_hide_mine(store: Store) -> None:
    await store.commit([start(f"old-{at}", version="0.1.0") for at in range(300)])
    await store.commit([start("mine")])
    assert await claimed_ids(store, limit=1) == ["mine"]


async def test_a_claim_brings_the_journal(store: Store) -> None:
    ops: list[Op] = [start("a", owner="w"), start("b", owner="w")]
    ops += [append(run, seq) for seq in (1, 2, 3) for run in ("a", "b")]
    await store.commit([*ops, settle("a", "pending"), settle("b", "pending")])
    for one in await claim(store, "other"):
        assert one.journal == await store.journal(one.run.id)
        assert [line.seq for line in one.journal] == [1, 2, 3]


async def test_many_claimers_never_share_a_run(shared: Backend) -> None:
    stores = [await shared.open() for _ in range(3)]
    workers = [f"w{at}" for at in range(9)]
    await stores[0].commit([Heartbeat(one, 60.0) for one in workers])
    ids = [f"run-{at:03}" for at in range(200)]
    await stores[0].commit([start(one) for one in ids])

    async def work(at: int) -> list[str]:
        taken: list[str] = []
        while more := await claimed_ids(stores[at % 3], workers[at], limit=1 + at % 4):
            taken += more
        return taken

    taken = Counter(one for of in await asyncio.gather(*map(work, range(9))) for one in of)
    left = Counter(await claimed_ids(stores[0], "w0"))
    assert taken + left == Counter(ids)


async def test_a_live_owner_keeps_its_runs(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w")])
    assert await claim(store, "other") == []


async def test_a_worker_does_not_take_over_from_itself(store: Store) -> None:
    await store.commit([start("a", owner="w")])
    assert await claim(store, "w") == []


async def test_takeover_fences_the_old_owner(store: Store) -> None:
    await beat(store, "old", 0.05)
    await store.commit([start("a", owner="old"), append("a", 1)])
    (taken,) = await eventually(lambda: claim(store, "new"))
    assert (taken.run.owner, taken.run.epoch, taken.run.recoveries) == ("new", 2, 1)
    assert [line.seq for line in taken.journal] == [1]
    outcomes = await store.commit([append("a", 2), settle("a"), append("a", 1)])
    assert all(isinstance(one, LeaseLost) for one in outcomes)
    assert await store.commit([append("a", 2, epoch=2), settle("a", epoch=2)]) == [None, None]
    run = await the_run(store, "a")
    assert (run.state, run.epoch) == ("completed", 2)


async def test_a_worker_that_never_reported_has_no_lease(store: Store) -> None:
    await store.commit([start("a", owner="ghost")])
    assert await claimed_ids(store, "new") == ["a"]


async def test_heartbeats_extend_the_lease(store: Store) -> None:
    await beat(store, "w", 0.05)
    await store.commit([start("a", owner="w")])
    now = await database_now(store)
    await beat(store, "w", 60.0)
    (worker,) = [one for one in await store.workers() if one.id == "w"]
    assert now + 59 < worker.lease_until < await database_now(store) + 61
    assert worker.started_at <= now
    end = now + 0.06

    async def over() -> bool:
        return await database_now(store) > end

    await eventually(over)
    assert await claim(store, "other") == []


async def test_the_last_heartbeat_of_a_batch_counts(store: Store) -> None:
    now = await database_now(store)
    await store.commit([Heartbeat("w", 5.0, b"1"), Heartbeat("w", 90.0, b"\xff2")])
    (worker,) = [one for one in await store.workers() if one.id == "w"]
    assert worker.info == b"\xff2"
    assert worker.lease_until > now + 80


async def test_giving_up_the_lease_frees_runs_at_once(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w")])
    assert await claim(store, "other") == []
    await beat(store, "w", 0.0)
    assert await claimed_ids(store, "other") == ["a"]


async def test_due_runs_are_taken_and_others_wait(store: Store) -> None:
    now = await database_now(store)
    await store.commit([start("due", owner="w"), start("later", owner="w")])
    await store.commit(
        [
            settle("due", "waiting", wake_at=now - 1),
            settle("later", "waiting", wake_at=now + 3600),
        ]
    )
    assert (await the_run(store, "later")).wake_at == pytest.approx(now + 3600)
    result = await store.claim(Claim("w", PAIRS, 10))
    (taken,) = result.runs
    assert (taken.run.id, taken.run.epoch, taken.run.recoveries) == ("due", 2, 0)
    assert taken.run.wake_at is None
    assert result.next_wake == pytest.approx(3600, abs=600)


async def test_next_wake(store: Store) -> None:
    async def ask() -> ClaimResult:
        return await store.claim(Claim("w", PAIRS, 10))

    assert replace(await ask(), moment=None) == ClaimResult([], None)
    now = await database_now(store)
    await store.commit([start("a", owner="w"), start("b", owner="w")])
    await store.commit([settle("a", "waiting", wake_at=now + 100)])
    assert (await ask()).next_wake == pytest.approx(100, abs=20)
    await store.commit([settle("b", "waiting", wake_at=now + 50)])
    assert (await ask()).next_wake == pytest.approx(50, abs=20)
    await store.commit([RequestCancel("b")])
    assert (await ask()).next_wake == pytest.approx(100, abs=20)


async def test_next_wake_is_when_the_first_lease_of_another_worker_with_runs_is_over(
    store: Store,
) -> None:
    async def ask() -> float | None:
        return (await store.claim(Claim("w", PAIRS, 10))).next_wake

    await beat(store, "w", 20.0)
    await beat(store, "idle", 30.0)
    await beat(store, "slow", 300.0)
    await beat(store, "quick", 100.0)
    await store.commit([start("mine", owner="w"), start("a", owner="slow")])
    assert await ask() == pytest.approx(300, abs=20)
    await store.commit([start("b", owner="quick", workflow="other")])
    assert await ask() == pytest.approx(100, abs=20)  # the other work may be another one's, too
    await beat(store, "quick", 200.0)
    assert await ask() == pytest.approx(200, abs=20)
    await store.commit([settle("b", "completed")])
    assert await ask() == pytest.approx(300, abs=20)


async def test_a_lease_that_ends_while_runs_are_claimed_is_not_overlooked(store: Store) -> None:
    async def ask() -> ClaimResult:
        return await store.claim(Claim("w", PAIRS, 10))

    await beat(store, "short", 0.2)
    await store.commit([start("a", owner="short", workflow="other"), start("b", owner="short")])
    taken = await ask()
    while not taken.runs:  # each answer says when to ask again, so no poll is needed
        assert taken.next_wake is not None
        await asyncio.sleep(taken.next_wake)
        taken = await ask()
    assert [one.run.id for one in taken.runs] == ["b"]
    assert (await ask()).next_wake is None, "what nobody here can take is no reason to ask"


async def test_a_claim_tells_which_of_my_runs_were_asked_to_stop(store: Store) -> None:
    await beat(store, "other")
    await store.commit([start("c", owner="other")])
    await store.commit([start("a", owner="w"), start("b", owner="w")])
    await store.commit([RequestCancel("b"), RequestCancel("c")])
    assert (await store.claim(Claim("w", PAIRS, 10))).cancels == ("b",)
    await store.commit([settle("b", "cancelled")])
    assert (await store.claim(Claim("w", PAIRS, 10))).cancels == ()


async def test_waiting_without_a_time_is_waiting_for_ever(store: Store) -> None:
    await store.commit([start("a", owner="w"), settle("a", "waiting")])
    found = await store.claim(Claim("w", PAIRS, 10))
    assert replace(found, moment=None) == ClaimResult([], None)


async def test_the_epoch_grows_with_each_claim(store: Store) -> None:
    await store.commit([start("a")])
    for epoch in range(1, 6):
        (one,) = await claim(store, f"w{epoch}")
        assert one.run.epoch == epoch
        await store.commit([append("a", epoch, epoch=epoch), settle("a", "pending", epoch=epoch)])
    assert [line.seq for line in await store.journal("a")] == [1, 2, 3, 4, 5]


async def test_claims_race_with_their_old_owner(shared: Backend) -> None:
    """Whatever the old owner wrote with success is in the journal that the new owner got."""
    old, new = await shared.open(), await shared.open()
    ids = [f"run-{at:02}" for at in range(30)]
    await old.commit([start(one, owner="old") for one in ids])

    async def write() -> dict[str, int]:
        landed = dict.fromkeys(ids, 0)
        for seq in range(1, 40):
            outcomes = await old.commit([append(one, seq) for one in ids if landed[one] == seq - 1])
            writing = [one for one in ids if landed[one] == seq - 1]
            for one, outcome in zip(writing, outcomes, strict=True):
                landed[one] += outcome is None
        return landed

    async def take() -> dict[str, int]:
        taken: dict[str, int] = {}
        while len(taken) < len(ids):
            taken |= {one.run.id: len(one.journal) for one in await claim(new, "new", 3)}
            await asyncio.sleep(0)
        return taken

    landed, taken = await asyncio.gather(write(), take())
    assert landed == taken
