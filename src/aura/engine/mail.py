"""How signals come to the runs of a worker.

One that this process has sent itself is handed to its run by its commit, if the run has all before
it. What is heard of otherwise is read, in one query for all at once. After a handing over there is
a look too, a moment later: the topic may have stood for another signal as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import groupby

from aura.engine.execution import Execution
from aura.errors import StoreUnavailable
from aura.store.base import SendSignal, Sent, Signal, Store

log = logging.getLogger("aura.worker")

_AFTERWARDS = 0.05  # seconds from a handing over to the look behind it


class Mail:
    """Fetches signals for the executions of one worker."""

    def __init__(self, store: Store, executions: Mapping[str, Execution]) -> None:
        self._store = store
        self._executions = executions
        self._heard: set[str] = set()
        self._early: set[str] = set()
        self._handed: set[str] = set()
        self._ahead: dict[str, dict[int, Signal]] = {}  # whose predecessors are still on their way
        self._looking: asyncio.TimerHandle | None = None
        self._stir = asyncio.Event()

    def heard(self, run_id: str, *, coming: bool) -> None:
        """A signal was sent to that run. `coming`: runs are being taken, so it may be here soon."""
        if run_id in self._executions:
            self._heard.add(run_id)
            self._stir.set()
        elif coming:
            self._early.add(run_id)

    def hand(self, op: SendSignal, sent: Sent, now: float) -> None:
        """A signal of this process is durable: its run has it at once, if that is executed here.

        Called by the commit right behind the topic, so that this is not read on its account.
        """
        execution = self._executions.get(op.run_id)
        if execution is None or sent.duplicate or sent.seq <= execution.mailbox.seen:
            return
        self._ahead.setdefault(op.run_id, {})[sent.seq] = Signal(
            op.run_id, sent.seq, op.name, op.id, op.priority, op.deadline, op.payload, now,
            sent.late,
        )  # fmt: skip
        if not self._deliver_ahead(execution):
            return  # one that is committed beside it, or of another process: that is read
        if op.run_id in self._heard:
            self._heard.discard(op.run_id)
            self._handed.add(op.run_id)
            if self._looking is None:
                loop = asyncio.get_running_loop()
                self._looking = loop.call_later(_AFTERWARDS, self._look_behind)

    def _look_behind(self) -> None:
        self._looking = None
        handed, self._handed = self._handed, set()
        for run_id in handed:
            self.heard(run_id, coming=False)

    def _deliver_ahead(self, execution: Execution) -> bool:
        """Deliver what was handed over and now has all before it; whether that is all."""
        ahead = self._ahead.pop(execution.id, {})
        following: list[Signal] = []
        while (seq := execution.mailbox.seen + 1 + len(following)) in ahead:
            following.append(ahead[seq])
        execution.deliver(following)
        left = {seq: one for seq, one in ahead.items() if seq > execution.mailbox.seen}
        if left:
            self._ahead[execution.id] = left
        return not left

    def left(self, run_id: str) -> None:
        """A run is not executed here any more."""
        self._ahead.pop(run_id, None)

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
            if not here:
                continue
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
                    self._deliver_ahead(self._executions[run_id])


def _run_id(signal: Signal) -> str:
    return signal.run_id
