"""A worker that is stopped for longer than its lease, and workers that race for one run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

from aura.codec import plain
from tests.crash.kit import Nursery
from tests.crash.program import LEASE, gated, order


async def _until_began(nursery: Nursery, run_id: str, times: int) -> None:
    give_up = time.monotonic() + 10
    while sum(one.what == "began" and one.run == run_id for one in nursery.ledger()) < times:
        assert time.monotonic() < give_up, nursery.log()
        await asyncio.sleep(0.02)


async def test_a_paused_worker_that_wakes_cannot_write(nursery: Nursery, tmp_path: Path) -> None:
    gate, later = tmp_path / "gate", tmp_path / "later"
    later.touch()
    async with nursery.client() as app:
        paused = await nursery.fork()
        run = await app.start(gated, str(gate), id="r")
        await _until_began(nursery, "r", 1)
        os.kill(paused, signal.SIGSTOP)
        other = await nursery.fork()
        await _until_began(nursery, "r", 2)
        gate.touch()
        first, second = await run.result(timeout=10)
        assert first == str(other)
        before = await app.store.journal("r"), await run.record()

        os.kill(paused, signal.SIGCONT)
        give_up = time.monotonic() + 10
        while not any(one.what == "ended" and one.pid == paused for one in nursery.ledger()):
            assert time.monotonic() < give_up, nursery.log()
            await asyncio.sleep(0.02)
        await asyncio.sleep(LEASE)
        assert (await app.store.journal("r"), await run.record()) == before
        journal, record = before
        assert [entry.seq for entry in journal] == [1, 2]
        assert [plain(entry.output) for entry in journal] == [first, second]
        assert (record.state, record.epoch, record.recoveries) == ("completed", 2, 1)
        lines = [(one.what, one.epoch, one.pid) for one in nursery.ledger()]
        assert sorted(lines) == sorted([
            ("began", 1, paused), ("began", 2, other), ("ended", 2, other),
            ("effect", 2, other), ("ended", 1, paused),
        ])  # fmt: skip

        nursery.kill(other)  # the one that was paused is as good as before
        again = await app.start(gated, str(later), id="again")
        assert (await again.result(timeout=10))[0] == str(paused)


async def test_several_workers_race_and_each_run_has_one_owner(nursery: Nursery) -> None:
    async with nursery.client() as app:
        for _ in range(3):
            await nursery.fork()
        runs = await asyncio.gather(*(app.start(order, 0.0, id=f"o{n}") for n in range(60)))
        await asyncio.gather(*(run.result(timeout=20) for run in runs))
        records = [await run.record() for run in runs]
    assert {(one.state, one.epoch, one.recoveries) for one in records} == {("completed", 1, 0)}
    lines = [one for one in nursery.ledger() if one.what == "effect"]
    assert max(Counter((one.run, one.key) for one in lines).values()) == 1
    assert len({(one.run, one.pid) for one in lines}) == 60
    assert len({one.pid for one in lines}) == 3, "one of the workers did nothing"
