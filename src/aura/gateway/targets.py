"""What answers a request, behind one protocol (services: `http_target`, workflows: `adapters`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from aura.errors import TargetFailed
from aura.gateway.client import BodyStream
from aura.gateway.headers import PairList

WHOLE = 64 * 1024
"""Bytes: an answer announced as no longer than this counts as given only when all of it is here,
so that one that breaks off can still be replaced."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a target is asked. `target` is the path and query, byte for byte as the client sent
    them; `headers` are cleaned for forwarding and lack Host and the length.

    `key` is the idempotency key ("" when none), `shadow` marks a copy whose answer nobody sees: of
    one that the run `baseline_run` ("" for none) has answered, and that may take `limit` seconds.
    `repeatable` says that the client allows the request to be sent twice.
    """

    route: str
    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | BodyStream
    key: str = ""
    announced: bool = False
    repeatable: bool = False
    shadow: bool = False
    baseline_run: str = ""
    limit: float = 0.0


class Rest(Protocol):
    """The body of an answer that is still coming."""

    async def read(self) -> bytes:
        """The next part, b"" at its end. Raises TargetFailed when it breaks off."""
        ...

    def close(self) -> None:
        """Let go of what is left."""
        ...


class Answer:
    """What a target said: status, fields for the client, and the body, whole or as it comes."""

    def __init__(
        self,
        status: int,
        headers: PairList,
        body: bytes | None = None,
        *,
        rest: Rest | None = None,
        limit: int = 0,
        run: str = "",
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.run = run
        self._rest = rest
        self._limit = limit

    async def parts(self) -> AsyncIterator[bytes]:
        """The body part by part. Raises TargetFailed when it breaks off or is over the limit."""
        if self.body is not None:
            yield self.body
            return
        size = 0
        while self._rest is not None and (part := await self._rest.read()):
            size += len(part)
            if self._limit and size > self._limit:
                self.close()
                raise too_large(self._limit)
            yield part

    def close(self) -> None:
        """Let go of the connection when the rest of the body is not wanted."""
        if self._rest is not None:
            self._rest.close()


class Target(Protocol):
    """Anything that answers a request. `whole`: it can use only bodies that are kept whole."""

    whole: bool

    async def call(self, request: Request) -> Answer:
        """Answer it. Raises TargetFailed or TargetTimeout when there is no usable answer, and
        RequestRefused when the client must change its request. Cancelling gives up waiting."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def too_large(limit: int) -> TargetFailed:
    """What an answer over its limit is, in bytes."""
    return TargetFailed(f"its answer is larger than {limit} bytes", code="target-bad-response")
