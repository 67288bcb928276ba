"""Connections that send no request, or one too slowly, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aura.gateway import heads
from aura.gateway.client import Receive, Scope, Send
from tests.gateway.conftest import Servers

GOOD = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.close()


class App:
    """Answers each request when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.seen = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.seen += 1
        while (await receive()).get("more_body"):
            pass
        await self.may.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(servers: Servers, port: int) -> Connection:
    found = await asyncio.open_connection("127.0.0.1", port)
    servers.stack.callback(found[1].close)
    return found


async def rest(connection: Connection) -> bytes:
    """All that comes until the server closes."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            return await connection[0].read()
    return b""


async def answer(connection: Connection) -> bytes:
    async with asyncio.timeout(60):
        return await connection[0].readuntil(b"ok")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /a HT", b"GET /a HTTP/1.1\r\nhost: a\r\n", b"\r\n\r\n\r\n"]
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(heads, "WITHIN", 0.3)
    port = await servers.asgi(app := App())
    connection = await connect(servers, port)
    connection[1].write(sent)
    told = await rest(connection)
    assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'"code": "head-too-slow"' in told
    assert app.seen == 0


async def test_a_head_that_trickles_is_cut_off(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind a first request that was a good one, and although there is always some news."""
    monkeypatch.setattr(heads, "WITHIN", 0.5)
    port = await servers.asgi(App())
    connection = await connect(servers, port)
    connection[1].write(GOOD)
    assert b"200 OK" in await answer(connection)

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            connection[1].write(GOOD[:-2])
            while True:
                connection[1].write(b"x: y\r\n")
                await connection[1].drain()
                await asyncio.sleep(0.05)

    writing = asyncio.create_task(trickle())
    try:
        assert b" 408 " in await rest(connection)
    finally:
        writing.cancel()


async def test_a_good_head_has_all_the_time_for_its_answer_and_its_body(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "WITHIN", 0.3)
    port = await servers.asgi(app := App())
    connection = await connect(servers, port)
    app.may.clear()
    connection[1].write(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
    await asyncio.sleep(0.5)  # longer than a head may take
    connection[1].write(b"cd")
    await asyncio.sleep(0.5)
    connection[1].write(GOOD)  # behind it, before it is answered
    await asyncio.sleep(0.5)
    app.may.set()
    assert b"200 OK" in await answer(connection)
    assert b"200 OK" in await answer(connection)
    await asyncio.sleep(0.5)  # idle, which is not the business of this limit
    connection[1].write(GOOD)
    assert b"200 OK" in await answer(connection)
    connection[1].close()
    assert app.seen == 3


async def test_a_head_without_an_end_is_refused(servers: Servers) -> None:
    port = await servers.asgi(app := App())
    connection = await connect(servers, port)
    connection[1].write(b"GET /a HTTP/1.1\r\n")

    async def pour() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                connection[1].write(b"x: %s\r\n" % (b"y" * 1000))
                await connection[1].drain()

    writing = asyncio.create_task(pour())
    try:
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):  # what is unread may end it at once
                assert (await connection[0].read(12)) in (b"HTTP/1.1 431", b"")
            await writing
    finally:
        writing.cancel()
    assert app.seen == 0


async def test_connections_beyond_the_limit_are_told(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(heads, "_RESERVED", 0)
    port = await servers.asgi(App())
    first, second = [await connect(servers, port) for _ in range(2)]
    for one in (first, second):
        one[1].write(GOOD)
        assert b"200 OK" in await answer(one)
    told = await rest(await connect(servers, port))
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in told
    assert b'"code": "too-many-connections"' in told
    first[1].close()
    async with asyncio.timeout(60):
        while True:  # until the server has seen that it is closed
            again = await connect(servers, port)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                again[1].write(GOOD)
                if b"200 OK" in await again[0].readuntil(b"\r\n"):
                    break


def test_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource: Any = pytest.importorskip("resource")
    for files, most in ((1024, 896), (10**6, 8_192), (-1, 8_192), (100, 128)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert heads.most_connections() == most
