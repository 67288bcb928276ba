"""For how long a worker may begin effects in the name of its runs, by its own clock.

The lease is the database's. What a process knows for certain is when it asked for it, on its own
clock, the last time that it was granted: for so many seconds from then on nobody takes its runs.
After that (it was stopped, or the database was slow) no effect begins until the lease is
extended and the worker has looked which runs are still its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from aura.clock import Clock


@dataclass(slots=True)
class Turnover:
    """How often leases changed hands since the start: runs that were taken over from workers whose
    lease was over, leases of this worker that could not be held, and runs lost with them."""

    taken_over: int = 0
    leases_lost: int = 0
    runs_lost: int = 0


class Tenure:
    """`lease` in seconds; `hurry` asks for an extension at once."""

    def __init__(self, clock: Clock, lease: float, hurry: Callable[[], None]) -> None:
        self._clock = clock
        self._lease = lease
        self._hurry = hurry
        self._until = -math.inf
        self._news: list[asyncio.Future[None]] = []

    @property
    def over(self) -> bool:
        """Whether the runs may be others' already."""
        return self._clock.monotonic() >= self._until

    def extend(self, asked: float) -> None:
        """It was extended, as asked for at that moment (monotonic seconds)."""
        self._until = asked + self._lease
        self._tell()

    def end(self) -> None:
        """The lease was given up."""
        self._until = -math.inf
        self._tell()

    async def hold(self) -> None:
        """Return when there is news; the caller looks again."""
        self._hurry()
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news.append(news)
        await news

    def _tell(self) -> None:
        news, self._news = self._news, []
        for one in news:
            if not one.done():
                one.set_result(None)
