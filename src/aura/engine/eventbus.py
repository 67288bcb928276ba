"""The consumers of one process, and how partitions are shared out between processes.

One loop asks for all groups at once, a few times per lease and when it hears that something has
changed, so an idle process costs the same whatever the number of topics and groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from aura.clock import Clock
from aura.engine.consumer import Consumer
from aura.engine.subscriptions import Handler, Subscriptions, Surroundings
from aura.errors import StoreUnavailable
from aura.store.base import Announce, Store
from aura.store.events import GROUPS, Join

log = logging.getLogger("aura.events")

_PER_LEASE = 3
_LEAST_PAUSE = 0.05  # seconds between two rounds


class EventBus:
    """Runs the consumers from `open` to `close`. `worker` gives the id of this process's worker,
    whose lease its partitions have, or None while it has none; `lease` is in seconds."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        subscriptions: Subscriptions,
        around: Surroundings,
        worker: Callable[[], str | None],
        lease: float,
    ) -> None:
        self._store = store
        self._clock = clock
        self._writer = around.writer
        self._threads = around.threads
        self._worker = worker
        self._known: str | None = None
        self._period = lease / _PER_LEASE
        self._stir = asyncio.Event()
        self.consumers = [
            Consumer(one, store.events, around.writer, clock, Handler(one, around))
            for one in subscriptions
        ]
        self._joins = [
            Join(one.topic, one.group, one.begin == "latest") for one in subscriptions
        ]  # fmt: skip
        self._loop: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._unlisten = self._store.listen(self._hear)
        for consumer in self.consumers:
            consumer.stolen = self._stir
            consumer.open()
        self._loop = asyncio.get_running_loop().create_task(self._keep(), name="aura-groups")

    async def close(self, grace: float) -> None:
        """Let handlers end for so many seconds, and hand the partitions back."""
        self._unlisten()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await asyncio.gather(*(consumer.close(grace) for consumer in self.consumers))
        self._threads.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(StoreUnavailable):  # then they are free when the lease is over
            if self._known is not None:
                await self._store.events.leave(self._known)
                await self._writer.submit(Announce(GROUPS))

    def _hear(self, topic: str) -> None:
        if topic == GROUPS:
            self._stir.set()
        elif topic.startswith("events:"):
            for consumer in self.consumers:
                if consumer.subscription.topic == topic[7:]:
                    consumer.news()

    async def _keep(self) -> None:
        while True:
            self._stir.clear()
            try:
                await self._balance()
            except StoreUnavailable as error:
                log.warning("no events are shared out until the database is back: %s", error)
            except Exception:
                log.exception("sharing out events failed in an unknown way, trying again")
            await self._clock.sleep(_LEAST_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period):
                    await self._stir.wait()

    async def _balance(self) -> None:
        worker = self._worker()
        if worker is None or worker != self._known:
            for consumer in self.consumers:
                consumer.abandon()
        self._known = worker
        if worker is None:
            return
        found = await self._store.events.balance(worker, self._joins)
        for consumer, assignment in zip(self.consumers, found, strict=True):
            await consumer.assign(assignment)
        if any(one.joined for one in found):
            await self._writer.submit(Announce(GROUPS))
