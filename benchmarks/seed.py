"""Lists of a million runs: seeds a database, and measures the HTTP API over it.

    python -m benchmarks.seed --store postgres [--runs 1000000] [--repeats 40] [--json] [--plans]
                              [--database URL]

A server of its own process (without a worker) is asked over HTTP, one request after the other, each
question with another value each time; before that everything once. The figure to reach: every list
within 200 ms at the 95th percentile. `--plans` also shows how PostgreSQL finds the rows. A database
that has runs already is measured as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from urllib.parse import quote

import httpx
import uvicorn
from rich.console import Console
from rich.table import Table

from aura import Aura, Config
from aura.server import catalog, operations, queues
from aura.server.operations import write_cursor
from aura.server.serving import build
from aura.store.postgres import PostgresStore
from benchmarks.engine import temporary_database
from benchmarks.plans import explained, recorded
from benchmarks.seeding import long_runs, seed

LIMIT = 200.0  # ms at the 95th percentile
MONTH = 30 * 86_400.0
WORKFLOWS = ("research", "ingest", "moderate", "plan")

Path = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Figure:
    """How long a question took, in ms."""

    question: str
    p50: float
    p95: float
    longest: float


def questions(runs: int, newest: float) -> dict[str, Path]:
    """What is asked: a path, with other values each time."""

    def deep(chance: random.Random) -> str:
        return "&cursor=" + write_cursor(newest - MONTH * chance.random(), "")

    def customer(chance: random.Random) -> str:
        return f"&attribute=customer:c-{chance.randrange(1_000)}"

    def flow(chance: random.Random) -> str:
        return f"&workflow={chance.choice(WORKFLOWS)}"

    def a_run(chance: random.Random) -> str:
        return f"/runs/seed-{chance.randrange(1, runs + 1):09}"

    return {
        "newest": lambda _: "/runs?",
        "newest, 500": lambda _: "/runs?limit=500",
        "next page, deep": lambda c: "/runs?" + deep(c),
        "state: completed": lambda _: "/runs?state=completed",
        "state: failed": lambda _: "/runs?state=failed",
        "state: parked (rare)": lambda _: "/runs?state=parked",
        "state: failed, deep": lambda c: "/runs?state=failed" + deep(c),
        "workflow": lambda c: "/runs?" + flow(c),
        "workflow, 500, deep": lambda c: "/runs?limit=500" + flow(c) + deep(c),
        "workflow: the rarest": lambda _: "/runs?workflow=audit-yearly",
        "workflow: unknown": lambda _: "/runs?workflow=nobody",
        "workflow and state": lambda c: "/runs?state=failed" + flow(c) + deep(c),
        "workflow and rare state": lambda c: "/runs?state=parked" + flow(c),
        "search: customer": lambda c: "/runs?" + customer(c),
        "search: tier, deep": lambda c: "/runs?attribute=tier:gold" + deep(c),
        "search: customer and tier": lambda c: "/runs?attribute=tier:gold" + customer(c),
        "search: customer and state": lambda c: "/runs?state=failed" + customer(c),
        "search: tier and rare state": lambda _: "/runs?attribute=tier:gold&state=parked",
        "search: tier and rare workflow": lambda _: (
            "/runs?attribute=tier:gold&workflow=audit-yearly"
        ),
        "overview": lambda _: "/status",
        "queues": lambda _: "/queues",
        "one queue": lambda _: "/queues/gpu",
        "catalog": lambda _: "/catalog",
        "workers": lambda _: "/workers",
        "a run": a_run,
        "a run of 10,000 steps": lambda c: f"/runs/{quote(c.choice(long_runs(runs)))}",
    }


async def measure(base: str, asked: dict[str, Path], repeats: int) -> list[Figure]:
    """Ask one after the other. Raises AssertionError for an answer that is not 200."""
    found = []
    async with httpx.AsyncClient(base_url=base, timeout=120) as http:
        for question, path in asked.items():
            chance = random.Random(question)
            times = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                answer = await http.get("/api/v1" + path(chance))
                times.append(1_000 * (time.perf_counter() - began))
                assert answer.status_code == 200, (question, answer.text[:500])
            times.pop(0)
            p95 = statistics.quantiles(times, n=20)[-1]
            found.append(Figure(question, statistics.median(times), p95, max(times)))
    return found


@contextlib.asynccontextmanager
async def served(url: str) -> AsyncIterator[tuple[str, float]]:
    """A server over the database: its address, and how many ms its first overview took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.seed", "--serve", str(port)]
    environment = {**os.environ, "AURA_DATABASE_URL": url}
    process = subprocess.Popen(command, env=environment)  # noqa: ASYNC220  (it is quick)
    base = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=300) as http:
            await _until_ready(http, process)
            began = time.perf_counter()
            (await http.get("/api/v1/status")).raise_for_status()
            yield base, 1_000 * (time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)


async def _until_ready(http: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get("/readyz")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError("the server does not start")


def serve(port: int) -> None:
    """The server's process."""
    app = Aura("seed", config=Config(database=os.environ["AURA_DATABASE_URL"]))
    uvicorn.run(build(app, worker=False), host="127.0.0.1", port=port, log_level="warning")


async def show_plans(url: str) -> list[str]:
    """How the rows of each list are found, in a few words."""
    with recorded() as statements:
        app = Aura("seed", config=Config(database=url))
        await app.open(worker=False)
        try:
            statements.clear()
            await ask_everything(app)
        finally:
            await app.close()
    lines = []
    for plan in await explained(url, statements):
        name = " ".join(plan.statement.sql.split())
        lines += [f"{name[:100]} ... {list(plan.statement.values)!s:.120}", plan.brief(), ""]
    return lines


async def ask_everything(app: Aura) -> None:
    """Every list and count of runs, through the operations that all faces use."""
    cursor = write_cursor(time.time() - MONTH / 2, "")
    for state in (None, "failed", "parked"):
        for workflow in (None, "research"):
            for words in ((), ("customer:c-7",), ("tier:gold", "customer:c-7")):
                await operations.list_runs(
                    app, state=state, workflow=workflow, cursor=cursor, attributes=words
                )
    await operations.overview(app)
    await operations.show_run(app, "seed-000000001")
    await queues.list_queues(app)
    await queues.show_queue(app, "gpu")
    await catalog.list_versions(app)


@contextlib.contextmanager
def a_database(url: str | None) -> Iterator[str]:
    with contextlib.nullcontext(url) if url else temporary_database("postgres") as database:
        yield str(database)


async def has_runs(url: str) -> bool:
    store = PostgresStore(url)
    await store.open()
    try:
        return bool(await store.run("seed-000000001"))
    finally:
        await store.close()


async def run(options: argparse.Namespace, url: str) -> int:
    console = Console(stderr=options.json)
    if not await has_runs(url):
        await seed(url, options.runs, tell=console.print)
    async with served(url) as (base, first):
        figures = await measure(base, questions(options.runs, time.time()), options.repeats)
    if options.json:
        told = {"runs": options.runs, "first_overview_ms": first}
        print(json.dumps({**told, "figures": list(map(asdict, figures))}, indent=2))
    else:
        show(console, figures, options.runs)
        console.print(f"the first overview, which tallies: {first:,.0f} ms")
    if options.plans:
        print("\n".join(await show_plans(url)))
    return int(any(one.p95 > LIMIT for one in figures))


def show(console: Console, figures: list[Figure], runs: int) -> None:
    table = Table(title=f"The HTTP API over {runs:,} runs in PostgreSQL, ms")
    for column in ("question", "p50", "p95", "longest", ""):
        table.add_column(column, justify="right" if column[:1] in ("p", "l") else "left")
    for one in figures:
        over = "over the limit" if one.p95 > LIMIT else ""
        table.add_row(one.question, f"{one.p50:.1f}", f"{one.p95:.1f}", f"{one.longest:.1f}", over)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("postgres",), default="postgres")
    parser.add_argument("--database", help="a PostgreSQL URL to use and fill")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--plans", action="store_true", help="show how PostgreSQL finds the rows")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    with a_database(options.database) as url:
        return asyncio.run(run(options, url))


if __name__ == "__main__":
    sys.exit(main())
