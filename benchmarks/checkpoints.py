"""How many commits adaptive checkpoints save, and what it does to the time.

    python -m benchmarks.checkpoints --store sqlite|postgres [--json] [--repeats 3]
                                     [--database PATH_OR_URL]

One run at a time. Its idempotent steps may wait for others, its effects never do. Workloads:

    burst         100 steps of 1 ms each, then an effect; 5 times
    flood         200 steps that take no time, then an effect; 5 times: more than the database
                  can take one by one, so "sync" merges them, too
    parallel      20 branches of 10 such steps each, then an effect; 5 times
    steady        10 steps of 5 ms each, then an effect; 10 times
    slow          steps of 100 ms each, 40 of them, and no effect
    effects       50 effects and nothing else: nothing may wait

`commits` are those of the process from the start of the first run to the end of the last, without
its heartbeats'; `fewer` is how many fewer than with "sync".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from aura import Aura, Config, step
from aura.engine.durability import Durability
from benchmarks.engine import temporary_database

RUNS = 3
MODES: tuple[Durability, ...] = ("sync", "adaptive")


@step(idempotent=True)
async def look() -> int:
    await asyncio.sleep(0)  # as whatever waits for something, be it for a moment
    return 1


@step(idempotent=True)
async def look_for(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return 1


@step
async def effect() -> int:
    return 1


async def _look(times: int) -> None:
    for _ in range(times):
        await look()


async def burst() -> None:
    for _ in range(5):
        for _ in range(100):
            await look_for(0.001)
        await effect()


async def flood() -> None:
    for _ in range(5):
        await _look(200)
        await effect()


async def parallel() -> None:
    for _ in range(5):
        await asyncio.gather(*(_look(10) for _ in range(20)))
        await effect()


async def steady() -> None:
    for _ in range(10):
        for _ in range(10):
            await look_for(0.005)
        await effect()


async def slow() -> None:
    for _ in range(40):
        await look_for(0.1)


async def effects() -> None:
    for _ in range(50):
        await effect()


WORKLOADS: tuple[Callable[[], Awaitable[None]], ...] = (
    burst,
    flood,
    parallel,
    steady,
    slow,
    effects,
)


async def measure(
    database: str, workload: Callable[[], Awaitable[None]], durability: Durability
) -> dict[str, Any]:
    """The figures of some runs, one after the other."""
    app = Aura("benchmark", config=Config(database=database, durability=durability, lease=600.0))
    declared = app.workflow(version="1.0.0")(workload)
    async with app:
        counts = app.committer.counts
        before, entries, began = counts.commits, counts.entries, time.perf_counter()
        for _ in range(RUNS):
            await (await app.start(declared)).result()
        seconds = time.perf_counter() - began
        return {
            "workload": workload.__name__,
            "durability": durability,
            "entries": counts.entries - entries,
            "commits": counts.commits - before,
            "seconds": round(seconds, 3),
        }


async def compare(database: str, repeats: int) -> list[dict[str, Any]]:
    """The medians of each workload in each mode."""
    rows = []
    for workload in WORKLOADS:
        for durability in MODES:
            found = [await measure(database, workload, durability) for _ in range(repeats)]
            middle = {
                name: statistics.median(one[name] for one in found)
                for name in ("entries", "commits", "seconds")
            }
            rows.append({**found[0], **middle})
    return rows


def fewer(rows: list[dict[str, Any]], workload: str) -> float:
    """The share of commits that "adaptive" does not make."""
    commits = {one["durability"]: one["commits"] for one in rows if one["workload"] == workload}
    return 1.0 - float(commits["adaptive"]) / float(commits["sync"])


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "workload", "entries", "commits, sync", "adaptive", "fewer", "s, sync", "adaptive"
    )
    for workload in dict.fromkeys(one["workload"] for one in rows):
        of = {one["durability"]: one for one in rows if one["workload"] == workload}
        sync, adaptive = of["sync"], of["adaptive"]
        table.add_row(
            *(workload, f"{sync['entries']:,.0f}", f"{sync['commits']:,.0f}"),
            *(f"{adaptive['commits']:,.0f}", f"{fewer(rows, workload):.0%}"),
            *(f"{sync['seconds']:.2f}", f"{adaptive['seconds']:.2f}"),
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Commits with and without adaptive checkpoints.")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        database = options.database or stack.enter_context(temporary_database(options.store))
        rows = uvloop.run(compare(database, options.repeats))
    if options.json:
        json.dump(rows, sys.stdout)
    else:
        show(rows)


if __name__ == "__main__":
    main()
