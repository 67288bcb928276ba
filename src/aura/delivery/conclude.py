"""What an experiment does next: a pure function of experiment, state, findings and time.

                    Hold                       stop or promote (ordered), harm, ratio
        +---------+ ------> +------+ ------------------------------------+
   o--> | running |         | held |                                     |
        +---------+         +------+                                     v
          |  ^ | Drop: an arm does harm, the others go on           +---------+
          |  +-+                                                    |  ended  |
          +-------------------------------------------------------> +---------+
            End: won | harmed | no-effect | not-enough | invalid | stopped

`conclude` names the transition and `after` performs it on the state. First match:

 1. it has ended                      Continue (nothing to do)
 2. the order `stop` or `promote`     End
 3. the sample ratio is wrong         End (invalid): nothing that it says can be believed
 4. an arm does harm                  Drop it, or End (harmed) when it is the last candidate
 5. held                              Continue (it waits for a person)
 6. `min_time` is over and an arm is better on the primary metric
                                      End (won), or Hold when `on_win` says so or a secondary
                                      metric is worse
 7. no arm can still reach the effect End (no-effect)
 8. `max_time` is over                End (not-enough), or Hold when `on_not_enough` says so, or
                                      when the primary metric has never arrived
 9. else                              Continue, with what is still missing

An arm does harm when one of its guards trips, or when it is worse on the primary metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from aura.delivery.analysis import Comparison, Findings
from aura.delivery.decide import Continue, Hold
from aura.delivery.experiment import Experiment
from aura.spans import span

Status = Literal[
    "running", "held", "won", "harmed", "no-effect", "not-enough", "invalid", "stopped"
]
Order = Literal["stop", "promote"]
ORDERS: tuple[Order, ...] = ("stop", "promote")


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """Where an experiment is: since when it runs (epoch seconds), from which epoch on arms were
    dropped, and who has won ("" for nobody)."""

    status: Status
    began: float
    dropped: tuple[tuple[str, int], ...] = ()
    winner: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status not in ("running", "held")

    def live(self, experiment: Experiment) -> tuple[str, ...]:
        """The candidates that were not dropped."""
        gone = dict(self.dropped)
        return tuple(arm for arm in experiment.candidates if arm not in gone)


@dataclass(frozen=True, slots=True)
class Given:
    """An order as it was read: number `seq` of its feed; `arm` is the one to promote."""

    seq: int
    order: Order | None = None
    arm: str = ""
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """Send the arm's units to the baseline; the others go on."""

    arm: str
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The experiment is over: everybody to `arm` when it has won, else to the baseline."""

    status: Status
    reason: str
    arm: str = ""


Decision = Continue | Hold | Drop | End


def conclude(
    experiment: Experiment, state: ExperimentState, findings: Findings, now: float, given: Given
) -> Decision:
    """The next transition, at `now` (epoch seconds)."""
    if state.ended:
        return Continue(f"the experiment is {state.status}")
    ordered = _ordered(experiment, state, given)
    if ordered is not None:
        return ordered
    if findings.ratio.tripped:
        return End("invalid", _wrong_ratio(findings))
    harm = _harm(experiment, state, findings)
    if harm is not None:
        return harm
    if state.status == "held":
        return Continue("held: waits for stop or promote")
    elapsed = max(0.0, now - state.began)
    if elapsed >= experiment.min_time:
        found = _winner(experiment, state, findings) or _no_effect(experiment, state, findings)
        if found is not None:
            return found
    missing = ", ".join(_missing(experiment, state, findings, elapsed))
    if elapsed >= experiment.max_time:
        return _overdue(experiment, findings, missing)
    return Continue(f"waits for {missing}")


def after(state: ExperimentState, decision: Decision, epoch: int) -> ExperimentState:
    """The state after the decision, with the split at `epoch`."""
    match decision:
        case Hold():
            return replace(state, status="held")
        case Drop(arm=arm):
            return replace(state, dropped=(*state.dropped, (arm, epoch)))
        case End(status=status, arm=arm):
            return replace(state, status=status, winner=arm)
        case Continue():
            return state


def _ordered(experiment: Experiment, state: ExperimentState, given: Given) -> Decision | None:
    why = f": {given.reason}" if given.reason else ""
    if given.order == "stop":
        return End("stopped", f"ordered by the operator{why}")
    if given.order == "promote":
        if given.arm not in state.live(experiment):
            return Continue(f"the order to promote {given.arm} is void: it is no live candidate")
        return End("won", f"promoted by the operator{why}", given.arm)
    return None


def _wrong_ratio(findings: Findings) -> str:
    ratio = findings.ratio
    counts = ", ".join(
        f"{arm} has {count:,} units, {ratio.expected[arm]:,.1f} expected"
        for arm, count in ratio.units.items()
    )
    return (
        f"the sample ratio is wrong ({counts}; evidence {ratio.evidence:.3g}, trips at "
        f"{ratio.limit:g}): units get lost, so the arms cannot be compared"
    )


def _harm(experiment: Experiment, state: ExperimentState, findings: Findings) -> Drop | End | None:
    live = state.live(experiment)
    for arm in live:
        trips = [one for one in findings.judgements[arm] if one.verdict == "trip"]
        reason = min(trips, key=lambda one: one.at).reason if trips else ""
        if not reason and findings.primary(arm).verdict == "worse":
            reason = f"it is worse: {said(findings.primary(arm))}"
        if reason:
            told = f"arm {arm} does harm: {reason}"
            return End("harmed", told) if live == (arm,) else Drop(arm, told)
    return None


def _winner(
    experiment: Experiment, state: ExperimentState, findings: Findings
) -> Hold | End | None:
    better = [
        one
        for one in map(findings.primary, state.live(experiment))
        if one.verdict == "better" and _enough(experiment, one)
    ]
    if not better:
        return None
    sign = experiment.primary.sign
    best = max(better, key=lambda one: sign * one.difference)
    reason = f"arm {best.arm} is better: {said(best)}"
    worse = [
        one.metric for one in findings.comparisons if one.arm == best.arm and one.verdict == "worse"
    ]
    if worse:
        return Hold(f"{reason}; but worse on {' and '.join(worse)}, so a person decides")
    return Hold(reason) if experiment.on_win == "hold" else End("won", reason, best.arm)


def _no_effect(experiment: Experiment, state: ExperimentState, findings: Findings) -> End | None:
    metric = experiment.primary
    if not metric.effect:
        return None
    for one in map(findings.primary, state.live(experiment)):
        wanted = metric.effect * (abs(one.baseline_mean) if metric.relative else 1.0)
        _, largest = one.improvement(metric)
        if largest is None or largest >= wanted or not _enough(experiment, one):
            return None
    return End("no-effect", f"no arm can still improve {metric.name} by {shown_effect(experiment)}")


def _overdue(experiment: Experiment, findings: Findings, missing: str) -> Hold | End:
    after_all = f"not enough evidence after {span(experiment.max_time)}"
    if not _arrived(experiment, findings):
        return Hold(f"{after_all}: {_never(experiment)}")
    reason = f"{after_all}: {missing}" if missing else after_all
    return Hold(reason) if experiment.on_not_enough == "hold" else End("not-enough", reason)


def _missing(
    experiment: Experiment, state: ExperimentState, findings: Findings, elapsed: float
) -> Iterator[str]:
    if not _arrived(experiment, findings):
        yield f"the metric {experiment.primary.name}: {_never(experiment)}"
    if elapsed < experiment.min_time:
        yield f"{span(experiment.min_time - elapsed)} more"
    for arm in state.live(experiment):
        one = findings.primary(arm)
        few = experiment.min_units - min(one.units, one.baseline_units)
        if few > 0:
            yield f"{few:,} more units with a final {one.metric} on {arm} or the baseline"
        else:
            yield f"a difference: {said(one)}"


def _enough(experiment: Experiment, one: Comparison) -> bool:
    return min(one.units, one.baseline_units) >= experiment.min_units


def _arrived(experiment: Experiment, findings: Findings) -> bool:
    return (findings.counters.arrived or {}).get(experiment.primary.name, 0) > 0


def _never(experiment: Experiment) -> str:
    metric = experiment.primary
    where = {
        "reward": "no reward of that name has been given",
        "observation": "no observation has a number of that name",
    }
    return where.get(metric.source, "no unit of the experiment has made a request")


def shown_effect(experiment: Experiment) -> str:
    """The primary metric's smallest effect that matters, in words."""
    metric = experiment.primary
    return f"{metric.effect * 100:g} %" if metric.relative else f"{metric.effect:g}"


def said(one: Comparison) -> str:
    """A comparison in one line."""
    if one.low is None or one.high is None:
        return f"{one.metric} of {one.arm} cannot be compared yet"
    bounds = f"{one.difference:+.4g} ({one.low:+.4g} to {one.high:+.4g})"
    if one.relative is not None and one.relative_low is not None and one.relative_high is not None:
        bounds += (
            f", {one.relative * 100:+.3g} % ({one.relative_low * 100:+.3g} to "
            f"{one.relative_high * 100:+.3g} %)"
        )
    return f"{one.metric} of {one.arm} differs by {bounds}"
