"""A worker at its edges: a lease that ran out, code that does not stop, ids, versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

import aura
from aura import Aura, Config, Retry, step
from aura.engine import worker as worker_module
from tests.engine.kit import World, declare, until


async def test_no_try_begins_when_the_lease_is_over_by_the_workers_own_clock(world: World) -> None:
    """Its heartbeats hang; another worker has the run, so its next try would be one too many."""
    tried, gate = [], asyncio.Event()

    @step(retries=Retry(attempts=3, first=3.0, longest=3.0))
    async def call() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("the network")
        return len(tried)

    async def flow() -> int:
        return await call()

    workflow = declare(flow)
    app = await world.open(workflow, lease=0.4)
    worker = app._worker
    assert worker is not None
    beat = worker._beat

    async def hanging() -> None:
        await gate.wait()
        await beat()

    worker._beat = hanging  # type: ignore[method-assign]
    run = await app.start(workflow)
    await until(lambda: len(tried) == 1)
    other = await world.open(workflow, lease=60.0)
    assert await other.run(run.id, workflow).result(timeout=60) == 2
    gate.set()
    await until(lambda: not worker.executes(run.id))
    assert len(tried) == 2


async def test_close_leaves_code_that_swallows_its_cancellation(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_CLEANUP", 0.1)
    free, inside = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        inside.set()
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    workflow = declare(stubborn)
    app = await world.open(workflow, grace=0.1)
    run = await app.start(workflow, id="stubborn-1")
    await asyncio.wait_for(inside.wait(), 60)
    with caplog.at_level(logging.ERROR, logger="aura.worker"):
        async with asyncio.timeout(60):
            await app.close()
    assert any("stubborn-1" in one.getMessage() for one in caplog.records)
    free.set()
    other = await world.open(workflow)
    assert await other.run(run.id, workflow).result(timeout=60) == "at last"


@pytest.mark.parametrize("durability", ["sync", "adaptive"])
async def test_an_idempotent_step_begins_when_the_ids_before_it_are_durable(
    world: World, durability: str
) -> None:
    """With another id it would be another effect."""

    @step(idempotent=True)
    async def put(number: str) -> bool:
        journal = await world.journal("r")
        return any(number.encode() in (entry.output or b"") for entry in journal)

    async def flow() -> bool:
        return await put(str(aura.uuid()))

    workflow = declare(flow)
    app = await world.open(workflow, durability=durability)
    assert await (await app.start(workflow, id="r")).result(timeout=60)


async def test_only_a_takeover_is_logged_as_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def flow() -> str:
        await aura.receive("one")
        return str(await aura.receive("two"))

    workflow = declare(flow)
    app = await world.open(workflow, lease=0.5)
    run = await app.start(workflow)
    await run.signal("one")
    await until(lambda: app._worker is not None and app._worker.executes(run.id))
    await until(lambda: _received(world, run.id))
    await world.crash(app)
    with caplog.at_level(logging.INFO, logger="aura.worker"):
        app = await world.open(workflow)
        await until(lambda: _is(app, run.id, "waiting"))
        record = await world.record(run.id)
        await app.run(run.id).signal("two", "end")
        assert await app.run(run.id, workflow).result(timeout=60) == "end"
    said = [one for one in caplog.records if "recovered" in one.getMessage()]
    assert len(said) == min(record.recoveries, 1), "it has woken once more, too"


async def _received(world: World, run_id: str) -> bool:
    return any(entry.kind == "signal" for entry in await world.journal(run_id))


async def _is(app: Aura, run_id: str, state: str) -> bool:
    return await app.run(run_id).status() == state


def test_a_release_is_preferred_to_a_higher_pre_release() -> None:
    app = Aura("versions", config=Config(database=":memory:"))

    async def flow() -> None: ...

    app.workflow(version="2.0.0-rc.1")(flow)
    assert app.registry.resolve("flow", "") == "2.0.0-rc.1", "there is nothing else"
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        app.workflow(version=version, name="flow")(_other(version))
    assert app.registry.resolve("flow", "") == "1.10.0"


def _other(version: str) -> Callable[[], Awaitable[str]]:
    async def flow() -> str:
        return version

    return flow
