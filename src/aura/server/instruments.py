"""What metrics are made of: counts and durations by labels, of which there is only so much.

A label is *open* when its values come from outside (names of workflows, splits, queues) and closed
when they are ours (outcomes, states). Of each metric the first `MOST` combinations of open labels
have a line of their own; all later ones are counted together, with the label `other`. So what a
scrape costs, and what Prometheus has to keep, is bounded whatever people call their things.

Everything is counted on one event loop, so nothing is locked: to count costs a look into a dict.
The text is written in a thread meanwhile, one at a time, from copies of these dicts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

MOST = 200
OTHER = "other"
LONGEST = 200  # characters of a label

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of the buckets of waits that should be short, in seconds."""

WORK = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Of requests and of steps."""

LONG = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400, 604800)
"""Of runs, which may take days."""

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """A metric as users know it. The first `open` of its labels are open."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    open: int = 0

    def family(self) -> Metric:
        """For the exposition, still without samples."""
        if self.kind == "histogram":
            return HistogramMetricFamily(self.name, self.help, labels=self.labels)
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(self.name, self.help, labels=self.labels)


class Bounds:
    """Which label values have lines of their own. The same values give the same line for ever."""

    def __init__(self, spec: Spec, most: int = MOST) -> None:
        self._open = spec.open
        self._most = most
        self._known: set[Key] = set()

    def forget_but(self, heads: set[Key]) -> None:
        """Make room: only these are there still."""
        self._known &= heads

    def line(self, key: Key) -> Key:
        """The labels under which these are counted."""
        head = key[: self._open]
        if head not in self._known:
            if len(self._known) >= self._most:
                return (OTHER,) * self._open + key[self._open :]
            self._known.add(head)
        return tuple(_clean(one) for one in key)


def _clean(text: str) -> str:
    return text[:LONGEST].encode("utf-8", "replace").decode()


class Counts:
    """A counter."""

    def __init__(self, spec: Spec, most: int = MOST) -> None:
        self.spec = spec
        self._bounds = Bounds(spec, most)
        self._lines: dict[Key, float] = {}

    def add(self, *key: str, by: float = 1) -> None:
        """Count one more, or so many."""
        if key not in self._lines:
            key = self._bounds.line(key)
        self._lines[key] = self._lines.get(key, 0) + by

    def family(self) -> Metric:
        """As it stands now."""
        return filled(self.spec, dict(self._lines))


class _Line:
    __slots__ = ("counts", "examples", "key", "total")

    def __init__(self, key: Key, buckets: int) -> None:
        self.key = key
        self.counts = [0] * (buckets + 1)
        self.total = 0.0
        self.examples: dict[int, Exemplar] = {}


class Durations:
    """A histogram of seconds; `bounds` are the upper ones of its buckets, rising."""

    def __init__(self, spec: Spec, bounds: tuple[float, ...], most: int = MOST) -> None:
        self.spec = spec
        self._limits = bounds
        self._bounds = Bounds(spec, most)
        self._lines: dict[Key, _Line] = {}
        self.also: Callable[[Key, float], None] | None = None
        """Who is told each of them as well, with the labels of its line."""

    @property
    def limits(self) -> tuple[float, ...]:
        """The upper bounds of the buckets."""
        return self._limits

    def add(self, key: Key, seconds: float, trace: str | None = None) -> None:
        """One more; clocks that were set back give 0 seconds. `trace` is the recorded traceparent
        that it belongs to: the last one of each bucket is shown as its exemplar."""
        line = self._lines.get(key) or self._line(key)
        if seconds < 0.0:
            seconds = 0.0
        bucket = bisect_left(self._limits, seconds)
        line.counts[bucket] += 1
        line.total += seconds
        if trace is not None:
            ids = {"trace_id": trace[3:35], "span_id": trace[36:52]}
            line.examples[bucket] = Exemplar(ids, seconds)
        if self.also is not None:
            self.also(line.key, seconds)

    def totals(self, keep: Callable[[Key], bool]) -> list[tuple[float, int]]:
        """For each bucket its upper bound and how many there were, of the lines to keep."""
        kept = [line.counts for key, line in self._lines.items() if keep(key)]
        counts = [sum(of) for of in zip(*kept, strict=True)] or [0] * (len(self._limits) + 1)
        return list(zip((*self._limits, math.inf), counts, strict=True))

    def _line(self, key: Key) -> _Line:
        bounded = self._bounds.line(key)
        return self._lines.setdefault(bounded, _Line(bounded, len(self._limits)))

    def family(self) -> Metric:
        """As it stands now."""
        family = self.spec.family()
        assert isinstance(family, HistogramMetricFamily)  # noqa: S101  (its kind says so)
        names = [*map(floatToGoString, self._limits), "+Inf"]
        for key, line in dict(self._lines).items():
            shown: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for place, (name, so_far) in enumerate(
                zip(names, accumulate(line.counts), strict=True)
            ):
                example = line.examples.get(place)
                shown.append((name, so_far) if example is None else (name, so_far, example))
            family.add_metric(key, shown, line.total)
        return family


def filled(spec: Spec, lines: Mapping[Key, float]) -> Metric:
    """A counter or gauge with these values."""
    family = spec.family()
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)  # noqa: S101
    for key, value in lines.items():
        family.add_metric(key, value)
    return family


class Gauges:
    """Values that are found elsewhere. Those that come together under `other` are joined by `join`:
    a sum for amounts, the largest for the rest."""

    def __init__(
        self,
        spec: Spec,
        join: Callable[[float, float], float] = max,
        most: int = MOST,
    ) -> None:
        self.spec = spec
        self._join = join
        self._bounds = Bounds(spec, most)

    def family(self, values: Iterable[tuple[Key, float]]) -> Metric:
        """With these values by labels. What is not among them makes room for others."""
        values = list(values)
        self._bounds.forget_but({key[: self.spec.open] for key, _ in values})
        lines: dict[Key, float] = {}
        for key, value in values:
            line = self._bounds.line(key)
            lines[line] = value if line not in lines else self._join(lines[line], value)
        return filled(self.spec, lines)
