"""Group commit: one transaction serves every run that waits.

Each write of a process is submitted here. While one batch is being committed the next one gathers,
so the more runs write at once, the fewer commits each of them costs. Critical signals do not wait
for a batch: they are a commit of their own, next to the one that is under way, and while there are
some, batches are kept brief: a critical signal may need the row or, on SQLite, the connection that
the batch has. What is taken when more waits than fits into a batch is decided in `routing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from aura.clock import Clock
from aura.errors import StoreUnavailable
from aura.store.base import (
    Announce,
    Append,
    AppendFeed,
    Continue,
    Done,
    Op,
    Outcome,
    PutDocument,
    SendSignal,
    Settle,
    Store,
)
from aura.store.checkpoints import Pace, estimated_mtbf
from aura.store.events import Emit
from aura.store.routing import CommitTimes, Router

log = logging.getLogger("aura.store")

MAX_BATCH = 2_000
MAX_BRIEF = 12  # while there are critical signals
_SPLIT = 16  # operations from which two half batches, one in each hand, beat a whole one
_ONCE = (AppendFeed, PutDocument)
_ENTRIES = (Append, Emit)
_LATELY = 1.0  # seconds after a critical signal in which batches are brief
_LONGEST_PASS = 8  # rounds of the event loop between two brief batches
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between tries


_Waiter = tuple[Op, Done]
_Batch = list[_Waiter]


@dataclass(slots=True)
class CommitCounts:
    """How much has been written since the start. `entries` are those of journals, `deferred` those
    of them that waited for others, and `saved` the commits that this spared."""

    commits: int = 0
    ops: int = 0
    failures: int = 0
    entries: int = 0
    deferred: int = 0
    saved: int = 0


_COUNTED = tuple(one.name for one in fields(CommitCounts))


class Committer:
    """Submits operations to a store in batches, one batch at a time, in order of arrival.

    While the database is away a batch is tried again for `patience` seconds, and the later ones
    wait behind it; then its waiters get StoreUnavailable. What must not be written twice (feeds,
    documents) is not tried again: whether it was written is for its submitter to find out.

    What is `post`ed is written as soon as the batch before it is. What is posted by `post_later`
    goes along with that, or when `aura.store.checkpoints` says so; `hurry` says that somebody
    depends on it now, and if it is a run that handles a critical signal, which one.
    """

    def __init__(
        self, store: Store, clock: Clock, *, patience: float = 5.0, mtbf: float | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience
        self._waiting: Router[_Waiter] = Router()
        self._critical: _Batch = []
        self._courier: asyncio.Task[None] | None = None
        self._times = CommitTimes()
        self._brief_until = 0.0
        self._delivered = 0  # batches of critical signals
        self._wake: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._closing = False
        self._mtbf = mtbf
        self._pace: Pace | None = None  # of entries that may wait; there are none at first
        self._pressing = False  # what waits must be written at once
        self._napping = False  # all that waits may wait
        self._learning: asyncio.Task[None] | None = None
        self._under_way: list[float] = []  # when the writes that are under way began
        self.counts = CommitCounts()
        self.refuse: Callable[[Op], Exception | None] | None = None  # asked where it is submitted

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._context = copy_context()
        self._pump = self._begin(self._run(), "aura-committer")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin a task that does not belong to the code that happens to submit something now."""
        return self._loop.create_task(work, name=name, context=self._context)

    async def close(self) -> None:
        """Write what is waiting, then stop."""
        self._closing = True
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
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
        if self.refuse is not None and (why := self.refuse(op)) is not None:
            done(why)
            return
        if type(op) is SendSignal:
            self._route(op, done)
        else:
            self._pressing = True
            self._waiting.push((op, done))
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def post_later(self, op: Append, done: Done) -> None:
        """The same, for an entry on which nothing outside depends: it may wait for others."""
        pace = self._pace or self._learn()
        entry = op.entry
        size = len(entry.input or b"") + len(entry.output or b"")
        pace.add(self._clock.monotonic(), entry.recorded_at - entry.started_at, size)
        self._waiting.push((op, done))
        if self._napping and pace.due(self._times.estimate(1)) > self._clock.monotonic():
            return
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def hurry(self, run_id: str | None = None) -> None:
        """Somebody depends on what was posted before: write it now; what that run has posted,
        before what others have."""
        if run_id is not None:
            self._waiting.promote(lambda one: _writer_of(one[0]) == run_id)
        if self._waiting:
            self._pressing = True
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    def written(self) -> dict[str, int]:
        """The counts by name."""
        return {name: getattr(self.counts, name) for name in _COUNTED}

    def oldest(self) -> float:
        """For how long the oldest write has been under way, with its tries; 0.0 when none is."""
        return self._clock.monotonic() - min(self._under_way) if self._under_way else 0.0

    def _learn(self) -> Pace:
        """The first entry that may wait: how often processes fail is looked up meanwhile."""
        self._pace = pace = Pace(self._mtbf)
        if self._mtbf is None:
            self._learning = self._begin(self._estimate(pace), "aura-failures")
        return pace

    async def _estimate(self, pace: Pace) -> None:
        with contextlib.suppress(StoreUnavailable):  # then what is not known stays so
            pace.mtbf = estimated_mtbf(await self._store.workers(), self._clock.now())

    def _route(self, op: SendSignal, done: Done) -> None:
        now = self._clock.now()
        if op.deadline is not None:
            ahead = 0 if op.priority == "critical" else len(self._waiting)
            if now + self._times.estimate(ahead + 1) > op.deadline:
                op = replace(op, late=True)
        if op.priority != "critical":
            self._pressing = True
            self._waiting.push_signal((op, done), op.priority, op.deadline, now)
            return
        self._brief_until = self._clock.monotonic() + _LATELY
        self._critical.append((op, done))
        if self._courier is None or self._courier.done():
            self._courier = self._begin(self._deliver(), "aura-critical")

    async def _deliver(self) -> None:
        """Write critical signals, those that came while the last ones were written together."""
        while self._critical:
            batch, self._critical = self._critical, []
            await self._write(batch)
            self._delivered += 1

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
            if not (self._pressing or self._closing) and await self._nap():
                continue
            brief = self._clock.monotonic() < self._brief_until
            if brief:
                await self._let_pass()
            size = min(MAX_BATCH, len(self._waiting))
            deferred = self._pace.written() if self._pace is not None else 0
            if in_step and size - deferred >= _SPLIT:
                size //= 2
            due = self._waiting.due()
            if due is not None:
                size = min(size, self._times.largest(due - self._clock.now(), MAX_BATCH))
            if brief:
                size = min(size, self._times.brief(MAX_BRIEF))
            batch = self._waiting.take(size)
            self._pressing = bool(self._waiting)  # what is left follows at once
            await self._write(batch)
            self.counts.deferred += deferred
            self.counts.saved += deferred - (deferred >= len(batch))
            in_step = not self._waiting

    async def _let_pass(self) -> None:
        """A store may write on the event loop. What a critical signal waits for goes on between,
        and its receiver too."""
        rounds = turns = 2
        while rounds and turns < _LONGEST_PASS:
            delivered = self._delivered
            await asyncio.sleep(0)
            rounds, turns = rounds - 1, turns + 1
            if self._critical or self._delivered != delivered:
                rounds = 2

    async def _nap(self) -> bool:
        """Let what waits wait, when it may. Whether it did: then look again."""
        assert self._pace is not None  # noqa: S101  (something may wait)
        pause = self._pace.due(self._times.estimate(1)) - self._clock.monotonic()
        if pause <= 0.0:
            return False
        self._wake = self._loop.create_future()
        self._napping = True
        alarm = self._begin(self._clock.sleep(pause), "aura-checkpoint")
        try:
            await asyncio.wait((self._wake, alarm), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._napping = False
            self._wake = None
            alarm.cancel()
        return True

    async def _write(self, batch: _Batch) -> None:
        began = self._clock.monotonic()
        self._under_way.append(began)
        try:
            await self._insist(batch, began + self._patience)
        finally:
            self._under_way.remove(began)

    async def _insist(self, batch: _Batch, give_up: float) -> None:
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
                if len(batch) == 1:
                    await self._give_up(batch, error)
                else:
                    await self._write_apart(batch, give_up)
                return
            else:
                self._times.observe(len(batch), self._clock.monotonic() - began)
                self.counts.commits += 1
                self.counts.ops += len(batch)
                self.counts.entries += sum([type(op) in _ENTRIES for op, _ in batch])
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    done(outcome)
                return

    async def _write_apart(self, batch: _Batch, give_up: float) -> None:
        """One of them is nothing that the database takes: the others are written without it, but
        for what its run has submitted after it."""
        refused: dict[str | None, BaseException] = {}

        def telling(run: str | None, done: Done) -> Done:
            def tell(outcome: Outcome | BaseException) -> None:
                if isinstance(outcome, BaseException):
                    refused[run] = outcome
                done(outcome)

            return tell

        for op, done in batch:
            run = _run_of(op)
            if run is not None and run in refused:
                done(refused[run])
            else:
                await self._insist([(op, telling(run, done))], give_up)

    async def _give_up(self, batch: _Batch, error: Exception) -> None:
        """Refuse a batch, and what its runs have submitted since: it would leave gaps in their
        journals. After one round of the event loop they know, and submit nothing more."""
        runs = {_run_of(op) for op, _ in batch if type(op) in _ENTRIES} - {None}
        _refuse(batch, error, ())
        for _ in range(2):
            late = self._waiting.withdraw(lambda one: _run_of(one[0]) in runs)
            _refuse(late, error, ())
            await asyncio.sleep(0)


def _run_of(op: Op) -> str | None:
    if isinstance(op, Emit):
        return None if op.append is None else op.append.entry.run_id
    if isinstance(op, Append):
        return op.entry.run_id
    return op.run_id if isinstance(op, Settle | Continue) else None


def _writer_of(op: Op) -> str | None:
    """The run that has submitted it by itself, also what it announces of itself."""
    return op.topic.partition(":")[2] if isinstance(op, Announce) else _run_of(op)


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
