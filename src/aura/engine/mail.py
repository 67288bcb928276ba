"""How signals come to the runs of a worker: one query for all that were heard of at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import groupby

from aura.engine.execution import Execution
from aura.errors import StoreUnavailable
from aura.store.base import Signal, Store

log = logging.getLogger("aura.worker")


class Mail:
    """Fetches signals for the executions of one worker."""

    def __init__(self, store: Store, executions: Mapping[str, Execution]) -> None:
        self._store = store
        self._executions = executions
        self._heard: set[str] = set()
        self._early: set[str] = set()
        self._stir = asyncio.Event()

    def heard(self, run_id: str, *, coming: bool) -> None:
        """A signal was sent to that run. `coming`: runs are being taken, so it may be here soon."""
        if run_id in self._executions:
            self._heard.add(run_id)
            self._stir.set()
        elif coming:
            self._early.add(run_id)

    def arrived(self, run_id: str) -> None:
        """A run was taken: what was heard of it meanwhile counts now."""
        if run_id in self._early:
            self.heard(run_id, coming=False)

    def all_arrived(self) -> None:
        """No runs are being taken any more."""
        self._early.clear()

    def look_at_all(self) -> None:
        """Look for signals of all runs that wait for one, in case a topic was missed."""
        for run_id, execution in self._executions.items():
            if execution.mailbox.awaited or execution.children.awaited:
                self.heard(run_id, coming=False)

    async def fetch(self) -> None:
        """For ever: what was heard is read and delivered."""
        while True:
            await self._stir.wait()
            self._stir.clear()
            heard, self._heard = self._heard, set()
            here = [self._executions[run_id] for run_id in heard if run_id in self._executions]
            try:
                found = await self._store.signals([(one.id, one.mailbox.seen) for one in here])
            except StoreUnavailable as error:
                log.warning("cannot read signals, trying again later: %s", error)
                continue
            except Exception:
                log.exception("cannot read signals, trying again later")
                continue
            for run_id, signals in groupby(found, _run_id):
                if run_id in self._executions:
                    self._executions[run_id].deliver(signals)


def _run_id(signal: Signal) -> str:
    return signal.run_id
