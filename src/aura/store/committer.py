"""Group commit: one transaction serves every run that waits.

Each write of a process is submitted here. While one batch is being committed the next one gathers,
so the more runs write at once, the fewer commits each of them costs. Critical signals do not wait
for a batch: they are a commit of their own, next to the one that is under way. What is taken when
more waits than fits into a batch is decided in `routing`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial

from aura.clock import Clock
from aura.errors import StoreUnavailable
from aura.store.base import (
    Append,
    AppendFeed,
    Done,
    Op,
    Outcome,
    PutDocument,
    SendSignal,
    Settle,
    Store,
)
from aura.store.routing import CommitTimes, Router

log = logging.getLogger("aura.store")

MAX_BATCH = 2_000
_SPLIT = 16  # operations from which two half batches, one in each hand, beat a whole one
_ONCE = (AppendFeed, PutDocument)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between tries


_Waiter = tuple[Op, Done]
_Batch = list[_Waiter]


@dataclass(slots=True)
class CommitCounts:
    """How much has been written since the start."""

    commits: int = 0
    ops: int = 0
    failures: int = 0


class Committer:
    """Submits operations to a store in batches, one batch at a time, in order of arrival.

    While the database is away a batch is tried again for `patience` seconds, and the later ones
    wait behind it; then its waiters get StoreUnavailable. What must not be written twice (feeds,
    documents) is not tried again: whether it was written is for its submitter to find out.
    """

    def __init__(self, store: Store, clock: Clock, *, patience: float = 5.0) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience
        self._waiting: Router[_Waiter] = Router()
        self._critical: _Batch = []
        self._courier: asyncio.Task[None] | None = None
        self._times = CommitTimes()
        self._wake: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._closing = False
        self.counts = CommitCounts()

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._pump = self._loop.create_task(self._run(), name="aura-committer")

    async def close(self) -> None:
        """Write what is waiting, then stop."""
        self._closing = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        if self._pump is not None:
            await self._pump
            self._pump = None
        if self._courier is not None:
            await self._courier

    def submit(self, op: Op) -> asyncio.Future[Outcome]:
        """The outcome, once it is durable; raises what the store refused it with."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self.post(op, partial(_resolve, future))
        return future

    def post(self, op: Op, done: Done) -> None:
        """The same, with the outcome given to a function, at once when it is known."""
        if type(op) is SendSignal:
            self._route(op, done)
        else:
            self._waiting.push((op, done))
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _route(self, op: SendSignal, done: Done) -> None:
        now = self._clock.now()
        if op.deadline is not None:
            ahead = 0 if op.priority == "critical" else len(self._waiting)
            if now + self._times.estimate(ahead + 1) > op.deadline:
                op = replace(op, late=True)
        if op.priority != "critical":
            self._waiting.push_signal((op, done), op.priority, op.deadline, now)
            return
        self._critical.append((op, done))
        if self._courier is None or self._courier.done():
            self._courier = self._loop.create_task(self._deliver(), name="aura-critical")

    async def _deliver(self) -> None:
        """Write critical signals, those that came while the last ones were written together."""
        while self._critical:
            batch, self._critical = self._critical, []
            await self._write(batch)

    async def _run(self) -> None:
        in_step = True  # all runs wait for one commit, and then the database waits for them
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake = self._loop.create_future()
                await self._wake
                self._wake = None
                continue
            size = min(MAX_BATCH, len(self._waiting))
            if in_step and size >= _SPLIT:
                size //= 2
            due = self._waiting.due()
            if due is not None:
                size = min(size, self._times.largest(due - self._clock.now(), MAX_BATCH))
            await self._write(self._waiting.take(size))
            in_step = not self._waiting

    async def _write(self, batch: _Batch) -> None:
        give_up = self._clock.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while batch:
            began = self._clock.monotonic()
            try:
                outcomes = await self._store.commit([op for op, _ in batch])
            except StoreUnavailable as error:
                self.counts.failures += 1
                if self._closing or self._clock.monotonic() + pause > give_up:
                    await self._give_up(batch, error)
                    return
                batch = _refuse(batch, error, _ONCE)
                if batch:
                    if pause == _FIRST_PAUSE:  # once, however often it is tried
                        log.warning("the database is away, writes wait: %s", error)
                    await self._clock.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception as error:  # noqa: BLE001  (every waiter gets it)
                self.counts.failures += 1
                await self._give_up(batch, error)
                return
            else:
                self._times.observe(len(batch), self._clock.monotonic() - began)
                self.counts.commits += 1
                self.counts.ops += len(batch)
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    done(outcome)
                return

    async def _give_up(self, batch: _Batch, error: Exception) -> None:
        """Refuse a batch, and what its runs have submitted since: it would leave gaps in their
        journals. After one round of the event loop they know, and submit nothing more."""
        runs = {op.entry.run_id for op, _ in batch if isinstance(op, Append)}
        _refuse(batch, error, ())
        for _ in range(2):
            late = self._waiting.withdraw(lambda one: _run_of(one[0]) in runs)
            _refuse(late, error, ())
            await asyncio.sleep(0)


def _run_of(op: Op) -> str | None:
    if isinstance(op, Append):
        return op.entry.run_id
    return op.run_id if isinstance(op, Settle) else None


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _refuse(batch: _Batch, error: Exception, kinds: tuple[type, ...]) -> _Batch:
    """Give the error to the operations of these kinds (none given: to all); the others are left."""
    left = []
    for op, done in batch:
        if kinds and type(op) not in kinds:
            left.append((op, done))
        else:
            done(error)
    return left
