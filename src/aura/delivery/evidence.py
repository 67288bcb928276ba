"""What is known about a rollout: counts per stage and arm, and what the guards say.

A `Tally` folds the feed of observations; folding the same feed again gives the same tally, so
it is never stored. An observation belongs to the stage with the share that it was assigned by
(shadow requests to the shadow stage), whenever it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

from aura.delivery.guard import GuardState, Judgement, judge, stage_key
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan, Stage
from aura.stats.hashing import BUCKETS
from aura.stats.quantiles import Histogram


@dataclass(frozen=True, slots=True)
class Evidence:
    """What `decide` looks at in one stage.

    `requests` and `units` (different ones) are the candidate's in this stage, copies in the
    shadow stage; `judgements` has one entry per guard of the plan, in its order.
    """

    requests: int
    units: int
    judgements: tuple[Judgement, ...]


class ArmTally:
    """One arm in one stage: counts, different units, and latencies in seconds."""

    __slots__ = ("failed", "fallbacks", "latencies", "requests", "units", "user_failed")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0
        self.fallbacks = 0
        self.user_failed = 0
        self.units: set[str] = set()
        self.latencies = Histogram()

    def fold(self, observation: Observation) -> None:
        """Take in one observation of this arm."""
        self.requests += 1
        self.failed += not observation.ok
        self.fallbacks += observation.fallback
        self.user_failed += not observation.user_ok
        self.units.add(observation.unit)
        self.latencies.add(observation.latency)


class Tally:
    """Everything that a plan's observations say so far.

    `since` is the split's epoch with which the rollout (or its resumption after a trip) began;
    observations of earlier epochs, other splits and other arms are ignored.
    """

    def __init__(self, plan: Plan, *, since: int = 0) -> None:
        self.plan = plan
        self.since = since
        self.guards = [GuardState(guard, plan.baseline, plan.candidate) for guard in plan.guards]
        self._arms: dict[tuple[int, str], ArmTally] = {}

    def fold(self, observation: Observation) -> None:
        """Take in one observation, in the feed's order."""
        if observation.split != self.plan.split or observation.epoch < self.since:
            return
        if observation.arm not in (self.plan.baseline, self.plan.candidate):
            return
        key = (stage_key(observation), observation.arm)
        self._arms.setdefault(key, ArmTally()).fold(observation)
        for guard in self.guards:
            guard.fold(observation)

    @property
    def tripped(self) -> Judgement | None:
        """The judgement of the guard that tripped first, None while none has."""
        trips = [guard.trip for guard in self.guards if guard.trip is not None]
        return min(trips, key=lambda trip: trip.at) if trips else None

    def arm(self, stage: Stage, name: str) -> ArmTally:
        """What that arm did in that stage; an empty tally before its first request."""
        return self._arms.get((round(stage.weight * BUCKETS), name)) or ArmTally()

    def evidence(self, stage: int) -> Evidence:
        """What `decide` needs in the plan's stage of that index."""
        now_at = self.plan.stages[stage]
        candidate = self.arm(now_at, self.plan.candidate)
        return Evidence(
            requests=candidate.requests,
            units=len(candidate.units),
            judgements=tuple(judge(guard, now_at.weight) for guard in self.guards),
        )
