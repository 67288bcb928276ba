"""Tests that may be looked at after every event: the Beta-binomial e-process.

A relevant event (a failure, a late answer, an assignment) happens on the candidate with a
probability that is known under the null hypothesis: its share of the traffic. After s1 events on
the candidate and s0 elsewhere the evidence against a null probability p0 is the Bayes factor

    E = B(a + s1, b + s0) / B(a, b)  /  (p0^s1 (1 - p0)^s0)

(Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", arXiv:2011.03567, 2020).
Under the null, E is a martingale that starts at 1 and is never negative, so by Ville's inequality
it ever reaches 1/alpha with a probability of at most alpha, however often one looks. The same
formula with s1 = events and s0 = requests without one tests an absolute rate (null: rate <= p0).

**One-sided.** With the prior truncated to (p0, 1) only an excess is evidence. Each likelihood
ratio p against p0 with p > p0 is a supermartingale under every true probability <= p0, hence so
is their mixture: the null is "at most p0", not only "exactly p0".

**Usual regressions.** The truncated prior expects every probability above p0 alike, and pays for
it where it matters most: with a candidate that fails about twice as often as the baseline.
`log_excess` therefore mixes it with four relative risks r (`RISKS`), under which an event falls on
the candidate with the odds r p0/(1 - p0); the last one stands for "on the candidate alone". A
mixture of martingales with weights fixed in advance is one, and each r > 1 is a supermartingale
under every smaller probability, so nothing changes about the error. A regression from 5 to 10 % at
a share of 10 % is found with a fifth fewer failures (docs/statistics.md).

**Changing shares.** Events that have the same null probability form a segment; the product of
the segments' E is a martingale, because each event's factor (predictive probability over null
probability) has the mean 1 given everything before it. It does not matter how segments interleave.

**Regressions that begin late.** A long quiet time makes the product small, and what happens later
must first make up for it. The evidence is therefore the mixture

    E = (1/K) sum over k of  product over j >= k of E_j

over the segment k in which the regression may begin. Each of the K products is a martingale that
starts at 1 (segment j < k contributes the factor 1), and so is their average, since the weights
1/K are fixed in advance. A segment that has not begun counts as 1. If more segments come than the K
that were announced, they multiply into all products and open no new one: the weights never change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TINY = 1e-300
PRECISION = 1e-14
SHARES_OFF = 1e-9
"""So far from 1 may the sum of shares be."""

WIDE = 0.15
"""The weight of the truncated uniform prior in `log_excess`."""

RISKS = ((1.5, 0.10), (2.0, 0.40), (4.0, 0.15), (1000.0, 0.20))
"""Relative risks in `log_excess` and their weights; with `WIDE` these add up to 1."""

LARGEST_EXPONENT = 700.0
"""e to this power is still a float."""


def log_beta(a: float, b: float) -> float:
    """The natural logarithm of the beta function B(a, b); a, b > 0."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def log_beta_cdf(a: float, b: float, x: float) -> float:
    """ln I_x(a, b), the regularised incomplete beta function: DLMF 8.17.22 (continued fraction).

    a, b > 0 and 0 <= x <= 1. Never overflows or underflows: the result is -inf only for x = 0.
    """
    if x <= 0:
        return -math.inf
    if x >= 1:
        return 0.0
    front = a * math.log(x) + b * math.log1p(-x) - log_beta(a, b)
    if x < (a + 1) / (a + b + 2):
        return min(0.0, front - math.log(a) + math.log(_fraction(a, b, x)))
    other = math.exp(min(0.0, front - math.log(b) + math.log(_fraction(b, a, 1 - x))))
    return math.log1p(-min(other, 1 - PRECISION))


def _fraction(a: float, b: float, x: float) -> float:
    """1/(1 + d1/(1 + d2/(1 + ...))) by the modified Lentz method (Thompson and Barnett 1986)."""
    rounds = 500 + int(20 * math.sqrt(a + b))  # it needs about the root of the larger one
    c = 1.0
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, rounds):
        for coefficient in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + coefficient * d)
            c = _away_from_zero(1 + coefficient / c)
            step = c * d
            value *= step
        if abs(step - 1) < PRECISION:
            return value
    raise ArithmeticError(f"the incomplete beta function did not converge at {a}, {b}, {x}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def log_evidence(
    s1: int, s0: int, null: float, *, a: float = 1.0, b: float = 1.0, one_sided: bool = True
) -> float:
    """ln E after `s1` events on the candidate (or events) and `s0` elsewhere (or non-events).

    `null` is the probability, 0 < null < 1, of the first kind under the null hypothesis; the prior
    is Beta(a, b), truncated to (null, 1) when `one_sided`. Raises ValueError for counts below zero
    and for a null probability of 0 or 1, under which there is nothing to test.
    """
    if not 0 < null < 1:
        raise ValueError(f"the null probability must lie between 0 and 1, not {null}")
    if s1 < 0 or s0 < 0:
        raise ValueError(f"counts cannot be negative: {s1}, {s0}")
    if s1 == s0 == 0:
        return 0.0
    value = log_beta(a + s1, b + s0) - log_beta(a, b)
    value -= s1 * math.log(null) + s0 * math.log1p(-null)
    if one_sided:
        value += log_beta_cdf(b + s0, a + s1, 1 - null) - log_beta_cdf(b, a, 1 - null)
    return value


def log_excess(s1: int, s0: int, null: float) -> float:
    """ln E that more than `null` of the events fall on the candidate: see "Usual regressions".

    Arguments and errors are those of `log_evidence`.
    """
    parts = [math.log(WIDE) + log_evidence(s1, s0, null)]
    for risk, weight in RISKS:
        scale = math.log1p(null * (risk - 1))  # of the odds: r p0 and 1 - p0 are to add up to 1
        parts.append(math.log(weight) + s1 * math.log(risk) - (s1 + s0) * scale)
    return log_sum(parts)


def log_assignment_evidence(
    counts: Sequence[int], shares: Sequence[float], *, concentration: float | None = None
) -> float:
    """ln E against "units are assigned to the k arms with these shares" (sample-ratio check).

    The Dirichlet-multinomial Bayes factor of Lindon and Malek, which for two arms and the uniform
    prior is `log_evidence(..., one_sided=False)`. `concentration`: None for the uniform prior,
    which finds gross errors soonest; a large number c for the prior Dirichlet(c * shares), which
    looks closely around the shares. Raises ValueError for counts below zero, and unless there are
    as many shares as counts, at least two, all positive, with the sum 1.
    """
    if len(counts) != len(shares) or len(counts) < 2:
        raise ValueError(f"{len(counts)} counts and {len(shares)} shares: give two or more of each")
    if any(count < 0 for count in counts):
        raise ValueError(f"counts cannot be negative: {list(counts)}")
    if not all(share > 0 for share in shares) or abs(math.fsum(shares) - 1) > SHARES_OFF:
        raise ValueError(f"shares are positive and add up to 1, unlike {list(shares)}")
    if concentration is not None and not (math.isfinite(concentration) and concentration > 0):
        raise ValueError(f"a concentration is positive, not {concentration}")
    prior = [1.0 if concentration is None else concentration * share for share in shares]
    value = math.lgamma(math.fsum(prior)) - math.lgamma(math.fsum(prior) + sum(counts))
    for count, share, a in zip(counts, shares, prior, strict=True):
        value += math.lgamma(a + count) - math.lgamma(a) - count * math.log(share)
    return value


def log_mixture(segments: Sequence[float], planned: int) -> float:
    """ln of (1/K) sum_k prod_{j>=k} E_j, from each begun segment's ln E in order of appearance.

    `planned` is K >= 1, fixed before the first event.
    """
    if planned < 1:
        raise ValueError(f"at least one segment must be planned, not {planned}")
    products: list[float] = []
    total = 0.0
    for index in range(len(segments) - 1, -1, -1):
        total += segments[index]
        if index < planned:
            products.append(total)
    products.extend([0.0] * (planned - len(segments)))
    return log_sum(products) - math.log(planned)


def log_sum(values: Sequence[float]) -> float:
    """ln of the sum of e^value, without overflow; -inf for no values."""
    if not values:
        return -math.inf
    highest = max(values)
    if math.isinf(highest):
        return highest
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def as_evidence(log_value: float) -> float:
    """E itself from its logarithm, capped where a float ends (about 1e304)."""
    return math.exp(min(log_value, LARGEST_EXPONENT))
