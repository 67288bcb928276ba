"""Which arm is best, with what probability: Thompson sampling whose probabilities are known.

Thompson sampling draws a value of each arm from what is believed of it and takes the largest
(Thompson, Biometrika 25, 1933; Agrawal and Goyal, "Analysis of Thompson Sampling for the
Multi-armed Bandit Problem", COLT 2012). Arm i is then taken with the probability

    P(i) = integral of f_i(x) prod over j != i of F_j(x) dx

which is computed here, by trapezoids on a grid that is fine wherever some arm's density is. So a
choice can be made with a single random number, its probability can be written down with it, and
what another policy would have earned can be estimated later (`aura.stats.offpolicy`).

Rewards lie between 0 and 1. A reward r between them counts as r successes and 1 - r failures of a
Beta posterior, which is conservative: it is what a coin with that bias would have given on average.

`upper_bounds` is UCB1 (Auer, Cesa-Bianchi and Fischer, Machine Learning 47, 2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from typing import Protocol

SPREAD = 6.0
"""Standard deviations around an arm's mean that are looked at closely."""

FINE, COARSE = 40, 24
"""Points of the grid for each arm, and points all over the range."""

NOTHING = 60.0
"""So far below its top the logarithm of a density is nothing."""


class Belief(Protocol):
    """What is believed of an arm's reward: a density with a mean and a standard deviation."""

    @property
    def mean(self) -> float: ...

    @property
    def deviation(self) -> float: ...

    @property
    def range(self) -> tuple[float, float]:
        """Where the density is not negligible."""
        ...

    def log_density(self, x: float) -> float:
        """Up to a constant; -inf where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Beta:
    """Beta(a, b), a and b at least 1: begins as (1, 1), which believes all rates alike."""

    a: float = 1.0
    b: float = 1.0

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    @property
    def deviation(self) -> float:
        n = self.a + self.b
        return math.sqrt(self.a * self.b / (n * n * (n + 1)))

    @property
    def range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def log_density(self, x: float) -> float:
        if x <= 0:
            return 0.0 if self.a == 1 else -math.inf
        if x >= 1:
            return 0.0 if self.b == 1 else -math.inf
        return (self.a - 1) * math.log(x) + (self.b - 1) * math.log1p(-x)


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal belief; `deviation` is above 0."""

    mean: float
    deviation: float

    @property
    def range(self) -> tuple[float, float]:
        return self.mean - SPREAD * self.deviation, self.mean + SPREAD * self.deviation

    def log_density(self, x: float) -> float:
        z = (x - self.mean) / self.deviation
        return -z * z / 2


def best_probabilities(beliefs: Sequence[Belief]) -> list[float]:
    """The probability that each arm is the best one; they add up to 1. [] for no arms."""
    if len(beliefs) < 2:
        return [1.0] * len(beliefs)
    grid = _grid(beliefs)
    densities = [_density(belief, grid) for belief in beliefs]
    below = [_cumulated(density, grid) for density in densities]
    others = zip(*(_others(column) for column in zip(*below, strict=True)), strict=True)
    raw = [
        _trapezoids([x * y for x, y in zip(density, rest, strict=True)], grid)
        for density, rest in zip(densities, others, strict=True)
    ]
    total = math.fsum(raw)
    return [one / total for one in raw]


def upper_bounds(means: Sequence[float], counts: Sequence[int]) -> list[float]:
    """UCB1's index of each arm: mean + sqrt(2 ln t / n), infinite before an arm's first reward."""
    total = sum(counts)
    return [
        mean + math.sqrt(2 * math.log(total) / count) if count else math.inf
        for mean, count in zip(means, counts, strict=True)
    ]


def with_floor(probabilities: Sequence[float], floor: float) -> list[float]:
    """The same with at least `floor` for each arm: what is missing is taken from the others in
    proportion to what they have above it. Raises ValueError when the floors do not fit into 1."""
    count = len(probabilities)
    if not 0 <= floor * count <= 1:
        raise ValueError(f"{count} arms cannot have at least {floor} each")
    above = [max(0.0, one - floor) for one in probabilities]
    total = math.fsum(above)
    room = 1 - floor * count
    if total <= 0:
        return [1 / count] * count
    return [floor + one * room / total for one in above]


def _others(values: Sequence[float]) -> list[float]:
    """For each value the product of all others."""
    before = accumulate(values[:-1], mul, initial=1.0)
    behind = [*accumulate(values[:0:-1], mul, initial=1.0)][::-1]
    return [x * y for x, y in zip(before, behind, strict=True)]


def _grid(beliefs: Sequence[Belief]) -> list[float]:
    low = min(belief.range[0] for belief in beliefs)
    high = max(belief.range[1] for belief in beliefs)
    points = {low + (high - low) * number / COARSE for number in range(COARSE + 1)}
    for belief in beliefs:
        step = 2 * SPREAD * belief.deviation / FINE
        first = belief.mean - SPREAD * belief.deviation
        points.update(first + step * number for number in range(FINE + 1))
    return sorted(point for point in points if low <= point <= high)


def _density(belief: Belief, grid: Sequence[float]) -> list[float]:
    """Its density on the grid, where it integrates to 1."""
    near = 2 * SPREAD * belief.deviation
    logs = [belief.log_density(x) if abs(x - belief.mean) <= near else -math.inf for x in grid]
    top = max(logs)
    raw = [math.exp(one - top) if one > top - NOTHING else 0.0 for one in logs]
    total = _trapezoids(raw, grid)
    return [one / total for one in raw]


def _trapezoids(values: Sequence[float], grid: Sequence[float]) -> float:
    return math.fsum(
        (x1 - x0) * (y0 + y1) / 2
        for (x0, x1), (y0, y1) in zip(pairwise(grid), pairwise(values), strict=True)
    )


def _cumulated(density: Sequence[float], grid: Sequence[float]) -> list[float]:
    sums, so_far = [0.0], 0.0
    for (x0, x1), (y0, y1) in zip(pairwise(grid), pairwise(density), strict=True):
        so_far += (x1 - x0) * (y0 + y1) / 2
        sums.append(min(1.0, so_far))
    return sums
