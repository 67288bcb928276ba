"""What is known about a rollout: counts per stage and arm, and what the guards say.

A `Tally` folds the feed of observations; folding the same feed again gives the same tally, so
it is never stored. An observation belongs to the stage with the share that it was assigned by
(shadow requests to the shadow stage), whenever it arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aura.delivery.descent import health
from aura.delivery.guard import GuardState, Judgement, judge, stage_key
from aura.delivery.observation import Observation
from aura.delivery.plan import Pair, Plan
from aura.stats.hashing import BUCKETS
from aura.stats.quantiles import Histogram


@dataclass(frozen=True, slots=True)
class Evidence:
    """What `decide` looks at in one stage.

    `requests` and `units` (different ones) are the candidate's in this stage, copies in the
    shadow stage; `judgements` has one entry per guard of the plan, in its order. In a step of a
    gradual rollback `health` says whether the candidate is shown to be within its limits. `others`
    are the same of the splits that are moved together with this one, named by `split`.
    """

    requests: int
    units: int
    judgements: tuple[Judgement, ...]
    health: tuple[Judgement, ...] = ()
    split: str = ""
    others: tuple[Evidence, ...] = ()

    @property
    def all(self) -> tuple[Evidence, ...]:
        """This one, and those of the other splits."""
        return self, *self.others


class ArmTally:
    """One arm in one stage: counts, different units, and latencies in seconds.

    `late` are those over `sla`; `first_failed` and `first_late` count units by their first request.
    """

    __slots__ = (
        *("failed", "fallbacks", "first_failed", "first_late", "late", "latencies", "requests"),
        *("sla", "units", "user_failed"),
    )

    def __init__(self, sla: float | None = None) -> None:
        self.sla = math.inf if sla is None else sla
        self.requests = 0
        self.late = 0
        self.first_failed = 0
        self.first_late = 0
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
        late = observation.latency > self.sla
        self.late += late
        if observation.unit not in self.units:
            self.units.add(observation.unit)
            self.first_failed += not observation.ok
            self.first_late += late
        self.latencies.add(observation.latency)


class Tally:
    """Everything that a plan's observations of one split say so far.

    `pair` is what the plan moves there, its own split by default. `since` is the split's epoch with
    which the rollout (or its resumption after a trip) began; observations of earlier epochs, other
    splits and other arms are ignored.
    """

    def __init__(self, plan: Plan, *, since: int = 0, pair: Pair | None = None) -> None:
        self.plan = plan
        self.pair = pair or plan.pairs[0]
        self.since = since
        arms = self.pair.baseline, self.pair.candidate
        self.guards = [GuardState(guard, *arms) for guard in plan.guards]
        self._arms: dict[tuple[int, str], ArmTally] = {}

    def fold(self, observation: Observation, weight: float | None = None) -> None:
        """Take in one observation, in the feed's order. It counts for the stage with the share that
        it was assigned by, or with this `weight`."""
        if observation.split != self.pair.split or observation.epoch < self.since:
            return
        if observation.arm not in (self.pair.baseline, self.pair.candidate):
            return
        stage = stage_key(observation) if weight is None else round(weight * BUCKETS)
        key = (stage, observation.arm)
        if key not in self._arms:
            self._arms[key] = ArmTally(self.plan.sla)
        self._arms[key].fold(observation)
        for guard in self.guards:
            guard.fold(observation, stage)

    @property
    def tripped(self) -> Judgement | None:
        """The judgement of the guard that tripped first, None while none has."""
        trips = [guard.trip for guard in self.guards if guard.trip is not None]
        return min(trips, key=lambda trip: trip.at) if trips else None

    def arm(self, weight: float, name: str) -> ArmTally:
        """What that arm did while the candidate had that weight (0.0 to 1.0; 0.0: its shadow); an
        empty tally before its first request."""
        return self._arms.get((round(weight * BUCKETS), name)) or ArmTally(self.plan.sla)

    def evidence(self, weight: float, steps: int = 0) -> Evidence:
        """What `decide` needs while the candidate has that weight. `steps` is how many a gradual
        rollback has, if this is one of them."""
        candidate = self.arm(weight, self.pair.candidate)
        shown = [health(guard, candidate, steps) for guard in self.plan.guards if steps]
        return Evidence(
            requests=candidate.requests,
            units=len(candidate.units),
            judgements=tuple(judge(guard, weight) for guard in self.guards),
            health=tuple(one for one in shown if one is not None),
            split=self.pair.split,
        )
