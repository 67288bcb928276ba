"""Metrics lead to traces, and go to OpenTelemetry as well as to Prometheus."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import aura
from aura import Aura, Config, step
from aura.server import meters
from aura.server.serving import Serving
from tests.telemetry.kit import Spans


def app_of(database: str, spans: Spans | None) -> Aura:
    wanted = spans.settings() if spans else False
    app = Aura("measured", config=Config(database=database), telemetry=wanted)

    @step
    async def work() -> None:
        return None

    @app.workflow(version="1.0.0")
    async def job() -> str:
        await work()
        await aura.emit("done", 1)
        return str(await aura.receive("go", type=str))

    @app.subscribe("done", group="g")
    async def on_done(payload: int) -> None:
        pass

    return app


async def a_run(app: Aura) -> None:
    run = await app.start("job", id="r")
    await run.signal("go", "on")
    await run.result(60)


def exemplars(text: str) -> dict[str, set[str]]:
    """By metric the traces that its exemplars lead to."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sample.name.endswith("_bucket")
                assert sample.exemplar.value <= float(sample.labels["le"])
                assert len(sample.exemplar.labels["span_id"]) == 16
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


async def test_durations_lead_to_a_trace_of_theirs(spans: Spans) -> None:
    app = app_of(":memory:", spans)
    async with Serving(app, None) as serving:
        await a_run(app)
        text, kind = await serving.metrics.text("application/openmetrics-text; version=1.0.0")
        plain, _ = await serving.metrics.text()
    assert kind.startswith("application/openmetrics-text")
    found = exemplars(text.decode())
    [trace] = {one.trace for one in spans.all()}
    for name in ("aura_workflow_duration", "aura_step_duration", "aura_signal_latency"):
        assert found[f"{name}_seconds"] == {trace}
    assert b"trace_id" not in plain  # its format has no place for it


async def test_without_a_trace_there_are_none() -> None:
    app = app_of(":memory:", None)
    async with Serving(app, None) as serving:
        await a_run(app)
        text, _ = await serving.metrics.text("application/openmetrics-text; version=1.0.0")
    assert exemplars(text.decode()) == {}


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data: Any = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_a_meter_gets_what_prometheus_gets(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(meters, "provide_meters", lambda _: provider)
    app = app_of(database, None)
    async with Serving(app, None) as serving:
        await a_run(app)
        found = await asyncio.to_thread(points, reader)
        names = {one.name for one in serving.metrics.collect()}
    [tries] = found["aura_step_duration_seconds"]
    labels = {"workflow": "job", "step": "work", "outcome": "ok"}
    assert (tries.count, dict(tries.attributes)) == (1, labels)
    assert tuple(tries.explicit_bounds) == serving.metrics.steps.limits
    [done] = found["aura_workflow_duration_seconds"]
    assert done.attributes["outcome"] == "completed"
    [writes] = found["aura_checkpoint_writes_total"]
    assert writes.value > 0
    [workers] = found["aura_workers"]  # of the store, which was read for it
    assert workers.value == 1
    assert {dict(one.attributes)["state"] for one in found["aura_queue_depth"]} == {
        "pending",
        "running",
    }
    assert names >= {one.removesuffix("_total") for one in found}
    assert points(reader).keys() <= {"aura_step_duration_seconds", *found}  # nothing any more
    assert serving.metrics.steps.also is None


def test_each_metric_is_offered_once() -> None:
    names = [one.name for one in meters.specs()]
    assert len(names) == len(set(names)) > 40


SET = """
import asyncio
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
from aura import Aura, Config
from aura.server.serving import Serving
async def main():
    async with Serving(Aura("x", config=Config(database=":memory:")), None):
        data = await asyncio.to_thread(reader.get_metrics_data)
        print(data.to_json())
asyncio.run(main())
"""


def test_the_provider_of_the_process_is_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SET], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert '"aura_workers"' in done.stdout, done.stderr
