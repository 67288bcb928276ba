"""What people see of a rollout: a value that is published while it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aura.delivery.decide import RolloutState, Status, weights_for
from aura.delivery.evidence import ArmTally, Tally
from aura.delivery.guard import Verdict
from aura.delivery.plan import Plan
from aura.errors import CodecError


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """One arm in one stage: requests, failures, and latencies in milliseconds (None: no data)."""

    requests: int
    errors: int
    fallbacks: int
    user_errors: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A stage: `verdict` is "waiting", "running", "held", "pass" or "trip"."""

    name: str
    weight: float
    verdict: str
    candidate: ArmStatus
    baseline: ArmStatus


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """A guard's evidence (an e-value, trips at `limit`) and its reason in words."""

    guard: str
    verdict: Verdict
    evidence: float
    limit: float
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what, when and why. `done` is when the traffic was shifted (epoch seconds), `since`
    the time of the observation that tripped a guard (0.0: none did), `order` the number of the
    order that was answered by it (0: none was)."""

    at: float
    what: str
    reason: str
    by: str
    done: float = 0.0
    since: float = 0.0
    order: int = 0


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A rollout at a moment.

    `stages` count from the beginning, `evidence` from the last hold. `history` has each turn once,
    `turn` of them were taken. `opened` is the epoch, time and feed position with which it began,
    None until a worker has taken it up and when it was refused.
    """

    name: str
    run: str
    split: str
    baseline: str
    candidate: str
    state: Status
    stage: str
    stage_index: int
    stages: tuple[StageStatus, ...]
    weights: dict[str, float]
    epoch: int
    evidence: tuple[GuardStatus, ...]
    reason: str
    history: tuple[Event, ...]
    guard: str = ""
    turn: int = 0
    opened: tuple[int, float, int] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("completed", "rolled-back")

    def to_json(self) -> bytes:
        """Compact JSON; the same status gives the same bytes."""
        return _ADAPTER.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> RolloutStatus:
        """Read what `to_json` wrote; unknown keys are ignored. Raises CodecError."""
        try:
            return _ADAPTER.validate_json(data)
        except ValidationError as error:
            raise CodecError(
                f"a stored rollout status cannot be read: {error}",
                hint="It was not written by this version of Aura; start the rollout again",
            ) from error

    def plain(self) -> dict[str, Any]:
        """As JSON values, for `--json` and the HTTP API."""
        found: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return found


_ADAPTER = TypeAdapter(RolloutStatus)


def status_of(
    plan: Plan,
    run: str,
    state: RolloutState,
    tallies: tuple[Tally, Tally],
    epoch: int,
    reason: str,
    history: tuple[Event, ...],
) -> RolloutStatus:
    """Put together what is known; of the tallies one has the evidence, the other the counts."""
    tally, counts = tallies
    rolled_back = state.status == "rolled-back"
    weights, _ = weights_for(plan, None if rolled_back else state.stage)
    evidence = tally.evidence(state.stage)
    return RolloutStatus(
        name=plan.name,
        run=run,
        split=plan.split,
        baseline=plan.baseline,
        candidate=plan.candidate,
        state=state.status,
        stage=plan.stages[state.stage].name,
        stage_index=state.stage,
        stages=tuple(_stage(plan, index, state, counts) for index in range(len(plan.stages))),
        weights=weights,
        epoch=epoch,
        evidence=tuple(
            GuardStatus(one.guard, one.verdict, one.evidence, one.limit, one.reason)
            for one in evidence.judgements
        ),
        reason=reason,
        history=history,
    )


def given_up(known: RolloutStatus, reason: str, now: float) -> RolloutStatus:
    """The status after the traffic was taken back because nobody could watch it. Pure."""
    stages = tuple(
        replace(stage, verdict="trip") if index == known.stage_index else stage
        for index, stage in enumerate(known.stages)
    )
    return replace(
        known,
        state="rolled-back",
        stages=stages,
        weights={known.baseline: 1.0, known.candidate: 0.0},
        reason=reason,
        history=(*known.history, Event(now, "rollback", reason, "", now)),
        turn=known.turn + 1,
    )


def _stage(plan: Plan, index: int, state: RolloutState, tally: Tally) -> StageStatus:
    stage = plan.stages[index]
    return StageStatus(
        name=stage.name,
        weight=stage.weight,
        verdict=_verdict(index, state),
        candidate=_arm(tally.arm(stage, plan.candidate)),
        baseline=_arm(tally.arm(stage, plan.baseline)),
    )


def _verdict(index: int, state: RolloutState) -> str:
    if index < state.stage or (index == state.stage and state.status == "completed"):
        return "pass"
    if index > state.stage:
        return "waiting"
    return {"running": "running", "held": "held", "rolled-back": "trip"}[state.status]


def _arm(tally: ArmTally) -> ArmStatus:
    return ArmStatus(
        requests=tally.requests,
        errors=tally.failed,
        fallbacks=tally.fallbacks,
        user_errors=tally.user_failed,
        p50_ms=_ms(tally.latencies.quantile(0.5)),
        p95_ms=_ms(tally.latencies.quantile(0.95)),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
