"""What tracing costs: the engine's steps with telemetry off, on and with every span, by turns.

    python -m benchmarks.telemetry [--store sqlite|postgres] [--repeats 5] [--json]

`on` is as an app has it (`telemetry=True`: at most 500 spans a second are paid for), `all` has
every trace. Spans go through the OpenTelemetry SDK's batches and are encoded as OTLP, but sent to
nobody. The share is the median of the ratios to the `off` of the same turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from rich.console import Console
from rich.table import Table

from aura import Aura, Config
from aura.telemetry import RATE, Telemetry
from benchmarks import engine

VARIANTS = ("off", "on", "all")
SCENARIOS: dict[str, Callable[[Aura], Awaitable[dict[str, Any]]]] = {
    "workflows-1": lambda app: engine.workflows(app, 1),
    "workflows-100": lambda app: engine.workflows(app, 100),
    "sequential-1000": lambda app: engine.sequential(app, 1_000),
}


class Nowhere(SpanExporter):
    """Encodes spans as an exporter does, and counts them."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += len(spans)
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """There is nothing to close."""


def app_of(database: str, variant: str, provider: TracerProvider) -> Aura:
    telemetry: Telemetry | bool = False
    if variant != "off":
        telemetry = Telemetry(rate=RATE if variant == "on" else None, provider=provider)
    app = Aura("benchmark", config=Config(database=database, capacity=2_000), telemetry=telemetry)
    for function in (engine.ten, engine.sequence):
        app.workflow(version="1.0.0")(function)
    return app


async def measure(database: str, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Steps per second by scenario and variant, one for each turn."""
    rates: dict[str, dict[str, list[float]]] = {one: {} for one in SCENARIOS}
    exporter = Nowhere()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    for turn in range(repeats + 1):
        for variant in VARIANTS if turn % 2 else reversed(VARIANTS):
            async with AsyncExitStack() as stack:
                app = await stack.enter_async_context(app_of(database, variant, provider))
                for name, scenario in SCENARIOS.items():
                    figures = await scenario(app)
                    if turn:  # the first one only warms up
                        rates[name].setdefault(variant, []).append(figures["steps_per_second"])
            provider.force_flush()
    return rates


def shown(rates: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    rows = []
    for scenario, by in rates.items():
        for variant in VARIANTS:
            pairs = zip(by[variant], by["off"], strict=True)
            rows.append(
                {
                    "scenario": scenario,
                    "telemetry": variant,
                    "steps_per_second": round(statistics.median(by[variant])),
                    "share": round(statistics.median(one / off for one, off in pairs), 3),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with engine.temporary_database(options.store) as database:
        rows = shown(uvloop.run(measure(database, options.repeats)))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"Durable steps on {options.store} with tracing, medians")
    for column in ("scenario", "telemetry", "steps/s", "share of off"):
        table.add_column(column, justify="left" if column in ("scenario", "telemetry") else "right")
    for row in rows:
        table.add_row(
            row["scenario"], row["telemetry"], f"{row['steps_per_second']:,}", f"{row['share']:.3f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
