"""What passes the gateway, byte for byte, and what does not."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import httpx
import pytest

from aura.gateway.client import Receive, Scope, Send
from aura.gateway.http_target import Limits
from aura.gateway.units import UnitSource
from tests.gateway.conftest import (
    Servers,
    Start,
    app_of,
    free_port,
    named,
    read_body,
    reply,
    split_of,
)


async def mirror_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it saw."""
    body = await read_body(receive)
    await reply(
        send,
        {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [[n.decode(), v.decode("latin-1")] for n, v in scope["headers"]],
            "body": body.decode("latin-1"),
        },
        headers=[
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"connection", b"x-secret"),
            (b"x-secret", b"hop"),
            (b"keep-alive", b"timeout=9"),
            (b"x-aura-arm", b"forged"),
            (b"x-kept", b"yes"),
        ],
    )


async def seen(start: Start, servers: Servers, **request: Any) -> tuple[httpx.Response, Any]:
    running = await start(await servers.asgi(app_of(mirror_app)))
    response = await running.client.request(**{"method": "POST", "url": "/p", **request})
    return response, response.json()


async def test_fields_pass_in_both_directions(start: Start, servers: Servers) -> None:
    response, saw = await seen(
        start,
        servers,
        headers=[
            ("x-own", "1"),
            ("x-twice", "a"),
            ("x-twice", "b"),
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "gone"),
            ("te", "trailers"),
            ("proxy-authorization", "secret"),
            ("x-aura-arm", "forged"),
            ("x-aura-shadow", "1"),
            ("x-forwarded-for", "6.6.6.6"),
            ("via", "1.0 before"),
        ],
        content=b"hello",
    )
    fields = [(name, value) for name, value in saw["headers"]]
    names = {name for name, _ in fields}
    assert ("x-own", "1") in fields
    assert [value for name, value in fields if name == "x-twice"] == ["a", "b"]
    assert not names & {"connection", "x-hop", "te", "proxy-authorization", "keep-alive"}
    assert not [name for name in names if name.startswith("x-aura-")]
    assert ("x-forwarded-for", "127.0.0.1") in fields
    assert ("x-forwarded-proto", "http") in fields
    assert [value for name, value in fields if name == "via"] == ["1.0 before", "1.1 aura"]
    assert [value for name, value in fields if name == "content-length"] == ["5"]
    host = dict(fields)["host"]
    assert host.startswith("127.0.0.1:")
    assert host != dict(fields)["x-forwarded-host"] == response.request.headers["host"]
    assert saw["body"] == "hello"
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-kept"] == "yes"
    assert response.headers["x-aura-arm"] == "legacy"
    assert "x-secret" not in response.headers
    assert "keep-alive" not in response.headers
    assert len(response.headers.get_list("date")) == 1


async def test_trusted_forwarding_fields_are_continued(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(app_of(mirror_app)), trust_forwarded=True)
    response = await running.client.get(
        "/",
        headers={
            "x-forwarded-for": "1.2.3.4",
            "x-forwarded-proto": "https",
            "x-forwarded-host": "shop.example",
        },
    )
    fields = dict(response.json()["headers"])
    assert fields["x-forwarded-for"] == "1.2.3.4, 127.0.0.1"
    assert fields["x-forwarded-proto"] == "https"
    assert fields["x-forwarded-host"] == "shop.example"
    assert running.observed[0].unit == "address:1.2.3.4"


async def raw_exchange(port: int, data: bytes, *, until_close: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(60):
        got = await (reader.read() if until_close else reader.readuntil(b"\r\n\r\n"))
    writer.close()
    return got


async def test_paths_and_queries_pass_byte_for_byte(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(app_of(mirror_app)))
    target = b"/a%2Fb/%7euser//x;v=1/%e4?q=a+b%20c&&x=[1]&q=%zz"
    got = await raw_exchange(
        running.port, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    saw = json.loads(got.partition(b"\r\n\r\n")[2])
    assert (saw["path"] + "?" + saw["query"]).encode() == target


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nBad Header: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
        (b"GET /a/../b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400),
        (b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + b"a: b\r\n" * 201 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 501),
    ],
)
async def test_malformed_and_unserved_requests_are_refused(
    start: Start, servers: Servers, data: bytes, status: int
) -> None:
    running = await start(await servers.asgi(named("legacy")))
    got = await raw_exchange(running.port, data)
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert running.observed == []


async def test_an_offer_of_http2_is_ignored(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(app_of(mirror_app)))
    got = await raw_exchange(
        running.port,
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    )
    assert got.startswith(b"HTTP/1.1 200 ")
    names = {name for name, _ in json.loads(got.partition(b"\r\n\r\n")[2])["headers"]}
    assert not names & {"upgrade", "http2-settings"}


async def test_problems_are_documents_with_a_code(start: Start, servers: Servers) -> None:
    running = await start(
        await servers.asgi(named("legacy")), route={"path": "/only", "methods": ("POST",)}
    )
    missing = await running.client.post("/other")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json()["code"] == "no-route"
    wrong = await running.client.get("/only")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["code"] == "method-not-allowed"


async def test_head_and_bodiless_statuses(start: Start, servers: Servers) -> None:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        status = int(scope["path"][1:])
        headers = [(b"etag", b'"x"')]
        if scope["method"] == "HEAD":
            headers.append((b"content-length", b"1234"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    running = await start(await servers.asgi(app_of(handle)))
    head = await running.client.head("/200")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1234", b"")
    for status in (204, 304):
        response = await running.client.get(f"/{status}")
        assert (response.status_code, response.content) == (status, b"")
        assert response.headers["etag"] == '"x"'
        assert "transfer-encoding" not in response.headers


async def test_ten_megabytes_both_ways(start: Start, servers: Servers) -> None:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, await read_body(receive))

    running = await start(await servers.asgi(app_of(handle)))
    body = bytes(range(256)) * 40_960
    response = await running.client.post("/", content=body)
    assert hashlib.sha256(response.content).digest() == hashlib.sha256(body).digest()

    async def chunks() -> Any:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    chunked = await running.client.post("/", content=chunks())
    assert hashlib.sha256(chunked.content).digest() == hashlib.sha256(body).digest()


async def test_parts_arrive_before_the_end(start: Start, servers: Servers) -> None:
    go_on = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    running = await start(await servers.asgi(app_of(handle)))
    async with running.client.stream("GET", "/") as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"data: 1\n\n"
        go_on.set()
        assert b"".join([part async for part in parts]) == b"data: 2\n\n"


async def test_parts_of_a_request_arrive_before_its_end(start: Start, servers: Servers) -> None:
    first = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert message["more_body"]
        first.set()
        await reply(send, message["body"] + await read_body(receive))

    async def parts() -> Any:
        yield b"one "
        await asyncio.wait_for(first.wait(), 60)
        yield b"two"

    running = await start(await servers.asgi(app_of(handle)))
    assert (await running.client.post("/", content=parts())).content == b"one two"


async def test_an_http_1_0_client_gets_a_length_instead_of_chunks(
    start: Start, servers: Servers
) -> None:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    running = await start(await servers.asgi(app_of(handle)))
    got = await raw_exchange(running.port, b"GET / HTTP/1.0\r\n\r\n")
    assert b"content-length: 7\r\n" in got
    assert got.endswith(b"\r\n\r\none two")


async def test_sizes_are_limited(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(named("legacy")), max_body=2000, buffer=1000)
    announced = await running.client.post("/", content=b"x" * 2001)
    assert (announced.status_code, announced.json()["code"]) == (413, "body-too-large")

    async def chunks() -> Any:
        for _ in range(300):
            yield b"x" * 10

    grown = await running.client.post("/", content=chunks())
    assert (grown.status_code, grown.json()["code"]) == (413, "body-too-large")
    assert (await running.client.post("/", content=b"x" * 2000)).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(named("legacy")), body_timeout=0.1)
    got = await raw_exchange(
        running.port,
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhal",
        until_close=False,
    )
    assert got.startswith(b"HTTP/1.1 408 ")


async def test_only_so_many_at_once(start: Start, servers: Servers) -> None:
    release = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await reply(send, b"done")

    running = await start(await servers.asgi(app_of(handle)), max_concurrent=2)
    held = [asyncio.create_task(running.client.get("/")) for _ in range(2)]
    while running.gateway.active < 2:
        await asyncio.sleep(0.001)
    refused = await running.client.get("/")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    release.set()
    assert [response.status_code for response in await asyncio.gather(*held)] == [200, 200]
    assert (await running.client.get("/")).status_code == 200


async def test_a_client_that_leaves_ends_the_call(start: Start, servers: Servers) -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        begun.set()
        if (await receive())["type"] == "http.disconnect":
            ended.set()

    running = await start(await servers.asgi(app_of(handle)))
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    await asyncio.wait_for(begun.wait(), 60)
    writer.close()
    await asyncio.wait_for(ended.wait(), 60)
    (seen_,) = await running.observations(1)
    assert (seen_.error, seen_.user_ok) == ("client-gone", False)
    async with asyncio.timeout(60):
        while running.gateway.active:  # the call ends after it was observed
            await asyncio.sleep(0.002)
    assert running.gateway.counters.clients_gone == 1


async def test_a_client_that_leaves_in_the_middle_of_an_endless_answer_ends_it(
    start: Start, servers: Servers
) -> None:
    ended = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
            await asyncio.sleep(0.005)
        ended.set()

    running = await start(await servers.asgi(app_of(handle)))
    async with running.client.stream("GET", "/") as response:
        assert await anext(response.aiter_raw()) == b"tick"
    await asyncio.wait_for(ended.wait(), 60)


async def test_a_client_that_leaves_in_its_own_upload(start: Start, servers: Servers) -> None:
    ended = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    running = await start(await servers.asgi(app_of(handle)))
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 200_000)
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.close()
    await asyncio.wait_for(ended.wait(), 60)
    (seen_,) = await running.observations(1)
    assert seen_.error == "client-gone"


async def test_a_target_that_is_down(start: Start) -> None:
    running = await start(free_port())
    response = await running.client.post("/", content=b"{}")
    assert (response.status_code, response.json()["code"]) == (502, "target-unreachable")
    assert response.headers["x-aura-arm"] == "legacy"
    assert "127.0.0.1" not in response.text
    (seen_,) = running.observed
    assert (seen_.ok, seen_.user_ok, seen_.error) == (False, False, "target-unreachable")


async def test_a_target_that_never_answers(start: Start, servers: Servers) -> None:
    running = await start(
        await servers.asgi(named("legacy", seconds=30)), limits=Limits(timeout=0.1)
    )
    response = await running.client.get("/")
    assert (response.status_code, response.json()["code"]) == (504, "target-timeout")


async def test_a_unit_stays_on_its_arm(start: Start, servers: Servers) -> None:
    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(named("new")),
        split=split_of(0.5),
        route={"unit": UnitSource("header", "x-user-id")},
    )
    arms: dict[str, set[str]] = {}
    for _ in range(3):
        for unit in map(str, range(20)):
            response = await running.client.get("/", headers={"x-user-id": unit})
            assert response.json()["from"] == response.headers["x-aura-arm"]
            arms.setdefault(unit, set()).add(response.headers["x-aura-arm"])
    assert all(len(seen_) == 1 for seen_ in arms.values())
    assert {next(iter(seen_)) for seen_ in arms.values()} == {"legacy", "new"}
    assert {o.unit for o in running.observed} == set(arms)
    assert all(o.share == 0.5 and o.epoch == 1 and o.ok for o in running.observed)
    assert running.gateway.counters.units_missing == 0


@pytest.mark.parametrize(
    ("source", "request_", "unit"),
    [
        (UnitSource("cookie", "uid"), {"headers": {"cookie": 'a=b; uid="u1"; c=d'}}, "u1"),
        (UnitSource("body", "user.id"), {"content": b'{"user": {"id": 7}}'}, "7"),
        (UnitSource("body", "user.id"), {"content": b'{"user": {}}'}, "address:127.0.0.1"),
        (UnitSource("body", "user.id"), {"content": b"no json"}, "address:127.0.0.1"),
        (UnitSource("body", "id"), {"content": b'{"id": true}'}, "address:127.0.0.1"),
        (UnitSource("header", "x-u"), {}, "address:127.0.0.1"),
        (
            UnitSource("header", "x-u"),
            {"headers": {"x-u": "u" * 300}},
            "sha256:" + hashlib.sha256(b"u" * 300).hexdigest(),
        ),
        (None, {}, "address:127.0.0.1"),
    ],
)
async def test_where_units_come_from(
    start: Start, servers: Servers, source: UnitSource | None, request_: Any, unit: str
) -> None:
    running = await start(await servers.asgi(named("legacy")), route={"unit": source})
    await running.client.post("/", **request_)
    (seen_,) = running.observed
    assert seen_.unit == unit
    assert running.gateway.counters.units_missing == unit.startswith("address:")


async def test_the_newest_epoch_is_obeyed_and_never_an_older_one(
    start: Start, servers: Servers
) -> None:
    running = await start(
        await servers.asgi(named("legacy")),
        await servers.asgi(named("new")),
        split=split_of(1.0, epoch=5),
    )
    assert (await running.client.get("/")).json()["from"] == "new"
    assert running.holder.offer(split_of(0.0, epoch=6))
    assert (await running.client.get("/")).json()["from"] == "legacy"
    for epoch in (6, 5, 1):
        assert not running.holder.offer(split_of(1.0, epoch=epoch))
        assert (await running.client.get("/")).json()["from"] == "legacy"
    assert [o.epoch for o in running.observed] == [5, 6, 6, 6, 6]
