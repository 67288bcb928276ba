"""Spans as a tree of names, an app that makes them, a collector for those of other processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import aura
from aura import Aura, Config, step, telemetry
from aura.telemetry import Telemetry

INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Seen(NamedTuple):
    """A span that has ended. Ids in hexadecimal, "" for no parent; times in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    start: int
    end: int
    failed: bool
    kind: str
    process: int


class Spans:
    """The spans of this process's apps."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def settings(self, rate: float | None = None) -> Telemetry:
        return Telemetry(rate=rate, provider=self.provider)

    def all(self) -> list[Seen]:
        return [_seen(one) for one in self.exporter.get_finished_spans()]


def _seen(span: ReadableSpan) -> Seen:
    assert span.context is not None
    return Seen(
        span.name,
        f"{span.context.trace_id:032x}",
        f"{span.context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent else "",
        dict(span.attributes or {}),
        span.start_time or 0,
        span.end_time or 0,
        not span.status.is_ok and not span.status.is_unset,
        span.kind.name,
        0,
    )


def tree(spans: Iterable[Seen]) -> list[str]:
    """Each span as the path of names from its root, sorted. One whose parent is not there begins
    with a question mark."""
    known = {one.id: one for one in spans}

    def path(one: Seen) -> str:
        if not one.parent:
            return one.name
        above = known.get(one.parent)
        return f"{'?' if above is None else path(above)} > {one.name}"

    return sorted(path(one) for one in known.values())


@dataclass(frozen=True)
class Collector:
    """What a collector of OpenTelemetry got, by OTLP over HTTP."""

    url: str
    got: list[Seen]


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens on this machine."""
    got: list[Seen] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            got.extend(_received(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Collector(f"http://127.0.0.1:{server.server_address[1]}", got)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _received(request: Any) -> Iterator[Seen]:
    for resource in request.resource_spans:
        about = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _values(span.attributes),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == 2,
                    str(span.kind),
                    about.get("process.pid", 0),
                )


def _values(pairs: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in pairs}


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"{what} has not come"
        await asyncio.sleep(0.01)


def app_of(database: str, wanted: Telemetry | bool | None, **settings: Any) -> Aura:
    return Aura("traced", config=Config(database=database, **settings), telemetry=wanted)


def story(app: Aura, tries: list[int], handled: list[Any]) -> None:
    """A workflow that does one of each."""

    @step(retries=aura.Retry(attempts=1, first=0.001))
    async def ask(text: str) -> str:
        tries.append(1)
        with telemetry.model("gpt-5", provider="openai") as call:
            call.note(request_temperature=0.5, request_stop_sequences=["a", "b"])
            call.note(request_choice_count=2, usage_cache_read_input_tokens=4)
            call.note(server_address="api.openai.com", server_port=443)
            if len(tries) == 1:
                raise ValueError("refused, password=hunter2")
            call.used(input_tokens=12, output_tokens=3)
            call.answered(model="gpt-5-mini", id="x", finish="stop")
        await aura.emit("asked", {"text": text})
        return text

    @step(idempotent=True)
    def plain(text: str) -> str:
        return text

    @app.workflow(version="1.0.0")
    async def inner(text: str) -> str:
        return await plain(text)

    @app.workflow(version="1.0.0")
    async def outer(text: str) -> str:
        text = await ask(text)
        await asyncio.gather(inner(text), plain(text))
        await aura.emit("done", text)
        return text

    @app.subscribe("asked", group="g")
    async def on_asked(payload: dict[str, str]) -> None:
        await aura.emit("handled", payload)
        handled.append(payload)

    app.subscribe("done", group="w")(inner)
