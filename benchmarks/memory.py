"""What waiting and busy runs cost a process: memory, and the processor while nothing happens.

    python -m benchmarks.memory --store sqlite|postgres [--waiting 100000] [--hot 10000] [--json]
                                [--database PATH_OR_URL]

`waiting` runs each wait for a signal that does not come, and have left memory when it is measured;
then one of them gets its signal. `hot` runs are all in memory at once, each in the middle of a
step. Memory is the resident set of this process (VmRSS), which is worker and client in one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import aura
from aura import Aura, Config, step
from aura.store.base import RunFilter
from benchmarks.engine import at_concurrency, temporary_database

AT_ONCE = 200
IDLE = 10.0  # seconds of looking on while nothing happens


async def waits() -> str:
    return str(await aura.receive("go"))


class Gate:
    """Where hot runs stand, until all are there and have been weighed."""

    def __init__(self) -> None:
        self.inside = 0
        self.expected = 0
        self.full = asyncio.Event()
        self.open = asyncio.Event()


gate = Gate()


@step
async def busy() -> None:
    gate.inside += 1
    if gate.inside == gate.expected:
        gate.full.set()
    await gate.open.wait()


async def hot() -> None:
    await busy()


def make_app(database: str, capacity: int) -> Aura:
    app = Aura("memory", config=Config(database=database, capacity=capacity, retention=None))
    for function in (waits, hot):
        app.workflow(version="1.0.0")(function)
    return app


def resident_mib() -> float:
    """The memory of this process that is in use, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("there is no VmRSS in /proc/self/status")


async def all_wait(app: Aura) -> None:
    """Return when no run is in memory any more."""
    while await app.runs(RunFilter("running", limit=1)):  # noqa: ASYNC110  (see below)
        await asyncio.sleep(0.2)  # whether a run waits is known to the database only


async def measure_waiting(database: str, count: int) -> dict[str, Any]:
    async with make_app(database, 2_000) as app:
        before = resident_mib()
        numbers = iter(range(count))

        async def one() -> None:
            await app.start("waits", id=f"waits-{next(numbers)}")

        started = time.perf_counter()
        await at_concurrency(AT_ONCE, count, one)
        await all_wait(app)
        seconds = time.perf_counter() - started
        after = resident_mib()
        cpu = time.process_time()
        await asyncio.sleep(IDLE)
        share = (time.process_time() - cpu) / IDLE
        run = app.run(f"waits-{count // 2}")
        sent = time.perf_counter()
        await run.signal("go", "there")
        assert await run.result() == "there"
        woken = time.perf_counter() - sent
    return {
        "scenario": f"waiting-{count}",
        "seconds": round(seconds, 1),
        "mib_before": round(before, 1),
        "mib": round(after, 1),
        "idle_cpu_percent": round(100 * share, 2),
        "wake_ms": round(1000 * woken, 1),
    }


async def measure_hot(database: str, count: int) -> dict[str, Any]:
    async with make_app(database, count + 100) as app:
        gate.expected = count
        before = resident_mib()
        started = time.perf_counter()
        runs = await asyncio.gather(*(app.start("hot") for _ in range(count)))
        await gate.full.wait()
        seconds = time.perf_counter() - started
        after = resident_mib()
        gate.open.set()
        await asyncio.gather(*(run.result() for run in runs))
    return {
        "scenario": f"hot-{count}",
        "seconds": round(seconds, 1),
        "mib_before": round(before, 1),
        "mib": round(after, 1),
    }


def show(rows: list[dict[str, Any]], store: str) -> None:
    table = Table(title=f"Memory on {store}")
    for column in ("scenario", "seconds", "MiB before", "MiB", "idle processor %", "wake ms"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    keys = ("scenario", "seconds", "mib_before", "mib", "idle_cpu_percent", "wake_ms")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in keys))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database", help="a SQLite path or PostgreSQL URL to use and fill")
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--hot", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    given = contextlib.nullcontext(options.database) if options.database else None
    with given or temporary_database(options.store) as database:
        rows = [
            uvloop.run(measure_hot(database, options.hot)),
            uvloop.run(measure_waiting(database, options.waiting)),
        ]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows, options.store)


if __name__ == "__main__":
    main()
