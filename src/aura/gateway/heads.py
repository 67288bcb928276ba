"""Connections that send no request, or the head of one too slowly, and too many of them.

A server waits for the head of a request before it can do anything: until then nobody has asked it
for a token, and no limit of the application holds. So a connection has `WITHIN` seconds for each
head, `LARGEST_HEAD` bytes at most, and only so many connections are held at once; what is more is
answered with 503 at once. The time runs from the connection or from the first byte of a head. It
does not run while a request is answered, nor between requests (uvicorn's `timeout_keep_alive`).
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aura.gateway.headers import LARGEST_HEAD
from aura.gateway.problems import Problem

log = logging.getLogger("aura.gateway")

WITHIN = 15.0
"""Seconds for the head of a request."""

MOST_CONNECTIONS = 8_192
"""Connections that are held at once, and no more than files may be open."""

_RESERVED = 128
"""Files that are left for everything else: the database, targets, logs."""


def most_connections() -> int:
    """How many connections a process holds: `MOST_CONNECTIONS`, or what its limit of open files
    allows."""
    try:
        import resource
    except ImportError:  # there is no such limit on Windows
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files in (resource.RLIM_INFINITY, -1):
        return MOST_CONNECTIONS
    return max(_RESERVED, min(MOST_CONNECTIONS, files - _RESERVED))


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the limits of this module."""

    _timer: asyncio.TimerHandle | None = None
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            log.warning("there are %d connections: one more is refused", len(self.connections) - 1)
            self._refuse(503, "too-many-connections", "too many connections; try again in a second")
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # what comes behind a refusal
        if self._timer is None and not self._is_answering:
            self._expect_head()
        self._received += len(data)
        super().data_received(data)
        if self._timer is not None and self._received > LARGEST_HEAD:
            self._refuse(431, "head-too-large", f"a head has at most {LARGEST_HEAD} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()  # what came behind an answer was the rest of its request
        super().on_message_complete()

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        return cycle is not None and not cycle.response_complete

    def _expect_head(self) -> None:
        self._received = 0
        self._timer = self.loop.call_later(WITHIN, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if self._is_answering:
            self._expect_head()  # the next one has begun, but is not read before this one's answer
            return
        log.info("a connection sent no request within %g s: %s", WITHIN, self.client)
        self._refuse(408, "head-too-slow", f"no request came within {WITHIN:g} s")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = Problem(status, code, detail).body()
        head: dict[str, Any] = {
            "content-type": "application/problem+json",
            "content-length": len(body),
            "connection": "close",
        }
        if status == 503:
            head["retry-after"] = 1
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()
