"""Clients that send real requests at a steady rate, and what they see.

An open loop: requests are due at fixed times, whether or not earlier ones were answered, so a
slow system does not slow down what is asked of it. Only a machine that cannot serve the rate at
all does: with `BACKLOG` seconds' worth of requests unanswered, clients wait for answers first.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from aura.cli.demo.answers import flaw
from aura.cli.demo.model import GOOD, LEGACY, Exchange, Scene, Verdict
from aura.clock import Clock

UNITS = 80
PATIENCE = 15.0
"""Seconds after which a client gives up on an answer; it then counts as lost."""

BACKLOG = 2.0
"""Seconds' worth of requests that may be unanswered. More would only measure how long the queue
before the legacy service is, until its time limit answers instead of it."""

LIMIT = 5
SEED = 20_240_229


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back for one request."""

    status: int
    arm: str
    run: str
    body: bytes


class Traffic:
    """Requests of `UNITS` users to one URL. Everything seen goes to `scene.exchanges`.

    `answers` keeps the last answer of each arm to each query, to compare them.
    """

    def __init__(self, url: str, queries: Sequence[str], clock: Clock, scene: Scene) -> None:
        self.answers: dict[tuple[int, str], bytes] = {}
        self._url = url
        self._queries = queries
        self._clock = clock
        self._scene = scene
        self._chance = random.Random(SEED)  # noqa: S311 - a reproducible choice, not a secret
        self._arm_of: dict[str, str] = {}
        self._sent = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(PATIENCE)
        )

    async def run(self) -> None:
        """Send at the scene's rate until cancelled."""
        due = self._clock.monotonic()
        while True:
            await self._clock.sleep(due - self._clock.monotonic())
            if len(self._tasks) >= BACKLOG * self._scene.rate:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                due = self._clock.monotonic()
            self._send(f"user-{self._chance.randint(1, UNITS):03d}")
            due += 1 / self._scene.rate

    def rush(self, arm: str, count: int) -> None:
        """A rush: users that are on an arm ask all at once."""
        units = [unit for unit, known in self._arm_of.items() if known == arm]
        for unit in self._chance.sample(units, min(count, len(units))):
            self._send(unit)

    async def drain(self) -> None:
        """Wait for the answers that are still due."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Answers of the legacy service and of 2.0.0 to the same query."""
        return [
            (body, self.answers[query, GOOD])
            for (query, arm), body in sorted(self.answers.items())
            if arm == LEGACY and (query, GOOD) in self.answers
        ]

    def _send(self, unit: str) -> None:
        task = asyncio.create_task(self._ask(unit, self._sent % len(self._queries)))
        self._sent += 1
        self._scene.in_flight += 1
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._scene.in_flight -= 1

    async def _ask(self, unit: str, query: int) -> None:
        at, started = self._clock.now(), self._clock.monotonic()
        seen, why = await self._post(unit, query)
        seconds = self._clock.monotonic() - started
        verdict, wrong = verdict_of(seen, why)
        self._scene.exchanges.append(
            Exchange(
                at=at,
                unit=unit,
                query=query,
                arm=seen.arm if seen else "",
                run=seen.run if seen else "",
                status=seen.status if seen else 0,
                seconds=seconds,
                verdict=verdict,
                why=wrong,
            )
        )
        if seen is not None and verdict == "ok":
            self._arm_of[unit] = seen.arm
            self.answers[query, seen.arm] = seen.body

    async def _post(self, unit: str, query: int) -> tuple[Seen | None, str]:
        body = {"query": self._queries[query], "limit": LIMIT, "user": unit}
        headers = {"content-type": "application/json", "x-user-id": unit}
        try:
            async with self._client.post(
                self._url, data=json.dumps(body), headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return None, f"{type(error).__name__}: {error}"
        arm, run = answer.headers.get("x-aura-arm", ""), answer.headers.get("x-aura-run", "")
        return Seen(answer.status, arm, run, content), ""


def verdict_of(seen: Seen | None, why: str) -> tuple[Verdict, str]:
    """The verdict on what came back, and why. `why` says why nothing did."""
    if seen is None:
        return "lost", why
    if not 200 <= seen.status < 300:
        return "status", f"{seen.status}: {seen.body[:200].decode('utf-8', 'replace')}"
    wrong = flaw(seen.body)
    return ("invalid", wrong) if wrong else ("ok", "")
