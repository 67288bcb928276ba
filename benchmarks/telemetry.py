"""What tracing costs: the engine's steps with telemetry off, on and with every span, by turns.

    python -m benchmarks.telemetry [--store sqlite|postgres] [--repeats 9] [--json]

`on` is as an app has it (`telemetry=True`: at most 500 spans a second are paid for, and a burst
before each block), `all` has every trace. Spans go through the OpenTelemetry SDK's batches and are
encoded as OTLP within the block that made them, but sent to nobody. The share of throughput that is
left is the median of the ratios to the `off` of the same turn, a second or two away.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
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


async def ten_steps(app: Aura) -> None:
    await (await app.start("ten")).result()


SCENARIOS: dict[str, tuple[int, Callable[[Aura], Awaitable[Any]]]] = {
    "workflows-1": (1_000, lambda app: engine.at_concurrency(1, 100, partial(ten_steps, app))),
    "workflows-100": (
        10_000,
        lambda app: engine.at_concurrency(100, 1_000, partial(ten_steps, app)),
    ),
    "sequential-1000": (1_000, lambda app: engine.sequential(app, 1_000)),
}
"""How many steps, and what does them."""


class Block(NamedTuple):
    """What one scenario did at a time; `busy` are seconds of processor time."""

    scenario: str
    variant: str
    steps: int
    seconds: float
    busy: float
    spans: int


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


async def databases(store: str, at: str) -> dict[str, str]:
    """One for each variant: apps that share one would take each other's runs."""
    if store == "sqlite":
        return {one: f"{at}-{one}" for one in VARIANTS}
    connection = await asyncpg.connect(at)
    try:
        for one in VARIANTS:
            await connection.execute(f'CREATE DATABASE "{one}"')
    finally:
        await connection.close()
    return {one: urlsplit(at)._replace(path=f"/{one}").geturl() for one in VARIANTS}


async def measure(store: str, at: str, repeats: int) -> list[Block]:
    """Blocks by turns, in an order that rotates."""
    exporter = Nowhere()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    found = []
    async with AsyncExitStack() as stack:
        apps = {
            variant: await stack.enter_async_context(app_of(database, variant, provider))
            for variant, database in (await databases(store, at)).items()
        }
        for turn in range(repeats + 1):
            first = turn % len(VARIANTS)
            for variant in (*VARIANTS[first:], *VARIANTS[:first]):
                for name, (steps, scenario) in SCENARIOS.items():
                    spans, processor, began = (
                        exporter.spans, time.process_time(), time.perf_counter(),
                    )  # fmt: skip
                    await scenario(apps[variant])
                    provider.force_flush()  # what was not exported on the way is paid for as well
                    seconds, busy = time.perf_counter() - began, time.process_time() - processor
                    if turn:  # the first one only warms up
                        found.append(
                            Block(name, variant, steps, seconds, busy, exporter.spans - spans)
                        )
    return found


def shown(blocks: list[Block]) -> list[dict[str, Any]]:
    rows = []
    for scenario in SCENARIOS:
        by = {
            variant: [one for one in blocks if (one.scenario, one.variant) == (scenario, variant)]
            for variant in VARIANTS
        }
        for variant, mine in by.items():
            pairs = list(zip(mine, by["off"], strict=True))
            rows.append(
                {
                    "scenario": scenario,
                    "telemetry": variant,
                    "steps_per_second": round(_median(one.steps / one.seconds for one in mine)),
                    "share": round(_median(off.seconds / one.seconds for one, off in pairs), 3),
                    "processor_us": round(_median(one.busy / one.steps * 1e6 for one in mine), 1),
                    "spans_per_second": round(_median(one.spans / one.seconds for one in mine)),
                }
            )
    return rows


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with engine.temporary_database(options.store) as database:
        rows = shown(uvloop.run(measure(options.store, database, options.repeats)))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"Durable steps on {options.store} with tracing, medians")
    columns = ("steps/s", "share of off", "µs of processor a step", "spans/s")
    for column in ("scenario", "telemetry", *columns):
        table.add_column(column, justify="right" if column in columns else "left")
    for row in rows:
        table.add_row(
            row["scenario"], row["telemetry"], f"{row['steps_per_second']:,}",
            f"{row['share']:.3f}", f"{row['processor_us']:.1f}", f"{row['spans_per_second']:,}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
