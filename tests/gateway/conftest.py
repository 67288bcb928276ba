"""Real servers on loopback ports, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from aura.clock import Clock, SystemClock
from aura.delivery.observation import Observation
from aura.delivery.split import Arm, Split
from aura.gateway import Gateway, GatewayConfig, SplitHolder, Target, server_config
from aura.gateway.build import AsgiApp, build_holders, build_targets
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.config import HttpSpec, Route
from aura.gateway.http_target import Limits

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Servers:
    """Starts servers and stops them at the end of the test."""

    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    uvicorns: list[uvicorn.Server] = field(default_factory=list)
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def asgi(self, app: AsgiApp, port: int = 0) -> int:
        """Serve an ASGI application; returns its port."""
        config = server_config(app, port=port, log_level="critical")
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        self.uvicorns.append(server)
        return int(server.servers[0].sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop all of them, without the pauses of uvicorn's own shutdown."""
        await self.stack.aclose()
        for task in self.connections:
            task.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)
        for server in reversed(self.uvicorns):
            for listener in server.servers:
                listener.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            tasks = list(server.server_state.tasks)
            for request in tasks:
                request.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.lifespan.shutdown()

    async def raw(self, handler: Handler) -> int:
        """Answer connections with a function on the bare streams; returns the port."""

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.connections.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await handler(reader, writer)
            finally:
                self.connections.discard(task)
                writer.close()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0, limit=2**20)
        self.stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])


@dataclass
class Running:
    """A gateway under test."""

    gateway: Gateway
    port: int
    client: httpx.AsyncClient
    observed: list[Observation]
    holder: SplitHolder

    async def observations(self, count: int) -> list[Observation]:
        """Wait until that many were observed (the test's own time limit ends it)."""
        async with asyncio.timeout(60):
            while len(self.observed) < count:
                await asyncio.sleep(0.002)
        return self.observed


def split_of(candidate: float, *, epoch: int = 1, mirror: bool = False) -> Split:
    """A split between the targets `legacy` and `new`."""
    arms = (Arm("legacy", 1 - candidate), Arm("new", candidate))
    return Split("s", epoch, "seed", arms, mirror="new" if mirror else "")


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.close()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(servers: Servers) -> Start:
    """Start a gateway on `/*` in front of the ports (or targets) legacy and new."""

    async def run(
        legacy: int | Target,
        new: int | Target | None = None,
        *,
        split: Split | None = None,
        route: dict[str, Any] | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> Running:
        given = {"legacy": legacy} if new is None else {"legacy": legacy, "new": new}
        specs = {
            name: HttpSpec(f"http://127.0.0.1:{port}", limits or Limits(connect=30, timeout=60))
            for name, port in given.items()
            if isinstance(port, int)
        }
        routes = (Route(**{"path": "/*", "split": "s", "baseline": "legacy", **(route or {})}),)
        config = GatewayConfig(routes, dict(specs), **options)
        holders = build_holders(config)
        if split is not None:
            holders["s"].offer(split)
        targets = build_targets(config, runner=None, clock=SystemClock())
        targets |= {name: t for name, t in given.items() if not isinstance(t, int)}
        observed: list[Observation] = []
        gateway = Gateway(
            config,
            targets=targets,
            splits=holders,
            observe=observed.append,
            clock=clock or SystemClock(),
        )
        port = await servers.asgi(gateway)
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
        await servers.stack.enter_async_context(client)
        return Running(gateway, port, client, observed, holders["s"])

    return run


async def read_body(receive: Receive) -> bytes:
    """A request's whole body, in an ASGI application."""
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def reply(
    send: Send,
    body: bytes | dict[str, Any] = b"",
    *,
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """One whole response, with its length."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = [(b"content-length", b"%d" % len(content)), *(headers or [])]
    if isinstance(body, dict):
        fields.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": content})


def app_of(handle: Callable[[Scope, Receive, Send], Awaitable[None]]) -> AsgiApp:
    """An ASGI application from a function for its HTTP requests."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await handle(scope, receive, send)

    return app


def named(name: str, *, status: int = 200, seconds: float = 0.0) -> AsgiApp:
    """A target that says who it is, after a while."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        await asyncio.sleep(seconds)
        await reply(send, {"from": name, "size": len(body)}, status=status)

    return app_of(handle)
