"""Transactions: what a transactional step is handed, and how its function is wrapped.

The step's own statements and its journal entry are committed together by Aura's own store (see
`aura.engine.transacted` for the protocol). The connection is the step's for as long as its function
runs, in its own task: whatever comes later, or from elsewhere, gets a TransactionError.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aura.engine.lanes import Lane, scope
from aura.engine.pen import Pen
from aura.errors import RegistrationError, TransactionError
from aura.store.events import Emit
from aura.store.session import Row, Session, to_the_end

if TYPE_CHECKING:
    from aura.engine.events import Handling

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Transaction:
    """A connection to Aura's own database, in one transaction. What `aura.emit` is given meanwhile
    is committed with it.

    Statements have the database's placeholders: `$1, $2` on PostgreSQL, `?` or `:name` (with one
    dict) on SQLite. It begins with the first statement. What is wrong with a statement is raised as
    the driver's own error (asyncpg, sqlite3). Every verb raises TransactionError after the end and
    from another task, StoreUnavailable and TransactionConflict; a step is then tried again.
    """

    def __init__(self, session: Session, names: Handling, pen: Pen | None = None) -> None:
        self._session = session
        self._names = names
        self._pen = pen
        self._task = asyncio.current_task()
        self._marks = 0
        self._over = False
        self.began = False
        self.has_pen = False

    @property
    def of_run(self) -> bool:
        """Whether it is a step's, and fenced with its run."""
        return self._pen is not None

    async def execute(self, sql: str, *values: Any) -> int:
        """Run one statement; how many rows it changed."""
        return await (await self._ready()).execute(sql, values)

    async def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        await (await self._ready()).execute_many(sql, rows)

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        """Run one statement; its rows: `row["name"]`, `row[0]`, `dict(row)`."""
        return list(await (await self._ready()).fetch(sql, values))

    async def fetchrow(self, sql: str, *values: Any) -> Row | None:
        """Run one statement; its first row, or None."""
        rows = await (await self._ready()).fetch(sql, values)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *values: Any) -> Any:
        """Run one statement; the first value of its first row, or None."""
        row = await self.fetchrow(sql, *values)
        return None if row is None else row[0]

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What is done and emitted inside is undone when it raises, and the transaction goes on."""
        session = await self._ready()
        emitted = len(self._names.outbox)
        self._marks += 1
        number = self._marks
        await session.mark("set", number)
        try:
            yield
        except Exception:
            await session.mark("undo", number)
            del self._names.outbox[emitted:]
            raise
        await (await self._ready()).mark("keep", number)

    async def _ready(self) -> Session:
        """The session, begun. Raises TransactionError when this is not the time or the place."""
        if self._over:
            raise TransactionError(
                "a transaction was used after its end",
                hint="It is over when its function returns: keep its results and not `tx`",
            )
        if asyncio.current_task() is not self._task:
            raise TransactionError(
                "a transaction was used from another task than its own",
                hint="A connection does one thing at a time: await its calls one after the other, "
                "without gather, create_task and wait_for (asyncio.timeout does not need one)",
            )
        if not self.began:
            await self.begin()
        return self._session

    def handling(self) -> Handling:
        """Where `aura.emit` leaves what is committed with it. Raises TransactionError."""
        if self._over:
            raise TransactionError(
                "aura.emit() was called after the end of the transaction that it belongs to",
                hint="Emit before it ends; a task that outlives it has to be begun outside of it",
            )
        return self._names

    async def begin(self) -> None:
        """Begin it, if no statement has. What the run writes waits where nobody else may write."""
        if self._pen is not None and self._session.exclusive:
            await self.take_pen()
        if not self.began:
            await self._session.begin()
            self.began = True

    async def take_pen(self) -> None:
        """Have the run write nothing else; all that it wrote before is durable then."""
        if self._pen is not None and not self.has_pen:
            await self._pen.take()
            self.has_pen = True

    def end(self) -> None:
        """Let nobody use it any more."""
        self._over = True

    async def abandon(self) -> None:
        """Roll back, whoever cancels this meanwhile, and let the run write again."""
        self._over = True
        try:
            await to_the_end(asyncio.ensure_future(self._session.rollback()))
        finally:
            if self._pen is not None and self.has_pen:
                self.has_pen = False
                self._pen.let_go()


current: ContextVar[Transaction | None] = ContextVar("aura_transaction", default=None)


class Open:
    """`async with app.transaction() as tx`: commits at its end, rolls back when it raises, or when
    it is `held` back because code of a shadow run has opened it."""

    def __init__(self, session: Session, names: Handling, held: Callable[[], bool]) -> None:
        self._session = session
        self._names = names
        self._held = held

    async def __aenter__(self) -> Transaction:
        if type(scope.get()) is Lane:
            raise TransactionError(
                "app.transaction() was called in a workflow, where a replay would run it again",
                hint="Write a @step.transaction, and await it",
            )
        if current.get() is not None:
            raise TransactionError(
                "app.transaction() was called in a transaction",
                hint="Use the connection that is open, and `async with tx.savepoint()`",
            )
        self._shadow = self._held()
        self._transaction = Transaction(self._session, self._names)
        self._outer = current.set(self._transaction)
        return self._transaction

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        current.reset(self._outer)
        self._transaction.end()
        events = tuple(self._names.outbox)
        if error is not None or self._shadow or not (self._transaction.began or events):
            await self._transaction.abandon()
            return
        await self._transaction.begin()
        commit = self._session.commit([Emit(events)] if events else [])
        await to_the_end(asyncio.ensure_future(commit))


def without_connection(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The function as its callers see it: without its first parameter, which gets the transaction
    that is open where it is called. Raises RegistrationError."""
    name = getattr(function, "__name__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise RegistrationError(
            f"the transactional step {name} is not an async function",
            hint="Write `async def`, and await the calls of its connection",
        )
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in _BY_POSITION:
        raise RegistrationError(
            f"the transactional step {name} takes no connection",
            hint=f"Write `async def {name}(tx, ...)`",
        )

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        transaction = current.get()
        if transaction is None:
            raise TransactionError(
                f"the transactional step {name} was called where there is no transaction",
                hint="Call it in a workflow. Elsewhere, as in a test: `async with "
                f"app.transaction(): await {name}(...)`, or `{name}.body(connection, ...)`",
            )
        return await function(transaction, *args, **kwargs)

    hints = {key: one for key, one in function.__annotations__.items() if key != parameters[0].name}
    wrapped: Any = call
    wrapped.__signature__ = signature.replace(parameters=parameters[1:])
    wrapped.__annotations__ = hints
    return call
