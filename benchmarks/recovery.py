"""How long runs take to end after the lease of the worker that was killed with them.

    python -m benchmarks.recovery --store sqlite|postgres [--json] [--repeats 3] [--runs 100]
                                  [--lease 10] [--database PATH_OR_URL] [--peers]

A process starts runs of ten steps (every step durable before the next) and stops in the sixth step
of each; when all are there it is killed with SIGKILL. Another process, which was idle all the time,
takes them over. The figures are the database's own times: `detected` is from the end of the dead
worker's lease to the first new entry in a journal, `seconds` to the end of the last run. `repeated`
counts steps that had finished and were executed again.

With --peers absurd does the same by turns, as its worker is by default and as it does best
(`benchmarks/peers/recover_absurd.py`). DBOS and LangGraph, the libraries, have no leases: a process
that is running already never takes a dead one's work over, so there is nothing to time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from aura import Aura, Config, step
from benchmarks.engine import temporary_database
from benchmarks.report import run_script

STEPS, HALF = 10, 5
PATIENCE = 60.0  # seconds
SETTINGS_OF_ABSURD = ("default", "best")


class Half:
    """In the process that is to be killed: how many runs have come to the middle.

    In the other one: how many steps of the first half were executed, which had finished.
    """

    here = False
    runs = 0
    repeated = 0


@step
async def work(number: int) -> int:
    """Does nothing, but in the middle of its run it waits to be killed."""
    if Half.here and number == HALF:
        Half.runs += 1
        await asyncio.Event().wait()
    if not Half.here and number < HALF:
        Half.repeated += 1
    return number


async def ten() -> int:
    total = 0
    for number in range(STEPS):
        total += await work(number)
    return total


def make_app(database: str, lease: float) -> Aura:
    app = Aura("benchmark", config=Config(database=database, lease=lease))
    app.workflow(version="1.0.0")(ten)
    return app


async def half_way(database: str, lease: float, runs: int) -> None:
    """The process that is killed: says so when all its runs are in the middle."""
    Half.here = True
    async with make_app(database, lease) as app:
        for number in range(runs):
            await app.start("ten", id=f"{os.getpid()}-{number}")
        while Half.runs < runs:  # noqa: ASYNC110  (it tells nobody)
            await asyncio.sleep(0.01)
        assert app._worker is not None
        print(json.dumps({"worker": app._worker.id, "pid": os.getpid()}), flush=True)
        await asyncio.Event().wait()


async def measured(database: str, lease: float, runs: int) -> dict[str, Any]:
    """One murder, and what comes after."""
    Half.repeated = 0
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.recovery", "--victim", "--database", database),
        *("--lease", str(lease), "--runs", str(runs)),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert victim.stdout is not None
    said = json.loads(await victim.stdout.readline())
    async with make_app(database, lease) as app:
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
        ids = [f"{said['pid']}-{number}" for number in range(runs)]
        async with asyncio.timeout(lease + PATIENCE):
            results = await asyncio.gather(*(app.run(one).result() for one in ids))
        assert results == [sum(range(STEPS))] * runs
        [until] = [one.lease_until for one in await app.store.workers() if one.id == said["worker"]]
        records = await app.store.runs_by_id(ids)
        assert {one.recoveries for one in records} == {1}
        ends = [one.finished_at for one in records if one.finished_at is not None]
        firsts = [(await app.store.journal(one))[HALF].started_at for one in ids]
    return {
        "peer": "aura", "scenario": f"recover-{runs}", "lease": lease,
        "detected": round(min(firsts) - until, 3), "seconds": round(max(ends) - until, 3),
        "repeated": Half.repeated,
    }  # fmt: skip


def beside(database: str, setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same with absurd, whose claims last whole seconds."""
    given = {"--database": database, "--setting": setting, "--runs": options.runs}
    given["--lease"] = round(options.lease)
    arguments = [str(part) for pair in given.items() for part in pair]
    failed = {"peer": f"absurd, {setting}", "scenario": f"recover-{options.runs}"}
    return run_script("recover_absurd.py", arguments, failed)


def measure(database: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Aura and, when asked for, its peer in turns; of each the repeat with the median time."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        turn = [uvloop.run(measured(database, options.lease, options.runs))]
        if options.peers:
            turn += [beside(database, setting, options) for setting in SETTINGS_OF_ABSURD]
        for one in turn:
            found.setdefault(one["peer"], []).append(one | {"store": options.store})
    return [_median(several) for several in found.values()]


def _median(several: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [one for one in several if "error" in one]
    if failed:
        return failed[0]
    times = sorted(one["seconds"] for one in several)
    middle = next(one for one in several if one["seconds"] == statistics.median_low(times))
    return middle | {"all": times, "repeated": sum(one["repeated"] for one in several)}


def show(rows: list[dict[str, Any]], store: str) -> None:
    table = Table(title=f"Runs that were killed half-way, on {store}, medians")
    for column in ("scenario", "who", "detected s", "all ended s", "repeated steps", "note"):
        table.add_column(column, justify="left" if column in ("scenario", "who") else "right")
    for row in rows:
        found = (str(row.get(name, "")) for name in ("detected", "seconds", "repeated"))
        table.add_row(row["scenario"], row["peer"], *found, row.get("error", "")[:60])
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--database", help="a SQLite path or PostgreSQL URL to use and fill")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--lease", type=float, default=10.0, help="seconds")
    parser.add_argument("--peers", action="store_true", help="measure absurd too (PostgreSQL)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--victim", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        uvloop.run(half_way(options.database, options.lease, options.runs))
        return
    if options.peers and options.store != "postgres":
        parser.error("--peers needs --store postgres: of the peers only absurd has leases")
    given = contextlib.nullcontext(options.database) if options.database else None
    with given or temporary_database(options.store) as database:
        rows = measure(database, options)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows, options.store)


if __name__ == "__main__":
    main()
