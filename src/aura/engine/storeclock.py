"""The database's time, as a worker knows it: deadlines are the database's business, not the
machine's, so that workers whose clocks differ agree on them.

Each answer of the database that bears a time bounds how far its clock is from ours: it was read
between our question and its answer. While what we believe lies within those bounds, it stays;
otherwise it moves to the middle of them.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from aura.clock import Clock
from aura.engine.lanes import scope
from aura.store.base import Store

_CLOSE = 1e-4  # seconds by which a sleep may end early
_LONG = 5.0  # seconds of sleep after which it matters that the clock was set meanwhile
_STEP = 0.5  # seconds by which it is set then


class StoreClock:
    """A clock whose `now` is the database's; the rest is the machine's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._here = clock.now
        self.offset = 0.0
        """Seconds by which the database is ahead of this machine."""
        self._sleepers: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        return self._here() + self.offset

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """A long one ends early when the database's clock turns out to have been set."""
        if seconds <= _LONG:
            await self._clock.sleep(seconds)
            return
        make = asyncio.get_running_loop().create_task
        task = contextvars.Context().run(make, self._clock.sleep(seconds))  # no branch of a run
        self._sleepers.add(task)
        try:
            await asyncio.wait([task])
        finally:
            self._sleepers.discard(task)
            task.cancel()

    def here(self) -> float:
        """The machine's own time, for `learn`."""
        return self._clock.now()

    async def ask(self, store: Store) -> None:
        """Set the clock. Raises StoreUnavailable."""
        asked = self.here()
        self.learn(asked, await store.moment())

    def learn(self, asked: float, moment: float) -> None:
        """The database said `moment` to a question of ours that was sent at `asked`."""
        before = self.offset
        self.offset = believed(before, moment - self.here(), moment - asked)
        if abs(self.offset - before) > _STEP:
            for task in tuple(self._sleepers):
                task.cancel()


async def sleep_till(clock: Clock, at: float) -> None:
    """Return at that time (epoch seconds), also when the clock is set meanwhile."""
    while (left := at - clock.now()) > _CLOSE:
        await clock.sleep(left)


def end_wait(clock: Clock, at: float, future: asyncio.Future[Any]) -> asyncio.Task[None]:
    """Give a future None at that time (epoch seconds), unless it has something by then. A task of
    the engine, not a branch of the run that waits."""

    async def ring() -> None:
        await sleep_till(clock, at)
        if not future.done():
            future.set_result(None)

    context = contextvars.copy_context()
    context.run(scope.set, None)
    return context.run(asyncio.get_running_loop().create_task, ring())


def believed(offset: float, least: float, most: float) -> float:
    """What to believe of an offset that lies between two bounds."""
    return offset if least <= offset <= most else (least + most) / 2
