"""Time that a test moves on: the database's, which decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import asyncpg

from aura.clock import SystemClock
from aura.engine.scheduler import WORKFLOW
from aura.store.base import RunFilter
from tests.engine.kit import World, until

QUIET = 1.0
"""Seconds after which a journal that stays as it is belongs to a run that rests."""

_MOMENT = """
CREATE OR REPLACE FUNCTION aura.moment() RETURNS double precision LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::double precision + {ahead} $$
"""


class ClockAhead(SystemClock):
    """The machine's clock, but so many seconds ahead."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def now(self) -> float:
        return super().now() + self.ahead

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Ends early when time is moved on, also before it is awaited."""
        return self._sleep_till(self.now() + seconds)

    async def _sleep_till(self, at: float) -> None:
        while (left := at - self.now()) > 0:
            await asyncio.sleep(min(left, 0.02))


class Jumps:
    """Moves the time of a world's database on. SQLite has none but its processes'."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = ClockAhead()
        self._postgres = world.database.startswith("postgres")
        if not self._postgres:
            world.clock = self.clock

    async def on(self, seconds: float) -> None:
        """Once every schedule waits: one that has looked at the clock and not yet recorded until
        when it waits would wait as much longer as time was moved on."""
        last, since = {"": 0}, time.monotonic()
        while (found := await self._on_their_way()) and time.monotonic() - since < QUIET:
            if found != last:
                last, since = found, time.monotonic()
            await asyncio.sleep(0.005)
        self.clock.ahead += seconds
        if self._postgres:
            connection = await asyncpg.connect(self.world.database)
            try:
                await connection.execute(_MOMENT.format(ahead=self.clock.ahead))
            finally:
                await connection.close()
            await until(self._is_known)

    def _is_known(self) -> bool:
        """Whether all workers have heard of it; they do with every claim."""
        clocks = [app.time for app in self.world.apps if app._worker is not None]
        return all(abs(clock.now() - self.now()) < 1 for clock in clocks)

    async def _on_their_way(self) -> dict[str, int]:
        """Schedules that these apps execute and whose journals do not end with a wait, and how
        long the journals are. A paused one waits without an entry: its journal stays as it is."""
        workers = {app._worker.id: app for app in self.world.apps if app._worker is not None}
        found: dict[str, int] = {}
        for app in list(workers.values())[:1]:
            for run in await app.store.runs(RunFilter(workflow=WORKFLOW, limit=500)):
                if run.state == "pending" or (run.state == "running" and run.owner in workers):
                    journal = await app.store.journal(run.id)
                    if not journal or journal[-1].kind != "wait":
                        found[run.id] = len(journal)
        return found

    def now(self) -> float:
        """The database's time."""
        return self.clock.now()
