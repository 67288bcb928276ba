"""Events in SQLite: see `aura.store.events`, whose verbs these are."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from aura.clock import Clock
from aura.errors import LeaseLost
from aura.store.base import Append, Outcome
from aura.store.events import (
    PARTITIONS,
    Assignment,
    DeadLetter,
    Delivery,
    Emit,
    Event,
    GroupInfo,
    Join,
    LetterPlace,
    NewEvent,
    Page,
    Partition,
    Progress,
    TopicInfo,
    lost_partition,
    partition,
)
from aura.store.queries import queries
from aura.store.sqlite_ops import APPLIERS, change, select

T = TypeVar("T")
_SQL = queries("sqlite")
_FIRST = LetterPlace(math.inf, 0, "", "")
_Applier = Callable[..., list[Outcome]]


class Call(Protocol):
    """Runs work on a connection, in the thread that has it."""

    def __call__(self, work: Callable[[sqlite3.Connection], T]) -> Awaitable[T]: ...


# Operations.


def _emits(db: sqlite3.Connection, ops: Sequence[Emit], now: float) -> list[Outcome]:
    entries = [op.append for op in ops if op.append is not None]
    written = iter(_append(db, entries, now) if entries else ())
    outcomes: list[Outcome] = [None if op.append is None else next(written) for op in ops]
    _add(db, [e for op, out in zip(ops, outcomes, strict=True) if out is None for e in op.events],
         now)  # fmt: skip
    return outcomes


_append: _Applier = dict(APPLIERS)[Append]


def _add(db: sqlite3.Connection, events: Sequence[NewEvent], now: float) -> None:
    known = set(select(db, "known_events", [(event.topic, event.id) for event in events]))
    tails: dict[str, int] = {}
    sizes: dict[str, list[int]] = {}
    rows = []
    for event in events:
        if (event.topic, event.id) in known:
            continue
        known.add((event.topic, event.id))
        if event.topic not in tails:
            found = db.execute(_SQL["topic_tail"], (event.topic,)).fetchone()
            tails[event.topic] = found[0] if found else 0
        tails[event.topic] = seq = tails[event.topic] + 1
        sizes.setdefault(event.topic, []).append(len(event.payload))
        rows.append(
            (event.topic, seq, event.id, event.key, partition(event), event.payload, now)
        )  # fmt: skip
    change(db, "add_events", rows)
    for topic, added in sizes.items():
        values = {"topic": topic, "count": len(added), "bytes": sum(added)}
        db.execute(_SQL["grow_topic"], values)


def _progress(db: sqlite3.Connection, ops: Sequence[Progress], now: float) -> list[Outcome]:
    return [_move(db, op, now) for op in ops]


def _move(db: sqlite3.Connection, op: Progress, now: float) -> LeaseLost | None:
    values = {
        "topic": op.topic,
        "group": op.group,
        "part": op.part,
        "epoch": op.epoch,
        "cursor": op.cursor,
        "release": op.release,
    }
    if not db.execute(_SQL["progress"], values).rowcount:
        return lost_partition(op)
    for one in op.changes:
        if one.state == "gone":
            db.execute(_SQL["delivery_gone"], (op.topic, op.group, one.seq))
            continue
        row = (
            *(op.topic, op.group, one.seq, op.part, one.key, one.state, one.attempts),
            *(one.due_at, one.history, one.version, now),
        )
        db.execute(_SQL["put_delivery"], row)
    return None


def with_events(appliers: Sequence[tuple[type, _Applier]]) -> tuple[tuple[type, _Applier], ...]:
    """How every kind of operation is applied, in order: emitted events come with the entries, so
    before their run is settled."""
    at = [kind for kind, _ in appliers].index(Append) + 1
    return (*appliers[:at], (Emit, _emits), *appliers[at:], (Progress, _progress))


# Verbs.


class SqliteEvents:
    """`write` and `read` give connections; the clock is the database's."""

    def __init__(self, write: Call, read: Call, clock: Clock) -> None:
        self._write = write
        self._read = read
        self._clock = clock

    async def balance(self, worker: str, joins: Sequence[Join]) -> list[Assignment]:
        now = self._clock.now()
        return await self._transact(lambda db: [_assign(db, worker, one, now) for one in joins])

    async def leave(self, worker: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute(_SQL["leave_groups"], (worker,))
            db.execute(_SQL["free_partitions"], (worker,))

        await self._transact(work)

    async def read(self, topic: str, after: int, parts: Sequence[int], limit: int) -> Page:
        def work(db: sqlite3.Connection) -> Page:
            # The tail first: what is committed between the two is read, and not yet counted.
            found = db.execute(_SQL["topic_tail"], (topic,)).fetchone()
            rows = db.execute(_SQL["read_events"], (topic, after, json.dumps(parts), limit))
            events = [Event(*row) for row in rows]
            return Page(found[0] if found else 0, events)

        return await self._read(work)

    async def events(self, topic: str, seqs: Sequence[int]) -> list[Event]:
        return [Event(*row) for row in await self._rows("events", (topic, json.dumps(seqs)))]

    async def deliveries(
        self, topic: str, group: str, parts: Sequence[int], *, dead_after: int | None = None
    ) -> list[Delivery]:
        rows = await self._rows("deliveries", (topic, group, json.dumps(parts), dead_after))
        return [Delivery(*row) for row in rows]

    async def dead_letters(
        self,
        topic: str | None = None,
        group: str | None = None,
        limit: int = 50,
        before: LetterPlace | None = None,
    ) -> list[DeadLetter]:
        return await self._dead((topic, group, None), limit, before or _FIRST)

    async def dead_letter(self, topic: str, group: str, seq: int) -> DeadLetter | None:
        found = await self._dead((topic, group, seq), 1, _FIRST)
        return found[0] if found else None

    async def _dead(
        self, of: tuple[str | None, str | None, int | None], limit: int, before: LetterPlace
    ) -> list[DeadLetter]:
        values = {**dict(zip(("topic", "group", "seq"), of, strict=True)), "limit": limit}
        values |= {f"before_{name}": value for name, value in before._asdict().items()}
        split = len(Delivery._fields)
        return [
            DeadLetter(Delivery(*row[:split]), Event(*row[split:]))
            for row in await self._rows("dead_letters", values)
        ]

    async def requeue(self, topic: str, group: str, seq: int, version: str | None) -> bool:
        return await self._tell("requeue_delivery", topic, group, seq, version)

    async def drop(self, topic: str, group: str, seq: int) -> bool:
        return await self._tell("drop_delivery", topic, group, seq, None)

    async def _tell(
        self, query: str, topic: str, group: str, seq: int, version: str | None
    ) -> bool:
        values = {"topic": topic, "group": group, "seq": seq, "version": version}
        values["now"] = self._clock.now()
        return await self._write(lambda db: db.execute(_SQL[query], values).rowcount == 1)

    async def replay(self, topic: str, group: str, since: float) -> int | None:
        values: dict[str, Any] = {"topic": topic, "group": group}

        def work(db: sqlite3.Connection) -> int | None:
            if not db.execute(_SQL["begin_replay"], values).rowcount:
                return None
            values["start"] = _first_since(db, topic, since)
            db.execute(_SQL["set_back"], values)
            db.execute(_SQL["forget_deliveries"], values)
            count: int = db.execute(_SQL["count_since"], values).fetchone()[0]
            return count

        return await self._transact(work)

    async def forget(self, topic: str, group: str) -> bool:
        values = {"topic": topic, "group": group, "start": 0}

        def work(db: sqlite3.Connection) -> bool:
            for query in ("forget_deliveries", "forget_partitions", "forget_all_members"):
                db.execute(_SQL[query], values)
            return db.execute(_SQL["forget_consumer"], values).rowcount == 1

        return await self._transact(work)

    async def topics(self) -> list[TopicInfo]:
        return [TopicInfo(*row) for row in await self._rows("topics", ())]

    async def groups(self, topic: str | None = None) -> list[GroupInfo]:
        now = self._clock.now()
        found = []
        for row in await self._rows("groups", {"topic": topic, "now": now}):
            name, group, ahead, next_at, waiting, late_at, dead, workers = row
            oldest = min((at for at in (next_at, late_at) if at is not None), default=None)
            age = None if oldest is None else now - oldest
            found.append(GroupInfo(name, group, ahead + waiting, age, waiting, dead, workers))
        return found

    async def sweep(self, age: float, unread: float | None, limit: int) -> int:
        """Delete old events; how many. See `aura.store.base.Sweep`."""
        now = self._clock.now()
        return await self._transact(lambda db: _sweep(db, age, unread, limit, now))

    async def sweepable(self, age: float, unread: float | None) -> int:
        """How many events there are for `sweep`."""
        now = self._clock.now()
        return await self._read(lambda db: _sweepable(db, age, unread, now))

    async def _rows(self, query: str, values: Any) -> list[tuple[Any, ...]]:
        return await self._read(lambda db: db.execute(_SQL[query], values).fetchall())

    async def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def whole(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result

        return await self._write(whole)


def _assign(db: sqlite3.Connection, worker: str, join: Join, now: float) -> Assignment:
    topic, group, latest = join
    values: dict[str, Any] = {"topic": topic, "group": group, "me": worker, "now": now}
    found = db.execute(_SQL["topic_tail"], (topic,)).fetchone()
    tail: int = found[0] if found else 0
    known = db.execute(_SQL["consumer"], (topic, group)).fetchone()
    if known is None:
        known = (0, 0)
        db.execute(_SQL["grow_topic"], {"topic": topic, "count": 0, "bytes": 0})
        db.execute(_SQL["add_consumer"], (topic, group))
        for part in range(PARTITIONS):
            db.execute(_SQL["add_partition"], (topic, group, part, tail if latest else 0))
    db.execute(_SQL["forget_members"], values)
    joined = db.execute(_SQL["join_group"], values).rowcount == 1
    live, ahead = db.execute(_SQL["rank"], values).fetchone()
    quota = PARTITIONS // live + (ahead < PARTITIONS % live)
    db.execute(_SQL["take_partitions"], {**values, "quota": quota})
    parts = [Partition(*row) for row in db.execute(_SQL["my_partitions"], values)]
    told = [row[0] for row in db.execute(_SQL["told"], values)]
    return Assignment(topic, group, parts, quota, tail, known[0], known[1], joined, told)


def _first_since(db: sqlite3.Connection, topic: str, since: float) -> int:
    """The seq of the first event that was emitted at or after a time, or one past the last."""
    low, high = db.execute(_SQL["event_bounds"], (topic,)).fetchone()
    if low is None:
        found = db.execute(_SQL["topic_tail"], (topic,)).fetchone()
        return int(found[0]) + 1 if found else 1
    high += 1
    while low < high:
        middle = (low + high) // 2
        seq, at = db.execute(_SQL["event_from"], (topic, middle)).fetchone()
        if at < since:
            low = seq + 1
        else:
            high = middle
    return int(low)


def _sweep(db: sqlite3.Connection, age: float, unread: float | None, limit: int, now: float) -> int:
    gone = 0
    for topic, *_ in db.execute(_SQL["topics"]).fetchall():
        if gone >= limit:
            break
        old = _old(db, topic, age, unread, limit - gone, now)
        db.execute(_SQL["delete_events"], (topic, json.dumps([seq for seq, _ in old])))
        sizes = {"topic": topic, "count": len(old), "bytes": sum(size for _, size in old)}
        db.execute(_SQL["shrink_topic"], sizes)
        gone += len(old)
    return gone


def _sweepable(db: sqlite3.Connection, age: float, unread: float | None, now: float) -> int:
    names = [row[0] for row in db.execute(_SQL["topics"]).fetchall()]
    return sum(len(_old(db, name, age, unread, -1, now)) for name in names)


def _old(
    db: sqlite3.Connection, topic: str, age: float, unread: float | None, room: int, now: float
) -> list[tuple[int, int]]:
    """(seq, bytes) of the events that may go; `room` of -1 is no limit."""
    old = _first_since(db, topic, now - age)
    cursor = db.execute(_SQL["least_cursor"], (topic,)).fetchone()[0]
    values = {
        "topic": topic,
        "old": old,
        "cursor": old if cursor is None else cursor,
        "unread": 0 if unread is None else _first_since(db, topic, now - unread),
        "room": room,
    }
    return db.execute(_SQL["old_events"], values).fetchall()
