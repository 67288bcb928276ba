"""The clients' process of `benchmarks.live`: those who follow event streams, those who never read
what they asked for, and browser tabs with pages of the dashboard, opened as NiceGUI's script does.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any
from uuid import uuid4

import aiohttp
import httpx
import socketio

STREAM = "/api/v1/runs/ticker/streams/ticks?follow=true"
CHANGES = "/api/v1/changes"
PAGES = ("/", "/runs", "/runs?state=completed", "/queues", "/workers", "/rollouts")
PATIENCE = 60.0
CLIENT = re.compile(r"client_id['\"]?: ?['\"]([^'\"]+)")


@dataclass(slots=True)
class Heard:
    """What the clients that read have got, together; `least` is what one of them got."""

    readers: int = 0
    bytes: int = 0
    least: int = 0
    pages: int = 0
    updates: int = 0
    fewest: int = 0
    closed: int = 0


class Listeners:
    """`readers` and `silent` ones on event streams, `pages` in browser tabs."""

    def __init__(self, port: int, readers: int, silent: int, pages: int) -> None:
        self._port = port
        self._bytes = [0] * readers
        self._updates = [0] * pages
        self._closed = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._begun: list[asyncio.Event] = []
        streams = islice(cycle((STREAM, CHANGES)), readers + silent)
        for at, path in enumerate(streams):
            self._begin(self._follow(path, at - silent, self._ready()))
        for at, path in enumerate(islice(cycle(PAGES), pages)):
            self._begin(self._look(path, at, self._ready()))

    def _ready(self) -> asyncio.Event:
        self._begun.append(asyncio.Event())
        return self._begun[-1]

    def _begin(self, listening: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(listening))

    async def all_let_in(self) -> None:
        """Raises what the first one raised that was not let in."""
        async with asyncio.timeout(PATIENCE):
            while not all(one.is_set() for one in self._begun):
                done, _ = await asyncio.wait(self._tasks, timeout=0.1)
                for one in done:
                    one.result()

    async def end(self) -> Heard:
        """Hang up, and tell what was heard."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return Heard(
            len(self._bytes), sum(self._bytes), min(self._bytes, default=0),
            len(self._updates), sum(self._updates), min(self._updates, default=0), self._closed,
        )  # fmt: skip

    async def _follow(self, path: str, at: int, begun: asyncio.Event) -> None:
        """An event stream; with a negative number, one that reads nothing after its head."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=4096)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        await writer.drain()
        first = await reader.readline()
        if first.split()[1] != b"200":
            raise ConnectionError(f"{path} was answered with {first!r}")
        begun.set()
        if at < 0:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        while data := await reader.read(65_536):
            self._bytes[at] += len(data)
        self._closed += 1

    async def _look(self, path: str, at: int, begun: asyncio.Event) -> None:
        """A page in a tab: its HTML, then its updates over the websocket."""
        origin = f"http://127.0.0.1:{self._port}"
        async with httpx.AsyncClient(base_url=origin, timeout=PATIENCE) as http:
            page = await http.get(path)
            cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
        page.raise_for_status()
        found = CLIENT.search(page.text)
        if found is None:
            raise ConnectionError(f"{path} has no client in it")
        async with aiohttp.ClientSession() as session:
            await self._stay(origin, found[1], cookies, at, session, begun)

    async def _stay(
        self, origin: str, client: str, cookies: str, at: int, session: aiohttp.ClientSession,
        begun: asyncio.Event,
    ) -> None:  # fmt: skip
        tab = socketio.AsyncClient(reconnection=False, http_session=session)
        messages = 0

        async def hear(event: str, message: Any = None) -> None:
            nonlocal messages
            messages += 1
            self._updates[at] += event == "update"
            if messages % 10 == 0:
                told = {"client_id": client, "next_message_id": message.get("_id", 0) + 1}
                await tab.emit("ack", told)

        tab.on("*", hear)
        query = f"client_id={client}&tab_id={uuid4()}&document_id={uuid4()}"
        await tab.connect(
            f"{origin}?{query}&implicit_handshake=true&next_message_id=0",
            headers={"cookie": cookies, "origin": origin}, transports=["websocket"],
            socketio_path="/_nicegui_ws/socket.io", wait_timeout=PATIENCE,
        )  # fmt: skip
        begun.set()
        try:
            await tab.wait()
            self._closed += 1
        finally:
            await tab.disconnect()


async def listen(port: int, readers: int, silent: int, pages: int) -> None:
    """Connect all, say "ready", listen until standard input ends, tell."""
    listeners = Listeners(port, readers, silent, pages)
    await listeners.all_let_in()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(asdict(await listeners.end())))


if __name__ == "__main__":
    asyncio.run(listen(*map(int, sys.argv[1:5])))
