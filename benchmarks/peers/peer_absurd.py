"""absurd: tasks of no-op steps on PostgreSQL, one connection per worker thread, four at most."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import Absurd, AsyncAbsurd
from common import (
    MAX_SECONDS,
    STEPS_PER_WORKFLOW,
    Meter,
    Options,
    leave,
    once,
    once_alone,
    options,
    own_database,
    report,
)

CONNECTIONS = 4
QUEUE = "bench"


def sequential(meter: Meter) -> Any:
    def task(params: dict[str, Any], ctx: Any) -> None:
        for n in range(params["size"]):
            ctx.step(f"step{n}", lambda: meter.step(params["run"]))
        meter.finished(params["run"])

    return task


def worker(database: str, meter: Meter) -> Absurd:
    app = Absurd(database, queue_name=QUEUE)
    app.register_task(name="sequential")(sequential(meter))
    return app


def workflows(given: Options, database: str, meter: Meter) -> float:
    """Keep `size` tasks in the queue; workers take what is there without pausing."""
    lock = threading.Lock()
    spawned = 0
    started = time.perf_counter()

    def goes_on() -> bool:
        passed = time.perf_counter() - started
        return passed < MAX_SECONDS and (passed < given.seconds or meter.runs < given.size)

    def work() -> None:
        nonlocal spawned
        app = worker(database, meter)
        try:
            while goes_on():
                with lock:
                    missing = min(given.size - (spawned - meter.runs), batch)
                    spawned += missing
                    first = spawned - missing
                for n in range(first, first + missing):
                    app.spawn("sequential", {"run": str(n), "size": STEPS_PER_WORKFLOW})
                app.work_batch(batch_size=batch)
        finally:
            app.close()

    count = min(CONNECTIONS, given.size)
    batch = max(1, given.size // count)
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def one_sequence(given: Options, database: str, meter: Meter) -> float:
    """One task whose steps run in turn."""
    app = worker(database, meter)

    def run_one(run: str) -> None:
        app.spawn("sequential", {"run": run, "size": given.size})
        app.work_batch()

    try:
        return once_alone(given, meter, run_one)
    finally:
        app.close()


async def one_fanout(given: Options, database: str, meter: Meter) -> float:
    """One task whose steps start at once, over the one connection that a task has."""
    app = AsyncAbsurd(database, queue_name=QUEUE)

    async def step() -> None:
        meter.step(given.scenario)

    @app.register_task(name="fanout")
    async def fanout(params: dict[str, Any], ctx: Any) -> None:
        await asyncio.gather(*(ctx.step(f"step{n}", step) for n in range(params["size"])))

    async def run_one(run: str) -> None:
        await app.spawn("fanout", {"run": run, "size": given.size})
        await app.work_batch()

    try:
        return await once(given, meter, run_one)
    finally:
        await app.close()


def measure(given: Options, database: str, meter: Meter) -> float:
    if given.kind == "workflows":
        return workflows(given, database, meter)
    if given.kind == "sequential":
        return one_sequence(given, database, meter)
    return asyncio.run(one_fanout(given, database, meter))


def main() -> None:
    given, meter = options(), Meter()
    if not given.is_postgres:
        sys.exit("absurd needs PostgreSQL")
    with own_database(given, "absurd") as database:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            connection.execute("SELECT absurd.create_queue(%s)", (QUEUE,))
        seconds = measure(given, database, meter)
        report("absurd", given, meter, seconds, "absurd-sdk")
    leave()


if __name__ == "__main__":
    main()
