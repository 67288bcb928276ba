"""A strict HTTP/1.1 target on bare streams, and malformed requests by the dozen."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
LINE = re.compile(rb"[A-Z]+ /[!-~]* HTTP/1\.1")
MOST = 2**20


@dataclass(slots=True)
class Seen:
    """A request as it reached the target."""

    method: bytes
    path: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]


@dataclass
class Recorder:
    """Answers well-formed requests and keeps them; `wrong` is what was not well-formed."""

    seen: list[Seen] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (one := await self._request(reader)) is not None:
                self.seen.append(one)
                answer = b'{"length":%d}' % len(one.body)
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer)
                writer.write(head + (b"" if one.method == b"HEAD" else answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client's request broke off, and so did this one
        except ValueError as error:
            self.wrong.append(str(error))
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> Seen | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ValueError(f"half a head: {error.partial!r:.200}") from None
            return None
        line, *lines = head[:-4].split(b"\r\n")
        if not LINE.fullmatch(line):
            raise ValueError(f"a bad request line: {line!r:.200}")
        fields = [_field(one) for one in lines]
        method, path, _ = line.split(b" ")
        one = Seen(method, path, fields, b"")
        length, coding = one.all(b"content-length"), one.all(b"transfer-encoding")
        if len(length) + len(coding) > 1 or coding not in ([], [b"chunked"]):
            raise ValueError(f"two ways to say where a body ends: {fields!r:.300}")
        if coding:
            one.body = await _chunks(reader)
        elif length:
            one.body = await reader.readexactly(int(length[0]))
        return one


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not TOKEN.fullmatch(name) or any(one in value for one in b"\0\r\n"):
        raise ValueError(f"a bad field: {line!r:.200}")
    return name, value.strip()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = (await reader.readuntil(b"\r\n"))[:-2]
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            raise ValueError(f"a bad size of a chunk: {size!r:.100}")
        part = await reader.readexactly(int(size, 16) + 2)
        if part[-2:] != b"\r\n" or len(body) > MOST:
            raise ValueError("a chunk that does not end")
        if len(part) == 2:
            return body
        body += part[:-2]


# What a client may send that is not as it should be. `OTHER` stands for another server's address.

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
SECRET = b"Authorization: Bearer aura_0123456789ab_" + b"s" * 43

SESSION = b"Cookie: a=1; aura_session=s3cret; __Host-aura_session=x; b=aura_session"


def head(*fields: bytes, line: bytes = b"POST /work/a HTTP/1.1", host: bytes = b"x") -> bytes:
    return b"\r\n".join((line, b"Host: " + host, *fields)) + b"\r\n\r\n"


Case = Callable[[random.Random, bytes], bytes]


def bad_line(chance: random.Random, other: bytes) -> bytes:
    return head(
        line=chance.choice(
            [
                b"", b"GET", b"GET /work/a", b"GET  /work/a  HTTP/1.1", b"GET /work/a HTTP/9.9",
                b"GET /work/a HTTP/1.1 extra", b"G\0T /work/a HTTP/1.1", b"get /work/a http/1.1",
                b"GET /work/\x80\xff HTTP/1.1", b"GET /work/a\0b HTTP/1.1", b"\x16\x03\x01\x02",
                b"GET /work/" + b"a" * chance.choice([100, 8_000, 70_000]) + b" HTTP/1.1",
                b"PRI * HTTP/2.0", b"OPTIONS * HTTP/1.1", b"CONNECT " + other + b" HTTP/1.1",
                b"A" * 300 + b" /work/a HTTP/1.1", b"GET /work/%zz%00%0d%0a HTTP/1.1",
                b"GET /work/../../smuggled HTTP/1.1", b"GET /work/a\r\n HTTP/1.1",
            ]
        )
    )  # fmt: skip


def elsewhere(chance: random.Random, other: bytes) -> bytes:
    """Requests that name another server in every place where one can be named."""
    line = chance.choice(
        [
            b"GET http://" + other + b"/work/a HTTP/1.1",
            b"GET //" + other + b"/work/a HTTP/1.1",
            b"GET /work/http://" + other + b"/ HTTP/1.1",
            b"GET /work/a?url=http://" + other + b" HTTP/1.1",
            b"GET /work//" + other + b"/../.. HTTP/1.1",
            b"GET /work/@" + other + b" HTTP/1.1",
        ]
    )
    named = (b"X-Forwarded-Host", b"Forwarded", b"X-Original-URL", b"X-Rewrite-URL", b"X-Host",
             b"Proxy", b"X-Aura-Target", b"X-Aura-Arm", b"Destination")  # fmt: skip
    fields = [name + b": http://" + other for name in named]
    return head(*fields, SECRET, SESSION, line=line, host=other)


def two_lengths(chance: random.Random, _: bytes) -> bytes:
    """Content-Length and Transfer-Encoding that disagree, in spellings that have fooled proxies."""
    coding = chance.choice(
        [
            b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked",
            b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity",
            b"Transfer-encoding: CHUNKED", b"X: y\nTransfer-Encoding: chunked",
            b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        ]
    )  # fmt: skip
    length = chance.choice(
        [b"4", b"0", b"%d" % (5 + len(SMUGGLED)), b"+4", b"-1", b"4, 4", b"0x4", b"", b"9" * 30]
    )
    fields = [coding, b"Content-Length: " + length]
    if chance.random() < 0.5:
        fields.reverse()
    if chance.random() < 0.3:
        fields.append(b"Content-Length: %d" % chance.randrange(100))
    return head(*fields) + b"0\r\n\r\n" + SMUGGLED


def bad_chunks(chance: random.Random, _: bytes) -> bytes:
    body = chance.choice(
        [
            b"5\r\nab\r\n0\r\n\r\n", b"-1\r\n\r\n", b"zz\r\nab\r\n0\r\n\r\n",
            b"2\r\nabc\r\n0\r\n\r\n",
            b"ffffffffffffffffff\r\na", b"2;a=" + b"x" * 70_000 + b"\r\nab\r\n0\r\n\r\n",
            b"2\nab\n0\n\n", b"0x2\r\nab\r\n0\r\n\r\n", b"2 \r\nab\r\n0\r\n\r\n", b"\r\n\r\n",
            b"2\r\nab\r\n0\r\nContent-Length: 99\r\nHost: y\r\n\r\n", b"1\r\na\r\n" * 500,
            b"2\r\nab" + SMUGGLED, b"0\r\n" + SMUGGLED,
        ]
    )  # fmt: skip
    return head(b"Transfer-Encoding: chunked") + body


def bad_fields(chance: random.Random, _: bytes) -> bytes:
    return head(
        chance.choice(
            [
                b"X-A: a\0b", b"X\0: a", b": a", b"no colon", b"X A: b", b" folded: a",
                b"X: a\r\n folded", b"X: " + b"a" * chance.choice([9_000, 70_000, 300_000]),
                b"\r\n".join(b"X-%d: a" % at for at in range(chance.choice([150, 5_000]))),
                b"X: \xff\xfe\x80", b"Host: y", b"Connection: close, host, x-user",
                b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
                b"Upgrade: websocket\r\nConnection: upgrade", b"Expect: 100-continue, x",
                b"Expect: nonsense", b"X: a\rb: c", b"X: a\nInjected: yes", b"TE: trailers",
                b"Content-Length: 2\r\nContent-Length: 2", b"Content-Encoding: gzip",
            ]
        ),
        b"Content-Length: 2",
    ) + b"{}"  # fmt: skip


def broken_off(chance: random.Random, _: bytes) -> bytes:
    """Less than was promised; the connection is closed, or half of it, or left open."""
    whole = head(b"Content-Length: 50", b"X-User: u") + b"x" * 50
    return whole[: chance.randrange(1, len(whole))]


def one_after_the_other(chance: random.Random, _: bytes) -> bytes:
    """Requests that do not wait for answers, some of them nonsense."""
    parts = [
        head(b"Content-Length: 2") + b"{}",
        head(line=b"GET /work/b HTTP/1.1"),
        head(b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        SMUGGLED,
        head(line=b"HEAD /work/c HTTP/1.1"),
        b"\r\n\r\n",
        bytes(chance.randrange(256) for _ in range(20)),
    ]
    return b"".join(chance.choices(parts, k=chance.randrange(2, 12)))


def damaged(chance: random.Random, _: bytes) -> bytes:
    """A good request, some bytes of which are others."""
    whole = bytearray(head(SECRET, b"Content-Length: 20", b"X-User: u") + b'{"text": "aaaaaaaa"}')
    for _step in range(chance.randrange(1, 6)):
        whole[chance.randrange(len(whole))] = chance.choice(b"\0\r\n :/\x7f\x80\xff%aZ0")
    return bytes(whole)


CASES: tuple[Case, ...] = (
    bad_line, elsewhere, two_lengths, two_lengths, bad_chunks, bad_fields, broken_off,
    one_after_the_other, damaged,
)  # fmt: skip


async def provoke(port: int, data: bytes, chance: random.Random, patience: float) -> list[int]:
    """Send it, in pieces now and then; the statuses of the answers that came until there were no
    more for so many seconds, or the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    got = b""
    pieces = chance.choice([1, 1, 2, 5])
    end, linger = chance.random() < 0.3, chance.random() < 0.5
    with contextlib.suppress(OSError):  # it was closed, or nothing more came in time
        for at in range(pieces):
            writer.write(data[len(data) * at // pieces : len(data) * (at + 1) // pieces])
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.write_eof()
        while True:
            async with asyncio.timeout(patience):
                part = await reader.read(65_536)
            if not part:
                break
            got += part
    if linger:
        writer.close()
    else:
        writer.transport.abort()
    return [int(one) for one in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", got, re.MULTILINE)]
