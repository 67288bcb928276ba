"""Transactional steps: their statements and their journal entry, together or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

import aura
from aura import Aura, Retry, StepFailed, step
from aura.engine import Transaction
from aura.errors import (
    RegistrationError,
    RunCancelled,
    StepTimeout,
    StoreUnavailable,
    TransactionConflict,
    TransactionError,
    TransactionInDoubt,
)
from aura.store.base import Append
from tests.engine.kit import World, declare, until

Verb = Callable[..., Coroutine[Any, Any, Any]]


@dataclass
class Bank:
    """Accounts in the database of a test; statements are written with `?`."""

    world: World
    ran: list[str] = field(default_factory=list)

    def sql(self, text: str) -> str:
        if not self.world.database.startswith("postgresql"):
            return text
        first, *rest = text.split("?")
        return first + "".join(f"${at}{part}" for at, part in enumerate(rest, 1))

    async def open(self, app: Aura) -> None:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE IF NOT EXISTS accounts (id TEXT, cents BIGINT)")
            await tx.execute("INSERT INTO accounts VALUES ('ada', 100)")

    async def add(self, tx: Transaction, cents: int) -> int:
        self.ran.append(f"add {cents}")
        await tx.execute(self.sql("UPDATE accounts SET cents = cents + ?"), cents)
        return int(await tx.fetchval("SELECT cents FROM accounts"))

    async def balance(self, app: Aura) -> int:
        async with app.transaction() as tx:
            return int(await tx.fetchval("SELECT cents FROM accounts"))


@pytest.fixture
def bank(world: World) -> Bank:
    return Bank(world)


async def opened(bank: Bank, *workflows: Any, **settings: Any) -> Aura:
    app = await bank.world.open(*workflows, **settings)
    await bank.open(app)
    return app


def kinds(journal: list[Any]) -> list[tuple[int, str, str]]:
    return [(one.seq, one.key, one.kind) for one in journal]


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
    gate = asyncio.Event()

    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    @step
    async def wait() -> None:
        await gate.wait()

    async def flow() -> int:
        added = await add(5)
        await wait()
        return added

    workflow = declare(flow)
    app = await opened(bank, workflow)
    run = await app.start(workflow)
    await until(lambda: "0/wait#1" in _under_way(app))
    await bank.world.crash(app)
    gate.set()
    app = await bank.world.open(workflow)
    assert await app.run(run.id, workflow).result(timeout=30) == 105
    assert bank.ran == ["add 5"]
    assert await bank.balance(app) == 105


def _under_way(app: Aura) -> list[str]:
    """The keys of the effects that are under way."""
    worker = app._worker
    assert worker is not None
    running = worker._executions.values()
    return ["0/wait#1" for one in running if one.effects_in_flight and one.recorder._seq]


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
    from aura.store.base import Heartbeat

    async with bank.world.store() as store:
        await store.commit([Heartbeat(worker.id, 0.0)])
    second = await bank.world.open(workflow)
    assert await second.run(run.id, workflow).result(timeout=30) == 105
    go_on.set()
    await until(lambda: not worker._tasks)
    assert bank.ran == ["first", "add 5", "add 5"]
    assert await bank.balance(second) == 105


class Faulty:
    """A session whose first commits fail in some way, before or after they took place."""

    def __init__(self, app: Aura, *faults: Exception | BaseException, after: bool = False) -> None:
        self.faults = list(faults)
        self.commits = 0
        make = app._worker._services.session  # type: ignore[union-attr]
        from dataclasses import replace

        worker = app._worker
        assert worker is not None
        worker._services = replace(worker._services, session=self._wrap(make, after))

    def _wrap(self, make: Any, after: bool) -> Any:
        def session(isolation: Any) -> Any:
            made = make(isolation)
            commit, rollback = made.commit, made.rollback

            async def fail(appends: list[Append]) -> None:
                self.commits += 1
                if not self.faults:
                    return await commit(appends)
                if after:
                    await commit(appends)
                else:
                    await rollback()
                raise self.faults.pop(0)

            made.commit = fail
            return made

        return session


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

        async def slowly(appends: list[Append]) -> None:
            begun.set()
            await go_on.wait()
            await commit(appends)

        made.commit = slowly
        return made

    from dataclasses import replace

    worker._services = replace(worker._services, session=session)
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


# -- misuse ------------------------------------------------------------------------------------


async def _refused(bank: Bank, body: Verb, **options: Any) -> str:
    """What the workflow is told when its transactional step does that."""
    made = step.transaction(retries=Retry(attempts=3, first=0.001), **options)(body)

    async def flow() -> str:
        try:
            await made()
        except StepFailed as error:
            return f"{error.attempts} {error.type}: {error.reason}"
        return "done"

    app = await opened(bank, workflow := declare(flow))
    found = await (await app.start(workflow)).result(timeout=30)
    assert await bank.balance(app) == 100
    return found


async def test_it_cannot_commit_by_itself(bank: Bank) -> None:
    async def body(tx: Transaction) -> None:
        await bank.add(tx, 5)
        await tx.execute("COMMIT")

    found = await _refused(bank, body)
    assert found.startswith("1 TransactionError: a transaction cannot run COMMIT")
    assert "savepoint" in found


async def test_another_task_cannot_use_it(bank: Bank) -> None:
    async def body(tx: Transaction) -> None:
        await asyncio.gather(bank.add(tx, 1), bank.add(tx, 2))

    assert "from another task" in await _refused(bank, body)


async def test_it_is_over_at_its_end(bank: Bank) -> None:
    kept: list[Transaction] = []

    @step.transaction
    async def body(tx: Transaction) -> None:
        kept.append(tx)
        await bank.add(tx, 1)

    async def flow() -> str:
        await body()
        try:
            await bank.add(kept[0], 5)
        except TransactionError as error:
            return str(error)
        return "done"

    app = await opened(bank, workflow := declare(flow))
    assert "after its end" in await (await app.start(workflow)).result(timeout=30)
    assert await bank.balance(app) == 101


async def test_another_database_is_refused_before_anything_runs(bank: Bank) -> None:
    async def body(_: Transaction) -> None:
        bank.ran.append("ran")

    found = await _refused(bank, body, database="postgresql://elsewhere/ledger")
    assert found.startswith("1 OtherDatabase: step body is for another database than ")
    assert bank.ran == []


async def test_its_own_database_is_accepted(bank: Bank) -> None:
    async def body(tx: Transaction) -> None:
        await tx.fetchval("SELECT 1")

    assert await _refused(bank, body, database=bank.world.database) == "done"


async def test_a_table_that_is_elsewhere_gets_an_explanation(bank: Bank) -> None:
    async def body(tx: Transaction) -> None:
        await tx.fetch("SELECT * FROM ledger")

    found = await _refused(bank, body)
    assert "in Aura's database" in found
    assert "idempotency_key" in found


async def test_a_swallowed_failure_is_told_and_not_committed(bank: Bank) -> None:
    async def body(tx: Transaction) -> None:
        await bank.add(tx, 5)
        with contextlib.suppress(sqlite3.Error, asyncpg.PostgresError):
            await tx.fetchval("SELECT nonsense FROM accounts")
        raise ValueError("rolled back")

    assert await _refused(bank, body) == "4 ValueError: rolled back"


async def test_outside_a_run_it_says_how_to_test_it(bank: Bank) -> None:
    @step.transaction
    async def add(tx: Transaction, cents: int) -> int:
        return await bank.add(tx, cents)

    with pytest.raises(TransactionError, match=r"app\.transaction\(\)"):
        await add(5)
    app = await opened(bank)
    async with app.transaction():
        assert await add(5) == 105

    async def fails() -> None:
        async with app.transaction() as tx:
            await add.body(tx, 5)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fails()
    assert await bank.balance(app) == 105


def test_what_cannot_be_one_is_refused_when_it_is_declared() -> None:
    with pytest.raises(RegistrationError, match="not an async function"):

        @step.transaction
        def plain(tx: object) -> None: ...  # type: ignore[misc]

    with pytest.raises(RegistrationError, match="takes no connection"):

        @step.transaction  # type: ignore[arg-type]
        async def bare() -> None: ...

    with pytest.raises(RegistrationError, match="isolation='none'"):

        @step.transaction(isolation="none")  # type: ignore[call-overload]
        async def odd(tx: object) -> None: ...


async def test_encrypted_entries_are_written_with_it(memory: World) -> None:
    @step.transaction
    async def secret(tx: Transaction) -> str:
        await tx.execute("CREATE TABLE notes (text TEXT)")
        return "in clear"

    async def flow() -> str:
        return await secret()

    app = await memory.open(workflow := declare(flow), encryption_keys=("k:" + "A" * 43 + "=",))
    run = await app.start(workflow)
    assert await run.result(timeout=30) == "in clear"
    [stored] = await app.store._inner.journal(run.id)  # type: ignore[attr-defined]
    assert b"clear" not in (stored.output or b"")
