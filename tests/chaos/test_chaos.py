"""A real PostgreSQL server is killed and started again, its connections are cut, and runs with
steps, sleeps, signals and events go on: all finish, and nothing that was acknowledged is lost.

AURA_CHAOS_RUNS says how many runs at least (`make test-chaos`: 5,000).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

import aura
from aura import Aura, Config, step
from aura.errors import RunEnded, StoreUnavailable
from aura.store.events import PARTITIONS
from tests.chaos.server import FragileServer

T = TypeVar("T")

RUNS = int(os.environ.get("AURA_CHAOS_RUNS", "300"))
BLOWS = 6  # at least
BETWEEN = 1.0  # seconds between two blows
CLIENTS = 20
PATIENCE = 90.0  # seconds for one call, while the server is away again and again

executed: Counter[tuple[str, str]] = Counter()
handled: Counter[str] = Counter()


@step
async def add(run: str, what: str, number: int) -> int:
    executed[run, what] += 1
    return number + 1


async def job(run: str, number: int) -> int:
    first = await add(run, "first", number)
    given = await aura.receive("go", type=int)
    left, right = await asyncio.gather(add(run, "left", given), add(run, "right", first))
    await aura.emit("finished", run, key=run)
    await aura.sleep(0.01)
    return left + right


@pytest.fixture
def server() -> Iterator[FragileServer]:
    server = FragileServer()
    yield server
    server.close()


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[Aura]:
    app = Aura("chaos", config=Config(database=url, lease=2.0, poll=0.2, grace=1.0))
    app.workflow(version="1.0.0")(job)

    @app.subscribe("finished", group="audit", retries=10)
    async def audit(run: str) -> None:
        handled[run] += 1

    async with app:
        yield app


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Call again for as long as the database is away: what was acknowledged is found again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def one(app: Aura, number: int) -> None:
    run_id = f"run-{number}"
    run = await insist(lambda: app.start("job", run_id, number, id=run_id))

    async def send() -> None:
        try:
            await run.signal("go", 10 * number, id="once")
        except RunEnded:  # it had been acknowledged by the database, but not to us
            assert await run.status() == "completed"

    await insist(send)
    assert await insist(run.result) == 10 * number + 1 + number + 2
    await insist(send)  # the same signal again changes nothing


async def beat(server: FragileServer, done: asyncio.Event) -> int:
    """Strike again and again, in every way, until all is done."""
    blows = itertools.cycle((server.crash, server.cut_connections, server.kill_a_backend))
    for count in itertools.count():
        if done.is_set() and count >= BLOWS:
            return count
        await asyncio.sleep(BETWEEN)
        await asyncio.to_thread(next(blows))
    raise AssertionError("counting ends never")


async def keep_busy(apps: list[Aura], numbers: Iterator[int], enough: Callable[[], bool]) -> None:
    for number in numbers:
        await one(apps[number % len(apps)], number)
        if enough():
            return


@pytest.mark.timeout(1_800)
async def test_nothing_is_lost_while_the_server_dies_again_and_again(server: FragileServer) -> None:
    executed.clear()
    handled.clear()
    numbers = itertools.count()
    done = asyncio.Event()
    finished: list[int] = []
    async with worker(server.url) as first, worker(server.url) as second:
        storm = asyncio.create_task(beat(server, done))

        def enough() -> bool:
            finished.append(1)
            if len(finished) >= RUNS:
                done.set()
            return storm.done()

        await asyncio.gather(*(keep_busy([first, second], numbers, enough) for _ in range(CLIENTS)))
        assert await storm >= BLOWS
        assert len(finished) >= RUNS
        ids = [f"run-{number}" for number in range(len(finished))]
        for run_id in ids:
            await check(first, run_id)
        await all_handled(ids)
        events = await first.store.events.read(
            "finished", 0, tuple(range(PARTITIONS)), 2 * len(ids)
        )
        assert Counter(one.key for one in events.events) == Counter(ids)


async def all_handled(ids: list[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while set(handled) != set(ids):
            await asyncio.sleep(0.05)


async def check(app: Aura, run_id: str) -> None:
    """The journal is whole, has each step and the signal once, and no step ran without need."""
    record = await app.run(run_id).record()
    journal = await app.store.journal(run_id)
    assert record.state == "completed"
    assert [entry.seq for entry in journal] == list(range(1, len(journal) + 1))
    keys = Counter(entry.key for entry in journal)
    assert set(keys.values()) == {1}, keys
    assert sum(entry.kind == "step" for entry in journal) == 3
    assert sum(entry.kind == "signal" for entry in journal) == 1
    for what in ("first", "left", "right"):
        assert 1 <= executed[run_id, what] <= record.epoch
