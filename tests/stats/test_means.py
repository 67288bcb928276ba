"""Streaming moments, confidence sequences for means, CUPED and ratios."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import lambertw

from aura.stats import means
from aura.stats.means import (
    EARLIEST,
    Estimate,
    Moments,
    Pairs,
    Side,
    boundary,
    cuped,
    difference,
    log_e_of,
    log_e_value,
    mean,
    p_value,
    radius,
    relative,
)

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
PAIRS = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=40)


def moments(values: list[float]) -> Moments:
    found = Moments()
    for value in values:
        found.add(value)
    return found


def pairs(values: list[tuple[float, float]]) -> Pairs:
    found = Pairs()
    for x, y in values:
        found.add(x, y)
    return found


# ------------------------------------------------------------------ moments


@given(VALUES)
def test_moments_are_numpys(values: list[float]) -> None:
    found = moments(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    expected = np.var(values, ddof=1) if len(values) > 1 else 0.0
    assert found.variance == pytest.approx(expected, rel=1e-9, abs=1e-3)


@given(VALUES, VALUES)
def test_merged_and_taken_back(one: list[float], two: list[float]) -> None:
    both = moments(one).merge(moments(two))
    assert both.mean == pytest.approx(moments(one + two).mean, rel=1e-9, abs=1e-6)
    assert both.m2 == pytest.approx(moments(one + two).m2, rel=1e-9, abs=1e-2)
    back = moments(one + two)
    for value in two:
        back.remove(value)
    assert back.n == len(one)
    assert back.mean == pytest.approx(moments(one).mean, rel=1e-6, abs=1e-3)
    assert Moments().merge(Moments()).n == 0


def test_a_small_spread_far_from_zero_is_kept() -> None:
    found = moments([1e9 + value for value in (0.0, 1.0, 2.0)])
    assert found.variance == pytest.approx(1.0)


@given(PAIRS, PAIRS)
def test_covariances_are_numpys(
    one: list[tuple[float, float]], two: list[tuple[float, float]]
) -> None:
    whole = pairs(one + two)
    expected = np.cov(np.array(one + two).T)[0, 1]
    assert whole.covariance == pytest.approx(expected, rel=1e-6, abs=1e-3)
    assert pairs(one).merge(pairs(two)).covariance == pytest.approx(expected, rel=1e-6, abs=1e-3)
    for x, y in two:
        whole.remove(x, y)
    assert whole.covariance == pytest.approx(np.cov(np.array(one).T)[0, 1], rel=1e-6, abs=1e-2)


def test_json_round_trip() -> None:
    found = pairs([(1.0, 2.0), (3.0, 5.0), (4.0, 4.0)])
    again = Pairs.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert again.covariance == found.covariance
    with pytest.raises(ValueError, match="not moments"):
        Moments.from_dict({"n": 1})
    with pytest.raises(ValueError, match="not moments"):
        Moments.from_dict({"n": 1, "mean": math.nan, "m2": 0})
    with pytest.raises(ValueError, match="not pairs"):
        Pairs.from_dict({"x": {"n": 1, "mean": 0, "m2": 0}, "y": {"n": 2, "mean": 0, "m2": 0}})
    with pytest.raises(ValueError, match="not pairs"):
        Pairs(Moments(1), Moments(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Moments().add(value)
    with pytest.raises(ValueError, match="finite"):
        Pairs().add(1.0, value)
    with pytest.raises(ValueError, match="finite"):
        Pairs().add(value, 1.0)
    with pytest.raises(ValueError, match="finite"):
        Estimate(value, 1.0, 1)
    with pytest.raises(ValueError, match="variance"):
        Estimate(1.0, value, 1)
    with pytest.raises(ValueError, match="take back"):
        Moments().remove(1.0)


# ------------------------------------------------------------------ confidence sequences


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 1e-6])
def test_the_boundary_is_the_least_one(alpha: float) -> None:
    """Against Lambert's W (Waudby-Smith et al., appendix B.2) and by minimising the radius."""
    assert boundary(alpha) ** 2 == pytest.approx(-lambertw(-(alpha**2) / math.e, -1).real)

    def squared(logarithm: float) -> float:
        x = math.exp(logarithm)
        return (x + 1) / x * math.log((x + 1) / alpha**2)

    least = minimize_scalar(squared, bounds=(-3, 8), method="bounded")
    assert boundary(alpha) == pytest.approx(math.sqrt(least.fun), rel=1e-6)
    assert radius(5000, alpha, 5000) == pytest.approx(boundary(alpha))
    assert radius(500, alpha, 5000) > boundary(alpha) < radius(50_000, alpha, 5000)


def test_a_sequence_by_hand() -> None:
    """GrowthBook's documentation writes the same interval (Statistical details, sequential):
    mean +- s sqrt(N) sqrt(2 (N rho^2 + 1) / (N^2 rho^2) ln(sqrt(N rho^2 + 1) / alpha))."""
    n, alpha, planned, deviation = 4000, 0.05, 5000, 2.5
    rho2 = (boundary(alpha) ** 2 - 1) / planned
    inside = 2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha)
    found = mean(Estimate(10.0, deviation**2, n), alpha, planned=planned)
    assert found.high - 10 == pytest.approx(deviation * math.sqrt(inside))
    assert found.low == pytest.approx(20 - found.high)
    assert found.contains(10.0)
    assert not found.contains(found.high + 1e-9)
    assert found.width == pytest.approx(found.high - found.low)


def test_a_difference_has_both_arms_errors() -> None:
    one, two = Estimate(1.2, 4.0, 500), Estimate(1.0, 9.0, 4500)
    found = difference(one, two, 0.05, planned=5000)
    assert found.estimate == pytest.approx(0.2)
    assert found.width / 2 == pytest.approx(boundary(0.05) * math.sqrt(4 / 500 + 9 / 4500))
    assert found.n == 5000


def test_nothing_is_said_before_the_earliest_look() -> None:
    few, many = Estimate(1.0, 1.0, EARLIEST - 1), Estimate(1.0, 1.0, EARLIEST)
    assert mean(few, 0.05).width == difference(few, many, 0.05).width == math.inf
    assert log_e_value(few, many, 0.05) == 0
    assert difference(many, many, 0.05).width < math.inf
    assert mean(Estimate(0.0, 0.0, 0), 0.05).width == math.inf


@given(
    st.floats(-5, 5),
    st.floats(0.1, 10),
    st.integers(EARLIEST, 10**6),
    st.integers(EARLIEST, 10**6),
    st.sampled_from([0.2, 0.05, 0.001]),
)
def test_evidence_and_interval_agree(
    off: float, variance: float, n1: int, n0: int, alpha: float
) -> None:
    one, two = Estimate(off, variance, n1), Estimate(0.0, variance / 2, n0)
    found = difference(one, two, alpha)
    for edge in (found.low, found.high):
        assert log_e_value(one, two, alpha, null=edge) == pytest.approx(-math.log(alpha), rel=1e-6)
    assert log_e_value(one, two, alpha, null=found.estimate) < 0


def test_one_sided_evidence() -> None:
    """Half the prior on each side: the two sides' E have the mean of the two-sided one."""
    for z in (-40.0, -3.0, -0.2, 0.0, 1.0, 5.0):
        both, above, below = (
            log_e_of(z, 1.0, 1000, 0.05, side) for side in ("both", "above", "below")
        )
        assert np.logaddexp(above, below) - math.log(2) == pytest.approx(both)
        assert above >= below if z >= 0 else above < below


def test_without_spread_a_deviation_is_certain() -> None:
    one, two = Estimate(1.0, 0.0, 500), Estimate(0.0, 0.0, 500)
    assert log_e_value(one, two, 0.05) == math.inf
    assert log_e_value(one, two, 0.05, side="above") == math.inf
    assert log_e_value(one, two, 0.05, side="below") < 0
    assert log_e_value(one, two, 0.05, null=1.0) == 0
    assert p_value(math.inf) == 0


def test_p_values() -> None:
    assert p_value(math.log(100)) == pytest.approx(0.01)
    assert p_value(-5.0) == 1.0
    assert p_value(-math.inf) == 1.0


def test_relative_differences() -> None:
    """10 to 12 with 1 % and 2 % standard errors: ratio 1.2, variance by the delta method."""
    found = difference(*relative(Estimate(12.0, 5.76, 400), Estimate(10.0, 4.0, 400)), 0.05)
    assert found.estimate == pytest.approx(0.2)
    error = math.sqrt((5.76 + 1.2**2 * 4.0) / 400) / 10
    x = 800 * (boundary(0.05) ** 2 - 1) / 10_000
    expected = error * math.sqrt((x + 1) / x * math.log((x + 1) / 0.05**2))
    assert found.width / 2 == pytest.approx(expected)
    below = difference(*relative(Estimate(-12.0, 5.76, 400), Estimate(-10.0, 4.0, 400)), 0.05)
    assert (below.estimate, below.width) == pytest.approx((found.estimate, found.width))
    with pytest.raises(ValueError, match="is 0"):
        relative(Estimate(1.0, 1.0, 10), Estimate(0.0, 1.0, 10))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_levels_that_make_no_sense_are_refused(alpha: float) -> None:
    one = Estimate(0.0, 1.0, 1000)
    with pytest.raises(ValueError, match="alpha"):
        mean(one, alpha)
    with pytest.raises(ValueError, match="alpha"):
        difference(one, one, alpha)
    with pytest.raises(ValueError, match="planned"):
        mean(one, 0.05, planned=0)
    with pytest.raises(ValueError, match="finite"):
        log_e_value(one, one, 0.05, null=math.nan)
    with pytest.raises(ValueError, match="negative"):
        Estimate(0.0, 1.0, -1)


# ------------------------------------------------------------------ CUPED and ratios


def test_cuped_takes_away_what_the_past_explains() -> None:
    """y = 3 x + noise: the variance falls by corr^2, and the difference stays what it was."""
    generator = np.random.default_rng(1)
    arms = []
    for n, effect in ((500, 0.5), (4500, 0.0)):
        x = generator.normal(10, 2, n)
        arms.append(pairs(list(zip(x, 3 * x + generator.normal(effect, 4, n), strict=True))))
    found = cuped(*arms)
    assert found.theta == pytest.approx(3, abs=0.1)
    assert found.reduction == pytest.approx(36 / 52, abs=0.08)
    raw = difference(arms[0].y.estimate(), arms[1].y.estimate(), 0.05)
    now = difference(found.candidate, found.baseline, 0.05)
    assert now.width < 0.65 * raw.width
    assert now.contains(0.5)
    shifted = found.theta * (arms[0].x.mean - arms[1].x.mean)
    assert now.estimate == pytest.approx(raw.estimate - shifted)


def test_cuped_without_a_history_changes_nothing() -> None:
    one, two = pairs([(0.0, 1.0), (0.0, 3.0)]), pairs([(0.0, 2.0), (0.0, 5.0)])
    found = cuped(one, two)
    assert (found.theta, found.reduction) == (0.0, 0.0)
    assert found.candidate == one.y.estimate()


def test_ratios_have_the_delta_methods_error() -> None:
    """Against a simulation: clicks per session, by user, whose sessions vary."""
    generator = np.random.default_rng(2)
    sessions = generator.poisson(3, (2000, 400)) + 1
    clicks = generator.binomial(sessions, 0.2)
    ratios = clicks.sum(axis=1) / sessions.sum(axis=1)
    found = pairs(list(zip(sessions[0].astype(float), clicks[0].astype(float), strict=True)))
    estimate = found.ratio()
    assert estimate.value == pytest.approx(ratios[0])
    assert math.sqrt(estimate.variance / 400) == pytest.approx(ratios.std(), rel=0.1)
    with pytest.raises(ValueError, match="denominator"):
        pairs([(0.0, 1.0)]).ratio()


# ------------------------------------------------------------------ coverage


@pytest.mark.parametrize("kind", ["normal", "latency"])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_truth_is_left_out_with_a_probability_of_alpha_at_most(kind: str, share: float) -> None:
    """A look at every unit up to 5,000 units; the mean of latencies is skewed (log-normal)."""
    generator = np.random.default_rng(3)
    alpha, streams, units = 0.05, 400, 5000
    sides: tuple[Side, ...] = ("both", "above")
    missed = dict.fromkeys(sides, 0)
    for _ in range(streams):
        on = generator.random(units) < share
        values = generator.normal(0, 1, units)
        if kind == "latency":
            values = np.exp(0.6 * values)
        n1, n0 = on.cumsum(), (~on).cumsum()
        with np.errstate(all="ignore"):
            off = (values * on).cumsum() / n1 - (values * ~on).cumsum() / n0
            one = ((values**2 * on).cumsum() - (values * on).cumsum() ** 2 / n1) / (n1 - 1)
            two = ((values**2 * ~on).cumsum() - (values * ~on).cumsum() ** 2 / n0) / (n0 - 1)
            squared = one / n1 + two / n0
        looks = np.flatnonzero(np.minimum(n1, n0) >= EARLIEST)
        rho = math.sqrt((boundary(alpha) ** 2 - 1) / 5000)
        z = off[looks] / np.sqrt(squared[looks])
        at = int(looks[np.abs(z).argmax()])  # the worst looks are near the largest z
        for side in sides:
            for look in {at, int(looks[z.argmax()]), int(looks[0]), int(looks[-1])}:
                log_e = log_e_of(off[look], squared[look], look + 1, rho, side)
                if log_e >= -math.log(alpha):
                    missed[side] += 1
                    break
    assert max(missed.values()) <= alpha * streams


def test_a_published_implementations_values() -> None:
    """GrowthBook's gbstats (packages/stats/tests/frequentist/test_tests.py, sequential test): the
    relative difference of these two arms, tuned for 1,000 units, is 0.50336 with the interval
    (-0.55844, 1.56516). It tunes by an approximation of the same rho, so its rho is used here; with
    ours the interval is 0.14 % wider."""

    def arm(total: float, squares: float, n: int) -> Estimate:
        return Estimate(total / n, (squares - total * total / n) / (n - 1), n)

    candidate, baseline = relative(arm(2422.7, 134698.29, 3461), arm(1396.87, 52377.9767, 3000))
    alpha, n = 0.05, 6461
    rho = math.sqrt((-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / 1_000)
    squared = candidate.variance / candidate.n + baseline.variance / baseline.n
    found = means._around(candidate.value - baseline.value, squared, n, alpha, rho)
    assert round(found.estimate, 5) == 0.50336
    assert (round(found.low, 5), round(found.high, 5)) == (-0.55844, 1.56516)
    ours = difference(candidate, baseline, alpha, planned=1_000)
    assert ours.width == pytest.approx(found.width, rel=0.002)
