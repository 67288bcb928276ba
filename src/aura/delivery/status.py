"""What people see of a rollout: a value that is published while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aura.delivery.decide import RolloutState, Status, layout, weight_of
from aura.delivery.evidence import ArmTally, Evidence, Tally
from aura.delivery.guard import Verdict
from aura.delivery.plan import Pair, Plan
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
    """A stage: `verdict` is "waiting", "running", "held", "paused", "descending", "pass" or
    "trip"."""

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


def first_by(history: Sequence[Event], by: str) -> tuple[Event, ...]:
    """The same, and who made its first event."""
    return (*(replace(one, by=by) for one in history[:1]), *history[1:])


@dataclass(frozen=True, slots=True)
class PairStatus:
    """A split that is moved together with the rollout's own; the fields as in RolloutStatus."""

    split: str
    baseline: str
    candidate: str
    epoch: int
    stages: tuple[StageStatus, ...]
    weights: dict[str, float]
    evidence: tuple[GuardStatus, ...]


@dataclass(frozen=True, slots=True)
class ApprovalStatus:
    """Approvals of the stage: how many are `needed`, `people` who may give one (none: anybody), who
    has `given` one, since when they are asked and until when (epoch seconds, None: not yet; for
    ever)."""

    needed: int
    people: tuple[str, ...]
    given: tuple[str, ...]
    asked_at: float | None
    until: float | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """What became of the candidate's runs after a rollback: the plan's `policy`, how many had which
    outcome, and the outcomes of the first ones by run."""

    policy: str
    counts: dict[str, int]
    runs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A rollout at a moment.

    `stages` count from the beginning, `evidence` from the last hold. `history` has each turn once,
    `turn` of them were taken. `opened` is the epoch, time and feed position with which it began,
    None until a worker has taken it up and when it was refused; `begun` has epoch and position of
    each split. `together` are the splits that are moved with this one. `weight` is the candidate's
    share now. `notes` say what is odd about the observations. `by` began it.
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
    begun: dict[str, tuple[int, int]] = field(default_factory=dict)
    together: tuple[PairStatus, ...] = ()
    weight: float = 0.0
    approval: ApprovalStatus | None = None
    notes: tuple[str, ...] = ()
    in_flight: InFlight | None = None
    by: str = ""

    @property
    def pairs(self) -> tuple[PairStatus, ...]:
        """All splits that it moves, its own first."""
        arms = self.split, self.baseline, self.candidate
        own = PairStatus(*arms, self.epoch, self.stages, self.weights, self.evidence)
        return own, *self.together

    @property
    def splits(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(pair.split for pair in self.pairs)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("completed", "rolled-back")

    def begun_by(self, by: str) -> RolloutStatus:
        """The same with who began it, also in the first line of its history."""
        return replace(self, by=by, history=first_by(self.history, by))

    def to_json(self) -> bytes:
        """Compact JSON; the same status gives the same bytes."""
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> RolloutStatus:
        """Read what `to_json` wrote; unknown keys are ignored. Raises CodecError."""
        try:
            return _adapter().validate_json(data)
        except ValidationError as error:
            raise CodecError(
                f"a stored rollout status cannot be read: {error}",
                hint="It was not written by this version of Aura; start the rollout again",
            ) from error

    def plain(self) -> dict[str, Any]:
        """As JSON values, for `--json` and the HTTP API."""
        found: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return found


@cache
def _adapter() -> TypeAdapter[RolloutStatus]:
    return TypeAdapter(RolloutStatus)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one split: the tallies of the evidence and of all counts (often the same),
    and the split's epoch."""

    evidence: Tally
    counts: Tally
    epoch: int


def evidence_of(plan: Plan, state: RolloutState, seen: tuple[Tally, ...]) -> Evidence:
    """What `decide` needs, of all splits; `seen` in the order of `plan.pairs`."""
    weight = weight_of(plan, state)
    steps = 0 if state.step is None else len(plan.gradual.steps)
    first, *others = (tally.evidence(weight, steps) for tally in seen)
    return replace(first, others=tuple(others))


def status_of(
    plan: Plan,
    run: str,
    state: RolloutState,
    seen: tuple[Seen, ...],
    reason: str,
    history: tuple[Event, ...],
) -> RolloutStatus:
    """Put together what is known; `seen` in the order of `plan.pairs`."""
    pairs = [_pair(plan, pair, state, one) for pair, one in zip(plan.pairs, seen, strict=True)]
    first = pairs[0]
    return RolloutStatus(
        name=plan.name,
        run=run,
        split=plan.split,
        baseline=plan.baseline,
        candidate=plan.candidate,
        state=state.status,
        stage=plan.stages[state.stage].name,
        stage_index=state.stage,
        stages=first.stages,
        weights=first.weights,
        epoch=first.epoch,
        evidence=first.evidence,
        reason=reason,
        history=history,
        together=tuple(pairs[1:]),
        weight=weight_of(plan, state),
        approval=_approval(plan, state),
    )


def nothing_seen(plan: Plan, epochs: tuple[int, ...] = ()) -> tuple[Seen, ...]:
    """Before the first observation; without epochs, before there is a split."""
    epochs = epochs or (0,) * len(plan.pairs)
    tallies = [Tally(plan, pair=pair) for pair in plan.pairs]
    return tuple(Seen(one, one, epoch) for one, epoch in zip(tallies, epochs, strict=True))


def _pair(plan: Plan, pair: Pair, state: RolloutState, seen: Seen) -> PairStatus:
    weights, _, _ = layout(plan, state, pair)
    evidence = evidence_of(plan, state, (seen.evidence,))
    return PairStatus(
        split=pair.split,
        baseline=pair.baseline,
        candidate=pair.candidate,
        epoch=seen.epoch,
        stages=tuple(
            _stage(plan, pair, index, state, seen.counts) for index in range(len(plan.stages))
        ),
        weights=weights,
        evidence=tuple(
            GuardStatus(one.guard, one.verdict, one.evidence, one.limit, one.reason)
            for one in evidence.judgements
        ),
    )


def _approval(plan: Plan, state: RolloutState) -> ApprovalStatus | None:
    rule = plan.stages[state.stage].approval
    if rule is None or state.ended or state.step is not None:
        return None
    asked, until = state.asked_at, None
    if asked is not None and rule.timeout is not None:
        until = asked + rule.timeout
    return ApprovalStatus(rule.needed, rule.people, state.approvals, asked, until)


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
        weight=0.0,
        approval=None,
        together=tuple(
            replace(pair, weights={pair.baseline: 1.0, pair.candidate: 0.0})
            for pair in known.together
        ),
        reason=reason,
        history=(*known.history, Event(now, "rollback", reason, "", now)),
        turn=known.turn + 1,
    )


def _stage(plan: Plan, pair: Pair, index: int, state: RolloutState, tally: Tally) -> StageStatus:
    stage = plan.stages[index]
    return StageStatus(
        name=stage.name,
        weight=stage.weight,
        verdict=_verdict(index, state),
        candidate=_arm(tally.arm(stage.weight, pair.candidate)),
        baseline=_arm(tally.arm(stage.weight, pair.baseline)),
    )


def _verdict(index: int, state: RolloutState) -> str:
    if index < state.stage or (index == state.stage and state.status == "completed"):
        return "pass"
    if index > state.stage:
        return "waiting"
    return "trip" if state.status == "rolled-back" else state.status


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
