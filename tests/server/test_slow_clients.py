"""Clients that do not read: they are cut off, nothing grows for them, and nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
import uvloop

import aura
from aura.gateway.client import Receive, Scope, Send
from aura.server.patience import patient
from aura.server.serving import build
from aura.store.base import Entry
from tests.server.kit import make_app

CHUNK = bytes(65_536)
MOST = 64 * 1024 * 1024
"""Bytes that a server may have handed over for a client that reads nothing: the kernel's buffers of
both sides and its own, and far less than it was asked for."""


@contextlib.asynccontextmanager
async def served(app: Any, http: str) -> AsyncIterator[uvicorn.Server]:
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on", http=http)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
        await server.lifespan.shutdown()


def port_of(server: uvicorn.Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


async def silent_client(port: int, path: str) -> socket.socket:
    """Asks, and never reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
    return client


class Endless:
    """An application that answers without end, as long as somebody takes it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sent = 0
        self.gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for name in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{name}.complete"})
            return
        send = patient(send, self.seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        leaving = asyncio.create_task(self._until_gone(receive))
        while not leaving.done():
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.sent += len(CHUNK)
            assert self.sent < MOST, "it is taken although nobody reads"
            await asyncio.sleep(0)
        self.gone.set()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a_client_that_never_reads_is_cut_off(http: str) -> None:
    await _cut_off(http)


def test_a_client_that_never_reads_is_cut_off_in_the_loop_of_aura_serve() -> None:
    uvloop.run(_cut_off("httptools"))


async def _cut_off(http: str) -> None:
    app = Endless(0.5)
    async with served(app, http) as server:
        client = await silent_client(port_of(server), "/")
        async with asyncio.timeout(60):
            await app.gone.wait()  # the application hears that it has gone
            while server.server_state.connections:
                await asyncio.sleep(0.01)
        assert 0 < app.sent < MOST
        client.close()


async def test_silent_followers_hold_nobody_up() -> None:
    """Ten clients follow the stream of a run and never read; one reads and gets every item, and the
    run ends."""
    app = make_app()

    @app.workflow(version="1.0.0")
    async def talks(items: int) -> int:
        out = aura.stream("words")
        for _ in range(items):
            out.write("x" * 20_000)
            await aura.sleep(0.001)
        return items

    items = 250
    async with served(build(app), "httptools") as server:
        port = port_of(server)
        run = await app.start("talks", items, id="t")
        path = "/api/v1/runs/t/streams/words?follow=true"
        silent = [await silent_client(port, path) for _ in range(10)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(60):
            heard = await reader.read()
            assert await run.result() == items
            assert heard.count(b"\nid: ") + heard.count(b"\r\nid: ") >= items - 1
            assert b"id: %d\n" % items in heard
        writer.close()
        for one in silent:
            one.close()


async def test_many_followers_ask_the_database_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred followers of one stream cost as many questions as a few."""
    app = make_app()

    @app.workflow(version="1.0.0")
    async def talks(items: int) -> int:
        out = aura.stream("words")
        for number in range(items):
            out.write(number)
            await aura.sleep(0.01)
        return items

    async with app:
        asked = 0
        entries = app.store.entries

        async def counted(run_id: str, kind: str, after: int = 0) -> list[Entry]:
            nonlocal asked
            asked += 1
            return await entries(run_id, kind, after)

        monkeypatch.setattr(app.store, "entries", counted)

        async def follow() -> list[Any]:
            return [item async for item in app.run("t").stream("words")]

        await app.start("talks", 20, id="t")
        heard = await asyncio.gather(*(follow() for _ in range(100)))
        assert heard == [list(range(20))] * 100
        assert asked < 500, "each of them for itself would be 2,000"
