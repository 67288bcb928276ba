"""Signals are sent while the workers that should receive them are killed: each acknowledged one is
received once, and those of one priority in the order in which they were sent."""

from __future__ import annotations

import asyncio
import random
import time

from aura import Run
from aura.codec import plain
from aura.errors import StoreUnavailable
from aura.store.base import Priority
from tests.crash.kit import Nursery
from tests.crash.program import listening

KILLS, WORKERS, RUNS = 12, 3, 8
POINTS = ("before-commit", "after-commit", "before-claim", "after-claim")
END = -1


class Sender:
    """Sends one run numbers from 0, each one acknowledged before the next; every fifth is critical,
    and every third is sent twice."""

    def __init__(self, run: Run[list[int]]) -> None:
        self.run = run
        self.sent = 0

    async def send(self) -> None:
        number = self.sent
        priority: Priority = "normal" if number % 5 else "critical"
        for _ in range(1 if number % 3 else 2):
            await self._acknowledged(number, priority)
        self.sent += 1

    async def end(self) -> None:
        await self._acknowledged(END, "low")

    async def _acknowledged(self, number: int, priority: Priority) -> None:
        """With the same id, so that it may be sent again when nobody knows what became of it."""
        while True:
            try:
                await self.run.signal("go", number, priority=priority, id=f"{number}")
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def murder(nursery: Nursery, senders: list[Sender], over: asyncio.Event) -> None:
    """Workers die, by a signal or at a fault point, until enough have, and some at work."""
    dice = random.Random(2)
    give_up = time.monotonic() + 120
    while nursery.deaths < KILLS or not await recoveries(senders):
        assert time.monotonic() < give_up, f"{nursery.deaths} deaths: {nursery.log()}"
        while len(nursery.alive) < WORKERS:
            if dice.random() < 0.5:
                await nursery.fork(dice.choice(POINTS), dice.randint(1, 40))
            else:
                await nursery.fork()
        await asyncio.sleep(0.3 * dice.random())
        for pid in dice.sample(sorted(nursery.alive), min(len(nursery.alive), 1)):
            nursery.kill(pid)
        await asyncio.sleep(0.05)
    over.set()


async def recoveries(senders: list[Sender]) -> int:
    return sum([(await sender.run.record()).recoveries for sender in senders])


async def keep_sending(sender: Sender, over: asyncio.Event) -> None:
    while not over.is_set():
        await sender.send()
        await asyncio.sleep(0.01)
    await sender.end()


async def test_each_signal_is_received_once_whoever_dies(nursery: Nursery) -> None:
    over = asyncio.Event()
    async with nursery.client() as app:
        senders = [Sender(await app.start(listening, id=f"l{n}")) for n in range(RUNS)]
        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(keep_sending(sender, over))
            await murder(nursery, senders, over)
        while not nursery.alive:
            await nursery.fork()
        await nursery.fork()  # a healthy one
        results = [await one.run.result(timeout=120) for one in senders]
        journals = [await app.store.journal(one.run.id) for one in senders]
    for sender, got, journal in zip(senders, results, journals, strict=True):
        assert sorted(got) == list(range(sender.sent)), "lost or twice"
        for critical in (True, False):
            mine = [number for number in got if (number % 5 == 0) is critical]
            assert mine == sorted(mine), "overtaken"
        taken = [plain(entry.input)["seq"] for entry in journal if entry.kind == "signal"]
        assert len(taken) == len(set(taken)) == sender.sent + 1
    noted = {(line.run, line.key) for line in nursery.ledger() if line.what == "note"}
    assert len(noted) == sum(sender.sent for sender in senders)
