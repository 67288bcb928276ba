"""Parked runs that go on: the same on every store."""

from __future__ import annotations

import asyncio

import pytest

from aura.store.base import Claim, RunState, SendSignal, Sent, Settle, Store
from tests.store.kit import Backend, append, beat, claim, settle, start, the_run

STATES: list[RunState] = ["pending", "waiting", "completed", "failed", "cancelled"]


async def parked(store: Store, run_id: str) -> None:
    await beat(store, "w")
    await store.commit([start(run_id, owner="w"), append(run_id, 1)])
    assert await store.commit([Settle(run_id, 1, "parked", error=b'{"type":"E"}')]) == [None]


async def test_a_parked_run_goes_on_from_its_journal(store: Store) -> None:
    await parked(store, "a")
    [sent] = await store.commit([SendSignal("a", "go", b"1", "one")])
    assert isinstance(sent, Sent)
    before = await the_run(store, "a")
    assert await store.requeue("a")
    run = await the_run(store, "a")
    assert (run.state, run.owner, run.error, run.finished_at) == ("pending", None, None, None)
    assert (run.epoch, run.signals, run.started_at) == (1, 1, before.started_at)
    (taken,) = await claim(store, "other")
    assert (taken.run.epoch, taken.run.owner, taken.run.recoveries) == (2, "other", 0)
    assert [entry.seq for entry in taken.journal] == [1]
    assert [signal.payload for signal in taken.signals] == [b"1"]
    assert await store.commit([append("a", 2, epoch=2), settle("a", epoch=2)]) == [None, None]


async def test_its_old_owner_writes_nothing_more(store: Store) -> None:
    await parked(store, "a")
    await store.requeue("a")
    [late] = await store.commit([append("a", 2)])
    assert type(late).__name__ == "LeaseLost"
    assert len(await store.journal("a")) == 1


async def test_it_may_go_on_with_another_version(store: Store) -> None:
    await parked(store, "a")
    assert await store.requeue("a", "2.0.0")
    assert (await the_run(store, "a")).version == "2.0.0"
    assert await claim(store) == []
    (taken,) = (await store.claim(Claim("w", (("research", "2.0.0"),), 10))).runs
    assert taken.run.id == "a"


@pytest.mark.parametrize("state", STATES)
async def test_a_run_that_is_not_parked_stays_as_it_is(store: Store, state: RunState) -> None:
    await store.commit([start("a", owner="w"), settle("a", state)])
    before = await store.run("a")
    assert not await store.requeue("a", "2.0.0")
    assert await store.run("a") == before


async def test_a_running_run_and_nobody_are_not_requeued(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w")])
    assert not await store.requeue("a")
    assert not await store.requeue("nobody")
    assert (await the_run(store, "a")).owner == "w"


async def test_of_many_who_requeue_at_once_one_does(shared: Backend) -> None:
    stores = [await shared.open() for _ in range(3)]
    await parked(stores[0], "a")
    answers = await asyncio.gather(*(stores[at % 3].requeue("a") for at in range(9)))
    assert sorted(answers) == [False] * 8 + [True]
    assert (await the_run(stores[1], "a")).state == "pending"
