"""A run out of memory is taken by the commit of the signal that wakes it, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import aura
from aura import Aura, Run
from aura.engine.prefetch import MOST
from aura.errors import RunCancelled, StoreUnavailable
from aura.store.base import Announce, Claim, ClaimResult, Op, Outcome, SendSignal
from tests.engine.kit import World, declare, until


async def talks() -> list[str]:
    got: list[str] = []
    while (word := await aura.receive("go", type=str, timeout=timedelta(days=1))) != "stop":
        got.append(word)
    return got


talks_workflow = declare(talks)


async def sleepy(world: World, **settings: Any) -> Aura:
    """An app whose runs leave memory after some milliseconds of waiting."""
    app = await world.open(talks_workflow, **settings)
    assert app._worker is not None
    services = app._worker._services
    app._worker._services = replace(services, suspend_after=0.01, keep_in_memory=0.05, linger=0.01)
    return app


async def asleep(app: Aura, *words: str) -> Run[list[str]]:
    """A run that has had these signals and left memory."""
    run = await app.start(talks_workflow)
    for word in words:
        await run.signal("go", word)
    await gone(app, run)
    return run


async def gone(app: Aura, run: Run[Any]) -> None:
    async def waits() -> bool:
        worker = app._worker
        assert worker is not None
        return await run.status() == "waiting" and run.id not in worker._executions

    await until(waits)


@asynccontextmanager
async def deaf(app: Aura) -> AsyncIterator[None]:
    """Claims find nothing meanwhile; one that was under way has ended."""
    asked = asyncio.Event()

    async def claim(_: Claim) -> ClaimResult:
        asked.set()
        return ClaimResult()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.store, "claim", claim)
        await app.committer.submit(Announce("ready"))
        await asked.wait()
        yield


async def test_a_sleeping_run_wakes_without_a_claim(world: World) -> None:
    app = await sleepy(world)
    run = await asleep(app, "one", "two")
    epoch = (await run.record()).epoch
    async with deaf(app):
        sent = await run.signal("go", "three")
        assert (sent.state, sent.taken, sent.seq) == ("running", True, 3)

        async def received() -> bool:
            entries = await world.journal(run.id)
            return sum(entry.kind == "signal" for entry in entries) == 3

        await until(received)
        assert (await run.record()).epoch == epoch + 1
    await gone(app, run)
    await run.signal("go", "four")
    await run.signal("go", "stop", priority="low")
    assert await run.result(timeout=60) == ["one", "two", "three", "four"]


async def test_several_signals_at_once_take_it_once(world: World) -> None:
    app = await sleepy(world)
    run = await asleep(app)
    sent = await asyncio.gather(
        *(run.signal("go", str(n)) for n in range(20)),
        run.signal("go", "first", priority="critical"),
    )
    assert [one.taken for one in sent].count(True) >= 1
    await run.signal("go", "stop", priority="low")
    got = await run.result(timeout=60)
    assert [word for word in got if word != "first"] == [str(n) for n in range(20)]
    assert "first" in got


async def test_the_run_sees_nothing_before_the_commit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read ahead is not used while the commit is under way."""
    app = await sleepy(world)
    run = await asleep(app)
    commit, allowed, asked = app.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(ops: Sequence[Op]) -> list[Outcome]:
        if any(isinstance(op, SendSignal) for op in ops):
            asked.set()
            await allowed.wait()
        return await commit(ops)

    monkeypatch.setattr(app.store, "commit", slow)
    sending = asyncio.create_task(run.signal("go", "x"))
    await asked.wait()
    worker = app._worker
    assert worker is not None
    await until(lambda: worker._prefetch._coming[run.id].load.done())
    assert run.id not in worker._executions
    assert await run.status() == "waiting"
    allowed.set()
    assert (await sending).taken
    await run.signal("go", "stop", priority="low")
    assert await run.result(timeout=60) == ["x"]


async def test_a_refused_commit_takes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When what became of the commit is not known, the worker gives up its name, so that the run,
    if it was taken, is not left with it."""
    app = await sleepy(world, lease=0.6)
    run = await asleep(app)
    worker = app._worker
    assert worker is not None
    name, commit = worker.id, app.store.commit

    async def cut(ops: Sequence[Op]) -> list[Outcome]:
        if any(isinstance(op, SendSignal) for op in ops):
            await commit(ops)
            raise StoreUnavailable("cut off behind the commit")
        return await commit(ops)

    monkeypatch.setattr(app.store, "commit", cut)
    with pytest.raises(StoreUnavailable):
        await run.signal("go", "x", id="x")
    assert worker.id != name
    monkeypatch.setattr(app.store, "commit", commit)
    await run.signal("go", "stop", priority="low")
    assert await run.result(timeout=60) == ["x"]


async def test_a_commit_that_is_repeated_takes_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = await sleepy(world, lease=60.0)
    run = await asleep(app)
    commit, cuts = app.store.commit, [1]

    async def cut(ops: Sequence[Op]) -> list[Outcome]:
        outcomes = await commit(ops)
        if any(isinstance(op, SendSignal) for op in ops) and cuts:
            cuts.clear()
            raise StoreUnavailable("cut off behind the commit")
        return outcomes

    monkeypatch.setattr(app.store, "commit", cut)
    sent = await run.signal("go", "x")
    assert (sent.duplicate, sent.taken) == (True, True)
    await run.signal("go", "stop", priority="low")
    assert await run.result(timeout=60) == ["x"]


async def test_a_run_that_another_worker_has_had_is_claimed(world: World) -> None:
    """What is remembered is of an old epoch, so the signal takes nothing and wakes as any does."""
    first = await sleepy(world)
    run = await asleep(first)
    worker = first._worker
    assert worker is not None
    known = dict(worker._prefetch._asleep)
    second = await sleepy(world)
    for word in ("a", "b", "c"):
        await second.run(run.id).signal("go", word)
        await gone(second, run)
        await gone(first, run)
    worker._prefetch._asleep.update(known)  # as if the first one had never had it again
    sent = await run.signal("go", "d")
    assert not sent.taken
    await run.signal("go", "stop", priority="low")
    assert await second.run(run.id).result(timeout=60) == ["a", "b", "c", "d"]


async def test_a_run_that_is_asked_to_stop_is_left_to_claims(world: World) -> None:
    app = await sleepy(world)
    run = await asleep(app)
    async with deaf(app):
        await run.cancel()
        sent = await run.signal("go", "x")
        assert not sent.taken
        assert sent.state == "pending"
    with pytest.raises(RunCancelled):
        await run.result(timeout=60)


async def test_a_run_in_a_queue_is_left_to_claims(world: World) -> None:
    """It needs a place there, which is counted when it is claimed."""
    app = world.app(talks_workflow)
    app.queue("line", concurrency=1)
    await app.open()
    world.apps.append(app)
    assert app._worker is not None
    services = app._worker._services
    app._worker._services = replace(services, suspend_after=0.01, keep_in_memory=0.05, linger=0.01)
    run = await app.start(talks_workflow, queue="line")
    await gone(app, run)
    assert not (await run.signal("go", "x")).taken
    await run.signal("go", "stop", priority="low")
    assert await run.result(timeout=60) == ["x"]


async def test_runs_that_were_put_to_sleep_are_not_remembered_for_ever(memory: World) -> None:
    app = await memory.open(talks_workflow)
    assert app._worker is not None
    prefetch = app._worker._prefetch
    run = await (await app.start(talks_workflow)).record()
    for number in range(MOST + 10):
        prefetch.left(run._replace(id=f"r{number}"))
    assert len(prefetch._asleep) == MOST
    assert "r9" not in prefetch._asleep
