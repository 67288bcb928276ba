"""The gradual way back: down step by step, until the candidate is shown to be healthy again."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from aura.delivery.decide import RolloutState, apply, decide, start, weight_of
from aura.delivery.descent import Descent, health
from aura.delivery.evidence import ArmTally, Evidence
from aura.delivery.guard import Guard, Judgement
from aura.delivery.plan import Plan, parse_plan
from aura.errors import PlanError, RolloutError
from aura.stats.eprocess import log_evidence
from tests.delivery.worlds import Fate, planned, run, whats

GRADUAL = planned(
    "on_trip: gradual",
    "gradual: {steps: [75%, 50%, 25%, 10%], min_requests: 30, min_time: 10s, max_time: 2m}",
)
TOP = parse_plan(
    """
    rollout:
      name: w
      baseline: old
      candidate: new
      guards: [errors: {allowed: 10%}]
      stages: [100%]
      defaults: {min_requests: 100000, min_time: 30s, max_time: 3h}
      on_trip: gradual
      gradual: {min_requests: 30, min_time: 10s, max_time: 2m}
    """
)


def weights(found: object) -> list[float]:
    return [one.weight for one in found.history]  # type: ignore[attr-defined]


def test_overload_is_relieved_and_the_descent_stops_where_it_is_healthy() -> None:
    """It fails for a third of the requests above 40 % of the traffic, and not below."""
    found = run(TOP, lambda arm, weight, _: Fate(0.3 * (arm == "new" and weight > 0.4)), 600)
    assert whats(found) == ["descend", "descend", "descend", "hold"]
    assert weights(found) == [0.75, 0.5, 0.25, 0.25]
    assert (found.state, found.weight) == ("held", 0.25)
    assert "healthy again at 25.00%" in found.history[-1].reason
    assert "less than 10 % is to be shown" in found.history[-1].reason


def test_a_candidate_that_stays_broken_goes_all_the_way_down() -> None:
    found = run(TOP, lambda arm, *_: Fate(0.3 * (arm == "new")), 1_200)
    assert weights(found) == [0.75, 0.5, 0.25, 0.1, 0.0]
    assert whats(found)[-1] == "rollback"
    assert found.state == "rolled-back"


def test_a_hard_limit_that_is_broken_again_takes_the_rest_back_at_once() -> None:
    """The first time it begins the descent; in a step it ends it."""

    found = run(GRADUAL, lambda arm, weight, _: Fate(0.8 * (arm == "new" and weight >= 0.5)), 900)
    assert whats(found) == ["advance", "descend", "hold"]
    assert weights(found) == [0.5, 0.25, 0.25]
    worse = run(GRADUAL, lambda arm, _, after: Fate(0.8 * (arm == "new" and after > 135)), 300)
    assert whats(worse)[-2:] == ["descend", "rollback"]
    last = worse.history[-1]
    assert "in the gradual rollback: the rest at once" in last.reason
    assert last.at - worse.history[-2].at < 60


def test_without_traffic_a_step_ends_with_its_time_and_never_as_healthy() -> None:
    trip = Judgement("errors", "trip", 200.0, 100.0, "errors: bad", at=5.0)
    state = start(0.0)
    state = apply(state, decide(TOP, state, Evidence(50, 9, (trip,)), 10.0), 10.0)
    assert (state.status, state.step, state.guard) == ("descending", 0, "errors")
    seen, now = [0.75], 10.0
    while not state.ended:
        now += 60.0
        state = apply(state, decide(TOP, state, Evidence(0, 0, ()), now), now)
        if weight_of(TOP, state) != seen[-1]:
            seen.append(weight_of(TOP, state))
    assert seen == [0.75, 0.5, 0.25, 0.1, 0.0]
    assert (state.status, state.guard, now) == ("rolled-back", "errors", 490.0)


def test_the_first_step_is_the_next_one_below_the_weight() -> None:
    found = run(GRADUAL, lambda arm, *_: Fate(0.5 * (arm == "new")), 300)
    assert found.state == "rolled-back"  # at 10 % there is no step below
    assert whats(found) == ["rollback"]


def held_at(step: int) -> RolloutState:
    return RolloutState(2, "held", 0.0, step=step, guard="errors")


@pytest.mark.parametrize(
    ("order", "weight"), [("resume", 0.1), ("retry", 0.1), ("advance", 0.5), ("rollback", 0.0)]
)
def test_what_a_person_may_order_where_it_stopped(order: str, weight: float) -> None:
    """Stages are 10, 50 and 100 %, it stopped at 25 %."""
    state = replace(held_at(2), order=order)  # type: ignore[arg-type]
    after = apply(state, decide(GRADUAL, state, Evidence(0, 0, ()), 9.0), 9.0)
    assert weight_of(GRADUAL, after) == weight
    assert after.step is None


def test_orders_in_a_descent_are_void_but_hold_and_rollback() -> None:
    state = RolloutState(2, "descending", 0.0, step=1)
    for order in ("advance", "skip", "resume", "retry", "pause"):
        found = decide(GRADUAL, replace(state, order=order), Evidence(0, 0, ()), 5.0)
        assert "hold it first" in found.reason
    held = replace(state, order="hold")
    after = apply(held, decide(GRADUAL, held, Evidence(0, 0, ()), 5.0), 5.0)
    assert (after.status, weight_of(GRADUAL, after)) == ("held", 0.5)


def counted(requests: int, failed: int) -> ArmTally:
    tally = ArmTally(1.0)
    tally.requests, tally.failed, tally.late = requests, failed, failed
    return tally


def test_health_is_shown_and_not_assumed() -> None:
    """The figures of the documentation, and the formula beside them."""
    guard = Guard(kind="errors", alpha=0.01, allowed=0.1)
    first = next(n for n in range(500) if _shown(guard, n))
    assert first == 77
    assert log_evidence(first, 0, 0.9) >= math.log(400) > log_evidence(first - 1, 0, 0.9)
    strict = Guard(kind="errors", alpha=0.01, allowed=0.05)
    assert next(n for n in range(500) if _shown(strict, n)) == 158
    assert health(Guard(kind="assignment"), counted(500, 0), 4) is None
    late = Guard(kind="latency", sla=1.0, allowed=0.1)
    assert "were late" in str(health(late, counted(100, 50), 4))


def _shown(guard: Guard, requests: int) -> bool:
    found = health(guard, counted(requests, 0), 4)
    return found is not None and found.verdict == "pass"


def test_a_candidate_at_the_allowed_rate_is_hardly_ever_taken_for_healthy() -> None:
    """Looked at whenever it looks good, over 100 streams: alpha / steps is 0.25 % of them."""
    guard = Guard(kind="errors", alpha=0.01, allowed=0.1)
    wrong = 0
    for seed in range(100):
        dice, tally = random.Random(seed), ArmTally()
        for _ in range(800):
            tally.requests += 1
            tally.failed += dice.random() < 0.1
            good = tally.failed < 0.08 * tally.requests and tally.requests > 40
            found = health(guard, tally, 4) if good else None
            if found is not None and found.verdict == "pass":
                wrong += 1
                break
    assert wrong <= 1


def test_a_unit_counts_with_its_first_request_if_the_guard_says_so() -> None:
    guard = Guard(kind="errors", alpha=0.01, allowed=0.1, per="unit")
    tally = counted(1_000, 0)
    tally.units = {"a", "b"}
    found = health(guard, tally, 4)
    assert found is not None
    assert found.verdict == "not-enough"
    assert "0 of 2 units failed" in found.reason


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": ()},
        {"steps": (0.5, 0.75)},
        {"steps": (1.0, 0.5)},
        {"steps": (0.5, 0.0)},
        {"steps": (0.5, math.nan)},
        {"steps": (0.5, 0.00001)},
        {"min_time": 10.0, "max_time": 5.0},
        {"min_time": math.nan},
    ],
    ids=str,
)
def test_descents_that_do_not_fall(settings: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(PlanError):
        Descent(**settings)  # type: ignore[arg-type]


def test_it_needs_a_plan_that_has_the_step() -> None:
    plan: Plan = GRADUAL
    with pytest.raises(RolloutError, match="in step 7 of its rollback"):
        decide(plan, replace(held_at(2), step=7), Evidence(0, 0, ()), 0.0)
