"""The client's side of one request: its body, read once, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

from aura.errors import RequestRefused

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client closed its connection before it was answered."""


class BodyStream:
    """A body that is read once, as it arrives. `started`: it cannot be sent a second time.

    `length` is in bytes, None when the client sends chunks.
    """

    def __init__(self, client: Client, length: int | None) -> None:
        self.length = length
        self.started = False
        self._client = client

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The body part by part, once."""
        self.started = True
        async with aclosing(self._client.parts()) as parts:
            async for part in parts:
                yield part


class Client:
    """Reads from the ASGI server for one request.

    Only one reader at a time: first the body's, then `gone`, which takes what is left of a body
    that nobody wants any more.
    """

    def __init__(
        self, receive: Receive, *, length: int | None, limit: int, patience: float
    ) -> None:
        self.length = length
        self._receive = receive
        self._limit = limit
        self._patience = patience
        self._kept: list[bytes] = []
        self._size = 0
        self._ended = False
        self._free = asyncio.Event()  # nobody else reads

    async def keep(self, upto: int) -> bytes | None:
        """The whole body, or None when it is larger than `upto` bytes: then stream it.

        Raises RequestRefused when it is over the limit or does not come in time, ClientGone when
        the client leaves.
        """
        if self.length is not None and self.length > self._limit:
            raise self._too_large()
        if self.length is not None and self.length > upto:
            return None
        while not self._ended:
            if self._size > upto:
                return None
            self._kept.append(await self._next())
        body = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        return body if self._size <= upto else None

    def stream(self) -> BodyStream:
        """What was kept and all that follows."""
        return BodyStream(self, self.length)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The body part by part; frees the reader when it ends or is given up."""
        try:
            for part in self._kept:
                yield part
            self._kept.clear()
            while not self._ended:
                yield await self._next()
        finally:
            self._free.set()

    def release(self) -> None:
        """Nobody reads the body from here on."""
        self._free.set()

    async def gone(self) -> None:
        """Return when the client has left. Never returns before the body was read or given up."""
        await self._free.wait()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            raise RequestRefused(
                f"no more of the body came for {self._patience:g} s",
                status=408,
                code="body-timeout",
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._ended = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        self._size += len(part)
        if self._size > self._limit:
            raise self._too_large()
        return part

    def _too_large(self) -> RequestRefused:
        return RequestRefused(
            f"the body is larger than {self._limit} bytes", status=413, code="body-too-large"
        )
