"""What happened, as numbers: from exchanges, observations and statuses to the report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aura.cli.demo.answers import FieldDifference
from aura.cli.demo.crash import CrashFigures
from aura.cli.demo.model import GOOD, LEGACY, Exchange, Note
from aura.delivery.evidence import Tally
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan
from aura.delivery.status import RolloutStatus, StageStatus
from aura.stats.eprocess import as_evidence

TRIP_WITHIN = 1000.0
"""Milliseconds in which no request may reach a bad arm any more."""


@dataclass(frozen=True, slots=True)
class Release:
    """A rollout as it went: its plan, and its status when it had ended."""

    plan: Plan
    status: RolloutStatus


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that was recorded. Times are epoch seconds, `errors` what kept the demo from
    going on."""

    began: float
    ended: float
    rate: float
    quick: bool
    database: str
    exchanges: tuple[Exchange, ...]
    observations: tuple[Observation, ...]
    main: Release | None
    canaries: tuple[Release, ...]
    crash: CrashFigures
    killed_at: float | None
    differences: tuple[FieldDifference, ...]
    compared: int
    fields: int
    notes: tuple[Note, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageFigures:
    """The candidate in one stage (its copies, in shadow), and the baseline beside it."""

    name: str
    weight: float
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    verdict: str
    baseline_requests: int
    baseline_errors: int
    baseline_p50_ms: float | None
    baseline_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class RollbackFigures:
    """A bad release.

    `trip_to_zero_ms`  from the observation that tripped the guard until no request reached the
                       arm any more: the later of the two that follow
    `last_request_ms`  until the last request was sent to it; below 0 when that was before the trip
    `split_changed_ms` until the traffic was durably shifted back
    `client_errors`    answers that its users saw and could not use, while it was on the air
    `fallbacks`        requests that failed on it, or were late, and were answered by the baseline
    """

    version: str
    reason: str
    guard: str
    trip_to_zero_ms: float | None
    last_request_ms: float | None
    split_changed_ms: float | None
    requests_on_bad_arm: int
    failed_on_bad_arm: int
    fallbacks: int
    client_errors: int
    users_on_bad_arm: int
    users_with_errors: int
    seconds_on_air: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Each arm's own latencies in milliseconds, over the whole rollout of 2.0.0."""

    legacy_p50_ms: float | None
    legacy_p95_ms: float | None
    new_p50_ms: float | None
    new_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that the demo promises; `found` says what was measured."""

    text: str
    found: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """A guard's evidence over time: points (epoch seconds, e-value); it trips at `limit`."""

    guard: str
    limit: float
    points: tuple[tuple[float, float], ...]


def quantile(values: Sequence[float], q: float) -> float | None:
    """The nearest-rank quantile, None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def millis(seconds: float | None) -> float | None:
    """Seconds as milliseconds with two digits."""
    return None if seconds is None else round(seconds * 1000, 2)


# -- the parts ---------------------------------------------------------------------------------


def stage_figures(status: RolloutStatus) -> list[StageFigures]:
    """The stages of a rollout, those that it did not reach too."""
    return [_stage(one) for one in status.stages]


def _stage(stage: StageStatus) -> StageFigures:
    own, other = stage.candidate, stage.baseline
    return StageFigures(
        name=stage.name,
        weight=stage.weight,
        requests=own.requests,
        errors=own.errors,
        p50_ms=own.p50_ms,
        p95_ms=own.p95_ms,
        verdict=stage.verdict,
        baseline_requests=other.requests,
        baseline_errors=other.errors,
        baseline_p50_ms=other.p50_ms,
        baseline_p95_ms=other.p95_ms,
    )


def rollback_figures(
    release: Release, observations: Iterable[Observation], exchanges: Iterable[Exchange]
) -> RollbackFigures:
    """What a bad release did, and how quickly it was gone."""
    status = release.status
    on_arm = [one for one in observations if one.arm == status.candidate and not one.shadow]
    began = status.history[0].at
    last = status.history[-1]
    tripped = last.since if last.what == "rollback" and last.since else None
    seen = [one for one in exchanges if began <= one.at <= last.done + 1.0]
    failed = [one for one in seen if one.verdict != "ok"]
    last_request = max((one.at - one.latency for one in on_arm), default=None)
    after = [time - tripped for time in (last_request, last.done) if time and tripped]
    return RollbackFigures(
        version=status.candidate.partition("@")[2],
        reason=last.reason,
        guard=status.guard,
        trip_to_zero_ms=millis(max(0.0, *after)) if after else None,
        last_request_ms=millis(last_request - tripped) if last_request and tripped else None,
        split_changed_ms=millis(last.done - tripped) if tripped else None,
        requests_on_bad_arm=len(on_arm),
        failed_on_bad_arm=sum(not one.ok for one in on_arm),
        fallbacks=sum(one.fallback for one in on_arm),
        client_errors=len(failed),
        users_on_bad_arm=len({one.unit for one in on_arm}),
        users_with_errors=len({one.unit for one in failed}),
        seconds_on_air=round(last.done - began, 2),
    )


def latencies(observations: Iterable[Observation], arm: str) -> list[float]:
    """The arm's own latencies in seconds, of requests that users sent."""
    return [one.latency for one in observations if one.arm == arm and not one.shadow]


def latency_figures(observations: Sequence[Observation]) -> Latency:
    """Legacy and new. Shadow copies do not count: nobody waited for them."""
    old, new = latencies(observations, LEGACY), latencies(observations, GOOD)
    return Latency(
        millis(quantile(old, 0.5)),
        millis(quantile(old, 0.95)),
        millis(quantile(new, 0.5)),
        millis(quantile(new, 0.95)),
    )


def during_main(story: Story) -> tuple[Observation, ...]:
    """The observations up to the end of the rollout of 2.0.0: what came later had other loads."""
    if story.main is None:
        return story.observations
    end = story.main.status.history[-1].at
    return tuple(one for one in story.observations if one.at <= end)


def evidence_curves(release: Release, observations: Iterable[Observation]) -> tuple[Curve, ...]:
    """The guards' evidence after each observation, folded as the rollout folded it."""
    opened = release.status.opened
    tally = Tally(release.plan, since=opened[0] if opened else 0)
    end = release.status.history[-1].done
    points: list[list[tuple[float, float]]] = [[] for _ in tally.guards]
    for one in observations:
        if one.epoch < tally.since or one.at > end:
            continue
        tally.fold(one)
        for guard, line in zip(tally.guards, points, strict=True):
            line.append((one.at, as_evidence(guard.log_evidence)))
    return tuple(
        Curve(guard.guard.kind, 1 / guard.guard.alpha, tuple(line))
        for guard, line in zip(tally.guards, points, strict=True)
    )


# -- the whole ---------------------------------------------------------------------------------


def rollbacks(story: Story) -> list[RollbackFigures]:
    """Both bad releases."""
    return [rollback_figures(one, story.observations, story.exchanges) for one in story.canaries]


def promises(story: Story) -> list[Promise]:
    """What must hold, and whether it does."""
    lost = sum(one.verdict == "lost" for one in story.exchanges)
    wrong = sum(one.verdict in ("status", "invalid") for one in story.exchanges)
    crash = story.crash
    found = [
        Promise("no request is lost", f"{lost} of {len(story.exchanges)}", lost == 0),
        Promise("every answer is the legacy JSON", f"{wrong} are not", wrong == 0),
        _completed(story.main),
        Promise(
            "killed runs finish elsewhere",
            f"{crash.resumed} of {crash.killed_runs}",
            0 < crash.killed_runs == crash.resumed,
        ),
        Promise(
            "no journalled step runs again",
            f"{crash.steps_repeated} of {crash.steps_executed} executions",
            crash.steps_repeated == 0,
        ),
        Promise(
            "no effect is duplicated or missing",
            f"{crash.duplicated_effects} and {crash.missing_effects} of {crash.effects}",
            crash.duplicated_effects == crash.missing_effects == 0,
        ),
    ]
    found += [_rolled_back(one) for one in rollbacks(story)]
    found += [Promise("the demo reaches its end", error, False) for error in story.errors]
    if len(story.canaries) < 2:
        found.append(Promise("both bad releases are tried", f"{len(story.canaries)} were", False))
    return found


def _completed(main: Release | None) -> Promise:
    state = main.status.state if main else "did not end"
    why = "" if main is None or state == "completed" else f": {main.status.reason}"
    return Promise("2.0.0 takes over", f"{state}{why}", state == "completed")


def _rolled_back(one: RollbackFigures) -> Promise:
    text = f"{one.version} is rolled back in a second"
    if one.trip_to_zero_ms is None:
        return Promise(text, f"no guard tripped: {one.reason}", False)
    found = f"{one.trip_to_zero_ms:.0f} ms after the {one.guard} guard tripped"
    return Promise(text, found, one.trip_to_zero_ms < TRIP_WITHIN)


def passed(story: Story) -> bool:
    """Whether all promises are kept."""
    return all(promise.kept for promise in promises(story))


def report(story: Story) -> dict[str, Any]:
    """The report as JSON values. Latencies in milliseconds, times in seconds."""
    shadows = [one for one in story.observations if one.shadow]
    crash = replace(story.crash, fates=())
    return {
        "passed": passed(story),
        "requests": len(story.exchanges),
        "client_errors": sum(one.verdict in ("status", "invalid") for one in story.exchanges),
        "lost": sum(one.verdict == "lost" for one in story.exchanges),
        "stages": [asdict(one) for one in stage_figures(story.main.status)] if story.main else [],
        "rollbacks": [asdict(one) for one in rollbacks(story)],
        "crash": {
            **{name: value for name, value in asdict(crash).items() if name != "fates"},
            "runs": [asdict(fate) for fate in story.crash.fates],
        },
        "latency": asdict(latency_figures(during_main(story))),
        "differences": {
            "copies": len(shadows),
            "copies_that_differ": sum(bool(one.differences) for one in shadows),
            "pairs_compared": story.compared,
            "fields": [asdict(one) for one in story.differences],
        },
        "promises": [asdict(one) for one in promises(story)],
        "observations": sum(not one.shadow for one in story.observations),
        "rate": story.rate,
        "users": len({one.unit for one in story.exchanges}),
        "seconds": round(story.ended - story.began, 1),
        "quick": story.quick,
        "database": story.database,
        "failures": [asdict(one) for one in story.exchanges if one.verdict != "ok"][:50],
        "events": [
            {"seconds": round(one.at - story.began, 2), "what": one.text, "mood": one.mood}
            for one in story.notes
        ],
    }
