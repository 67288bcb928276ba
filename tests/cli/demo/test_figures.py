"""From records to the report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aura.cli.demo.figures import (
    Promise,
    Story,
    evidence_curves,
    latency_figures,
    passed,
    promises,
    quantile,
    report,
    rollback_figures,
)
from aura.cli.demo.model import GOOD, LEGACY
from aura.delivery.decide import RolloutState
from tests.cli.demo.kit import BEGAN, CANARY, CRASH, exchange, observation, status, story, tripped

BAD = "research@2.1.0"
KEYS = {
    *("requests", "client_errors", "lost", "stages", "rollbacks", "crash", "latency"),
}
STAGE_KEYS = {"name", "weight", "requests", "errors", "p50_ms", "p95_ms", "verdict"}
ROLLBACK_KEYS = {"version", "reason", "trip_to_zero_ms", "requests_on_bad_arm", "client_errors"}
CRASH_KEYS = {"killed_runs", "resumed", "steps_repeated", "duplicated_effects"}
LATENCY_KEYS = {"legacy_p50_ms", "legacy_p95_ms", "new_p50_ms", "new_p95_ms"}


def test_the_report_has_what_was_agreed_and_is_json() -> None:
    found = json.loads(json.dumps(report(story())))
    assert found.keys() >= KEYS
    assert all(stage.keys() >= STAGE_KEYS for stage in found["stages"])
    assert all(one.keys() >= ROLLBACK_KEYS for one in found["rollbacks"])
    assert found["crash"].keys() >= CRASH_KEYS
    assert found["latency"].keys() == LATENCY_KEYS
    assert found["passed"] is True
    assert found["requests"] == 60


def broken(changed: Story) -> list[Promise]:
    return [promise for promise in promises(changed) if not promise.kept]


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"exchanges": (exchange(1, verdict="lost"),)}, "no request is lost"),
        ({"exchanges": (exchange(1, verdict="status"),)}, "every answer is the legacy JSON"),
        ({"exchanges": (exchange(1, verdict="invalid"),)}, "every answer is the legacy JSON"),
        ({"main": None}, "2.0.0 takes over"),
        ({"crash": replace(CRASH, resumed=0)}, "killed runs finish elsewhere"),
        ({"crash": replace(CRASH, killed_runs=0, resumed=0)}, "killed runs finish elsewhere"),
        ({"crash": replace(CRASH, steps_repeated=1)}, "no journalled step runs again"),
        ({"crash": replace(CRASH, duplicated_effects=1)}, "no effect is duplicated or missing"),
        ({"crash": replace(CRASH, missing_effects=1)}, "no effect is duplicated or missing"),
        ({"canaries": (tripped(),)}, "both bad releases are tried"),
        ({"errors": ("it broke",)}, "the demo reaches its end"),
        ({"canaries": (tripped(done=31.2), tripped())}, "2.1.0 is rolled back in a second"),
    ],
)
def test_each_promise_can_be_broken(changes: dict[str, Any], promise: str) -> None:
    changed = story(**changes)
    assert [one.text for one in broken(changed)] == [promise]
    assert not passed(changed)


def test_a_rollout_that_was_rolled_back_did_not_take_over() -> None:
    main = tripped()
    text = [one.text for one in broken(story(main=main))]
    assert text == ["2.0.0 takes over"]


def test_trip_to_zero_ends_with_the_last_request_or_the_shift_whichever_is_later() -> None:
    late = observation(30.4, BAD, latency=0.1, epoch=2)
    first = rollback_figures(tripped(), [observation(29, BAD), late], [])
    assert (first.trip_to_zero_ms, first.last_request_ms) == (300.0, 300.0)
    second = rollback_figures(tripped(), [observation(29, BAD)], [])
    assert (second.trip_to_zero_ms, second.split_changed_ms) == (40.0, 40.0)
    assert second.last_request_ms == -1050.0


def test_a_release_that_no_guard_tripped_has_no_time() -> None:
    release = tripped()
    held = replace(release.status, history=release.status.history[:1])
    found = rollback_figures(replace(release, status=held), [observation(29, BAD)], [])
    assert found.trip_to_zero_ms is None


def test_only_requests_of_the_bad_arm_and_errors_while_it_was_on_the_air_count() -> None:
    seen = [
        observation(26, BAD, ok=False, fallback=True),
        observation(27, BAD, unit="user-002"),
        observation(27, GOOD),
        observation(27, BAD, shadow=True),
    ]
    users = [
        exchange(20, verdict="status"),
        exchange(26, verdict="status", unit="user-009"),
        exchange(27),
        exchange(40, verdict="status"),
    ]
    found = rollback_figures(tripped(), seen, users)
    assert (found.requests_on_bad_arm, found.failed_on_bad_arm, found.fallbacks) == (2, 1, 1)
    assert (found.users_on_bad_arm, found.client_errors, found.users_with_errors) == (2, 1, 1)


def test_latencies_are_each_arms_own_without_copies() -> None:
    seen = [
        observation(1, LEGACY, latency=0.1),
        observation(1, GOOD, latency=0.01),
        observation(1, GOOD, latency=9.0, shadow=True),
    ]
    found = latency_figures(seen)
    assert (found.legacy_p50_ms, found.new_p95_ms) == (100.0, 10.0)


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.95) == 1.0


def test_the_evidence_grows_with_failures_of_the_candidate_and_stops_at_the_end() -> None:
    seen = [
        observation(26 + n / 10, BAD, ok=False, share=0.15, epoch=2, unit=f"u{n}") for n in range(5)
    ]
    (curve,) = evidence_curves(tripped(), [*seen, observation(50, BAD, ok=False, share=0.15)])
    values = [value for _, value in curve.points]
    assert len(values) == 5
    assert values == sorted(values)
    assert values[0] > 1
    assert curve.limit == pytest.approx(100.0)


def test_observations_from_before_the_rollout_are_no_evidence() -> None:
    release = tripped()
    opened = replace(release.status, opened=(7, BEGAN, 0))
    curves = evidence_curves(replace(release, status=opened), [observation(26, BAD, ok=False)])
    assert curves[0].points == ()


def test_a_status_made_by_hand_has_all_stages() -> None:
    made = status(CANARY, RolloutState(0, "running", BEGAN))
    assert [stage.verdict for stage in made.stages] == ["running", "waiting"]
