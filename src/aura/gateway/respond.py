"""The way back to the client through ASGI."""

from __future__ import annotations

from email.utils import formatdate

from aura.clock import Clock
from aura.errors import TargetFailed
from aura.gateway.client import Scope, Send
from aura.gateway.headers import NO_BODY, PairList, value
from aura.gateway.problems import Problem
from aura.gateway.targets import Answer

OLD_CLIENT = 16 * 1024 * 1024
"""Bytes of an answer of unknown length collected for an HTTP/1.0 client, which knows no chunks."""


class Copy:
    """Keeps what was sent, up to a limit. `whole` is None when there was more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] | None = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Take a part of the body in."""
        self._size += len(part)
        if self._size > self._limit:
            self._parts = None
        elif self._parts is not None:
            self._parts.append(part)

    @property
    def whole(self) -> bytes | None:
        """All that was sent, None when it was over the limit."""
        return None if self._parts is None else b"".join(self._parts)


class Dates:
    """The Date field, written anew once per second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """The current time as an HTTP date."""
        second = int(self._clock.now())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
        return self._text


class Responder:
    """Sends one response. `started`: its head is on its way and cannot be taken back."""

    def __init__(self, send: Send, scope: Scope, dates: Dates) -> None:
        self.started = False
        self._send = send
        self._bodiless = scope["method"] == "HEAD"
        self._old = scope.get("http_version") == "1.0"
        self._dates = dates

    async def problem(self, problem: Problem, extra: PairList | None = None) -> None:
        """Send an error answer."""
        body = problem.body()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *problem.headers,
            *(extra or []),
        ]
        await self._head(problem.status, headers)
        await self._body(body)

    async def answer(self, answer: Answer, extra: PairList, copy: Copy | None = None) -> None:
        """Send a target's answer, part by part as it comes.

        Raises TargetFailed when it breaks off: before `started` something else can be sent,
        after it the caller must leave the response unfinished, so that the client sees it.
        """
        try:
            await self._answer(answer, [*answer.headers, *extra], copy)
        finally:
            answer.close()

    async def _answer(self, answer: Answer, headers: PairList, copy: Copy | None) -> None:
        if self._bodiless or answer.status in NO_BODY:
            await self._head(answer.status, headers)
            await self._body(b"")
            return
        body = answer.body
        if body is None and self._old and value(headers, b"content-length") is None:
            body = await _collect(answer)
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        if body is not None:
            await self._head(answer.status, headers)
            _keep(copy, body)
            await self._body(body)
            return
        await self._head(answer.status, headers)
        async for part in answer.parts():
            _keep(copy, part)
            await self._body(part, more=True)
        await self._body(b"")

    async def _head(self, status: int, headers: PairList) -> None:
        if value(headers, b"date") is None:
            headers = [*headers, (b"date", self._dates.now())]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, body: bytes, *, more: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _keep(copy: Copy | None, part: bytes) -> None:
    if copy is not None:
        copy.add(part)


async def _collect(answer: Answer) -> bytes:
    parts = bytearray()
    async for part in answer.parts():
        parts += part
        if len(parts) > OLD_CLIENT:
            raise TargetFailed(
                "its answer has no length and is too large for HTTP/1.0",
                code="needs-http-1.1",
            )
    return bytes(parts)
