"""Transactions that are used as they cannot be: typed errors, and nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest

from aura import Aura, Retry, StepFailed, step
from aura.engine import Transaction
from aura.errors import RegistrationError, TransactionError
from tests.engine.bank import Bank, opened
from tests.engine.kit import World, declare

Verb = Callable[..., Coroutine[Any, Any, Any]]


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


async def test_the_apps_own_transactions_are_for_outside(bank: Bank) -> None:
    apps: list[Aura] = []

    async def body(_: Transaction) -> None:
        async with apps[0].transaction():
            pass

    made = step.transaction(body)

    async def flow() -> list[str]:
        found = []
        for attempt in (body, lambda _: made()):
            try:
                await attempt(None)  # type: ignore[arg-type]
            except (TransactionError, StepFailed) as error:
                found.append(str(error))
        return found

    apps.append(await opened(bank, workflow := declare(flow)))
    found = await (await apps[0].start(workflow)).result(timeout=30)
    assert "in a workflow" in found[0]
    assert "in a transaction" in found[1]


async def _odd(_: object) -> None: ...


def test_what_cannot_be_one_is_refused_when_it_is_declared() -> None:
    with pytest.raises(RegistrationError, match="not an async function"):

        @step.transaction  # type: ignore[arg-type]
        def plain(tx: object) -> None: ...

    with pytest.raises(RegistrationError, match="takes no connection"):

        @step.transaction  # type: ignore[arg-type]
        async def bare() -> None: ...

    with pytest.raises(RegistrationError, match="isolation='none'"):
        step.transaction(isolation="none")(_odd)  # type: ignore[call-overload]


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
