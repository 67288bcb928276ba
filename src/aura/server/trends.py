"""How it went in the last minutes: runs that ended, failures and latencies, looked at now and then.

Ends are counted in the database, so they are those of all processes; latencies are those of the
runs that ended in this one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from aura.app import Aura
from aura.errors import AuraError
from aura.server.metrics import Metrics

log = logging.getLogger("aura.server")

EVERY = 5.0
KEPT = 121
"""Samples: ten minutes."""

RECENT = 6
"""Intervals of which "now" is the mean."""

Buckets = tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """How many runs had ended and failed at a time (seconds of any clock), and in which buckets of
    latency those of this process were."""

    at: float
    ended: int
    failed: int
    took: Buckets


@dataclass(frozen=True, slots=True)
class Trend:
    """What the samples say: per interval, the oldest first, and lately. Rates are per second,
    latencies in seconds (None: nothing ended here), `errors` a share of what ended (None: nothing
    did)."""

    rates: tuple[float, ...]
    failures: tuple[int, ...]
    latencies: tuple[float, ...]
    rate: float
    errors: float | None
    median: float | None
    slow: float | None


def trend(samples: Sequence[Sample]) -> Trend:
    """What happened between the samples. Pure. Counts that fall (old runs were deleted) are 0."""
    pairs = list(itertools.pairwise(samples))
    rates = [max(0, b.ended - a.ended) / max(1e-9, b.at - a.at) for a, b in pairs]
    failures = [max(0, b.failed - a.failed) for a, b in pairs]
    slow = [quantile(between(a.took, b.took), 0.95) or 0.0 for a, b in pairs]
    ended = sum(max(0, b.ended - a.ended) for a, b in pairs)
    took = between(samples[0].took, samples[-1].took) if samples else ()
    lately = pairs[-RECENT:]
    gone = sum(max(0, b.ended - a.ended) for a, b in lately)
    seconds = lately[-1][1].at - lately[0][0].at if lately else 0.0
    return Trend(
        tuple(rates), tuple(failures), tuple(slow),
        rate=gone / seconds if seconds > 0 else 0.0,
        errors=min(1.0, sum(failures) / ended) if ended else None,
        median=quantile(took, 0.5),
        slow=quantile(took, 0.95),
    )  # fmt: skip


def between(before: Buckets, after: Buckets) -> Buckets:
    """What came into each bucket."""
    known = dict(before)
    return tuple((bound, max(0, count - known.get(bound, 0))) for bound, count in after)


def quantile(buckets: Buckets, part: float) -> float | None:
    """The value that this part does not exceed, evenly spread inside its bucket; None of nothing.
    What is above the last bound counts as that."""
    rank = part * sum(count for _, count in buckets)
    low = 0.0
    if rank <= 0:
        return None
    for bound, count in buckets:
        if count and count >= rank:
            return low if math.isinf(bound) else low + (bound - low) * rank / count
        rank -= count
        low = bound
    return low


class Trends:
    """The samples of a process, taken as long as it is open."""

    def __init__(self, app: Aura, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._taking: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look."""
        self._taking = asyncio.create_task(self._take(), name="aura-trends")

    async def close(self) -> None:
        """Look no more."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait({self._taking})
            self._taking = None

    def now(self) -> Trend:
        """What the samples say."""
        return trend(tuple(self._samples))

    async def _take(self) -> None:
        while True:
            try:
                self._samples.append(await self._sample())
            except AuraError as error:
                log.debug("no sample for the dashboard: %s", error)
            await self._app.clock.sleep(EVERY)

    async def _sample(self) -> Sample:
        counts = await self._app.store.count_runs(("state",))
        failed = counts.get(("failed",), 0)
        ended = failed + counts.get(("completed",), 0) + counts.get(("cancelled",), 0)
        took = self._metrics.workflows.totals(lambda key: not key[0].startswith("aura."))
        return Sample(self._app.clock.monotonic(), ended, failed, tuple(took))
