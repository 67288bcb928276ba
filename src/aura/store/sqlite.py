"""The journal in one SQLite file (write-ahead log, synchronous=FULL).

One thread has the writing connection and one the reading connection, so that the event loop does
not wait for the disk. Small batches are the exception: where the disk commits in well under a
millisecond, handing the work to a thread and back costs as much as the commit, so they are written
at once, for as long as the disk stays that fast. While there are critical signals that goes for
larger batches too: beside a busy event loop the thread waits for the interpreter more than it
works, and a critical signal waits for the thread. How operations are written is in `sqlite_ops`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from aura.clock import Clock, SystemClock
from aura.store.base import (
    Claim,
    Claimed,
    ClaimResult,
    Document,
    Entry,
    FeedItem,
    Listener,
    Op,
    Outcome,
    RunFilter,
    RunRecord,
    SendSignal,
    Signal,
    StoreInfo,
    Sweep,
    Swept,
    Worker,
    topics,
)
from aura.store.events_sqlite import SqliteEvents, with_events
from aura.store.outline import Glance
from aura.store.payloads import READY, set_apart
from aura.store.portable import Admission, Change, Fence, Line, Page, Row
from aura.store.queries import SHOWN, migrations, outstanding, queries
from aura.store.queues import CountBy, QueueLimits, QueueRecord
from aura.store.search import Pulse, RunChange, gathered
from aura.store.session import Isolation, Session
from aura.store.sqlite_ends import after_the_end
from aura.store.sqlite_lists import count_runs, is_behind, runs, tally
from aura.store.sqlite_ops import APPLIERS, COLUMNS, record, select, take_runs
from aura.store.sqlite_payloads import write_apart
from aura.store.sqlite_queues import (
    all_queues,
    any_in_queues,
    depths,
    put_queue,
    take,
    take_from_queues,
)
from aura.store.sqlite_rows import add_rows, adopt, fence, layout, replace_rows, rows
from aura.store.sqlite_session import Aid, SqliteSession
from aura.store.sqlite_sweep import sweep, sweepable
from aura.store.sqlite_thread import ConnectionThread, explain
from aura.store.wake import WakeSocket

T = TypeVar("T")
_Done = tuple[list[Outcome], list[str]]  # the outcomes of a batch, and the topics that follow

_SQL = queries("sqlite")
_APPLIERS = with_events(APPLIERS)
_SMALL_BATCH = 8  # operations that may be written on the event loop ...
_FAST_COMMIT = 0.002  # ... while such a commit takes no more seconds than this on average
_SLOW_COMMIT = 0.02  # one that takes longer ends it for a while
_SLOW_PAUSE = 1.0  # seconds
_BRISK = 1.0  # seconds after a critical signal in which also ...
_BRISK_BATCH = 32  # ... so many may be written on the event loop, ...
_BRISK_COMMIT = 0.006  # ... while a commit takes no more seconds than this on average
_STEP_ASIDE = 0.003  # seconds that the event loop waits for a batch, to commit a critical signal


class SqliteStore:
    """See `aura.store.base.Store`. `path` may be ":memory:"; the clock is the database's."""

    def __init__(self, path: str, *, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._listeners: list[Listener] = []
        self._odd = False
        self._apart = False  # whether large payloads are stored apart
        self._layout: Mapping[str, Sequence[str]] = {}
        self._in_memory = path == ":memory:"
        self._wake = WakeSocket(Path(path), self._hear)
        self._commit_time = _FAST_COMMIT / 2
        self._at_once_from = 0.0
        self._brisk_until = 0.0
        self._writer = ConnectionThread(path, "aura-sqlite-writer", self._clock)
        self._reader = (
            self._writer
            if self._in_memory
            else ConnectionThread(path, "aura-sqlite-reader", self._clock)
        )

    @cached_property
    def events(self) -> SqliteEvents:
        """The verbs of events."""
        return SqliteEvents(self._writer.call, self._reader.call, self._clock)

    async def open(self) -> None:
        await self._writer.call(self._prepare)
        if not self._in_memory:
            self._wake.open()

    async def close(self) -> None:
        self._wake.close()
        for thread in {self._writer, self._reader}:
            await thread.stop()

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        done = self._commit_at_once(ops)
        if done is None:
            done = await self._writer.call(lambda db: self._commit(db, ops))
        self._tell(ops, *done)
        return done[0]

    def _tell(self, ops: Sequence[Op], outcomes: Sequence[Outcome], after: Sequence[str]) -> None:
        here, elsewhere = topics(ops, outcomes)
        for topic in dict.fromkeys((*here, *after)):
            self._hear(topic)
        if elsewhere or after:
            self._wake.tell(dict.fromkeys((*elsewhere, *after)))

    def _commit_at_once(self, ops: Sequence[Op]) -> _Done | None:
        """Commit on this thread, or None when that could hold up the event loop for long."""
        started = self._clock.monotonic()
        critical = _is_critical(ops)
        if critical:
            self._brisk_until = started + _BRISK
        brisk = started < self._brisk_until
        if len(ops) > (_BRISK_BATCH if brisk else _SMALL_BATCH) or started < self._at_once_from:
            return None
        if critical:
            if not self._writer.catch_up(_STEP_ASIDE):
                return None
            started = self._clock.monotonic()
        done = self._writer.try_now(lambda db: self._commit(db, ops))
        took = self._clock.monotonic() - started
        self._commit_time += 0.05 * (took - self._commit_time)
        slow = self._commit_time > (_BRISK_COMMIT if brisk else _FAST_COMMIT)
        if slow or (took > _SLOW_COMMIT and not brisk):
            self._at_once_from = self._clock.monotonic() + _SLOW_PAUSE
            self._commit_time = _FAST_COMMIT / 2
        return done

    async def claim(self, claim: Claim) -> ClaimResult:
        return await self._writer.call(lambda db: self._claim(db, claim))

    async def run(self, run_id: str) -> RunRecord | None:
        rows = await self._read("run", (run_id,))
        return record(rows[0]) if rows else None

    async def runs(self, where: RunFilter) -> list[RunRecord]:
        return await self._reader.call(lambda db: runs(db, where))

    async def changed_runs(self, after: float, limit: int) -> list[RunChange]:
        values = {"after": after, "limit": limit}
        return [RunChange(*row) for row in await self._read("changed_runs", values)]

    async def pulses(self, ids: Sequence[str]) -> list[Pulse]:
        return [Pulse(*row) for row in await self._read("pulses", (json.dumps(list(ids)),))]

    async def attributes(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return gathered(await self._read("attributes", (json.dumps(list(ids)),)))

    async def runs_by_id(self, ids: Sequence[str]) -> list[RunRecord]:
        return [record(row) for row in await self._read("runs_by_id", (json.dumps(list(ids)),))]

    async def journal(self, run_id: str) -> list[Entry]:
        return [Entry(*row) for row in await self._read("journal", {"run": run_id})]

    async def entries(self, run_id: str, kind: str, after: int = 0) -> list[Entry]:
        query = "shown_entries" if kind in SHOWN else "entries"
        return [Entry(*row) for row in await self._read(query, (run_id, kind, after))]

    async def entries_of(self, run_id: str, keys: Sequence[str]) -> list[Entry]:
        wanted = {"run": run_id, "keys": json.dumps(list(keys))}
        return [Entry(*row) for row in await self._read("entries_of", wanted)]

    async def outline(self, run_id: str, after: int, limit: int) -> list[Glance]:
        wanted = {"run": run_id, "after": after, "limit": limit}
        rows = await self._read("outline", wanted)
        return [Glance(*row)._replace(failed=bool(row[7])) for row in rows]

    async def signals(self, wanted: Sequence[tuple[str, int]]) -> list[Signal]:
        if not wanted:
            return []
        return await self._reader.call(lambda db: _signals(db, wanted))

    async def document(self, kind: str, name: str) -> Document | None:
        rows = await self._read("document", (kind, name))
        return Document(*rows[0]) if rows else None

    async def documents(self, kind: str) -> list[Document]:
        return [Document(*row) for row in await self._read("documents", (kind,))]

    async def feed(self, name: str, after: int = 0, limit: int = 1000) -> list[FeedItem]:
        return [FeedItem(*row) for row in await self._read("feed", (name, after, limit))]

    async def workers(self) -> list[Worker]:
        return [Worker(*row) for row in await self._read("workers", ())]

    async def requeue(self, run_id: str, version: str | None = None) -> bool:
        sql, values = _SQL["requeue"], (version, run_id)
        return await self._writer.call(lambda db: db.execute(sql, values).rowcount == 1)

    async def sweep(self, what: Sweep) -> Swept:
        swept = await self._writer.call(lambda db: sweep(db, what, self._clock.now()))
        room = what.limit - sum(swept)
        return swept._replace(events=await self.events.sweep(what.age, what.unread, room))

    async def sweepable(self, what: Sweep) -> Swept:
        found = await self._reader.call(lambda db: sweepable(db, what, self._clock.now()))
        return found._replace(events=await self.events.sweepable(what.age, what.unread))

    @property
    def key_ids(self) -> tuple[str, ...]:
        return ()

    async def put_queue(self, name: str, limits: QueueLimits, *, replace: bool) -> QueueRecord:
        return await self._writer.call(
            lambda db: put_queue(db, name, limits, replace, self._clock.now())
        )

    async def queues(self) -> list[QueueRecord]:
        return await self._reader.call(all_queues)

    async def count_runs(
        self, by: Sequence[CountBy], queue: str | None = None
    ) -> dict[tuple[str | None, ...], int]:
        if await self._reader.call(lambda db: is_behind(db, self._clock.now())):
            while await self._writer.call(lambda db: tally(db, self._clock.now())):
                pass
        return await self._reader.call(lambda db: count_runs(db, by, queue))

    async def depths(self) -> dict[tuple[str | None, str], int]:
        return await self._reader.call(depths)

    async def layout(self) -> Mapping[str, Sequence[str]]:
        return await self._reader.call(layout)

    async def rows(self, page: Page) -> list[Row]:
        self._layout = self._layout or await self.layout()
        columns = self._layout[page.table]
        return await self._reader.call(lambda db: rows(db, page, columns))

    async def fence(self, what: Fence) -> list[str]:
        return await self._writer.call(lambda db: fence(db, what, self._clock.now()))

    async def adopt(self, run: Row, rest: Iterable[Line], *, take_back: bool = False) -> Admission:
        apart = self._apart
        return await self._writer.call(lambda db: adopt(db, run, rest, take_back, apart))

    async def add_rows(self, table: str, rows: Sequence[Row]) -> int:
        return await self._writer.call(lambda db: add_rows(db, table, rows))

    async def replace_rows(self, table: str, changes: Sequence[Change]) -> int:
        apart = self._apart
        return await self._writer.call(lambda db: replace_rows(db, table, changes, apart))

    async def moment(self) -> float:
        return self._clock.now()

    async def info(self) -> StoreInfo:
        return await self._writer.call(self._info)

    def session(self, isolation: Isolation | None, limit: float) -> Session:  # noqa: ARG002
        def emit(db: sqlite3.Connection, ops: Sequence[Op]) -> list[Outcome]:
            return self._apply(db, ops, self._clock.now())

        tell = partial(self._tell, after=())
        aid = Aid(emit, tell, explain, self._apart)
        return SqliteSession(self._writer, self.path, limit, aid)

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _hear(self, topic: str) -> None:
        for listener in tuple(self._listeners):
            listener(topic)

    async def _read(self, name: str, values: Any) -> list[tuple[Any, ...]]:
        sql = _SQL[name].replace(":columns", COLUMNS)
        return await self._reader.call(lambda db: db.execute(sql, values).fetchall())

    # What runs on the writing thread.

    def _prepare(self, db: sqlite3.Connection) -> None:
        now = self._clock.now()
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(_SQL["create_migrations"])
            applied = dict(db.execute(_SQL["applied_migrations"]).fetchall())
            oldest = None
            if db.execute(_SQL["has_workers"]).fetchone()[0]:
                oldest = db.execute(_SQL["oldest_worker"], (now,)).fetchone()[0]
            for one in outstanding(migrations("sqlite"), applied, oldest):
                for statement in _statements(one.sql):
                    db.execute(statement)
                db.execute(_SQL["record_migration"], (one.id, one.checksum, now))
                applied[one.id] = one.checksum
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        self._apart = READY in applied

    def _commit(self, db: sqlite3.Connection, ops: Sequence[Op]) -> _Done:
        if not ops:
            return [], []
        now = self._clock.now()
        db.execute("BEGIN IMMEDIATE")
        try:
            outcomes = take_runs(db, ops, self._apply(db, ops, now))
            after = after_the_end(db, ops, select, now)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return outcomes, after

    def _apply(self, db: sqlite3.Connection, ops: Sequence[Op], now: float) -> list[Outcome]:
        marked, bodies = set_apart(ops) if self._apart else (ops, None)
        if not bodies:
            return _write(db, ops, now)
        return write_apart(db, marked, bodies, lambda ops: _write(db, ops, now))

    def _claim(self, db: sqlite3.Connection, claim: Claim) -> ClaimResult:
        if not claim.versions or claim.limit <= 0:
            return ClaimResult()
        marks = ", ".join(f"(:workflow{at}, :version{at})" for at in range(len(claim.versions)))
        values: dict[str, Any] = {
            "worker": claim.worker,
            "limit": claim.limit,
            "only": claim.only,
            "now": self._clock.now(),
        }
        for at, (workflow, version) in enumerate(claim.versions):
            values |= {f"workflow{at}": workflow, f"version{at}": version}
        sql = _SQL["claim_heads"].replace(":versions", marks)
        next_wake = _SQL["next_wake"].replace(":versions", marks)
        db.execute("BEGIN IMMEDIATE")
        try:
            rows, look = self._claim_rows(db, claim, sql, values)
            over = {row[0] for row in rows if row[-1]}
            runs = sorted((record(row[:-1]) for row in rows), key=lambda run: run.created_at)
            signals = _signals_of(db, runs)
            claimed = [
                Claimed(
                    run, self._journal_of(db, run.id), signals.get(run.id, ()), run.id in over
                )
                for run in runs
            ]  # fmt: skip
            wake_at = db.execute(next_wake, values).fetchone()[0]
            cancels = tuple(row[0] for row in db.execute(_SQL["cancels"], (claim.worker,)))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        wake = None if wake_at is None else max(0.0, wake_at - self._clock.now())
        looks = [one for one in (wake, look) if one is not None]
        return ClaimResult(claimed, min(looks, default=None), cancels, self._clock.now())

    def _claim_rows(
        self, db: sqlite3.Connection, claim: Claim, sql: str, values: dict[str, Any]
    ) -> tuple[list[tuple[Any, ...]], float | None]:
        """Rows from queues and from the default one: each gets half of the room if both want it;
        and in how many seconds a queue may have more."""
        rows: list[tuple[Any, ...]] = []
        look: float | None = None
        room, now = claim.limit, values["now"]
        queued = any_in_queues(db, claim, now)
        self._odd = not self._odd
        if queued:
            rows, look = take_from_queues(db, claim, (room + self._odd) // 2, now, COLUMNS)
        half = len(rows)
        heads = db.execute(sql, values | {"limit": room - half}).fetchall()
        if heads:
            rows += take(db, heads, claim.worker, now, COLUMNS)
        if queued and half == (room + self._odd) // 2 and len(rows) < room:
            more, look = take_from_queues(db, claim, room - len(rows), now, COLUMNS)
            rows += more
        return rows, look

    def _journal_of(self, db: sqlite3.Connection, run_id: str) -> list[Entry]:
        return [Entry(*row) for row in db.execute(_SQL["journal"], {"run": run_id})]

    def _info(self, db: sqlite3.Connection) -> StoreInfo:
        pragmas = ("journal_mode", "synchronous", "page_size", "wal_autocheckpoint")
        settings = {name: str(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in pragmas}
        schema = max(one.number for one in migrations("sqlite"))
        where = self.path if self._in_memory else str(Path(self.path).resolve())
        return StoreInfo("sqlite", where, schema, sqlite3.sqlite_version, settings, 0.0)


def _write(db: sqlite3.Connection, ops: Sequence[Op], now: float) -> list[Outcome]:
    outcomes: list[Outcome] = [None] * len(ops)
    places: dict[type, list[int]] = {}
    for at, op in enumerate(ops):
        places.setdefault(type(op), []).append(at)
    for kind, apply in _APPLIERS:
        if kind in places:
            found = apply(db, [ops[at] for at in places[kind]], now)
            for at, outcome in zip(places[kind], found, strict=True):
                outcomes[at] = outcome
    return outcomes


def _is_critical(ops: Sequence[Op]) -> bool:
    first = ops[0] if ops else None
    return type(first) is SendSignal and first.priority == "critical"


def _statements(script: str) -> list[str]:
    """The single statements of a script, so that they can run inside one transaction."""
    found, text = [], ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found


def _signals(db: sqlite3.Connection, wanted: Sequence[tuple[str, int]]) -> list[Signal]:
    rows = map(Signal._make, select(db, "signals", wanted))
    return sorted((row._replace(late=bool(row.late)) for row in rows), key=_run_and_seq)


def _run_and_seq(signal: Signal) -> tuple[str, int]:
    return signal.run_id, signal.seq


def _signals_of(db: sqlite3.Connection, runs: Sequence[RunRecord]) -> dict[str, list[Signal]]:
    """The signals of those runs that have some, by run."""
    found = _signals(db, [(run.id, 0) for run in runs if run.signals])
    return {key: list(of) for key, of in groupby(found, lambda signal: signal.run_id)}
