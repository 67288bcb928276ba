"""What an experiment's observations and rewards say: one value per unit, metric and arm.

An `Analysis` folds two feeds; folding the same feeds again gives the same analysis, so it is never
stored. Time is the database's (when an item was written), so clocks of gateways do not matter.

    first request of a unit ──▶ its arm, and one count in the sample-ratio check
    requests and rewards    ──▶ its numbers, for as long as each metric's horizon
    horizon is over         ──▶ its value is final: one pair (before, during) of its arm's moments

**Why final values.** Units are what is assigned at random, so units are independent and requests
are not: the requests of one unit share an arm, a network and a habit. A mean over requests has the
wrong variance, and a mean over units whose values still grow is no fixed sequence of independent
values, which is what the confidence sequences (`aura.stats.means`) need. Final values are.

**Who counts.** A unit that the split's gate does not admit takes no part. A request that was served
by another arm than the unit's own (a gateway that had not heard of the split, one that fell back to
the baseline) is counted as a stray and left out. When an arm is dropped its units are served by
the baseline, but they were not assigned there, so they stay out too, and the others' ratio stays
the same. What is known of a unit from before the start is its covariate (CUPED).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from aura.delivery.experiment import RATIO_ALPHA, Experiment, Metric
from aura.delivery.guard import GuardState, Judgement, judge
from aura.delivery.observation import Observation
from aura.delivery.reward import Reward
from aura.delivery.split import Split
from aura.stats import means, proportions
from aura.stats.eprocess import as_evidence, log_assignment_evidence
from aura.stats.means import Pairs
from aura.stats.multiple import adjusted
from aura.stats.proportions import Counts

KEYLESS = "address:"
"""What the gateway begins a unit with when its request named none."""

EARLY = 60.0
"""Seconds that a reward may be written before its unit's first observation is."""

LARGEST = 1e140
"""Larger numbers count as this one: the square of a sum of many is still a float."""

FIRST_POINT, NEXT_POINT = 100, 1.07
"""A curve has a point after so many units, and then after each such multiple."""

COUNTED = (
    *("requests", "outside", "keyless", "strays", "refused"),
    *("rewards", "unknown_rewards", "late_rewards"),
)

Verdict = Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True)
class Point:
    """A confidence sequence at a moment (epoch seconds), after so many units of both arms; None
    where nothing can be said yet. The difference is candidate - baseline, in the metric's unit."""

    at: float
    units: int
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric on one candidate and on the baseline.

    `units` have a final value. `low` and `high` bound the difference candidate - baseline at all
    times at once with probability 1 - `alpha`, None while nothing can be said; `relative` ones are
    parts of the baseline's mean. `p` is valid at every look and corrected for all secondary
    metrics and arms. `reduction` is the part of the variance that the pre-period has removed.
    """

    metric: str
    arm: str
    units: int
    baseline_units: int
    mean: float
    baseline_mean: float
    difference: float
    low: float | None
    high: float | None
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    alpha: float
    p: float
    verdict: Verdict
    reduction: float
    points: tuple[Point, ...] = ()

    def improvement(self, metric: Metric) -> tuple[float | None, float | None]:
        """(least, largest) improvement that is still possible, in the metric's unit."""
        if self.low is None or self.high is None:
            return None, None
        return (self.low, self.high) if metric.sign > 0 else (-self.high, -self.low)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The sample-ratio check: units by arm, how many were to be expected, and the evidence (an
    e-value) that they were not assigned with their weights; it trips at `limit`."""

    units: Mapping[str, int]
    expected: Mapping[str, float]
    evidence: float
    limit: float
    tripped: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """What was seen and what was left out.

    `requests` of units that take part; `outside`: of others; `keyless`: without a key for the unit;
    `strays`: served by another arm than the unit's. `refused`: observations and rewards that cannot
    be read or have no finite number. `rewards` counted, `unknown_rewards`: of metrics that the
    experiment does not have; `late_rewards`: after the horizon; `unmatched`: their unit has made no
    request yet. `arrived`: numbers by metric.
    """

    requests: int = 0
    outside: int = 0
    keyless: int = 0
    strays: int = 0
    refused: int = 0
    rewards: int = 0
    unknown_rewards: int = 0
    late_rewards: int = 0
    unmatched: int = 0
    arrived: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What the conclusion is drawn from. Comparisons have the primary metric's first, by arm;
    `judgements` are the guards' for each candidate."""

    comparisons: tuple[Comparison, ...]
    judgements: Mapping[str, tuple[Judgement, ...]]
    ratio: Ratio
    counters: Counters

    def primary(self, arm: str) -> Comparison:
        """The primary metric on that candidate."""
        return next(one for one in self.comparisons if one.arm == arm)


class _Unit:
    """A unit that takes part: since when, and its numbers by metric ([sum, count]; None: final)."""

    __slots__ = ("arm", "at", "numbers")

    def __init__(self, arm: int, at: float, numbers: list[list[float] | None]) -> None:
        self.arm = arm
        self.at = at
        self.numbers = numbers


class Analysis:
    """Everything that an experiment's feeds say so far.

    `split` is the one with which it began, at the epoch `split.epoch`; `dropped` says from which
    epoch on an arm was dropped, `last` is the newest epoch of the experiment. Fold what is from
    before the start first, then everything else.
    """

    def __init__(
        self, experiment: Experiment, split: Split, dropped: Mapping[str, int] | None = None
    ) -> None:
        self.experiment = experiment
        self.split = split
        self.dropped = dict(dropped or {})
        self.last = split.epoch
        self.metrics = experiment.metrics
        self._names = tuple(name for name, _ in experiment.arms)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._rewards = {
            metric.name: place
            for place, metric in enumerate(self.metrics)
            if metric.source == "reward"
        }
        self._units: dict[str, _Unit] = {}
        self._due: list[deque[tuple[float, str]]] = [deque() for _ in self.metrics]
        self._pairs = [[Pairs() for _ in self._names] for _ in self.metrics]
        self._points: dict[tuple[int, str], list[Point]] = {
            (place, arm): [] for place in range(len(self.metrics)) for arm in experiment.candidates
        }
        self._next_point = [float(FIRST_POINT)] * len(self.metrics)
        self._before: list[dict[str, list[float]]] = [{} for _ in self.metrics]
        self._usual: list[float] | None = None
        self._early: dict[str, list[tuple[float, int, float]]] = {}
        self._ids: set[str] = set()
        self._assigned: dict[frozenset[str], dict[str, int]] = {}
        self._counts = dict.fromkeys(COUNTED, 0)
        self._arrived = [0] * len(self.metrics)
        self.guards = {
            arm: [GuardState(guard, experiment.baseline, arm) for guard in experiment.guards]
            for arm in experiment.candidates
        }

    # -- what comes in ---------------------------------------------------------------------

    def fold_before(self, one: Observation | Reward) -> None:
        """Take in what was observed, or rewarded, before the start."""
        if isinstance(one, Reward):
            place = self._rewards.get(one.metric)
            if place is not None and one.id not in self._ids:
                self._ids.add(one.id)
                _add(self._before[place].setdefault(one.unit, [0.0, 0]), one.value)
            return
        if one.shadow:
            return
        for place, metric in enumerate(self.metrics):
            value = number(metric, one)
            if value is not None:
                _add(self._before[place].setdefault(one.unit, [0.0, 0]), value)

    def fold(self, at: float, one: Observation) -> None:
        """Take in one observation that was written at that time, in the feed's order."""
        if one.shadow or one.split != self.experiment.split:
            return
        if not self.split.epoch <= one.epoch <= self.last:
            return
        if self.experiment.keyless == "exclude" and one.unit.startswith(KEYLESS):
            self._counts["keyless"] += 1
            return
        unit = self._units.get(one.unit)
        if unit is None and self.split.gate is not None and not self.split.gate.admits(one.unit):
            self._counts["outside"] += 1
            return
        arm = self._names[unit.arm] if unit is not None else self.split.assign(one.unit)
        if self._gone(arm, one.epoch):
            return
        if one.arm != arm:
            self._counts["strays"] += 1
            return
        self._counts["requests"] += 1
        if unit is None:
            unit = self._enrol(at, one, arm)
        self._fold_guards(one)
        for place, metric in enumerate(self.metrics):
            value = number(metric, one)
            if value is not None:
                self._arrived[place] += 1
                self._count(unit, place, at, value)
            if metric.horizon == 0:
                self._finish(one.unit, unit, place, unit.at)

    def reward(self, at: float, one: Reward) -> None:
        """Take in one reward that was written at that time; the same id counts once."""
        place = self._rewards.get(one.metric)
        if place is None:
            self._counts["unknown_rewards"] += 1
            return
        if one.id in self._ids:
            return
        self._ids.add(one.id)
        unit = self._units.get(one.unit)
        if unit is None and self.split.gate is not None and not self.split.gate.admits(one.unit):
            return
        self._arrived[place] += 1
        if unit is not None:
            self._count_reward(unit, place, at, one.value)
        else:
            self._early.setdefault(one.unit, []).append((at, place, one.value))

    def refuse(self) -> None:
        """Count something that cannot be read."""
        self._counts["refused"] += 1

    def settle(self, until: float) -> None:
        """Everything written before that time is folded: units whose horizon ended before it are
        final."""
        for place, due in enumerate(self._due):
            while due and due[0][0] < until:
                deadline, name = due.popleft()
                self._finish(name, self._units[name], place, deadline)

    def _gone(self, arm: str, epoch: int) -> bool:
        """Whether the arm was dropped before that epoch, or with it."""
        since = self.dropped.get(arm)
        return since is not None and epoch >= since

    def _enrol(self, at: float, one: Observation, arm: str) -> _Unit:
        numbers: list[list[float] | None] = [[0.0, 0] for _ in self.metrics]
        unit = self._units[one.unit] = _Unit(self._places[arm], at, numbers)
        live = frozenset(name for name in self._names if not self._gone(name, one.epoch))
        counts = self._assigned.setdefault(live, dict.fromkeys(sorted(live), 0))
        counts[arm] += 1
        for place, metric in enumerate(self.metrics):
            if metric.horizon > 0:
                self._due[place].append((at + metric.horizon, one.unit))
        for when, place, value in self._early.pop(one.unit, ()):
            if when >= at - EARLY:
                self._count_reward(unit, place, when, value)
        return unit

    def _fold_guards(self, one: Observation) -> None:
        baseline = self.split.share(self.experiment.baseline)
        for arm, states in self.guards.items():
            if one.arm not in (arm, self.experiment.baseline) or self._gone(arm, one.epoch):
                continue
            own = self.split.share(arm)
            seen = replace(one, share=own / (own + baseline))
            for state in states:
                state.fold(seen)

    def _count_reward(self, unit: _Unit, place: int, at: float, value: float) -> None:
        counted = self._count(unit, place, at, value)
        self._counts["rewards" if counted else "late_rewards"] += 1

    def _count(self, unit: _Unit, place: int, at: float, value: float) -> bool:
        numbers = unit.numbers[place]
        if numbers is None or at > unit.at + self.metrics[place].horizon:
            return False
        _add(numbers, value)
        return True

    def _finish(self, name: str, unit: _Unit, place: int, at: float) -> None:
        """The unit's value of that metric is final."""
        numbers = unit.numbers[place]
        if numbers is None:
            return
        unit.numbers[place] = None
        metric = self.metrics[place]
        if not numbers[1] and metric.missing == "censored":
            return
        self._pairs[place][unit.arm].add(self._covariate(name, place), _total(metric, numbers))
        self._draw(place, at)

    def _covariate(self, name: str, place: int) -> float:
        """What the unit had before the start; the mean of those that had something, if nothing."""
        if self._usual is None:
            self._usual = [self._mean_before(place) for place in range(len(self.metrics))]
        numbers = self._before[place].get(name)
        return _total(self.metrics[place], numbers) if numbers else self._usual[place]

    def _mean_before(self, place: int) -> float:
        found = self._before[place].values()
        metric = self.metrics[place]
        return math.fsum(_total(metric, one) for one in found) / len(found) if found else 0.0

    def _draw(self, place: int, at: float) -> None:
        """Add a point to the curves of a metric when it is time for one."""
        units = sum(pairs.n for pairs in self._pairs[place])
        if units < self._next_point[place]:
            return
        self._next_point[place] = max(units + 1, units * NEXT_POINT)
        for arm in self.experiment.candidates:
            self._points[place, arm].append(self._point(place, arm, at))

    # -- what comes out --------------------------------------------------------------------

    def findings(self) -> Findings:
        """What is known now."""
        primary = [self._compare(0, arm) for arm in self.experiment.candidates]
        others = [
            self._compare(place, arm)
            for place in range(1, len(self.metrics))
            for arm in self.experiment.candidates
        ]
        return Findings(
            comparisons=(*_corrected(primary), *_corrected(others)),
            judgements={
                arm: tuple(judge(state, self._share(arm)) for state in states)
                for arm, states in self.guards.items()
            },
            ratio=self._ratio(),
            counters=self._counters(),
        )

    def alpha(self, place: int) -> float:
        """The error probability of one comparison: the primary metric's arms divide alpha, and so
        do the secondary metrics and their arms."""
        arms = len(self.experiment.candidates)
        return self.experiment.alpha / (arms if place == 0 else arms * (len(self.metrics) - 1))

    def _share(self, arm: str) -> float:
        own, baseline = self.split.share(arm), self.split.share(self.experiment.baseline)
        return own / (own + baseline)

    def _pair(self, place: int, arm: str) -> means.Adjustment:
        own, baseline = self._pairs[place][self._places[arm]], self._pairs[place][0]
        if exact(self.metrics[place]):
            return means.Adjustment(own.y.estimate(), baseline.y.estimate(), 0.0, 0.0)
        return means.cuped(own, baseline)

    def _sequence(
        self, place: int, arm: str, pair: means.Adjustment
    ) -> tuple[means.ConfidenceSequence, Callable[[], float]]:
        """The difference's confidence sequence, and how to get ln E against no difference."""
        alpha, planned = self.alpha(place), self.experiment.planned
        if not exact(self.metrics[place]):
            now = means.difference(pair.candidate, pair.baseline, alpha, planned=planned)
            return now, lambda: means.log_e_value(
                pair.candidate, pair.baseline, alpha, planned=planned
            )
        own, other = _counts(pair.candidate), _counts(pair.baseline)
        share = self._share(arm)
        now = proportions.difference(own, other, alpha, planned=planned, share=share)
        return now, lambda: proportions.log_e_difference(
            own, other, alpha, planned=planned, share=share
        )

    def _point(self, place: int, arm: str, at: float) -> Point:
        found, _ = self._sequence(place, arm, self._pair(place, arm))
        bounds = _finite(found.low), _finite(found.high)
        return Point(at, found.n, found.estimate, *bounds)

    def _compare(self, place: int, arm: str) -> Comparison:
        metric, alpha, pair = self.metrics[place], self.alpha(place), self._pair(place, arm)
        planned = self.experiment.planned
        now, log_e = self._sequence(place, arm, pair)
        relative, low, high = _relative(pair, alpha, planned)
        return Comparison(
            metric=metric.name,
            arm=arm,
            units=pair.candidate.n,
            baseline_units=pair.baseline.n,
            mean=pair.candidate.value,
            baseline_mean=pair.baseline.value,
            difference=now.estimate,
            low=_finite(now.low),
            high=_finite(now.high),
            relative=relative,
            relative_low=low,
            relative_high=high,
            alpha=alpha,
            p=log_e(),
            verdict=_verdict(metric, now),
            reduction=pair.reduction,
            points=tuple(self._points[place, arm]),
        )

    def _ratio(self) -> Ratio:
        log_e, limit = 0.0, 1 / RATIO_ALPHA
        units = dict.fromkeys(self._names, 0)
        expected = dict.fromkeys(self._names, 0.0)
        for counts in self._assigned.values():
            if len(counts) < 2:
                continue
            weights = {arm: self.split.share(arm) for arm in counts}
            whole = math.fsum(weights.values())
            shares = [weight / whole for weight in weights.values()]
            log_e += log_assignment_evidence(list(counts.values()), shares)
            seen = sum(counts.values())
            for (arm, count), share in zip(counts.items(), shares, strict=True):
                units[arm] += count
                expected[arm] += seen * share
        return Ratio(units, expected, as_evidence(log_e), limit, log_e >= math.log(limit))

    def _counters(self) -> Counters:
        arrived = {
            metric.name: count for metric, count in zip(self.metrics, self._arrived, strict=True)
        }
        unmatched = sum(len(waiting) for waiting in self._early.values())
        return Counters(**self._counts, unmatched=unmatched, arrived=arrived)


def number(metric: Metric, one: Observation) -> float | None:
    """What an observation says of a metric, None for nothing."""
    match metric.source:
        case "outcome":
            return float(one.ok)
        case "latency":
            return one.latency
        case "observation":
            return one.metrics.get(metric.name)
        case "reward":
            return None


def exact(metric: Metric) -> bool:
    """Whether every unit's value is 0 or 1, so that there is an exact confidence sequence; that is
    known before the start, as it must be."""
    return metric.source == "outcome" and metric.horizon == 0


def _counts(found: means.Estimate) -> Counts:
    return Counts(min(found.n, round(found.value * found.n)), found.n)


def unit_values(metric: Metric, numbers: Iterable[tuple[str, float]]) -> list[float]:
    """Each unit's value, from (unit, number) pairs."""
    units: dict[str, list[float]] = {}
    for unit, value in numbers:
        _add(units.setdefault(unit, [0.0, 0]), value)
    return [_total(metric, one) for one in units.values()]


def _add(numbers: list[float], value: float) -> None:
    numbers[0] += max(-LARGEST, min(LARGEST, value))
    numbers[1] += 1


def _total(metric: Metric, numbers: list[float]) -> float:
    return numbers[0] / numbers[1] if metric.aggregate == "mean" and numbers[1] else numbers[0]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _verdict(metric: Metric, now: means.ConfidenceSequence) -> Verdict:
    if now.low > 0 or now.high < 0:
        return "better" if (now.low > 0) == (metric.sign > 0) else "worse"
    return "open"


def _relative(
    pair: means.Adjustment, alpha: float, planned: int
) -> tuple[float | None, float | None, float | None]:
    if pair.baseline.value == 0 or pair.baseline.n == 0:
        return None, None, None
    try:
        found = means.difference(
            *means.relative(pair.candidate, pair.baseline), alpha, planned=planned
        )
    except (ValueError, OverflowError):  # a mean so near to 0 that no float holds the ratio
        return None, None, None
    return found.estimate, _finite(found.low), _finite(found.high)


def _corrected(found: list[Comparison]) -> list[Comparison]:
    """The comparisons of one family, with the p-values that hold for all of them at once."""
    logs = adjusted([one.p for one in found])
    return [replace(one, p=means.p_value(log_e)) for one, log_e in zip(found, logs, strict=True)]
