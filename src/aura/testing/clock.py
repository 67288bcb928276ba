"""A clock that stands still until it is moved."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

from aura.clock import SystemClock
from aura.errors import SandboxError

START = datetime(2030, 1, 1, tzinfo=UTC)


class ManualClock:
    """Time for a test. `now` moves by `move` alone; `monotonic` is the machine's.

    Who sleeps wakes when the clock was moved that far, or when so much real time is over: what the
    engine does for itself (looking for work, trying again) goes on while time stands still, and
    what must not happen before its time looks at the clock again.
    """

    def __init__(self, start: datetime = START) -> None:
        if start.tzinfo is None:
            raise SandboxError(f"the clock starts at {start}", hint="Give it a time zone, say UTC")
        self._now = start.timestamp()
        self._system = SystemClock()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Epoch seconds."""
        return self._now

    @property
    def time(self) -> datetime:
        """The same as a datetime (UTC)."""
        return datetime.fromtimestamp(self._now, UTC)

    def monotonic(self) -> float:
        return self._system.monotonic()

    def move(self, by: float | timedelta) -> None:
        """Set the clock forward by seconds or a timedelta. Raises SandboxError for going back."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if not seconds >= 0:
            raise SandboxError(f"the clock cannot be moved by {by}", hint="Give 0 or more")
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _wake(heapq.heappop(self._sleepers)[2])

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        if seconds > 0:
            heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), woken))
        alarm = loop.call_later(max(0.0, seconds), _wake, woken)
        try:
            await woken
        finally:
            alarm.cancel()
            self._forget_the_woken()

    def _forget_the_woken(self) -> None:
        if len(self._sleepers) > 1_000:
            self._sleepers = [one for one in self._sleepers if not one[2].done()]
            heapq.heapify(self._sleepers)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
