"""Sealing anew what an older key has sealed and what no retention deletes, so that this key can be
taken out: all but the runs that have ended.

Documents are few, and no worker works without them: they are done before it begins. The rest may
be much. It is done beside the work, while a process has more than one key, with pauses in which
others go on. A row is replaced only if it still is as it was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from aura.clock import Clock
from aura.errors import AuraError
from aura.store.base import TERMINAL, RunFilter, Store
from aura.store.portable import OF_RUNS, TABLES, Page
from aura.store.sealed import SealedStore

log = logging.getLogger("aura.encryption")

LASTING = ("feeds", "events", "deliveries")
_SHARE = 4.0  # times as long as a page took is the pause behind it


async def reseal(store: SealedStore, page: Page, clock: Clock | None = None) -> int:
    """Seal the rows from that page on with the newest key; how many. With a clock, with pauses."""
    count = 0
    while True:
        began = 0.0 if clock is None else clock.monotonic()
        changes, last = await store.stale(page)
        if changes:
            count += await store.replace_rows(page.table, changes)
        if last is None:
            return count
        page = Page(page.table, last, page.run)
        if clock is not None:
            await clock.sleep(_SHARE * (clock.monotonic() - began))


class Resealing:
    """Seals what is old, from `open` to `close`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def open(self, store: Store, clock: Clock) -> None:
        """Documents are done when this returns. Raises StoreUnavailable."""
        if not isinstance(store, SealedStore):
            return
        await reseal(store, Page("documents"))
        if len(store.key_ids) > 1:
            work = self._rest(store, clock)
            self._task = asyncio.get_running_loop().create_task(work, name="aura-resealing")

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self._task is None or self._task.done()

    def stop(self) -> None:
        """Seal nothing more."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _rest(self, store: SealedStore, clock: Clock) -> None:
        try:
            count = 0
            for table in LASTING:
                count += await reseal(store, Page(table), clock)
            async for run_id in _open_runs(store, clock):
                for table in ("runs", *OF_RUNS):
                    if TABLES[table].payloads:
                        count += await reseal(store, Page(table, run=run_id), clock)
            newest = store.key_ids[0]
            log.info("all but ended runs is sealed with the key %s: %d rows anew", newest, count)
        except AuraError as error:
            log.warning("what older keys have sealed is not sealed anew this time: %s", error)
        except Exception:
            log.exception("sealing anew failed in an unknown way")


async def _open_runs(store: Store, clock: Clock) -> AsyncIterator[str]:
    """The ids of the runs that retention does not delete. All are looked through: a run that is
    taken up and goes to sleep meanwhile would be missed in lists of one state."""
    where = RunFilter(limit=500)
    while True:
        began = clock.monotonic()
        found = await store.runs(where)
        took = clock.monotonic() - began
        if not found:
            return
        for run in found:
            if run.state not in TERMINAL:
                yield run.id
        where = RunFilter(limit=500, before=(found[-1].created_at, found[-1].id))
        await clock.sleep(_SHARE * took)
