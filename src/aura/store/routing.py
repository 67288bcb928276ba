"""Which of the waiting operations are written next, and how many together. Pure.

Signals wait in classes, everything else in one of its own ("work"), which keeps its order. While
all that waits fits into one batch, nothing is chosen. Otherwise the classes share the batch by
weight: start-time fair queueing (Goyal, Vin and Cheng, 1996), so none starves. Inside a class the
earliest deadline goes first; what has none gets one a second after it came, so that a stream of
pressing signals does not hold it up for ever.

A batch is made no larger than can be committed before the earliest deadline, as far as commits of
late tell. Critical signals are not here: each goes at once. What runs write that handle one is
promoted to the head of the next batch, which holds SMALLEST others all the same.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from aura.store.base import Priority

T = TypeVar("T")

SHARES: dict[str, int] = {"work": 8, "high": 4, "normal": 2, "low": 1}
PATIENCE = 1.0  # seconds after which a signal without a deadline is due
SMALLEST = 8  # a batch that is cut for a deadline still holds so many
_FADE = 0.95  # weight of the past with each new commit


class CommitTimes:
    """How long a commit of so many operations takes: a line through those of late, by least
    squares with fading weights."""

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, size: int, seconds: float) -> None:
        self._weight = _FADE * self._weight + 1
        self._n = _FADE * self._n + size
        self._t = _FADE * self._t + seconds
        self._nn = _FADE * self._nn + size * size
        self._nt = _FADE * self._nt + size * seconds

    def _line(self) -> tuple[float, float]:
        """Seconds for none, and for each."""
        if not self._weight:
            return 0.0, 0.0
        mean = self._t / self._weight
        spread = self._nn * self._weight - self._n * self._n
        if spread <= 1e-9 * self._nn * self._weight:
            return mean, 0.0
        each = max(0.0, (self._nt * self._weight - self._n * self._t) / spread)
        return max(0.0, mean - each * self._n / self._weight), each

    def estimate(self, size: int) -> float:
        """Seconds that a commit of so many operations takes."""
        fixed, each = self._line()
        return fixed + each * size

    def largest(self, seconds: float, limit: int) -> int:
        """How many operations can be committed in that time; at least SMALLEST, at most `limit`."""
        fixed, each = self._line()
        if each <= 0.0:
            return limit
        return int(min(limit, max(SMALLEST, (seconds - fixed) / each)))

    def brief(self, limit: int) -> int:
        """How many operations take twice as long as none: who comes meanwhile waits not much longer
        than for any commit, and no more than half of the throughput is lost. At least twice
        SMALLEST, at most `limit`."""
        fixed, each = self._line()
        return limit if each <= 0.0 else int(min(limit, max(2 * SMALLEST, fixed / each)))


class Router(Generic[T]):
    """What waits to be written. Times are epoch seconds."""

    def __init__(self) -> None:
        self._work: list[T] = []
        self._promoted: list[T] = []
        self._signals: dict[str, list[tuple[float, int, T]]] = {
            name: [] for name in SHARES if name != "work"
        }
        self._waiting = 0  # signals
        self._numbers = itertools.count()
        self._start = dict.fromkeys(SHARES, 0.0)
        self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._work) + len(self._promoted) + self._waiting

    def push(self, item: T) -> None:
        """Work, which is taken in the order in which it came."""
        if not self._work:
            self._enter("work")
        self._work.append(item)

    def withdraw(self, wanted: Callable[[T], bool]) -> list[T]:
        """Take out the work that is wanted, in its order."""
        found = [item for item in (*self._promoted, *self._work) if wanted(item)]
        self._promoted = [item for item in self._promoted if not wanted(item)]
        self._work = [item for item in self._work if not wanted(item)]
        return found

    def promote(self, wanted: Callable[[T], bool]) -> None:
        """Let the work that is wanted go before everything else, in its order."""
        found = [item for item in self._work if wanted(item)]
        if found:
            self._work = [item for item in self._work if not wanted(item)]
            self._promoted += found

    def push_signal(self, item: T, priority: Priority, deadline: float | None, now: float) -> None:
        queue = self._signals[priority]
        if not queue:
            self._enter(priority)
        due = now + PATIENCE if deadline is None else max(deadline, now)
        heapq.heappush(queue, (due, next(self._numbers), item))
        self._waiting += 1

    def due(self) -> float | None:
        """The earliest deadline of a signal that waits."""
        return min((queue[0][0] for queue in self._signals.values() if queue), default=None)

    def take(self, size: int) -> list[T]:
        """The next batch: what was promoted, then the most pressing signal; the rest is shared
        fairly. It may be larger by SMALLEST, so that what was promoted starves nobody."""
        if not self._promoted:
            return self._shared(size)
        first, self._promoted = self._promoted[:size], self._promoted[size:]
        if self._promoted:
            return first
        return first + self._shared(max(SMALLEST, size - len(first)))

    def _shared(self, size: int) -> list[T]:
        if not self._waiting:
            taken = self._work[:size]
            del self._work[:size]
            return taken
        if size >= len(self):
            return self._take_all()
        pressing = min((queue[0][0], name) for name, queue in self._signals.items() if queue)[1]
        chosen = [pressing]
        work = self._charge(pressing, 0)
        shares: list[T] = [self._pop(pressing)]
        while len(chosen) < size:
            name = self._fairest(work)
            work = self._charge(name, work)
            chosen.append(name)
            if name != "work":
                shares.append(self._pop(name))
        taken = self._work[:work]
        del self._work[:work]
        return taken + shares

    def _take_all(self) -> list[T]:
        taken, self._work = self._work, []
        for queue in self._signals.values():
            taken += [item for _, _, item in sorted(queue, key=lambda one: one[:2])]
            queue.clear()
        self._waiting = 0
        return taken

    def _enter(self, name: str) -> None:
        """A class that was empty has no claim to what it did not use."""
        self._start[name] = max(self._start[name], self._virtual)

    def _fairest(self, work: int) -> str:
        """The class that has had least for its weight, of those that have something."""
        ready = [name for name, queue in self._signals.items() if queue]
        if work < len(self._work):
            ready.append("work")
        return min(ready, key=lambda name: self._start[name])

    def _charge(self, name: str, work: int) -> int:
        self._virtual = max(self._virtual, self._start[name])
        self._start[name] += 1 / SHARES[name]
        return work + (name == "work")

    def _pop(self, name: str) -> T:
        self._waiting -= 1
        return heapq.heappop(self._signals[name])[2]
