"""The commits of a lone run do what the function for batches does, also when they are repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aura.errors import LeaseLost
from aura.store.base import Append, Entry, Heartbeat, Settle, Started, StartRun
from aura.store.postgres import PostgresStore


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.open()
    await store.commit([Heartbeat("w", 60.0)])
    yield store
    await store.close()


def start(run_id: str = "r") -> StartRun:
    return StartRun(run_id, "w", "1.0.0", b"{}", "f", "o", owner="w", deadline=9e9)


def append(seq: int, epoch: int = 1) -> Append:
    return Append(epoch, Entry("r", seq, f"0/a#{seq}", "step", "", None, b"1", None, 1, 1.0, 2.0))


def end(epoch: int = 1) -> Settle:
    return Settle("r", epoch, "completed", b"2", announce=False)


async def test_a_start(store: PostgresStore) -> None:
    [made] = await store.commit([start()])
    assert isinstance(made, Started)
    assert made.created
    assert made.run == await store.run("r")
    [again] = await store.commit([start()])
    assert again == Started(False, made.run)


async def test_an_end_with_the_last_entry(store: PostgresStore) -> None:
    await store.commit([start()])
    assert await store.commit([append(1)]) == [None]
    assert await store.commit([append(2), end()]) == [None, None]
    run = await store.run("r")
    assert run is not None
    assert (run.state, run.output, run.owner) == ("completed", b"2", None)
    assert run.finished_at is not None
    assert [entry.seq for entry in await store.journal("r")] == [1, 2]
    assert await store.commit([append(2), end()]) == [None, None]
    assert await store.run("r") == run
    assert await store.commit([end()]) == [None]


async def test_an_end_of_another_epoch_writes_nothing(store: PostgresStore) -> None:
    await store.commit([start()])
    refused = await store.commit([append(1, epoch=2), end(epoch=2)])
    assert [type(one) for one in refused] == [LeaseLost, LeaseLost]
    assert [type(one) for one in await store.commit([end(epoch=2)])] == [LeaseLost]
    run = await store.run("r")
    assert run is not None
    assert run.state == "running"
    assert await store.journal("r") == []


async def test_an_end_whose_entry_is_there_already(store: PostgresStore) -> None:
    await store.commit([start()])
    await store.commit([append(1)])
    assert await store.commit([append(1), end()]) == [None, None]
    run = await store.run("r")
    assert run is not None
    assert run.state == "completed"


async def test_the_end_of_a_parent_reaches_its_children(store: PostgresStore) -> None:
    await store.commit([start()])
    child = StartRun("c", "w", "1.0.0", b"{}", "f", "o", parent="r", parent_epoch=1)
    await store.commit([child])
    assert await store.commit([append(1), end()]) == [None, None]
    found = await store.run("c")
    assert found is not None
    assert found.cancel_requested or found.state == "cancelled"


async def test_two_runs_end_in_one_batch(store: PostgresStore) -> None:
    await store.commit([start("a"), start("b")])
    ends = [Settle(one, 1, "completed", b"2", announce=False) for one in "ab"]
    assert await store.commit(ends) == [None, None]
    for one in "ab":
        run = await store.run(one)
        assert run is not None
        assert run.state == "completed"
