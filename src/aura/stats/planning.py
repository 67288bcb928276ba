"""How long an experiment takes, and how small an effect it can find, before it starts.

With a share f of the units on the candidate, standard deviations s1 and s0 and an effect d, n
units give the standard error sqrt(V/n), V = s1^2/f + s0^2/(1 - f).

**Sequential** (the confidence sequences of `aura.stats.means`, looked at all the time). Tuned for n
units, the radius at n is b standard errors, with b = `boundary(alpha)` for every n. The estimate
is normal, so the sequence leaves out 0 at n with a probability of Phi(d sqrt(n/V) - b), hence

    n = V (b + z)^2 / d^2     d = (b + z) sqrt(V/n)     z the power's normal quantile.

That counts the look at n alone. Earlier looks add to it, so the real power is higher. The average
duration, stopping at the first look that leaves out 0, is at most the sum over the looks k < n of
the probability not to be out at k: the integral of Phi(r(t) - d sqrt(t/V)) over 0 < t < n, with the
radius r(t). Both are checked by simulation (docs/statistics.md).

**One look** at n, for comparison: the same with the normal quantile of alpha/2 for b. It needs
fewer units for a given effect if one really looks once; peeking voids it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from aura.stats.means import boundary, radius

SLICES = 400
"""Steps of the integral over the duration."""

NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Design:
    """An experiment with two arms. Raises ValueError for what makes no sense.

    `share`      the candidate's part of all units, 0 < share < 1
    `baseline`   the metric's mean on the baseline; for a rate 0 < baseline < 1
    `spread`     the metric's standard deviation per unit, > 0; None for a rate
    `per_day`    new units a day over both arms, > 0
    `alpha`      the two-sided error probability;  `power`  the probability to find the effect
    """

    share: float
    baseline: float
    per_day: float
    spread: float | None = None
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        for name in ("share", "alpha", "power"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} lies between 0 and 1, not {value}")
        for name in ("per_day", "spread"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is positive, not {value}")
        if not math.isfinite(self.baseline):
            raise ValueError(f"the baseline is finite, not {self.baseline}")
        if self.spread is None and not 0 < self.baseline < 1:
            raise ValueError(
                f"a rate lies between 0 and 1, not {self.baseline}; a mean needs its spread"
            )

    def variance(self, effect: float) -> float:
        """V: the difference's variance times the units of both arms."""
        if self.spread is not None:
            return self.spread**2 / (self.share * (1 - self.share))
        p0, p1 = self.baseline, self.baseline + effect
        if not 0 <= p1 <= 1:
            raise ValueError(f"the candidate's rate would be {p1}")
        return p1 * (1 - p1) / self.share + p0 * (1 - p0) / (1 - self.share)


@dataclass(frozen=True, slots=True)
class Duration:
    """What it takes: `units` over both arms and `days` to have the power; `average_units` and
    `average_days` at most, when it ends as soon as the effect is found (one look: the same)."""

    units: int
    days: float
    average_units: int
    average_days: float


def duration(design: Design, effect: float) -> Duration:
    """How long the sequential test takes to find a difference of `effect` (in the metric's unit).

    Tune the sequences with `planned=result.units`. Raises ValueError for an effect of 0, NaN or
    infinity, and for a rate that leaves 0..1.
    """
    units = _units(design, effect, boundary(design.alpha))
    average = _average(design, effect, units)
    return Duration(units, units / design.per_day, average, average / design.per_day)


def fixed_duration(design: Design, effect: float) -> Duration:
    """The same for a test with one look at the end. Raises ValueError as `duration` does."""
    units = _units(design, effect, _one_look(design))
    return Duration(units, units / design.per_day, units, units / design.per_day)


def detectable_effect(design: Design, days: float) -> float:
    """The smallest increase that the sequential test finds within `days` with the power asked for.

    In the metric's unit; inf when no rate up to 1 would be found. Raises ValueError for days that
    are not positive and finite.
    """
    return _detectable(design, days, boundary(design.alpha))


def fixed_detectable_effect(design: Design, days: float) -> float:
    """The same for a test with one look after `days`."""
    return _detectable(design, days, _one_look(design))


def _one_look(design: Design) -> float:
    return NORMAL.inv_cdf(1 - design.alpha / 2)


def _units(design: Design, effect: float, bound: float) -> int:
    if not math.isfinite(effect) or effect == 0:
        raise ValueError(f"an effect is finite and not 0, but {effect} was given")
    reach = max(0.0, bound + NORMAL.inv_cdf(design.power))
    return max(2, math.ceil(design.variance(effect) * (reach / effect) ** 2))


def _average(design: Design, effect: float, units: int) -> int:
    pull = abs(effect) / math.sqrt(design.variance(effect))
    step = units / SLICES
    looks = (step * (i + 0.5) for i in range(SLICES))
    missed = (NORMAL.cdf(radius(t, design.alpha, units) - pull * math.sqrt(t)) for t in looks)
    return math.ceil(step * math.fsum(missed))


def _detectable(design: Design, days: float, bound: float) -> float:
    if not (math.isfinite(days) and days > 0):
        raise ValueError(f"a duration is positive, not {days} days")
    units = design.per_day * days
    reach = max(0.0, bound + NORMAL.inv_cdf(design.power))
    if design.spread is not None:
        return reach * math.sqrt(design.variance(0.0) / units)
    low, high = 0.0, 1 - design.baseline
    if reach * math.sqrt(design.variance(high) / units) > high:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        if reach * math.sqrt(design.variance(middle) / units) > middle:
            low = middle
        else:
            high = middle
    return high
