"""Several workers on one database: sharing, handing over, versions, capacity, lost connections."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any

import pytest

import aura
from aura import step
from aura.errors import RunParked, StoreError
from aura.store.base import (
    Claim,
    ClaimResult,
    Heartbeat,
    Outcome,
    RunFilter,
    Started,
)
from tests.engine.kit import Ledger, World, declare, drop, until


async def test_several_workers_share_runs_and_each_run_finishes_once(
    world: World, ledger: Ledger
) -> None:
    @step
    async def work(name: str) -> str:
        ledger(name)
        await asyncio.sleep(random.random() * 0.01)
        return name

    async def flow(name: str) -> str:
        return await work(name + "a") + await work(name + "b")

    workflow = declare(flow)
    workers = [await world.open(workflow, capacity=7) for _ in range(3)]
    client = await world.open(workflow, worker=False)
    runs = [await client.start(workflow, f"{n}", id=f"r{n}") for n in range(60)]
    results = await asyncio.gather(*(run.result(timeout=60) for run in runs))
    assert results == [f"{n}a{n}b" for n in range(60)]
    assert len(ledger.ran) == len(set(ledger.ran)) == 120
    records = [await run.record() for run in runs]
    assert {(one.state, one.epoch) for one in records} == {("completed", 1)}
    owners = {e.run_id for e in await world.journal("r0")}
    assert owners == {"r0"}
    assert len(workers) == 3


async def test_close_hands_runs_over_at_once(world: World, ledger: Ledger) -> None:
    """Without waiting for the lease, which is long here."""

    @step
    async def short() -> str:
        ledger("short")
        await asyncio.sleep(0.15)
        return "short"

    async def flow() -> str:
        done = await short()
        await aura.sleep(1.0)
        ledger("slept")
        return done

    workflow = declare(flow)
    app = await world.open(workflow, lease=3600.0, grace=3600.0)
    run = await app.start(workflow, id="r")
    await until(lambda: ledger.count("short") == 1)
    await app.close()
    world.apps.remove(app)
    assert (await world.record(run.id)).state == "pending"
    assert [e.key for e in await world.journal("r")] == ["0/short#1"]
    app = await world.open(workflow)
    assert await app.run("r", workflow).result(timeout=60) == "short"
    assert ledger.ran == ["short", "slept"]
    assert (await world.record("r")).recoveries == 0


async def test_close_begins_no_further_step(world: World, ledger: Ledger) -> None:
    """One step after the other, with nothing between them: the run goes when its step has ended."""
    gate = asyncio.Event()

    @step
    async def short(n: int) -> int:
        ledger("short")
        if n == 2:
            await gate.wait()
        return n

    async def flow() -> int:
        return sum([await short(n) for n in range(100)])

    workflow = declare(flow)
    app = await world.open(workflow, lease=3600.0, grace=3600.0)
    await app.start(workflow, id="r")
    await until(lambda: ledger.count("short") == 3)
    closing = asyncio.create_task(app.close())
    await until(lambda: app._worker is not None and app._worker._stopping)
    gate.set()
    await closing
    world.apps.remove(app)
    assert ledger.count("short") == 3
    assert len(await world.journal("r")) == 3  # the last one had its end
    app = await world.open(workflow)
    assert await app.run("r", workflow).result(timeout=60) == sum(range(100))
    assert ledger.count("short") == 100


async def test_close_lets_go_of_a_step_after_the_grace(world: World, ledger: Ledger) -> None:
    @step
    async def endless() -> None:
        ledger("began")
        if ledger.count("began") == 1:
            await asyncio.Event().wait()

    async def flow() -> str:
        await endless()
        return "done"

    workflow = declare(flow)
    app = await world.open(workflow, lease=60.0, grace=0.1)
    await app.start(workflow, id="r")
    await until(lambda: ledger.count("began") == 1)
    started = time.monotonic()
    await app.close()
    world.apps.remove(app)
    assert time.monotonic() - started >= 0.1
    app = await world.open(workflow)
    assert await app.run("r", workflow).result(timeout=60) == "done"


async def test_a_lost_lease_is_taken_over_and_the_old_worker_writes_nothing(
    world: World, ledger: Ledger
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    @step
    async def work() -> str:
        at = len(ledger.ran)
        ledger("work")
        await gates[at].wait()
        return f"worker {at}"

    async def flow() -> str:
        return await work()

    workflow = declare(flow)
    slow = await world.open(workflow, lease=60.0)
    run = await slow.start(workflow, id="r")
    await until(lambda: len(ledger.ran) == 1)
    assert slow._worker is not None
    async with world.store() as store:
        await store.commit([Heartbeat(slow._worker.id, 0.0)])
    await world.open(workflow)
    await until(lambda: len(ledger.ran) == 2)
    gates[0].set()
    await until(lambda: slow._worker is not None and not slow._worker._tasks)
    assert await world.journal("r") == []
    gates[1].set()
    assert await run.result(timeout=60) == "worker 1"
    record = await run.record()
    assert (record.epoch, record.recoveries) == (2, 1)


async def test_a_dead_workers_runs_are_taken_when_its_lease_is_over(
    world: World, ledger: Ledger
) -> None:
    @step
    async def work() -> str:
        ledger("work")
        if ledger.count("work") == 1:
            await asyncio.Event().wait()
        return "done"

    async def flow() -> str:
        return await work()

    workflow = declare(flow)
    dead = await world.open(workflow, lease=0.5)
    await dead.start(workflow, id="r")
    await until(lambda: ledger.count("work") == 1)
    world.apps.remove(dead)
    await drop(dead)
    async with world.store() as store:
        [gone] = await store.workers()
    other = await world.open(workflow)
    assert await other.run("r", workflow).result(timeout=60) == "done"
    assert time.time() >= gone.lease_until


async def test_capacity_limits_what_runs_at_once(world: World) -> None:
    now = most = 0

    @step
    async def work() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    async def flow() -> None:
        await work()

    workflow = declare(flow)
    app = await world.open(workflow, capacity=4)
    runs = await asyncio.gather(*(app.start(workflow) for _ in range(30)))
    await asyncio.gather(*(run.result(timeout=60) for run in runs))
    assert most == 4


async def test_a_worker_only_claims_versions_it_has(world: World) -> None:
    async def old() -> str:
        return "old"

    async def new() -> str:
        return "new"

    one, two = declare(old, "1.0.0", "flow"), declare(new, "2.0.0", "flow")
    await world.open(one)
    client = await world.open(one, two, worker=False)
    waits = await client.start(two, id="two")
    assert await (await client.start(one, id="one")).result(timeout=60) == "old"
    await asyncio.sleep(0.2)
    assert await waits.status() == "pending"
    await world.open(two)
    assert await waits.result(timeout=60) == "new"
    assert (await waits.record()).version == "2.0.0"


async def test_a_run_stays_on_its_version_over_a_crash(world: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()

    async def old() -> str:
        ledger("old")
        if ledger.count("old") == 1:
            stuck.set()
            await asyncio.Event().wait()
        return "old"

    async def new() -> str:
        return "new"

    one, two = declare(old, "1.0.0", "flow"), declare(new, "2.0.0", "flow")
    app = await world.open(one)
    await app.start(one, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    newer = await world.open(two)
    await asyncio.sleep(0.2)
    assert await newer.run("r").status() == "running"  # nobody here may take it
    await world.open(one, two)
    assert await newer.run("r").result(timeout=60) == "old"


async def test_a_client_is_told_of_results_of_other_processes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    async def work(number: int) -> int:
        return number + 1

    async def flow(number: int) -> int:
        return await work(number)

    workflow = declare(flow)
    await world.open(workflow, poll=3600.0)
    monkeypatch.setattr("aura.engine.handle._POLL", 3_600.0)  # both are told, or never know
    app = world.app(workflow)
    async with app.client() as client:
        for number in range(5):
            run = await client.start(workflow, number)
            assert await run.result(timeout=60) == number + 1


async def test_a_second_client_waits_for_the_same_run(world: World) -> None:
    async def flow() -> str:
        await aura.sleep(0.1)
        return "done"

    workflow = declare(flow)
    worker = await world.open(workflow)
    await worker.start(workflow, id="r")
    other = await world.open(workflow, worker=False)
    async with asyncio.timeout(60):
        assert await other.run("r", workflow).result() == "done"


async def test_a_sleeping_run_wakes_on_another_worker(world: World) -> None:
    async def flow() -> str:
        await aura.sleep(2.0)
        return "woke"

    workflow = declare(flow)
    first = await world.open(workflow, keep_in_memory=0.1)
    run = await first.start(workflow, id="r")

    async def waits() -> bool:
        return await run.status() == "waiting"

    await until(waits)
    await first.close()
    world.apps.remove(first)
    second = await world.open(workflow)
    assert await second.run("r", workflow).result(timeout=60) == "woke"


async def test_a_start_that_was_repeated_is_not_executed_again(
    memory: World, ledger: Ledger
) -> None:
    async def flow() -> str:
        ledger("flow")
        return "done"

    app = await memory.open()
    worker = app._worker
    assert worker is not None
    run = await app.start(declare(flow), id="r")
    await run.result(timeout=60)
    ended = await run.record()
    stale = ended._replace(state="running", owner=worker.id, output=None)
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    answer.set_result(Started(False, stale._replace(epoch=2)))
    worker._reserved += 1
    worker._starting["r"] += 1
    worker._started(worker.id, "r", answer)  # claimed again meanwhile: it has a journal
    await asyncio.sleep(0.05)
    assert ledger.ran == ["flow"]


async def test_the_dispatcher_survives_errors_that_it_does_not_know(
    memory: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flow() -> str:
        return "done"

    workflow = declare(flow)
    app = await memory.open(workflow, capacity=1)
    real = app.store.claim
    failures = iter([StoreError("odd"), ZeroDivisionError("odder")])

    async def claim(wish: Claim) -> ClaimResult:
        if (error := next(failures, None)) is not None:
            raise error
        return await real(wish)

    monkeypatch.setattr(app.store, "claim", claim)
    with caplog.at_level(logging.CRITICAL):
        runs = [await app.start(workflow) for _ in range(5)]
        assert [await run.result(timeout=60) for run in runs] == ["done"] * 5


async def test_an_engine_error_parks_the_run_with_its_traceback(
    memory: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def flow() -> str:
        return "done"

    app = await memory.open()
    monkeypatch.setattr("aura.engine.execution.Execution._end_tasks", _broken)
    with caplog.at_level(logging.CRITICAL):
        run = await app.start(declare(flow))
        with pytest.raises(RunParked, match="ZeroDivisionError: a bug"):
            await run.result(timeout=60)


async def _broken(_: Any) -> None:
    raise ZeroDivisionError("a bug")


async def test_runs_go_on_when_all_connections_are_cut(postgres_url: str, ledger: Ledger) -> None:
    import asyncpg

    @step
    async def work(name: str) -> str:
        ledger(name)
        await asyncio.sleep(0.02)
        return name

    async def flow(name: str) -> str:
        found = [await work(f"{name}.{n}") for n in range(8)]
        return found[-1]

    world = World(postgres_url)
    workflow = declare(flow)
    await world.open(workflow)
    client = await world.open(workflow, worker=False)
    try:
        runs = [await client.start(workflow, f"r{n}", id=f"r{n}") for n in range(20)]
        waiting = asyncio.gather(*(run.result(timeout=60) for run in runs))
        admin = await asyncpg.connect(postgres_url)
        cut = 0
        while cut < 8:
            await asyncio.sleep(0.05)
            cut += await admin.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'aura' AND datname = current_database()"
            )
        await admin.close()
        assert await waiting == [f"r{n}.7" for n in range(20)]
        assert cut >= 8
        for run in runs:
            journal = await client.store.journal(run.id)
            assert [e.seq for e in journal] == list(range(1, 9))
        assert len(set(ledger.ran)) == 160
        records = await client.runs(RunFilter(limit=100))
        assert {one.state for one in records} == {"completed"}
        if all(one.epoch == 1 for one in records):
            assert len(ledger.ran) == 160, "a step ran twice though its run had one owner"
    finally:
        await world.close()
