"""Large payloads are stored once, read as if nothing was, and deleted when no row has them."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from aura.errors import BundleDamaged, LeaseLost
from aura.store.base import (
    Append,
    Continue,
    RequestCancel,
    RunFilter,
    SendSignal,
    Settle,
    StartRun,
    Store,
    Sweep,
)
from aura.store.keys import Keyring
from aura.store.payloads import LARGE, mark_of
from aura.store.portable import OF_RUNS, Page
from aura.store.postgres import PostgresStore
from aura.store.queues import Placement
from aura.store.resealing import reseal
from aura.store.sealed import SealedStore, sealed
from aura.store.sqlite import SqliteStore
from tests.store.kit import Backend, beat, claim, entry, eventually, start, started, the_run

BIG = b'"' + b"x" * LARGE + b'"'
ALL = Sweep(-60.0)


def big(number: int) -> bytes:
    return b'"%d' % number + b"x" * LARGE + b'"'


async def query(store: Store, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Straight from the tables, which are named without their schema."""
    if isinstance(store, SqliteStore):
        return await store._writer.call(lambda db: db.execute(sql, values).fetchall())
    assert isinstance(store, PostgresStore)
    async with store._taken(store._reads) as connection:
        await connection.execute("SET search_path TO aura")
        return [tuple(row) for row in await connection.fetch(sql, *values)]


async def kept(store: Store) -> set[bytes]:
    return {row[0] for row in await query(store, "SELECT body FROM payloads")}


async def swept(store: Store) -> int:
    """How many payloads sweeps delete until nothing is left to delete."""
    gone = 0
    while any(found := await store.sweep(ALL)):
        gone += found.payloads
    return gone


def noted(run_id: str, seq: int, given: bytes, gave: bytes, epoch: int = 1) -> Append:
    return Append(epoch, entry(run_id, seq, output=gave)._replace(input=given))


def ends(run_id: str, output: bytes = b"1", epoch: int = 1) -> Settle:
    return Settle(run_id, epoch, "completed", output)


async def test_a_value_that_many_have_is_there_once(store: Store) -> None:
    await store.commit([start("a", owner="w", value=BIG), start("b", owner="w", value=BIG)])
    await store.commit([noted("a", 1, BIG, BIG), noted("b", 1, b"1", big(2))])
    await store.commit([SendSignal("b", "go", BIG, "s"), ends("a", BIG)])
    assert await kept(store) == {BIG, big(2)}
    [(longest,)] = await query(
        store, "SELECT max(length(input)) FROM (SELECT input FROM runs UNION ALL "
        "SELECT input FROM journal UNION ALL SELECT payload FROM signals) AS f"
    )  # fmt: skip
    assert longest == 33


async def test_whatever_reads_it_gets_the_value(store: Store) -> None:
    made, again = await store.commit([start("a", value=BIG), start("a", value=b"other")])
    assert started(made).run.input == BIG
    assert (started(again).created, started(again).run.input) == (False, BIG)
    await store.commit([SendSignal("a", "go", big(3), "s")])
    [claimed] = await claim(store)
    assert claimed.run.input == BIG
    assert [one.payload for one in claimed.signals] == [big(3)]
    shown = entry("a", 2)._replace(kind="state", output=big(4))
    await store.commit([noted("a", 1, BIG, big(2)), Append(1, shown), ends("a", big(5))])
    run = await the_run(store, "a")
    assert (run.input, run.output) == (BIG, big(5))
    assert await store.runs(RunFilter()) == await store.runs_by_id(["a"]) == [run]
    assert await store.runs(RunFilter(state="completed", workflow="research")) == [run]
    first, second = await store.journal("a")
    assert (first.input, first.output, second.output) == (BIG, big(2), big(4))
    assert await store.entries("a", "state") == [second]
    assert await store.entries_of("a", [first.key]) == [first]
    glances = await store.outline("a", 0, 10)
    assert [(one.given, one.gave) for one in glances] == [
        (len(BIG), len(big(2))), (2, len(big(4))),
    ]  # fmt: skip
    assert [one.payload for one in await store.signals([("a", 0)])] == [big(3)]
    [row] = await store.rows(Page("runs", run="a"))
    assert (row["input"], row["output"]) == (BIG, big(5))
    assert [row["payload"] for row in await store.rows(Page("signals", run="a"))] == [big(3)]
    [asked] = await store.commit([RequestCancel("a")])
    assert asked == run


async def test_a_taken_over_run_has_its_values(store: Store) -> None:
    await store.commit([start("a", owner="dead", value=BIG)])
    await store.commit([noted("a", 1, BIG, big(2))])
    [claimed] = await claim(store)
    assert claimed.taken_over
    assert claimed.run.input == claimed.journal[0].input == BIG
    assert claimed.journal[0].output == big(2)


async def test_small_values_stay_where_they_are(store: Store) -> None:
    edge = b"x" * LARGE
    fake = b"\x05" + b"y" * 32  # as long as a mark, and none
    await store.commit([start("a", owner="w", value=edge)])
    await store.commit([noted("a", 1, b"z" * 33, fake)])
    assert await kept(store) == set()
    [found] = await store.journal("a")
    assert (found.input, found.output) == (b"z" * 33, fake)
    [glance] = await store.outline("a", 0, 1)
    assert (glance.given, glance.gave) == (33, 33)


async def test_it_goes_with_the_last_run_that_has_it(store: Store) -> None:
    await store.commit([start("a", owner="w", value=BIG), start("b", owner="w", value=BIG)])
    await store.commit([noted("a", 1, b"1", big(2)), ends("a")])
    found = await store.sweepable(ALL)
    assert (found.runs, found.payloads) == (1, 1)
    assert await swept(store) == 1
    assert await kept(store) == {BIG}
    assert (await the_run(store, "b")).input == BIG
    await store.commit([ends("b", BIG)])
    assert (await store.sweepable(ALL)).payloads == 1
    assert await swept(store) == 1
    for table in ("payloads", "payload_uses", "payloads_loose"):
        assert await query(store, f"SELECT * FROM {table}") == []  # noqa: S608


async def test_what_a_run_that_goes_on_has_left_behind(store: Store) -> None:
    """Its earlier input, the entries of its earlier executions, signals that it has taken."""
    await store.commit([start("a", owner="w", value=big(1))])
    await store.commit([noted("a", 1, big(1), big(2)), SendSignal("a", "go", big(3), "s")])
    await store.commit([Continue("a", 1, "1.0.0", big(4), 1, 1)])
    assert (await the_run(store, "a")).input == big(4)
    [claimed] = await claim(store)
    await store.commit([noted("a", 2, big(2), b"1", claimed.run.epoch)])
    assert await swept(store) == 2
    assert await kept(store) == {big(2), big(4)}, "what this execution has, stays"
    [found] = await store.journal("a")
    assert found.input == big(2)


async def test_a_debounced_run_takes_another_input(store: Store) -> None:
    def debounced(run_id: str, value: bytes) -> StartRun:
        wait = Placement("q", dedup="doc", debounce=3600.0)
        return replace(start(run_id, value=value), place=wait)

    await store.commit([debounced("a", big(1))])
    [second] = await store.commit([debounced("b", big(2))])
    assert (started(second).run.id, started(second).run.input) == ("a", big(2))
    assert await swept(store) == 1
    assert await kept(store) == {big(2)}
    assert (await the_run(store, "a")).input == big(2)


async def test_nothing_is_left_of_what_was_refused(store: Store) -> None:
    await store.commit([start("a", owner="w")])
    refused = await store.commit([noted("a", 1, big(1), big(2), epoch=7), ends("a", big(3), 7)])
    assert all(isinstance(one, LeaseLost) for one in refused)
    await store.commit([start("a", value=big(4)), SendSignal("nobody", "go", big(5), "s")])
    await store.commit([SendSignal("a", "go", big(6), "s")])
    await store.commit([SendSignal("a", "go", big(7), "s")])  # its id was there before
    await swept(store)
    assert await kept(store) == {big(6)}
    await store.commit([ends("a")])
    await swept(store)
    assert await kept(store) == set()


async def test_a_transaction_of_a_user_has_large_entries(store: Store) -> None:
    await store.commit([start("a", owner="w")])
    session = store.session(None, 30.0)
    await session.begin()
    await session.execute("CREATE TABLE mine (id INTEGER)", ())
    await session.commit([noted("a", 1, BIG, big(2))])
    [found] = await store.journal("a")
    assert (found.input, found.output) == (BIG, big(2))
    stale = store.session(None, 30.0)
    await stale.begin()
    with pytest.raises(LeaseLost):
        await stale.commit([noted("a", 2, BIG, big(3), epoch=7)])
    assert await kept(store) == {BIG, big(2)}, "it was rolled back with the rest"


async def test_a_run_is_carried_with_its_values(store: Store, backend: Backend) -> None:
    await store.commit([start("a", owner="w", value=BIG)])
    await store.commit([noted("a", 1, BIG, big(2)), SendSignal("a", "go", big(3), "s")])
    [row] = await store.rows(Page("runs", run="a"))
    rest = [(name, one) for name in OF_RUNS for one in await store.rows(Page(name, run="a"))]
    other = {**row, "id": "b"}
    copies = [(name, {**one, "run_id": "b"}) for name, one in rest]
    assert await store.adopt(other, copies) == "create"
    assert await kept(store) == {BIG, big(2), big(3)}
    await store.commit([ends("a")])
    await swept(store)
    assert await kept(store) == {BIG, big(2), big(3)}
    assert (await store.journal("b"))[0].output == big(2)
    mark = mark_of(BIG)
    with pytest.raises(BundleDamaged, match="mark"):
        await store.adopt({**other, "id": "thief", "input": mark}, [])
    assert await store.run("thief") is None


async def test_sealed_anew_the_old_value_goes(store: Store) -> None:
    old, new = (f"{name}:{base64.b64encode(os.urandom(32)).decode()}" for name in ("old", "new"))
    first = await sealed(store, Keyring([old]))
    await first.commit([start("a", owner="w", value=BIG)])
    await first.commit([noted("a", 1, BIG, big(2)), SendSignal("a", "go", big(3), "s")])
    before = await kept(store)
    assert len(before) == 4, "one cannot see that two are equal"
    assert not any(b"xxxx" in body for body in before)
    second = await sealed(store, Keyring([new, old]))
    assert isinstance(second, SealedStore)
    for table in ("runs", "journal", "signals"):
        assert await reseal(second, Page(table)) == 1
    await swept(store)
    after = await kept(store)
    assert len(after) == 4
    assert not before & after
    last = await sealed(store, Keyring([new]))
    assert (await the_run(last, "a")).input == BIG
    assert [(one.input, one.output) for one in await last.journal("a")] == [(BIG, big(2))]
    assert [one.payload for one in await last.signals([("a", 0)])] == [big(3)]


async def test_nothing_is_apart_while_an_older_worker_lives(shared: Backend) -> None:
    """It would take a mark for the value. What was stored before stays as it is, and is read."""
    first = await shared.open()
    for name in ("journal_goes", "signal_goes", "run_goes", "run_begins_anew"):
        table = {"journal_goes": "journal", "signal_goes": "signals"}.get(name, "runs")
        on = f" ON {table}" if isinstance(first, PostgresStore) else ""
        await query(first, f"DROP TRIGGER {name}{on}")
    if isinstance(first, PostgresStore):
        await query(first, "DROP FUNCTION loosen")
    await query(first, "DELETE FROM migrations WHERE id = '0006_post'")
    await beat(first, "older", 600.0)
    await query(first, "UPDATE workers SET schema = 5")
    second = await shared.open()
    await second.commit([start("a", owner="w", value=BIG)])
    assert await kept(second) == set()
    [row] = await second.rows(Page("runs", run="a"))
    with pytest.raises(BundleDamaged, match="mark"):
        await second.adopt({**row, "id": "thief", "input": mark_of(BIG)}, [])
    await query(first, "DELETE FROM workers WHERE id = 'older'")
    third = await shared.open()
    await third.commit([start("b", owner="w", value=BIG)])
    assert await kept(third) == {BIG}
    for store in (second, third):
        assert (await the_run(store, "a")).input == (await the_run(store, "b")).input == BIG
    await third.commit([ends("a"), ends("b")])
    assert await swept(third) == 1


async def test_many_at_once_and_a_sweeper(shared: Backend) -> None:
    """Processes that write, end and sweep the same few values: none is missing, none is left."""
    stores = [await shared.open() for _ in range(4)]
    values = [big(number) for number in range(3)]

    async def work(at: int, store: Store) -> None:
        dice = random.Random(at)
        for number in range(25):
            name, one, two = f"{at}-{number}", dice.choice(values), dice.choice(values)
            await store.commit([start(name, owner="w", value=one)])
            await store.commit([noted(name, 1, one, two)])
            assert (await the_run(store, name)).input == one
            assert [entry.output for entry in await store.journal(name)] == [two]
            await store.commit([ends(name, two)])
            await store.sweep(replace(ALL, limit=dice.randrange(1, 20)))

    await asyncio.gather(*(work(at, store) for at, store in enumerate(stores)))
    await swept(stores[0])
    assert await kept(stores[0]) == set()
    assert await query(stores[0], "SELECT run_id FROM payload_uses") == []


async def test_rows_and_values_fit_whatever_happens(store: Store) -> None:
    """At every moment each mark has its value; after a sweep no value is without a mark."""
    dice = random.Random(4)
    epochs: dict[str, int] = {}
    seqs: dict[str, int] = {}
    for number in range(150):
        what, value = dice.randrange(6), big(dice.randrange(8))
        run_id = dice.choice(list(epochs)) if epochs else ""
        if what == 0 or not epochs:
            run_id = f"r{number}"
            epochs[run_id], seqs[run_id] = 1, 0
            await store.commit([start(run_id, owner="w", value=value)])
        elif what in (1, 2):
            seqs[run_id] += 1
            other = big(dice.randrange(8))
            await store.commit([noted(run_id, seqs[run_id], value, other, epochs[run_id])])
        elif what == 3:
            op = Continue(run_id, epochs[run_id], "1.0.0", value, seqs[run_id], 0)
            await store.commit([op])
            [claimed] = await claim(store)
            epochs[run_id] = claimed.run.epoch
        elif what == 4:
            await store.commit([ends(run_id, value, epochs.pop(run_id))])
        else:
            await store.sweep(replace(ALL, limit=dice.randrange(1, 30)))
        marks = await _marks(store)
        there = {row[0] for row in await query(store, "SELECT mark FROM payloads")}
        assert marks <= there, f"after {number} changes"
    await swept(store)
    there = {row[0] for row in await query(store, "SELECT mark FROM payloads")}
    assert there == await _marks(store)
    assert there, "something is left to be checked"


async def _marks(store: Store) -> set[bytes]:
    rows = await query(
        store, "SELECT input FROM runs UNION SELECT output FROM runs "
        "UNION SELECT input FROM journal UNION SELECT output FROM journal"
    )  # fmt: skip
    return {value for (value,) in rows if value is not None and value[:1] == b"\x05"}


async def test_a_value_that_is_being_written_is_not_swept(postgres_url: str) -> None:
    """Neither is it missing where one comes that was being swept just now."""
    store = PostgresStore(postgres_url)
    await store.open()
    await store.commit([start("a", owner="w", value=BIG)])
    await store.commit([start("b", owner="w"), ends("a")])
    while (await store.sweep(replace(ALL, limit=1))).runs == 0:
        pass
    mark = mark_of(BIG)
    writer = await asyncpg.connect(postgres_url)
    async with writer.transaction():
        await writer.execute("SELECT aura.keep_payloads($1, $2)", [mark], [BIG])
        assert await swept(store) == 0, "it does not wait for the writer, either"
        assert await kept(store) == {BIG}
        await writer.execute("SELECT aura.use_payloads($1, $2, $3)", ["b"], [mark], [True])
        await writer.execute("UPDATE aura.runs SET input = $1 WHERE id = 'b'", mark)
    assert await swept(store) == 0
    assert (await the_run(store, "b")).input == BIG
    await store.commit([ends("b")])
    while (await store.sweep(replace(ALL, limit=1))).runs == 0:
        pass
    async with writer.transaction():
        assert await writer.fetchval("SELECT aura.sweep_payloads(10)") == 1
        late = asyncio.create_task(store.commit([start("c", owner="w", value=BIG)]))
        await eventually(lambda: _waits(store))
        assert not late.done()
    await late
    assert (await the_run(store, "c")).input == BIG
    await writer.close()
    await store.close()


async def _waits(store: Store) -> bool:
    rows = await query(
        store, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database() AND query LIKE '%keep_payloads%'"
    )  # fmt: skip
    return bool(rows)
