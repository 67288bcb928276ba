"""A client never decides where the gateway sends its request."""

from __future__ import annotations

import pytest

from aura.gateway.build import AsgiApp
from aura.gateway.client import Receive, Scope, Send
from tests.gateway.conftest import Servers, Start, app_of, named, reply
from tests.gateway.test_proxy import raw_exchange


def _told(asked: list[str]) -> AsgiApp:
    """A server that nobody configured, which says when it is asked."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await reply(send, b"elsewhere")

    return app_of(handle)


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("http://{other}/x", ""),
        ("//{other}/x", ""),
        ("/@{other}/x", ""),
        ("/http://{other}/x", ""),
        ("/x?url=http://{other}/", ""),
        ("/\\\\{other}/x", ""),
        ("/x", "X-Forwarded-Host: {other}\r\nForwarded: host={other}\r\n"),
        ("/x", "X-Original-URL: http://{other}/\r\nX-Rewrite-URL: http://{other}/\r\n"),
        ("/x", "X-Aura-Arm: {other}\r\nX-Aura-Target: http://{other}/\r\n"),
        ("/x", "Destination: http://{other}/\r\nProxy: http://{other}/\r\n"),
        ("/x", "HTTP2-Settings: {other}\r\n"),
    ],
)
async def test_no_request_chooses_its_target(
    target: str, fields: str, start: Start, servers: Servers
) -> None:
    asked: list[str] = []
    other = await servers.asgi(_told(asked))
    running = await start(await servers.asgi(named("legacy")))
    place = f"127.0.0.1:{other}"
    head = f"GET {target} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{fields}\r\n"
    got = await raw_exchange(running.port, head.format(other=place).encode())
    status = int(got.split(b" ", 2)[1])
    assert status == 200 or 400 <= status < 500, got
    assert (b"legacy" in got) is (status == 200)
    assert asked == []


async def test_connect_is_no_way_out(start: Start, servers: Servers) -> None:
    asked: list[str] = []
    other = await servers.asgi(_told(asked))
    running = await start(await servers.asgi(named("legacy")))
    place = f"127.0.0.1:{other}"
    head = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
    got = await raw_exchange(running.port, head.encode())
    assert not got.startswith(b"HTTP/1.1 2") or b"legacy" in got
    assert asked == []
