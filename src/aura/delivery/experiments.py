"""The desk of an app for experiments: start and stop them, assign units, take in what happened."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from aura.clock import Clock
from aura.delivery.conclude import ORDERS, Given, Order
from aura.delivery.experiment import Experiment
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.follower import PATIENCE
from aura.delivery.forecast import Forecast, Traffic, forecast
from aura.delivery.holder import SplitHolder
from aura.delivery.layers import Layer
from aura.delivery.observation import Observation
from aura.delivery.pre_period import read_before
from aura.delivery.reward import Reward
from aura.delivery.rollouts import Rollouts
from aura.delivery.split import Split
from aura.delivery.trial import WORKFLOW, Trials
from aura.delivery.trial_turn import Mark, write_order
from aura.engine import no_order_of_a_shadow
from aura.errors import (
    CodecError,
    ExperimentError,
    RunConflict,
    StoreUnavailable,
    UnknownExperiment,
)
from aura.store.base import AppendFeed, Store, Sweep, Writer

log = logging.getLogger("aura.delivery")

_POLL = 0.5  # seconds between looks, in case a message was lost
_PATIENCE = 5.0  # seconds for a worker to take up a new experiment

Start = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a unit is sent. `arm` is the one that serves it, by the split's `epoch`; `enrolled`
    says whether it takes part in what the split is for; `share` is its probability to be there."""

    split: str
    epoch: int
    unit: str
    arm: str
    enrolled: bool
    share: float


class Experiments:
    """Everything an app does with experiments. Open while the app is.

    `refused` counts observations and rewards that were refused because they have no finite number.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts
        self.engine = Trials(rollouts)
        self.refused = 0
        self._splits: dict[str, SplitHolder] = {}
        self._looked: dict[str, float] = {}
        self._followed: dict[str, Callable[[], None]] = {}

    def open(self, store: Store, writer: Writer, clock: Clock, start: Start) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._start = start
        self._splits = {}
        self._looked = {}
        self._followed = {}
        self.engine.attach(store, writer, clock)

    def close(self) -> None:
        """Stop following splits."""
        for end in self._followed.values():
            end()
        self._followed.clear()

    # -- experiments -----------------------------------------------------------------------

    async def start(self, experiment: Experiment, *, by: str = "") -> ExperimentStatus:
        """Begin an experiment; its status once a worker has taken it up. `by` is who begins it.

        Raises ExperimentError while one of its name, or another one on its split, is under way,
        when its baseline is not what serves now, when its layer is full, and when no worker takes
        it up within 5 seconds; it then begins as soon as there is one.
        """
        no_order_of_a_shadow(f"start experiment {experiment.name}")
        for status in await self.all():
            if status.split == experiment.split and await self.engine.under_way(status):
                raise ExperimentError(
                    f"experiment {status.name} of split {status.split} is {status.state}",
                    hint=f"Let it end, or stop it first: aura experiment stop {status.name}",
                )
        serving = await self.rollouts.serving(experiment.split)
        if serving and experiment.baseline not in serving:
            raise ExperimentError(
                f"split {experiment.split} sends its requests to {' and '.join(serving)}, the "
                f"baseline of experiment {experiment.name} is {experiment.baseline}",
                hint=f"Make {serving[0]} its first arm",
            )
        run = await self.engine.announce(experiment, by)
        try:
            await self._start(WORKFLOW, experiment, run, id=run)
        except RunConflict as error:
            raise ExperimentError(
                f"experiment {experiment.name} was started in another form at the same moment",
                hint="Let it end, or stop it first",
            ) from error
        return await self._begun(experiment, run)

    async def order(
        self, name: str, order: Order, *, arm: str = "", reason: str = "", by: str = ""
    ) -> ExperimentStatus:
        """Tell an experiment to stop, or to promote an arm, durably.

        Raises ExperimentError when it is unknown or has ended, or has no such candidate.
        """
        no_order_of_a_shadow(f"{order} experiment {name}")
        if order not in ORDERS:
            raise ExperimentError(f"there is no order {order!r}", hint=f"Use {', '.join(ORDERS)}")
        status = await self.status(name)
        if status.ended:
            raise ExperimentError(f"experiment {name} has ended: it is {status.state}")
        if not await self.engine.under_way(status):
            raise ExperimentError(
                f"nothing watches experiment {name}: its run has ended",
                hint=f"See why with `aura runs show {status.run}`, and start it again",
            )
        live = [one for one in status.experiment.candidates if one not in status.dropped]
        if order == "promote" and arm not in live:
            raise ExperimentError(
                f"experiment {name} has no candidate {arm!r} to promote",
                hint=f"Its candidates: {', '.join(live)}",
            )
        body = write_order(Given(0, order, arm, by, reason), self._clock.now())
        await self._writer.submit(AppendFeed(f"orders/{status.run}", (body,)))
        return status

    async def status(self, name: str) -> ExperimentStatus:
        """The experiment as it was last published. Raises ExperimentError when there is none."""
        found = await self.engine.shown(name)
        if found is None:
            raise UnknownExperiment(
                f"there is no experiment {name}", hint="Start it with: aura experiment start FILE"
            )
        return found[1]

    async def all(self) -> list[ExperimentStatus]:
        """All experiments, by name."""
        return await self.engine.statuses()

    async def layers(self) -> tuple[list[Layer], int]:
        """All layers by name, and the places of the hold-out, of 10,000."""
        enrolment = self.engine.enrolment
        return await enrolment.layers(), await enrolment.holdout()

    async def plan(self, experiment: Experiment, traffic: Traffic | None = None) -> Forecast:
        """How long it takes and what it can find, from what the split's units have done in the
        pre-period, or from `traffic`. It starts nothing."""
        ends = [
            await self._end_of(f"{kind}/{experiment.split}") for kind in ("observations", "rewards")
        ]
        now = await self._store.moment()
        before = [] if traffic else await read_before(self._store, experiment, Mark(now, *ends))
        return forecast(experiment, before, traffic)

    async def sweep_plan(self, what: Sweep) -> Sweep:
        """The sweep that leaves what an experiment under way still reads."""
        keep: list[str] = []
        try:
            for document in await self._store.documents("experiment"):
                status = ExperimentStatus.from_json(document.body)
                if not status.ended:
                    keep += [f"observations/{status.split}", f"rewards/{status.split}"]
                    keep.append(f"orders/{status.run}")
        except CodecError as error:
            log.warning("no feed is cleared of old items: %s", error)
            return Sweep(what.age, unread=what.unread)
        feeds = (*what.feeds, "rewards/") if what.feeds else ()
        return Sweep(what.age, feeds, (*what.keep, *keep), unread=what.unread)

    # -- units -----------------------------------------------------------------------------

    async def assign(self, split: str, unit: str) -> Assignment:
        """The arm of a unit, the same in every process that has heard of the split's epoch.

        The first call reads the split, and from then on it is followed. While an experiment moves
        it and the database cannot be reached, its baseline is the answer: a rollback may have
        happened. Raises ExperimentError when there is no such split, or the unit is empty.
        """
        if not unit:
            raise ExperimentError(
                f"a unit of split {split} is {unit!r}", hint="Give the key of who is assigned"
            )
        holder = self._splits.get(split) or await self._follow(split)
        if holder.lapsed:
            await self._look(split, holder)
        now, lapsed = cast("Split", holder.current), holder.lapsed
        arm = now.assign(unit)
        enrolled = not lapsed and (now.gate is None or now.gate.admits(unit))
        return Assignment(split, now.epoch, unit, arm, enrolled, now.share(arm))

    async def _follow(self, split: str) -> SplitHolder:
        began = self._clock.monotonic()
        document = await self._store.document("split", split)
        if document is None:
            raise ExperimentError(
                f"there is no split {split}",
                hint="It is made when a rollout or an experiment of it starts",
            )
        if split in self._splits:  # another call was faster
            return self._splits[split]
        holder = SplitHolder(Split.from_json(document.body), clock=self._clock)
        holder.confirm(document.epoch, began)
        self._splits[split] = holder
        self._followed[split] = self.rollouts.follow(split, holder.offer, holder.confirm)
        return holder

    async def _look(self, split: str, holder: SplitHolder) -> None:
        """Nobody has confirmed it: the database is away, or this process was busy. Not too often:
        whoever assigns waits for it."""
        began = self._clock.monotonic()
        if began - self._looked.get(split, -math.inf) < _POLL:
            return
        self._looked[split] = began
        try:
            async with asyncio.timeout(PATIENCE):
                document = await self._store.document("split", split)
        except (StoreUnavailable, TimeoutError):
            return  # whoever follows the split says so
        if document is not None:
            holder.offer(Split.from_json(document.body))
            holder.confirm(document.epoch, began)

    def observe(
        self,
        assignment: Assignment,
        *,
        ok: bool = True,
        latency: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Hand in what one request of the unit experienced (seconds, numbers by name). Never
        blocks. Raises CodecError for numbers that are not finite; they are counted."""
        try:
            found = {name: _number(name, value) for name, value in (metrics or {}).items()}
            baseline = cast("Split", self._splits[assignment.split].current).baseline
            share = assignment.share if assignment.arm != baseline else 1 - assignment.share
            one = Observation(
                assignment.split, assignment.epoch, assignment.arm, assignment.unit,
                self._clock.now(), ok, latency, share, user_ok=ok, metrics=found,
            )  # fmt: skip
        except CodecError:
            self.refused += 1
            raise
        self.rollouts.observe(one)

    async def reward(
        self, name: str, unit: str, value: float, *, metric: str, id: str = ""
    ) -> None:
        """Tell what a unit of an experiment, or of a split, turned out to be worth; durable when
        this returns. Two rewards of the same `id` are one; without one each call counts.

        Raises CodecError for a value that is not finite (it is counted in `refused`), and
        ExperimentError when there is neither an experiment nor a split of that name.
        """
        try:
            body = Reward(unit, metric, value, id or uuid.uuid4().hex).to_json()
        except CodecError:
            self.refused += 1
            raise
        split = await self._split_of(name)
        await self._writer.submit(AppendFeed(f"rewards/{split}", (body,)))

    async def _split_of(self, name: str) -> str:
        shown = await self.engine.shown(name)
        if shown is not None:
            return shown[1].split
        if await self._store.document("split", name) is None:
            raise UnknownExperiment(
                f"there is neither an experiment nor a split {name}",
                hint="Give the name of the experiment",
            )
        return name

    async def _end_of(self, feed: str) -> int:
        """The number of the feed's last item: an empty append tells it."""
        return cast("int", await self._writer.submit(AppendFeed(feed, ())))

    async def _begun(self, experiment: Experiment, run: str) -> ExperimentStatus:
        """The status once it has begun; without a worker it does not, so wait a little."""
        give_up = self._clock.monotonic() + _PATIENCE
        async with self.rollouts.engine.news(f"doc:experiment/{experiment.name}") as news:
            while True:
                news.clear()
                status = await self.status(experiment.name)
                if status.run == run and (status.opened is not None or status.ended):
                    break
                left = give_up - self._clock.monotonic()
                if left <= 0 or status.run != run:
                    raise await self._not_begun(experiment, run)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _POLL)):
                        await news.wait()
        if status.opened is None:
            raise ExperimentError(status.reason)
        return status

    async def _not_begun(self, experiment: Experiment, run: str) -> ExperimentError:
        if await self.rollouts.engine.is_alive(run):
            return ExperimentError(
                f"experiment {experiment.name} is recorded, but no worker has taken it up",
                hint="Start one (`aura worker MODULE:APP` or `aura serve MODULE:APP`); "
                "it then begins",
            )
        return ExperimentError(
            f"experiment {experiment.name} did not begin",
            hint=f"See why with: aura runs show {run}",
        )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CodecError(
            f"the metric {name} of an observation is {value!r}", hint="give a finite number"
        )
    return float(value)
