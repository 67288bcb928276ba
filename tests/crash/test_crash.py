"""Workers are killed again and again while they work; nothing that was acknowledged is lost.

AURA_CRASH_KILLS says how many workers die over both stores (200 if it does not).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict

import pytest

from aura import Aura, Workflow
from tests.crash.kit import Found, Line, Nursery
from tests.crash.program import lazily, order

KILLS = int(os.environ.get("AURA_CRASH_KILLS", "200")) // 2  # on each store
WORKERS = 4
OPEN_RUNS = 24
POINTS = ("before-commit", "after-commit", "before-claim", "after-claim")
Order = Workflow[[float], list[str]]


class Controller:
    """Keeps workers and runs coming, and kills."""

    def __init__(self, nursery: Nursery, app: Aura, workflow: Order = order) -> None:
        self.dice = random.Random(1)
        self.nursery = nursery
        self.app = app
        self.workflow = workflow
        self.started: list[str] = []
        self.results: dict[str, list[str]] = {}
        self._open: set[asyncio.Task[None]] = set()

    async def keep_workers(self, count: int, faults: bool) -> None:
        while len(self.nursery.alive) < count:
            if faults and self.dice.random() < 0.5:
                await self.nursery.fork(self.dice.choice(POINTS), self.dice.randint(1, 60))
            else:
                await self.nursery.fork()

    async def keep_runs(self) -> None:
        for _ in range(OPEN_RUNS - len(self._open)):  # they may end as fast as they are started
            run_id = f"order-{len(self.started)}"
            run = await self.app.start(self.workflow, 0.02, id=run_id)
            self.started.append(run.id)  # acknowledged
            task = asyncio.create_task(self._await(run_id))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _await(self, run_id: str) -> None:
        self.results[run_id] = await self.app.run(run_id, self.workflow).result()

    async def murder(self, deaths: int) -> None:
        """Go on until so many workers have died."""
        give_up = time.monotonic() + 120 + deaths
        while self.nursery.deaths < deaths:
            assert time.monotonic() < give_up, f"{self.nursery.deaths} deaths: {self.nursery.log()}"
            await self.keep_workers(WORKERS, faults=True)
            await self.keep_runs()
            await asyncio.sleep(0.25 * self.dice.random())
            alive = sorted(self.nursery.alive)
            for pid in self.dice.sample(alive, min(len(alive), self.dice.choice((0, 1, 1, 2, 3)))):
                self.nursery.kill(pid)
            await asyncio.sleep(0.01)

    async def recoveries(self) -> int:
        """How often a run was taken over so far."""
        records = [await self.app.store.run(run_id) for run_id in self.started]
        return sum(record.recoveries for record in records if record is not None)

    async def finish(self) -> None:
        """Let healthy workers end what is left."""
        for pid in sorted(self.nursery.alive):
            self.nursery.kill(pid)
        while self.nursery.alive:
            await asyncio.sleep(0.01)
        await self.keep_workers(2, faults=False)
        open_runs = asyncio.gather(*self._open)
        await asyncio.wait_for(open_runs, 120)

    async def found(self) -> list[Found]:
        lines: dict[str, list[Line]] = defaultdict(list)
        for line in self.nursery.ledger():
            lines[line.run].append(line)
        everything = []
        for run_id in self.started:
            record = await self.app.store.run(run_id)
            assert record is not None, f"acknowledged run {run_id} is lost"
            journal = await self.app.store.journal(run_id)
            everything.append(Found(record, journal, lines[run_id]))
        return everything


@pytest.mark.parametrize(("workflow", "kills"), [(order, KILLS), (lazily, KILLS // 5)], ids=str)
async def test_nothing_acknowledged_is_lost_and_nothing_has_two_owners(
    nursery: Nursery, workflow: Order, kills: int
) -> None:
    async with nursery.client() as app:
        controller = Controller(nursery, app, workflow)
        await controller.murder(kills)
        while await controller.recoveries() <= kills / 4:  # else most had nothing when they died
            await controller.murder(nursery.deaths + 5)
        await controller.finish()
        found = await controller.found()
    assert nursery.deaths >= kills
    assert set(controller.results) == set(controller.started)
    complaints = [one for run in found for one in run.complaints()]
    assert not complaints, "\n".join(complaints[:20]) + nursery.log()
    assert sum(run.record.recoveries for run in found) > kills / 4, "they did not die at work"
