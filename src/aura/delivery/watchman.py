"""Takes the traffic back from rollouts whose run is parked or has failed: no guard watches them.

A rollout that cannot go on takes it back itself (`aura.delivery.rollout`, invariant 4). But a run
is also parked from outside of its code: when its journal fits no more, when worker after worker
dies of it. Each process that executes runs hears of that and looks, and once when it begins. What
is done is done by compare-and-set, so it does not matter how many do it. Runs in flight stay as
they are: what the plan says of them is done by the run that is parked.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from aura.clock import Clock
from aura.delivery.alerts import Alert, Alerts
from aura.delivery.channels import channels_from
from aura.delivery.plan import Pair
from aura.delivery.rollout import Engine
from aura.delivery.status import PairStatus, RolloutStatus, given_up
from aura.errors import AuraError, DatabaseMoved
from aura.store.base import RunState

log = logging.getLogger("aura.delivery")

_UNWATCHED: tuple[RunState, ...] = ("parked", "failed", "cancelled")
_AGAIN = 1.0  # seconds after which a look that failed is tried again


class Watchman:
    """One per app; open while the app has a worker."""

    def __init__(self, engine: Engine, alerts: Alerts) -> None:
        self._engine = engine
        self._alerts = alerts
        self._task: asyncio.Task[None] | None = None

    def open(self, clock: Clock) -> None:
        """Begin to listen."""
        self._clock = clock
        self._news = asyncio.Event()
        self._news.set()
        self._stop = self._engine.store.listen(self._hear)
        self._task = asyncio.create_task(self._watch(), name="aura-watchman")

    async def close(self) -> None:
        """Harmless when it is not open."""
        if self._task is not None:
            self._stop()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _hear(self, topic: str) -> None:
        if topic.startswith("run:rollout-"):
            self._news.set()

    async def _watch(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.look()
            except DatabaseMoved as error:
                log.info("rollouts are not watched here any more: %s", error)
                return
            except AuraError as error:
                log.warning("whether rollouts are watched is looked at again: %s", error)
                await self._clock.sleep(_AGAIN)
                self._news.set()

    async def look(self) -> None:
        """Take the traffic back from those that nobody watches. Raises StoreUnavailable."""
        for status in await self._engine.statuses():
            if status.ended or status.opened is None:
                continue
            run = await self._engine.store.run(status.run)
            if run is not None and run.state in _UNWATCHED:
                await self._give_up(status, f"no guard watches it: its run is {run.state}")

    async def _give_up(self, status: RolloutStatus, reason: str) -> None:
        epochs = {pair.split: await self._take_back(pair, status.run) for pair in status.pairs}
        while (shown := await self._engine.shown(status.name)) and shown[1].run == status.run:
            at, known = shown
            if known.ended:
                return
            over = given_up(known, reason, self._clock.now())
            over = replace(over, epoch=epochs[known.split] or known.epoch)
            await self._tell(status, reason)
            if await self._engine.put("rollout", status.name, over.to_json(), at):
                log.warning("rollout %s: the traffic is back: %s", status.name, reason)
                return

    async def _take_back(self, pair: PairStatus, run: str) -> int:
        """Everybody to the baseline; the split's epoch, 0 when it is another run's."""
        own = Pair(pair.split, pair.baseline, pair.candidate)
        while (split := await self._engine.own_split(own, run)) is not None:
            if split.forced or not (split.moving or split.share(pair.candidate)):
                return split.epoch
            back = split.with_weights({pair.candidate: 0.0}, moving=False)
            if await self._engine.put("split", pair.split, back.to_json(), split.epoch):
                return back.epoch
        return 0

    async def _tell(self, status: RolloutStatus, reason: str) -> None:
        known = await self._engine.store.document("alerts", status.split)
        if known is not None:
            alert = Alert(
                id=f"{status.run}-unwatched", kinds=("rollback",), name=status.name, reason=reason,
                split=status.split, rollout=status.name,
            )  # fmt: skip
            await self._alerts.tell(alert, channels_from(known.body))
