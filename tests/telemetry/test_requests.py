"""Traces that come with requests and go on with calls of targets."""

from __future__ import annotations

import asyncio

import httpx
import pytest

import aura
from aura.engine.traces import current, parsed, process_of, stated
from aura.gateway import GatewayConfig
from aura.gateway.config import parse_gateway
from aura.server.serving import Serving
from tests.telemetry.kit import INCOMING, Spans, app_of, story, tree, until

STATE = "ot=th:8,congo=" + "t61rcWkgMzE" * 20


def client(serving: Serving) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=serving, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")


@pytest.mark.parametrize("traced", [True, False])
async def test_a_request_brings_its_trace(spans: Spans, traced: bool) -> None:
    app = app_of(":memory:", spans.settings() if traced else False)
    story(app, [1], [])
    handled: list[str] = []

    @app.subscribe("told", group="g")
    async def on_told(payload: str) -> None:
        here = current.get()
        assert here is not None
        handled.append(here.tracestate)

    @app.workflow(version="1.0.0")
    async def tells() -> None:
        await aura.emit("told", "x")

    headers = {"traceparent": INCOMING, "tracestate": STATE.replace(",", " ,\t")}
    async with Serving(app, None) as serving, client(serving) as http:
        body = {"workflow": "tells", "id": "r"}
        answer = await http.post("/api/v1/runs", json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        await app.run("r").result()
        origin = (await app.run("r").record()).origin
        assert process_of(origin) == app.results.origin
        await until(lambda: handled, "the handler")
        assert (await http.get("/api/v1/runs/missing", headers=headers)).status_code == 404
        assert (await http.get("/healthz", headers=headers)).status_code == 200
    assert INCOMING[3:35] in origin
    assert origin.endswith(f"/{STATE}")
    assert handled == [STATE]  # over the journal and the event
    if not traced:
        assert origin.endswith(f"{INCOMING}/{STATE}")
        assert spans.all() == []
        return
    assert {one.trace for one in spans.all()} == {INCOMING[3:35]}
    found = tree(one for one in spans.all() if not one.name.startswith("queue"))
    run = "? > POST /api/v1/runs > start tells > run tells"
    assert found == [
        "? > GET /api/v1/runs/{run_id}",
        "? > POST /api/v1/runs",
        "? > POST /api/v1/runs > start tells",
        run,
        f"{run} > publish told",
        f"{run} > publish told > process told",
    ]
    [served] = [one for one in spans.all() if one.name == "POST /api/v1/runs"]
    assert (served.kind, served.parent, served.failed) == ("SERVER", INCOMING[36:52], False)
    assert served.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/v1/runs",
        "http.response.status_code": answer.status_code,
        "url.scheme": "http",
    }
    states = {one.context.trace_state.to_header() for one in spans.exporter.get_finished_spans()}
    assert states == {STATE}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" a=1 ,, b@c=2 x\t", "a=1,b@c=2 x"),
        ("", ""),
        ("A=1", ""),
        ("a=1,b", ""),
        ("a=1=2", ""),
        ("a=\x7f", ""),
        ("a=\u00e9", ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
        (f"a={'x' * 200},b={'x' * 200},c={'x' * 200}", ""),
    ],
)
def test_what_a_tracestate_is(text: str, found: str) -> None:
    assert stated(text) == found


def gateway_to(url: str) -> GatewayConfig:
    found = parse_gateway(
        "gateway:\n  routes:\n    - {path: /w, split: s, baseline: work}\n"
        "    - {path: /*, split: t, baseline: service}\n"
        "  targets:\n    work: {workflow: inner, version: 1.0.0}\n"
        f"    service: {{http: '{url}'}}\n"
    )
    assert found is not None
    return found


@pytest.mark.parametrize("traced", [True, False])
async def test_the_gateway_passes_the_trace_on(spans: Spans, traced: bool) -> None:
    heard: list[str] = []

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heard.extend(one for one in head.split("\r\n") if one.lower().startswith("trace"))
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(service, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    app = app_of(":memory:", spans.settings() if traced else False)
    story(app, [1], [])
    async with server, Serving(app, gateway_to(url)) as serving, client(serving) as http:
        headers = {"traceparent": INCOMING, "tracestate": STATE}
        assert (await http.get("/x", headers=headers)).status_code == 503
        answer = await http.post("/w", json={"text": "x"}, headers=headers)
        run = await app.run(answer.headers["x-aura-run"]).record()
    line, state = sorted(heard)
    assert INCOMING[3:35] in line
    assert state.lower() == f"tracestate: {STATE}".lower()
    assert INCOMING[3:35] in run.origin
    if traced:
        [call] = [one for one in spans.all() if one.name == "call service"]
        [served] = [one for one in spans.all() if one.name == "GET /*"]
        assert (served.kind, served.parent) == ("SERVER", INCOMING[36:52])
        assert (call.kind, call.parent) == ("CLIENT", served.id)
        for one in (served, call):
            assert one.attributes["http.response.status_code"] == 503
            assert (one.failed, one.attributes["error.type"]) == (True, "503")
        assert call.id in line
        whole = "? > POST /w > start inner > run inner"
        assert whole in tree(spans.all())
    else:
        assert line.lower() == f"traceparent: {INCOMING}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (INCOMING, INCOMING),
        (INCOMING[:-2] + "ff", INCOMING),
        ("01" + INCOMING[2:] + "-more", INCOMING),
        (INCOMING + "-more", None),
        ("ff" + INCOMING[2:], None),
        (INCOMING.upper(), None),
        (INCOMING.replace("b7ad6b7169203331", "0" * 16), None),
        (INCOMING.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), None),
        (INCOMING[:-2] + "zz", None),
        (INCOMING[:-1] + "\N{ARABIC-INDIC DIGIT ONE}", None),
        ("", None),
        (None, None),
    ],
)
def test_what_a_traceparent_is(text: str | None, found: str | None) -> None:
    assert parsed(text) == found
