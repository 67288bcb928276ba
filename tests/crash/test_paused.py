"""A worker that is stopped for longer than its lease, and workers that race for one run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from aura import Aura, Run
from aura.codec import plain
from aura.store.base import PutDocument
from tests.crash.kit import Nursery
from tests.crash.program import CAPACITY, LEASE, gated, order


async def _until(true: Callable[[], bool], nursery: Nursery) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up, nursery.log()
        await asyncio.sleep(0.02)


async def _until_began(nursery: Nursery, run_id: str, times: int) -> None:
    await _until(
        lambda: sum(one.what == "began" and one.run == run_id for one in nursery.ledger()) >= times,
        nursery,
    )


async def _pause(pid: int, app: Aura) -> None:
    """Stop a process, but not in the middle of a transaction: on SQLite that keeps all others out
    until it goes on."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        while not all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
            await asyncio.sleep(0.002)
        write = asyncio.ensure_future(app.store.commit([PutDocument("test", "free", b"{}")]))
        done, _ = await asyncio.wait([write], timeout=1.0)
        if done:
            break
        os.kill(pid, signal.SIGCONT)
        await write


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_a_paused_worker_that_wakes_cannot_write(nursery: Nursery, tmp_path: Path) -> None:
    gate, later = tmp_path / "gate", tmp_path / "later"
    later.touch()
    async with nursery.client() as app:
        paused = await nursery.fork()
        run = await app.start(gated, str(gate), id="r")
        await _until_began(nursery, "r", 1)
        await _pause(paused, app)
        other = await nursery.fork()
        await _until_began(nursery, "r", 2)
        gate.touch()
        first, second = await run.result(timeout=60)
        assert first == str(other)
        before = await app.store.journal("r"), await run.record()

        os.kill(paused, signal.SIGCONT)
        await _until(
            lambda: any(one.what == "ended" and one.pid == paused for one in nursery.ledger()),
            nursery,
        )
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
        assert (await again.result(timeout=60))[0] == str(paused)


async def test_several_workers_race_and_each_run_has_one_owner(
    nursery: Nursery, tmp_path: Path
) -> None:
    """First for runs that wait until all have an owner, so that each worker is filled with them,
    then for a crowd."""
    gate, full = tmp_path / "gate", 3 * CAPACITY
    async with nursery.client() as app:
        for _ in range(3):
            await nursery.fork(lease=600.0)
        held = [await app.start(gated, str(gate), id=f"g{n}") for n in range(full)]
        await _until(lambda: len(_began(nursery)) == full, nursery)
        assert set(Counter(_began(nursery).values()).values()) == {CAPACITY}
        crowd = [await app.start(order, 0.0, id=f"o{n}") for n in range(60)]
        gate.touch()
        runs: list[Run[list[str]]] = [*held, *crowd]
        await asyncio.gather(*(run.result(timeout=60) for run in runs))
        records = [await run.record() for run in runs]
    assert {(one.state, one.epoch, one.recoveries) for one in records} == {("completed", 1, 0)}
    lines = [one for one in nursery.ledger() if one.what == "effect"]
    assert max(Counter((one.run, one.key) for one in lines).values()) == 1
    assert len({(one.run, one.pid) for one in lines}) == len(runs)


def _began(nursery: Nursery) -> dict[str, int]:
    """Which process began each gated run."""
    return {one.run: one.pid for one in nursery.ledger() if one.what == "began"}
