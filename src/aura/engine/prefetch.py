"""Runs that wait out of memory are taken by the very commit of the signal that wakes them.

    left ──▶ aim ──▶ commit: signal stored, run taken ──▶ landed ──▶ the run goes on
                └──▶ load: the run and its journal ────────┘

A worker remembers the runs that it has put to sleep, and their epochs. When this process sends a
signal to one of them, the signal names the worker as its taker, and while it is being committed the
run's journal is read. Nothing of that is used unless the commit says that the run is this worker's
now. It says so only if the run still waited at the epoch that is remembered; then nobody can have
written to the journal since. So no second transaction is needed to claim the run, and it sees the
signal only when that is durable. Everything else wakes as any run does, by being claimed.

1. A commit that is repeated says again that the run is the worker's. So does one behind a claim of
   the same worker that was faster: what a claim has brought meanwhile is not begun again (`came`).
2. A claim whose answer comes later may bring what was taken; the worker begins each epoch once.
3. After a commit whose outcome stays unknown the worker gives up its name, and with it all runs:
   the one in doubt is free when the old lease is over.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from aura.clock import Clock
from aura.errors import RunEnded, RunNotFound, StoreUnavailable
from aura.store.base import Claimed, Outcome, RunRecord, SendSignal, Sent, Store

log = logging.getLogger("aura.worker")

MOST = 10_000  # runs that a worker remembers; the others are claimed
_PAUSE = 0.1  # seconds until what could not be read is read again


class Host(Protocol):
    """The worker: its id, and what it does with runs that are taken."""

    id: str

    def reserve(self) -> bool:
        """Keep a place for a run that may be taken; whether there is one."""

    def release(self) -> None:
        """The place is not needed any more."""

    def take_up(self, claimed: Claimed) -> None:
        """Execute a run that is this worker's."""

    def renounce(self, reason: Exception) -> None:
        """Give up all runs: which of them are this worker's is not known."""


@dataclass(slots=True)
class _Aimed:
    """A signal on its way, and what is read meanwhile; `came`: a claim has brought the run."""

    load: asyncio.Task[Claimed | None]
    came: bool = False


class Prefetch:
    """The runs that one worker has put to sleep, and those of them that are being woken."""

    def __init__(self, store: Store, host: Host, clock: Clock) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._asleep: dict[str, int] = {}
        self._coming: dict[str, _Aimed] = {}
        self._late: set[asyncio.Task[None]] = set()

    def left(self, run: RunRecord) -> None:
        """A run begins to wait out of memory. One in a queue has to wait for a place there."""
        if run.queue is not None:
            return
        self._asleep.pop(run.id, None)
        self._asleep[run.id] = run.epoch
        if len(self._asleep) > MOST:
            del self._asleep[next(iter(self._asleep))]

    def came(self, run_id: str) -> None:
        """A run is executed here."""
        self._asleep.pop(run_id, None)
        aimed = self._coming.get(run_id)
        if aimed is not None:
            aimed.came = True

    def aim(self, op: SendSignal) -> SendSignal:
        """The signal as it is to be sent: with its taker, if the run sleeps as far as one knows."""
        epoch = self._asleep.get(op.run_id)
        if epoch is None or op.run_id in self._coming or not self._host.reserve():
            return op
        self._coming[op.run_id] = _Aimed(_alone(self._load(op.run_id, epoch)))
        return replace(op, taker=(self._host.id, epoch))

    def landed(self, op: SendSignal, outcome: Outcome | BaseException) -> None:
        """What became of a signal that was aimed."""
        assert op.taker is not None  # noqa: S101  (it was aimed)
        aimed = self._coming[op.run_id]
        mine = op.taker[0] == self._host.id
        unknown = isinstance(outcome, Exception) and not isinstance(outcome, RunEnded | RunNotFound)
        if mine and isinstance(outcome, Sent) and outcome.taken and not aimed.came:
            found = _result(aimed.load)
            if found is None:
                late = _alone(self._begin_later(op.run_id, aimed, op.taker))
                self._late.add(late)
                late.add_done_callback(self._late.discard)
                return
            self._begin(found, aimed, op.taker)
        elif mine and unknown:  # the run may have been taken all the same
            assert isinstance(outcome, Exception)  # noqa: S101
            self._host.renounce(outcome)
        self._over(op.run_id, aimed)

    def _over(self, run_id: str, aimed: _Aimed) -> None:
        aimed.load.cancel()
        self._coming.pop(run_id, None)
        self._host.release()

    async def _begin_later(self, run_id: str, aimed: _Aimed, taker: tuple[str, int]) -> None:
        """The run is taken, but what was read is not here yet, or not of that moment."""
        try:
            found = await aimed.load or await self._insist(run_id, taker)
            if found is not None:
                self._begin(found, aimed, taker)
        except Exception as error:
            log.exception("run %s was taken and cannot be read", run_id)
            if taker[0] == self._host.id:
                self._host.renounce(error)
        finally:
            self._over(run_id, aimed)

    async def _insist(self, run_id: str, taker: tuple[str, int]) -> Claimed | None:
        """Read the run until that succeeds; None when it is not this worker's any more."""
        owner, epoch = taker
        while owner == self._host.id:
            try:
                found = await self._read(run_id)
            except StoreUnavailable:
                await self._clock.sleep(_PAUSE)
                continue
            mine = found is not None and (found.run.owner, found.run.epoch) == (owner, epoch + 1)
            return found if mine else None
        return None

    def _begin(self, claimed: Claimed, aimed: _Aimed, taker: tuple[str, int]) -> None:
        owner, epoch = taker
        if owner != self._host.id or aimed.came:
            return
        run = claimed.run._replace(state="running", owner=owner, epoch=epoch + 1, wake_at=None)
        self._host.take_up(claimed._replace(run=run))

    async def _load(self, run_id: str, epoch: int) -> Claimed | None:
        """The run as it sleeps at that epoch; None when it does not, or cannot be read now."""
        try:
            found = await self._read(run_id)
        except StoreUnavailable:
            return None
        if found is None or found.run.state not in ("waiting", "pending"):
            return None
        return found if found.run.epoch == epoch else None

    async def _read(self, run_id: str) -> Claimed | None:
        """A run with its journal and signals. Nobody writes to the journal meanwhile, or what was
        read is not used; a signal that is sent meanwhile is there, or not counted."""
        runs, journal, signals = await asyncio.gather(
            self._store.runs_by_id([run_id]),
            self._store.journal(run_id),
            self._store.signals([(run_id, 0)]),
        )
        if not runs:
            return None
        last = signals[-1].seq if signals else 0
        return Claimed(runs[0]._replace(signals=last), journal, signals)


def _alone(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that is no branch of the run that sends the signal."""
    return contextvars.Context().run(asyncio.get_running_loop().create_task, work)


def _result(load: asyncio.Task[Claimed | None]) -> Claimed | None:
    """What was read, if it is here; an error is found by whoever awaits it."""
    ready = load.done() and not load.cancelled() and load.exception() is None
    return load.result() if ready else None
