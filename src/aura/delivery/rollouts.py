"""The desk of an app: start rollouts, give orders, follow splits, hand in observations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from aura.clock import Clock
from aura.delivery.aftermath import Aftermath
from aura.delivery.alerts import Alerts
from aura.delivery.approval import SIGNAL, Said, write_said
from aura.delivery.channels import channels_json
from aura.delivery.decide import ORDERS, Order
from aura.delivery.decommission import Decommissions
from aura.delivery.emergency import Emergencies
from aura.delivery.follower import POLL, Follower, Witness
from aura.delivery.inflight import Forks, InFlightRuns
from aura.delivery.observation import Observation
from aura.delivery.plan import Pair, Plan
from aura.delivery.retirement import Notice, refuse_retired, retirements
from aura.delivery.rollout import WORKFLOW, Engine
from aura.delivery.shadows import ShadowDesk
from aura.delivery.split import Split
from aura.delivery.status import RolloutStatus
from aura.delivery.turn import write_order
from aura.delivery.watchman import Watchman
from aura.engine import Run, Workflow, no_order_of_a_shadow
from aura.errors import (
    CodecError,
    RolloutError,
    RunConflict,
    StoreUnavailable,
    UnknownRollout,
)
from aura.store.base import SETTLED, AppendFeed, PutDocument, Store, Sweep, Writer

log = logging.getLogger("aura.delivery")

_GATHER = 0.03  # seconds for which observations are gathered before they are written
_BUFFER = 100_000  # observations that wait for a database that is away
_BATCH = 1_000  # observations that are written at once
_PATIENCE = 5.0  # seconds for a worker to take up a new rollout
_FEEDS = ("observations/", "orders/")  # of what is named so, old items may be deleted
_UNMOVED = (
    "See why: aura runs show {run}. Take the traffic back: aura rollback {split} --reason ... "
    "Then release it and start the rollout again"
)

Start = Callable[..., Awaitable[Any]]
Handle = Callable[[str], Run[Any]]
Admit = Callable[[Plan, str, str], Awaitable[Plan]]


async def _as_it_is(plan: Plan, _why: str, _by: str) -> Plan:
    return plan


class Rollouts:
    """Everything an app does with rollouts. Open while the app is.

    `lost_observations` counts those that were not written: more came than are kept while the
    database is away, or they could not be encoded.
    """

    def __init__(self, forks: Forks | None = None) -> None:
        self.alerts = Alerts()
        self.emergencies = Emergencies(self.alerts)
        self.decommissions = Decommissions(self.alerts)
        self._forks = forks
        self._runs = InFlightRuns(forks)
        self.engine = Engine(Aftermath(self.alerts, self._runs))
        self._watchman = Watchman(self.engine, self.alerts)
        self.admit: Admit = _as_it_is  # the catalog's word on a plan before it starts
        self.lost_observations = 0
        self._buffer: list[Observation] = []
        self._observed = asyncio.Event()
        self._closing = False
        self._followers: set[asyncio.Task[None]] = set()
        self._pen: asyncio.Task[None] | None = None

    @property
    def workflows(self) -> tuple[Workflow[..., Any], ...]:
        """Those that workers of the app must have."""
        return self.engine.workflow, self.alerts.workflow, self.decommissions.workflow

    @property
    def waiting_observations(self) -> int:
        """How many observations have been handed in and are not written yet."""
        return len(self._buffer)

    def open(
        self, store: Store, writer: Writer, clock: Clock, start: Start, handle: Handle
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._start = start
        self._handle = handle
        self._closing = False
        self._observed = asyncio.Event()  # of this event loop: an app may be opened on several
        self.engine.attach(store, writer, clock)
        self.alerts.attach(store, clock, start)
        self.emergencies.attach(store, clock)
        self._runs.attach(store, writer, clock)
        if self._forks is not None:
            self._forks.attach(store, clock)
            self.decommissions.attach(store, writer, clock, start, self._forks.back_up)
        self._pen = asyncio.create_task(self._write(), name="aura-observations")
        self.shadows = ShadowDesk(clock)
        self.shadows.open(store, writer)

    def watch(self) -> None:
        """Take the traffic back from rollouts that nobody watches: in processes with a worker."""
        self._watchman.open(self._clock)

    async def close(self) -> None:
        """Stop following, and write the observations that are waiting."""
        self._closing = True
        await self._watchman.close()
        self._observed.set()
        followers = tuple(self._followers)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await self.shadows.close()
        if self._pen is not None:
            await self._pen
        if self._buffer:
            self._lose(len(self._buffer), "the app was closed while the database was away")
            self._buffer.clear()

    async def start(
        self,
        plan: Plan,
        *,
        again: bool = False,
        replace: bool = False,
        incompatible: str = "",
        by: str = "",
    ) -> RolloutStatus:
        """Begin a rollout; its status once a worker has taken it up. `by` is who begins it.

        The same plan started twice at the same moment is one rollout. One that has completed is
        begun anew only with `again`: it would take the traffic back to its first stage. One whose
        baseline is not what serves now moves everybody at once, so it begins only with `replace`
        (or `again`). Raises RolloutError for these, while another one moves the same split, and
        when no worker takes it up within 5 seconds; it then begins as soon as there is one. One
        whose candidate cannot stand in for its baseline raises Incompatible, unless `incompatible`
        is why it begins all the same; CatalogError when an arm is no version that there is.
        """
        no_order_of_a_shadow(f"start rollout {plan.name}")
        plan = await self.admit(plan, incompatible, by)
        await self.refuse(plan, again=again, replace=replace)
        run = await self.engine.announce(plan, by)
        if plan.alerts:
            for pair in plan.pairs:
                body = channels_json(plan.alerts)
                await self._writer.submit(PutDocument("alerts", pair.split, body))
        try:
            await self._start(WORKFLOW, plan, run, id=run)
        except RunConflict as error:
            raise RolloutError(
                f"rollout {plan.name} was started with another plan at the same moment",
                hint="Let it end, or roll it back first",
            ) from error
        return await self._begun(plan, run)

    async def refuse(self, plan: Plan, *, again: bool = False, replace: bool = False) -> None:
        """Raise RolloutError for a plan that `start` would not begin now, whatever the catalog says
        of its versions; DecommissionError for one with an arm that is gone."""
        splits = {pair.split for pair in plan.pairs}
        for status in await self.all():
            shared = splits.intersection(status.splits)
            if shared and await self.engine.under_way(status):
                raise RolloutError(
                    f"rollout {status.name} of split {min(shared)} is {status.state} in stage "
                    f"{status.stage}",
                    hint="Let it end, or roll it back first",
                )
            if status.name == plan.name and status.state == "completed" and not again:
                raise RolloutError(
                    f"rollout {plan.name} has completed: {status.candidate} serves",
                    hint="To take the traffic through its stages anew: aura rollout start --again",
                )
        if not (again or replace):
            for pair in plan.pairs:
                await self._refuse_to_move_everybody(plan.name, pair)
        await self.engine.refuse_forced(plan)
        arms = [arm for pair in plan.pairs for arm in (pair.baseline, pair.candidate)]
        refuse_retired(await retirements(self._store), arms)

    async def order(
        self, name: str, order: Order, *, reason: str = "", by: str = "", to: str = ""
    ) -> RolloutStatus:
        """Tell a rollout what to do, durably. `skip` goes on to the stage named by `to`.

        Raises RolloutError when it is unknown or ended, and for an order that does not fit.
        """
        if order not in ORDERS:
            raise RolloutError(f"there is no order {order!r}", hint=f"Use {', '.join(ORDERS)}")
        no_order_of_a_shadow(f"{order} rollout {name}")
        status = await self._moving(name)
        _refuse_order(status, order, to)
        body = write_order(order, by, reason, self._clock.now(), to)
        seq = await self._writer.submit(AppendFeed(f"orders/{status.run}", (body,)))
        now = await self.status(name)
        if now.run == status.run and now.ended and seq not in [e.order for e in now.history]:
            raise _ended(now)
        return status

    async def approve(
        self, name: str, *, stage: str = "", by: str, reason: str = "", ok: bool = True
    ) -> RolloutStatus:
        """Approve the stage that a rollout is in, or (`ok` is False) refuse to: a durable signal to
        its run. `stage` guards against approving another one than was looked at.

        Raises RolloutError when the stage needs no approval, or not of that person.
        """
        status = await self._moving(name)
        _refuse_approval(status, stage, by)
        said = Said(stage or status.stage, by, ok, reason)
        await self._handle(status.run).signal(SIGNAL, write_said(said))
        return status

    async def past(self, name: str) -> list[RolloutStatus]:
        """The rollouts of that name, oldest first, the present one last.

        Raises RolloutError when there is none.
        """
        now = await self.status(name)
        found = [
            RolloutStatus.from_json(document.body)
            for document in await self._store.documents("rollout-past")
            if document.name.rpartition("-")[0] == f"rollout-{name}"
        ]
        found = [status for status in found if status.run != now.run]
        return [*sorted(found, key=lambda status: int(status.run.rpartition("-")[2])), now]

    async def recorded(
        self, status: RolloutStatus, plan: Plan
    ) -> AsyncIterator[tuple[Observation, float]]:
        """What was observed of a rollout on the splits that another plan names, in the order in
        which it was written, each with when that was (epoch seconds). What cannot be read is left
        out, as the rollout itself did.

        Raises RolloutError when the plan moves other arms, or observations have been deleted.
        """
        arms = {one.split: (one.baseline, one.candidate) for one in status.pairs}
        for pair in plan.pairs:
            if arms.get(pair.split) != (pair.baseline, pair.candidate):
                moved = ", ".join(f"{name} ({' to '.join(of)})" for name, of in arms.items())
                raise RolloutError(
                    f"rollout {status.name} has recorded nothing of split {pair.split} from "
                    f"{pair.baseline} to {pair.candidate}",
                    hint=f"It moved {moved}",
                )
        if not plan.together:
            async for one in self._recorded(status, plan.split):
                yield one
            return
        found = [one for pair in plan.pairs async for one in self._recorded(status, pair.split)]
        for one in sorted(found, key=lambda pair: pair[1]):
            yield one

    async def _recorded(
        self, status: RolloutStatus, split: str
    ) -> AsyncIterator[tuple[Observation, float]]:
        first, after = status.begun.get(split, (0, 0))
        expected: int | None = after + 1
        while items := await self._store.feed(f"observations/{split}", after):
            if expected is not None and items[0].seq != expected:
                raise RolloutError(
                    f"the first {items[0].seq - expected} observations of rollout {status.name} "
                    "have been deleted",
                    hint="Keep them longer with Config.retention, or give --observations",
                )
            expected = None
            for item in items:
                after = item.seq
                with contextlib.suppress(CodecError):
                    found = Observation.from_json(item.payload)
                    if found.epoch >= first and not _belongs_to_next(status, split, found.epoch):
                        yield found, item.at

    async def _moving(self, name: str) -> RolloutStatus:
        """The status of a rollout that is under way. Raises RolloutError for any other."""
        status = await self.status(name)
        if status.ended:
            raise _ended(status)
        if not await self.engine.is_alive(status.run):
            raise RolloutError(
                f"nothing moves rollout {name}: its run has ended or is parked",
                hint=_UNMOVED.format(run=status.run, split=status.split),
            )
        return status

    async def status(self, name: str) -> RolloutStatus:
        """The rollout as it was last published. Raises RolloutError when there is none."""
        document = await self._store.document("rollout", name)
        if document is None:
            raise UnknownRollout(
                f"there is no rollout {name}", hint="Start it with: aura rollout start FILE"
            )
        return await self._with_note(RolloutStatus.from_json(document.body))

    async def _with_note(self, status: RolloutStatus) -> RolloutStatus:
        """It says so when nothing moves the rollout any more, and no guard watches it."""
        run = None if status.ended else await self._store.run(status.run)
        if run is None or run.state not in SETTLED:
            return status
        hint = _UNMOVED.format(run=status.run, split=status.split)
        told = f"nothing moves it and no guard watches: its run is {run.state}. {hint}"
        return replace(status, notes=(told, *status.notes))

    async def all(self) -> list[RolloutStatus]:
        """All rollouts, by name."""
        return [await self._with_note(status) for status in await self.engine.statuses()]

    async def sweep_plan(self, age: float) -> Sweep:
        """What may be deleted after so many seconds: not what a rollout under way still reads.

        A rollout that cannot be read might be one, so then the feeds stay as they are.
        """
        keep: list[str] = []
        try:
            for document in await self._store.documents("rollout"):
                status = RolloutStatus.from_json(document.body)
                if not status.ended:
                    keep += [f"observations/{split}" for split in status.splits]
                    keep.append(f"orders/{status.run}")
        except CodecError as error:
            log.warning("no feed is cleared of old items: %s", error)
            return Sweep(age)
        return Sweep(age, _FEEDS, tuple(keep))

    def follow(
        self,
        name: str,
        offer: Callable[[Split], object],
        confirm: Callable[[int, float], object] | None = None,
    ) -> Callable[[], None]:
        """Offer each new epoch of a split, beginning with the present one; the answer ends it.

        The same epoch may be offered again; what is missed on the way is not made up for, the
        newest counts. `confirm` is told after each look, at least twice a second while the database
        answers, which epoch was the newest, and when (on the monotonic clock) the look began.
        """
        task = asyncio.create_task(
            Follower(self.engine, self._clock, name, offer, confirm).run(),
            name=f"aura-split-{name}",
        )
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

        def end() -> None:
            task.cancel()

        return end

    async def witness(
        self,
        obey: Callable[[Mapping[tuple[str, str], Notice]], None],
        take: Callable[[], Counter[tuple[str, str]]],
    ) -> Callable[[], Awaitable[None]]:
        """Keep someone's notices of targets that are taken out of service, and write down the calls
        that it has counted; the answer ends it. The present notices are known when this returns."""
        witness = Witness(self.engine, self._clock, obey, take)
        await witness.look()
        task = asyncio.create_task(witness.run(), name="aura-retirements")
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with contextlib.suppress(StoreUnavailable):
                await witness.write()

        return end

    def observe(self, observation: Observation) -> None:
        """Hand in an observation; it is written with the next batch. Never blocks."""
        if len(self._buffer) >= _BUFFER:
            self._lose(1, "the database is away")
            return
        self._buffer.append(observation)
        self._observed.set()

    async def _refuse_to_move_everybody(self, name: str, pair: Pair) -> None:
        serving = await self.serving(pair.split)
        if serving and pair.baseline not in serving:
            raise RolloutError(
                f"split {pair.split} sends its requests to {' and '.join(serving)}, the baseline "
                f"of rollout {name} is {pair.baseline}: it would move everybody there at once",
                hint=f"Write `baseline: {serving[0]}`, or say that you mean it: "
                "aura rollout start --replace",
            )

    async def serving(self, split: str) -> tuple[str, ...]:
        """The arms that have a share of that split's requests; none when there is no such split."""
        document = await self._store.document("split", split)
        if document is None:
            return ()
        return tuple(arm.name for arm in Split.from_json(document.body).arms if arm.weight > 0)

    async def _begun(self, plan: Plan, run: str) -> RolloutStatus:
        """The status once the rollout has begun; without a worker it does not, so wait a little."""
        give_up = self._clock.monotonic() + _PATIENCE
        async with self.engine.news(f"doc:rollout/{plan.name}") as news:
            while True:
                news.clear()
                status = await self.status(plan.name)
                if status.run == run and (status.opened is not None or status.ended):
                    break
                left = give_up - self._clock.monotonic()
                if left <= 0 or status.run != run:
                    raise await self._not_begun(plan, run)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, POLL)):
                        await news.wait()
        if status.opened is None:
            raise RolloutError(status.reason)
        return status

    async def _not_begun(self, plan: Plan, run: str) -> RolloutError:
        if await self.engine.is_alive(run):
            return RolloutError(
                f"rollout {plan.name} is recorded, but no worker has taken it up",
                hint="Start one (`aura worker MODULE:APP` or `aura serve MODULE:APP`); "
                "it then begins",
            )
        return RolloutError(
            f"rollout {plan.name} did not begin", hint=f"See why with: aura runs show {run}"
        )

    async def _write(self) -> None:
        """Write what is handed in until the desk is closed and everything is written."""
        while True:
            if not self._buffer:
                if self._closing:
                    return
                self._observed.clear()
                await self._observed.wait()
            if not self._closing:
                await self._clock.sleep(_GATHER)
            try:
                while self._buffer:
                    await self._write_batch()
            except StoreUnavailable as error:
                waiting = len(self._buffer)
                log.warning("%d observations wait, the database is away: %s", waiting, error)
                if self._closing:
                    return

    async def _write_batch(self) -> None:
        """Write the oldest observations; those that the database did not take stay, in order."""
        taken = self._buffer[:_BATCH]
        feeds: dict[str, list[bytes]] = {}
        for one in taken:
            try:
                feeds.setdefault(one.split, []).append(one.to_json())
            except (TypeError, ValueError) as error:
                self._lose(1, f"{one!r:.200} cannot be encoded: {error}")
        ops = [AppendFeed(f"observations/{split}", tuple(feeds[split])) for split in feeds]
        outcomes = await asyncio.gather(
            *(self._writer.submit(op) for op in ops), return_exceptions=True
        )
        away = None
        for split, outcome in zip(list(feeds), outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                away = outcome
                continue
            if isinstance(outcome, BaseException):
                self._lose(len(feeds[split]), f"those of {split} are refused: {outcome}")
            del feeds[split]
        self._buffer[: len(taken)] = [one for one in taken if one.split in feeds]
        if away is not None:
            raise away

    def _lose(self, count: int, why: str) -> None:
        """Count what is lost; say so at the first and then once per thousand."""
        before = self.lost_observations
        self.lost_observations += count
        if before == 0 or before // 1_000 < self.lost_observations // 1_000:
            log.error("%d observations lost so far: %s", self.lost_observations, why)


def _ended(status: RolloutStatus) -> RolloutError:
    return RolloutError(
        f"rollout {status.name} is {status.state}", hint="Start it again, or start another plan"
    )


def _refuse_order(status: RolloutStatus, order: Order, to: str) -> None:
    """Raises RolloutError for an order that does not fit the rollout as it was last seen."""
    if order == "resume" and status.state not in ("held", "paused"):
        raise RolloutError(f"rollout {status.name} is not held", hint="There is nothing to resume")
    if order == "pause" and status.state != "running":
        raise RolloutError(
            f"rollout {status.name} is {status.state}", hint="Only one that is running is paused"
        )
    if status.state == "descending" and order not in ("hold", "rollback"):
        raise RolloutError(
            f"rollout {status.name} is going back to {status.baseline}, it is at "
            f"{status.weight:.2%}",
            hint="Hold it first, or roll it back at once",
        )
    names = [stage.name for stage in status.stages]
    if order == "skip" and to not in names:
        raise RolloutError(
            f"rollout {status.name} has no stage {to!r}", hint=f"Its stages: {', '.join(names)}"
        )
    if order == "skip" and status.stages[names.index(to)].weight <= status.weight > 0:
        raise RolloutError(
            f"rollout {status.name} is at {status.weight:.2%}, stage {to} is no later one",
            hint="Name a later stage; traffic goes back only by a rollback",
        )


def _refuse_approval(status: RolloutStatus, stage: str, by: str) -> None:
    """Raises RolloutError for an approval that would not count."""
    if stage and stage != status.stage:
        raise RolloutError(
            f"rollout {status.name} is in stage {status.stage}, not {stage}",
            hint=f"Look at it: aura rollout status {status.name}",
        )
    wanted = status.approval
    if wanted is None:
        raise RolloutError(
            f"stage {status.stage} of rollout {status.name} needs no approval",
            hint="To go on without its evidence: aura rollout advance",
        )
    if not by.strip():
        raise RolloutError("an approval is somebody's", hint="Say whose with --by")
    if wanted.people and by not in wanted.people:
        raise RolloutError(
            f"{by} is none of those who approve stage {status.stage}",
            hint=f"They are {', '.join(wanted.people)}",
        )


def _belongs_to_next(status: RolloutStatus, split: str, epoch: int) -> bool:
    """Whether that epoch of the split came after the rollout had ended."""
    last = {one.split: one.epoch for one in status.pairs}
    return status.ended and epoch > last[split]
