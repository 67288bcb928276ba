"""When must a second attempt be started, so that the answer still comes in time?

Hedged requests after Dean and Barroso, "The Tail at Scale" (CACM 56(2), 2013), with one
difference: the trigger is not the usual time of the first attempt but the time that the second
one needs. What counts is that the user is answered before the limit, not that the tail is short.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

EARLIEST = 0.2
"""Share of the limit that the first attempt always has to itself, however slow the second is."""

SLACK = 0.05
"""Share of the limit kept on top of the second attempt's usual time, for the way there and back."""

UNKNOWN = 0.5
"""Share of the limit kept for a second attempt whose usual time is not known yet."""

PATIENCE = 2.0
"""How many limits an attempt that lost by lateness may go on, so that its true time is learned."""


def start_after(limit: float, usual: float | None) -> float:
    """Seconds after which the second attempt must start to be finished before `limit`.

    `usual` is the time (say, the 95th percentile) in seconds that the second attempt takes, None
    when nothing is known about it. The first attempt has at least `EARLIEST` of the limit.

    >>> start_after(1.0, 0.25)
    0.7
    """
    reserve = limit * UNKNOWN if usual is None else usual + limit * SLACK
    return max(limit - reserve, limit * EARLIEST)


def patience(limit: float, elapsed: float) -> float:
    """Seconds that an attempt which is no longer needed may still take before it is cancelled."""
    return max(0.0, limit * PATIENCE - elapsed)


class RecentQuantile:
    """The exact quantile of the last `size` values; forgets by count, needs no clock.

    >>> times = RecentQuantile(0.5, size=3)
    >>> for seconds in (1.0, 2.0, 3.0, 9.0):
    ...     times.add(seconds)
    >>> times.value
    3.0
    """

    __slots__ = ("_order", "_sorted", "q", "size")

    def __init__(self, q: float = 0.95, size: int = 256) -> None:
        if not 0 < q < 1:
            raise ValueError(f"q must lie between 0 and 1, not {q}")
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self.q = q
        self.size = size
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take a value in; the oldest one leaves when there are more than `size`."""
        if len(self._order) == self.size:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]
        self._order.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float | None:
        """The quantile (nearest rank), None before the first value."""
        if not self._sorted:
            return None
        return self._sorted[min(int(self.q * len(self._sorted)), len(self._sorted) - 1)]

    def __len__(self) -> int:
        return len(self._order)
