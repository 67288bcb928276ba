"""Workers that are killed with SIGKILL while a queue is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.kit import Nursery
from tests.crash.program import Narrow, gated

RUNS = 8
LEASE = 1.0  # seconds: longer than a busy machine holds a heartbeat up


async def test_limits_hold_while_workers_are_killed(nursery: Nursery, tmp_path: Path) -> None:
    """Three at once and five in all may begin. The worker that has a run is killed again and
    again: the others take its runs over, in their places, and no other run begins instead."""
    gates = [tmp_path / f"gate-{n}" for n in range(RUNS)]
    async with nursery.client() as app:
        for _ in range(2):
            await nursery.fork(lease=LEASE)
        runs = [
            await app.start(
                gated, str(gate), id=f"r{n}", queue=app.place("narrow", key=f"k{n % 2}")
            )
            for n, gate in enumerate(gates)
        ]
        await _until_began(nursery, Narrow.places)
        first = _began(nursery)
        for number in range(3):
            await _kill_whoever_began_last(nursery)
            assert len(_began(nursery)) == Narrow.places + number, "nobody has its place meanwhile"
            gates[int(first[number][1:])].touch()
            assert await app.run(first[number]).result(timeout=60)
            await _until_began(nursery, min(Narrow.places + number + 1, Narrow.starts))
        for gate in gates:
            gate.touch()
        began = _began(nursery)
        for name in began:
            assert await app.run(name).result(timeout=60)
        states = [await run.status() for run in runs]
    assert len(began) == Narrow.starts == states.count("completed")
    assert states.count("pending") == RUNS - Narrow.starts
    assert _most_at_once(nursery) == Narrow.places
    assert nursery.deaths >= 3


def _began(nursery: Nursery) -> list[str]:
    """The runs that have begun, in that order."""
    return list(dict.fromkeys(line.run for line in nursery.ledger() if line.what == "began"))


async def _until_began(nursery: Nursery, count: int) -> None:
    await _until(lambda: len(_began(nursery)) == count, nursery)


async def _kill_whoever_began_last(nursery: Nursery) -> None:
    """... and return when another worker has begun that run again."""

    def times() -> int:
        return sum(line.what == "began" and line.run == last.run for line in nursery.ledger())

    last = next(line for line in reversed(nursery.ledger()) if line.what == "began")
    before = times()
    await nursery.fork(lease=LEASE)
    nursery.kill(last.pid)
    await _until(lambda: times() > before, nursery)


def _most_at_once(nursery: Nursery) -> int:
    """A run is under way from its first beginning to its end, whoever has it."""
    active: set[str] = set()
    most = 0
    for line in nursery.ledger():
        if line.what == "began":
            active.add(line.run)
        elif line.what == "ended":
            active.discard(line.run)
        most = max(most, len(active))
    return most


async def _until(true: Callable[[], bool], nursery: Nursery) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up, nursery.log()
        await asyncio.sleep(0.02)
