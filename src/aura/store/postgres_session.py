"""A user's transaction in PostgreSQL, on a connection of its own kind: with the server's settings
for the user's statements, and Aura's for the journal entry at the end.

The entry shares the lock of its run's row until the transaction is over, so when the connection
breaks at COMMIT, whoever locks that row alone sees what became of it: nothing is guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import asyncpg

from aura.clock import Clock
from aura.errors import LeaseLost, StoreUnavailable, TransactionConflict, TransactionError
from aura.store.base import Append, Op, Outcome
from aura.store.payloads import set_apart, uses
from aura.store.postgres_link import Connection, Pool, explain, place
from aura.store.postgres_payloads import keep, use
from aura.store.queries import queries
from aura.store.session import (
    ISOLATIONS,
    Isolation,
    Row,
    Written,
    append_of,
    in_doubt,
    own_entry,
    refuse_ending,
)

log = logging.getLogger("aura.store")

_SQL = queries("postgres")
_MARKS = {
    "set": "SAVEPOINT aura_{}",
    "keep": "RELEASE SAVEPOINT aura_{}",
    "undo": "ROLLBACK TO SAVEPOINT aura_{}",
}
_BEGIN: dict[Isolation | None, str] = {
    None: _SQL["begin"].replace(":isolation", ""),
    **{one: _SQL["begin"].replace(":isolation", f"ISOLATION LEVEL {one}") for one in ISOLATIONS},
}
_PATIENCE = 60.0  # seconds for Aura's own statements
_POLITE = 5.0  # seconds to end a transaction in; then the connection is given up
# Seconds before each look at what was committed.
_DOUBTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
_AGAIN = (
    *(asyncpg.SerializationError, asyncpg.DeadlockDetectedError),
    *(asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError),
)
_GONE = (
    *(asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError),
    *(asyncpg.CannotConnectNowError, asyncpg.IdleInTransactionSessionTimeoutError, OSError),
    asyncpg.InternalClientError,  # a connection that broke in the middle of something
)


class Aid(NamedTuple):
    """What a session needs of its store: to write entries with events, to tell this process of what
    was committed, a clock for the pauses between looks, and whether large payloads are stored
    apart."""

    emit: Callable[[Connection, Sequence[Op]], Awaitable[list[Outcome]]]
    tell: Callable[[Sequence[Op], Sequence[Outcome]], None]
    clock: Clock
    apart: bool


class PostgresSession:
    """See `aura.store.session.Session`. `pool` has connections for such transactions, `others`
    those to look into the journal with."""

    exclusive = False

    def __init__(
        self, pool: Pool, others: Pool, url: str, isolation: Isolation | None, aid: Aid
    ) -> None:
        self.place = f"PostgreSQL at {place(url)}"
        self._pool = pool
        self._others = others
        self._url = url
        self._isolation = isolation
        self._aid = aid
        self._loan: contextlib.AbstractAsyncContextManager[Connection] | None = None
        self._connection: Connection | None = None
        self._broken: BaseException | None = None
        self._first: BaseException | None = None

    def is_on(self, database: str) -> bool:
        scheme = database.partition("://")[0]
        return scheme in ("postgresql", "postgres") and place(database) == place(self._url)

    async def begin(self) -> None:
        self._loan = self._pool.take()
        self._connection = await self._loan.__aenter__()
        try:
            with self._telling():
                await self._connection.execute(_BEGIN[self._isolation], timeout=_PATIENCE)
        except BaseException:
            await self.rollback()
            raise

    async def execute(self, sql: str, values: Sequence[Any]) -> int:
        refuse_ending(sql, sqlite=False)
        connection = self._usable()
        with self._telling():
            if values:
                return _count(await connection.execute(sql, *values))
            statement = await connection.prepare(sql)  # never a script, which could hide a COMMIT
            await statement.fetch()
            return _count(statement.get_statusmsg())

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        refuse_ending(sql, sqlite=False)
        connection = self._usable()
        with self._telling():
            await connection.executemany(sql, rows)

    async def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        refuse_ending(sql, sqlite=False)
        connection = self._usable()
        with self._telling():
            return await connection.fetch(sql, *values)

    async def mark(self, what: Literal["set", "keep", "undo"], number: int) -> None:
        connection = self._usable()
        with self._telling():
            await connection.execute(_MARKS[what].format(number))
        if what == "undo":
            self._first = None

    async def commit(self, entries: Sequence[Written]) -> None:
        connection = self._usable()
        try:
            with self._telling():
                written = await self._write(connection, entries)
        except BaseException:
            await self.rollback()
            raise
        if not written:
            await self.rollback()
            last = append_of(entries[-1]).entry
            raise LeaseLost(f"run {last.run_id} belongs to another worker now")
        try:
            with self._telling():
                await connection.execute("COMMIT", timeout=_PATIENCE)
        except StoreUnavailable as error:
            await self._give_back()
            await self._settle_doubt(entries, error)
        except BaseException:
            await self.rollback()  # the server has refused it
            raise
        else:
            await self._give_back()
        self._aid.tell(entries, [None] * len(entries))

    async def _write(self, connection: Connection, entries: Sequence[Written]) -> bool:
        """Whether all entries were written."""
        marked, bodies = set_apart(entries) if self._aid.apart else (entries, {})
        if bodies:
            await keep(connection, bodies)
        rows = [(*one.entry, one.epoch) for one in marked if isinstance(one, Append)]
        found = await connection.fetchrow(_SQL["finish"], rows, timeout=_PATIENCE)
        assert found is not None  # noqa: S101  (always one row)
        rest = [one for one in marked if not isinstance(one, Append)]
        if rest and any(await self._aid.emit(connection, rest)):
            return False
        if bodies:
            await use(connection, uses(marked, [None] * len(marked), bodies))
        return bool(found["landed"] == len(rows))

    async def rollback(self) -> None:
        connection = self._connection
        if connection is not None and not connection.is_closed():
            try:
                async with asyncio.timeout(_POLITE):
                    await connection.execute("ROLLBACK")
            except BaseException as error:
                connection.terminate()
                if not isinstance(error, Exception):
                    await self._give_back()
                    raise
        await self._give_back()

    async def _give_back(self) -> None:
        """Clean the connection of what the user has set in it, and put it back into the pool."""
        loan, connection = self._loan, self._connection
        self._loan = self._connection = None
        if loan is None or connection is None:
            return
        try:
            if not connection.is_closed():
                await connection.reset(timeout=_POLITE)
        except BaseException as error:
            connection.terminate()
            if not isinstance(error, Exception):
                raise
        finally:
            await loan.__aexit__(None, None, None)

    def _usable(self) -> Connection:
        if self._broken is not None:
            raise self._broken
        assert self._connection is not None  # noqa: S101  (the caller has begun it)
        return self._connection

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors inside become what the caller shall see; most are the driver's own."""
        try:
            yield
        except Exception as error:
            known = self._known(error)
            if known is error:
                raise
            raise known from error

    def _known(self, error: BaseException) -> BaseException:
        """What is raised for an error of the driver."""
        connection = self._connection
        lost = connection is None or connection.is_closed()
        if isinstance(error, _AGAIN):
            if isinstance(error, asyncpg.InvalidCachedStatementError) and connection is not None:
                connection.terminate()
            self._broken = TransactionConflict(f"{self.place}: {error}", hint="Try it again")
            return self._broken
        if isinstance(error, _GONE) or (lost and isinstance(error, asyncpg.InterfaceError)):
            if connection is not None:
                connection.terminate()
            self._broken = explain(error, self._url, lost=True) or StoreUnavailable(str(error))
            return self._broken
        if isinstance(error, asyncpg.InFailedSQLTransactionError):
            return TransactionError(
                f"the transaction cannot go on after a failed statement ({self._first or error})",
                hint="Let its error end the step, or put a statement that may fail into "
                "`async with tx.savepoint()`",
            )
        self._first = self._first or error
        foreign = isinstance(error, asyncpg.FeatureNotSupportedError) and "database" in str(error)
        if foreign or isinstance(error, asyncpg.UndefinedTableError):
            return TransactionError(
                f"{error} in Aura's database ({self.place})",
                hint="A transaction is exact because its tables are in that database: create them "
                "there, or write to another one in a @step with aura.idempotency_key()",
            )
        return error

    async def _settle_doubt(self, entries: Sequence[Written], cause: BaseException) -> None:
        """Find out what became of a commit whose answer did not come. Returns when it took place.

        The row of the run is locked alone: that waits until the transaction is over, also when the
        server has not heard yet that nobody is there any more.
        """
        last = own_entry(entries)
        if last is None:
            raise in_doubt(cause)
        for pause in _DOUBTS:
            await self._aid.clock.sleep(pause)
            try:
                async with self._others.take() as connection, connection.transaction():
                    await connection.execute(_SQL["wait_shortly"])
                    epoch = await connection.fetchval(_SQL["lock_run"], last.entry.run_id)
                    key = await connection.fetchval(
                        _SQL["entry_key"], last.entry.run_id, last.entry.seq
                    )
            except StoreUnavailable as error:
                log.warning("a commit was cut off, and what became of it is not known: %s", error)
                continue
            if epoch != last.epoch:
                raise LeaseLost(f"run {last.entry.run_id} belongs to another worker now")
            if key == last.entry.key:
                return
            raise TransactionConflict(f"the connection broke before the commit: {cause}")
        raise in_doubt(cause)


def _count(status: str | None) -> int:
    """How many rows a statement changed, as its status says: `UPDATE 3`, `INSERT 0 1`."""
    last = (status or "").rpartition(" ")[2]
    return int(last) if last.isdigit() else 0
