"""Runs that stay in a step until they are let out, and workers that are watched."""

from __future__ import annotations

import asyncio
from typing import Any

from aura import Aura, Run, Workflow, step
from tests.engine.kit import World, declare, until

PATIENCE = 30.0  # seconds: far more than a loaded machine needs


class Gate:
    """Runs that are inside, by name; they stay until they are let out."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.came: list[str] = []
        self.most = 0
        self.let_out: set[str] = set()
        self.open = False

    async def visit(self, name: str) -> str:
        self.came.append(name)
        self.inside.append(name)
        self.most = max(self.most, len(self.inside))
        try:
            while not self.open and name not in self.let_out:
                await asyncio.sleep(0.005)
        finally:
            self.inside.remove(name)
        return name

    async def holds(self, *names: str) -> None:
        """Return when exactly these are inside."""
        await until(lambda: sorted(self.inside) == sorted(names), PATIENCE)


def visiting(gate: Gate) -> Workflow[[str], str]:
    @step
    async def visit(name: str) -> str:
        return await gate.visit(name)

    async def flow(name: str) -> str:
        return await visit(name)

    return declare(flow)


async def opened(world: World, app: Aura, *, worker: bool = True) -> Aura:
    await app.open(worker=worker)
    world.apps.append(app)
    return app


async def quiet(world: World) -> None:
    """Return when every worker has claimed twice more, so that what could begin has begun."""
    workers = [app._worker for app in world.apps if app._worker is not None]
    for worker in workers:
        claims = 0
        ask = worker._store.claim

        async def counted(claim: Any, ask: Any = ask) -> Any:
            nonlocal claims
            found = await ask(claim)
            claims += 1
            return found

        worker._store.claim = counted  # type: ignore[method-assign]
        try:
            while claims < 2:
                worker._ready.set()
                await asyncio.sleep(0.005)
        finally:
            worker._store.claim = ask  # type: ignore[method-assign]


async def results(runs: list[Run[Any]]) -> list[Any]:
    return [await run.result(timeout=PATIENCE) for run in runs]
