"""Metrics of what lies in the store: queues, topics, splits and rollouts.

It is read when somebody asks, at most once in `FRESH` seconds however many ask, with six queries
(and one more for each rollout that was begun anew since). Whoever asks waits no longer than
`PATIENCE` for a database that is away; what lay in it before is not shown then.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, get_args

from prometheus_client.core import Metric

from aura.app import Aura
from aura.delivery.decide import Status
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.split import Split
from aura.delivery.status import GuardStatus, RolloutStatus
from aura.errors import AuraError, CodecError, StoreUnavailable
from aura.server.instruments import MOST, Gauges, Key, Spec
from aura.store.base import Document
from aura.store.events import GroupInfo

log = logging.getLogger("aura.server")

FRESH = 5.0
PATIENCE = 2.0
_PAST = 20  # rollouts of one name that may have come and gone between two looks

T = TypeVar("T")
Look = Callable[[str, str], Awaitable[Document | None]]

UP = Spec("aura_store_up", "gauge", "1 when the database answered the last look at it.")
WORKERS = Spec("aura_workers", "gauge", "Workers with a live lease.")
DEPTH = Spec(
    "aura_queue_depth", "gauge",
    "Runs in a queue that wait for a worker, or are with one.", ("queue", "state"), 1,
)  # fmt: skip
LAG = Spec(
    "aura_bus_lag", "gauge", "Events that a group has not handled yet.", ("topic", "group"), 2
)
OLDEST = Spec(
    "aura_bus_oldest_seconds", "gauge",
    "How long ago the oldest of them was emitted; 0 when there is none.", ("topic", "group"), 2,
)  # fmt: skip
DEAD = Spec("aura_dead_letters", "gauge", "Dead letters of a group.", ("topic", "group"), 2)
WEIGHT = Spec("aura_rollout_weight", "gauge", "The share of an arm, 0 to 1.", ("split", "arm"), 2)
EPOCH = Spec("aura_rollout_epoch", "gauge", "The newest epoch of a split.", ("split",), 1)
BASELINE = Spec(
    "aura_split_baseline", "gauge", "1 for the arm that is the baseline.", ("split", "arm"), 2
)
FORCED = Spec(
    "aura_split_forced", "gauge", "1 while everybody is forced to the baseline.", ("split",), 1
)
STATE = Spec(
    "aura_rollout_state", "gauge", "1 for the state that a rollout is in.", ("rollout", "state"), 1
)
SEEN = Spec(
    "aura_rollout_requests", "gauge",
    "Requests that a rollout has seen, of all gateways.", ("rollout", "split", "arm"), 3,
)  # fmt: skip
ERRORS = Spec(
    "aura_rollout_errors", "gauge",
    "Those of them that failed on their arm.", ("rollout", "split", "arm"), 3,
)  # fmt: skip
GUARD = ("rollout", "split", "arm", "guard")
EVIDENCE = Spec(
    "aura_guard_evidence", "gauge", "The evidence of a guard; it trips at its limit.", GUARD, 4
)
LIMIT = Spec("aura_guard_limit", "gauge", "The evidence at which a guard trips.", GUARD, 4)
ROLLBACKS = Spec(
    "aura_rollbacks_total", "counter", "How often a rollout was rolled back.", ("rollout",), 1
)
ROLLED_BACK = Spec(
    "aura_rollback_timestamp_seconds", "gauge",
    "When a rollout was rolled back last, in seconds since 1970.", ("rollout",), 1,
)  # fmt: skip


@dataclass(slots=True)
class Facts:
    """What was found in the store."""

    workers: int = 0
    depths: dict[tuple[str | None, str], int] = field(default_factory=dict)
    groups: list[GroupInfo] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    rollouts: list[RolloutStatus] = field(default_factory=list)
    experiments: list[ExperimentStatus] = field(default_factory=list)


class Rollbacks:
    """Counts rollbacks by the histories of rollouts, of which the store has the last one. A rollout
    that is begun anew has a new history, and its old one is looked up once more."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._seen: dict[str, tuple[str, int]] = {}

    async def learn(self, look: Look, rollouts: Sequence[RolloutStatus]) -> None:
        """Take in what the histories say now."""
        for status in rollouts:
            run, counted = self._seen.get(status.name, (status.run, 0))
            if run != status.run:
                for past in await _between(look, run, status.run):
                    self.totals[status.name] += rollbacks_in(past) - counted
                    counted = 0
                counted = 0
            now = rollbacks_in(status)
            self.totals[status.name] += max(now - counted, 0)
            self._seen[status.name] = status.run, now


async def _between(look: Look, first: str, last: str) -> list[RolloutStatus]:
    """The rollouts of one name that are over: from that run on, before this one."""
    stem, _, number = first.rpartition("-")
    until = int(last.rpartition("-")[2])
    found = []
    for each in range(int(number), min(until, int(number) + _PAST)):
        document = await look("rollout-past", f"{stem}-{each}")
        if document is not None:
            found.append(RolloutStatus.from_json(document.body))
    return found


def rollbacks_in(status: RolloutStatus) -> int:
    """How often its traffic was taken back; orders that came too late moved nothing."""
    return sum(event.what == "rollback" and event.done > 0 for event in status.history)


def rolled_back(facts: Facts) -> Iterator[tuple[Key, float]]:
    """When each rollout's traffic was taken back last, as far as it ever was."""
    for status in facts.rollouts:
        times = [event.done for event in status.history if event.what == "rollback"]
        if times and max(times) > 0:
            yield (status.name,), max(times)


class StoreMetrics:
    """What lies in the store of an app, as it was `FRESH` seconds ago at most."""

    def __init__(self, app: Aura, most: int = MOST) -> None:
        self._app = app
        self._facts: Facts | None = None
        self._looked: float | None = None
        self._looking = asyncio.Lock()
        self._rollbacks = Rollbacks()
        amounts = (DEPTH, LAG, DEAD, SEEN, ERRORS, ROLLBACKS)
        largest = (
            *(UP, WORKERS, OLDEST, WEIGHT, EPOCH, BASELINE, FORCED, STATE, EVIDENCE, LIMIT),
            ROLLED_BACK,
        )
        self._gauges = {one: Gauges(one, operator.add, most) for one in amounts}
        self._gauges |= {one: Gauges(one, max, most) for one in largest}

    async def refresh(self) -> None:
        """Look, unless what is known is fresh. Of those who ask at once one looks."""
        async with self._looking:
            now = self._app.clock.monotonic()
            if self._looked is not None and now - self._looked < FRESH:
                return
            self._facts = await self._look()
            self._looked = self._app.clock.monotonic()

    async def _look(self) -> Facts | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._read()
        except (StoreUnavailable, TimeoutError) as error:
            log.debug("the metrics are without the store: %s", error)
        except Exception:
            log.exception("the metrics cannot be read from the store")
        return None

    async def _read(self) -> Facts:
        store = self._app.store
        now = self._app.time.now()
        rollouts = _read_all(await store.documents("rollout"), RolloutStatus.from_json)
        experiments = _read_all(await store.documents("experiment"), ExperimentStatus.from_json)
        facts = Facts(
            sum(worker.lease_until > now for worker in await store.workers()),
            await store.depths(),
            await store.events.groups(),
            _read_all(await store.documents("split"), Split.from_json),
            sorted(rollouts, key=lambda one: one.ended),  # of those under way none is `other`
            sorted(experiments, key=lambda one: one.ended),
        )
        await self._rollbacks.learn(store.document, facts.rollouts)
        return facts

    def families(self) -> Iterator[Metric]:
        """As it was looked up last; without what is in the store when that was away."""
        fill = self._fill
        facts = self._facts
        yield fill(UP, ((), float(facts is not None)))
        yield fill(ROLLBACKS, *(((name,), n) for name, n in self._rollbacks.totals.items()))
        if facts is None:
            return
        yield fill(WORKERS, ((), facts.workers))
        yield fill(DEPTH, *depths(facts))
        places = [((one.topic, one.group), one) for one in facts.groups]
        yield fill(LAG, *((key, one.lag) for key, one in places))
        yield fill(OLDEST, *((key, one.age or 0.0) for key, one in places))
        yield fill(DEAD, *((key, one.dead) for key, one in places))
        splits = facts.splits
        yield fill(WEIGHT, *(((s.name, arm.name), arm.weight) for s in splits for arm in s.arms))
        yield fill(EPOCH, *(((one.name,), one.epoch) for one in splits))
        yield fill(BASELINE, *(((one.name, one.baseline), 1.0) for one in splits))
        yield fill(FORCED, *(((one.name,), float(bool(one.forced))) for one in splits))
        yield fill(STATE, *states(facts))
        yield fill(ROLLED_BACK, *rolled_back(facts))
        yield fill(SEEN, *requests(facts, "requests"))
        yield fill(ERRORS, *requests(facts, "errors"))
        guards = list(evidence(facts))
        yield fill(EVIDENCE, *((key, one.evidence) for key, one in guards))
        yield fill(LIMIT, *((key, one.limit) for key, one in guards))

    def _fill(self, spec: Spec, *values: tuple[Key, float]) -> Metric:
        return self._gauges[spec].family(values)


def depths(facts: Facts) -> Iterator[tuple[Key, float]]:
    """Of each queue, and of the default one in any case."""
    found = dict.fromkeys([None, *(queue for queue, _ in facts.depths)])
    for queue in found:
        for state in ("pending", "running"):
            name = "default" if queue is None else queue
            yield (name, state), facts.depths.get((queue, state), 0)


def states(facts: Facts) -> Iterator[tuple[Key, float]]:
    """1 for the state of each rollout, 0 for the others."""
    for status in facts.rollouts:
        for state in get_args(Status):
            yield (status.name, state), float(status.state == state)


def requests(facts: Facts, what: str) -> Iterator[tuple[Key, float]]:
    """Of each arm of a rollout, over its stages."""
    for status in facts.rollouts:
        for pair in status.pairs:
            for arm, side in ((pair.baseline, "baseline"), (pair.candidate, "candidate")):
                stages = (getattr(getattr(stage, side), what) for stage in pair.stages)
                yield (status.name, pair.split, arm), sum(stages)


def evidence(facts: Facts) -> Iterator[tuple[Key, GuardStatus]]:
    """The guards of rollouts and of experiments."""
    for status in facts.rollouts:
        for pair in status.pairs:
            for one in pair.evidence:
                yield (status.name, pair.split, pair.candidate, one.guard), one
    for trial in facts.experiments:
        for arm, found in (trial.guards or {}).items():
            for one in found:
                yield (trial.name, trial.split, arm, one.guard), one


def _read_all(documents: Sequence[Document], read: Callable[[bytes], T]) -> list[T]:
    """Those that can be read; the others are logged when they are used."""
    found = []
    for document in documents:
        try:
            found.append(read(document.body))
        except (AuraError, CodecError) as error:
            log.debug("%s %s is not in the metrics: %s", document.kind, document.name, error)
    return found
