"""What a rollout does next: a pure function of plan, state, evidence and time.

        Ask, Approve, Restart          Pause         +----------+
              +------+              +--------------> |  paused  |  the clock stands still
              |      v              |    resume      | stage i  |
              |   +-----------+ ----+ <------------- +----------+
   o----------+-> |  running  |                           |
                  |  stage i  |     Hold             +----------+
              +-> |           | ------------+------> |   held   |  waits for a person
      Advance |   |           |             |        | stage i, |
      i -> k  +-- |           | <-----------|------- | or step s|
                  +-----------+   resume, retry,     +----------+
                     |     |      advance, skip      ^    |
            Complete |     | Descend                 |    | Descend, when a guard trips
       (last stage)  |     v                    Hold |    v
                     |   +-------------------------------------+
                     |   | descending, step s  (Descend: s + 1)|   on_trip: gradual
                     |   +-------------------------------------+
                     v                       | Rollback (also from running, paused and held)
               +-----------+          +-------------+
               | completed |  end     | rolled-back |  end
               +-----------+          +-------------+

`decide` names the transition and `apply` performs it on the state; `layout` says what a split
must then be. Whoever calls them makes both durable. Which decision is taken, first match:

 1. a rollout that has ended         Continue (nothing to do)
 2. the order `rollback`             Rollback
 3. a guard that tripped             Rollback, Descend or Hold, as `on_trip` says. In a descent: a
                                     hard limit Rollback, a test Descend
 4. the order `hold`                 Hold
 5. descending                       Hold when healthy again, Descend when its time is over, else
                                     Continue; no other order is carried out
 6. the orders `pause`, `retry`      Pause, Restart
 7. the orders `advance`, `skip`     Advance or Complete: a person answers for missing evidence,
                                     missing approvals and closed windows
 8. paused, or held, without the     Continue (it waits for a person)
    order `resume`
 9. held in a descent, and `resume`  Advance to the stage that has no more than its weight
10. both arms break a hard limit     Hold: it is not the candidate's fault, and no time to promote
11. the stage lacks evidence         Continue with what is missing; after `max_time` Hold, Rollback
                                     or Continue, as `on_not_enough` says
12. the stage lacks approvals        Ask, then Continue; after `timeout` as `on_not_enough` says
13. no window is open                Continue
14. else                             Advance or Complete

With several splits there is evidence of each: a stage has what it needs when all have it, and
what trips in one of them is a trip. `answer` decides about an approval in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from aura.delivery.approval import ApprovalRule, Said
from aura.delivery.evidence import Evidence
from aura.delivery.guard import Judgement
from aura.delivery.plan import Pair, Plan, Stage
from aura.delivery.windows import waits_for
from aura.errors import RolloutError
from aura.spans import counted, span
from aura.stats.hashing import BUCKETS

Status = Literal["running", "held", "paused", "descending", "completed", "rolled-back"]
Order = Literal["advance", "hold", "resume", "rollback", "pause", "retry", "skip"]

ORDERS: tuple[Order, ...] = get_args(Order)

NOT_ENOUGH = "not-enough"
"""The `guard` of a rollback that came because the evidence (or an approval) did not."""

REFUSED = "refused"
"""The `guard` of a rollback that came because somebody refused to approve."""


@dataclass(frozen=True, slots=True)
class RolloutState:
    """Where a rollout is.

    `stage`       the index of its stage, `step` that of its step in a gradual rollback, which then
                  sets the weight, also while it is held there
    `entered_at`  since when it is there (epoch seconds)
    `order`       the operator's order that has not been carried out yet; `target` is the stage
                  that it names
    `asked_at`    since when approvals are waited for; `approvals` are the people who gave one
    `paused_at`   since when its clock stands still
    `guard`       what tripped and began the descent
    """

    stage: int
    status: Status
    entered_at: float
    order: Order | None = None
    target: str = ""
    step: int | None = None
    asked_at: float | None = None
    approvals: tuple[str, ...] = ()
    paused_at: float | None = None
    guard: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("completed", "rolled-back")


@dataclass(frozen=True, slots=True)
class Continue:
    """Change no traffic. `reason` says what is waited for; `void`: the order makes no sense."""

    reason: str
    void: bool = False


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
class Pause:
    """Keep the weights as they are and stop the clock; guards go on watching."""

    reason: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin the stage anew: its evidence, its time and its approvals."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The stage has its evidence and needs approvals: people are asked from now on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Approve:
    """One more approval is there."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Descend:
    """Go down to the step of the index `to` of the gradual rollback. `guard` as in Rollback."""

    to: int
    reason: str
    guard: str = ""


@dataclass(frozen=True, slots=True)
class Rollback:
    """All traffic back to the baseline. `guard` is the kind that tripped, "not-enough" when the
    evidence did not come, "refused" when an approval was, "" when an operator ordered it."""

    reason: str
    guard: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """The candidate has passed the last stage."""

    reason: str


Decision = (
    Continue | Advance | Hold | Pause | Restart | Ask | Approve | Descend | Rollback | Complete
)


def start(now: float) -> RolloutState:
    """The state in which a rollout begins: its first stage, at `now` (epoch seconds)."""
    return RolloutState(stage=0, status="running", entered_at=now)


def decide(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """The next transition. `evidence` is that of the state's stage or step, `now` in epoch seconds.

    Raises RolloutError when the state names a stage or step that the plan does not have.
    """
    stage = _stage(plan, state.stage)
    weight_of(plan, state)
    if state.ended:
        return Continue(f"the rollout is {state.status}")
    if state.order == "rollback":
        return Rollback("ordered by the operator")
    tripped = _tripped(plan, state, evidence)
    if tripped is not None:
        return tripped
    if state.order == "hold":
        return Hold("ordered by the operator")
    if state.status == "descending" or (state.status == "running" and state.step is not None):
        return _descent(plan, state, evidence, now)
    if state.order is not None and state.order != "resume":
        return _ordered(plan, state, stage, evidence, now)
    if state.status in ("held", "paused") and state.order != "resume":
        return Continue(f"{state.status}: waits for advance, resume or rollback")
    if state.step is not None:
        to = max(0, _base(plan, state))
        return Advance(to, f"ordered by the operator: from the step on to {plan.stages[to].name}")
    if state.status == "paused":
        return Continue("resumed by the operator; the clock goes on")
    return _onward(plan, state, stage, evidence, now)


def answer(plan: Plan, state: RolloutState, said: Said) -> Decision:
    """What an approval (or refusal) that was received leads to. Pure, and never raises for what
    people write; RolloutError as in `decide`."""
    stage = _stage(plan, state.stage)
    rule = stage.approval
    flaw = _flaw(state, stage, said)
    if flaw or rule is None:
        return Continue(f"not counted: {flaw}", void=True)
    why = f": {said.reason}" if said.reason else ""
    if not said.ok:
        reason = f"refused by {said.by}{why}"
        return Hold(reason) if rule.on_refusal == "hold" else Rollback(reason, REFUSED)
    count = len(state.approvals) + 1
    return Approve(said.by, f"{count} of {rule.needed} approvals of stage {stage.name}{why}")


def _flaw(state: RolloutState, stage: Stage, said: Said) -> str:
    """Why an approval does not count, "" when it does."""
    if said.flaw:
        return said.flaw
    if state.ended:
        return f"the rollout is {state.status}"
    if state.status == "descending" or state.step is not None:
        return "a rollback is under way"
    if (said.stage or stage.name) != stage.name:
        return f"it is for stage {said.stage}, the rollout is in stage {stage.name}"
    if stage.approval is None:
        return f"stage {stage.name} needs no approval"
    if stage.approval.people and said.by not in stage.approval.people:
        return f"{said.by} is none of {', '.join(stage.approval.people)}"
    if said.ok and state.status == "held":
        return "the rollout is held, and when it is resumed approvals begin anew"
    if said.ok and said.by in state.approvals:
        return f"{said.by} has approved already"
    return ""


def apply(state: RolloutState, decision: Decision, now: float) -> RolloutState:
    """The state after the decision; the order has been carried out and is gone.

    Resuming what was held begins the stage anew: its time, so that `max_time` does not hold it at
    once again, and its approvals. Resuming what was paused goes on where it was.
    """
    done = replace(state, order=None, target="")
    match decision:
        case Advance(to=to):
            return RolloutState(stage=to, status="running", entered_at=now)
        case Restart():
            return RolloutState(stage=state.stage, status="running", entered_at=now)
        case Ask():
            return replace(done, asked_at=now)
        case Approve(by=by):
            return replace(done, approvals=(*state.approvals, by))
        case Pause():
            return replace(done, status="paused", paused_at=now)
        case Descend(to=to, guard=guard):
            state = RolloutState(state.stage, "descending", now, guard=state.guard or guard)
            return replace(state, step=to)
        case Hold():
            if state.status == "held":
                return done
            held = RolloutState(state.stage, "held", now, guard=state.guard)
            return replace(held, step=state.step)
        case Rollback():
            return RolloutState(state.stage, "rolled-back", now, guard=decision.guard)
        case Complete():
            return RolloutState(state.stage, "completed", now)
        case Continue():
            return _resumed(state, now) if _resumes(state, decision) else done


def _resumes(state: RolloutState, decision: Continue) -> bool:
    return state.order == "resume" and state.status in ("held", "paused") and not decision.void


def _resumed(state: RolloutState, now: float) -> RolloutState:
    if state.status == "held":
        return RolloutState(stage=state.stage, status="running", entered_at=now)
    stood = max(0.0, now - (now if state.paused_at is None else state.paused_at))
    return replace(
        state,
        status="running",
        order=None,
        target="",
        entered_at=state.entered_at + stood,
        asked_at=None if state.asked_at is None else state.asked_at + stood,
        paused_at=None,
    )


# What the traffic must be.


def weight_of(plan: Plan, state: RolloutState) -> float:
    """The candidate's share of traffic in that state, 0.0 to 1.0.

    Raises RolloutError for a stage or step that the plan does not have.
    """
    stage = _stage(plan, state.stage)
    if state.status == "rolled-back":
        return 0.0
    if state.step is None or state.status == "completed":
        return stage.weight
    if not 0 <= state.step < len(plan.gradual.steps):
        raise RolloutError(
            f"the rollout {plan.name} is in step {state.step} of its rollback, its plan has "
            f"{len(plan.gradual.steps)} steps",
            hint="the plan was changed under a running rollout; roll back and start it anew",
        )
    return plan.gradual.steps[state.step]


def layout(
    plan: Plan, state: RolloutState, pair: Pair | None = None
) -> tuple[dict[str, float], str, float]:
    """A split in that state: weights (0.0 to 1.0, by arm), mirror and sample. Fits
    `Split.with_weights`. `pair` is what is moved there, the plan's own split by default."""
    pair = pair or plan.pairs[0]
    buckets = round(weight_of(plan, state) * BUCKETS)
    stage = plan.stages[state.stage]
    shadow = stage.shadow and state.status != "rolled-back" and state.step is None
    weights = {pair.baseline: (BUCKETS - buckets) / BUCKETS, pair.candidate: buckets / BUCKETS}
    return weights, pair.candidate if shadow else "", stage.sample if shadow else 1.0


def _stage(plan: Plan, index: int) -> Stage:
    if not 0 <= index < len(plan.stages):
        raise RolloutError(
            f"the rollout {plan.name} is in stage {index}, its plan has {len(plan.stages)} stages",
            hint="the plan was changed under a running rollout; roll back and start it anew",
        )
    return plan.stages[index]


def _base(plan: Plan, state: RolloutState) -> int:
    """The stage that the rollout counts as being in: in a step, the last one with no more weight
    than that, -1 when there is none."""
    if state.step is None:
        return state.stage
    weight = weight_of(plan, state)
    return sum(stage.weight <= weight for stage in plan.stages) - 1


# What happens on a trip, and on the way down.


def _tripped(plan: Plan, state: RolloutState, evidence: Evidence) -> Decision | None:
    trips = [
        (judgement, _labelled(plan, one, judgement.reason))
        for one in evidence.all
        for judgement in one.judgements
        if judgement.verdict == "trip"
    ]
    if not trips:
        return None
    first, reason = min(trips, key=lambda trip: trip[0].at)
    hard = any(judgement.hard for judgement, _ in trips)
    if plan.on_trip == "rollback":
        return Rollback(reason, first.guard)
    if plan.on_trip == "gradual" or state.step is not None:
        return _down(plan, state, first, reason, hard=hard)
    if state.status == "held" and state.order == "resume":
        return Continue("resumed by the operator; the evidence begins anew")
    if state.status == "held" and state.order == "retry":
        return Restart("ordered by the operator; the evidence begins anew")
    if state.status == "held":
        return Continue(f"held: {reason}", void=state.order is not None)
    return Hold(reason)


def _down(plan: Plan, state: RolloutState, trip: Judgement, reason: str, *, hard: bool) -> Decision:
    if state.step is not None and hard:
        return Rollback(f"{reason}, in the gradual rollback: the rest at once", trip.guard)
    step = plan.gradual.below(weight_of(plan, state))
    if step is None:
        return Rollback(reason, trip.guard)
    return Descend(step, reason, trip.guard)


def _descent(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """In a step of the gradual rollback, where no guard has tripped."""
    rule, weight = plan.gradual, weight_of(plan, state)
    if state.order is not None:
        return Continue(f"a rollback is under way, it is at {weight:.2%}; hold it first", void=True)
    missing = [_labelled(plan, one, text) for one in evidence.all for text in _unhealthy(plan, one)]
    elapsed = _elapsed(state, now)
    if elapsed < rule.min_time:
        missing.append(f"{span(rule.min_time - elapsed)} more in the step")
    if not missing:
        shown = "; ".join(
            _labelled(plan, one, health.reason) for one in evidence.all for health in one.health
        )
        return Hold(f"healthy again at {weight:.2%}: {shown}")
    waits = f"at {weight:.2%} it is not healthy yet: {', '.join(missing)}"
    if elapsed < rule.max_time:
        return Continue(waits)
    overdue = f"after {span(rule.max_time)} {waits}"
    step = rule.below(weight)
    return Rollback(overdue, state.guard) if step is None else Descend(step, overdue, state.guard)


def _unhealthy(plan: Plan, evidence: Evidence) -> Iterator[str]:
    if evidence.requests < plan.gradual.min_requests:
        missing = plan.gradual.min_requests - evidence.requests
        yield f"{_more_of(missing, 'request')} of the candidate"
    if not evidence.health:
        yield "a guard that can show health (errors or latency)"
    for judgement in evidence.health:
        if judgement.verdict != "pass":
            yield judgement.reason


# What a person orders, and how a stage is passed.


def _ordered(
    plan: Plan, state: RolloutState, stage: Stage, evidence: Evidence, now: float
) -> Decision:
    """The orders pause, retry, advance and skip."""
    if state.order == "pause":
        if state.status == "running":
            return Pause("ordered by the operator: the clock stands still")
        return Continue(f"it is {state.status} already", void=True)
    if state.order == "retry":
        if state.step is None:
            return Restart(f"ordered by the operator: stage {stage.name} begins anew")
        to = max(0, _base(plan, state))
        return Advance(to, f"ordered by the operator: stage {plan.stages[to].name} begins anew")
    lacks = [*_missing(plan, state, evidence, now), *_gates(plan, state, stage, now)]
    without = f" without {', '.join(lacks)}" if lacks and state.step is None else ""
    after = _base(plan, state) + 1
    if state.order == "skip":
        to = next((n for n, one in enumerate(plan.stages) if one.name == state.target), -1)
        if to < after:
            return Continue(f"there is no later stage {state.target!r}", void=True)
        return Advance(to, f"ordered by the operator{without}")
    if after < len(plan.stages):
        return Advance(after, f"ordered by the operator{without}")
    return Complete(f"ordered by the operator{without}")


def _onward(
    plan: Plan, state: RolloutState, stage: Stage, evidence: Evidence, now: float
) -> Decision:
    """In a stage that is running, or is just being resumed."""
    again = "resumed by the operator; " if state.status == "held" else ""
    excused = [
        _labelled(plan, one, judgement.excused)
        for one in evidence.all
        for judgement in one.judgements
        if judgement.excused
    ]
    if excused and not again:
        return Hold(
            f"both arms are in trouble, so it is not the candidate's fault, and no time to go on: "
            f"{excused[0]}, and the baseline does no better"
        )
    missing = list(_missing(plan, state, evidence, now))
    if missing:
        nothing = "the candidate has had no traffic; " if not _any_traffic(evidence) else ""
        waits = f"{nothing}stage {stage.name} waits for {', '.join(missing)}"
        late = _elapsed(state, now) >= stage.max_time and not again
        if not late:
            return Continue(f"{again}{waits}")
        return _overdue(plan, f"not enough evidence after {span(stage.max_time)}: {waits}")
    gates = list(_gates(plan, state, stage, now))
    if gates:
        waits = f"stage {stage.name} has its evidence and waits for {', '.join(gates)}"
        return Continue(f"{again}{waits}") if again else _gated(plan, state, stage, waits, now)
    reason = f"stage {stage.name} has its evidence: {_seen(plan, evidence)}"
    return Advance(state.stage + 1, reason) if _more(plan, state) else Complete(reason)


def _gated(plan: Plan, state: RolloutState, stage: Stage, waits: str, now: float) -> Decision:
    rule = stage.approval
    if rule is None or len(state.approvals) >= rule.needed:
        return Continue(waits)
    if state.asked_at is None:
        return Ask(waits)
    if rule.timeout is not None and now - state.asked_at >= rule.timeout:
        return _overdue(plan, f"not approved within {span(rule.timeout)}: {waits}")
    return Continue(waits)


def _overdue(plan: Plan, reason: str) -> Decision:
    match plan.on_not_enough:
        case "hold":
            return Hold(reason)
        case "rollback":
            return Rollback(reason, NOT_ENOUGH)
        case "extend":
            return Continue(reason)


def _missing(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Iterator[str]:
    stage = plan.stages[state.stage]
    for one in evidence.all:
        for text in _lacks(plan, stage, one):
            yield _labelled(plan, one, text)
    elapsed = _elapsed(state, now)
    if elapsed < stage.min_time:
        yield f"{span(stage.min_time - elapsed)} more in the stage"


def _lacks(plan: Plan, stage: Stage, evidence: Evidence) -> Iterator[str]:
    if evidence.requests < stage.min_requests:
        yield f"{_more_of(stage.min_requests - evidence.requests, 'request')} of the candidate"
    if evidence.units < stage.min_units:
        yield f"{_more_of(stage.min_units - evidence.units, 'unit')} on the candidate"
    judgements = {judgement.guard: judgement for judgement in evidence.judgements}
    for guard in plan.guards:
        judgement = judgements.get(guard.kind)
        if guard.applies(shadow=stage.shadow):
            if judgement is None:
                yield f"a verdict of the guard {guard.kind}"
            elif judgement.verdict == "not-enough":
                yield f"a verdict ({judgement.reason})"


def _more_of(count: int, what: str) -> str:
    return counted(count, f"more {what}")


def _gates(plan: Plan, state: RolloutState, stage: Stage, now: float) -> Iterator[str]:
    """What a stage that has its evidence still waits for."""
    rule = stage.approval
    if rule is not None and len(state.approvals) < rule.needed:
        yield approval_wanted(rule, state.approvals)
    closed = waits_for(plan.windows_of(stage), now)
    if closed:
        yield closed


def approval_wanted(rule: ApprovalRule, given: tuple[str, ...]) -> str:
    """Whose approval is missing, in words."""
    count = rule.needed - len(given)
    people = [name for name in rule.people if name not in given]
    of = f" of {' or '.join(people)}" if people else ""
    return f"{count} approval{'s' if count > 1 else ''}{of}"


def _elapsed(state: RolloutState, now: float) -> float:
    """Seconds in the stage or step, without those of a pause. Never negative, should the clock have
    been set back."""
    until = now if state.paused_at is None else state.paused_at
    return max(0.0, until - state.entered_at)


def _more(plan: Plan, state: RolloutState) -> bool:
    return state.stage + 1 < len(plan.stages)


def _any_traffic(evidence: Evidence) -> bool:
    return any(one.requests for one in evidence.all)


def _labelled(plan: Plan, evidence: Evidence, text: str) -> str:
    """The text, with the split's name where there are several."""
    return f"{evidence.split}: {text}" if plan.together else text


def _seen(plan: Plan, evidence: Evidence) -> str:
    return "; ".join(_labelled(plan, one, _seen_of(one)) for one in evidence.all)


def _seen_of(one: Evidence) -> str:
    requests, units = counted(one.requests, "request"), counted(one.units, "unit")
    return f"{requests} of {units} on the candidate"
