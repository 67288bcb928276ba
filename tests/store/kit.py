"""Short ways to write store operations, and backends to open stores on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from aura.store.base import (
    Append,
    Claim,
    Claimed,
    Entry,
    Heartbeat,
    Outcome,
    RunRecord,
    RunState,
    Settle,
    Started,
    StartRun,
    Store,
)
from aura.store.postgres import PostgresStore
from aura.store.sqlite import SqliteStore

T = TypeVar("T")
PAIRS = (("research", "1.0.0"),)


class Backend:
    """Opens stores on one database and closes them at the end."""

    def __init__(self, open_one: Callable[[], Store]) -> None:
        self._open_one = open_one
        self.opened: list[Store] = []

    def unopened(self) -> Store:
        store = self._open_one()
        self.opened.append(store)
        return store

    async def open(self) -> Store:
        store = self.unopened()
        await store.open()
        return store

    async def close(self) -> None:
        for store in self.opened:
            await store.close()


def backend_of(kind: str, folder: Path, postgres_url: Callable[[], str]) -> Backend:
    """`kind` is sqlite-memory, sqlite-file or postgres; the server starts only for the last."""
    if kind == "sqlite-memory":
        return Backend(lambda: SqliteStore(":memory:"))
    if kind == "sqlite-file":
        return Backend(lambda: SqliteStore(str(folder / "aura.db")))
    url = postgres_url()
    return Backend(lambda: PostgresStore(url))


def start(
    run_id: str,
    *,
    owner: str | None = None,
    workflow: str = "research",
    version: str = "1.0.0",
    value: bytes = b'"text"',
) -> StartRun:
    return StartRun(run_id, workflow, version, value, "fingerprint", "origin", owner)


def entry(run_id: str, seq: int, *, key: str = "", output: bytes | None = b"1") -> Entry:
    key = key or f"0/extract#{seq}"
    return Entry(run_id, seq, key, "step", "shape", b"[]", output, None, 1, 10.5, 11.25)


def append(run_id: str, seq: int, *, epoch: int = 1, key: str = "") -> Append:
    return Append(epoch, entry(run_id, seq, key=key))


def settle(
    run_id: str, state: RunState = "completed", *, epoch: int = 1, wake_at: float | None = None
) -> Settle:
    output = b'"done"' if state == "completed" else None
    return Settle(run_id, epoch, state, output, wake_at=wake_at)


def started(outcome: Outcome) -> Started:
    assert isinstance(outcome, Started)
    return outcome


async def claim(store: Store, worker: str = "w", limit: int = 100) -> list[Claimed]:
    return (await store.claim(Claim(worker, PAIRS, limit))).runs


async def claimed_ids(store: Store, worker: str = "w", limit: int = 100) -> list[str]:
    return [one.run.id for one in await claim(store, worker, limit)]


async def the_run(store: Store, run_id: str) -> RunRecord:
    found = await store.run(run_id)
    assert found is not None
    return found


async def beat(store: Store, worker: str, lease: float = 60.0) -> None:
    assert await store.commit([Heartbeat(worker, lease)]) == [None]


async def database_now(store: Store) -> float:
    """The database's time, in epoch seconds, as a fresh lease shows it."""
    await beat(store, "clock", 1000.0)
    return next(one.lease_until for one in await store.workers() if one.id == "clock") - 1000.0


async def eventually(ask: Callable[[], Awaitable[T]], patience: float = 60.0) -> T:
    """The first truthy answer."""
    give_up = time.monotonic() + patience
    while True:
        answer = await ask()
        if answer:
            return answer
        assert time.monotonic() < give_up, f"still {answer!r} after {patience} s"
        await asyncio.sleep(0.01)
