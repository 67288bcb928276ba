"""Transactional steps: their statements and their journal entry, together or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import pytest

import aura
from aura import Retry, StepFailed, step
from aura.engine import Transaction
from aura.errors import (
    RunCancelled,
    StepTimeout,
    StoreUnavailable,
    TransactionConflict,
    TransactionInDoubt,
)
from aura.store.base import Heartbeat
from aura.store.session import Written
from tests.engine.bank import Bank, Faulty, kinds, opened
from tests.engine.kit import declare, until


async def test_statements_and_result_are_there_together(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        assert aura.idempotency_key().endswith("0/add#1")
        return await bank.add(tx, cents)

    async def flow(cents: int) -> int:
        return await add(cents)

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow, 5)
    assert await run.result(timeout=30) == 105
    assert await bank.balance(app) == 105
    assert kinds(await bank.world.journal(run.id)) == [(1, "0/add#1", "step")]


async def test_a_replay_does_not_run_it_again(bank: Bank) -> None:
    """Nor do the tasks that a commit takes shift the lanes of the workflow's own."""
    begun, gate = asyncio.Event(), asyncio.Event()

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    @step
    async def wait(number: int) -> int:
        begun.set()
        await gate.wait()
        return number

    async def flow() -> list[int]:
        added = await add(5)
        first, *rest = await asyncio.gather(add(1), add(2), wait(1), wait(2))
        return [added, *sorted([first, rest[0]]), *rest[1:]]

    workflow = declare(flow)
    app = await opened(bank, workflow)
    run = await app.start(workflow)
    await asyncio.wait_for(begun.wait(), 30)
    await until(lambda: len(bank.ran) == 3)
    await bank.world.crash(app)
    gate.set()
    app = await bank.world.open(workflow)
    found = await app.run(run.id, workflow).result(timeout=30)
    assert (found[0], found[2:]) == (105, [108, 1, 2])
    assert await bank.balance(app) == 108
    keys = {one.key for one in await bank.world.journal(run.id)}
    assert keys == {"0/add#1", "0.1/add#1", "0.2/add#1", "0.3/wait#1", "0.4/wait#1"}


async def test_a_raise_rolls_back_and_is_tried_again(bank: Bank) -> None:
    @step.transaction(retries=Retry(attempts=2, first=0.001))
    async def add(tx: Transaction, cents: int) -> int:
        found = await bank.add(tx, cents)
        if len(bank.ran) < 3:
            raise ValueError("no")
        return found

    async def flow() -> int:
        return await add(5)

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == 105
    assert await bank.balance(app) == 105
    assert len(bank.ran) == 3
    assert [one.kind for one in await bank.world.journal(run.id)] == ["attempt", "attempt", "step"]


async def test_what_gives_up_leaves_nothing(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> object:
        await bank.add(tx, cents)
        return object()  # which cannot be stored

    async def flow() -> str:
        try:
            await add(5)
        except StepFailed as error:
            return error.type
        return "done"

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == "CodecError"
    assert await bank.balance(app) == 100


async def test_a_timeout_rolls_back(bank: Bank) -> None:
    @step.transaction(timeout=0.05)
    async def add(tx: Transaction, cents: int) -> int:
        await bank.add(tx, cents)
        await asyncio.Event().wait()
        return 0

    async def flow() -> str:
        try:
            await add(5)
        except StepTimeout:
            return "late"
        return "in time"

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == "late"
    assert await bank.balance(app) == 100


async def test_a_cancel_rolls_back(bank: Bank) -> None:
    inside = asyncio.Event()

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        await bank.add(tx, cents)
        inside.set()
        await asyncio.Event().wait()
        return 0

    async def flow() -> int:
        return await add(5)

    app = await opened(bank, workflow := declare(flow), lease=60.0)
    run = await app.start(workflow)
    await asyncio.wait_for(inside.wait(), 30)
    client = asyncio.create_task(run.cancel())
    worker = app._worker
    assert worker is not None
    worker._executions[run.id].cancel()  # on SQLite the request cannot be written meanwhile
    await asyncio.wait_for(client, 30)
    with pytest.raises(RunCancelled):
        await run.result(timeout=30)
    assert await bank.balance(app) == 100
    assert await bank.world.journal(run.id) == []


async def test_branches_and_transactions_share_a_journal_without_gaps(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        found = await bank.add(tx, cents)
        await asyncio.sleep(0.002)
        return found

    @step(idempotent=True)
    async def look(number: int) -> int:
        return number

    @step
    async def effect(number: int) -> int:
        return number

    async def branch(number: int) -> int:
        for _ in range(3):
            await look(number)
            aura.random()
            await aura.emit("looked", number)
            await effect(number)
            await look(number)
        return 0

    async def flow() -> int:
        await asyncio.gather(
            *(add(one) for one in (1, 2, 4, 8)), *(branch(one) for one in range(4))
        )
        return await add(16)

    app = await opened(bank, workflow := declare(flow))
    runs = [await app.start(workflow) for _ in range(4)]
    results = [await run.result(timeout=60) for run in runs]
    assert max(results) == await bank.balance(app) == 100 + 4 * 31
    for run in runs:
        journal = await bank.world.journal(run.id)
        assert [one.seq for one in journal] == list(range(1, len(journal) + 1))
        assert len(journal) == 5 + 4 * 3 * 5
    assert len(bank.ran) == 4 * 5  # PostgreSQL waits for the lock of a row
    assert (await app.store.events.read("looked", 0, [*range(64)], 1_000)).tail == 4 * 4 * 3


async def test_a_lost_run_commits_nothing(bank: Bank) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        if not bank.ran:
            bank.ran.append("first")
            inside.set()
            await go_on.wait()
        return await bank.add(tx, cents)

    async def flow() -> int:
        return await add(5)

    workflow = declare(flow)
    first = await opened(bank, workflow)
    run = await first.start(workflow)
    await asyncio.wait_for(inside.wait(), 30)
    worker = first._worker
    assert worker is not None
    for loop in worker._loops:
        loop.cancel()  # paused: it neither beats nor hears
    async with bank.world.store() as store:
        await store.commit([Heartbeat(worker.id, 0.0)])
    second = await bank.world.open(workflow)
    assert await second.run(run.id, workflow).result(timeout=30) == 105
    go_on.set()
    await until(lambda: not worker._tasks)
    assert bank.ran == ["first", "add 5", "add 5"]
    assert await bank.balance(second) == 105


async def test_a_refused_commit_is_tried_again_and_leaves_no_gap(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    @step(idempotent=True)
    async def look(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def flow() -> int:
        added, *_ = await asyncio.gather(add(5), *(look(one) for one in range(5)))
        return added

    app = await opened(bank, workflow := declare(flow))
    Faulty(app, TransactionConflict("so"), StoreUnavailable("or so"), TransactionConflict("again"))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == 105
    assert await bank.balance(app) == 105
    journal = await bank.world.journal(run.id)
    assert [one.seq for one in journal] == list(range(1, len(journal) + 1))
    tries = [one.kind for one in journal if one.key == "0.1/add#1"]
    assert tries == ["attempt"] * 3 + ["step"]


async def test_endless_conflicts_fail_the_step(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.engine.transacted._LONGEST_PAUSE", 0.001)

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    async def flow() -> str:
        try:
            await add(5)
        except StepFailed as error:
            return error.type
        return "done"

    app = await opened(bank, workflow := declare(flow))
    Faulty(app, *(TransactionConflict("no") for _ in range(12)))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == "TransactionConflict"
    assert await bank.balance(app) == 100
    assert len(bank.ran) == 12


@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_in_doubt_is_settled_by_the_journal(bank: Bank, after: bool) -> None:
    """Nobody knows: the run is given up, and whoever claims it finds the entry, or does not."""

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    async def flow() -> int:
        return await add(5)

    app = await opened(bank, workflow := declare(flow), lease=1.0)
    faulty = Faulty(app, TransactionInDoubt("the cable"), after=after)
    run = await app.start(workflow)
    assert await run.result(timeout=60) == 105
    assert await bank.balance(app) == 105
    assert faulty.commits == (1 if after else 2)


async def test_a_cancel_during_the_commit_waits_for_it(bank: Bank) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    async def flow() -> int:
        return await add(5)

    app = await opened(bank, workflow := declare(flow))
    worker = app._worker
    assert worker is not None
    make = worker._services.session

    def session(isolation: Any) -> Any:
        made: Any = make(isolation)
        commit = made.commit

        async def slowly(appends: list[Written]) -> None:
            begun.set()
            await go_on.wait()
            await commit(appends)

        made.commit = slowly
        return made

    worker._services = dataclasses.replace(worker._services, session=session)
    run = await app.start(workflow)
    await asyncio.wait_for(begun.wait(), 30)
    worker._executions[run.id].cancel()
    await asyncio.sleep(0.02)
    go_on.set()
    with pytest.raises(RunCancelled):
        await run.result(timeout=30)
    assert await bank.balance(app) == 105
    assert kinds(await bank.world.journal(run.id)) == [(1, "0/add#1", "step")]


async def test_a_long_transaction_keeps_the_lease(bank: Bank) -> None:
    """On PostgreSQL it may take longer than a lease; on SQLite it is ended in time."""

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        found = await bank.add(tx, cents)
        await asyncio.sleep(1.5)
        return found

    async def flow() -> str:
        try:
            return str(await add(5))
        except StepFailed as error:
            return error.reason

    app = await opened(bank, workflow := declare(flow), lease=1.0)
    run = await app.start(workflow)
    found = await run.result(timeout=30)
    record = await run.record()
    assert (record.epoch, record.recoveries) == (1, 0)
    if bank.world.database.startswith("postgresql"):
        assert found == "105"
    else:
        assert "only write lock" in found
        assert await bank.balance(app) == 100


async def test_nothing_is_begun_without_a_statement(bank: Bank) -> None:
    @step.transaction
    async def idle(_: Transaction, cents: int) -> int:
        return cents

    async def flow() -> int:
        return await idle(7)

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == 7
    assert kinds(await bank.world.journal(run.id)) == [(1, "0/idle#1", "step")]


async def test_more_branches_than_connections(bank: Bank) -> None:
    """Whoever waits for a connection holds nothing that those wait for who have one."""

    @step.transaction
    async def read(tx: Transaction) -> int:
        return int(await tx.fetchval("SELECT 1"))

    @step.transaction
    async def idle(_: Transaction) -> int:
        return 1

    async def flow() -> int:
        return sum(await asyncio.gather(*(made() for _ in range(12) for made in (idle, read))))

    app = await opened(bank, workflow := declare(flow), lease=60.0)
    worker = app._worker
    assert worker is not None
    make = worker._services.session
    waiting: list[str] = []

    def session(isolation: Any) -> Any:
        made: Any = make(isolation)
        fetch = made.fetch

        async def slowly(sql: str, values: Any) -> Any:
            waiting.append(sql)
            await asyncio.sleep(0.01)
            return await fetch(sql, values)

        made.fetch = slowly
        return made

    worker._services = dataclasses.replace(worker._services, session=session)
    run = await app.start(workflow)
    assert await run.result(timeout=60) == 24
    assert len(waiting) == 12


async def test_transactions_compose(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    @step.transaction
    async def twice(tx: Transaction, cents: int) -> int:
        await add(cents)
        with contextlib.suppress(KeyError):
            async with tx.savepoint():
                await add(1000)
                raise KeyError
        return await add(cents)

    async def flow() -> int:
        return await twice(7)

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == 114
    assert await bank.balance(app) == 114
    assert kinds(await bank.world.journal(run.id)) == [(1, "0/twice#1", "step")]


async def test_a_saga_takes_back_what_was_committed_and_nothing_else(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        found = await bank.add(tx, cents)
        if cents == 13:
            raise ValueError("unlucky")
        return found

    @step.transaction
    async def take(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, -cents)

    async def flow() -> str:
        try:
            async with aura.saga() as saga:
                await saga.step(add, 5, compensate=take)
                await saga.step(add, 13, compensate=take)
        except StepFailed:
            return "taken back"
        return "done"

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == "taken back"
    assert await bank.balance(app) == 100
    assert bank.ran == ["add 5", "add 13", "add -5"]


async def test_a_saga_does_not_take_back_a_refused_commit(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    @step.transaction
    async def take(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, -cents)

    async def flow() -> str:
        try:
            async with aura.saga() as saga:
                await saga.step(add, 5, compensate=take)
        except StepFailed as error:
            return error.type
        return "done"

    app = await opened(bank, workflow := declare(flow))
    Faulty(app, ValueError("a deferred constraint"))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == "ValueError"
    assert await bank.balance(app) == 100
    assert bank.ran == ["add 5"]
