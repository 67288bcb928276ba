"""Deleting what is old, in small batches and at a pace that nobody notices.

Every worker looks every few minutes, each at a time of its own. A batch is followed by a pause that
is longer than the batch took, so a sweep takes a fifth of one connection at the most.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from aura.clock import Clock
from aura.errors import AuraError, DatabaseMoved
from aura.store.base import Store, Sweep, Swept

log = logging.getLogger("aura.retention")

PERIOD = 300.0
"""Seconds between two sweeps of one worker, on average."""

_PAUSE = 0.01  # seconds after a batch, or ...
_SHARE = 4.0  # ... so many times as long as it took

Plan = Callable[[], Awaitable[Sweep]]


async def sweep(store: Store, clock: Clock, plan: Plan) -> Swept:
    """Delete until nothing is left; how much that was. `plan` is asked again for each batch."""
    total = Swept()
    while True:
        began = clock.monotonic()
        swept = await store.sweep(await plan())
        if not any(swept):
            return total
        total = Swept(*map(sum, zip(total, swept, strict=True)))
        await clock.sleep(max(_PAUSE, _SHARE * (clock.monotonic() - began)))


class Sweeper:
    """Sweeps now and then, from `open` to `close`."""

    def __init__(self, store: Store, clock: Clock, plan: Plan) -> None:
        self._store = store
        self._clock = clock
        self._plan = plan
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="aura-retention")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                swept = await sweep(self._store, self._clock, self._plan)
            except DatabaseMoved as error:
                log.info("nothing is deleted any more: %s", error)
                return
            except AuraError as error:
                log.warning("old runs are not deleted this time: %s", error)
            except Exception:
                log.exception("deleting old runs failed in an unknown way")
            else:
                if any(swept):
                    log.info("deleted what is old: %s", describe(swept))


def describe(swept: Swept) -> str:
    """The counts in words."""
    return (
        f"{swept.runs} runs with {swept.entries} journal entries and {swept.signals} signals, "
        f"{swept.payloads} large payloads, {swept.events} events, {swept.items} feed items, "
        f"{swept.workers} dead workers"
    )
