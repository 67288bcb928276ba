"""A connection to PostgreSQL that breaks while it commits."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Proxy:
    """Stands between a store and PostgreSQL, and cuts a connection at its COMMIT.

    `mode`: "before" the server hears of it, "after" it has answered, or "slow": the client is cut
    off at once and the server hears of it when `let_go` is set.
    """

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        self._server_socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._folder = folder
        self.url = f"postgresql://{parts.username}:@{parts.path}?host={folder}"
        self.mode = ""
        self.cuts = 0
        self.let_go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        path = str(self._folder / ".s.PGSQL.5432")
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def close(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream = await asyncio.open_unix_connection(self._server_socket)
        back = asyncio.create_task(self._pass_on(upstream[0], writer))
        self._tasks.add(back)
        back.add_done_callback(self._tasks.discard)
        try:
            while data := await reader.read(65_536):
                if b"COMMIT\0" in data and self.mode:
                    await self._cut(data, upstream, writer, back)
                    return
                upstream[1].write(data)
                await upstream[1].drain()
        finally:
            upstream[1].close()
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _cut(
        self,
        data: bytes,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        client: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        mode, self.mode = self.mode, ""
        self.cuts += 1
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)
        if mode == "slow":
            client.transport.abort()
            await self.let_go.wait()
        if mode != "before":
            server[1].write(data)
            answer = b""
            while b"COMMIT" not in answer:
                answer += await server[0].read(65_536)
        client.transport.abort()
