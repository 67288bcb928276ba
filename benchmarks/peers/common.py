"""What the peer scripts share: their command line, a database of their own, the measuring.

Every script runs in the peers' environment as

    python benchmarks/peers/<peer>.py --database URL_OR_PATH --scenario NAME --json

Scenarios: `workflows-N` (10-step no-op workflows, N at a time, every step durable before the next),
`sequential-N` (one run of N steps) and `fanout-N` (one run that starts N steps at once).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

STEPS_PER_WORKFLOW = 10
MAX_SECONDS = 30.0


@dataclass(frozen=True)
class Options:
    database: str  # a PostgreSQL URL, or the path of a SQLite file
    scenario: str
    kind: str
    size: int
    seconds: float
    json: bool

    @property
    def is_postgres(self) -> bool:
        return self.database.startswith(("postgresql://", "postgres://"))


@dataclass
class Meter:
    """Counts finished steps; a step's latency is the time between two steps of one run."""

    steps: int = 0
    runs: int = 0
    latencies: list[float] = field(default_factory=list)
    _last: dict[str, float] = field(default_factory=dict)

    def step(self, run: str) -> None:
        now = time.perf_counter()
        if run in self._last:
            self.latencies.append(now - self._last[run])
        self._last[run] = now
        self.steps += 1

    def finished(self, run: str) -> None:
        self._last.pop(run, None)
        self.runs += 1

    def percentile_ms(self, percent: int) -> float | None:
        if len(self.latencies) < 2:
            return None
        return round(statistics.quantiles(self.latencies, n=100)[percent - 1] * 1000, 3)


def options() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True, help="PostgreSQL URL or SQLite path")
    parser.add_argument("--scenario", required=True, help="workflows-N, sequential-N or fanout-N")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure, about")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    match = re.fullmatch(r"(workflows|sequential|fanout)-(\d+)", given.scenario)
    if not match:
        parser.error(f"no scenario {given.scenario!r}: workflows-N, sequential-N or fanout-N")
    return Options(
        given.database, given.scenario, match[1], int(match[2]), given.seconds, given.json
    )


@contextlib.contextmanager
def own_database(given: Options, peer: str) -> Iterator[str]:
    """A fresh database beside the given one, dropped afterwards."""
    if given.is_postgres:
        name = f"bench_{peer}_{os.getpid()}"
        with psycopg.connect(given.database, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(given.database)._replace(path=f"/{name}"))
        finally:
            with psycopg.connect(given.database, autocommit=True) as admin:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    else:
        folder = Path(given.database).parent
        with tempfile.TemporaryDirectory(prefix=f"bench-{peer}-", dir=folder) as own:
            yield str(Path(own) / "peer.db")


async def keep_busy(
    given: Options, meter: Meter, run_one: Callable[[str], Awaitable[object]]
) -> float:
    """`size` clients that run one workflow after the other; returns the seconds it took.

    It ends when the time is over and as many runs have finished as there are clients, at the
    latest after `MAX_SECONDS`. Steps of runs that are then unfinished count as well.
    """
    started = time.perf_counter()

    async def client(number: int) -> None:
        turn = 0
        while time.perf_counter() - started < given.seconds or meter.runs < given.size:
            turn += 1
            run = f"{given.scenario}-{number}-{turn}"
            await run_one(run)
            meter.finished(run)

    clients = [asyncio.create_task(client(number)) for number in range(given.size)]
    done, pending = await asyncio.wait(
        clients, timeout=MAX_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    seconds = time.perf_counter() - started
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    return seconds


def keep_busy_alone(given: Options, meter: Meter, run_one: Callable[[str], object]) -> float:
    """One client that runs one blocking workflow after the other; returns the seconds it took."""
    started, turn = time.perf_counter(), 0
    while time.perf_counter() - started < given.seconds:
        turn += 1
        run_one(f"{given.scenario}-{turn}")
        meter.finished(f"{given.scenario}-{turn}")
    return time.perf_counter() - started


def once_alone(given: Options, meter: Meter, run_one: Callable[[str], object]) -> float:
    """One blocking run, timed."""
    started = time.perf_counter()
    run_one(given.scenario)
    return _checked(given, meter, time.perf_counter() - started)


async def once(given: Options, meter: Meter, run_one: Callable[[str], Awaitable[object]]) -> float:
    """One run, timed."""
    started = time.perf_counter()
    await run_one(given.scenario)
    return _checked(given, meter, time.perf_counter() - started)


def _checked(given: Options, meter: Meter, seconds: float) -> float:
    if meter.steps != given.size:
        sys.exit(f"{meter.steps} steps ran instead of {given.size}")
    if given.kind == "fanout":
        meter.latencies.clear()  # steps that run together have no step before them
    return seconds


def report(peer: str, given: Options, meter: Meter, seconds: float, package: str) -> None:
    """Print the figures as one line of JSON, or for people."""
    figures = {
        "peer": peer,
        "version": metadata.version(package),
        "store": "postgres" if given.is_postgres else "sqlite",
        "scenario": given.scenario,
        "concurrency": given.size if given.kind == "workflows" else 1,
        "steps": meter.steps,
        "steps_per_second": round(meter.steps / seconds, 1),
        "seconds": round(seconds, 4),
        "p50_ms": meter.percentile_ms(50),
        "p95_ms": meter.percentile_ms(95),
    }
    if given.json:
        print(json.dumps(figures))
    else:
        print("  ".join(f"{name} {value}" for name, value in figures.items()))


def leave() -> None:
    """End the process without waiting for threads that the peer has left behind."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
