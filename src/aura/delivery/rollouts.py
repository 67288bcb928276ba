"""The desk of an app: start rollouts, give orders, follow splits, hand in observations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aura.clock import Clock
from aura.delivery.decide import Order
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan
from aura.delivery.rollout import WORKFLOW, Engine
from aura.delivery.split import Split
from aura.delivery.status import RolloutStatus
from aura.delivery.turn import ORDERS, write_order
from aura.errors import AuraError, CodecError, RolloutError, RunConflict, StoreUnavailable
from aura.store.base import AppendFeed, Store, Sweep, Writer

log = logging.getLogger("aura.delivery")

_POLL = 0.5  # seconds between looks at a split, in case a message was lost
_GATHER = 0.03  # seconds for which observations are gathered before they are written
_BUFFER = 100_000  # observations that wait for a database that is away
_BATCH = 1_000  # observations that are written at once
_PATIENCE = 5.0  # seconds for a worker to take up a new rollout
_FEEDS = ("observations/", "orders/")  # of what is named so, old items may be deleted

Start = Callable[..., Awaitable[Any]]


class Rollouts:
    """Everything an app does with rollouts. Open while the app is.

    `lost_observations` counts those that were not written: more came than are kept while the
    database is away, or they could not be encoded.
    """

    def __init__(self) -> None:
        self.engine = Engine()
        self.lost_observations = 0
        self._buffer: list[Observation] = []
        self._observed = asyncio.Event()
        self._closing = False
        self._followers: set[asyncio.Task[None]] = set()
        self._pen: asyncio.Task[None] | None = None

    @property
    def waiting_observations(self) -> int:
        """How many observations have been handed in and are not written yet."""
        return len(self._buffer)

    def open(self, store: Store, writer: Writer, clock: Clock, start: Start) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._start = start
        self._closing = False
        self._observed = asyncio.Event()  # of this event loop: an app may be opened on several
        self.engine.attach(store, writer, clock)
        self._pen = asyncio.create_task(self._write(), name="aura-observations")

    async def close(self) -> None:
        """Stop following, and write the observations that are waiting."""
        self._closing = True
        self._observed.set()
        followers = tuple(self._followers)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        if self._pen is not None:
            await self._pen
        if self._buffer:
            self._lose(len(self._buffer), "the app was closed while the database was away")
            self._buffer.clear()

    async def start(
        self, plan: Plan, *, again: bool = False, replace: bool = False
    ) -> RolloutStatus:
        """Begin a rollout; its status once a worker has taken it up.

        The same plan started twice at the same moment is one rollout. One that has completed is
        begun anew only with `again`: it would take the traffic back to its first stage. One whose
        baseline is not what serves now moves everybody at once, so it begins only with `replace`
        (or `again`). Raises RolloutError for these, while another one moves the same split, and
        when no worker takes it up within 5 seconds; it then begins as soon as there is one.
        """
        for status in await self.all():
            if status.split == plan.split and await self.engine.under_way(status):
                raise RolloutError(
                    f"rollout {status.name} of split {plan.split} is {status.state} in stage "
                    f"{status.stage}",
                    hint="Let it end, or roll it back first",
                )
            if status.name == plan.name and status.state == "completed" and not again:
                raise RolloutError(
                    f"rollout {plan.name} has completed: {status.candidate} serves",
                    hint="To take the traffic through its stages anew: aura rollout start --again",
                )
        if not (again or replace):
            await self._refuse_to_move_everybody(plan)
        run = await self.engine.announce(plan)
        try:
            await self._start(WORKFLOW, plan, run, id=run)
        except RunConflict as error:
            raise RolloutError(
                f"rollout {plan.name} was started with another plan at the same moment",
                hint="Let it end, or roll it back first",
            ) from error
        return await self._begun(plan, run)

    async def order(
        self, name: str, order: Order, *, reason: str = "", by: str = ""
    ) -> RolloutStatus:
        """Tell a rollout what to do, durably. Raises RolloutError when it is unknown or ended."""
        if order not in ORDERS:
            raise RolloutError(f"there is no order {order!r}", hint=f"Use {', '.join(ORDERS)}")
        status = await self.status(name)
        if status.ended:
            raise _ended(status)
        if not await self.engine.is_alive(status.run):
            raise RolloutError(
                f"nothing moves rollout {name}: its run has ended",
                hint=f"See why with `aura runs show {status.run}`, and start the rollout again",
            )
        if order == "resume" and status.state != "held":
            raise RolloutError(f"rollout {name} is not held", hint="There is nothing to resume")
        body = write_order(order, by, reason, self._clock.now())
        seq = await self._writer.submit(AppendFeed(f"orders/{status.run}", (body,)))
        now = await self.status(name)
        if now.run == status.run and now.ended and seq not in [e.order for e in now.history]:
            raise _ended(now)
        return status

    async def status(self, name: str) -> RolloutStatus:
        """The rollout as it was last published. Raises RolloutError when there is none."""
        document = await self._store.document("rollout", name)
        if document is None:
            raise RolloutError(
                f"there is no rollout {name}", hint="Start it with: aura rollout start FILE"
            )
        return RolloutStatus.from_json(document.body)

    async def all(self) -> list[RolloutStatus]:
        """All rollouts, by name."""
        return await self.engine.statuses()

    async def sweep_plan(self, age: float) -> Sweep:
        """What may be deleted after so many seconds: not what a rollout under way still reads.

        A rollout that cannot be read might be one, so then the feeds stay as they are.
        """
        keep: list[str] = []
        try:
            for document in await self._store.documents("rollout"):
                status = RolloutStatus.from_json(document.body)
                if not status.ended:
                    keep += [f"observations/{status.split}", f"orders/{status.run}"]
        except CodecError as error:
            log.warning("no feed is cleared of old items: %s", error)
            return Sweep(age)
        return Sweep(age, _FEEDS, tuple(keep))

    def follow(self, name: str, offer: Callable[[Split], object]) -> Callable[[], None]:
        """Offer each new epoch of a split, beginning with the present one; the answer ends it.

        The same epoch may be offered again; what is missed on the way is not made up for, the
        newest counts.
        """
        task = asyncio.create_task(self._follow(name, offer), name=f"aura-split-{name}")
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

        def end() -> None:
            task.cancel()

        return end

    def observe(self, observation: Observation) -> None:
        """Hand in an observation; it is written with the next batch. Never blocks."""
        if len(self._buffer) >= _BUFFER:
            self._lose(1, "the database is away")
            return
        self._buffer.append(observation)
        self._observed.set()

    async def _refuse_to_move_everybody(self, plan: Plan) -> None:
        serving = await self.serving(plan.split)
        if serving and plan.baseline not in serving:
            raise RolloutError(
                f"split {plan.split} sends its requests to {' and '.join(serving)}, the baseline "
                f"of rollout {plan.name} is {plan.baseline}: it would move everybody there at once",
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
                    async with asyncio.timeout(min(left, _POLL)):
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

    async def _follow(self, name: str, offer: Callable[[Split], object]) -> None:
        async with self.engine.news(f"doc:split/{name}") as news:
            while True:
                news.clear()
                try:
                    document = await self._store.document("split", name)
                    if document is not None:
                        offer(Split.from_json(document.body))
                except AuraError as error:
                    log.warning("split %s cannot be read: %s", name, error)
                except Exception:  # the next epoch must be heard all the same
                    log.exception("whoever follows split %s refused it", name)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await news.wait()

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
