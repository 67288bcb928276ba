"""Live clients on a busy worker: do they slow it down, and does memory grow?

    python -m benchmarks.live [--store sqlite|postgres] [--readers 80] [--silent 20] [--pages 100]
                              [--rate 2000] [--minutes 1] [--json] [--database PATH_OR_URL]

One process serves: worker, API, event streams and dashboard. It starts ten-step runs so that it
makes `--rate` steps per second (as far as it can), and one run that writes twenty items a second to
a stream. Another process (`benchmarks.listeners`) has the clients: half of the streams follow what
changes (`GET /api/v1/changes`), half the stream; `--silent` more never read a byte after the
beginning; `--pages` tabs look at pages of the dashboard. Measured are the steps per second, the
delay of a run (p95, from its start to its result) and the server's memory (VmRSS), first without
clients, then with them, at the beginning and the end; and how much the clients have heard.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import uvloop

import aura
from aura import Aura, Config, step
from aura.server.serving import build
from benchmarks.engine import temporary_database
from benchmarks.memory import resident_mib

STEPS = 10
ALONE = 10.0  # seconds that are measured without clients
ITEMS = 20.0  # per second, of the stream


@step
async def noop() -> None:
    """A step that does nothing: only durability costs."""


async def ten() -> None:
    for _ in range(STEPS):
        await noop()


async def ticker(until: float) -> None:
    ticks = aura.stream("ticks")
    while (await _tick()) < until:
        ticks.write({"at": "a tick of a stream"})


@step(idempotent=True)
async def _tick() -> float:
    await asyncio.sleep(1 / ITEMS)
    return time.time()


@dataclass(slots=True)
class Load:
    """What the worker has done since the last look."""

    runs: int = 0
    delays: list[float] = field(default_factory=list)

    def look(self, seconds: float) -> dict[str, float]:
        """Steps per second and the 95th percentile of a run's delay in ms, and begin anew."""
        delays, self.delays = self.delays or [0.0, 0.0], []
        runs, self.runs = self.runs, 0
        p95 = statistics.quantiles(delays, n=20)[-1] if len(delays) > 1 else delays[0]
        told = {"steps_per_second": STEPS * runs / seconds, "run_p95_ms": 1_000 * p95}
        return {name: round(value, 1) for name, value in told.items()}


async def keep_busy(app: Aura, rate: float, load: Load) -> None:
    """Start runs at fixed moments, at most 500 at once."""
    room = asyncio.Semaphore(500)
    pause = STEPS / rate
    due = time.perf_counter()

    async def one() -> None:
        try:
            began = time.perf_counter()
            await (await app.start("ten")).result()
            load.delays.append(time.perf_counter() - began)
            load.runs += 1
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        while True:
            await room.acquire()
            group.create_task(one())
            due = max(due + pause, time.perf_counter() - 1.0)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def measure(database: str, options: argparse.Namespace) -> dict[str, Any]:
    app = Aura("live", config=Config(database=database, capacity=1_000, retention=None))
    app.workflow(version="1.0.0")(ten)
    app.workflow(version="1.0.0")(ticker)
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = listening.getsockname()[1]
    settings = uvicorn.Config(
        build(app, dashboard=True), log_level="error", lifespan="on", timeout_graceful_shutdown=2
    )
    server = Server(settings)
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:  # noqa: ASYNC110  (the server has no event for it)
        await asyncio.sleep(0.05)
    load = Load()
    seconds = 60.0 * options.minutes
    await app.start("ticker", id="ticker", until=time.time() + ALONE + seconds + 120)
    busy = asyncio.create_task(keep_busy(app, options.rate, load))
    try:
        return await _phases(load, port, seconds, options)
    finally:
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        server.should_exit = True
        await serving


async def _phases(
    load: Load, port: int, seconds: float, options: argparse.Namespace
) -> dict[str, Any]:
    await asyncio.sleep(3.0)
    load.look(1.0)
    await asyncio.sleep(ALONE)
    alone = {**load.look(ALONE), "mib": round(resident_mib(), 1)}
    counts = (options.readers, options.silent, options.pages)
    command = [sys.executable, "-m", "benchmarks.listeners", *map(str, (port, *counts))]
    hearing = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert hearing.stdout is not None
    assert (await hearing.stdout.readline()).strip() == b"ready", "not all clients were let in"
    load.look(1.0)
    marks = []
    parts = max(2, round(seconds / 10))
    for _ in range(parts):
        await asyncio.sleep(seconds / parts)
        marks.append({**load.look(seconds / parts), "mib": round(resident_mib(), 1)})
    assert hearing.stdin is not None
    hearing.stdin.close()
    heard = json.loads(await hearing.stdout.read())
    await hearing.wait()
    return {"clients": sum(counts), "alone": alone, "with_clients": marks, "heard": heard}


def show(figures: dict[str, Any]) -> None:
    print(f"alone:           {figures['alone']}")
    for mark in figures["with_clients"]:
        print(f"{figures['clients']:4} clients:    {mark}")
    print(f"clients heard:   {figures['heard']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database", help="a SQLite path or PostgreSQL URL to use and fill")
    parser.add_argument("--readers", type=int, default=80, help="streams that are read")
    parser.add_argument("--silent", type=int, default=20, help="streams that are not read")
    parser.add_argument("--pages", type=int, default=100, help="open pages of the dashboard")
    parser.add_argument("--rate", type=float, default=2_000.0)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    given = contextlib.nullcontext(options.database) if options.database else None
    with given or temporary_database(options.store) as database:
        figures = uvloop.run(measure(database, options))
    print(json.dumps(figures, indent=2)) if options.json else show(figures)


if __name__ == "__main__":
    main()
