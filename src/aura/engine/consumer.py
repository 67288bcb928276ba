"""How one process handles the events of one group: reads ahead, keeps the order of each key, and
writes down how far it has come.

    assigned ──▶ active ──▶ leaving ──▶ released       another worker is to have the partition
                   │
                   └──────▶ abandoned                  another one has it, or the database was away

Invariants: (1) the cursor passes only what is finished or stored as a delivery, in the same commit;
(2) of each key one event is handled at a time, in order of seq, retries included; (3) nothing is
read of a partition while an event of an earlier epoch of it is being handled here; (4) what a
handler emits is durable before its event counts as finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections import deque
from collections.abc import Awaitable, Sequence
from itertools import islice
from typing import Any

from aura.clock import Clock
from aura.engine.faults import describe
from aura.engine.partitions import WORKER_LOST, Line, Parcel, Part
from aura.engine.subscriptions import Handle, Subscription, failure_of
from aura.errors import KeyMissing, LeaseLost, StoreUnavailable
from aura.store.base import Writer
from aura.store.events import Assignment, Delivery, Event, EventStore

log = logging.getLogger("aura.events")

_PAGE = 500  # events in one read
_WINDOW = 2_000  # events in memory
_MOST_STORED = 100_000  # rows of deliveries that are known in memory; then nothing more is read
_PACE = 0.02  # seconds between two commits of progress
_LONG = 5.0  # seconds after which an event that is being handled does not hold the cursor
_PAUSE = 1.0  # seconds until a try that failed for the database's sake
_KEY_PATIENCE = 60.0  # seconds until an event whose key is missing here is looked at again
_SUSPICIOUS = 3  # workers that died in a row without any progress, or over one event
_FETCH = 100  # payloads of one line that are read at once


class Consumer:
    """Handles events of the partitions that it is given with `assign`."""

    def __init__(
        self,
        subscription: Subscription,
        events: EventStore,
        writer: Writer,
        clock: Clock,
        handle: Handle,
    ) -> None:
        self.subscription = subscription
        self.stolen = asyncio.Event()
        self._events = events
        self._writer = writer
        self._clock = clock
        self._handle = handle
        self._window = max(_WINDOW, 4 * subscription.concurrency)
        self._parts: dict[int, Part] = {}
        self._fading: dict[int, Part] = {}
        self._ready: deque[Line] = deque()
        self._blocked: set[Line] = set()
        self._running: set[Line] = set()
        self._missing: list[Line] = []
        self._suspect: Line | None = None
        self._loaded = self._tail = self._generation = self._replayed_to = 0
        self._news = self._full = False
        self._read, self._fetch, self._dirty = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._writing = asyncio.Lock()
        self._loops: list[asyncio.Task[None]] = []
        self._naps: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()

    def open(self) -> None:
        make = asyncio.get_running_loop().create_task
        name = f"aura-events-{self.subscription.topic}-{self.subscription.group}"
        loops = (self._keep_reading(), self._keep_fetching(), self._keep_writing())
        self._loops = [make(loop, name=name) for loop in loops]

    async def close(self, grace: float) -> None:
        """Begin nothing more, wait so many seconds for handlers, write how far they came."""
        for part in self._parts.values():
            part.leaving = True
        self._loops[0].cancel()
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            for _ in range(2):  # what waits for a thread ends with the second request
                for task in self._tasks():
                    task.cancel()
                await asyncio.wait(tasks, timeout=_PAUSE)
        with contextlib.suppress(StoreUnavailable):
            await self._write()
        rest = (*self._loops, *self._naps)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def news(self) -> None:
        """There may be new events in the topic."""
        self._news = True
        self._read.set()

    async def assign(self, found: Assignment) -> None:
        """Take up the partitions that are new, and let go of those that are not ours or too many.

        Raises StoreUnavailable.
        """
        self._tail = max(self._tail, found.tail)
        self._generation, self._replayed_to = found.generation, found.replayed_to
        ours = {one.part: one for one in found.parts}
        for part in tuple(self._parts.values()):
            if part.number not in ours or ours[part.number].epoch != part.epoch:
                self._abandon(part)
        self._fading = {number: part for number, part in self._fading.items() if part.tasks}
        fresh = [
            Part(one, found.tail)
            for one in found.parts
            if one.part not in self._parts and one.part not in self._fading
        ]
        if fresh:
            await self._take_up(fresh)
        if found.told:
            await self._hear(found.told)
        staying = [part for part in self._parts.values() if not part.leaving]
        for part in staying[found.quota :]:
            part.leaving = True
            self._dirty.set()
        await self._write(lazily=False)
        self._read.set()

    def abandon(self) -> None:
        """Let go of everything: what was written last is not known, or the lease is lost."""
        for part in tuple(self._parts.values()):
            self._abandon(part)

    def _abandon(self, part: Part) -> None:
        if part.gone:
            return
        part.gone = True
        if self._parts.get(part.number) is part:
            del self._parts[part.number]
        self._loaded -= part.loaded
        self._blocked = {line for line in self._blocked if line.part is not part}
        for task in part.tasks:
            task.cancel()
        if part.tasks:
            self._fading[part.number] = part

    def _tasks(self) -> list[asyncio.Task[None]]:
        every = (*self._parts.values(), *self._fading.values())
        return [task for part in every for task in part.tasks]

    # Partitions that are new here, and what a person has said.

    async def _take_up(self, fresh: Sequence[Part]) -> None:
        hold = self.subscription.after_dead == "hold"
        after = -1 if hold else min(part.cursor for part in fresh)
        rows = await self._events.deliveries(
            self.subscription.topic,
            self.subscription.group,
            [part.number for part in fresh],
            dead_after=after,
        )
        by_number = {part.number: part for part in fresh}
        lines: dict[Line, None] = {}
        for row in rows:
            part = by_number[row.part]
            if row.seq > part.cursor:
                part.ahead[row.seq] = row  # what came before it in its key may come once more, too
            else:
                lines[self._arrived(part, row)] = None
        self._parts |= by_number
        for line in lines:
            self._go_on(line)

    def _arrived(self, part: Part, row: Delivery) -> Line:
        """Put a row of the deliveries where it belongs."""
        line = part.line(row.key)
        if row.state == "dead":
            if self.subscription.after_dead == "hold" and row.key is not None:
                line.dead.add(row.seq)
            return line
        parcel = Parcel.of(row)
        line.dead.discard(row.seq)
        if row.state == "dropped":
            part.finish(parcel)
            self._dirty.set()
            return line
        part.stored.add(row.seq)
        if row.state == "requeued":
            parcel.remember({"at": self._clock.now(), "type": "Requeued", "message": "by a person"})
            part.store(parcel)
            self._dirty.set()
        line.insert(parcel)
        return line

    async def _hear(self, seqs: Sequence[int]) -> None:
        """A person has requeued or dropped dead letters."""
        wanted, numbers = set(seqs), list(self._parts)
        rows = await self._events.deliveries(
            self.subscription.topic, self.subscription.group, numbers
        )
        for row in rows:
            part = self._parts.get(row.part)
            told = row.state in ("requeued", "dropped") and row.seq in wanted
            if part is None or part.over or not told or row.seq in part.stored:
                continue
            if row.seq in part.ahead:
                part.ahead[row.seq] = row
            else:
                self._go_on(self._arrived(part, row))

    # Reading.

    async def _keep_reading(self) -> None:
        while True:
            await self._read.wait()
            self._read.clear()
            if not await self._managed("read", self._read_all()):
                self._news = True
                self._read.set()

    async def _managed(self, what: str, work: Awaitable[None]) -> bool:
        """Whether the work could be done; if not, only after a pause."""
        try:
            await work
        except StoreUnavailable as error:
            log.warning("%s: cannot %s, trying again: %s", self.subscription, what, error)
        except Exception:
            log.exception("%s: cannot %s, in an unknown way", self.subscription, what)
        else:
            return True
        await self._clock.sleep(_PAUSE)
        return False

    async def _read_all(self) -> None:
        while await self._read_some():
            pass

    async def _read_some(self) -> bool:
        """Read one page of the partitions that are furthest behind; whether there may be more."""
        parts = [part for part in self._parts.values() if not part.over]
        if not parts:
            return False
        limit = min(_PAGE, self._room(parts))
        start = min(part.read_to for part in parts)
        if limit <= 0 or (start >= self._tail and not self._news):
            self._full = limit <= 0
            return False
        self._news = False
        behind = {part.number: part for part in parts if part.read_to == start}
        others = [part.read_to for part in parts if part.read_to > start]
        page = await self._events.read(self.subscription.topic, start, list(behind), limit)
        self._tail = max(self._tail, page.tail)
        last = page.events[-1].seq if page.events else start
        to = last if len(page.events) == limit else max(page.tail, last)
        to = min([to, *others])  # so far the others are already
        for event in page.events:
            if event.seq <= to:
                self._admit(behind[event.part], event)
        for part in behind.values():
            part.read_to = max(part.read_to, to)
        self._begin()
        return to < self._tail or self._news

    def _room(self, parts: Sequence[Part]) -> int:
        stored = sum(len(part.stored) for part in parts)
        return min(self._window - self._loaded, _MOST_STORED - stored)

    def _admit(self, part: Part, event: Event) -> None:
        if part.gone:
            return
        row = part.ahead.pop(event.seq, None)
        if row is not None:
            self._go_on(self._arrived(part, row))
            return
        parcel = Parcel(event.seq, event.key, event)
        part.open[event.seq] = parcel
        part.loaded += 1
        self._loaded += 1
        line = part.line(event.key)
        line.waiting.append(parcel)
        if line.blocked:
            self._dirty.set()
        elif not line.busy:
            self._queue(line)

    # Handling.

    def _go_on(self, line: Line) -> None:
        """Look at the head of a line that is not being handled."""
        if line.busy or line.part.gone:
            return
        self._blocked.discard(line)
        line.blocked = False
        if not line.waiting and not line.dead:
            if line.key is not None:
                line.part.lines.pop(line.key, None)
            return
        head = line.waiting[0] if line.waiting else None
        held = line.dead and (head is None or head.seq > min(line.dead))
        wait = 0.0 if head is None else max(head.due, head.not_here) - self._clock.now()
        if held or wait > 0:
            line.blocked = True
            self._blocked.add(line)
            self._dirty.set()  # what stands behind is stored
            if not held:
                nap = asyncio.get_running_loop().create_task(self._wake(line, wait))
                self._naps.add(nap)
                nap.add_done_callback(self._naps.discard)
            return
        self._queue(line)
        self._begin()

    async def _wake(self, line: Line, after: float) -> None:
        await self._clock.sleep(after)
        self._due(line)

    def _due(self, line: Line) -> None:
        if line.blocked and not line.busy:
            self._go_on(line)

    def _queue(self, line: Line) -> None:
        line.busy = True
        self._ready.append(line)

    def _begin(self) -> None:
        """Begin with as many heads of lines as may be handled at once."""
        loop = asyncio.get_running_loop()
        postponed: list[Line] = []
        while self._ready and len(self._running) < self.subscription.concurrency:
            line = self._ready.popleft()
            part = line.part
            if part.over:
                line.busy = False
            elif line.waiting[0].event is None:
                self._missing.append(line)
                self._fetch.set()
            elif self._suspicious(line) and self._suspect is not None:
                postponed.append(line)
            else:
                if self._suspicious(line):
                    self._suspect = line
                self._running.add(line)
                line.began = self._clock.monotonic()
                task = loop.create_task(self._work(line), context=self._context.copy())
                part.tasks.add(task)
                task.add_done_callback(part.tasks.discard)
        self._ready.extend(postponed)

    def _suspicious(self, line: Line) -> bool:
        """Whether the head may be what workers have died of. Of such ones one is handled at a time,
        and it is written down before."""
        part, head = line.part, line.waiting[0]
        among = part.takeovers >= _SUSPICIOUS and head.seq <= part.until
        return among or head.crashes() > 0

    async def _work(self, line: Line) -> None:
        """Handle the head of a line, then look at the next one."""
        part, parcel = line.part, line.waiting[0]
        try:
            if line is self._suspect and not await self._mark(line, parcel):
                return
            failure = await failure_of(self._try(parcel))
            if not part.gone:
                self._tried(line, parcel, failure)
        except StoreUnavailable as error:  # and the partition has been let go of
            log.warning("progress of %s cannot be written: %s", self.subscription, error)
        finally:
            self._running.discard(line)
            self._suspect = None if line is self._suspect else self._suspect
            line.busy = False
            task = asyncio.current_task()
            if task is not None:
                part.tasks.discard(task)
            if part.leaving:
                self._dirty.set()
            if part.gone and not part.tasks:
                self.stolen.set()  # it may be taken up again
            self._go_on(line)
            self._begin()

    async def _try(self, parcel: Parcel) -> None:
        assert parcel.event is not None  # noqa: S101  (it was fetched before)
        key = f"{self.subscription.group}:{self.subscription.topic}:{parcel.seq}"
        if self._generation and parcel.seq <= self._replayed_to:
            key += f"~{self._generation}"
        await self._handle(parcel.event, parcel.attempts + 1, key, parcel.version)

    def _tried(self, line: Line, parcel: Parcel, failure: BaseException | None) -> None:
        part, retry = line.part, self.subscription.retry
        if parcel.crashes():
            parcel.history = parcel.history[: -parcel.crashes()]
        if failure is None:
            part.finish(parcel)
        elif isinstance(failure, StoreUnavailable | KeyMissing):
            # No fault of the event, so it does not count.
            away = isinstance(failure, StoreUnavailable)
            parcel.not_here = self._clock.now() + (_PAUSE if away else _KEY_PATIENCE)
            log.warning("event %d of %s waits: %s", parcel.seq, self.subscription, failure)
            return
        else:
            parcel.attempts += 1
            now = self._clock.now()
            parcel.remember({"at": now, "attempt": parcel.attempts, **describe(failure)})
            if retry.again(parcel.attempts, failure):
                delay = retry.delay(parcel.attempts, random.random())  # noqa: S311
                parcel.due = now + delay
                part.store(parcel)
                self._dirty.set()
                return
            self._bury(line, parcel)
        self._leave(line, parcel)

    def _leave(self, line: Line, parcel: Parcel) -> None:
        """The head is finished, or dead."""
        line.waiting.popleft()
        self._unload(line.part, parcel)
        self._dirty.set()

    def _bury(self, line: Line, parcel: Parcel) -> None:
        last = parcel.history[-1]
        log.error(
            "event %d of %s is a dead letter after %d attempts: %s: %s",
            parcel.seq, self.subscription, parcel.attempts, last["type"], last["message"],
        )  # fmt: skip
        line.part.bury(parcel)
        if self.subscription.after_dead == "hold" and line.key is not None:
            line.dead.add(parcel.seq)

    def _unload(self, part: Part, parcel: Parcel) -> None:
        if parcel.event is not None:
            parcel.event = None
            part.loaded -= 1
            self._loaded -= 1
            if self._full and self._loaded <= self._window // 2:
                self._full = False
                self._read.set()

    async def _mark(self, line: Line, parcel: Parcel) -> bool:
        """Write down that the event is being handled, in case this worker dies of it; False when
        too many have."""
        now = self._clock.now()
        crashes = parcel.crashes()
        if crashes >= _SUSPICIOUS:
            parcel.attempts += 1
            parcel.remember(
                {
                    "at": now,
                    "attempt": parcel.attempts,
                    "type": "PoisonEvent",
                    "message": f"{crashes} workers died while they handled it",
                    "traceback": "",
                }
            )
            self._bury(line, parcel)
            self._leave(line, parcel)
            return False
        parcel.remember(
            {"at": now, "type": WORKER_LOST, "message": "a worker began with it and died"}
        )
        line.part.store(parcel)
        await self._write()
        return not line.part.gone

    # Events of which only a row was here.

    async def _keep_fetching(self) -> None:
        while True:
            await self._fetch.wait()
            self._fetch.clear()
            lines, self._missing = self._missing, []
            await self._managed("read", self._fetch_heads(lines))
            for line in lines:
                line.busy = False
                self._go_on(line)

    async def _fetch_heads(self, lines: Sequence[Line]) -> None:
        wanted = {
            parcel.seq: (line, parcel)
            for line in lines
            if not line.part.gone
            for parcel in islice(line.waiting, _FETCH)
            if parcel.event is None
        }
        found = await self._events.events(self.subscription.topic, list(wanted))
        for event in found:
            line, parcel = wanted.pop(event.seq)
            if not line.part.gone:
                parcel.event = event
                line.part.loaded += 1
                self._loaded += 1
        for line, parcel in wanted.values():
            log.warning("event %d of %s is not kept any more", parcel.seq, self.subscription)
            line.part.finish(parcel)
            line.waiting.remove(parcel)
            self._dirty.set()

    # Writing down how far it is.

    async def _keep_writing(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._managed("write progress", self._write())
            await self._clock.sleep(_PACE)

    async def _write(self, *, lazily: bool = True) -> None:
        """Commit what has been finished. Raises StoreUnavailable, and all is let go of then."""
        async with self._writing:
            self._store_what_waits()
            topic, group = self.subscription.topic, self.subscription.group
            ops = [
                (part, op)
                for part in self._parts.values()
                if (op := part.progress(topic, group, lazily=lazily)) is not None
            ]
            written: list[Any] = await asyncio.gather(
                *(self._writer.submit(op) for _, op in ops), return_exceptions=True
            )
        for (part, op), outcome in zip(ops, written, strict=True):
            if isinstance(outcome, LeaseLost):
                self._abandon(part)
                self.stolen.set()
            elif isinstance(outcome, BaseException):
                self.abandon()
                self.stolen.set()
                raise outcome
            else:
                part.cursor = max(part.cursor, op.cursor)
                if op.release:
                    self._abandon(part)

    def _store_what_waits(self) -> None:
        """Nothing that waits for long, or is handled for long, holds the cursor."""
        for line in self._blocked:
            self._store_line(line, keep=1)
        long_ago = self._clock.monotonic() - _LONG
        for line in self._running:
            if line.began < long_ago and not line.part.gone:
                self._store_line(line, keep=1)

    def _store_line(self, line: Line, *, keep: int) -> None:
        """Store what stands in a line; the payloads of all but the first leave memory."""
        for at in range(len(line.waiting) - 1, -1, -1):
            parcel = line.waiting[at]
            if parcel.stored and parcel.event is None:
                break
            if not parcel.stored:
                line.part.store(parcel)
            if at >= keep:
                self._unload(line.part, parcel)
