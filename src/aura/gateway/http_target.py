"""An HTTP service as a target, through aiohttp's client.

aiohttp pools, frames and parses. Set here: paths, queries and fields pass byte for byte; nothing
is added, followed, decompressed or remembered; and a failed call is told by the codes of
`TargetFailed`. Two things that it leaves open are closed here:

- Each wait for the service is bounded, but only while it is the service's turn: a client that
  sends its body slowly does not make the service late (`Exchange`).
- An idle connection on which something arrived is not used again, for it would be taken as the
  answer to the next request (`Pool`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator, Awaitable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from aura.errors import ConfigError, RequestRefused, TargetFailed, TargetTimeout
from aura.gateway.client import BodyStream
from aura.gateway.headers import for_client, framing, length_of, tokens
from aura.gateway.targets import WHOLE, Answer, Request, too_large

T = TypeVar("T")

READ_AHEAD = 128 * 1024  # bytes; at twice as many unread ones a connection stops reading
IN_ONE_PIECE = 1024 * 1024  # bytes; a larger body is handed to the loop part by part
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
NOTHING_ADDED = ("accept", "accept-encoding", "user-agent", "content-type")
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 9.2.2


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes.

    `connect` bounds the wait for a connection, free or new; `timeout` the wait for the answer's
    head and, again, each wait for more of its body. `idle` is kept under the five seconds after
    which uvicorn, and others, close idle connections. `field` bounds one header field.
    """

    connect: float = 2.0
    timeout: float = 10.0
    idle: float = 4.0
    connections: int = 200
    field: int = 64 * 1024


class Exchange:
    """One request under way: its connection, its body, and whose turn it is."""

    def __init__(self, timeout: float, body: BodyStream | None) -> None:
        self.body = body
        self.reused = False
        self.answered = False
        self._broken: Exception | None = None
        self._timeout = timeout
        self._theirs = False
        self._deadline: asyncio.Timeout | None = None
        self._transport: asyncio.Transport | None = None

    def connected(self, transport: asyncio.Transport | None, *, reused: bool) -> None:
        """The connection is there: from now on the service is waited for."""
        self._transport = transport
        self.reused = reused
        self._turn(theirs=True)

    async def wait(self, work: Awaitable[T]) -> T:
        """The result of the work. Raises TargetFailed or TargetTimeout, or before there is an
        answer what broke the upload off."""
        try:
            async with asyncio.timeout_at(self._end()) as self._deadline:
                return await work
        except (aiohttp.ClientError, TimeoutError, RuntimeError, ValueError) as error:
            if self._broken is not None and not self.answered:
                raise self._broken from None
            raise _told(error, self._timeout) from error
        finally:
            self._deadline = None

    def close(self) -> None:
        """Close the connection at once, with whatever was not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The streamed body, for aiohttp to send; it can be had only once."""
        if self.body is None or self.body.started:
            raise TargetFailed("it closed the connection during the upload", code="target-reset")
        return self._upload(self.body)

    async def _upload(self, body: BodyStream) -> AsyncIterator[bytes]:
        try:
            self._turn(theirs=False)
            async with contextlib.aclosing(body.parts()) as parts:
                async for part in parts:
                    self._turn(theirs=True)
                    yield part
                    self._turn(theirs=False)
        except Exception as error:
            self._broken = error
            self.close()
            raise
        finally:
            self._turn(theirs=True)

    def _turn(self, *, theirs: bool) -> None:
        """Begin to wait for the service, or stop while the client's body is awaited."""
        self._theirs = theirs
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._end())

    def _end(self) -> float | None:
        """When the wait is over on the loop's own clock, which asyncio's timeouts go by."""
        return asyncio.timeout(self._timeout).when() if self._theirs else None


_exchange: ContextVar[Exchange] = ContextVar("aura_gateway_exchange")


class Pool(aiohttp.TCPConnector):
    """aiohttp's pool; tells the exchange which connection it got, and whether it is a used one."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limit=limits.connections, keepalive_timeout=limits.idle)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection for the request, free or new."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or (protocol in self._used and protocol.should_close):
                connection.close()
                continue
            _exchange.get().connected(connection.transport, reused=protocol in self._used)
            self._used.add(protocol)
            return connection


class Reply:
    """The response to one request. Whoever holds it must read it to its end or close it."""

    def __init__(self, response: aiohttp.ClientResponse, exchange: Exchange) -> None:
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.raw_headers]
        self._response = response
        self._exchange = exchange

    async def read(self) -> bytes:
        """The next part of the body, b"" at its end. Raises TargetFailed when it breaks off."""
        if self._response.closed and self._response.content.at_eof():
            return b""
        try:
            part = await self._exchange.wait(self._response.content.readany())
        except BaseException:
            self.close()
            raise
        if not part:
            self.close()
        return part

    def close(self) -> None:
        """Let go of the connection; a response that was not read to its end closes it."""
        if self._response.connection is not None:  # else it serves another request by now
            self._exchange.close()
        self._response.close()


class HttpTarget:
    """An HTTP/1.1 service at a fixed address; the client chooses path and query, never the host.

    `url` is `http(s)://host[:port][/prefix]`. Redirects are passed on, not followed.
    `max_response` bounds a response's body in bytes, 0 for no bound.
    """

    whole = False

    def __init__(self, url: str, *, limits: Limits | None = None, max_response: int = 0) -> None:
        self._scheme, self._authority, self._prefix = parse_url(url)
        self.limits = limits or Limits()
        self.max_response = max_response
        self._session: aiohttp.ClientSession | None = None

    async def call(self, request: Request) -> Answer:
        """Forward the request; see `Target.call`."""
        url = self._url(request.target)
        headers = _fields(request)
        while True:
            body = request.body
            exchange = Exchange(self.limits.timeout, None if isinstance(body, bytes) else body)
            try:
                reply = await self._send(request, url, headers, exchange)
            except TargetFailed as error:
                if not _closed_while_idle(error, request, exchange):
                    raise
                continue
            try:
                return await self._answer(request, reply)
            except BaseException:
                reply.close()
                raise

    async def _send(
        self, request: Request, url: URL, headers: list[tuple[str, str]], exchange: Exchange
    ) -> Reply:
        body: Any = exchange if exchange.body is not None else request.body or None
        if isinstance(body, bytes) and len(body) > IN_ONE_PIECE:
            body = io.BytesIO(body)
        _exchange.set(exchange)
        sending = self._open().request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        )
        try:
            response = await exchange.wait(sending)
        except BaseException:
            exchange.close()
            raise
        exchange.answered = True
        return Reply(response, exchange)

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use: it belongs to the loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=Pool(self.limits),
                timeout=aiohttp.ClientTimeout(total=None, connect=self.limits.connect),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=NOTHING_ADDED,
                auto_decompress=False,
                trust_env=False,
                read_bufsize=READ_AHEAD,
                max_line_size=self.limits.field,
                max_field_size=self.limits.field,
            )
        return self._session

    def _url(self, target: bytes) -> URL:
        if CONTROL.search(target) or b" " in target:
            raise TargetFailed("a space or control character in the path", code="unsafe-header")
        path, _, query = (self._prefix + _utf8(target, "path")).partition("?")
        return URL.build(
            scheme=self._scheme,
            authority=self._authority,
            path=path,
            query_string=query,
            encoded=True,
        )

    async def _answer(self, request: Request, reply: Reply) -> Answer:
        if not 200 <= reply.status <= 599 or any(CONTROL.search(v) for _, v in reply.headers):
            raise TargetFailed("its answer is not HTTP", code="target-bad-response")
        if tokens(reply.headers, b"transfer-encoding") - {b"chunked"}:
            raise TargetFailed("its answer has an unknown framing", code="target-bad-response")
        headers = for_client(reply.headers, reply.status)
        length = length_of(reply.headers)
        if request.method == "HEAD" or reply.status in (204, 304):
            length = 0
        if self.max_response and length is not None and length > self.max_response:
            raise too_large(self.max_response)
        if length is None or length > WHOLE:
            return Answer(reply.status, headers, rest=reply, limit=self.max_response)
        body = b""
        while part := await reply.read():
            body += part
        return Answer(reply.status, headers, body)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def parse_url(url: str) -> tuple[str, str, str]:
    """(scheme, authority, path prefix) of a target's address. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise ConfigError(f"{url!r} is not an address", hint="Write http://host:port")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(
            f"{url!r} has parts that a target cannot use",
            hint="Give only scheme, host, port and path",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme, f"{host}:{port}" if port else host, parts.path.rstrip("/")


def _fields(request: Request) -> list[tuple[str, str]]:
    """Header fields as aiohttp takes them: it writes text as UTF-8, so that only is passed on."""
    body = request.body
    length = len(body) if isinstance(body, bytes) else body.length
    sent = [*request.headers, *framing(request.method, length, announced=request.announced)]
    return [(name.decode("latin-1"), _utf8(value, name.decode("latin-1"))) for name, value in sent]


def _utf8(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(
            f"{name} has bytes that are not UTF-8",
            status=400,
            code="not-utf-8",
            field=name,
            hint="Encode them",
        ) from error


def _closed_while_idle(error: TargetFailed, request: Request, exchange: Exchange) -> bool:
    """Whether to send it again: a used connection ended before an answer, most likely because the
    service closed it as idle while the request was on its way, and a second try does no harm."""
    return (
        exchange.reused
        and isinstance(request.body, bytes)
        and (request.repeatable or request.method in IDEMPOTENT)
        and isinstance(error.__cause__, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
    )


def _told(error: Exception, timeout: float) -> TargetFailed:
    """An error of aiohttp's as what became of the call; clients read it, so it names no address."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return TargetTimeout("no connection in time", code="target-unreachable")
        case TimeoutError():
            return TargetTimeout(
                f"nothing went on with it for {timeout:g} s", code="target-timeout"
            )
        case aiohttp.ClientConnectorError():
            kind = type(error.os_error).__name__  # its text would tell the address
            return TargetFailed(f"no connection ({kind})", code="target-unreachable")
        case aiohttp.ClientResponseError():
            return TargetFailed("its answer is not HTTP", code="target-bad-response")
        case aiohttp.ClientError() | RuntimeError():
            return TargetFailed(
                f"it closed the connection ({type(error).__name__})", code="target-reset"
            )
        case _:
            return TargetFailed("a control character in a field", code="unsafe-header")
