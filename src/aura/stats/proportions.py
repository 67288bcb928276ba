"""Rates that may be looked at all the time: exact confidence sequences, also for two arms.

**One rate.** After s events in n units the evidence against the rate p is the Bayes factor of a
Beta prior around p against p itself,

    E(p) = B(k p + s, k (1 - p) + n - s) / B(k p, k (1 - p))  /  (p^s (1 - p)^(n - s)).

Under p it is a martingale that starts at 1 and is never negative (each factor is a predictive
probability over the true one), so it ever reaches 1/alpha with a probability of at most alpha
(Ville), and {p: E(p) < 1/alpha} is a confidence sequence (Robbins, Annals of Mathematical
Statistics 41(5), 1970; Lindon and Malek, arXiv:2011.03567). The prior may depend on p, since each p
is tested for itself. Its weight k says for which n the sequence is narrowest: a Beta prior has the
variance p (1 - p)/(k + 1), so n/(k + 1) plays the part of x in `aura.stats.means`.

**Two rates.** The product E1(p1) E0(p0) is a martingale under (p1, p0), whatever the arms' shares
are and however they change, as long as an assignment does not look into the future. The pairs
whose product stays below 1/alpha are a confidence sequence for the pair; the smallest and
largest p1 - p0 (p1 / p0) among them bound the difference (ratio). Nothing is asymptotic: it holds
from the first unit on, and for rare events. The price is about an eighth of the width of
the asymptotic one for means, which has one unknown instead of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from aura.stats.eprocess import PRECISION, TINY, log_beta
from aura.stats.means import PLANNED, ConfidenceSequence, boundary

STEPS = 46
"""Bisections of an interval within 0..1: an error below 2e-14."""

GRID = 16
"""How finely the common level is scanned before the best one is narrowed down."""

JUMP = 1e-9

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Counts:
    """`events` of `n` units. Raises ValueError unless 0 <= events <= n."""

    events: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.events <= self.n:
            raise ValueError(f"{self.events} events of {self.n} units cannot be")

    @property
    def rate(self) -> float:
        """Events over units; 0.0 before the first unit."""
        return self.events / self.n if self.n else 0.0


def log_e_rate(counts: Counts, rate: float, *, weight: float) -> float:
    """ln E(`rate`), 0 <= rate <= 1: the evidence that this is not the rate.

    `weight` is the prior's k > 0. inf for what cannot be: events at the rate 0, none at 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate lies between 0 and 1, not {rate}")
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"a prior's weight is positive, not {weight}")
    s, f = counts.events, counts.n - counts.events
    if rate in (0.0, 1.0):
        return math.inf if (s if rate == 0 else f) else 0.0
    a, b = weight * rate, weight * (1 - rate)
    value = log_beta(a + s, b + f) - log_beta(a, b)
    return value - s * math.log(rate) - f * math.log1p(-rate)


def rate(counts: Counts, alpha: float, *, planned: int = PLANNED) -> ConfidenceSequence:
    """The confidence sequence of one rate; narrowest after `planned` units.

    Raises ValueError unless 0 < alpha < 1 and planned >= 1.
    """
    limit, weight = _limit(alpha), _weight(alpha, planned)
    low, high = _Arm(counts, weight).bounds(limit)
    return ConfidenceSequence(counts.rate, low, high, counts.n)


def difference(
    candidate: Counts,
    baseline: Counts,
    alpha: float,
    *,
    planned: int = PLANNED,
    share: float = 0.5,
) -> ConfidenceSequence:
    """The confidence sequence of the candidate's rate minus the baseline's, -1.0 to 1.0.

    It is narrowest after `planned` units of both arms when the candidate has that `share` of them,
    0 < share < 1; both are fixed in advance. Raises ValueError as `rate` does.
    """
    pair = _Pair(candidate, baseline, alpha, planned, share)
    low = -pair.highest(pair.two, pair.one, lambda p0, p1: p0 - p1)
    high = pair.highest(pair.one, pair.two, lambda p1, p0: p1 - p0)
    off = candidate.rate - baseline.rate
    return ConfidenceSequence(off, min(low, off), max(high, off), candidate.n + baseline.n)


def ratio(
    candidate: Counts,
    baseline: Counts,
    alpha: float,
    *,
    planned: int = PLANNED,
    share: float = 0.5,
) -> ConfidenceSequence:
    """The confidence sequence of the candidate's rate over the baseline's (relative risk).

    `high` is inf while the baseline's rate may be 0; the estimate is inf for a baseline without
    events and nan when neither arm has any. Raises ValueError as `difference` does.
    """
    pair = _Pair(candidate, baseline, alpha, planned, share)
    highest = pair.highest(pair.two, pair.one, _over)
    low = 1 / highest if highest > 0 else math.inf
    high = pair.highest(pair.one, pair.two, _over)
    value = _over(candidate.rate, baseline.rate)
    if candidate.events == baseline.events == 0:
        value = math.nan
    return ConfidenceSequence(value, low, high, candidate.n + baseline.n)


def log_e_difference(
    candidate: Counts,
    baseline: Counts,
    alpha: float,
    *,
    null: float = 0.0,
    planned: int = PLANNED,
    share: float = 0.5,
) -> float:
    """ln E against "the difference of the rates is `null`": the least over all pairs with it.

    E >= 1/alpha when `difference(..., alpha)` leaves out `null`; `alpha` only tunes it. Raises
    ValueError unless -1 < null < 1.
    """
    if not -1 < null < 1:
        raise ValueError(f"a difference of rates lies between -1 and 1, not {null}")
    pair = _Pair(candidate, baseline, alpha, planned, share)

    def joint(p0: float) -> float:
        return pair.one(min(1.0, max(0.0, p0 + null))) + pair.two(p0)

    return -_maximum(lambda p0: -joint(p0), max(0.0, -null), min(1.0, 1 - null))[0]


class _Arm:
    """E of one arm, as a function of its rate."""

    def __init__(self, counts: Counts, weight: float) -> None:
        self.counts = counts
        self.weight = weight
        # The lowest E need not be at the observed rate: with one event it can be towards 0.
        found = _maximum(lambda rate: -self(rate), 0.0, 1.0)
        edges = ((-self(rate), rate) for rate in (TINY, counts.rate, 1 - PRECISION))
        highest, self.middle = max(found, *edges)
        self.lowest = -highest

    def __call__(self, rate: float) -> float:
        return log_e_rate(self.counts, rate, weight=self.weight)

    def bounds(self, level: float) -> tuple[float, float]:
        """The lowest and highest rate whose ln E is below the level."""
        return self._bound(0.0, level), self._bound(1.0, level)

    def _bound(self, outside: float, level: float) -> float:
        inside = self.middle
        if inside == outside or (outside == 0 and self(TINY) < level):
            return outside
        for _ in range(STEPS):
            middle = (inside + outside) / 2
            if self(middle) < level:
                inside = middle
            else:
                outside = middle
        return outside


class _Pair:
    """Both arms' E, and the pairs of rates whose product is below 1/alpha."""

    def __init__(
        self, candidate: Counts, baseline: Counts, alpha: float, planned: int, share: float
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"the candidate's share lies between 0 and 1, not {share}")
        self.limit = _limit(alpha)
        self.one = _Arm(candidate, _weight(alpha, planned, share))
        self.two = _Arm(baseline, _weight(alpha, planned, 1 - share))

    def highest(self, up: _Arm, down: _Arm, contrast: Callable[[float, float], float]) -> float:
        """The largest contrast(rate of `up`, rate of `down`), increasing in the first one and
        decreasing in the second: the one's upper bound at some level, and the other's lower bound
        at what this leaves of the limit."""

        def at(level: float) -> float:
            return contrast(up.bounds(level)[1], down.bounds(self.limit - level)[0])

        # With one event (or all but one) E stays finite towards 0 (and 1), where a bound jumps.
        jumps = (self.limit - down(TINY) - JUMP, up(1 - PRECISION) + JUMP)
        low, high = up.lowest, self.limit - down.lowest
        beside = [at(level) for level in jumps if low < level < high]
        return max([_maximum(at, low, high)[0], *beside])


def _maximum(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """The largest value between low and high, and where: a scan, then a golden section."""
    points = [low + (high - low) * i / GRID for i in range(GRID + 1)]
    values = [function(point) for point in points]
    best = max(range(GRID + 1), key=lambda i: values[i])
    found = (values[best], points[best])
    if math.isinf(values[best]):
        return found
    low, high = points[max(0, best - 1)], points[min(GRID, best + 1)]
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(GRID * 2):
        found = max(found, (at_left, left), (at_right, right))
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return found


def _over(one: float, two: float) -> float:
    return one / two if two > 0 else math.inf


def _limit(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, not {alpha}")
    return -math.log(alpha)


def _weight(alpha: float, planned: int, share: float = 1.0) -> float:
    if planned < 1:
        raise ValueError(f"at least one unit must be planned, not {planned}")
    return max(1.0, planned * share / (boundary(alpha) ** 2 - 1) - 1)
