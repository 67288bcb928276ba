"""What a consumer has of one partition: lines of events, one for each key. No I/O.

    read ──▶ open ──▶ finished                       the cursor follows
              │
              └────▶ stored ──▶ finished             the cursor passes by: `deliveries` has a row
                       │
                       └──────▶ dead                 a row that waits for a person

Events of one key stand in a line, oldest first, and only the head of a line is handled. A line
whose head waits for its next try is *blocked*, and one that has lost an event to the dead letters
under the policy "hold" is too; what joins a blocked line is stored, so that neither the cursor nor
the memory for payloads is held up by it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aura.codec import plain, to_json
from aura.store.events import Change, Delivery, Event, Partition, Progress

_HISTORY = 20
"""Tries that are kept of one event, the last ones."""

WORKER_LOST = "WorkerLost"


class Parcel:
    """An event on its way through the consumer. `event` is None while only its row is here. It is
    not tried before `due`, which is kept, nor before `not_here`, which is this process's affair."""

    __slots__ = (
        *("attempts", "due", "event", "history", "key", "not_here", "seq", "stored", "version"),
    )

    def __init__(self, seq: int, key: str | None, event: Event | None) -> None:
        self.seq = seq
        self.key = key
        self.event = event
        self.attempts = 0
        self.due = self.not_here = 0.0
        self.history: list[dict[str, Any]] = []
        self.version: str | None = None
        self.stored = False

    @classmethod
    def of(cls, row: Delivery) -> Parcel:
        made = cls(row.seq, row.key, None)
        made.stored = True
        made.version = row.version
        made.history = plain(row.history) or []
        if row.state == "waiting":
            made.attempts, made.due = row.attempts, row.due_at or 0.0
        return made

    def remember(self, line: dict[str, Any]) -> None:
        self.history = [*self.history, line][-_HISTORY:]

    def crashes(self) -> int:
        """How often in a row a worker has died over it."""
        count = 0
        for line in reversed(self.history):
            if line["type"] != WORKER_LOST:
                break
            count += 1
        return count


class Line:
    """The events of one key. `busy`: the head is being handled, or is about to be."""

    __slots__ = ("began", "blocked", "busy", "dead", "key", "part", "waiting")

    def __init__(self, part: Part, key: str | None) -> None:
        self.part = part
        self.key = key
        self.waiting: deque[Parcel] = deque()
        self.busy = False
        self.blocked = False
        self.began = 0.0
        self.dead: set[int] = set()

    def insert(self, parcel: Parcel) -> None:
        """Put a parcel where its number belongs, but not before one that is being handled."""
        at = 1 if self.busy and self.waiting else 0
        while at < len(self.waiting) and self.waiting[at].seq < parcel.seq:
            at += 1
        self.waiting.insert(at, parcel)


class Part:
    """One partition under one epoch. `read_to` is the seq up to which its events have been read;
    `until`: what was there when it was taken over."""

    def __init__(self, found: Partition, tail: int) -> None:
        self.number = found.part
        self.epoch = found.epoch
        self.cursor = self.read_to = found.cursor
        self.takeovers = found.takeovers
        self.until = tail
        self.open: dict[int, Parcel] = {}  # in order of seq
        self.stored: set[int] = set()
        self.ahead: dict[int, Delivery] = {}  # rows of events that will be read once more
        self.loaded = 0  # events whose payloads are in memory
        self.lines: dict[str, Line] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.leaving = False
        self.gone = False
        self.touched = False
        self._changes: dict[int, Change] = {}

    @property
    def over(self) -> bool:
        """Whether nothing more is begun here."""
        return self.gone or self.leaving

    def line(self, key: str | None) -> Line:
        """The line of a key; an event without one stands alone."""
        if key is None:
            return Line(self, None)
        found = self.lines.get(key)
        if found is None:
            found = self.lines[key] = Line(self, key)
        return found

    @property
    def handled_to(self) -> int:
        """Up to where every event is finished or stored."""
        return next(iter(self.open)) - 1 if self.open else self.read_to

    def store(self, parcel: Parcel) -> None:
        """Let the cursor pass by a parcel that is not finished."""
        self.open.pop(parcel.seq, None)
        parcel.stored = True
        self.stored.add(parcel.seq)
        self.touched = True
        history = to_json(parcel.history) if parcel.history else None
        self._changes[parcel.seq] = Change(
            parcel.seq, parcel.key, "waiting", parcel.attempts, parcel.due or None, history,
            parcel.version,
        )  # fmt: skip

    def finish(self, parcel: Parcel) -> None:
        self.touched = True
        self.open.pop(parcel.seq, None)
        if parcel.stored:
            self.stored.discard(parcel.seq)
            self._changes[parcel.seq] = Change(parcel.seq, parcel.key, "gone")

    def bury(self, parcel: Parcel) -> None:
        """Make a parcel a dead letter."""
        self.store(parcel)
        self.stored.discard(parcel.seq)
        self._changes[parcel.seq] = self._changes[parcel.seq]._replace(state="dead", due_at=None)

    def progress(self, topic: str, group: str, *, lazily: bool) -> Progress | None:
        """What is to be written; `lazily`: only if something was finished here."""
        release = self.leaving and not self.tasks
        moved = self.handled_to > self.cursor and (self.touched or not lazily)
        if not (self._changes or moved or release):
            return None
        changes, self._changes = tuple(self._changes.values()), {}
        self.touched = False
        return Progress(
            topic, group, self.number, self.epoch, self.handled_to, changes, release
        )  # fmt: skip
