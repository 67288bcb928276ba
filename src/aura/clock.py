"""Time as a dependency: nothing else in Aura reads a clock or sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Times are seconds since the Unix epoch, as floats."""

    def now(self) -> float:
        """The wall clock, in epoch seconds."""
        ...

    def monotonic(self) -> float:
        """A clock that never goes back, in seconds from an arbitrary origin."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; negative numbers count as zero."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
