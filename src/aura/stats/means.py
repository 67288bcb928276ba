"""Means that may be looked at all the time: streaming moments and confidence sequences.

A confidence sequence is a confidence interval that holds at all times at once: the probability
that it *ever* leaves out the truth is at most alpha. For means (latency, cost, reward) there is no
exact one without a bound on the values, so this is the asymptotic one of Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", arXiv:2103.06476 (Annals of Statistics 52(6), 2024), Theorem 2.2: with n units, the
standard error s of the estimate and x = n rho^2

    estimate +- s sqrt( (x + 1)/x * ln((x + 1)/alpha^2) )

rho > 0 is fixed in advance and says for which n it is narrowest: minimising the radius over x gives

    y - ln y = 1 - 2 ln alpha    with  y = x + 1 > 1,

so rho = sqrt((y - 1)/n*), and at n* the radius is s sqrt(y) (3.04 standard errors for alpha = 5 %,
where a test with one look has 1.96). It costs little to be wrong about n*: 7 % of the width at a
quarter of it, 3 % at four times.

**Two arms.** Units are assigned at random. The difference of the arms' means is the mean, over
the n = n1 + n0 units of both arms, of their influence functions, whose variance is
n (v1/n1 + v0/n0); so the formula holds with s^2 = v1/n1 + v0/n0 (their section 3, with the arms'
means as the regression). It holds for any share, and while the weights change as long as
the means themselves do not.

**Evidence.** Solving for alpha where the boundary touches z = (estimate - null)/s gives the e-value

    E = exp( z^2 x / (2 (x + 1)) ) / sqrt(x + 1)

and 1/E is a p-value that is valid at every look. One-sided, with the mixture over positive effects
only: E+ = 2 Phi(z sqrt(x / (x + 1))) E.

*Asymptotic* means that early looks, when the variance is hardly known, are not covered. Before
`EARLIEST` units in an arm the interval is infinite and the evidence is 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Side = Literal["both", "above", "below"]
"""Which alternative gathers evidence: different, more than, or less than the null value."""

EARLIEST = 100
"""Units that each arm must have before an asymptotic statement is made about it."""

PLANNED = 10_000
"""The number of units for which sequences are narrowest when nothing else is said."""

LARGEST_Z = 1e100
"""The square of this is still a float."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean-like value, the variance of one unit's contribution, and the number of units.

    Its standard error is sqrt(variance / n). Raises ValueError unless value and variance are
    finite, the variance is not negative and n is at least 0.
    """

    value: float
    variance: float
    n: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"an estimate is finite, not {self.value}")
        if not (math.isfinite(self.variance) and self.variance >= 0):
            raise ValueError(f"a variance is finite and not negative, not {self.variance}")
        if self.n < 0:
            raise ValueError(f"a number of units cannot be negative: {self.n}")


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """The interval now: `low` <= truth <= `high`, at all times at once, after `n` units.

    `low` and `high` are infinite while nothing can be said.
    """

    estimate: float
    low: float
    high: float
    n: int

    @property
    def width(self) -> float:
        """`high` - `low`, in the unit of the estimate."""
        return self.high - self.low

    def contains(self, value: float) -> bool:
        """Whether the value is still possible."""
        return self.low <= value <= self.high


class Moments:
    """Count, mean and variance of a stream in one pass; values can be taken out again.

    Welford, Technometrics 4(3), 1962; merging: Chan, Golub and LeVeque, Stanford STAN-CS-79-773.
    """

    __slots__ = ("m2", "mean", "n")

    def __init__(self, n: int = 0, mean: float = 0.0, m2: float = 0.0) -> None:
        if n < 0 or not (math.isfinite(mean) and math.isfinite(m2) and m2 >= 0):
            raise ValueError(f"not moments: n={n}, mean={mean}, m2={m2}")
        self.n = n
        self.mean = mean
        self.m2 = m2

    def add(self, value: float) -> None:
        """Take in one unit's value. Raises ValueError for NaN and infinity."""
        _finite(value)
        self.n += 1
        off = value - self.mean
        self.mean += off / self.n
        self.m2 += off * (value - self.mean)

    def remove(self, value: float) -> None:
        """Take back a value that was added, say because a unit's total has grown since."""
        _finite(value)
        if self.n < 1:
            raise ValueError("there is no value to take back")
        self.n -= 1
        if self.n == 0:
            self.mean = self.m2 = 0.0
            return
        before = self.mean
        self.mean -= (value - before) / self.n
        self.m2 = max(0.0, self.m2 - (value - before) * (value - self.mean))

    def merge(self, other: Moments) -> Moments:
        """New moments of both streams."""
        n = self.n + other.n
        if n == 0:
            return Moments()
        off = other.mean - self.mean
        m2 = self.m2 + other.m2 + off * off * self.n * other.n / n
        return Moments(n, self.mean + off * other.n / n, m2)

    @property
    def variance(self) -> float:
        """The unbiased sample variance; 0.0 below two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else 0.0

    def estimate(self) -> Estimate:
        """The mean as an estimate."""
        return Estimate(self.mean, self.variance, self.n)

    def to_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {"n": self.n, "mean": self.mean, "m2": self.m2}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Moments:
        """Read what `to_dict` gave. Raises ValueError for anything else."""
        try:
            return cls(int(data["n"]), float(data["mean"]), float(data["m2"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not moments: {error!r}") from error


class Pairs:
    """Moments of two values per unit, with their covariance: for CUPED and for ratios."""

    __slots__ = ("_cross", "x", "y")

    def __init__(self, x: Moments | None = None, y: Moments | None = None, cross: float = 0.0):
        self.x = x or Moments()
        self.y = y or Moments()
        self._cross = cross
        if self.x.n != self.y.n or not math.isfinite(cross):
            raise ValueError(f"not pairs: {self.x.n} and {self.y.n} values, cross={cross}")

    def add(self, x: float, y: float) -> None:
        """Take in one unit: CUPED's covariate `x` and its metric `y`, or a ratio's denominator
        `x` and numerator `y`. Raises ValueError for NaN and infinity."""
        _finite(x)
        _finite(y)
        off = x - self.x.mean
        self.x.add(x)
        self.y.add(y)
        self._cross += off * (y - self.y.mean)

    def remove(self, x: float, y: float) -> None:
        """Take back a unit that was added."""
        _finite(x)
        _finite(y)
        after = y - self.y.mean
        self.x.remove(x)
        self.y.remove(y)
        self._cross = self._cross - (x - self.x.mean) * after if self.x.n else 0.0

    def merge(self, other: Pairs) -> Pairs:
        """New moments of both."""
        x, y = self.x.merge(other.x), self.y.merge(other.y)
        cross = self._cross + other._cross
        if x.n:
            apart = (other.x.mean - self.x.mean) * (other.y.mean - self.y.mean)
            cross += apart * self.x.n * other.x.n / x.n
        return Pairs(x, y, cross)

    @property
    def n(self) -> int:
        """The number of units."""
        return self.x.n

    @property
    def covariance(self) -> float:
        """The unbiased sample covariance; 0.0 below two units."""
        return self._cross / (self.n - 1) if self.n > 1 else 0.0

    def ratio(self) -> Estimate:
        """mean(y) / mean(x), with the delta method's variance.

        (v_y - 2 R c + R^2 v_x) / mean(x)^2: Deng, Knoblich and Lu, KDD 2018. For metrics per
        request, session or token whose units are users. Raises ValueError when mean(x) is 0.
        """
        if self.x.mean == 0:
            raise ValueError("the denominator's mean is 0, so there is no ratio")
        value = self.y.mean / self.x.mean
        spread = self.y.variance - 2 * value * self.covariance + value**2 * self.x.variance
        return Estimate(value, max(0.0, spread) / self.x.mean**2, self.n)

    def adjusted(self, theta: float, center: float) -> Estimate:
        """mean(y) - theta (mean(x) - center), and what is left of the variance of y."""
        left = self.y.variance - 2 * theta * self.covariance + theta**2 * self.x.variance
        return Estimate(self.y.mean - theta * (self.x.mean - center), max(0.0, left), self.n)

    def to_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {"x": self.x.to_dict(), "y": self.y.to_dict(), "cross": self._cross}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pairs:
        """Read what `to_dict` gave. Raises ValueError for anything else."""
        try:
            x, y = Moments.from_dict(data["x"]), Moments.from_dict(data["y"])
            return cls(x, y, float(data["cross"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not pairs: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Two arms after CUPED. `reduction` is the part of the variance that is gone, 0.0 to 1.0."""

    candidate: Estimate
    baseline: Estimate
    theta: float
    reduction: float


def cuped(candidate: Pairs, baseline: Pairs) -> Adjustment:
    """Both arms' means, adjusted by a covariate `x` that was known before the experiment.

    theta = the arms' pooled covariance over the covariate's pooled variance; each arm's mean of y
    loses theta (mean(x) - mean of x over both arms) (Deng, Xu, Kohavi and Walker, WSDM 2013). The
    difference stays unbiased, since assignment does not depend on x. A unit without a history
    gets the same x in both arms, say 0. Where x is constant nothing changes.
    """
    both = candidate.merge(baseline)
    within = candidate.x.m2 + baseline.x.m2
    theta = (candidate._cross + baseline._cross) / within if within > 0 else 0.0
    after = candidate.adjusted(theta, both.x.mean), baseline.adjusted(theta, both.x.mean)
    raw = _squared_error(candidate.y.estimate(), baseline.y.estimate())
    left = _squared_error(*after)
    return Adjustment(*after, theta, max(0.0, 1 - left / raw) if raw > 0 else 0.0)


def mean(
    estimate: Estimate, alpha: float, *, planned: int = PLANNED, earliest: int = EARLIEST
) -> ConfidenceSequence:
    """The confidence sequence of one mean or ratio; narrowest after `planned` units.

    Raises ValueError unless 0 < alpha < 1 and planned >= 1.
    """
    squared = estimate.variance / estimate.n if estimate.n else 0.0
    tuned = _mixing(alpha, planned)
    if estimate.n < max(2, earliest):
        return ConfidenceSequence(estimate.value, -math.inf, math.inf, estimate.n)
    return _around(estimate.value, squared, estimate.n, alpha, tuned)


def difference(
    candidate: Estimate,
    baseline: Estimate,
    alpha: float,
    *,
    planned: int = PLANNED,
    earliest: int = EARLIEST,
) -> ConfidenceSequence:
    """The confidence sequence of candidate - baseline; narrowest after `planned` units of both.

    Infinite before each arm has `earliest` units. Raises ValueError unless 0 < alpha < 1 and
    planned >= 1.
    """
    off, squared, n = candidate.value - baseline.value, 0.0, candidate.n + baseline.n
    tuned = _mixing(alpha, planned)
    if min(candidate.n, baseline.n) < max(2, earliest):
        return ConfidenceSequence(off, -math.inf, math.inf, n)
    squared = _squared_error(candidate, baseline)
    return _around(off, squared, n, alpha, tuned)


def relative(candidate: Estimate, baseline: Estimate) -> tuple[Estimate, Estimate]:
    """Two estimates whose `difference` is candidate/baseline - 1 (0.05: 5 % more).

    The delta method for a ratio of independent means. Raises ValueError when the baseline is 0.
    """
    if baseline.value == 0:
        raise ValueError("the baseline's mean is 0, so there is no relative difference")
    by = abs(baseline.value)
    ratio = candidate.value / baseline.value
    return (
        Estimate(ratio, candidate.variance / by**2, candidate.n),
        Estimate(1.0, baseline.variance * (ratio / by) ** 2, baseline.n),
    )


def log_e_value(
    candidate: Estimate,
    baseline: Estimate,
    alpha: float,
    *,
    null: float = 0.0,
    side: Side = "both",
    planned: int = PLANNED,
    earliest: int = EARLIEST,
) -> float:
    """ln E against "candidate - baseline is `null`" (or at most, at least that, when one-sided).

    `alpha` only tunes it; E is evidence at every level, and with side "both" E >= 1/alpha exactly
    when `difference(..., alpha)` leaves out `null`. Without any spread a deviation is certain and
    the result is inf. Raises ValueError as `difference` does, and for a null that is not finite.
    """
    _finite(null)
    tuned = _mixing(alpha, planned)
    if min(candidate.n, baseline.n) < max(2, earliest):
        return 0.0
    off = candidate.value - baseline.value - null
    return log_e_of(off, _squared_error(candidate, baseline), candidate.n + baseline.n, tuned, side)


def log_e_of(off: float, squared: float, n: int, rho: float, side: Side = "both") -> float:
    """ln E of a deviation `off` whose standard error is sqrt(`squared`), after `n` units."""
    if off == 0 and squared == 0:
        return 0.0
    z = math.copysign(math.inf, off) if squared == 0 else off / math.sqrt(squared)
    z = max(-LARGEST_Z, min(LARGEST_Z, -z if side == "below" else z))
    x = n * rho**2
    u = z * math.sqrt(x / (x + 1))
    value = u * u / 2 if side == "both" else math.log(2) + _log_scaled_cdf(u)
    certain = squared == 0 and (z > 0 or side == "both")
    return math.inf if certain else value - math.log1p(x) / 2


def p_value(log_e: float) -> float:
    """The p-value, valid at every look, that an e-value stands for: min(1, 1/E)."""
    return math.exp(-log_e) if log_e > 0 else 1.0


def boundary(alpha: float) -> float:
    """The radius in standard errors after exactly the planned number of units: sqrt(y).

    >>> round(boundary(0.05), 3)
    3.035
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, not {alpha}")
    return math.sqrt(_tuned_root(alpha))


def radius(n: float, alpha: float, planned: float) -> float:
    """The radius in standard errors after `n` > 0 units, when it is narrowest at `planned`."""
    x = n * (boundary(alpha) ** 2 - 1) / planned
    return math.sqrt((x + 1) / x * (math.log1p(x) - 2 * math.log(alpha)))


@lru_cache(maxsize=256)
def _tuned_root(alpha: float) -> float:
    """y > 1 with y - ln y = 1 - 2 ln alpha; the iteration contracts by 1/y at each step."""
    target = 1 - 2 * math.log(alpha)
    y = target + math.log(target)
    for _ in range(60):
        y -= (y - math.log(y) - target) / (1 - 1 / y)
    return y


def _mixing(alpha: float, planned: int) -> float:
    """rho."""
    if planned < 1:
        raise ValueError(f"at least one unit must be planned, not {planned}")
    return math.sqrt((boundary(alpha) ** 2 - 1) / planned)


def _around(value: float, squared: float, n: int, alpha: float, rho: float) -> ConfidenceSequence:
    x = n * rho**2
    half = math.sqrt(squared * (x + 1) / x * (math.log1p(x) - 2 * math.log(alpha)))
    return ConfidenceSequence(value, value - half, value + half, n)


def _squared_error(candidate: Estimate, baseline: Estimate) -> float:
    return sum(arm.variance / arm.n for arm in (candidate, baseline) if arm.n)


def _log_scaled_cdf(z: float) -> float:
    """ln(Phi(z) e^(z^2/2)); far below by Mills' ratio (Abramowitz and Stegun 26.2.12)."""
    if z > -30:
        return math.log(0.5 * math.erfc(-z / math.sqrt(2))) + z * z / 2
    return -math.log(-z * math.sqrt(2 * math.pi)) + math.log1p(-1 / z**2)


def _finite(value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"a value is finite, not {value}")
