"""Workers are killed between a transaction's statements and its commit, right after it, and at any
time: what it did is there once for each entry of the journal, and for nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from aura import Aura
from aura.codec import plain
from tests.crash.kit import Nursery
from tests.crash.program import booked

KILLS = 24
RUNS = 30
COUNT = 6
POINTS = ("before-transaction", "after-transaction", "before-commit", "after-commit")


async def _keep_workers(nursery: Nursery, draw: random.Random) -> None:
    while len(nursery.alive) < 3:
        await nursery.fork(draw.choice(POINTS), draw.randint(1, 12))


async def _murder(nursery: Nursery) -> None:
    """Go on until so many workers have died; most kill themselves at a fault point."""
    draw = random.Random(8)
    give_up = time.monotonic() + 120
    while nursery.deaths < KILLS:
        assert time.monotonic() < give_up, f"{nursery.deaths} deaths: {nursery.log()}"
        await _keep_workers(nursery, draw)
        await asyncio.sleep(0.1)
        if draw.random() < 0.2 and nursery.alive:
            nursery.kill(draw.choice(sorted(nursery.alive)))
    for pid in sorted(nursery.alive):
        nursery.kill(pid)
    while nursery.alive:
        await asyncio.sleep(0.01)


async def _bookings(app: Aura) -> list[str]:
    async with app.transaction() as tx:
        return [row["key"] for row in await tx.fetch("SELECT key FROM bookings")]


async def test_transactional_effects_happen_exactly_once(nursery: Nursery) -> None:
    async with nursery.client() as app:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE bookings (key TEXT NOT NULL, amount BIGINT NOT NULL)")
        runs = [await app.start(booked, COUNT, id=f"b-{number}") for number in range(RUNS)]
        killing = asyncio.create_task(_murder(nursery))
        while not killing.done():  # so that there is always work to be interrupted
            states = Counter([await run.status() for run in runs])
            if states["completed"] > len(runs) - RUNS // 2:
                runs.append(await app.start(booked, COUNT, id=f"b-{len(runs)}"))
            await asyncio.sleep(0.02)
        await killing
        await nursery.fork()
        results = [await run.result(timeout=120) for run in runs]
        assert set(results) == {sum(range(COUNT)) + 300}
        expected = []
        for run in runs:
            journal = await app.store.journal(run.id)
            assert [one.seq for one in journal] == list(range(1, len(journal) + 1)), run.id
            done = [one for one in journal if "/book#" in one.key and one.kind == "step"]
            assert sorted(plain(one.output) for one in done) == sorted([*range(COUNT), 100, 200])
            expected += [f"{run.id}:{one.key}" for one in done]
        assert Counter(await _bookings(app)) == Counter(expected)
    assert nursery.deaths >= KILLS
    executed = Counter((line.run, line.key) for line in nursery.ledger() if line.what == "book")
    assert max(executed.values()) > 1  # some were interrupted, and begun anew
