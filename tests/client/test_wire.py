"""Servers that are away, busy, broken or not Aura: what is sent again, what not, what is told."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest

from aura.client import Client
from aura.client.events import EventParser, ServerEvent
from aura.clock import SystemClock
from aura.errors import (
    AccessDenied,
    AuraError,
    ConfigError,
    RunNotFound,
    ServerUnavailable,
    StoreUnavailable,
)
from tests.gateway.conftest import Servers, free_port

TOKEN = "aura_0123456789ab_" + "s3cret" * 6
RUN = {
    "id": "r", "workflow": "w", "version": "1.0.0", "state": "running", "worker": None,
    "created_at": "2026-03-01T00:00:00Z", "started_at": None, "finished_at": None,
    "seconds": None, "wake_at": None, "epoch": 1, "recoveries": 0, "cancel_requested": False,
    "error": None, "queue": None, "key": "", "priority": 0, "news": "fields may be added",
}  # fmt: skip


class PatientClock(SystemClock):
    """Time passes by sleeping only."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Script:
    """A server that answers one request after the other as it was told; the last one for ever."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(one.lower().split(b": ", 1) for one in head.split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(fields.get(b"content-length", 0)))
            self.requests.append((head.decode(), body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer is None:
                return  # closes the connection without a word
            writer.write(answer)
            await writer.drain()
            if b"connection: close" in answer:
                return


def said(status: int, body: object, *headers: str, kind: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def problem(status: int, code: str, *headers: str) -> bytes:
    body = {"type": "about:blank", "status": status, "code": code, "detail": f"it is {code}."}
    return said(status, body, *headers, kind="application/problem+json")


BUSY = problem(503, "store-unavailable")
RUNS = said(200, {"runs": [RUN], "next": None})


async def client_of(servers: Servers, script: Script, clock: PatientClock) -> Client:
    url = f"http://127.0.0.1:{await servers.raw(script)}"
    return Client(url, token=TOKEN, patience=30.0, clock=clock)


async def test_what_may_be_repeated_is_until_it_is_answered(servers: Servers) -> None:
    slow = problem(429, "rate-limited", "retry-after: 3")
    script = Script(BUSY, BUSY, slow, said(502, b"bad gateway", kind="text/html"), RUNS)
    clock = PatientClock()
    async with await client_of(servers, script, clock) as app:
        [run] = await app.runs()
    assert (run.id, run.owner, run.created_at) == ("r", None, 1_772_323_200.0)
    assert len(clock.slept) == 4
    assert clock.slept[2] == 3.0
    assert all(0.05 <= wait <= 2.0 for wait in clock.slept[:2])
    heads = {head.split("\r\n")[0] for head, _ in script.requests}
    assert heads == {"GET /api/v1/runs?limit=200 HTTP/1.1"}


async def test_a_start_that_is_repeated_is_one_run(servers: Servers) -> None:
    script = Script(None, None, BUSY, said(201, RUN))
    async with await client_of(servers, script, PatientClock()) as app:
        await app.start("w", 1, text="a")
    sent = [json.loads(body) for _, body in script.requests]
    assert len(sent) == 4
    assert len({one["id"] for one in sent}) == 1
    assert sent[0]["arguments"] == [1]
    assert sent[0]["input"] == {"text": "a"}


@pytest.mark.parametrize("answers", [(None, RUNS), (BUSY, RUNS)])
async def test_what_might_be_done_twice_is_not_repeated(
    servers: Servers, answers: Sequence[bytes | None]
) -> None:
    script = Script(*answers)
    async with await client_of(servers, script, PatientClock()) as app:
        with pytest.raises(StoreUnavailable):
            await app.bulk("retry", state="failed")
        assert len(script.requests) == 1
        script.answers = [problem(429, "rate-limited"), problem(409, "run-conflict")]
        with pytest.raises(AuraError, match="run-conflict"):  # it certainly was not done before
            await app.bulk("retry", state="failed")
    assert len(script.requests) == 3


async def test_patience_has_an_end(servers: Servers) -> None:
    clock = PatientClock()
    async with await client_of(servers, Script(BUSY), clock) as app:
        with pytest.raises(StoreUnavailable, match="it is store-unavailable"):
            await app.runs()
        assert 28 <= sum(clock.slept) <= 30
        slept = len(clock.slept)
        script = Script(problem(429, "locked-out", "retry-after: 300"))
        async with await client_of(servers, script, clock) as other:
            with pytest.raises(ServerUnavailable, match="locked-out"):
                await other.runs()
        assert len(clock.slept) == slept  # 300 seconds are more than it has
    gone = Client(f"http://127.0.0.1:{free_port()}", clock=clock, patience=1)
    async with gone as app:
        with pytest.raises(ServerUnavailable, match=r"cannot be reached: .*\. Nothing was done"):
            await app.run("r").signal("go")
    with pytest.raises(ConfigError, match="not open"):
        await gone.runs()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (problem(404, "run-not-found"), RunNotFound, "it is run-not-found"),
        (problem(401, "token-expired"), AccessDenied, "aura token create"),
        (problem(403, "role-too-low"), AccessDenied, "role-too-low"),
        (problem(404, "not-found"), ConfigError, "older Aura"),
        (problem(418, "tea"), AuraError, "it is tea"),
        (problem(500, "failed"), AuraError, "it is failed"),
        (problem(500, "new-word"), AuraError, "the server failed"),
        (said(200, b"<html>", kind="text/html"), ConfigError, "answers text/html"),
        (said(200, b"{", kind="application/json"), ConfigError, "not JSON"),
        (said(200, {"runs": [{"id": 3}], "next": 1}), AuraError, "another version"),
        (said(404, b"nginx", kind="text/html"), ConfigError, "404"),
        (said(302, b"", "location: http://elsewhere.example/"), ConfigError, "redirect"),
    ],
)  # fmt: skip
async def test_other_answers_are_told(
    servers: Servers, answer: bytes, kind: type[AuraError], says: str
) -> None:
    script = Script(answer)
    async with await client_of(servers, script, PatientClock()) as app:
        with pytest.raises(kind, match=says) as told:
            await app.runs()
    assert len(script.requests) == 1
    if isinstance(told.value, AccessDenied):
        assert told.value.code in ("token-expired", "role-too-low")


async def test_the_token_is_sent_and_shown_nowhere(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    script = Script(None, BUSY, problem(403, "role-too-low"))
    shown = []
    async with await client_of(servers, script, PatientClock()) as app:
        with app.because("ärgerlich, aber nötig"), pytest.raises(AccessDenied) as told:
            await app.run("a/b").cancel()
        shown += [repr(app), repr(vars(app)), repr(app.run("r"))]
        shown.append("".join(traceback.format_exception(told.value)))
    head, body = script.requests[0]
    assert f"authorization: Bearer {TOKEN}" in head
    assert "POST /api/v1/runs/a%2Fb/cancel HTTP/1.1" in head
    assert "aura-reason: %C3%A4rgerlich%2C%20aber%20n%C3%B6tig" in head
    assert body == b"{}"
    assert caplog.messages
    assert "s3cret" not in "".join([*shown, caplog.text])


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://a", "http://", "http://a b", "http://a/?q=1", "http://a:x",
     "http://me:pw@a", "http://ä.example", 7],
)  # fmt: skip
def test_urls_that_are_none(url: object) -> None:
    with pytest.raises(ConfigError) as told:
        Client(url)  # type: ignore[arg-type]
    assert "pw" not in str(told.value)


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "ä", 7])
def test_tokens_that_are_none(token: object) -> None:
    with pytest.raises(ConfigError, match="token"):
        Client("http://a", token=token)  # type: ignore[arg-type]


async def test_certificates_are_checked(servers: Servers, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    script = Script(RUNS)
    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/aura/api/v1/"
    clock = PatientClock()
    try:
        async with Client(url, token=TOKEN, clock=clock) as app:
            with pytest.raises(ServerUnavailable, match="safely"):
                await app.runs()
        assert (script.requests, clock.slept) == ([], [])  # nothing was sent, nor tried again
        async with Client(url, token=TOKEN, ca=cert) as app:
            assert [one.id for one in await app.runs()] == ["r"]
        assert script.requests[0][0].startswith("GET /aura/api/v1/runs?")
    finally:
        server.close()
    with pytest.raises(ConfigError, match="cannot be read"):
        async with Client(url, ca=tmp_path / "none.pem"):
            pass


def make_certificate(cert: Path, key: Path) -> None:
    """A certificate for localhost, signed by itself."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(made, hashes.SHA256())
    )
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def chunked(*pieces: bytes, end: bool) -> bytes:
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"  # noqa: E501
    body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces)
    return head + body + (b"0\r\n\r\n" if end else b"")


async def test_a_stream_goes_on_after_a_broken_connection(servers: Servers) -> None:
    def rest(after: int, ended: bool) -> bytes:
        items = [] if ended else ["more"]
        return said(200, {"items": items, "next": after, "ended": ended}, "connection: close")

    script = Script(
        chunked(b"id: 1\nda", b'ta: "a"\n\nid: 2\ndata: "lost', end=False), rest(1, False),
        chunked(b': still there\n\nid: 2\r\ndata: "b"\r\n\r\n', end=True), rest(2, False),
        chunked(b":", end=False), rest(2, False),
        chunked(b'id: 3\ndata: {"c":\ndata: 1}\n\n', end=True), rest(3, True),
    )  # fmt: skip
    async with await client_of(servers, script, PatientClock()) as app:
        items = [item async for item in app.run("r").stream("tokens")]
    assert items == ["a", "b", {"c": 1}]
    asked = [head.split()[1].partition("?")[2] for head, _ in script.requests[::2]]
    assert asked == [f"after={at}&follow=true" for at in (0, 1, 2, 2)]


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_events_are_put_together_wherever_they_are_cut(size: int) -> None:
    text = b": hi\n\nid: 4\nevent: run\ndata: one\ndata:two\n\nretry: 5\n\ndata\n\ndata: half\n"
    parser = EventParser()
    found = [one for at in range(0, len(text), size) for one in parser.feed(text[at : at + size])]
    assert found == [ServerEvent("4", b"one\ntwo", "run"), ServerEvent("4", b"")]
    assert parser.feed(b"\n") == [ServerEvent("4", b"half")]
