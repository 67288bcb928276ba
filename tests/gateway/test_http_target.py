"""HTTP services on bare sockets: framing, pooling, uploads, and how a failed call is told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from aura.errors import RequestRefused, TargetFailed, TargetTimeout
from aura.gateway.client import BodyStream, Client, ClientGone, Message
from aura.gateway.http_target import READ_AHEAD, HttpTarget, Limits
from aura.gateway.targets import Answer, Request
from tests.gateway.conftest import Handler, Servers, named
from tests.gateway.test_fallback import take_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ask(target: bytes = b"/", method: str = "GET", **fields: Any) -> Request:
    return Request("/*", method, target, **{"headers": (), "body": b"", **fields})


def streamed(parts: AsyncGenerator[bytes, None], length: int | None = None) -> BodyStream:
    """A body that the client sends part by part; the generator's own errors are the client's."""

    async def receive() -> Message:
        part = await anext(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    return Client(receive, length=length, limit=2**30, patience=5).stream()


async def whole(answer: Answer) -> bytes:
    return b"".join([part async for part in answer.parts()])


def scripted(*answers: bytes, stay: bool = True) -> tuple[list[bytes], Handler]:
    """A server that gives one answer per request and writes down the requests."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            seen.append(await take_request(reader))
            writer.write(answer)
            await writer.drain()
        if stay:
            await reader.read()

    return seen, handle


Serve = Callable[..., Awaitable[HttpTarget]]


@pytest.fixture
def serve(servers: Servers) -> Serve:
    """A target in front of a handler of bare connections, or of a port."""

    async def run(service: Handler | int, limits: Limits | None = None) -> HttpTarget:
        port = service if isinstance(service, int) else await servers.raw(service)
        target = HttpTarget(f"http://127.0.0.1:{port}", limits=limits or Limits(timeout=60))
        servers.stack.push_async_callback(target.close)
        return target

    return run


async def test_a_connection_serves_one_request_after_the_other(serve: Serve) -> None:
    seen, handler = scripted(OK, b"HTTP/1.1 204 No Content\r\n\r\n", OK)
    target = await serve(handler)
    assert await whole(await target.call(ask(b"/1"))) == b"ok"
    assert (await target.call(ask(b"/2"))).status == 204
    assert await whole(await target.call(ask(b"/3"))) == b"ok"
    assert [head.split(b" ")[1] for head in seen] == [b"/1", b"/2", b"/3"]


async def test_nothing_is_added_to_a_request_and_its_bytes_stay(serve: Serve) -> None:
    seen, handler = scripted(OK, OK, OK)
    target = await serve(handler)
    fields = ((b"x-a", "é".encode()), (b"cookie", b'a="b;c"'), (b"x-a", b"2"))
    await target.call(ask(b"/%7e//x?&a=%zz", headers=fields))
    await target.call(ask(method="POST", headers=fields, body=b"12345"))
    await target.call(ask(method="POST"))
    host = seen[0].split(b"\r\n")[1]
    assert host.lower().startswith(b"host: 127.0.0.1:")
    lines = '\r\nx-a: é\r\ncookie: a="b;c"\r\nx-a: 2\r\n'.encode()
    assert seen == [
        b"GET /%7e//x?&a=%zz HTTP/1.1\r\n" + host + lines + b"\r\n",
        b"POST / HTTP/1.1\r\n" + host + lines + b"content-length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"\r\ncontent-length: 0\r\n\r\n",
    ]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: 1\r\n\r\n",
            b"ab",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + OK, b"ok"),
        (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX: y\r\n\r\nforged", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nno", b"no"),
        (b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 60_000 + OK[15:], b"ok"),
    ],
)
async def test_every_framing(serve: Serve, answer: bytes, body: bytes) -> None:
    _, handler = scripted(answer, stay=False)
    got = await (await serve(handler)).call(ask())
    assert (got.status, await whole(got)) == (200, body)
    assert [name for name, _ in got.headers if name in (b"a", b"x", b"t")] == []


@pytest.mark.parametrize(
    "answer",
    [
        b"220 smtp.example ready\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rforged: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x07b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"Content-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_answer(serve: Serve, answer: bytes) -> None:
    _, handler = scripted(answer)
    with pytest.raises(TargetFailed) as caught:
        await (await serve(handler)).call(ask())
    assert caught.value.code == "target-bad-response"


@pytest.mark.parametrize(
    ("rest", "code", "timeout"),
    [
        (b"5\r\nab", "target-reset", 60.0),
        (b"zz\r\n", "target-timeout", 1.0),  # aiohttp stops reading and says nothing
        (b"\r\n\r\n", "target-timeout", 1.0),
    ],
)
async def test_chunks_that_break_off_or_are_none(
    serve: Serve, rest: bytes, code: str, timeout: float
) -> None:
    headed = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await headed.wait()
        writer.write(rest)

    answer = await (await serve(handle, Limits(timeout=timeout))).call(ask())
    headed.set()
    with pytest.raises(TargetFailed) as caught:
        await whole(answer)
    assert caught.value.code == code


@pytest.mark.parametrize("later", [False, True])
async def test_an_answer_that_nobody_asked_for_is_not_given_to_the_next(
    serve: Serve, later: bool
) -> None:
    """It comes with the one that was asked for, or when that has been read."""
    read, forged = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(OK)
        if later:
            await read.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        forged.set()
        await reader.read()

    target = await serve(handle)
    for _ in range(3):
        assert await whole(await target.call(ask())) == b"ok"
        read.set()
        await forged.wait()
        read.clear()
        forged.clear()
        for _ in range(10):
            await asyncio.sleep(0.001)  # each one looks at the sockets


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", OK),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n" + OK),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n"),
        ("GET", OK + b"more"),
    ],
)
async def test_more_than_was_announced_is_no_answer_and_not_given_to_the_next(
    serve: Serve, method: str, answer: bytes
) -> None:
    answers = [answer, b"HTTP/1.1 200 OK\r\nX: own\r\nContent-Length: 0\r\n\r\n"]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(answers.pop(0))
        await reader.read()

    target = await serve(handle)
    with pytest.raises(TargetFailed) as caught:
        await target.call(ask(method=method))
    assert caught.value.code == "target-bad-response"
    assert (b"x", b"own") in (await target.call(ask(method=method))).headers


async def test_a_connection_closed_while_idle_is_replaced(serve: Serve) -> None:
    seen, handler = scripted(OK, stay=False)
    target = await serve(handler)
    for _ in range(3):
        assert await whole(await target.call(ask())) == b"ok"
        await asyncio.sleep(0.02)
    assert len(seen) == 3


def closes_under_the_second(connections: list[int]) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await take_request(reader)
        writer.write(OK)
        if len(connections) == 1:
            await take_request(reader)  # and close without a word
        else:
            await reader.read()

    return handle


@pytest.mark.parametrize(
    ("method", "repeatable"), [("POST", True), ("POST", False), ("PUT", False), ("GET", False)]
)
async def test_a_connection_closed_under_the_request_is_tried_again_if_that_is_safe(
    serve: Serve, method: str, repeatable: bool
) -> None:
    connections: list[int] = []
    target = await serve(closes_under_the_second(connections))
    request = ask(method=method, body=b"" if method == "GET" else b"x", repeatable=repeatable)
    assert await whole(await target.call(request)) == b"ok"
    if safe := repeatable or method != "POST":
        assert await whole(await target.call(request)) == b"ok"
    else:
        with pytest.raises(TargetFailed) as caught:
            await target.call(request)
        assert caught.value.code == "target-reset"
    assert len(connections) == 1 + safe


async def test_a_streamed_body_is_never_sent_again_in_part(serve: Serve) -> None:
    connections: list[int] = []
    target = await serve(closes_under_the_second(connections))
    assert await whole(await target.call(ask())) == b"ok"

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"abc"

    upload = ask(method="PUT", body=streamed(parts(), 3), repeatable=True, announced=True)
    with pytest.raises(TargetFailed) as caught:
        await target.call(upload)
    assert caught.value.code == "target-reset"
    assert len(connections) <= 2


async def test_a_service_that_dies_of_a_request_gets_it_once(serve: Serve) -> None:
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await take_request(reader))

    with pytest.raises(TargetFailed) as caught:
        await (await serve(handle)).call(ask(method="POST", body=b"x", repeatable=True))
    assert (caught.value.code, len(seen)) == ("target-reset", 1)


async def test_an_idle_connection_is_closed_in_time(serve: Serve) -> None:
    closed = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(OK)
        await reader.read()
        closed.set()

    target = await serve(handle, Limits(idle=0.05))
    await whole(await target.call(ask()))
    await asyncio.wait_for(closed.wait(), 60)


async def test_a_full_pool_is_a_timeout_and_not_a_queue_without_end(
    serve: Serve, servers: Servers
) -> None:
    _, handler = scripted(b"HTTP/1.1 200 OK\r\n\r\npart", OK)
    target = await serve(handler, Limits(connect=1.0, connections=1))
    held = await target.call(ask())
    with pytest.raises(TargetTimeout) as caught:
        await target.call(ask())
    assert caught.value.code == "target-unreachable"
    held.close()
    again = await serve(await servers.asgi(named("t")), Limits(connect=60, connections=1))
    for _ in range(3):
        assert (await again.call(ask(method="HEAD"))).status == 200


async def test_a_service_that_does_not_speak_tls(servers: Servers) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no TLS here\n")
        await reader.read()

    target = HttpTarget(f"https://127.0.0.1:{await servers.raw(handle)}", limits=Limits(timeout=60))
    with pytest.raises(TargetFailed, match="no connection") as caught:
        await target.call(ask())
    assert caught.value.code == "target-unreachable"
    assert "127.0.0.1" not in str(caught.value)
    await target.close()


async def test_a_certificate_that_nobody_trusts(
    serve: Serve, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = aiohttp.client_reqrep.ConnectionKey("h", 1, True, True, None, None, None)

    async def refuse(*_: object) -> None:
        untrusted = ssl.SSLCertVerificationError("self-signed certificate of 10.0.0.1")
        raise aiohttp.ClientConnectorCertificateError(key, untrusted) from untrusted

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", refuse)
    with pytest.raises(TargetFailed, match=r"no connection \(SSLCertVerificationError\)") as caught:
        await (await serve(1)).call(ask())
    assert caught.value.code == "target-unreachable"


async def test_an_early_answer_to_an_upload_is_passed_on(serve: Serve) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await reader.read()

    taken: list[int] = []

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            taken.append(1)
            yield b"x" * 1000
            await asyncio.sleep(0.001)

    answer = await (await serve(handle)).call(ask(method="POST", body=streamed(endless())))
    assert (answer.status, await whole(answer)) == (413, b"no")
    count = -1
    async with asyncio.timeout(60):
        while count != len(taken):
            count = len(taken)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("error", [ClientGone(), RequestRefused("slow", status=408, code="slow")])
async def test_an_upload_that_fails_fails_the_request_with_its_own_error(
    serve: Serve, error: Exception
) -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.set()

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise error

    target = await serve(handle)
    with pytest.raises(type(error)) as caught:
        await target.call(ask(method="POST", body=streamed(broken(), 9)))
    assert caught.value is error
    await asyncio.wait_for(ended.wait(), 60)


async def test_an_upload_that_fails_after_the_answer_began_breaks_the_answer_off(
    serve: Serve,
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await reader.read()

    headed = asyncio.Event()

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"x"
        await headed.wait()
        raise RequestRefused("slow", status=408, code="slow")

    answer = await (await serve(handle)).call(ask(method="POST", body=streamed(broken())))
    headed.set()
    with pytest.raises(TargetFailed) as caught:
        await whole(answer)
    assert caught.value.code == "target-reset"


async def test_a_client_that_takes_its_time_does_not_make_the_service_late(serve: Serve) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.readexactly(2)
        writer.write(b"2\r\nok\r\n0\r\n\r\n")

    async def slow() -> AsyncGenerator[bytes, None]:
        yield b"a"
        await asyncio.sleep(2.5)
        yield b"b"

    target = await serve(handle, Limits(timeout=1.0))
    body = streamed(slow(), 2)
    answer = await target.call(ask(method="POST", body=body, announced=True))
    assert await whole(answer) == b"ok"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_target_that_reads_nothing_is_given_up(serve: Serve, stream: bool) -> None:
    over = asyncio.Event()
    read: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # no public way
        await over.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        try:
            while part := await reader.read(2**20):
                read.append(len(part))
        finally:
            read.append(0)

    async def large() -> AsyncGenerator[bytes, None]:
        yield b"x" * 60_000_000

    target = await serve(handle, Limits(timeout=0.1))
    body = streamed(large()) if stream else b"x" * 60_000_000
    with pytest.raises(TargetTimeout) as caught:
        await target.call(ask(method="POST", body=body))
    assert caught.value.code == "target-timeout"
    over.set()
    async with asyncio.timeout(60):
        while not read or read[-1]:
            await asyncio.sleep(0.005)
    assert sum(read) < 60_000_000  # what was not sent then is not sent any more


async def test_a_client_whose_body_nobody_reads_any_more_is_watched_again(serve: Serve) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # no public way
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nendless")
        await asyncio.sleep(60)

    messages: list[Message] = [
        {"type": "http.request", "body": b"x" * 60_000_000, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    client = Client(receive, length=None, limit=2**30, patience=5)
    answer = await (await serve(handle)).call(ask(method="POST", body=client.stream()))
    gone = asyncio.create_task(client.gone())
    await asyncio.sleep(0.02)
    assert not gone.done()
    answer.close()
    await asyncio.wait_for(gone, 60)


async def test_a_reader_who_takes_his_time_holds_the_sender_back(serve: Serve) -> None:
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        for _ in range(2000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    answer = await (await serve(handle)).call(ask())
    await asyncio.sleep(0.2)
    assert sent < 50_000_000  # what the kernel's buffers take, not the whole answer
    part = await anext(answer.parts())
    assert READ_AHEAD < len(part) < 2_000_000
    answer.close()


@pytest.mark.parametrize(
    "request_",
    [
        ask(b"/a b"),
        ask(b"/a\r\nx: y"),
        ask(headers=((b"x", b"a\r\nforged: 1"),)),
        ask(headers=((b"x", b"a\nforged: 1"),)),
        ask(headers=((b"x", b"a\0b"),)),
    ],
)
async def test_bytes_that_would_forge_a_line_are_refused(serve: Serve, request_: Request) -> None:
    seen, handler = scripted(OK)
    with pytest.raises(TargetFailed) as caught:
        await (await serve(handler)).call(request_)
    assert (caught.value.code, seen) == ("unsafe-header", [])


@pytest.mark.parametrize(
    ("request_", "field"), [(ask(b"/?q=\xe9"), "path"), (ask(headers=((b"x", b"\xe9"),)), "x")]
)
async def test_bytes_that_cannot_be_passed_on_are_refused_and_not_changed(
    serve: Serve, request_: Request, field: str
) -> None:
    seen, handler = scripted(OK)
    with pytest.raises(RequestRefused, match="not UTF-8") as caught:
        await (await serve(handler)).call(request_)
    assert (caught.value.status, caught.value.field, seen) == (400, field, [])
