"""Latencies: a mergeable histogram of fixed size, and a sliding window over the latest requests."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

ERROR = 0.01
"""The largest relative error of a quantile."""

GROWTH = (1 + ERROR) / (1 - ERROR)
LOG_GROWTH = math.log(GROWTH)
SHORTEST = 1e-6
LONGEST = 1e6
FIRST = math.ceil(math.log(SHORTEST) / LOG_GROWTH)
LAST = math.ceil(math.log(LONGEST) / LOG_GROWTH)
NANOSECONDS = 1_000_000_000


class Histogram:
    """Counts of latencies in seconds, in buckets that each are 2 % wider than the one before.

    A quantile is off by at most 1 % of its value between 1 microsecond and 11 days (what lies
    outside counts as that); count and mean are exact to the nanosecond. There are at most 1,384
    buckets, only the used ones take space. The layout is DDSketch's (Masson, Rim and Lee, VLDB
    2019). Values can be taken out again, which a sliding window needs.
    """

    __slots__ = ("_buckets", "_total", "count")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._total = 0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one latency. Raises ValueError unless it is finite and at least 0."""
        self._change(seconds, 1)

    def remove(self, seconds: float) -> None:
        """Take back a latency that was added. Raises ValueError if there is none like it."""
        if _bucket(seconds) not in self._buckets:
            raise ValueError(f"no latency of {seconds} s was added")
        self._change(seconds, -1)

    def _change(self, seconds: float, by: int) -> None:
        index = _bucket(seconds)
        left = self._buckets.get(index, 0) + by
        if left:
            self._buckets[index] = left
        else:
            del self._buckets[index]
        self.count += by
        self._total += by * round(seconds * NANOSECONDS)

    @property
    def mean(self) -> float | None:
        """The mean in seconds, None when empty."""
        return self._total / self.count / NANOSECONDS if self.count else None

    def quantile(self, q: float) -> float | None:
        """The latency in seconds that a share `q` (0..1) does not exceed (nearest rank); None
        when empty. Raises ValueError for q outside 0..1."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not {q}")
        rank = max(1, math.ceil(q * self.count))
        for index in sorted(self._buckets):
            rank -= self._buckets[index]
            if rank <= 0:
                return 2 * GROWTH**index / (GROWTH + 1)
        return None

    def coarse(self, width: int = 9) -> list[tuple[float, float, int]]:
        """For people to look at: (from, to, count) in seconds, the shortest first, `width` buckets
        in each (9: a fifth wider than the one before); empty ones are left out."""
        found: dict[int, int] = {}
        for index, count in self._buckets.items():
            group = math.ceil(index / width)
            found[group] = found.get(group, 0) + count
        return [
            (GROWTH ** ((group - 1) * width), GROWTH ** (group * width), found[group])
            for group in sorted(found)
        ]

    def merge(self, other: Histogram) -> Histogram:
        """A new histogram of both."""
        merged = Histogram()
        for part in (self, other):
            for index, count in part._buckets.items():
                merged._buckets[index] = merged._buckets.get(index, 0) + count
            merged._total += part._total
            merged.count += part.count
        return merged

    def to_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes: total nanoseconds and the used buckets."""
        buckets = {str(index): self._buckets[index] for index in sorted(self._buckets)}
        return {"ns": self._total, "buckets": buckets}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Histogram:
        """Read what `to_dict` gave. Raises ValueError for anything else."""
        histogram = cls()
        try:
            histogram._total = int(data["ns"])
            histogram._buckets = {int(k): int(v) for k, v in data["buckets"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a histogram: {error!r}") from error
        if any(v < 1 or not FIRST <= k <= LAST for k, v in histogram._buckets.items()):
            raise ValueError("not a histogram: a bucket or count is out of range")
        histogram.count = sum(histogram._buckets.values())
        return histogram


def _bucket(seconds: float) -> int:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a latency is finite and not negative, not {seconds}")
    inside = min(max(seconds, SHORTEST), LONGEST)
    return min(max(math.ceil(math.log(inside) / LOG_GROWTH), FIRST), LAST)


class Window:
    """The outcomes of the last `seconds`, and of at most `size` requests. O(1) per request.

    Age is counted back from the request that came last, in its own time: a request from a machine
    whose clock is ahead cannot keep later ones out. `over` is a latency in seconds; how many
    requests took longer is kept exactly.
    """

    __slots__ = ("_items", "failed", "late", "latencies", "over", "seconds", "size")

    def __init__(self, seconds: float, *, size: int = 10_000, over: float = math.inf) -> None:
        if not seconds > 0 or size < 1:
            raise ValueError(f"a window has a positive length and size, not {seconds}, {size}")
        self.seconds = seconds
        self.size = size
        self.over = over
        self.failed = 0
        self.late = 0
        self.latencies = Histogram()
        self._items: deque[tuple[float, bool, float]] = deque()

    def add(self, at: float, ok: bool, latency: float) -> None:
        """Take in one request: when (epoch seconds), whether it went well, its seconds."""
        self.latencies.add(latency)
        self._items.append((at, ok, latency))
        self.failed += not ok
        self.late += latency > self.over
        if len(self._items) > self.size:
            self._drop()
        self.forget(at)

    def _drop(self) -> None:
        _, ok, latency = self._items.popleft()
        self.latencies.remove(latency)
        self.failed -= not ok
        self.late -= latency > self.over

    def forget(self, at: float) -> None:
        """Drop what is too old at that time, when no request came to do it."""
        while self._items and self._items[0][0] < at - self.seconds:
            self._drop()

    def quantile(self, q: float) -> float | None:
        """The exact quantile (nearest rank) in seconds, None when empty; sorts the window."""
        if not self._items:
            return None
        ordered = sorted(latency for _, _, latency in self._items)
        return ordered[max(1, math.ceil(q * len(ordered))) - 1]

    def exceeds(self, q: float) -> bool:
        """Whether the exact `q` quantile of the latencies is over `over`."""
        return bool(self._items) and self.late > len(self) - max(1, math.ceil(q * len(self)))

    @property
    def error_rate(self) -> float | None:
        """Failed requests over all, None when empty."""
        return self.failed / len(self) if self._items else None

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[float, bool, float]]:
        return iter(self._items)
