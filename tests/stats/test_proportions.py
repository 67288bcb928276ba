"""Exact confidence sequences for rates, their difference and their ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.stats import betabinom, binom

from aura.stats import means
from aura.stats.proportions import (
    Counts,
    difference,
    log_e_difference,
    log_e_rate,
    rate,
    ratio,
)

COUNTS = st.integers(0, 400).flatmap(lambda n: st.integers(0, n).map(lambda s: Counts(s, n)))


@given(COUNTS, st.floats(0.01, 0.99), st.floats(0.5, 500))
def test_the_evidence_is_scipys_beta_binomial(counts: Counts, p: float, weight: float) -> None:
    """The predictive probability of the counts over their probability under p."""
    expected = betabinom.logpmf(counts.events, counts.n, weight * p, weight * (1 - p))
    expected -= binom.logpmf(counts.events, counts.n, p)
    assert log_e_rate(counts, p, weight=weight) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(COUNTS, st.floats(0.01, 0.99), st.floats(0.5, 500))
def test_one_more_unit_has_the_mean_one(counts: Counts, p: float, weight: float) -> None:
    now = log_e_rate(counts, p, weight=weight)
    hit = log_e_rate(Counts(counts.events + 1, counts.n + 1), p, weight=weight) - now
    miss = log_e_rate(Counts(counts.events, counts.n + 1), p, weight=weight) - now
    assert p * math.exp(hit) + (1 - p) * math.exp(miss) == pytest.approx(1, rel=1e-6)


def test_the_bounds_of_a_rate_are_where_the_evidence_reaches_the_limit() -> None:
    counts, weight = Counts(50, 1000), 1000 / (means.boundary(0.05) ** 2 - 1) - 1
    found = rate(counts, 0.05, planned=1000)

    def beyond(p: float) -> float:
        return log_e_rate(counts, p, weight=weight) + math.log(0.05)

    assert found.low == pytest.approx(brentq(beyond, 1e-6, 0.05), rel=1e-6)
    assert found.high == pytest.approx(brentq(beyond, 0.05, 0.5), rel=1e-6)
    assert found.estimate == 0.05
    # the normal approximation: 3.04 standard errors at the planned number of units
    error = math.sqrt(0.05 * 0.95 / 1000)
    assert found.width / 2 == pytest.approx(means.boundary(0.05) * error, rel=0.03)


@pytest.mark.parametrize(
    ("events", "n", "low", "high"), [(0, 0, 0, 1), (1, 1, 0, 1), (0, 1, 0, 1), (0, 100, 0, None)]
)
def test_a_rate_at_the_edge(events: int, n: int, low: float, high: float | None) -> None:
    found = rate(Counts(events, n), 0.05, planned=1000)
    assert found.low == low
    assert 0.02 < found.high < 0.2 if high is None else found.high == high


@pytest.mark.parametrize(
    ("candidate", "baseline"),
    [((60, 1000), (450, 9000)), ((9, 30), (2, 40)), ((3, 1000), (0, 9000)), ((5, 5), (0, 5))],
)
def test_the_difference_is_the_extreme_of_all_possible_pairs(
    candidate: tuple[int, int], baseline: tuple[int, int]
) -> None:
    """Against scipy's constrained optimiser, over pairs (p1, p0) with E1 E0 below 1/alpha."""
    one, two, alpha, share = Counts(*candidate), Counts(*baseline), 0.05, 0.25
    shape = means.boundary(alpha) ** 2 - 1
    weights = [max(1.0, 10_000 * part / shape - 1) for part in (share, 1 - share)]

    def slack(p: list[float]) -> float:
        joint = log_e_rate(one, p[0], weight=weights[0]) + log_e_rate(two, p[1], weight=weights[1])
        return -math.log(alpha) - joint

    start = [min(max(each.rate, 0.001), 0.999) for each in (one, two)]
    for sign, found in (
        (-1, difference(one, two, alpha, share=share).high),
        (1, difference(one, two, alpha, share=share).low),
    ):
        extreme = minimize(
            lambda p, sign=sign: sign * (p[0] - p[1]),
            start,
            method="SLSQP",
            bounds=[(1e-9, 1 - 1e-9)] * 2,
            constraints={"type": "ineq", "fun": slack},
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert found == pytest.approx(extreme.x[0] - extreme.x[1], abs=2e-4)


@settings(max_examples=20)
@given(COUNTS, COUNTS)
def test_interval_and_evidence_of_a_difference_agree(one: Counts, two: Counts) -> None:
    found = difference(one, two, 0.05, planned=500)
    assert -1 <= found.low <= found.estimate <= found.high <= 1
    for edge in (found.low, found.high):
        if -0.999 < edge < 0.999:
            log_e = log_e_difference(one, two, 0.05, null=edge, planned=500)
            assert log_e == pytest.approx(-math.log(0.05), abs=1e-3)
    # swapped arms give the mirrored interval
    swapped = difference(two, one, 0.05, planned=500)
    assert swapped.low == pytest.approx(-found.high, abs=1e-6)


def test_the_price_of_exactness_is_an_eighth() -> None:
    one, two = Counts(2400, 12_000), Counts(2500, 12_500)

    def estimate(counts: Counts) -> means.Estimate:
        return means.Estimate(counts.rate, counts.rate * (1 - counts.rate), counts.n)

    usual = means.difference(estimate(one), estimate(two), 0.05, planned=24_500)
    exact = difference(one, two, 0.05, planned=24_500)
    assert 1.0 < exact.width / usual.width < 1.2


def test_ratios() -> None:
    one, two = Counts(60, 1000), Counts(450, 9000)
    found = ratio(one, two, 0.05, share=0.1)
    assert found.estimate == pytest.approx(1.2)
    assert found.low < 1 < 1.2 < found.high
    other = ratio(two, one, 0.05, share=0.9)
    assert other.low == pytest.approx(1 / found.high)
    assert other.high == pytest.approx(1 / found.low)
    none = ratio(Counts(0, 100), Counts(0, 900), 0.05)
    assert math.isnan(none.estimate)
    assert (none.low, none.high) == (0.0, math.inf)
    only = ratio(Counts(30, 100), Counts(0, 900), 0.05)
    assert only.estimate == only.high == math.inf
    assert only.low > 10


# ------------------------------------------------------------------ coverage


@pytest.mark.parametrize(("share", "p"), [(0.5, 0.05), (0.1, 0.02)])
def test_the_truth_is_left_out_with_a_probability_of_alpha_at_most(share: float, p: float) -> None:
    """A look after every event, from the first unit on; both arms have the same rate."""
    alpha, streams, units = 0.1, 300, 600
    generator = np.random.default_rng(4)

    @cache
    def excludes(s1: int, n1: int, s0: int, n0: int) -> bool:
        one, two = Counts(s1, n1), Counts(s0, n0)
        log_e = log_e_difference(one, two, alpha, planned=600, share=share)
        return log_e >= -math.log(alpha)

    missed = 0
    for _ in range(streams):
        on, hit = generator.random(units) < share, generator.random(units) < p
        looks = np.flatnonzero(hit)
        counts = np.stack([(hit & on).cumsum(), on.cumsum(), (hit & ~on).cumsum(), (~on).cumsum()])
        worst = np.abs(
            counts[0, looks] - counts[1, looks] * (counts[0] + counts[2])[looks] / (looks + 1)
        ) / np.sqrt(looks + 1)
        for look in looks[np.argsort(-worst)[:6]]:
            if excludes(*counts[:, look].tolist()):
                missed += 1
                break
    assert missed <= alpha * streams


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_what_makes_no_sense_is_refused(alpha: float) -> None:
    one = Counts(1, 10)
    questions: list[Callable[[], object]] = [
        lambda: rate(one, alpha),
        lambda: difference(one, one, alpha),
        lambda: ratio(one, one, alpha),
    ]
    for question in questions:
        with pytest.raises(ValueError, match="alpha"):
            question()
    with pytest.raises(ValueError, match="planned"):
        rate(one, 0.05, planned=0)
    with pytest.raises(ValueError, match="share"):
        difference(one, one, 0.05, share=1.0)
    with pytest.raises(ValueError, match="between -1 and 1"):
        log_e_difference(one, one, 0.05, null=math.nan)
    with pytest.raises(ValueError, match="rate lies"):
        log_e_rate(one, math.nan, weight=1)
    with pytest.raises(ValueError, match="weight"):
        log_e_rate(one, 0.5, weight=math.inf)
    with pytest.raises(ValueError, match="cannot be"):
        Counts(11, 10)
    with pytest.raises(ValueError, match="cannot be"):
        Counts(-1, 10)


def test_impossible_rates_have_infinite_evidence() -> None:
    assert log_e_rate(Counts(1, 10), 0.0, weight=1) == math.inf
    assert log_e_rate(Counts(9, 10), 1.0, weight=1) == math.inf
    assert log_e_rate(Counts(0, 10), 0.0, weight=1) == 0
