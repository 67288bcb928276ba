from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.delivery.approval import ApprovalRule, Said
from aura.delivery.decide import (
    ORDERS,
    Advance,
    Approve,
    Ask,
    Complete,
    Continue,
    Decision,
    Descend,
    Hold,
    Order,
    Rollback,
    RolloutState,
    Status,
    answer,
    apply,
    decide,
    layout,
    start,
    weight_of,
)
from aura.delivery.evidence import Evidence
from aura.delivery.guard import Judgement, Kind, Verdict
from aura.delivery.plan import OnNotEnough, OnTrip, Pair, Plan, parse_plan
from aura.delivery.split import Arm, Split
from aura.delivery.windows import Window
from aura.errors import RolloutError

PLAN = parse_plan(
    """
    rollout:
      name: r
      baseline: old
      candidate: new
      sla: 1s
      guards: [errors, latency, differences]
      stages:
        - shadow: {sample: 50%}
        - 10%
        - 33.33%: {min_units: 5}
        - 100%
      defaults: {min_requests: 30, min_time: 10s, max_time: 100s}
    """
)
LAST = len(PLAN.stages) - 1


def says(guard: Kind, verdict: Verdict = "pass", at: float = 0.0) -> Judgement:
    return Judgement(guard, verdict, evidence=1.0, limit=300.0, reason=f"{guard}: why", at=at)


def evidence(
    requests: int = 30,
    units: int = 5,
    errors: Verdict = "pass",
    latency: Verdict = "pass",
    differences: Verdict = "pass",
    health: tuple[Judgement, ...] = (),
) -> Evidence:
    judgements = (
        says("errors", errors, at=7.0),
        says("latency", latency, at=5.0),
        says("differences", differences, at=9.0),
    )
    return Evidence(requests, units, judgements, health)


def running(stage: int = 1, order: Order | None = None) -> RolloutState:
    return RolloutState(stage, "running", entered_at=1000.0, order=order)


def held(stage: int = 1, order: Order | None = None) -> RolloutState:
    return RolloutState(stage, "held", entered_at=1000.0, order=order)


def test_a_stage_with_its_evidence_advances() -> None:
    assert decide(PLAN, running(0), evidence(), 1010.0) == Advance(
        1, "stage shadow has its evidence: 30 requests of 5 units on the candidate"
    )
    assert isinstance(decide(PLAN, running(LAST), evidence(), 1010.0), Complete)


@pytest.mark.parametrize(
    ("stage", "seen", "now", "waits_for"),
    [
        (1, evidence(requests=29), 1010.0, "1 more request of the candidate"),
        (2, evidence(units=3), 1010.0, "2 more units on the candidate"),
        (1, evidence(), 1008.5, "1.5 s more in the stage"),
        (1, evidence(), 0.0, "10 s more in the stage"),
        (1, evidence(), math.nan, "10 s more in the stage"),
        (1, evidence(latency="not-enough"), 1010.0, "a verdict (latency: why)"),
        (0, evidence(differences="not-enough"), 1010.0, "a verdict (differences: why)"),
        (1, Evidence(30, 5, ()), 1010.0, "a verdict of the guard errors"),
        (1, evidence(requests=0, units=0), 1010.0, "the candidate has had no traffic"),
    ],
)
def test_what_is_missing_is_said(stage: int, seen: Evidence, now: float, waits_for: str) -> None:
    found = decide(PLAN, running(stage), seen, now)
    assert isinstance(found, Continue)
    assert waits_for in found.reason


def test_guards_that_cannot_know_hold_nobody_up() -> None:
    """Latency in the shadow stage, differences in the others."""
    assert isinstance(decide(PLAN, running(0), evidence(latency="not-enough"), 1010.0), Advance)
    assert isinstance(decide(PLAN, running(1), evidence(differences="not-enough"), 1010.0), Advance)


@pytest.mark.parametrize(
    ("on_not_enough", "kind"), [("hold", Hold), ("extend", Continue), ("rollback", Rollback)]
)
def test_when_the_time_is_over(on_not_enough: OnNotEnough, kind: type[Decision]) -> None:
    plan = replace(PLAN, on_not_enough=on_not_enough)
    nothing = evidence(requests=0, units=0)
    assert isinstance(decide(plan, running(), nothing, 1099.0), Continue)
    found = decide(plan, running(), nothing, 1100.0)
    assert isinstance(found, kind)
    assert "not enough evidence after 1 min 40 s: the candidate has had no traffic" in found.reason


def test_a_trip_wins_over_everything_but_an_operators_rollback() -> None:
    bad = evidence(errors="trip", latency="trip")
    for state in (running(), running(LAST), running(order="advance"), held(), held(order="resume")):
        assert decide(PLAN, state, bad, 1010.0) == Rollback("latency: why", "latency")
    ordered = decide(PLAN, running(order="rollback"), bad, 1010.0)
    assert ordered == Rollback("ordered by the operator", "")


def test_a_trip_may_only_hold() -> None:
    plan = replace(PLAN, on_trip="hold")
    bad = evidence(errors="trip")
    assert decide(plan, running(), bad, 1010.0) == Hold("errors: why")
    assert decide(plan, held(), bad, 1010.0) == Continue("held: errors: why")
    resumed = decide(plan, held(order="resume"), bad, 1010.0)
    assert resumed == Continue("resumed by the operator; the evidence begins anew")


def test_an_operator_advances_without_the_evidence_and_says_so() -> None:
    found = decide(PLAN, running(order="advance"), evidence(requests=10), 1010.0)
    assert found == Advance(2, "ordered by the operator without 20 more requests of the candidate")
    assert isinstance(decide(PLAN, held(LAST, order="advance"), evidence(0), 1000.0), Complete)


def test_hold_and_resume() -> None:
    now = 1050.0
    holding = decide(PLAN, running(order="hold"), evidence(), now)
    state = apply(running(order="hold"), holding, now)
    assert state == RolloutState(1, "held", 1050.0)
    waiting = decide(PLAN, state, evidence(), 9000.0)
    assert waiting == Continue("held: waits for advance, resume or rollback")
    assert apply(state, waiting, 9000.0) == state

    resumed = replace(state, order="resume")
    going_on = decide(PLAN, resumed, evidence(requests=3), 9000.0)
    assert isinstance(going_on, Continue)  # not held again at once, although max_time is over
    assert apply(resumed, going_on, 9000.0) == RolloutState(1, "running", 9000.0)


def test_nothing_happens_after_the_end() -> None:
    for status in ("completed", "rolled-back"):
        state = RolloutState(1, status, 1000.0, order="rollback")
        found = decide(PLAN, state, evidence(errors="trip"), 1010.0)
        assert found == Continue(f"the rollout is {status}")
        assert apply(state, found, 1010.0) == replace(state, order=None)


def test_a_stage_that_the_plan_does_not_have() -> None:
    for stage in (-1, 4):
        with pytest.raises(RolloutError, match=f"stage {stage}, its plan has 4 stages"):
            decide(PLAN, running(stage), evidence(), 1010.0)
        with pytest.raises(RolloutError):
            layout(PLAN, running(stage))


def test_weights_fit_a_split() -> None:
    assert layout(PLAN, running(0)) == ({"old": 1.0, "new": 0.0}, "new", 0.5)
    assert layout(PLAN, running(1)) == ({"old": 0.9, "new": 0.1}, "", 1.0)
    assert layout(PLAN, running(2)) == ({"old": 0.6667, "new": 0.3333}, "", 1.0)
    assert layout(PLAN, running(3)) == ({"old": 0.0, "new": 1.0}, "", 1.0)
    for stage in (0, 3):
        back = RolloutState(stage, "rolled-back", 1000.0)
        assert layout(PLAN, back) == ({"old": 1.0, "new": 0.0}, "", 1.0)


@given(st.sets(st.integers(1, 10_000), min_size=1, max_size=8))
def test_the_shares_of_any_plan_are_exact(buckets: set[int]) -> None:
    """An observation's share is the weight of its stage, to the last bit."""
    stages = ", ".join(f"{bucket / 100:.2f}%" for bucket in sorted(buckets))
    plan = parse_plan(f"rollout: {{name: r, baseline: old, candidate: new, stages: [{stages}]}}")
    split = Split("r", 1, "seed", (Arm("old", 1.0), Arm("new", 0.0)))
    for index, stage in enumerate(plan.stages):
        weights, mirror, _ = layout(plan, running(index))
        split = split.with_weights(weights, mirror=mirror)
        assert split.share("new") == stage.weight


# Approvals, windows, pauses, and both arms in trouble.

GATE = ApprovalRule(1, ("ann", "bob"), timeout=60.0)
GATED = replace(
    PLAN, stages=(PLAN.stages[0], replace(PLAN.stages[1], approval=GATE), *PLAN.stages[2:])
)
NEVER = replace(PLAN, windows=(Window((0,), 0, 1),))  # the first minute of Mondays; 1970 began
# on a Thursday


def test_approvals_are_asked_for_and_then_waited_for() -> None:
    asking = decide(GATED, running(), evidence(), 1010.0)
    assert asking == Ask("stage 10% has its evidence and waits for 1 approval of ann or bob")
    state = apply(running(), asking, 1010.0)
    assert (state.asked_at, state.entered_at) == (1010.0, 1000.0)
    assert isinstance(decide(GATED, state, evidence(), 1069.0), Continue)
    late = decide(GATED, state, evidence(), 1070.0)
    assert isinstance(late, Hold)
    assert "not approved within 1 min" in late.reason
    given = answer(GATED, state, Said(by="ann"))
    assert given == Approve("ann", "1 of 1 approvals of stage 10%")
    after = apply(state, given, 1050.0)
    assert isinstance(decide(GATED, after, evidence(), 2000.0), Advance)


def test_an_approval_is_no_evidence_and_no_evidence_no_approval() -> None:
    state = replace(running(), approvals=("ann",))
    assert isinstance(decide(GATED, state, evidence(requests=3), 1050.0), Continue)
    assert isinstance(decide(GATED, state, evidence(), 1050.0), Advance)
    advanced = decide(GATED, replace(running(), order="advance"), evidence(), 1050.0)
    assert advanced == Advance(2, "ordered by the operator without 1 approval of ann or bob")


def test_a_hold_takes_approvals_back_and_a_pause_keeps_them() -> None:
    state = replace(running(), approvals=("ann",), asked_at=1010.0)
    for order, kept in (("hold", ()), ("pause", ("ann",))):
        told: RolloutState = replace(state, order=order)  # type: ignore[arg-type]
        stopped = apply(told, decide(GATED, told, evidence(requests=1), 1020.0), 1020.0)
        again = replace(stopped, order="resume")
        found = decide(GATED, again, evidence(requests=1), 5020.0)
        after = apply(again, found, 5020.0)
        assert (after.status, after.approvals) == ("running", kept)
        assert after.entered_at == (5020.0 if order == "hold" else 5000.0)


def test_the_clock_stands_still_in_a_pause() -> None:
    told = running(order="pause")
    paused = apply(told, decide(PLAN, told, evidence(requests=1), 1050.0), 1050.0)
    assert (paused.status, paused.paused_at) == ("paused", 1050.0)
    assert isinstance(decide(PLAN, paused, evidence(requests=1), 9e9), Continue)
    again = apply(
        replace(paused, order="resume"),
        decide(PLAN, replace(paused, order="resume"), evidence(requests=1), 4050.0),
        4050.0,
    )
    assert isinstance(decide(PLAN, again, evidence(requests=1), 4099.0), Continue)
    assert isinstance(decide(PLAN, again, evidence(requests=1), 4100.0), Hold)
    tripped = decide(PLAN, paused, evidence(errors="trip"), 1060.0)
    assert isinstance(tripped, Rollback)


def test_outside_of_every_window_only_a_person_goes_on() -> None:
    waits = decide(NEVER, running(), evidence(), 1010.0)
    assert waits == Continue(
        "stage 10% has its evidence and waits for its window, which opens Mon 1970-01-05 00:00 UTC"
    )
    assert isinstance(decide(NEVER, running(), evidence(), 345_630.0), Advance)
    assert isinstance(decide(NEVER, running(order="advance"), evidence(), 1010.0), Advance)
    assert isinstance(decide(NEVER, running(), evidence(errors="trip"), 1010.0), Rollback)
    never_held = decide(NEVER, running(), evidence(), 9_999.0)
    assert isinstance(never_held, Continue)  # max_time is for evidence


def test_both_arms_in_trouble_are_held() -> None:
    bad = Evidence(30, 5, (replace(says("errors"), excused="errors: 9 of 10 failed"),))
    found = decide(PLAN, running(), bad, 1010.0)
    assert isinstance(found, Hold)
    assert "not the candidate's fault" in found.reason
    assert "errors: 9 of 10 failed, and the baseline does no better" in found.reason
    assert isinstance(decide(PLAN, running(order="advance"), bad, 1010.0), Advance)


def test_all_splits_need_their_evidence_and_any_may_trip() -> None:
    plan = replace(PLAN, together=(Pair("other", "o1", "o2"),))
    own = replace(evidence(), split="r")
    lacking = replace(own, others=(replace(evidence(requests=29), split="other"),))
    found = decide(plan, running(), lacking, 1010.0)
    assert found == Continue("stage 10% waits for other: 1 more request of the candidate")
    bad = replace(own, others=(replace(evidence(errors="trip"), split="other"),))
    assert decide(plan, running(), bad, 1010.0) == Rollback("other: errors: why", "errors")
    both = replace(own, others=(replace(evidence(), split="other"),))
    assert isinstance(decide(plan, running(), both, 1010.0), Advance)


def test_a_step_that_claims_to_run_goes_on_down() -> None:
    """No decision leads there; a state that was written by another version might."""
    found = decide(PLAN, replace(running(), step=0), evidence(requests=1), 1010.0)
    assert isinstance(found, Continue)
    assert "not healthy yet" in found.reason


# Whatever happens: random plans, states, evidence and times.

TWO = replace(
    PLAN,
    together=(Pair("other", "o1", "o2"),),
    windows=(Window((0, 1, 2, 3, 4), 540, 1020, "Europe/Berlin"),),
    stages=(
        PLAN.stages[0],
        replace(PLAN.stages[1], approval=ApprovalRule(2, ("ann", "bob"), 60.0, "hold")),
        replace(PLAN.stages[2], windows=()),
        replace(PLAN.stages[3], approval=ApprovalRule()),
    ),
)
any_time = st.one_of(st.floats(allow_nan=True), st.floats(0, 2e9), st.floats(900, 1200))
judgements = st.builds(
    Judgement,
    guard=st.sampled_from(get_args(Kind)),
    verdict=st.sampled_from(get_args(Verdict)),
    evidence=st.floats(),
    limit=st.floats(),
    reason=st.just("why"),
    at=any_time,
    hard=st.booleans(),
    excused=st.sampled_from(["", "", "both fail"]),
)
several = st.lists(judgements, max_size=3).map(tuple)
one_split = st.builds(
    Evidence, st.integers(0, 100), st.integers(0, 20), several, health=several, split=st.just("s")
)
anything = st.builds(
    lambda one, good, others: replace(
        one if good > 2 else evidence(health=one.health), others=tuple(others)
    ),
    one_split,
    st.integers(0, 6),
    st.lists(one_split, max_size=1),
)
states = st.builds(
    RolloutState,
    stage=st.integers(0, LAST),
    status=st.sampled_from(get_args(Status)),
    entered_at=any_time,
    order=st.sampled_from([None, *ORDERS]),
    target=st.sampled_from(["", "100%", "10%", "nowhere"]),
    step=st.sampled_from([None, None, 0, 3]),
    asked_at=st.none() | any_time,
    approvals=st.sampled_from([(), ("ann",), ("ann", "bob")]),
    paused_at=st.none() | any_time,
    guard=st.sampled_from(["", "errors"]),
)
plans = st.builds(
    lambda plan, trip, lacking: replace(plan, on_trip=trip, on_not_enough=lacking),
    st.sampled_from([PLAN, TWO]),
    st.sampled_from(get_args(OnTrip)),
    st.sampled_from(get_args(OnNotEnough)),
)


@settings(max_examples=300)
@given(plans, states, anything, any_time)
def test_every_state_has_a_decision_and_none_promotes_without_evidence(
    plan: Plan, state: RolloutState, seen: Evidence, now: float
) -> None:
    found = decide(plan, state, seen, now)
    assert found.reason
    after = apply(state, found, now)
    assert after.order is None
    before, weight = weight_of(plan, state), weight_of(plan, after)
    for pair in plan.pairs:
        weights, mirror, sample = layout(plan, after, pair)
        arms = tuple(Arm(name, weights[name]) for name in (pair.baseline, pair.candidate))
        Split(pair.split, 1, "seed", arms, mirror, sample)
    trips = [one for part in seen.all for one in part.judgements if one.verdict == "trip"]
    if state.ended:
        assert isinstance(found, Continue)
        assert (after.stage, after.status) == (state.stage, state.status)
        return
    if state.order == "rollback" or (trips and plan.on_trip == "rollback"):
        assert isinstance(found, Rollback)
    if trips and state.order != "rollback":
        assert weight <= before
        if state.step is not None and any(one.hard for one in trips):
            assert isinstance(found, Rollback)
    assert (after.status == "rolled-back") == isinstance(found, Rollback)
    assert (after.status == "completed") == isinstance(found, Complete)
    if isinstance(found, Advance | Complete):
        assert not trips
        assert_passed(plan, state, seen, now)
    elif weight != before:
        assert weight < before
        assert isinstance(found, Rollback | Descend)


def assert_passed(plan: Plan, state: RolloutState, seen: Evidence, now: float) -> None:
    """A person said so, or all is there."""
    if state.order in ("advance", "skip", "retry") or (state.order == "resume" and state.step):
        return
    if state.order == "resume" and state.step == 0:
        return
    assert state.status == "running" or state.order == "resume"
    stage = plan.stages[state.stage]
    assert all(one.requests >= stage.min_requests for one in seen.all)
    assert all(one.units >= stage.min_units for one in seen.all)
    assert now - state.entered_at >= stage.min_time or (
        state.paused_at is not None and state.paused_at - state.entered_at >= stage.min_time
    )
    assert stage.approval is None or len(state.approvals) >= stage.approval.needed
    windows = plan.windows_of(stage)
    assert not windows or any(window.is_open(now) for window in windows)


@given(
    plans,
    states,
    st.builds(
        Said,
        stage=st.sampled_from(["", "10%", "100%", "nowhere"]),
        by=st.sampled_from(["ann", "bob", "eve"]),
        ok=st.booleans(),
        flaw=st.sampled_from(["", "", "odd"]),
    ),
)
def test_every_approval_has_an_answer(plan: Plan, state: RolloutState, said: Said) -> None:
    found = answer(plan, state, said)
    after = apply(state, found, 1000.0)
    assert found.reason
    assert isinstance(found, Continue | Approve | Hold | Rollback)
    assert weight_of(plan, after) in (weight_of(plan, state), 0.0)
    if isinstance(found, Approve):
        rule = plan.stages[state.stage].approval
        assert rule is not None
        assert said.ok
        assert not rule.people or said.by in rule.people
        assert after.approvals == (*state.approvals, said.by)
        assert len(set(after.approvals)) == len(after.approvals)


orders = st.sampled_from([None, None, None, *ORDERS])


@given(plans, st.lists(st.tuples(anything, st.floats(0, 200), orders)))
def test_weights_rise_or_fall_back(
    plan: Plan, turns: list[tuple[Evidence, float, Order | None]]
) -> None:
    """However a rollout goes, its weight rises stage by stage, or falls in a rollback; what was
    rolled back stays at nothing."""
    now, state, weight = 0.0, start(0.0), 0.0
    for seen, passed, order in turns:
        now += passed
        state = replace(state, order=order, target="100%")
        found = decide(plan, state, seen, now)
        was, state = state, apply(state, found, now)
        new = weight_of(plan, state)
        if new < weight:
            back = isinstance(found, Rollback | Descend)
            assert back or (was.step is not None and isinstance(found, Advance))
        if was.status == "rolled-back":
            assert new == 0
        weight = new
