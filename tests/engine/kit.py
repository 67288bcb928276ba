"""Apps on one database, and ways to crash them in the middle of their work."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from aura import Aura, Config, Run, Workflow
from aura.app import open_store
from aura.clock import Clock, SystemClock
from aura.codec import Limits, pack
from aura.errors import LeaseLost, StoreUnavailable
from aura.store.base import (
    Append,
    Entry,
    Heartbeat,
    Op,
    RequestCancel,
    RunRecord,
    Settle,
    StartRun,
    Store,
)

P = ParamSpec("P")
R = TypeVar("R")

PAIRS = ["sqlite-postgres", "postgres-sqlite", "sqlite-sqlite", "postgres-postgres"]
"""Where an app may move from, and where to."""


def declare(
    function: Callable[P, Awaitable[R]], version: str = "1.0.0", name: str | None = None
) -> Workflow[P, R]:
    """A workflow that belongs to no app yet."""
    return Workflow(name or function.__name__, version, function)


class World:
    """One database and the apps that were opened on it."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.apps: list[Aura] = []
        self.clock: Clock | None = None

    def app(self, *workflows: Workflow[..., Any], **settings: Any) -> Aura:
        """An unopened app that knows the workflows; settings are those of Config."""
        config = Config(database=self.database, **({"poll": 0.05, "grace": 1.0} | settings))
        app = Aura("test", config=config, clock=self.clock)
        for workflow in workflows:
            app.registry.add(workflow)
        return app

    async def open(
        self,
        *workflows: Workflow[..., Any],
        worker: bool = True,
        keep_in_memory: float | None = None,
        **settings: Any,
    ) -> Aura:
        """`keep_in_memory`: how many seconds of waiting a run does not leave memory for."""
        app = self.app(*workflows, **settings)
        await app.open(worker=worker)
        if app._worker is not None and keep_in_memory is not None:
            services = replace(app._worker._services, keep_in_memory=keep_in_memory)
            app._worker._services = services
        self.apps.append(app)
        return app

    async def crash(self, app: Aura) -> None:
        """End an app as a kill would: it writes nothing more, and its lease is over."""
        self.apps.remove(app)
        worker = app._worker
        assert worker is not None
        await drop(app)
        async with self.store() as store:
            await store.commit([Heartbeat(worker.id, 0.0)])

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The database itself, next to the apps."""
        store = open_store(self.database, SystemClock())
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def record(self, run_id: str) -> RunRecord:
        async with self.store() as store:
            found = await store.run(run_id)
        assert found is not None
        return found

    async def journal(self, run_id: str) -> list[Entry]:
        async with self.store() as store:
            return await store.journal(run_id)

    async def close(self) -> None:
        for app in self.apps:
            await app.close()


async def drop(app: Aura) -> None:
    """Stop everything of an app in memory without writing; its lease stays."""
    worker = app._worker
    assert worker is not None
    app._opened = False
    pump = app.committer._pump
    assert pump is not None
    pump.cancel()
    for loop in worker._loops:
        loop.cancel()
    worker._unlisten()
    tasks = list(worker._tasks.values())
    for execution in tuple(worker._executions.values()):
        execution.lose(LeaseLost("crashed"))
    if tasks:  # one that was writing how it ended waits for an answer that will not come
        _, stuck = await asyncio.wait(tasks, timeout=1.0)
        for task in stuck:
            task.cancel()
    await asyncio.gather(pump, *worker._loops, *tasks, return_exceptions=True)
    worker._threads.shutdown(wait=False, cancel_futures=True)
    await app._residence.close()
    closing: Any = app.results.close()
    if inspect.isawaitable(closing):
        await closing
    with contextlib.suppress(StoreUnavailable):
        await app.store.close()


async def until(condition: Callable[[], bool | Awaitable[bool]], timeout: float = 60.0) -> None:
    """Return when the condition holds; fail loudly when it does not come to hold."""
    give_up = time.monotonic() + timeout
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < give_up, "the condition never came to hold"
        await asyncio.sleep(0.005)


class Ledger:
    """Counts how often each step's code really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, name: str) -> None:
        self.ran.append(name)

    def count(self, name: str) -> int:
        return self.ran.count(name)


_numbers = itertools.count(1)


async def replayed(
    app: Aura, workflow: Workflow[..., Any], journal: list[Entry], *args: Any
) -> Any:
    """What a run gives whose journal begins so, as after a crash; `app` executes it."""
    return await (await resumed(app, workflow, journal, *args)).result(timeout=60)


async def resumed(
    app: Aura,
    workflow: Workflow[..., Any],
    journal: list[Entry],
    *args: Any,
    cancelled: bool = False,
) -> Run[Any]:
    """A run whose journal begins so, as after a crash; `app` executes it. It may have been
    `cancelled` before that."""
    run_id = f"replay-{next(_numbers)}"
    data = pack(workflow.signature.dump(args, {}), Limits(), "input")
    fingerprint = workflow.signature.fingerprint(data)
    ops: list[Op] = [
        StartRun(run_id, workflow.name, workflow.version, data, fingerprint, "test", "dead"),
        *(Append(1, entry._replace(run_id=run_id)) for entry in journal),
        Settle(run_id, 1, "pending"),
        *([RequestCancel(run_id)] if cancelled else []),
    ]
    for op, outcome in zip(ops, await app.store.commit(ops), strict=True):
        assert not isinstance(outcome, BaseException), (op, outcome)
    return app.run(run_id, workflow)
