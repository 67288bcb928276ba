"""Events per second through one consumer group, and what publishing and handling take.

    python -m benchmarks.events --store sqlite|postgres [--json] [--repeats 3]
                                [--database PATH_OR_URL]

Three scenarios, each on a topic of its own: `publish-N` emits N events a second, evenly, while a
group handles them, and measures how long each `app.emit` took and how long it was from there to the
handler; `stream` emits as fast as a window of 1,000 allows, and measures the rate from the first
emit to the last handled event; `backlog` handles what has been emitted before. Publisher, worker
and handlers share one process, the database server is another one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from aura import Aura, Config
from benchmarks.engine import temporary_database

RATE, SECONDS = 1_000, 4
STREAM, WINDOW, KEYS = 40_000, 1_000, 500


class Sink:
    """The handler of one topic: counts, and keeps how long each event was on its way."""

    def __init__(self) -> None:
        self.count = 0
        self.latencies: list[float] = []
        self.waiting: tuple[int, asyncio.Event] = (0, asyncio.Event())

    async def __call__(self, sent: float) -> None:
        self.count += 1
        self.latencies.append(time.perf_counter() - sent)
        if self.count >= self.waiting[0]:
            self.waiting[1].set()

    async def until(self, count: int) -> None:
        self.waiting = (count, asyncio.Event())
        if self.count < count:
            await self.waiting[1].wait()


def make_app(database: str, sinks: dict[str, Sink]) -> Aura:
    app = Aura("benchmark", config=Config(database=database))
    for topic, sink in sinks.items():
        app.subscribe(topic, group="sink", concurrency=64)(_handler(sink))
    return app


def _handler(sink: Sink) -> Callable[[float], Awaitable[None]]:
    async def handle(sent: float) -> None:
        await sink(sent)

    return handle


async def publish(app: Aura, sink: Sink, topic: str) -> dict[str, Any]:
    """RATE events a second for SECONDS, whatever has become of the earlier ones."""
    took: list[float] = []
    sink.latencies.clear()
    before = sink.count

    async def one(number: int) -> None:
        started = time.perf_counter()
        await app.emit(topic, started, key=f"key-{number % KEYS}")
        took.append(time.perf_counter() - started)

    began = time.perf_counter()
    tasks = []
    for number in range(RATE * SECONDS):
        ahead = began + number / RATE - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    await sink.until(before + len(tasks))
    return {
        "scenario": f"publish-{RATE}",
        "events_per_second": round(len(tasks) / (time.perf_counter() - began)),
        "publish": _quantiles(took),
        "end_to_end": _quantiles(sink.latencies),
    }


async def emit_all(app: Aura, topic: str, count: int) -> None:
    left = iter(range(count))

    async def emitter() -> None:
        for number in left:
            await app.emit(topic, time.perf_counter(), key=f"key-{number % KEYS}")

    await asyncio.gather(*(emitter() for _ in range(WINDOW)))


async def stream(app: Aura, sink: Sink, topic: str) -> dict[str, Any]:
    sink.latencies.clear()
    before = sink.count
    began = time.perf_counter()
    await emit_all(app, topic, STREAM)
    emitted = time.perf_counter() - began
    await sink.until(before + STREAM)
    return {
        "scenario": "stream",
        "events_per_second": round(STREAM / (time.perf_counter() - began)),
        "emitted_per_second": round(STREAM / emitted),
        "end_to_end": _quantiles(sink.latencies),
    }


async def backlog(database: str) -> dict[str, Any]:
    """What is there already, from opening the app to the last event."""
    topic, sink = f"backlog-{time.time_ns()}", Sink()
    writer = make_app(database, {})
    async with writer.client():
        await emit_all(writer, topic, STREAM)
    app = make_app(database, {topic: sink})
    began = time.perf_counter()
    async with app:
        await sink.until(STREAM)
        seconds = time.perf_counter() - began
    return {"scenario": "backlog", "events_per_second": round(STREAM / seconds)}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "p50_ms": round(statistics.median(seconds) * 1000, 2),
        "p95_ms": round(cuts[94] * 1000, 2),
        "p99_ms": round(cuts[98] * 1000, 2),
    }


async def measure(database: str, store: str, repeats: int) -> list[dict[str, Any]]:
    """Every scenario `repeats` times; the one with the median rate of each."""
    found: dict[str, list[dict[str, Any]]] = {}
    sinks = {"publish": Sink(), "stream": Sink()}
    async with make_app(database, sinks) as app:
        await emit_all(app, "stream", 2_000)  # warm up: statements, caches, the log's files
        await sinks["stream"].until(2_000)
        for _ in range(repeats):
            for figures in (
                await publish(app, sinks["publish"], "publish"),
                await stream(app, sinks["stream"], "stream"),
            ):
                found.setdefault(figures["scenario"], []).append(figures | {"store": store})
    for _ in range(repeats):
        found.setdefault("backlog", []).append(await backlog(database) | {"store": store})
    return [_median(several) for several in found.values()]


def _median(several: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(several, key=lambda one: float(one["events_per_second"]))[len(several) // 2]


def show(rows: list[dict[str, Any]], store: str) -> None:
    table = Table(title=f"Events on {store}, medians")
    for column in ("scenario", "events/s", "emit p50/p95/p99 ms", "to the handler p50/p95/p99 ms"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    for row in rows:
        table.add_row(
            row["scenario"],
            f"{row['events_per_second']:,}",
            _shown(row.get("publish")),
            _shown(row.get("end_to_end")),
        )
    Console().print(table)


def _shown(found: dict[str, float] | None) -> str:
    return "" if found is None else " / ".join(f"{value:.2f}" for value in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database", help="a SQLite path or PostgreSQL URL to use and fill")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    given = contextlib.nullcontext(options.database) if options.database else None
    with given or temporary_database(options.store) as database:
        rows = uvloop.run(measure(database, options.store, options.repeats))
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows, options.store)


if __name__ == "__main__":
    main()
