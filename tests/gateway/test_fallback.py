"""The user is answered in time and well, whatever the candidate does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from aura.clock import SystemClock
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.http_target import Limits
from tests.gateway.conftest import (
    Handler,
    Servers,
    Start,
    app_of,
    free_port,
    named,
    read_body,
    reply,
    split_of,
)


async def take_request(reader: asyncio.StreamReader) -> bytes:
    """A request's head, and its body if it has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return head


async def reset_before_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.transport.abort()


async def reset_in_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-")
    await writer.drain()
    writer.transport.abort()


async def reset_in_a_short_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()


async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.write(b"220 smtp.example ready\r\n\r\n")
    await writer.drain()
    await reader.read()


async def two_lengths(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    await writer.drain()
    await reader.read()


async def switch_protocols(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    await writer.drain()
    await reader.read()


async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await take_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (reset_before_the_head, "target-reset"),
        (reset_in_the_head, "target-reset"),
        (reset_in_a_short_body, "target-reset"),
        (no_http, "target-bad-response"),
        (two_lengths, "target-bad-response"),
        (switch_protocols, "target-bad-response"),
        (endless_head, "target-bad-response"),
    ],
)
async def test_a_candidate_that_breaks_off_is_replaced(
    start: Start, servers: Servers, behaviour: Handler, error: str
) -> None:
    running = await start(
        await servers.asgi(named("legacy")), await servers.raw(behaviour), split=split_of(1.0)
    )
    response = await running.client.post("/", content=b"12345")
    assert response.json() == {"from": "legacy", "size": 5}
    assert response.headers["x-aura-arm"] == "legacy"
    (seen,) = running.observed
    assert (seen.arm, seen.ok, seen.user_ok, seen.fallback) == ("new", False, True, True)
    assert seen.error == error
    assert running.gateway.counters.fallbacks_error == 1


async def test_a_candidate_that_is_down_or_says_500_is_replaced(
    start: Start, servers: Servers
) -> None:
    legacy = await servers.asgi(named("legacy"))
    down = await start(legacy, free_port(), split=split_of(1.0))
    assert (await down.client.post("/")).json()["from"] == "legacy"
    assert down.observed[0].error == "target-unreachable"
    bad = await start(legacy, await servers.asgi(named("new", status=500)), split=split_of(1.0))
    response = await bad.client.post("/")
    assert (response.status_code, response.json()["from"]) == (200, "legacy")
    assert (bad.observed[0].error, bad.observed[0].ok) == ("status-500", False)


async def test_a_4xx_is_an_answer(start: Start, servers: Servers) -> None:
    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(named("new", status=404)),
        split=split_of(1.0),
    )
    response = await running.client.get("/")
    assert (response.status_code, response.headers["x-aura-arm"]) == (404, "new")
    assert running.observed[0].ok


async def test_an_arm_without_a_target_is_replaced(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(named("legacy")), split=split_of(1.0))
    assert (await running.client.get("/")).json()["from"] == "legacy"
    assert running.observed[0].error == "no-target"


async def test_both_get_the_same_idempotency_key(start: Start, servers: Servers) -> None:
    keys: list[bytes] = []

    def keyed(status: int) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            keys.extend(v for n, v in scope["headers"] if n == b"idempotency-key")
            await reply(send, status=status)

        return handle

    running = await start(
        await servers.asgi(app_of(keyed(200))),
        await servers.asgi(app_of(keyed(500))),
        split=split_of(1.0),
    )
    await running.client.post("/")
    assert len(keys) == 2
    assert keys[0] == keys[1] != b""
    await running.client.post("/", headers={"idempotency-key": "mine"})
    assert keys[2:] == [b"mine", b"mine"]
    await running.client.put("/")
    assert len(keys) == 4


async def test_a_late_candidate_is_overtaken_before_the_sla_is_over(
    start: Start, servers: Servers
) -> None:
    """The candidate waits until its user has been answered; the gateway's waits pass at once."""
    answered = asyncio.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await answered.wait()
        await reply(send, {"from": "new"})

    clock = Impatient()
    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(app_of(late)),
        split=split_of(1.0),
        route={"sla": 60.0},
        clock=clock,
    )
    response = await running.client.post("/", content=b"x")
    assert response.json()["from"] == "legacy"
    assert clock.slept[0] == 30.0  # nothing is known yet: half of the SLA is for the baseline
    assert running.observed == []  # the candidate's own outcome is still awaited
    assert running.gateway.counters.fallbacks_late == 1
    await running.client.post("/", content=b"x")
    assert 40.0 < clock.slept[1] < 57.0  # now its usual time, some milliseconds, is known
    assert running.gateway.counters.fallbacks_late == 2
    answered.set()
    seen = await running.observations(2)
    outcomes = {(one.ok, one.user_ok, one.fallback, one.error) for one in seen}
    assert outcomes == {(True, True, True, "")}


class Impatient(SystemClock):
    """Notes how long the gateway meant to wait until the baseline must start, and does not wait."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds > 60:  # for the candidate that is late
            await super().sleep(seconds)
        self.slept.append(seconds)


async def test_a_candidate_that_hangs_is_cancelled_after_twice_the_sla(
    start: Start, servers: Servers
) -> None:
    left = asyncio.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if (await receive())["type"] == "http.disconnect":
            left.set()

    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(app_of(hang)),
        split=split_of(1.0),
        route={"sla": 0.1},
    )
    assert (await running.client.get("/")).json()["from"] == "legacy"
    (seen,) = await running.observations(1)
    assert (seen.ok, seen.error, seen.user_ok) == (False, "late", True)
    assert seen.latency >= 0.2
    await asyncio.wait_for(left.wait(), 60)


async def test_a_candidate_that_comes_first_after_all_wins(start: Start, servers: Servers) -> None:
    both = asyncio.Event()

    async def legacy(scope: Scope, receive: Receive, send: Send) -> None:
        both.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def new(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await both.wait()
        await reply(send, {"from": "new"})

    running = await start(
        await servers.asgi(app_of(legacy)),
        await servers.asgi(app_of(new)),
        split=split_of(1.0),
        route={"sla": 60.0},
        clock=Impatient(),
    )
    response = await running.client.get("/")
    assert response.json()["from"] == "new"
    (seen,) = running.observed
    assert (seen.fallback, seen.ok) == (False, True)
    assert running.gateway.counters.fallbacks_late == 1


async def test_when_both_fail_a_response_is_better_than_none(
    start: Start, servers: Servers
) -> None:
    bad = await servers.asgi(named("new", status=503))
    running = await start(free_port(), bad, split=split_of(1.0))
    response = await running.client.get("/")
    assert (response.status_code, response.headers["x-aura-arm"]) == (503, "new")
    assert (running.observed[0].user_ok, running.observed[0].fallback) == (False, False)
    both_down = await start(free_port(), free_port(), split=split_of(1.0))
    response = await both_down.client.get("/")
    assert (response.status_code, response.headers["x-aura-arm"]) == (502, "legacy")
    assert response.json()["code"] == "target-unreachable"


async def test_without_fallback_the_candidate_answers_for_itself(
    start: Start, servers: Servers
) -> None:
    running = await start(
        await servers.asgi(named("legacy")),
        free_port(),
        split=split_of(1.0),
        route={"fallback": False, "sla": 0.1},
    )
    response = await running.client.get("/")
    assert (response.status_code, response.headers["x-aura-arm"]) == (502, "new")
    assert not running.observed[0].user_ok


async def test_a_large_upload_falls_back_only_until_it_began(
    start: Start, servers: Servers
) -> None:
    legacy = await servers.asgi(named("legacy"))
    body = b"x" * 300_000
    down = await start(legacy, free_port(), split=split_of(1.0), buffer=1000)
    assert (await down.client.post("/", content=body)).json() == {"from": "legacy", "size": 300_000}
    bad = await start(
        legacy, await servers.asgi(named("new", status=500)), split=split_of(1.0), buffer=1000
    )
    response = await bad.client.post("/", content=body)
    assert (response.status_code, response.headers["x-aura-arm"]) == (500, "new")
    assert (bad.observed[0].user_ok, bad.observed[0].fallback) == (False, False)


async def test_a_reset_in_the_middle_of_a_streamed_answer_is_not_a_clean_end(
    start: Start, servers: Servers
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    running = await start(await servers.raw(break_off))
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked"):
        await running.client.get("/")
    (seen,) = await running.observations(1)
    assert (seen.ok, seen.user_ok, seen.error) == (False, False, "target-reset")
    assert running.gateway.counters.unfinished == 1


async def test_a_reset_in_the_middle_of_a_large_answer_is_not_a_clean_end(
    start: Start, servers: Servers
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
        await writer.drain()
        await asyncio.sleep(0.05)

    running = await start(await servers.raw(break_off))
    with pytest.raises(httpx.RemoteProtocolError):
        await running.client.get("/")


async def test_an_answer_that_stalls_in_the_middle_is_given_up(
    start: Start, servers: Servers
) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        await reader.read()

    running = await start(await servers.raw(stall), limits=Limits(timeout=0.1))
    with pytest.raises(httpx.RemoteProtocolError):
        await running.client.get("/")
    assert (await running.observations(1))[0].error == "target-timeout"
