"""Functions around runs and the tries of steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aura import Retry, RunFailed, step
from aura.engine.middleware import Invocation, Proceed
from tests.engine.kit import World, declare


@step(retries=Retry(attempts=1, first=0.001))
async def fragile(calls: list[int]) -> int:
    tries.append(1)
    if len(tries) == 1:
        raise ValueError("once")
    return len(calls)


tries: list[int] = []


@declare
async def job(text: str) -> str:
    return text + str(await fragile([1, 2]))


async def test_it_sees_runs_and_every_try(world: World) -> None:
    tries.clear()
    app = world.app(job)
    seen: list[tuple[str, str, str, int]] = []

    @app.middleware
    async def outer(what: Invocation, proceed: Proceed) -> Any:
        seen.append((what.kind, what.name, what.key, what.attempt))
        try:
            return await proceed()
        finally:
            seen.append((what.kind, "end", what.key, what.attempt))

    async with app:
        run = await app.start(job, "n", id="r")
        assert await run.result() == "n2"
    assert seen == [
        ("run", "job", "", 1),
        ("step", "fragile", "0/fragile#1", 1),
        ("step", "end", "0/fragile#1", 1),
        ("step", "fragile", "0/fragile#1", 2),
        ("step", "end", "0/fragile#1", 2),
        ("run", "end", "", 1),
    ]


async def test_the_first_is_outermost_and_may_replace_a_result(memory: World) -> None:
    tries.clear()
    app = memory.app(job)
    order: list[str] = []

    @app.middleware
    async def first(what: Invocation, proceed: Proceed) -> Any:
        order.append(f"first {what.kind}")
        return await proceed()

    @app.middleware
    async def second(what: Invocation, proceed: Proceed) -> Any:
        order.append(f"second {what.kind}")
        return 7 if what.kind == "step" else await proceed()

    async with app:
        assert await (await app.start(job, "n")).result() == "n7"
    assert order == ["first run", "second run", "first step", "second step"]
    assert tries == []


async def test_what_it_awaits_opens_no_lanes_and_is_not_journalled(memory: World) -> None:
    tries.clear()
    app = memory.app(job)

    @app.middleware
    async def busy(what: Invocation, proceed: Proceed) -> Any:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        return await proceed()

    async with app:
        run = await app.start(job, "n")
        assert await run.result() == "n2"
        keys = [entry.key for entry in await app.store.journal(run.id)]
    assert set(keys) == {"0/fragile#1"}


async def test_what_it_raises_is_the_failure(memory: World) -> None:
    app = memory.app(job)

    @app.middleware
    async def strict(what: Invocation, proceed: Proceed) -> Any:
        raise PermissionError(f"no {what.kind}")

    async with app:
        with pytest.raises(RunFailed, match="no run"):
            await (await app.start(job, "n")).result()
