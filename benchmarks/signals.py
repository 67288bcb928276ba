"""How long a signal takes from its sender to the code that receives it.

    python -m benchmarks.signals --store sqlite|postgres [--json] [--repeats 3]
                                 [--part latency|priorities] [--database PATH_OR_URL]

A signal's time is from the call of `run.signal` to the return of `aura.receive` in the workflow, on
the machine's one monotonic clock. It is durable before it is received, and what was received before
is in the journal. Scenarios:

    one-process   500 signals a second, evenly, every twentieth critical; one process does all
    processes     the same, with the sender in another process than the runs
    asleep        20 a second, to runs that have left memory: each is taken and replayed first
    asleep-there  the same, with the sender in another process
    unloaded      40 critical signals a second and nothing else, to runs in memory
    loaded        90 % of what one process can take, every twentieth critical
    fifo          the same load, in which those that were critical are as normal as the others

What one process can take is found by sending evenly, faster each time, until in the last half of
two seconds there is no moment at which fewer signals wait than come in 20 ms; then by bisection,
once. So it is of the mixed load, and has
nothing of the larger batches that senders who wait for each other make. In the last three scenarios
all runs stay in memory.

`lost` counts signals that were acknowledged and not received; it must be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import aura
from aura import Aura, Config, Run
from aura.store.base import Priority
from benchmarks.engine import temporary_database

RATE, SECONDS, RUNS, SPECIAL = 500, 4.0, 50, 20
FEW, SELDOM = 20, 40.0  # runs, and signals a second to all: so often that they stay in memory
TRIAL, END = 2.0, 0.5  # seconds of a trial, and of its end, at whose best moment
BACKLOG = 0.02  # no more seconds' worth of signals may wait
FIRST, FASTER, BISECTIONS = 500.0, 1.3, 4

seen: dict[str, float] = {}
"""Seconds that each signal took, by its name: the first time that its receiver had it."""


async def listens() -> int:
    """Receives until it is told to stop; how many it had."""
    count = 0
    while True:
        got = await aura.receive("go")
        if got is None:
            return count
        seen.setdefault(got["name"], time.perf_counter() - got["at"])
        count += 1


def make_app(database: str) -> Aura:
    app = Aura("benchmark", config=Config(database=database))
    app.workflow(version="1.0.0")(listens)
    return app


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` signals a second for `seconds`; every `special`-th one has the priority `like`."""

    scenario: str
    rate: float
    special: int = SPECIAL
    like: Priority = "critical"
    seconds: float = SECONDS
    runs: int = RUNS


async def send(runs: list[Run[Any]], load: Load) -> tuple[list[str], list[str]]:
    """Send evenly, whatever has become of the earlier ones; the names of the special signals and
    of the others."""
    names: tuple[list[str], list[str]] = ([], [])
    tasks = []
    began = time.perf_counter()
    for number in range(round(load.rate * load.seconds)):
        ahead = began + number / load.rate - time.perf_counter()
        if ahead > 0 or number % 4 == 0:
            await asyncio.sleep(max(0.0, ahead))
        special = number % load.special == 0
        name = f"{load.scenario}-{began}-{number}"
        names[not special].append(name)
        priority: Priority = load.like if special else "normal"
        message = {"name": name, "at": time.perf_counter()}
        run = runs[number % len(runs)]
        tasks.append(asyncio.create_task(run.signal("go", message, priority=priority)))
    await asyncio.gather(*tasks)
    return names


async def finish(runs: list[Run[Any]]) -> int:
    """How many signals the runs have had, when they are told to end."""
    await asyncio.gather(*(run.signal("go", priority="low") for run in runs))
    return sum(await asyncio.gather(*(run.result() for run in runs)))


async def measured(app: Aura, load: Load, took: Took) -> dict[str, Any]:
    """One scenario, with runs of its own."""
    runs = [await app.start("listens") for _ in range(load.runs)]
    await send(runs, Load("warm-up", 200, seconds=0.5))
    if load.scenario.startswith("asleep"):
        await _all_asleep(runs)
    special, others = await send(runs, load)
    await finish(runs)
    times = await took()
    return {
        "scenario": load.scenario,
        "signals_per_second": round(load.rate),
        "special": _quantiles([times[name] for name in special if name in times]),
        "others": _quantiles([times[name] for name in others if name in times]),
        "lost": sum(name not in times for name in (*special, *others)),
    }


async def _all_asleep(runs: list[Run[Any]]) -> None:
    for run in runs:
        while await run.status() != "waiting":  # noqa: ASYNC110  (it tells nobody)
            await asyncio.sleep(0.05)


class Took:
    """The times of the signals in this process, or those that another process tells."""

    def __init__(self, child: asyncio.subprocess.Process | None = None) -> None:
        self._child = child

    async def __call__(self) -> dict[str, float]:
        if self._child is None:
            return seen
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(b"tell\n")
        found: dict[str, float] = json.loads(await self._child.stdout.readline())
        return found


@asynccontextmanager
async def elsewhere(database: str) -> AsyncIterator[Took]:
    """A worker in a process of its own."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.signals", "--worker", "--database", database),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    try:
        yield Took(child)
    finally:
        child.stdin.close()
        await child.wait()


async def work(database: str) -> None:
    """The other process: a worker that tells its times when it is asked."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with make_app(database):
        print("ready", flush=True)
        while await reader.readline():
            print(json.dumps(seen), flush=True)


async def sustained(app: Aura, rate: float) -> bool:
    """Whether one process keeps up with that many signals a second."""
    runs = [await app.start("listens") for _ in range(RUNS)]
    load = Load("trial", rate, seconds=TRIAL)
    before, began = len(seen), time.perf_counter()
    sending = asyncio.create_task(send(runs, load))
    least = float("inf")  # signals that waited, at the best moment of the trial's end
    while (passed := time.perf_counter() - began) < TRIAL:
        await asyncio.sleep(0.01)
        if passed > TRIAL - END:
            least = min(least, rate * passed - (len(seen) - before))
    await sending
    await finish(runs)
    return least <= rate * BACKLOG


async def capacity(app: Aura) -> float:
    """Signals a second that one process can send and receive for as long as one likes."""
    below, above = FIRST, FIRST * FASTER
    while await sustained(app, above):
        below, above = above, above * FASTER
    for _ in range(BISECTIONS):
        middle = (below + above) / 2
        below, above = (middle, above) if await sustained(app, middle) else (below, middle)
    return below


def latencies() -> tuple[Load, Load]:
    return Load("one-process", RATE), Load("asleep", 20, 10**9, "normal", 2.5)


async def measure(database: str, store: str, repeats: int, part: str) -> list[dict[str, Any]]:
    """Every scenario `repeats` times; the one with the median p95 of each."""
    found: dict[str, list[dict[str, Any]]] = {}

    def note(row: dict[str, Any]) -> None:
        found.setdefault(row["scenario"], []).append(row | {"store": store})

    most = 0.0
    for _ in range(repeats):
        if part != "priorities":
            async with make_app(database) as app:
                for load in latencies():
                    note(await measured(app, load, Took()))
            async with elsewhere(database) as took, make_app(database).client() as app:
                note(await measured(app, Load("processes", RATE), took))
                asleep = Load("asleep-there", 20, 10**9, "normal", 2.5)
                note(await measured(app, asleep, took))
        if part != "latency":
            async with make_app(database) as app:
                most = most or 0.9 * await capacity(app)
                note(await measured(app, Load("unloaded", SELDOM, 1, runs=FEW), Took()))
                note(await measured(app, Load("loaded", most), Took()))
                note(await measured(app, Load("fifo", most, like="normal"), Took()))
    return [_median(several) for several in found.values()]


def _median(several: list[dict[str, Any]]) -> dict[str, Any]:
    kind = "special" if len(several[0]["special"]) else "others"
    return sorted(several, key=lambda one: one[kind]["p95_ms"])[len(several) // 2]


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else [*seconds] * 19
    if not cuts:
        return {}
    return {"p50_ms": round(cuts[9] * 1000, 2), "p95_ms": round(cuts[18] * 1000, 2)}


def show(rows: list[dict[str, Any]], store: str) -> None:
    table = Table(title=f"Signals on {store}, medians")
    for column in ("scenario", "signals/s", "critical p50/p95 ms", "others p50/p95 ms", "lost"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    for row in rows:
        shown = (_shown(row["special"]), _shown(row["others"]), str(row["lost"]))
        table.add_row(row["scenario"], f"{row['signals_per_second']:,}", *shown)
    Console().print(table)


def _shown(found: dict[str, float]) -> str:
    return " / ".join(f"{value:.2f}" for value in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database", help="a SQLite path or PostgreSQL URL to use and fill")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", choices=("all", "latency", "priorities"), default="all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        uvloop.run(work(options.database))
        return
    given = contextlib.nullcontext(options.database) if options.database else None
    with given or temporary_database(options.store) as database:
        rows = uvloop.run(measure(database, options.store, options.repeats, options.part))
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows, options.store)


if __name__ == "__main__":
    main()
