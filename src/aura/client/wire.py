"""Requests to a server: one connection pool, bounded tries, errors that are told by their names.

A request is sent again when the server cannot have done it (no connection came about, or it
answered 429), and, when doing it twice is doing it once (`Ask.again`), also when nobody knows
whether it was done. It waits as long as `Retry-After` says, else longer each time, and gives up
when `patience` is over. The token is sent in a header and shown nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from pydantic_core import from_json
from yarl import URL

from aura.client.trouble import error_of
from aura.clock import Clock, SystemClock
from aura.engine import no_order_of_a_shadow
from aura.errors import AuraError, ConfigError, ServerUnavailable

log = logging.getLogger("aura.client")

API = "/api/v1"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds before the second try, and at most between two; without `Retry-After`."""

IDLE = 4.0
"""Seconds that an idle connection is kept: less than servers and proxies keep theirs."""

IN_ONE_PIECE = 512 * 1024
"""Bytes; a larger body is handed to the loop piece by piece."""

MOST_WAITING = 200
"""Requests that wait for something to happen, at once; more of them take turns."""

reason: ContextVar[str] = ContextVar("aura_client_reason", default="")
"""Why changes are made, for the server's audit log."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is reached. Times in seconds: `timeout` bounds one answer, beyond what it is to
    wait for; for `patience` a request is tried again. `ca` is a file with certificates to trust
    beside the system's."""

    url: str
    token: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    patience: float = 30.0
    ca: Path | str | None = None

    def __post_init__(self) -> None:
        _check_url(self.url)
        _check_token(self.token)
        for name in ("timeout", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise ConfigError(f"{name} is {value!r:.60}", hint="Give seconds")

    @property
    def base(self) -> str:
        """Where the API is, without a slash at the end."""
        return self.url.rstrip("/").removesuffix(API) + API


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the parts of its path below the API, its body as JSON. `again`: doing it twice
    is doing it once. `wait`: for how many seconds the server may wait for what is asked."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, object] = field(default_factory=dict)
    body: bytes | None = None
    again: bool = True
    wait: float = 0.0

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.method} /{'/'.join(self.path)}"


@dataclass(frozen=True, slots=True)
class _Setback:
    """A try that came to nothing: what to raise in the end, whether to `repeat` it, and in how many
    seconds (None: as usual)."""

    error: AuraError
    repeat: bool
    wait: float | None = None


class Wire:
    """The connections to one server. Open while the client is."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None
        self._waiting = asyncio.Semaphore(MOST_WAITING)

    @property
    def url(self) -> str:
        """The server's."""
        return self.settings.url

    async def open(self) -> None:
        """Make the pool; nothing is sent yet. Raises ConfigError."""
        headers = {"accept": "application/json", "user-agent": "aura-client"}
        if self.settings.token is not None:
            headers["authorization"] = f"Bearer {self.settings.token}"
        pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE, ssl=_tls(self.settings.ca))
        self._session = aiohttp.ClientSession(
            connector=pool, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Close all connections. Harmless when there are none."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, ask: Ask) -> Any:
        """The answer, from JSON. Raises AuraError: what the server says, or ServerUnavailable."""
        if ask.method != "GET":
            no_order_of_a_shadow(ask.name)
        give_up = self.clock.monotonic() + self.settings.patience
        pause = FIRST_PAUSE
        while True:
            told = await self._try(ask)
            if not isinstance(told, _Setback):
                return told
            wait = told.wait if told.wait is not None else _spread(pause)
            if not told.repeat or self.clock.monotonic() + wait > give_up:
                raise told.error
            log.info("%s is tried again in %.1f s: %s", ask.name, wait, told.error.message)
            await self.clock.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    @contextlib.asynccontextmanager
    async def listen(self, ask: Ask, quiet: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of an answer that goes on, piece by piece; `quiet` is for how many seconds
        nothing may come. Raises AuraError; and when it breaks off, ServerUnavailable."""
        timeout = aiohttp.ClientTimeout(sock_connect=self.settings.timeout, sock_read=quiet)
        try:
            async with self._request(ask, timeout, "text/event-stream") as response:
                if response.status != 200:
                    raise (await self._refused(ask, response)).error
                yield response.content.iter_any()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._broken(ask, error).error from error

    async def _try(self, ask: Ask) -> Any:
        seconds = self.settings.timeout + ask.wait
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=self.settings.timeout)
        turn = self._waiting if ask.wait else contextlib.nullcontext()
        try:
            async with turn, self._request(ask, timeout, "application/json") as response:
                if not 200 <= response.status < 300:
                    return await self._refused(ask, response)
                if not response.content_type.endswith("json"):
                    raise self._not_aura(f"it answers {response.content_type}")
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return self._broken(ask, error)
        try:
            return from_json(data)
        except ValueError as error:
            raise self._not_aura("its answer is not JSON") from error

    def _request(
        self, ask: Ask, timeout: aiohttp.ClientTimeout, accept: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise ConfigError(
                f"the client of {self.settings.url} is not open",
                hint="Use `async with client:` around it",
            )
        headers = {"accept": accept}
        if ask.body is not None:
            headers["content-type"] = "application/json"
        if reason.get():
            headers["aura-reason"] = quote(reason.get(), errors="replace")
        return self._session.request(
            ask.method, self._url(ask), data=_sent(ask.body), headers=headers, timeout=timeout,
            allow_redirects=False,
        )  # fmt: skip

    def _url(self, ask: Ask) -> URL:
        """Each part of the path is one segment, whatever characters it has."""
        path = "/".join(quote(one, safe="", errors="surrogatepass") for one in ask.path)
        pairs = [
            f"{name}={quote(_text(value), safe='', errors='surrogatepass')}"
            for name, given in ask.query.items()
            for value in (given if isinstance(given, list) else [given])
            if value is not None
        ]
        query = f"?{'&'.join(pairs)}" if pairs else ""
        return URL(f"{self.settings.base}/{path}{query}", encoded=True)

    async def _refused(self, ask: Ask, response: aiohttp.ClientResponse) -> _Setback:
        """What an answer that is no success says."""
        status, wait = response.status, _seconds(response.headers.get("retry-after"))
        if status < 400:
            raise self._not_aura(f"it answers {status}, a redirect, which is not followed")
        problem = await _problem(response)
        if problem is not None and status not in (429, 503):
            return _Setback(error_of(status, problem), repeat=False)
        if problem is None and status not in (429, 502, 503, 504):
            raise self._not_aura(f"it answers {status} without saying why")
        detail = problem.get("detail") if problem else f"it answers {status}"
        error = error_of(status, problem) if problem and status == 503 else None
        error = error or ServerUnavailable(f"{ask.name} at {self.settings.url}: {detail}")
        return _Setback(error, repeat=ask.again or status == 429, wait=wait)

    def _broken(self, ask: Ask, error: BaseException) -> _Setback:
        """A try in which no answer came."""
        what = f"{self.settings.url} cannot be reached"
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, aiohttp.ClientSSLError):
            hint = "Is its certificate right? One of your own is trusted with Client(ca=FILE)"
            told = ServerUnavailable(f"{what} safely: {reason:.300}", hint=hint)
            return _Setback(told, repeat=False)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            told = ServerUnavailable(f"{what}: {reason:.300}", hint="Nothing was done there")
            return _Setback(told, repeat=True)
        late = isinstance(error, TimeoutError)
        why = f"no answer came within {self.settings.timeout + ask.wait:g} s" if late else reason
        hint = "" if ask.again else "It may have been done all the same: look before you repeat it"
        told = ServerUnavailable(
            f"{ask.name} at {self.settings.url} was not answered: {why:.300}", hint=hint
        )
        return _Setback(told, repeat=ask.again)

    def _not_aura(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self.settings.url} does not answer as Aura's API does: {why}",
            hint="Give the address that `aura serve` prints, such as http://127.0.0.1:8080",
        )


def _sent(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body goes piece by piece, so that it holds nobody up."""
    return body if body is None or len(body) < IN_ONE_PIECE else io.BytesIO(body)


async def _problem(response: aiohttp.ClientResponse) -> dict[str, Any] | None:
    """The problem document of an answer, None when it has none."""
    try:
        found = from_json(await response.read())
    except ValueError:
        return None
    return found if isinstance(found, dict) and "code" in found else None


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; the other form of it, a date, counts as none."""
    known = text is not None and text.isascii() and text.isdigit() and len(text) < 9
    return float(text) if known and text is not None else None


def _spread(pause: float) -> float:
    """Half of it to all of it, so that many clients do not come back at once."""
    return pause * (0.5 + secrets.randbelow(1_000) / 2_000)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_url(url: object) -> None:
    hint = "Give one like http://127.0.0.1:8080 or https://aura.example.org"
    if not isinstance(url, str):
        raise ConfigError(f"the server's URL is a {type(url).__name__}", hint=hint)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("the server's URL cannot be read", hint=hint) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "the server's URL has a password in it", hint="Give the token as Client(token=...)"
        )
    bare = not (parts.query or parts.fragment) and url.isascii() and url.isprintable()
    if parts.scheme not in ("http", "https") or not host or not bare or " " in url:
        raise ConfigError(f"{url!r:.100} is no server's URL", hint=hint)


def _check_token(token: object) -> None:
    if token is None:
        return
    good = isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token
    if not good or not token:
        raise ConfigError(
            "the client's token is none", hint="Give one as `aura token create` printed it"
        )


def _tls(ca: Path | str | None) -> ssl.SSLContext:
    """Certificates are checked, always."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificates in {ca} cannot be read: {error}", hint="Give a PEM file"
            ) from error
    return context
