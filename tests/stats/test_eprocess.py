from __future__ import annotations

import math
import random
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from aura.stats.eprocess import (
    RISKS,
    WIDE,
    as_evidence,
    log_assignment_evidence,
    log_beta_cdf,
    log_evidence,
    log_excess,
    log_mixture,
    log_sum,
)

cached = cache(log_evidence)


@pytest.mark.parametrize(
    ("a", "b", "x", "expected"),  # scipy.special.betainc
    [
        (2, 3, 0.25, 0.26171875),
        (0.5, 0.5, 0.3, 0.36901011956554536),
        (5, 1, 0.9, 0.5904900000000001),
        (1, 21, 0.05, 0.659438373711885),
        (21, 151, 0.1, 0.1905140620951906),
        (200, 1000, 0.2, 0.9985039919583307),
        (30.5, 2.25, 0.85, 0.053627640501479654),
        (1, 1, 0.7, 0.7),
    ],
)
def test_the_incomplete_beta_function(a: float, b: float, x: float, expected: float) -> None:
    assert math.exp(log_beta_cdf(a, b, x)) == pytest.approx(expected, rel=1e-12)


def test_the_incomplete_beta_function_far_out() -> None:
    # mpmath with 40 digits
    assert log_beta_cdf(1000, 10, 0.5) == pytest.approx(-649.96365451073711597, rel=1e-13)
    # symmetric, hence one half
    assert log_beta_cdf(1e6, 1e6, 0.5) == pytest.approx(math.log(0.5), abs=1e-6)
    assert log_beta_cdf(2, 3, 0) == -math.inf
    assert log_beta_cdf(2, 3, 1) == 0


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0.001, 0.999))
def test_both_tails_add_up_to_one(a: float, b: float, x: float) -> None:
    both = math.exp(log_beta_cdf(a, b, x)) + math.exp(log_beta_cdf(b, a, 1 - x))
    assert both == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("share", "failures", "evidence"),
    [(0.05, 2, 400 / 3), (0.20, 4, 125.0), (0.50, 11, 2**11 / 12)],
)
def test_failures_of_the_candidate_alone_until_a_hundredfold(
    share: float, failures: int, evidence: float
) -> None:
    """By hand: B(1 + n, 1) / share^n = 1 / ((n + 1) share^n)."""
    reached = math.exp(log_evidence(failures, 0, share, one_sided=False))
    assert reached == pytest.approx(evidence)
    assert reached >= 100 > math.exp(log_evidence(failures - 1, 0, share, one_sided=False))


def test_the_truncated_prior_by_hand() -> None:
    """Two events at a share of 1/2: the integral of p^2 over (1/2, 1), normalised, over 1/4."""
    expected = (1 - 0.5**3) / 3 / 0.5 / 0.25
    assert math.exp(log_evidence(2, 0, 0.5)) == pytest.approx(expected)


def test_the_usual_regressions_by_hand() -> None:
    """Three failures, the first two on the candidate, at a share of 1/4: each risk r has the
    probability q = r/(3 + r), and the events the ratio (q / 0.25)^2 (1 - q)/0.75."""
    expected = WIDE * math.exp(log_evidence(2, 1, 0.25))
    for risk, weight in RISKS:
        q = risk / (3 + risk)
        expected += weight * (q / 0.25) ** 2 * (1 - q) / 0.75
    assert math.exp(log_excess(2, 1, 0.25)) == pytest.approx(expected)
    assert WIDE + sum(weight for _, weight in RISKS) == pytest.approx(1)
    assert log_excess(0, 0, 0.25) == pytest.approx(0)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.999), st.floats(0, 1))
def test_excess_is_a_martingale_at_the_null_and_falls_below_it(
    s1: int, s0: int, null: float, part: float
) -> None:
    now = log_excess(s1, s0, null)
    up = math.exp(log_excess(s1 + 1, s0, null) - now)
    down = math.exp(log_excess(s1, s0 + 1, null) - now)
    assert null * up + (1 - null) * down == pytest.approx(1, rel=1e-6)
    assert null * part * up + (1 - null * part) * down <= 1 + 1e-6


@pytest.mark.parametrize(("share", "failures"), [(0.05, 2), (0.1, 3), (0.2, 4), (0.5, 9)])
def test_a_candidate_that_fails_alone_trips_as_soon_as_with_the_truncated_prior(
    share: float, failures: int
) -> None:
    for test in (log_excess, log_evidence):
        assert test(failures, 0, share) >= math.log(100) > test(failures - 1, 0, share)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.999))
def test_one_more_event_has_the_mean_one(s1: int, s0: int, null: float) -> None:
    """The martingale property itself."""
    for one_sided in (False, True):
        now = log_evidence(s1, s0, null, one_sided=one_sided)
        up = log_evidence(s1 + 1, s0, null, one_sided=one_sided) - now
        down = log_evidence(s1, s0 + 1, null, one_sided=one_sided) - now
        mean = null * math.exp(up) + (1 - null) * math.exp(down)
        assert mean == pytest.approx(1, rel=1e-6)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.01, 0.99), st.floats(0, 1))
def test_one_sided_evidence_does_not_grow_under_a_smaller_rate(
    s1: int, s0: int, null: float, part: float
) -> None:
    truth = null * part
    now = log_evidence(s1, s0, null)
    up = math.exp(log_evidence(s1 + 1, s0, null) - now)
    down = math.exp(log_evidence(s1, s0 + 1, null) - now)
    assert truth * up + (1 - truth) * down <= 1 + 1e-6


def test_ten_million_events_do_not_overflow() -> None:
    assert math.isfinite(log_evidence(5_000_000, 5_000_000, 0.5))
    assert math.isfinite(log_evidence(10, 10_000_000, 0.5))
    assert math.isfinite(log_evidence(0, 10_000_000, 0.0001))
    surest = log_evidence(10_000_000, 0, 0.0001)
    assert surest > 1e7
    assert math.isfinite(as_evidence(surest))


@pytest.mark.parametrize("null", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_a_null_without_a_question_is_refused(null: float) -> None:
    with pytest.raises(ValueError, match="null probability"):
        log_evidence(1, 1, null)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        log_evidence(-1, 0, 0.5)
    with pytest.raises(ValueError, match="planned"):
        log_mixture([0.0], 0)


def test_the_mixture_by_hand() -> None:
    segments = [math.log(0.1), math.log(50.0)]
    # starts in the 1st: 0.1 * 50; in the 2nd: 50; in the 3rd and 4th, which have not begun: 1
    assert math.exp(log_mixture(segments, 4)) == pytest.approx((5 + 50 + 1 + 1) / 4)
    # more segments than planned multiply into those that were
    assert math.exp(log_mixture(segments, 1)) == pytest.approx(5)
    assert log_mixture([], 3) == pytest.approx(0)


def test_sums_of_logarithms() -> None:
    assert log_sum([]) == -math.inf
    assert log_sum([-math.inf]) == -math.inf
    assert log_sum([1e6, 1e6]) == pytest.approx(1e6 + math.log(2))


STREAMS = 2000
ALPHA = 0.05


def ever_trips(seed: int, shares: list[float], events: int, *, one_sided: bool) -> bool:
    """One null stream with as many events at each share, looked at after every event."""
    generator = random.Random(seed)
    logs: list[float] = []
    for share in shares:
        s1 = s0 = 0
        logs.append(0.0)
        for _ in range(events):
            if generator.random() < share:
                s1 += 1
            else:
                s0 += 1
            logs[-1] = cached(s1, s0, share, one_sided=one_sided)
            if log_mixture(logs, len(shares)) >= -math.log(ALPHA):
                return True
    return False


@pytest.mark.parametrize(
    ("shares", "events", "one_sided"),
    [([0.05], 150, True), ([0.2], 150, True), ([0.5], 150, False), ([0.05, 0.25, 0.5], 40, True)],
    ids=str,
)
def test_type_one_error_under_continuous_peeking(
    shares: list[float], events: int, one_sided: bool
) -> None:
    trips = sum(ever_trips(seed, shares, events, one_sided=one_sided) for seed in range(STREAMS))
    assert trips <= ALPHA * STREAMS


def test_a_late_regression_is_found_sooner_by_the_mixture() -> None:
    """100 quiet events at 10 %, then at 25 % each event is the candidate's."""
    quiet = log_evidence(5, 95, 0.1)
    needed = 0
    while log_mixture([quiet, log_evidence(needed, 0, 0.25)], 5) < math.log(100):
        needed += 1
    alone = 0
    while quiet + log_evidence(alone, 0, 0.25) < math.log(100):
        alone += 1
    assert needed <= 6
    assert needed < alone


# ------------------------------------------------------------------ sample ratios


def test_a_sample_ratio_of_1000_to_1200_beside_chi_square() -> None:
    """By hand: B(1001, 1201) 2^2200; scipy's chi-square is the oracle that looks once."""
    counts = [1000, 1200]
    assert chisquare(counts).pvalue == pytest.approx(2.0079e-5, rel=1e-4)
    ours = log_assignment_evidence(counts, [0.5, 0.5])
    by_hand = math.log(math.comb(2200, 1000) * 2201)
    assert ours == pytest.approx(2200 * math.log(2) - by_hand)
    assert math.exp(ours) == pytest.approx(239.05, rel=1e-4)
    assert ours == pytest.approx(log_evidence(1000, 1200, 0.5, one_sided=False))
    # a prior that looks closely around one half: the p-value 1/E is 0.0014, valid at every look
    close = log_assignment_evidence(counts, [0.5, 0.5], concentration=500)
    assert math.exp(-close) == pytest.approx(0.001397, rel=1e-3)


@given(
    st.lists(st.integers(0, 200), min_size=3, max_size=5),
    st.sampled_from([None, 1.0, 50.0]),
)
def test_one_more_assignment_has_the_mean_one(counts: list[int], close: float | None) -> None:
    shares = [2 / (len(counts) + 1)] + [1 / (len(counts) + 1)] * (len(counts) - 1)
    now = log_assignment_evidence(counts, shares, concentration=close)
    mean = 0.0
    for arm, share in enumerate(shares):
        more = [count + (i == arm) for i, count in enumerate(counts)]
        mean += share * math.exp(log_assignment_evidence(more, shares, concentration=close) - now)
    assert mean == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ([1, 2], [1.0], "2 counts and 1 shares"),
        ([1], [1.0], "two or more"),
        ([1, -1], [0.5, 0.5], "negative"),
        ([1, 1], [0.5, 0.6], "add up to 1"),
        ([1, 1], [1.0, 0.0], "positive"),
        ([1, 1], [math.nan, 0.5], "positive"),
    ],
)
def test_assignments_that_cannot_be_are_refused(
    counts: list[int], shares: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        log_assignment_evidence(counts, shares)
    with pytest.raises(ValueError, match="concentration"):
        log_assignment_evidence([1, 1], [0.5, 0.5], concentration=0)
