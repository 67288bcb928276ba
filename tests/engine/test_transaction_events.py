"""What is emitted in a transaction is published with it, once, or not at all."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import aura
from aura import Aura, Retry, StepFailed, step
from aura.codec import plain
from aura.engine import Transaction
from aura.errors import StoreUnavailable, TransactionConflict, TransactionError, TransactionInDoubt
from aura.store.base import Heartbeat
from aura.store.events import PARTITIONS
from tests.engine.bank import Bank, Faulty, kinds, opened
from tests.engine.kit import declare, until

TOPIC = "paid"


async def published(app: Aura) -> list[tuple[str, str | None, object]]:
    """The ids, keys and payloads of the topic's events."""
    page = await app.store.events.read(TOPIC, 0, list(range(PARTITIONS)), 100)
    return [(one.id, one.key, plain(one.payload)) for one in page.events]


def pays(bank: Bank, **options: object) -> aura.Step[[int], int]:
    """A step that changes an account and tells of it twice."""

    @step.transaction(**options)  # type: ignore[call-overload, untyped-decorator]
    async def pay(tx: Transaction, cents: int) -> int:
        await aura.emit(TOPIC, cents, key="k")
        balance = await bank.add(tx, cents)
        await aura.emit(TOPIC, balance)
        return balance

    return pay  # type: ignore[no-any-return]


async def test_events_entry_and_statements_are_one_commit(bank: Bank) -> None:
    pay = pays(bank)

    async def flow() -> int:
        return await pay(5) + await pay(6)

    app = await opened(bank, workflow := declare(flow))
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=30) == 105 + 111
    assert await published(app) == [
        ("r:0/pay#1:1", "k", 5), ("r:0/pay#1:2", None, 105),
        ("r:0/pay#2:1", "k", 6), ("r:0/pay#2:2", None, 111),
    ]  # fmt: skip
    journal = [(1, "0/pay#1", "step"), (2, "0/pay#2", "step")]
    assert kinds(await bank.world.journal("r")) == journal


async def test_what_is_rolled_back_publishes_nothing(bank: Bank) -> None:
    @step.transaction(retries=Retry(attempts=1, first=0.001))
    async def pay(tx: Transaction, cents: int) -> int:
        balance = await bank.add(tx, cents)
        await aura.emit(TOPIC, len(bank.ran))
        if len(bank.ran) < 2 or cents < 0:
            raise OSError("no luck")
        return balance

    async def flow() -> int:
        balance = await pay(5)
        with contextlib.suppress(StepFailed):
            await pay(-5)
        return balance

    app = await opened(bank, workflow := declare(flow))
    assert await (await app.start(workflow, id="r")).result(timeout=30) == 105
    assert await bank.balance(app) == 105
    assert await published(app) == [("r:0/pay#1:1", None, 2)]


async def test_what_a_savepoint_undoes_is_not_published(bank: Bank) -> None:
    @step.transaction
    async def pay(tx: Transaction) -> int:
        await aura.emit(TOPIC, "before")
        with contextlib.suppress(OSError):
            async with tx.savepoint():
                await bank.add(tx, 50)
                await aura.emit(TOPIC, "undone")
                raise OSError
        async with tx.savepoint():
            await aura.emit(TOPIC, "kept")
        return await bank.add(tx, 1)

    async def flow() -> int:
        return await pay()

    app = await opened(bank, workflow := declare(flow))
    assert await (await app.start(workflow)).result(timeout=30) == 101
    assert [payload for *_, payload in await published(app)] == ["before", "kept"]


@pytest.mark.parametrize("error", [TransactionConflict("again"), StoreUnavailable("gone")], ids=str)
async def test_what_the_database_has_refused_is_published_once(
    bank: Bank, error: Exception
) -> None:
    pay = pays(bank)

    async def flow() -> int:
        return await pay(5)

    app = await opened(bank, workflow := declare(flow))
    faulty = Faulty(app, error, error)
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=30) == 105
    assert faulty.commits == 3
    assert [event[0] for event in await published(app)] == ["r:0/pay#1:1", "r:0/pay#1:2"]
    assert kinds(await bank.world.journal("r"))[-1][2] == "step"


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "lost"])
async def test_a_commit_in_doubt_is_settled_for_the_events_too(bank: Bank, landed: bool) -> None:
    """The run goes on elsewhere; if the commit took place, everything of it is there."""
    pay = pays(bank)

    async def flow() -> int:
        return await pay(5)

    workflow = declare(flow)
    app = await opened(bank, workflow, lease=0.5)
    Faulty(app, TransactionInDoubt("who knows"), after=landed)
    run = await app.start(workflow, id="r")
    assert await run.result(timeout=60) == 105
    assert await bank.balance(app) == 105
    assert len(bank.ran) == (1 if landed else 2)
    assert [event[0] for event in await published(app)] == ["r:0/pay#1:1", "r:0/pay#1:2"]


async def test_a_worker_that_has_lost_the_run_publishes_nothing(bank: Bank) -> None:
    gate, inside = asyncio.Event(), asyncio.Event()

    @step.transaction
    async def pay(tx: Transaction) -> str:
        await aura.emit(TOPIC, "late")
        inside.set()
        await gate.wait()
        return "paid"

    async def flow() -> str:
        return await pay()

    workflow = declare(flow)
    app = await opened(bank, workflow, lease=600.0)
    assert app._worker is not None
    run = await app.start(workflow)
    await asyncio.wait_for(inside.wait(), 30)
    await app.committer.submit(Heartbeat(app._worker.id, 0.0))
    other = await bank.world.open(workflow)
    await until(lambda: other._worker is not None and other._worker.executes(run.id))
    other_done = asyncio.create_task(run.result(timeout=60))
    gate.set()
    assert await other_done == "paid"
    assert [payload for *_, payload in await published(app)] == ["late"]


async def test_in_the_apps_own_transactions(bank: Bank) -> None:
    pay = pays(bank)

    async def flow() -> int:
        return await pay(5)

    app = await opened(bank, declare(flow))
    async with app.transaction():
        assert await pay(5) == 105  # as a test of the step does
    async with app.transaction():
        await aura.emit(TOPIC, "alone")
    with contextlib.suppress(OSError):
        async with app.transaction() as tx:
            await bank.add(tx, 7)
            await aura.emit(TOPIC, "rolled back")
            raise OSError("no")
    assert await bank.balance(app) == 105
    found = await published(app)
    assert [payload for *_, payload in found] == [5, 105, "alone"]
    assert len({event[0] for event in found}) == 3


async def test_a_task_that_outlives_the_transaction_is_told(bank: Bank) -> None:
    gate = asyncio.Event()
    later: list[asyncio.Task[None]] = []

    async def straggle() -> None:
        await gate.wait()
        await aura.emit(TOPIC, "too late")

    async def flow() -> None: ...

    app = await opened(bank, declare(flow))
    async with app.transaction():
        later.append(asyncio.create_task(straggle()))
    gate.set()
    with pytest.raises(TransactionError, match="after the end"):
        await later[0]
    assert await published(app) == []


async def test_a_run_that_begins_anew_emits_anew(bank: Bank) -> None:
    """The keys of its journal begin again, and the events are others."""
    pay = pays(bank)

    @step
    def tell(turn: int) -> None:
        aura.emit(TOPIC, turn)

    async def flow(turn: int) -> int:
        await aura.emit(TOPIC, turn)
        await tell(turn)
        balance = await pay(1)
        if turn < 3:
            aura.continue_as_new(turn + 1)
        return balance

    app = await opened(bank, workflow := declare(flow))
    assert await (await app.start(workflow, 1, id="r")).result(timeout=30) == 103
    found = await published(app)
    assert [payload for *_, payload in found] == [1, 1, 1, 101, 2, 2, 1, 102, 3, 3, 1, 103]
    assert [event[0].partition(":")[0] for event in found[::4]] == ["r", "r@2", "r@3"]


async def test_this_process_and_others_hear_of_it(bank: Bank) -> None:
    pay = pays(bank)

    async def flow() -> int:
        return await pay(5)

    workflow = declare(flow)
    app = await opened(bank, workflow)
    other = await bank.world.open()
    here: list[str] = []
    there: list[str] = []
    app.store.listen(here.append)
    other.store.listen(there.append)
    await (await app.start(workflow)).result(timeout=30)
    assert f"events:{TOPIC}" in here
    await until(lambda: f"events:{TOPIC}" in there)
