"""Connections to PostgreSQL: opening, pooling and listening, and errors that say what to do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from aura.clock import Clock
from aura.errors import ConfigError, StoreError, StoreUnavailable
from aura.store.queries import queries

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_SQL = queries("postgres")
_OLDEST_SERVER = 14
_CONNECT_TIMEOUT = 10.0  # seconds
_COMMAND_TIMEOUT = 60.0
_CHECK_EVERY = 30.0  # a listening connection says nothing when its network is gone
_BACKOFF = (0.1, 10.0)  # first and longest pause between attempts to listen again

_OF_THE_DRIVER = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_PASSWORD_IN_QUERY = re.compile(r"([?&]password=)[^&]*")


def masked(url: str) -> str:
    """The URL as it may be shown: without its password."""
    head, _, tail = _PASSWORD_IN_QUERY.sub(r"\1***", url).rpartition("@")
    if not head:
        return tail
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.partition(':')[0]}{':***' if ':' in user else ''}@{tail}"


def place(url: str) -> str:
    """Host, port and database of a URL, for messages."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2] or options.get("host", ["localhost"])[0]
    database = unquote(parts.path.lstrip("/")) or options.get("database", ["(default)"])[0]
    return f"{host}, database {database}"


# Errors: the first class that fits says what is wrong and what to do.
_UNDER_WAY = "Nothing that was acknowledged is lost; try again"
_ADVICE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str], ...] = (
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "refused the login",
        "Check the user and password in AURA_DATABASE_URL and the server's pg_hba.conf",
    ),
    (
        asyncpg.InvalidCatalogNameError,
        "has no such database",
        "Create it with `createdb NAME`, or correct AURA_DATABASE_URL",
    ),
    (
        asyncpg.TooManyConnectionsError,
        "has no free connection",
        "Raise max_connections, or run fewer processes or a smaller pool",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "is read-only",
        "Connect to the primary: add target_session_attrs=read-write to AURA_DATABASE_URL",
    ),
    (
        asyncpg.DiskFullError,
        "has no disk space left",
        "Free disk space on the server; nothing that was acknowledged is lost",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        "does not allow it",
        "Let the user create and use the schema: GRANT CREATE ON DATABASE ... TO ...",
    ),
    (
        asyncpg.CannotConnectNowError,
        "is starting or stopping",
        "It accepts connections in a moment; try again",
    ),
    (
        (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError),
        "lacks resources",
        "Look at the server's log and its memory and disks; " + _UNDER_WAY.lower(),
    ),
    (
        (
            asyncpg.QueryCanceledError,
            asyncpg.DeadlockDetectedError,
            asyncpg.SerializationError,
            asyncpg.LockNotAvailableError,
        ),
        "did not finish the statement",
        _UNDER_WAY,
    ),
    (
        (
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,
            asyncpg.IdleInTransactionSessionTimeoutError,
            asyncpg.InternalClientError,
        ),
        "closed the connection",
        _UNDER_WAY + ": the store connects anew by itself",
    ),
    (
        (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError),
        "has changed its schema meanwhile",
        _UNDER_WAY,
    ),
    (
        asyncpg.ClientConfigurationError,
        "cannot be reached with this URL",
        "Write it as postgresql://user:password@host:5432/database",
    ),
    (
        TimeoutError,
        "does not answer",
        "Check the network between here and the server, and the server's load",
    ),
    (
        OSError,
        "cannot be reached",
        "Check that it runs, and the host and port in AURA_DATABASE_URL",
    ),
)


def explain(error: BaseException, url: str, *, lost: bool = False) -> StoreUnavailable | None:
    """What the caller should see; None for errors that are not the database's condition.

    `lost` says that the connection is gone, whatever the driver raised about it.
    """
    fitting = [(what, advice) for kinds, what, advice in _ADVICE if isinstance(error, kinds)]
    if lost and isinstance(error, asyncpg.InterfaceError):
        fitting.append(("closed the connection", _UNDER_WAY))
    if not fitting:
        return None
    what, advice = fitting[0]
    detail = str(error) or type(error).__name__
    return StoreUnavailable(f"PostgreSQL at {place(url)} {what} ({detail})", hint=advice)


def refuse_old_server(major: int) -> None:
    """Raises StoreError for servers that lack what the schema needs."""
    if major < _OLDEST_SERVER:
        raise StoreError(
            f"PostgreSQL {major} is too old",
            hint=f"Aura needs PostgreSQL {_OLDEST_SERVER} or newer",
        )


class Link:
    """Opens connections to one database, each set up for Aura's statements.

    Those of a `guest` are for a user's: with the server's settings and without a time limit.
    """

    def __init__(self, url: str, *, guest: bool = False) -> None:
        if urlsplit(url).scheme not in ("postgresql", "postgres"):
            raise ConfigError(
                f"{masked(url)!r} is not the URL of a PostgreSQL database",
                hint="Write it as postgresql://user:password@host:5432/database",
            )
        self.url = url
        self._command_timeout = None if guest else _COMMAND_TIMEOUT
        self._session = "guest_session" if guest else "session"

    async def connect(self) -> Connection:
        try:
            connection = await asyncpg.connect(
                self.url,
                timeout=_CONNECT_TIMEOUT,
                command_timeout=self._command_timeout,
                max_cached_statement_lifetime=0,
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise self.unavailable(error) from error
        try:
            refuse_old_server(connection.get_server_version().major)
            await connection.execute(_SQL[self._session])
        except BaseException as error:
            connection.terminate()
            if isinstance(error, _OF_THE_DRIVER):
                raise self.unavailable(error) from error
            raise
        return connection

    def unavailable(self, error: BaseException) -> StoreUnavailable:
        """For failures of connecting: whatever it was, the database cannot be used."""
        known = explain(error, self.url, lost=True)
        if known is not None:
            return known
        return StoreUnavailable(
            f"PostgreSQL at {place(self.url)} cannot be used ({error})",
            hint="Check AURA_DATABASE_URL and the server's log",
        )

    def judge(self, connection: Connection, error: BaseException) -> None:
        """Raise StoreUnavailable where the database's condition is the reason for the error.

        A connection whose statement or transaction did not end properly is not used again.
        """
        lost = connection.is_closed()
        refused = isinstance(error, asyncpg.PostgresError)
        stale = isinstance(error, asyncpg.InvalidCachedStatementError)
        if not refused or stale or connection.is_in_transaction():
            connection.terminate()
        known = explain(error, self.url, lost=lost)
        if known is not None:
            raise known from error


class Pool:
    """A few connections, opened when needed and kept; the last one given back goes out first."""

    def __init__(self, link: Link, size: int) -> None:
        self._link = link
        self._free: list[Connection] = []
        self._room = asyncio.Semaphore(size)
        self._open = True

    def take(self) -> Loan:
        """A connection for the length of an `async with`. Raises StoreUnavailable, also for what
        goes wrong inside and is the database's condition."""
        return Loan(self, self._link)

    async def lend(self) -> Connection:
        await self._room.acquire()
        try:
            return await self._connection()
        except BaseException:
            self._room.release()
            raise

    def take_back(self, connection: Connection) -> None:
        if self._open and not connection.is_closed():
            self._free.append(connection)
        else:
            connection.terminate()
        self._room.release()

    async def _connection(self) -> Connection:
        if not self._open:
            raise StoreUnavailable("the store is closed", hint="Open it before using it")
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        return await self._link.connect()

    async def close(self) -> None:
        self._open = False
        while self._free:
            await hang_up(self._free.pop())


class Loan:
    """A connection out of a pool. Not a generator: it is taken once per commit."""

    __slots__ = ("_connection", "_link", "_pool")

    def __init__(self, pool: Pool, link: Link) -> None:
        self._pool = pool
        self._link = link

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.lend()
        return self._connection

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._link.judge(self._connection, error)
        finally:
            self._pool.take_back(self._connection)


async def hang_up(connection: Connection) -> None:
    """Close a connection politely, or at once when the other side does not answer."""
    try:
        await connection.close(timeout=2)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


class Ear:
    """Hears what other processes announce, on a connection of its own.

    `hear` gets each payload; `again` is called after a broken connection was replaced, because
    something may have been missed meanwhile.
    """

    def __init__(
        self, link: Link, hear: Callable[[str], None], again: Callable[[], None], clock: Clock
    ) -> None:
        self._link = link
        self._hear = hear
        self._again = again
        self._clock = clock
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._connect()
        self._task = asyncio.create_task(self._keep(), name="aura-postgres-listen")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._connection is not None:
            await hang_up(self._connection)
            self._connection = None

    async def _connect(self) -> Connection:
        self._connection = connection = await self._link.connect()
        try:
            await connection.add_listener("aura", self._received)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, _OF_THE_DRIVER):
                raise self._link.unavailable(error) from error
            raise
        return connection

    def _received(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._hear(str(payload))

    async def _keep(self) -> None:
        while self._connection is not None:
            await self._until_gone(self._connection)
            self._connection.terminate()
            await self._reconnect()
            self._again()

    async def _until_gone(self, connection: Connection) -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        while not connection.is_closed():
            try:
                async with asyncio.timeout(_CHECK_EVERY):
                    await gone.wait()
            except TimeoutError:
                try:
                    await connection.fetchval(_SQL["ping"])
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    return

    async def _reconnect(self) -> None:
        pause, longest = _BACKOFF
        while True:
            try:
                await self._connect()
            except StoreUnavailable:
                await self._clock.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                return
