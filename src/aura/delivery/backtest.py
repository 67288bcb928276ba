"""What another plan would have done: its rules over observations that were recorded. Pure.

The same `decide` and the same guards see the observations in the order in which they were written,
at the times that they have. Nothing waits for real time: between two observations the times are
looked at, at which something could have become due.

What a backtest cannot know. Units were sent to their arms by the weights of the rollout that was
recorded, not by those of the plan, and they would have gone on differently after another decision.
So the guards test what happened against the share by which it was assigned, which is valid; but how
fast evidence comes is that of the recorded weights, and how many users are hit by the plan's own
weights is an estimate (each failure counts plan's weight / recorded share). A stage without traffic
counts what was recorded meanwhile, copies or not. Orders of people are not repeated, and approvals
count as given when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aura.delivery import decide as rules
from aura.delivery.approval import Said
from aura.delivery.decide import (
    Ask,
    Continue,
    Decision,
    Descend,
    Restart,
    RolloutState,
    weight_of,
)
from aura.delivery.evidence import Tally
from aura.delivery.observation import Observation
from aura.delivery.odd import Odd
from aura.delivery.plan import Plan
from aura.delivery.status import evidence_of
from aura.errors import RolloutError

TICK = 0.25
"""Seconds between two looks, as of a rollout that runs."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing that the plan would have done: when (epoch seconds), and the candidate's weight
    (0.0 to 1.0) from then on."""

    at: float
    what: str
    stage: str
    weight: float
    reason: str


@dataclass(frozen=True, slots=True)
class Hits:
    """Requests of users that failed on the candidate, and the different units behind them."""

    requests: int
    units: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """The outcome. `state`, `stage`, `weight` and `reason` are those at the end of the record.

    `hits` are failures on the candidate, as recorded, until the plan would have ended; `expected`
    is how many failed requests there would have been with the plan's own weights, by estimate;
    `recorded` are those of the whole record.
    """

    plan: str
    began: float
    ended: float
    observations: int
    state: str
    stage: str
    weight: float
    reason: str
    history: tuple[Happened, ...]
    hits: Hits
    expected: float
    recorded: Hits
    notes: tuple[str, ...]


class Replay:
    """A plan in the middle of a record. `see` each observation in the order in which they were
    written, then ask for the `result`."""

    def __init__(self, plan: Plan, began: float | None = None) -> None:
        self.plan = plan
        self.began = began
        self._state: RolloutState | None = None if began is None else rules.start(began)
        self._tallies = self._new_tallies()
        self._now = self._looked = began or 0.0
        self._odd = Odd()
        self._history: list[Happened] = []
        self._reason = "there were no observations"
        self._hits: list[str] = []
        self._recorded: list[str] = []
        self._expected = 0.0

    @property
    def weight(self) -> float:
        """The candidate's weight that the plan would have now, 0.0 to 1.0."""
        return 0.0 if self._state is None else weight_of(self.plan, self._state)

    def see(self, observation: Observation, written: float = 0.0) -> None:
        """Take in the next one; `written` is when the database wrote it (0.0: nobody knows)."""
        observation = self._odd.judge(observation, written)
        if self._state is None or self.began is None:
            self.began = self._now = self._looked = observation.at
            self._state = rules.start(self.began)
        now = max(self._now, written or observation.at)
        self._pass_time(now)
        self._count(observation)
        weight = 0.0 if observation.shadow else weight_of(self.plan, self._state)
        for tally in self._tallies:
            tally.fold(observation, weight)
        tripped = any(tally.tripped is not None for tally in self._tallies)
        if now - self._looked >= TICK or tripped:
            self._look(now)

    def result(self) -> Backtest:
        """What has come of it so far. Raises RolloutError when there was no observation at all."""
        if self._state is None or self.began is None:
            raise RolloutError(
                f"there are no observations for the plan {self.plan.name}",
                hint="Name a rollout that has had traffic with --on, or give --observations",
            )
        self._look(self._now)
        return Backtest(
            plan=self.plan.name,
            began=self.began,
            ended=self._now,
            observations=self._odd.seen,
            state=self._state.status,
            stage=self.plan.stages[self._state.stage].name,
            weight=weight_of(self.plan, self._state),
            reason=self._reason,
            history=tuple(self._history),
            hits=Hits(len(self._hits), len(set(self._hits))),
            expected=self._expected,
            recorded=Hits(len(self._recorded), len(set(self._recorded))),
            notes=self._odd.notes(),
        )

    def _new_tallies(self) -> tuple[Tally, ...]:
        return tuple(Tally(self.plan, pair=pair) for pair in self.plan.pairs)

    def _count(self, observation: Observation) -> None:
        candidates = {(pair.split, pair.candidate) for pair in self.plan.pairs}
        mine = (observation.split, observation.arm) in candidates
        if not mine or observation.shadow or observation.user_ok or self._state is None:
            return
        self._recorded.append(observation.unit)
        weight = weight_of(self.plan, self._state)
        if self._state.status != "rolled-back" and weight > 0:
            self._hits.append(observation.unit)
            self._expected += weight / observation.share if observation.share > 0 else 0.0

    def _pass_time(self, now: float) -> None:
        """Look whenever something becomes due until `now`."""
        while now - self._looked > TICK:
            due = [at for at in self._due() if self._looked < at < now]
            if not due:
                break
            self._look(min(due))
        self._now = now

    def _due(self) -> Iterator[float]:
        state = self._state
        if state is None or state.ended:
            return
        stage = self.plan.stages[state.stage]
        limits = self.plan.gradual if state.status == "descending" else stage
        yield state.entered_at + limits.min_time
        yield state.entered_at + limits.max_time
        rule = stage.approval
        if state.asked_at is not None and rule is not None and rule.timeout is not None:
            yield state.asked_at + rule.timeout
        for window in self.plan.windows_of(stage):
            if (at := window.opens(self._looked)) is not None:
                yield at

    def _look(self, now: float) -> None:
        """Decide, as often as that changes something."""
        self._looked = now
        for _ in range(2 * len(self.plan.stages) + len(self.plan.gradual.steps) + 8):
            state = self._state
            if state is None or state.ended:
                return
            decision = rules.decide(
                self.plan, state, evidence_of(self.plan, state, self._tallies), now
            )
            self._reason = decision.reason
            if isinstance(decision, Continue):
                return
            self._do(state, decision, now)

    def _do(self, state: RolloutState, decision: Decision, now: float) -> None:
        after = self._note(state, decision, now)
        if isinstance(decision, Descend | Restart):
            self._tallies = self._new_tallies()
        if isinstance(decision, Ask):
            rule = self.plan.stages[state.stage].approval
            people = rule.people if rule else ()
            for number in range(rule.needed if rule else 0):
                by = people[number] if number < len(people) else f"person {number + 1}"
                said = Said(by=by, reason="assumed")
                after = self._note(after, rules.answer(self.plan, after, said), now)

    def _note(self, state: RolloutState, decision: Decision, now: float) -> RolloutState:
        after = self._state = rules.apply(replace(state, order=None), decision, now)
        what = type(decision).__name__.lower()
        stage = self.plan.stages[after.stage].name
        weight = weight_of(self.plan, after)
        self._history.append(Happened(now, what, stage, weight, decision.reason))
        return after
