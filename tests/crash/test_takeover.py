"""A worker dies with a hundred runs half-way. Another one, which polls once a minute, has them all
soon after the dead one's lease is over: it knows when that will be."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from tests.crash.kit import Nursery
from tests.crash.program import halved

RUNS, LEASE, POLL, PROMPT = 100, 2.0, 60.0, 20.0  # seconds; PROMPT is for slow machines


async def test_runs_that_were_killed_half_way_end_soon_after_the_lease(
    nursery: Nursery, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with nursery.client() as app:
        victim = await nursery.fork(lease=LEASE, capacity=RUNS)
        runs = [await app.start(halved, str(gate), id=f"h{n}") for n in range(RUNS)]
        give_up = time.monotonic() + 60
        while sum(line.what == "began" for line in nursery.ledger()) < RUNS:
            assert time.monotonic() < give_up, nursery.log()
            await asyncio.sleep(0.02)
        [dead] = [one.id for one in await app.store.workers()]
        await nursery.fork(lease=LEASE, poll=POLL, capacity=RUNS)
        while len(await app.store.workers()) < 2:
            assert time.monotonic() < give_up, nursery.log()
            await asyncio.sleep(0.02)
        nursery.kill(victim)
        gate.touch()
        results = await asyncio.gather(*(run.result(timeout=60) for run in runs))
        records = [await run.record() for run in runs]
        [over] = [one.lease_until for one in await app.store.workers() if one.id == dead]
    assert {(one.epoch, one.recoveries) for one in records} == {(2, 1)}
    assert max(one.finished_at or 0.0 for one in records) - over < PROMPT
    lines = Counter(line.what for line in nursery.ledger())
    assert lines["effect"] == 2 * RUNS, "no effect was made twice"
    assert len({one for two in results for one in two}) == 2 * RUNS
