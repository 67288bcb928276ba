"""How long journal entries may wait to be written. Pure decisions, and what they are made from.

An entry on which nothing outside depends yet may wait: when the process dies, its step is run
again, and that is what is at risk. It is worth a write when the expected loss is as great as the
write's cost: for failures that come every M seconds and writes that cost C seconds, after
sqrt(2 * C * M) seconds of work (J. W. Young, "A first order approximation to the optimum checkpoint
interval", 1974). What waits is written earlier as soon as anything outside is about to depend on
it: an effect, a result, a signal, an event. That is for those who submit it to say, and not decided
here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

UNKNOWN_MTBF = 3_600.0  # seconds between failures, of which nothing is known yet
_LEAST_COST = 0.000_1  # seconds; a clock that stands still must not make writes free
_BURST = 4.0  # entries that come so many times faster than they could be written one by one ...
_HARDER = 4.0  # ... wait so many times longer
_FADE = 0.5  # of the gap between entries, with each one
_LONGEST_GAP = 0.1  # seconds; a longer one says no more


@dataclass(frozen=True, slots=True)
class Bounds:
    """What waits is written after `longest` seconds, with `entries` of them, or with so many bytes,
    whatever it is worth: so that others see how far a run is, and memory is bounded."""

    longest: float = 2.0
    entries: int = 1_000
    size: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits: since when (monotonic seconds), how many seconds of work it took, how many
    entries and bytes, and the seconds between entries of late."""

    since: float
    work: float
    entries: int
    size: int
    gap: float


def interval(write_cost: float, mtbf: float) -> float:
    """Young's interval: how many seconds of work are worth a write."""
    return math.sqrt(2.0 * max(write_cost, _LEAST_COST) * mtbf)


def is_burst(gap: float, write_cost: float) -> bool:
    """Whether entries come much faster than they could be written one by one."""
    return gap * _BURST < max(write_cost, _LEAST_COST)


def due(waiting: Waiting, write_cost: float, mtbf: float, bounds: Bounds) -> float:
    """When to write what waits, in monotonic seconds; what is in the past is at once.

    `write_cost` is how long a commit takes of late.
    """
    worth = interval(write_cost, mtbf)
    full = waiting.entries >= bounds.entries or waiting.size >= bounds.size
    if full or waiting.work >= worth:
        return waiting.since
    patience = worth * _HARDER if is_burst(waiting.gap, write_cost) else worth
    return waiting.since + min(patience, bounds.longest)


class Life(Protocol):
    """A worker, as the store knows it; an orderly end leaves no `info`."""

    @property
    def lease_until(self) -> float: ...

    @property
    def started_at(self) -> float: ...

    @property
    def info(self) -> bytes: ...


def estimated_mtbf(lives: Iterable[Life], now: float) -> float:
    """Seconds of a process's life per failure, of those that the store remembers (a day's), and as
    if there had been one more failure after `UNKNOWN_MTBF` seconds."""
    lived, failures = UNKNOWN_MTBF, 1
    for one in lives:
        lived += max(0.0, min(now, one.lease_until) - one.started_at)
        failures += one.lease_until < now and one.info != b"{}"
    return lived / failures


class Pace:
    """Keeps account of what waits, for `due`."""

    def __init__(self, mtbf: float | None, bounds: Bounds = Bounds()) -> None:
        self.mtbf = UNKNOWN_MTBF if mtbf is None else mtbf
        self._bounds = bounds
        self._since = self._work = 0.0
        self._last = -math.inf
        self._entries = self._size = 0
        self._gap = _LONGEST_GAP

    def add(self, now: float, work: float, size: int) -> None:
        """An entry that took so many seconds of work and has so many bytes waits from now on."""
        self._gap += (1.0 - _FADE) * (min(now - self._last, _LONGEST_GAP) - self._gap)
        self._last = now
        if not self._entries:
            self._since = now
        self._entries += 1
        self._work += work
        self._size += size

    def due(self, write_cost: float) -> float:
        """When to write what waits, in monotonic seconds."""
        waiting = Waiting(self._since, self._work, self._entries, self._size, self._gap)
        return due(waiting, write_cost, self.mtbf, self._bounds)

    def written(self) -> int:
        """Nothing waits any more; how many entries did."""
        entries, self._entries = self._entries, 0
        self._work, self._size = 0.0, 0
        return entries
