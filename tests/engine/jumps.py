"""Time that a test moves on: the database's, which decides."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg

from aura.clock import SystemClock
from tests.engine.kit import World

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
        self.clock.ahead += seconds
        if self._postgres:
            connection = await asyncpg.connect(self.world.database)
            try:
                await connection.execute(_MOMENT.format(ahead=self.clock.ahead))
            finally:
                await connection.close()

    def now(self) -> float:
        """The database's time."""
        return self.clock.now()
