"""What is behind an entry that could not be written is not written either."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from aura.clock import SystemClock
from aura.errors import StoreUnavailable
from aura.store.base import (
    Append,
    Continue,
    Entry,
    Heartbeat,
    Op,
    Outcome,
    Priority,
    SendSignal,
    Settle,
    StartRun,
    Store,
)
from aura.store.committer import Committer
from aura.store.events import Emit, NewEvent
from aura.store.sqlite import SqliteStore


def append(run_id: str, seq: int) -> Append:
    return Append(1, Entry(run_id, seq, f"0/a#{seq}", "step", "", None, b"1", None, 1, 1.0, 2.0))


@pytest.mark.parametrize(
    "behind",
    [
        append("a", 2),
        Settle("a", 1, "completed", b"1"),
        Continue("a", 1, "1.0.0", b"{}", base=1, seen=0),
        Emit((NewEvent("t", "id", None, b"1"),), append("a", 2)),
    ],
    ids=["append", "settle", "continue", "emit"],
)
async def test_a_gap_ends_what_its_run_has_submitted(behind: Op) -> None:
    store = SqliteStore(":memory:")
    await store.open()
    committer = Committer(store, SystemClock(), patience=0.0)
    committer.open()
    for run_id in ("a", "b"):
        await committer.submit(StartRun(run_id, "w", "1.0.0", b"{}", "f", "o", owner="w"))
    await committer.submit(Heartbeat("w", 60.0))
    commit, asked, release = store.commit, asyncio.Event(), asyncio.Event()

    async def fails(ops: Sequence[Op]) -> list[Outcome]:
        asked.set()
        await release.wait()
        setattr(store, "commit", commit)  # noqa: B010  (a method of one object)
        raise StoreUnavailable("it is away")

    setattr(store, "commit", fails)  # noqa: B010  (a method of one object)
    first = committer.submit(append("a", 1))
    await asked.wait()
    second, other = committer.submit(behind), committer.submit(append("b", 1))
    release.set()
    for lost in (first, second):
        with pytest.raises(StoreUnavailable):
            await lost
    assert await other is None
    assert await store.journal("a") == []
    run = await store.run("a")
    assert run is not None
    assert (run.state, run.execution) == ("running", 1)
    await committer.close()
    await store.close()


async def test_what_the_database_does_not_take_is_refused_alone(store: Store) -> None:
    committer = Committer(store, SystemClock(), patience=0.0)
    committer.open()
    for run_id in ("a", "b"):
        await committer.submit(StartRun(run_id, "w", "1.0.0", b"{}", "f", "o", owner="w"))
    await committer.submit(Heartbeat("w", 60.0))
    unwritable = append("a", 1)
    unwritable = unwritable._replace(entry=unwritable.entry._replace(key="\ud800"))
    together = [append("b", 1), unwritable, append("a", 2), append("b", 2)]
    found = await asyncio.gather(*map(committer.submit, together), return_exceptions=True)
    assert [one is None for one in found] == [True, False, False, True]
    assert isinstance(found[1], Exception)
    assert found[2] is found[1]  # a gap would be before it
    assert [entry.seq for entry in await store.journal("b")] == [1, 2]
    assert await store.journal("a") == []
    assert await committer.submit(append("a", 1)) is None
    await committer.close()


async def test_the_receiver_of_a_critical_signal_goes_on_before_the_next_batch() -> None:
    """Also when the store writes on the event loop and so gives others one turn at most."""
    store = SqliteStore(":memory:")
    story: list[str] = []
    receiving: list[asyncio.Task[None]] = []

    async def receive() -> None:
        await committer.submit(signal(0, "critical"))
        await asyncio.sleep(0)  # from its mailbox to its run
        story.append("received")

    async def at_once(ops: Sequence[Op]) -> list[Outcome]:
        urgent = [op for op in ops if isinstance(op, SendSignal) and op.priority == "critical"]
        story.append("critical" if urgent else "batch")
        if story.count("batch") in (1, 5, 20) and not urgent:
            receiving.append(asyncio.create_task(receive()))
        await asyncio.sleep(0)
        return [None] * len(ops)

    setattr(store, "commit", at_once)  # noqa: B010  (a method of one object)
    committer = Committer(store, SystemClock())
    committer.open()
    await asyncio.gather(*(committer.submit(signal(number, "low")) for number in range(9_000)))
    await asyncio.gather(*receiving)
    print(story[:60])
    after = [story[place + 1] for place, what in enumerate(story) if what == "critical"]
    assert after == ["received"] * 3
    assert story[-1] == "batch"  # there was something to be before
    await committer.close()


def signal(number: int, priority: Priority) -> SendSignal:
    return SendSignal("r", "go", b"1", str(number), priority)
