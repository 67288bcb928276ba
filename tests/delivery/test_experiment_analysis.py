"""What observations and rewards say, and what is concluded from it: pure, with made units."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.analysis import Analysis
from aura.delivery.conclude import Drop, End, ExperimentState, Given, conclude
from aura.delivery.decide import Continue, Hold
from aura.delivery.experiment import Experiment
from aura.delivery.forecast import Traffic, forecast
from aura.delivery.layers import Gate
from aura.delivery.reward import Reward
from aura.errors import CodecError, ConfigError
from tests.delivery.experiment_kit import (
    EXPERIMENT,
    MEAN,
    SPREAD,
    baskets,
    decided,
    folded,
    made,
    metric,
    observed,
    split_of,
)

ABC = made(arms=(("a", 0.4), ("b", 0.3), ("c", 0.3)))


# -- who wins ----------------------------------------------------------------------------------


def test_a_better_arm_wins_and_an_equal_one_does_not() -> None:
    won = decided(EXPERIMENT, folded(EXPERIMENT, 1_500, {"b": 0.15}))
    assert isinstance(won, End)
    assert (won.status, won.arm) == ("won", "b")
    assert "basket of b differs by +" in won.reason
    equal = made(primary=metric(effect=0.0))
    assert isinstance(decided(equal, folded(equal, 1_500)), Continue)
    over = decided(equal, folded(equal, 1_500), now=4_000.0)
    assert isinstance(over, End)
    assert (over.status, over.arm) == ("not-enough", "")


def test_an_aa_run_that_is_looked_at_all_the_time_rarely_finds_anything() -> None:
    """80 runs of 400 units each, judged again and again: at most alpha of them may ever find a
    difference. The bound allows for three standard errors of the count itself; peeking at a
    t-test as often would find one in a third of them."""
    equal = made(primary=metric(effect=0.0), secondary=(), guards=(), alpha=0.1)
    split = split_of(equal)
    false = 0
    for seed in range(80):
        dice = random.Random(seed)
        analysis, found = Analysis(equal, split), False
        for number in range(400):
            value = {"basket": dice.gauss(10, 3)}
            analysis.fold(number, observed(split, f"u{number}", value))
            if number > 200 and number % 10 == 0 and not found:
                found = analysis.findings().primary("b").verdict != "open"
        false += found
    assert false <= 0.1 * 80 + 3 * math.sqrt(80 * 0.1 * 0.9)


def test_chatty_units_weigh_as_much_as_others() -> None:
    """One unit that makes 5,000 requests decides nothing; a mean over requests would."""
    wide = made(primary=metric(horizon=100.0, effect=0.0), secondary=())
    split = split_of(wide)
    analysis = Analysis(wide, split)
    of = baskets({})
    units = [f"u{number}" for number in range(600)]
    for unit in units:
        analysis.fold(0.0, observed(split, unit, of(unit, "")))
    chatty = next(unit for unit in units if split.assign(unit) == "b")
    for number in range(5_000):
        analysis.fold(number / 100, observed(split, chatty, {"basket": 1_000.0}))
    analysis.settle(200.0)
    primary = analysis.findings().primary("b")
    assert primary.verdict == "open"
    assert primary.units + primary.baseline_units == 600
    assert analysis.findings().counters.requests == 5_600


def test_a_worse_arm_is_dropped_and_the_last_one_ends_it() -> None:
    worse = decided(EXPERIMENT, folded(EXPERIMENT, 1_500, {"b": -0.2}))
    assert isinstance(worse, End)
    assert worse.status == "harmed"
    assert "arm b does harm: it is worse" in worse.reason
    first = decided(ABC, folded(ABC, 3_000, {"c": -0.3}))
    assert isinstance(first, Drop)
    assert first.arm == "c"


def test_a_guard_that_trips_ends_it() -> None:
    found = decided(EXPERIMENT, folded(EXPERIMENT, 300, {"b": 0.5}, failing="b"))
    assert isinstance(found, End)
    assert found.status == "harmed"
    assert "errors" in found.reason
    assert isinstance(decided(EXPERIMENT, folded(EXPERIMENT, 100, failing="a")), Continue)


def test_the_best_of_several_wins() -> None:
    found = decided(ABC, folded(ABC, 4_000, {"b": 0.2, "c": 0.4}))
    assert isinstance(found, End)
    assert (found.status, found.arm) == ("won", "c")


def test_a_dropped_arm_stays_out_and_the_ratio_of_the_others_holds() -> None:
    split = split_of(ABC)
    analysis = Analysis(ABC, split)
    of = baskets({})
    units = [f"u{number}" for number in range(3_000)]
    for unit in units[:1_000]:
        analysis.fold(1.0, observed(split, unit, of(unit, "")))
    before = analysis.findings().ratio.units["c"]
    analysis.dropped, analysis.last = {"c": 2}, 2
    later = replace(split.with_weights({"c": 0.0}))
    for unit in units[1_000:]:
        analysis.fold(2.0, observed(later, unit, of(unit, "")))
    findings = analysis.findings()
    assert findings.ratio.units["c"] == before > 100
    assert not findings.ratio.tripped
    assert findings.ratio.evidence < 1
    inside = [unit for unit in units[1_000:] if split.assign(unit) != "c"]
    assert findings.counters.requests == 1_000 + len(inside)
    assert findings.counters.strays == 0


def test_an_outcome_of_one_request_is_compared_exactly() -> None:
    """From the first unit on, where means need a hundred in each arm."""
    rates = made(
        primary=metric(name="outcome", source="outcome", effect=0.0), guards=(), min_units=10
    )
    few = folded(rates, 60, failing="a").findings().primary("b")
    assert few.verdict == "better"
    assert few.low is not None and few.high is not None  # noqa: PT018
    assert 0 < few.low < few.difference == 1.0 == few.high
    assert few.p < 0.001
    same = folded(rates, 600).findings().primary("b")
    assert (same.verdict, same.difference) == ("open", 0.0)


# -- the sample ratio --------------------------------------------------------------------------


def test_lost_units_invalidate_the_result_whatever_it_says() -> None:
    split = split_of(EXPERIMENT)
    analysis = Analysis(EXPERIMENT, split)
    of = baskets({"b": 0.3})
    for number in range(3_000):
        unit = f"u{number}"
        arm = split.assign(unit)
        if arm == "b" and number % 4 == 0:
            continue  # whoever crashed there was never seen
        analysis.fold(float(number), observed(split, unit, of(unit, arm)))
    found = decided(EXPERIMENT, analysis)
    assert isinstance(found, End)
    assert found.status == "invalid"
    assert "units get lost" in found.reason


def test_the_published_case_of_a_wrong_ratio_trips() -> None:
    """1000 against 1200 at 50 %: chi-square says p = 2.0e-5; ours must say so at every look too."""
    split = split_of(EXPERIMENT)
    analysis = Analysis(EXPERIMENT, split)
    left = {"a": 1_000, "b": 1_200}
    number = 0
    while any(left.values()):
        unit = f"u{number}"
        number += 1
        arm = split.assign(unit)
        if left[arm]:
            left[arm] -= 1
            analysis.fold(1.0, observed(split, unit))
    ratio = analysis.findings().ratio
    assert dict(ratio.units) == {"a": 1_000, "b": 1_200}
    assert ratio.tripped == (ratio.evidence >= ratio.limit)
    assert 200 < ratio.evidence < 1_000  # an e-value costs more than one look's p of 2e-5


# -- what is left out --------------------------------------------------------------------------


def test_who_takes_no_part_is_counted_and_left_out() -> None:
    gate = Gate("l/", ((0, 5_000),))
    split = split_of(EXPERIMENT, gate=gate)
    analysis = Analysis(EXPERIMENT, split)
    units = [f"u{number}" for number in range(400)]
    for unit in units:
        analysis.fold(1.0, observed(split, unit, {"basket": 1.0}))
    inside = sum(map(gate.admits, units))
    one = next(unit for unit in units if gate.admits(unit))
    other = "b" if split.assign(one) == "a" else "a"
    analysis.fold(1.0, observed(split, one, arm=other))  # a process that had not heard of it
    analysis.fold(1.0, observed(split, "address:10.0.0.1"))
    analysis.fold(1.0, observed(split, one, shadow=True))
    analysis.fold(1.0, observed(split, one, epoch=0))
    analysis.fold(1.0, observed(split, one, epoch=9))
    analysis.fold(1.0, replace(observed(split, one), split="elsewhere"))
    analysis.refuse()
    counters = analysis.findings().counters
    assert (counters.requests, counters.outside) == (inside, 400 - inside)
    assert (counters.strays, counters.keyless, counters.refused) == (1, 1, 1)


def test_units_without_a_key_count_when_that_is_wanted() -> None:
    wanted = made(keyless="include")
    analysis = Analysis(wanted, split_of(wanted))
    analysis.fold(1.0, observed(split_of(wanted), "address:10.0.0.1"))
    assert analysis.findings().counters.requests == 1


def test_a_metric_that_never_arrives_is_told_and_holds() -> None:
    split = split_of(EXPERIMENT)
    analysis = Analysis(EXPERIMENT, split)
    for number in range(500):
        analysis.fold(1.0, observed(split, f"u{number}"))
    waits = decided(EXPERIMENT, analysis)
    assert isinstance(waits, Continue)
    assert "basket: no observation has a number of that name" in waits.reason
    over = decided(EXPERIMENT, analysis, now=1e6)
    assert isinstance(over, Hold)
    assert "no observation has a number of that name" in over.reason
    assert analysis.findings().counters.arrived == {"basket": 0, "latency": 500}


def test_no_traffic_at_all_holds_nothing_and_concludes_nothing() -> None:
    analysis = Analysis(EXPERIMENT, split_of(EXPERIMENT))
    assert isinstance(decided(EXPERIMENT, analysis), Continue)
    assert isinstance(decided(EXPERIMENT, analysis, now=1e6), Hold)


@pytest.mark.parametrize("extreme", [1e308, -1e308, 5e-324])
def test_extreme_numbers_break_nothing(extreme: float) -> None:
    split = split_of(EXPERIMENT)
    analysis = folded(EXPERIMENT, 600)
    for number in range(600, 900):
        analysis.fold(1.0, observed(split, f"u{number}", {"basket": extreme}))
    found = analysis.findings()
    assert math.isfinite(found.primary("b").difference)
    decided(EXPERIMENT, analysis)


# -- rewards -----------------------------------------------------------------------------------

REWARDED = made(
    primary=replace(
        metric(name="bought", source="reward", aggregate="sum", horizon=100.0, missing="zero")
    ),
    secondary=(),
)


def reward(unit: str, value: float = 1.0, id: str = "", name: str = "bought") -> Reward:
    return Reward(unit, name, value, id or f"{unit}/{value}")


def test_rewards_come_late_and_pending_units_wait_for_their_horizon() -> None:
    split = split_of(REWARDED)
    analysis = Analysis(REWARDED, split)
    for number in range(400):
        analysis.fold(10.0, observed(split, f"u{number}"))
    for number in range(0, 400, 2):
        analysis.reward(50.0, reward(f"u{number}", 4.0))
    analysis.settle(100.0)
    assert analysis.findings().primary("b").units == 0  # nobody's horizon is over
    analysis.reward(110.0, reward("u1", 8.0))
    analysis.reward(110.5, reward("u3", 8.0))  # too late
    analysis.settle(111.0)
    one = analysis.findings().primary("b")
    assert one.units + one.baseline_units == 400
    total = one.mean * one.units + one.baseline_mean * one.baseline_units
    assert total == pytest.approx(4.0 * 200 + 8.0)
    assert analysis.findings().counters.late_rewards == 1
    assert analysis.findings().counters.rewards == 201


def test_censored_units_count_nothing() -> None:
    censored = made(primary=replace(REWARDED.primary, missing="censored"), secondary=())
    split = split_of(censored)
    analysis = Analysis(censored, split)
    for number in range(400):
        analysis.fold(10.0, observed(split, f"u{number}"))
        if number % 2:
            analysis.reward(20.0, reward(f"u{number}", 3.0))
    analysis.settle(1e6)
    one = analysis.findings().primary("b")
    assert one.units + one.baseline_units == 200
    assert one.mean == one.baseline_mean == 3.0


def test_the_same_reward_counts_once_and_may_come_first() -> None:
    split = split_of(REWARDED)
    analysis = Analysis(REWARDED, split)
    analysis.reward(9.5, reward("u0", 5.0, "order-1"))
    analysis.reward(9.6, reward("u0", 5.0, "order-1"))
    analysis.reward(9.6, reward("u0", 2.0, "order-2"))
    analysis.reward(9.6, reward("u9", 2.0, "order-3"))
    analysis.reward(9.6, reward("u0", 1.0, "order-4", "tips"))
    assert analysis.findings().counters.unmatched == 3
    analysis.fold(10.0, observed(split, "u0"))
    analysis.settle(1e6)
    one = analysis.findings().primary("b")
    assert max(one.mean, one.baseline_mean) == 7.0
    counters = analysis.findings().counters
    assert (counters.rewards, counters.unmatched, counters.unknown_rewards) == (2, 1, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True])
def test_rewards_that_are_no_numbers_are_refused(value: object) -> None:
    with pytest.raises(CodecError):
        Reward("u", "m", value, "i")  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"unit":1,"metric":"m","value":1,"id":"i"}'])
def test_stored_rewards_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(CodecError):
        Reward.from_json(body)


@given(st.text(min_size=1), st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False))
def test_rewards_come_back(unit: str, name: str, value: float) -> None:
    one = Reward(unit, name, value, "id")
    assert Reward.from_json(one.to_json()) == one


# -- covariates --------------------------------------------------------------------------------


def test_what_units_did_before_makes_the_intervals_narrower() -> None:
    split = split_of(EXPERIMENT)
    plain, better = Analysis(EXPERIMENT, split), Analysis(EXPERIMENT, split)
    seen = []
    for number in range(1_000):
        unit = f"u{number}"
        dice = random.Random(unit)
        habit = dice.gauss(MEAN, SPREAD)
        if number % 10:  # the others are new
            past = {"basket": habit + dice.gauss(0, 0.5)}
            better.fold_before(observed(split, unit, past, epoch=0))
        lift = 0.3 if split.assign(unit) == "b" else 0.0
        seen.append(observed(split, unit, {"basket": habit + lift + dice.gauss(0, 0.5)}))
    for one in seen:
        plain.fold(1.0, one)
        better.fold(1.0, one)
    first, second = plain.findings().primary("b"), better.findings().primary("b")
    assert first.reduction == 0
    assert second.reduction > 0.6
    assert first.high is not None and first.low is not None  # noqa: PT018
    assert second.high is not None and second.low is not None  # noqa: PT018
    assert second.high - second.low < 0.65 * (first.high - first.low)
    assert second.low < 0.3 < second.high
    assert (first.verdict, second.verdict) == ("open", "better")


# -- conclusions -------------------------------------------------------------------------------


def test_an_arm_that_cannot_reach_the_effect_any_more_ends_it() -> None:
    small = made(primary=metric(effect=0.3))
    found = decided(small, folded(small, 2_000))
    assert isinstance(found, End)
    assert (found.status, found.reason) == (
        "no-effect", "no arm can still improve basket by 30 %",
    )  # fmt: skip


def test_a_winner_that_is_worse_on_another_metric_is_held() -> None:
    split = split_of(EXPERIMENT)
    analysis = Analysis(EXPERIMENT, split)
    of = baskets({"b": 0.2})
    for number in range(1_500):
        unit = f"u{number}"
        arm = split.assign(unit)
        slow = random.Random(unit).gauss(0.1, 0.01) + (0.05 if arm == "b" else 0.0)
        analysis.fold(1.0, observed(split, unit, of(unit, arm), latency=max(0.0, slow)))
    found = decided(EXPERIMENT, analysis)
    assert isinstance(found, Hold)
    assert "worse on latency" in found.reason


def test_who_asks_to_hold_is_asked() -> None:
    asked = made(on_win="hold")
    found = decided(asked, folded(asked, 1_500, {"b": 0.15}))
    assert isinstance(found, Hold)
    held = decided(asked, folded(asked, 1_500, {"b": 0.15}), status="held")
    assert isinstance(held, Continue)
    promoted = decided(asked, folded(asked, 10), given=Given(1, "promote", "b"), status="held")
    assert promoted == End("won", "promoted by the operator", "b")


def test_nothing_is_concluded_before_its_time_but_harm() -> None:
    slow = made(min_time=100.0, max_time=200.0)
    assert isinstance(decided(slow, folded(slow, 1_500, {"b": 0.15})), Continue)
    assert isinstance(decided(slow, folded(slow, 1_500, {"b": -0.15})), End)
    many = made(min_units=5_000, on_not_enough="hold")
    assert isinstance(decided(many, folded(many, 1_500, {"b": 0.15})), Continue)
    assert isinstance(decided(many, folded(many, 1_500, {"b": 0.15}), now=1e9), Hold)


orders = st.builds(
    Given,
    seq=st.integers(0, 9),
    order=st.sampled_from([None, "stop", "promote"]),
    arm=st.sampled_from(["", "a", "b", "c", "x"]),
)
states = st.builds(
    ExperimentState,
    status=st.sampled_from(["running", "held", "won", "harmed", "invalid", "stopped"]),
    began=st.floats(-1e9, 1e9),
    dropped=st.sampled_from([(), (("b", 2),), (("b", 2), ("c", 3))]),
)
FOUND = {
    lift: folded(ABC, 900, {"b": lift, "c": -lift}).findings() for lift in (-0.4, 0.0, 0.4)
}  # fmt: skip


@given(states, orders, st.floats(-1e12, 1e12), st.sampled_from(sorted(FOUND)))
def test_conclude_is_total(state: ExperimentState, order: Given, now: float, lift: float) -> None:
    found = conclude(ABC, state, FOUND[lift], now, order)
    assert found.reason
    if state.ended:
        assert isinstance(found, Continue)
    if isinstance(found, End) and found.status == "won":
        assert found.arm in state.live(ABC)
    if isinstance(found, Drop):
        assert found.arm in state.live(ABC)
    if order.order == "stop" and not state.ended:
        assert isinstance(found, End)


def test_folding_again_gives_the_same() -> None:
    assert folded(ABC, 900, {"b": 0.1}).findings() == folded(ABC, 900, {"b": 0.1}).findings()


# -- forecasts ---------------------------------------------------------------------------------


def test_a_forecast_from_what_was_seen() -> None:
    two_weeks: Experiment = made(max_time=14 * 86400.0)
    split = split_of(two_weeks)
    of = baskets({})
    before = [
        observed(split, f"u{number}", of(f"u{number}", ""), at=number * 864.0)
        for number in range(1_000)
    ]
    found = forecast(two_weeks, before)
    assert found.traffic is not None
    assert found.traffic.mean == pytest.approx(MEAN, rel=0.05)
    assert found.traffic.spread == pytest.approx(SPREAD, rel=0.1)
    assert found.traffic.per_day == pytest.approx(100, rel=0.01)
    (arm,) = found.arms
    assert arm.effect == pytest.approx(1.0, rel=0.05)
    assert arm.detectable is not None and 0.5 < arm.detectable < 0.7  # noqa: PT018
    assert arm.units is not None and 400 < arm.units < 700  # noqa: PT018
    assert arm.days is not None and arm.full_days is not None  # noqa: PT018
    assert arm.days < arm.full_days < 7
    assert arm.in_time
    assert found.flaws == ()


def test_forecasts_say_what_is_missing() -> None:
    nothing = forecast(EXPERIMENT, [])
    assert nothing.traffic is None
    assert "--per-day" in nothing.flaws[0]
    slow = forecast(EXPERIMENT, [], Traffic(10.0, 3.0, 10.0))
    assert "needs" in slow.flaws[0]
    aimless = forecast(made(primary=metric(effect=0.0)), [], Traffic(10.0, 3.0, 1e6))
    assert "no smallest effect" in aimless.flaws[0]
    same = [observed(split_of(EXPERIMENT), f"u{n}", {"basket": 1.0}) for n in range(50)]
    assert "the same for all 50 units" in forecast(EXPERIMENT, same).flaws[0]
    for wrong in ((math.nan, 1, 1), (1, 0, 1), (1, 1, math.inf)):
        with pytest.raises(ConfigError):
            Traffic(*wrong)


def test_bounds_that_say_nothing_are_none() -> None:
    one = folded(EXPERIMENT, 3).findings().primary("b")  # JSON has no infinity
    assert (one.low, one.high, one.relative_low) == (None, None, None)
