"""absurd: how long tasks take to end after the claims of the worker that was killed with them.

    python benchmarks/peers/recover_absurd.py --database URL --setting NAME --json
                                              [--runs 100] [--lease 10]

As in `python -m benchmarks.recovery`: a process stops in the sixth of ten steps of each task and is
killed with SIGKILL when all are there; a worker that is running by then takes them over. A claim is
of one task here, and each step extends it. So `detected` is from the first claim's end to the first
new claim, and `seconds` from the last claim's end to the last task's, in the database's own times.
`repeated` counts steps that had finished and were executed again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
from functools import partial
from importlib import metadata
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import Absurd, AsyncAbsurd
from common import STEPS_PER_WORKFLOW, Options, leave, own_database

QUEUE = "bench"
HALF = 5
PATIENCE = 60.0  # seconds

# Workers, one connection each, and what they are started with. "default" is `start_worker` as it
# is. "best" had the shortest times of what was tried: 1 to 8 workers that share a hundred tasks,
# polls of 1 and 10 ms, threads, and the asynchronous worker with 1 and 4 connections.
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "default": (1, {}),
    "best": (8, {"batch_size": 13, "poll_interval": 0.01}),
}

TAKEN_OVER = """
SELECT extract(epoch FROM min(new.started_at) - min(old.claim_expires_at))::float8,
       extract(epoch FROM max(new.completed_at) - max(old.claim_expires_at))::float8,
       count(*)
  FROM absurd.r_bench old
  JOIN absurd.r_bench new USING (task_id)
 WHERE old.attempt = 1 AND old.state = 'failed' AND new.attempt = 2 AND new.state = 'completed'
"""


async def half_way(database: str, lease: int, runs: int) -> None:
    """The process that is killed: says so when all its tasks are in the middle."""
    app = AsyncAbsurd(database, queue_name=QUEUE)
    here = 0

    async def work(number: int) -> int:
        nonlocal here
        if number == HALF:
            here += 1
            if here == runs:
                print("half-way", flush=True)
            await asyncio.Event().wait()
        return number

    @app.register_task(name="ten")
    async def ten(_: dict[str, Any], ctx: Any) -> None:
        for number in range(STEPS_PER_WORKFLOW):
            await ctx.step(f"step{number}", partial(work, number))

    for _ in range(runs):
        await app.spawn("ten", {})
    await app.start_worker(claim_timeout=lease, concurrency=runs)


class Rescue:
    """The workers that run when the other process is killed, and what they execute."""

    def __init__(self, database: str, setting: str, lease: int, runs: int) -> None:
        count, options = SETTINGS[setting]
        self.executed: list[int] = []
        self.ended = threading.Semaphore(0)
        self._runs = runs
        self._apps = [self._worker(database) for _ in range(count)]
        given = {"claim_timeout": lease, **options}
        self._threads = [
            threading.Thread(target=app.start_worker, kwargs=given, daemon=True)
            for app in self._apps
        ]
        for thread in self._threads:
            thread.start()

    def _worker(self, database: str) -> Absurd:
        app = Absurd(database, queue_name=QUEUE)

        def work(number: int) -> int:
            self.executed.append(number)
            return number

        @app.register_task(name="ten")
        def ten(_: dict[str, Any], ctx: Any) -> None:
            for number in range(STEPS_PER_WORKFLOW):
                ctx.step(f"step{number}", partial(work, number))
            self.ended.release()

        return app

    def wait(self, seconds: float) -> None:
        """Return when all tasks have ended and the workers have stopped."""
        for done in range(self._runs):
            if not self.ended.acquire(timeout=seconds):
                sys.exit(f"no task ended for {seconds} s, {done} of {self._runs} had")
        for app in self._apps:
            app.stop_worker()
        for thread in self._threads:
            thread.join()
        for app in self._apps:
            app.close()


def recovered(database: str, given: argparse.Namespace) -> dict[str, Any]:
    """One murder, and what comes after."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
        connection.execute("SELECT absurd.create_queue(%s)", (QUEUE,))
        victim = subprocess.Popen(
            [
                *(sys.executable, __file__, "--victim", "--database", database),
                *("--lease", str(given.lease), "--runs", str(given.runs)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if victim.stdout.readline() != "half-way\n":
                sys.exit("the process that is to be killed did not come half-way")
            rescue = Rescue(database, given.setting, given.lease, given.runs)
        finally:
            victim.kill()  # with SIGKILL
            victim.wait()
        rescue.wait(given.lease + PATIENCE)
        detected, seconds, count = connection.execute(TAKEN_OVER).fetchone()
    if count != given.runs:
        sys.exit(f"{count} of {given.runs} tasks were taken over")
    return {
        "detected": round(detected, 3),
        "seconds": round(seconds, 3),
        "repeated": sum(number < HALF for number in rescue.executed),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True, help="PostgreSQL URL")
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="default")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--lease", type=int, default=10, help="claim time-out, seconds")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--victim", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.victim:
        asyncio.run(half_way(given.database, given.lease, given.runs))
        return
    options = Options(given.database, f"recover-{given.runs}", "recover", given.runs, 0, given.json)
    with own_database(options, "absurd") as database:
        figures = recovered(database, given)
    figures = {
        "peer": f"absurd, {given.setting}",
        "version": metadata.version("absurd-sdk"),
        "scenario": options.scenario,
        "lease": given.lease,
    } | figures
    print(json.dumps(figures) if given.json else figures)
    leave()


if __name__ == "__main__":
    main()
