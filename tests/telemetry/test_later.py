"""Spans of steps are made after them, and nobody can tell."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from aura import Aura, Config, step
from aura.clock import SystemClock
from aura.telemetry.later import MOST, Ids, Pending, ids_of
from tests.telemetry.kit import Spans, tree


async def test_the_current_span_of_a_step_keeps_what_it_is_told(spans: Spans) -> None:
    app = Aura("noted", config=Config(database=":memory:"), telemetry=spans.settings())
    tracer = spans.provider.get_tracer("mine")

    def tell() -> None:
        span = api.get_current_span()
        assert span.is_recording()
        span.set_attribute("customer", "x")
        span.set_attributes({"tier": 2, "sizes": [1, 2]})
        span.add_event("seen", {"n": 1})
        span.record_exception(ValueError("handled"))
        span.set_status(StatusCode.OK)
        span.set_status(StatusCode.ERROR, "too late: OK is final")
        with tracer.start_as_current_span("inside"):
            pass

    @step
    async def here() -> None:
        tell()
        api.get_current_span().update_name("step renamed")

    @step
    def in_thread() -> None:
        tell()
        other = SpanContext(1, 2, True, TraceFlags(1))
        api.get_current_span().add_link(other, {"why": "batch"})

    @app.workflow(version="1.0.0")
    async def both() -> None:
        await here()
        await in_thread()

    async with app:
        await (await app.start("both")).result()
    ended = {one.name: one for one in spans.exporter.get_finished_spans()}
    for name in ("step renamed", "step in_thread"):
        one = ended[name]
        said: dict[str, Any] = dict(one.attributes or {})
        assert (said["customer"], said["tier"], said["sizes"]) == ("x", 2, (1, 2))
        assert one.status.status_code is StatusCode.OK
        seen, error = one.events
        assert (seen.name, dict(seen.attributes or {})) == ("seen", {"n": 1})
        assert error.attributes is not None
        assert error.attributes["exception.type"] == "ValueError"
        assert "handled" in str(error.attributes["exception.stacktrace"])
        assert one.start_time is not None
        assert one.end_time is not None
        assert one.start_time <= seen.timestamp <= error.timestamp <= one.end_time
    [link] = ended["step in_thread"].links
    assert (link.context.span_id, dict(link.attributes or {})) == (2, {"why": "batch"})
    assert [one for one in tree(spans.all()) if one.endswith("inside")] == [
        "start both > run both > step in_thread > inside",
        "start both > run both > step renamed > inside",
    ]


def a_span(pending: Pending, name: str) -> Any:
    parent = SpanContext(7, 8, False, TraceFlags(1))
    return pending.begin(name, Context(), parent, SpanKind.INTERNAL, {})


def pending_of(spans: Spans) -> Pending:
    tracer = spans.provider.get_tracer("x")
    ids = ids_of(tracer)
    assert isinstance(ids, Ids)
    return Pending(tracer, ids, SystemClock())


async def test_what_has_ended_is_made_soon_or_when_there_is_much_of_it(spans: Spans) -> None:
    pending = pending_of(spans)
    one = a_span(pending, "one")
    one.end()
    one.set_attribute("late", 1)
    one.set_status(Status(StatusCode.ERROR))
    one.end()
    assert spans.all() == []
    while not spans.all():
        await asyncio.sleep(0.01)
    [made] = spans.all()
    assert (made.name, made.id, made.attributes) == ("one", f"{one.context.span_id:016x}", {})
    for number in range(MOST):
        assert len(spans.all()) == 1
        a_span(pending, str(number)).end()
    assert len(spans.all()) == 1 + MOST
    assert len({found.id for found in spans.all()}) == 1 + MOST


def test_where_no_loop_runs_it_is_made_at_once(spans: Spans) -> None:
    pending = pending_of(spans)
    thread = threading.Thread(target=lambda: a_span(pending, "there").end())
    thread.start()
    thread.join()
    assert [one.name for one in spans.all()] == ["there"]


def test_the_apps_of_a_process_share_one_generator_of_ids() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    first, second = (ids_of(provider.get_tracer("aura")) for _ in range(2))
    assert first is not None
    assert not isinstance(second._inner if second else None, Ids)


AT_EXIT = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from aura import Aura, Config, step
from aura.clock import SystemClock
app = Aura("x", config=Config(database=":memory:"), telemetry=True)
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
@step
async def once() -> None:
    return None
@app.workflow(version="1.0.0")
async def waits() -> None:
    await once()
    loop.stop()
async def main() -> None:
    await app.open()
    await app.start(waits)
loop = asyncio.new_event_loop()
loop.create_task(main())
loop.run_forever()
"""


def test_a_process_that_ends_without_closing_its_app_has_made_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert '"name": "step once"' in done.stdout, done.stderr
