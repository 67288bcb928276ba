"""A user's transaction in SQLite, on the connection that Aura writes with.

There is one write lock for the whole file, so while a session is open nobody else writes: not this
process (its writes wait at the gate of the writing thread), nor another one. It ends by itself when
it has been open for `limit` seconds, so that no lease runs out meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from aura.errors import LeaseLost, StoreUnavailable, TransactionError
from aura.store.base import Append, Op, Outcome
from aura.store.payloads import set_apart
from aura.store.queries import queries
from aura.store.session import (
    Row,
    Written,
    append_of,
    in_doubt,
    own_entry,
    refuse_ending,
    to_the_end,
)
from aura.store.sqlite_payloads import write_apart

T = TypeVar("T")
log = logging.getLogger("aura.store")

_SQL = queries("sqlite")
_MARKS = {
    "set": "SAVEPOINT aura_{}",
    "keep": "RELEASE aura_{}",
    "undo": "ROLLBACK TO aura_{}",
}
# Conditions of the file and not of a statement.
_DISK = frozenset(
    (
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY),
    )
)


class Thread(Protocol):
    """The thread with the writing connection. Whoever holds `gate` has the connection alone, and
    calls with `inside`; the calls of all others wait."""

    gate: asyncio.Lock

    async def call(self, work: Callable[[sqlite3.Connection], T], *, inside: bool = False) -> T: ...

    def interrupt(self) -> None: ...


class Aid(NamedTuple):
    """What a session needs of its store: to write entries with events, to tell others of what was
    committed, to explain errors of the file, and whether large payloads are stored apart."""

    emit: Callable[[sqlite3.Connection, Sequence[Op]], list[Outcome]]
    tell: Callable[[Sequence[Op], Sequence[Outcome]], None]
    explain: Callable[[BaseException, str], BaseException]
    apart: bool


class SqliteSession:
    """See `aura.store.session.Session`. Every isolation level is the strictest one here."""

    exclusive = True

    def __init__(
        self,
        thread: Thread,
        path: str,
        limit: float,
        aid: Aid,
    ) -> None:
        self.place = path if path == ":memory:" else str(Path(path).resolve())
        self._path = path
        self._thread = thread
        self._limit = limit
        self._aid = aid
        self._open = False
        self._busy = False
        self._broken: Exception | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    def is_on(self, database: str) -> bool:
        path = database.removeprefix("sqlite:///")
        if "://" in path or ":memory:" in (path, self._path):
            return path == self._path
        return str(Path(path).resolve()) == self.place

    async def begin(self) -> None:
        await self._thread.gate.acquire()
        self._open = True
        try:
            await self._thread.call(_begin, inside=True)
        except BaseException:
            await self.rollback()
            raise
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(self._limit, self._take_back)

    async def execute(self, sql: str, values: Sequence[Any]) -> int:
        return (await self._run(sql, values))[0]

    async def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        return (await self._run(sql, values))[1]

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        refuse_ending(sql, sqlite=True)
        await self._speak(lambda db: db.executemany(sql, rows))

    async def _run(self, sql: str, values: Sequence[Any]) -> tuple[int, Sequence[Row]]:
        refuse_ending(sql, sqlite=True)
        named = values[0] if len(values) == 1 and isinstance(values[0], Mapping) else values

        def work(db: sqlite3.Connection) -> tuple[int, Sequence[Row]]:
            cursor = db.cursor()
            cursor.row_factory = sqlite3.Row
            rows = cursor.execute(sql, named).fetchall()
            return max(0, cursor.rowcount), rows

        return await self._speak(work)

    async def mark(self, what: Literal["set", "keep", "undo"], number: int) -> None:
        await self._speak(lambda db: db.execute(_MARKS[what].format(number)))

    async def commit(self, entries: Sequence[Written]) -> None:
        if self._broken is not None:
            raise self._broken
        self._silence()
        try:
            failure = await self._thread.call(
                lambda db: _commit(db, entries, self._aid), inside=True
            )
        except BaseException:
            await self.rollback()
            raise
        self._leave()
        if failure is not None:
            raise self._known(failure)
        self._aid.tell(entries, [None] * len(entries))

    async def rollback(self) -> None:
        if self._open:
            self._open = False
            self._silence()
            if self._busy:
                self._thread.interrupt()  # nobody waits for the statement any more
            self._ending = asyncio.get_running_loop().create_task(self._roll_back())
        if self._ending is not None:
            await to_the_end(self._ending)

    async def _speak(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work on the thread; errors of statements are raised as they are."""
        if self._broken is not None:
            raise self._broken
        self._busy = True
        found, error, holds = await self._thread.call(lambda db: _try(db, work), inside=True)
        self._busy = False
        if self._broken is not None:
            raise self._broken from error  # its time was over meanwhile
        if not holds:
            self._broken = TransactionError(
                f"the database has rolled the transaction back: {error or 'by a statement'}",
                hint="OR ROLLBACK ends a whole transaction; let the constraint fail instead",
            )
            raise self._broken from error
        if error is not None:
            raise self._known(error)
        assert found is not None  # noqa: S101  (one of the two is always there)
        return found

    def _known(self, error: BaseException) -> BaseException:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DISK:
            known = self._aid.explain(error, self._path)
            if known is error:
                known = StoreUnavailable(f"SQLite cannot use {self._path}: {error}")
                known.__cause__ = error
            return known
        if "no such table" in str(error):
            known = TransactionError(
                f"{error} in Aura's database ({self.place})",
                hint="A transaction is exact because its tables are in that database: create them "
                "there, or write to another one in a @step with aura.idempotency_key()",
            )
            known.__cause__ = error
            return known
        return error

    def _take_back(self) -> None:
        """The time is over: others have waited long enough."""
        self._broken = TransactionError(
            f"a transaction has held the only write lock of {self.place} for {self._limit:g} s "
            "and was rolled back",
            hint="Nothing else can be written meanwhile: compute and wait before it, in other "
            "steps, and await nothing in it that has Aura write; PostgreSQL has no such limit",
        )
        self._open = False
        self._thread.interrupt()
        self._ending = asyncio.get_running_loop().create_task(self._roll_back())

    async def _roll_back(self) -> None:
        try:
            await self._thread.call(_roll_back, inside=True)
        except StoreUnavailable as error:
            log.warning("a transaction could not be rolled back, the file will do it: %s", error)
        finally:
            self._thread.gate.release()

    def _leave(self) -> None:
        self._open = False
        self._thread.gate.release()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()


# What runs on the writing thread.


def _begin(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _try(
    db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]
) -> tuple[T | None, BaseException | None, bool]:
    """What the work gave, or its error, and whether the transaction is still there."""
    try:
        return work(db), None, db.in_transaction
    except Exception as error:  # noqa: BLE001  (handed to the caller as it is)
        return None, error, db.in_transaction


def _commit(db: sqlite3.Connection, entries: Sequence[Written], aid: Aid) -> BaseException | None:
    """Write the entries and commit; why it was not, when it was not for certain."""

    def write(ops: Sequence[Op]) -> list[Outcome]:
        return [_write(db, one, aid) for one in ops]

    try:
        marked, bodies = set_apart(entries) if aid.apart else (entries, None)
        outcomes = write_apart(db, marked, bodies, write) if bodies else write(entries)
        if any(one is not None for one in outcomes):
            db.execute("ROLLBACK")
            return LeaseLost(f"run {append_of(entries[-1]).entry.run_id} is another worker's now")
        db.execute("COMMIT")
    except sqlite3.Error as error:
        try:
            _roll_back(db)
            own = own_entry(entries)
            return None if own is not None and _is_there(db, own) else error
        except sqlite3.Error as worse:
            return in_doubt(worse)
    return None


_ONE_ROW = "(" + ", ".join("?" * 12) + ")"


def _write(db: sqlite3.Connection, op: Op, aid: Aid) -> Outcome:
    """None when it was written now: the run is this epoch's, and the place was free."""
    if not isinstance(op, Append):
        return aid.emit(db, [op])[0]
    sql = _SQL["append_entries"].replace(":rows", _ONE_ROW)
    if db.execute(sql, (*op.entry, op.epoch)).rowcount == 1:
        return None
    return LeaseLost(f"run {op.entry.run_id} is another worker's now")


def _is_there(db: sqlite3.Connection, op: Append) -> bool:
    values = (op.entry.run_id, op.entry.seq, op.entry.key, op.epoch)
    return db.execute(_SQL["entry_is_ours"], values).fetchone() is not None
