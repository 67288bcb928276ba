"""What breaks other judges: traffic that deceives those who count, compare means, or take silence
for consent."""

from __future__ import annotations

import pytest

from aura.delivery.plan import Plan, parse_plan
from tests.delivery.worlds import TEXT, Fate, planned, run, whats

PLAN = planned()
SLOW = parse_plan(
    TEXT.replace(
        "guards: [errors: {max_error_rate: 10%, min_sample: 20, window: 60s}]",
        "guards: [errors: {max_error_rate: 10%}, latency: {max_p95: 800ms}]",
    )
)


def test_errors_of_the_candidate_against_an_empty_baseline() -> None:
    """At 99.99 % of the traffic nobody is there to compare with, and before that the baseline has
    never failed: no division by its zero, and no waiting for it to fail."""
    found = run(PLAN, lambda arm, *_: Fate(0.3 * (arm == "new")), 120)
    assert (found.state, found.stage) == ("rolled-back", "10%")
    assert found.hits.requests <= 8
    alone = parse_plan(
        "rollout: {name: w, baseline: old, candidate: new, guards: [errors: {allowed: 5%}], "
        "stages: [100%: {min_requests: 500, min_time: 30s}]}"
    )
    found = run(alone, lambda arm, *_: Fate(0.4 * (arm == "new")), 60)
    assert found.state == "rolled-back"
    assert "requests failed, 5 % allowed" in found.reason


def test_a_few_extreme_values_do_not_decide() -> None:
    """One request in 150 takes an hour, on both arms: their means are 24 s, and say nothing."""
    count = {"old": 0, "new": 0}

    def fates(arm: str, *_: float) -> Fate:
        count[arm] += 1
        return Fate(0.0, 3_600.0 if count[arm] % 150 == 75 else 0.05)

    found = run(SLOW, fates, 400)
    assert whats(found) == ["advance", "advance", "complete"]


def test_a_few_good_values_do_not_hide_a_slow_candidate() -> None:
    count = {"old": 0, "new": 0}

    def fates(arm: str, *_: float) -> Fate:
        count[arm] += 1
        slow = arm == "new" and count[arm] % 4 != 0
        return Fate(0.0, 1.5 if slow else 0.001)

    assert run(SLOW, fates, 120).state == "rolled-back"


def test_a_baseline_that_comes_and_goes() -> None:
    """The whole system is bad for 20 s of every minute. The candidate suffers as everybody does,
    and is neither blamed nor promoted in the middle of it."""
    found = run(PLAN, lambda _arm, _weight, after: Fate(0.5 * (after % 60 > 40)), 90)
    assert found.state == "held"
    assert whats(found) == ["hold"]
    assert found.history[0].reason.startswith("both arms are in trouble")
    mild = run(PLAN, lambda _arm, _weight, after: Fate(0.08 * (after % 60 > 40)), 400, seed=3)
    assert whats(mild) == ["advance", "advance", "complete"]


@pytest.mark.parametrize("answer", ["hold", "extend"])
def test_no_traffic_at_all(answer: str) -> None:
    """It says why, never promotes, and never rolls back without evidence."""
    plan = planned(f"on_not_enough: {answer}")
    found = run(plan, lambda *_: Fate(), 3_600, rate=0.001)
    assert found.weight == 0.1
    assert whats(found) == (["hold"] if answer == "hold" else [])
    assert found.state == ("held" if answer == "hold" else "running")
    text = " ".join([found.reason, *(one.reason for one in found.history)])
    assert "the candidate has had no traffic" in text or "waits for" in text


def test_traffic_that_stops_in_the_middle_of_a_stage() -> None:
    plan: Plan = PLAN
    found = run(plan, lambda *_: Fate(), 5)
    assert (found.state, whats(found)) == ("running", [])
    resumed = run(plan, lambda *_: Fate(), 4_000, rate=0.02)
    assert whats(resumed) == ["hold"]
    assert "not enough evidence after 10 min" in resumed.history[0].reason
    assert resumed.weight == 0.1


def test_a_baseline_that_degrades_is_not_the_candidates_fault() -> None:
    """Right after a step up, when most of the candidate's requests are new and most of the
    baseline's old, a dependency of both goes down."""
    found = run(PLAN, lambda _arm, _weight, after: Fate(0.6 * (after > 120)), 300)
    assert whats(found) == ["advance", "hold"]
    assert (found.state, found.weight) == ("held", 0.5)
    last = found.history[-1].reason
    assert "not the candidate's fault" in last
    assert "at most 10 % allowed" in last
    assert last.endswith("the baseline does no better")


def test_a_baseline_that_degrades_alone_holds_nobody_up() -> None:
    found = run(PLAN, lambda arm, _, after: Fate(0.6 * (arm == "old" and after > 60)), 400)
    assert whats(found) == ["advance", "advance", "complete"]


def test_a_candidate_that_is_worse_in_the_outage_goes_back_all_the_same() -> None:
    def fates(arm: str, _: float, after: float) -> Fate:
        return Fate((0.15 if arm == "old" else 0.95) if after > 60 else 0.0)

    assert run(PLAN, fates, 200).state == "rolled-back"
