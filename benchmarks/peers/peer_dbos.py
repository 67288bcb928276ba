"""DBOS: workflows of no-op steps, one process, its own connection pool.

One at a time they are plain functions, which DBOS runs faster; many at a time they are async.
"""

from __future__ import annotations

import asyncio

from common import (
    STEPS_PER_WORKFLOW,
    Meter,
    Options,
    keep_busy,
    keep_busy_alone,
    leave,
    once,
    once_alone,
    options,
    own_database,
    report,
)
from dbos import DBOS

meter = Meter()


@DBOS.step()
def step(run: str) -> None:
    meter.step(run)


@DBOS.workflow()
def sequential(run: str, size: int) -> None:
    for _ in range(size):
        step(run)


@DBOS.step()
async def async_step(run: str) -> None:
    meter.step(run)


@DBOS.workflow()
async def async_sequential(run: str, size: int) -> None:
    for _ in range(size):
        await async_step(run)


@DBOS.workflow()
async def fanout(run: str, size: int) -> None:
    await asyncio.gather(*(async_step(run) for _ in range(size)))


def measure(given: Options) -> float:
    if given.scenario == "workflows-1":
        return keep_busy_alone(given, meter, lambda run: sequential(run, STEPS_PER_WORKFLOW))
    if given.kind == "workflows":
        busy = keep_busy(given, meter, lambda run: async_sequential(run, STEPS_PER_WORKFLOW))
        return asyncio.run(busy)
    if given.kind == "sequential":
        return once_alone(given, meter, lambda run: sequential(run, given.size))
    return asyncio.run(once(given, meter, lambda run: fanout(run, given.size)))


def main() -> None:
    given = options()
    with own_database(given, "dbos") as database:
        url = database if given.is_postgres else f"sqlite:///{database}"
        DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
        DBOS.launch()
        seconds = measure(given)
        report("dbos", given, meter, seconds, "dbos")
        DBOS.destroy(workflow_completion_timeout_sec=0)
    leave()


if __name__ == "__main__":
    main()
