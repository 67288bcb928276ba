"""What a rollout does next: a pure function of plan, state, evidence and time.

                 resume  (Continue)
              +---------------------+
              v                     |
        +-----------+   Hold   +--------+
   o--> |  running  | -------> |  held  |
        |  stage i  |          | stage i|
        +-----------+          +--------+
         |  |  ^  |               |  |
         |  |  |  | Advance       |  | Advance (ordered) -> running, stage i + 1
         |  |  +--+ i -> i + 1    |  |
         |  |                     |  | Rollback (ordered, or a guard trips)
         |  | Rollback            |  v
         |  +-------------> +-------------+
         |                  | rolled-back |  end
         | Complete         +-------------+
         |   (last stage)
         +----------------> +-----------+
                            | completed |  end      (from held too, when ordered to advance)
                            +-----------+

`decide` names the transition and `apply` performs it on the state; `weights_for` says what the
split must then be. Whoever calls them makes both durable. Which decision is taken, first match:

 1. a rollout that has ended         Continue (nothing to do)
 2. the order `rollback`             Rollback
 3. a guard that tripped             Rollback or Hold, as `on_trip` says
 4. the order `hold`                 Hold
 5. the order `advance`              Advance or Complete: a person answers for missing evidence
 6. held, without the order `resume` Continue (it waits for a person)
 7. the stage has its evidence       Advance or Complete
 8. `max_time` is over               Hold, Rollback or Continue, as `on_not_enough` says
 9. else                             Continue, with what is still missing
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from aura.delivery.evidence import Evidence
from aura.delivery.plan import Plan, Stage
from aura.errors import RolloutError
from aura.stats.hashing import BUCKETS

Status = Literal["running", "held", "completed", "rolled-back"]
Order = Literal["advance", "hold", "resume", "rollback"]

NOT_ENOUGH = "not-enough"
"""The `guard` of a rollback that came because the evidence did not."""


@dataclass(frozen=True, slots=True)
class RolloutState:
    """Where a rollout is: the index of its stage, since when (epoch seconds), and the operator's
    order that has not been carried out yet."""

    stage: int
    status: Status
    entered_at: float
    order: Order | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("completed", "rolled-back")


@dataclass(frozen=True, slots=True)
class Continue:
    """Change no traffic. `reason` says what is waited for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Advance:
    """Go on to the stage of the index `to`."""

    to: int
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the weights as they are until a person says what to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """All traffic back to the baseline. `guard` is the kind that tripped, "not-enough" when the
    evidence did not come, "" when an operator ordered it."""

    reason: str
    guard: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """The candidate has passed the last stage."""

    reason: str


Decision = Continue | Advance | Hold | Rollback | Complete


def start(now: float) -> RolloutState:
    """The state in which a rollout begins: its first stage, at `now` (epoch seconds)."""
    return RolloutState(stage=0, status="running", entered_at=now)


def decide(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """The next transition. `evidence` is that of the state's stage, `now` in epoch seconds.

    Raises RolloutError when the state names a stage that the plan does not have.
    """
    stage = _stage(plan, state.stage)
    if state.ended:
        return Continue(f"the rollout is {state.status}")
    if state.order == "rollback":
        return Rollback("ordered by the operator")
    tripped = _tripped(plan, state, evidence)
    if tripped is not None:
        return tripped
    if state.order == "hold":
        return Hold("ordered by the operator")
    missing = list(_missing(plan, state, evidence, now))
    if state.order == "advance":
        without = f" without {', '.join(missing)}" if missing else ""
        return _forward(plan, state, f"ordered by the operator{without}")
    if state.status == "held" and state.order != "resume":
        return Continue("held: waits for advance, resume or rollback")
    if not missing:
        return _forward(plan, state, f"stage {stage.name} has its evidence: {_seen(evidence)}")
    return _unfinished(plan, state, stage, evidence, missing, now)


def apply(state: RolloutState, decision: Decision, now: float) -> RolloutState:
    """The state after the decision; the order has been carried out and is gone.

    Resuming begins the stage's time anew, so that `max_time` does not hold it at once again.
    """
    match decision:
        case Advance(to=to):
            return RolloutState(stage=to, status="running", entered_at=now)
        case Hold():
            status: Status = "held"
        case Rollback():
            status = "rolled-back"
        case Complete():
            status = "completed"
        case Continue():
            if state.status == "held" and state.order == "resume":
                return replace(state, status="running", entered_at=now, order=None)
            return replace(state, order=None)
    if status == state.status:
        return replace(state, order=None)
    return RolloutState(stage=state.stage, status=status, entered_at=now)


def weights_for(plan: Plan, stage: int | None) -> tuple[dict[str, float], str]:
    """The split's weights (0.0 to 1.0, by arm) and its mirror in the stage of that index.

    None stands for a rollout that was rolled back. Fits `Split.with_weights`; the mirrored share
    of units is the stage's `sample`. Raises RolloutError for a stage that the plan does not have.
    """
    buckets, mirror = 0, ""
    if stage is not None:
        now_at = _stage(plan, stage)
        buckets = round(now_at.weight * BUCKETS)
        mirror = plan.candidate if now_at.shadow else ""
    weights = {plan.baseline: (BUCKETS - buckets) / BUCKETS, plan.candidate: buckets / BUCKETS}
    return weights, mirror


def _stage(plan: Plan, index: int) -> Stage:
    if not 0 <= index < len(plan.stages):
        raise RolloutError(
            f"the rollout {plan.name} is in stage {index}, its plan has {len(plan.stages)} stages",
            hint="the plan was changed under a running rollout; roll back and start it anew",
        )
    return plan.stages[index]


def _tripped(plan: Plan, state: RolloutState, evidence: Evidence) -> Decision | None:
    trips = [judgement for judgement in evidence.judgements if judgement.verdict == "trip"]
    if not trips:
        return None
    first = min(trips, key=lambda judgement: judgement.at)
    if plan.on_trip == "rollback":
        return Rollback(first.reason, first.guard)
    if state.status == "held" and state.order == "resume":
        return Continue("resumed by the operator; the evidence begins anew")
    if state.status == "held":
        return Continue(f"held: {first.reason}")
    return Hold(first.reason)


def _missing(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Iterator[str]:
    stage = plan.stages[state.stage]
    elapsed = _elapsed(state, now)
    if evidence.requests < stage.min_requests:
        yield f"{stage.min_requests - evidence.requests} more requests of the candidate"
    if evidence.units < stage.min_units:
        yield f"{stage.min_units - evidence.units} more units on the candidate"
    if elapsed < stage.min_time:
        yield f"{stage.min_time - elapsed:.1f} s more in the stage"
    judgements = {judgement.guard: judgement for judgement in evidence.judgements}
    for guard in plan.guards:
        judgement = judgements.get(guard.kind)
        if guard.applies(shadow=stage.shadow):
            if judgement is None:
                yield f"a verdict of the guard {guard.kind}"
            elif judgement.verdict == "not-enough":
                yield f"a verdict ({judgement.reason})"


def _elapsed(state: RolloutState, now: float) -> float:
    """Never negative, should the clock have been set back."""
    return max(0.0, now - state.entered_at)


def _forward(plan: Plan, state: RolloutState, reason: str) -> Decision:
    if state.stage + 1 < len(plan.stages):
        return Advance(state.stage + 1, reason)
    return Complete(reason)


def _unfinished(
    plan: Plan,
    state: RolloutState,
    stage: Stage,
    evidence: Evidence,
    missing: list[str],
    now: float,
) -> Decision:
    nothing = "the candidate has had no traffic; " if evidence.requests == 0 else ""
    waits = f"{nothing}stage {stage.name} waits for {', '.join(missing)}"
    resumed = state.status == "held"
    if resumed or _elapsed(state, now) < stage.max_time:
        return Continue(f"resumed by the operator; {waits}" if resumed else waits)
    overdue = f"not enough evidence after {stage.max_time:g} s: {waits}"
    match plan.on_not_enough:
        case "hold":
            return Hold(overdue)
        case "rollback":
            return Rollback(overdue, NOT_ENOUGH)
        case "extend":
            return Continue(overdue)


def _seen(evidence: Evidence) -> str:
    return f"{evidence.requests} requests of {evidence.units} units on the candidate"
