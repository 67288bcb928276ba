"""Forks: a second run from the middle of the first one, which stays as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aura
from aura import Retry, Run, RunFailed, step
from aura.engine.fork import KEPT, Fork, _beginning, fork, planned
from aura.errors import InvalidInput, NonDeterminism, RunConflict, RunNotFound, RunParked
from tests.engine.kit import Ledger, World, declare, until
from tests.engine.test_encryption import K1

LEDGER = Ledger()


@pytest.fixture
def ledger() -> Ledger:
    LEDGER.ran.clear()
    return LEDGER


@step
async def draft(number: int) -> str:
    LEDGER(f"draft {number} for {aura.idempotency_key()}")
    return f"draft {number} ({len(LEDGER.ran)})"


@step(idempotent=True)
async def look(name: str) -> str:
    LEDGER(f"look {name}")
    return name


async def writes() -> list[str]:
    found = []
    for number in range(1, 4):
        found.append(await draft(number))
        aura.set_state("done", number)
        aura.stream("words").write(f"word {number}")
    return found


async def told(run: Run[Any], stream: str) -> list[Any]:
    return [item async for item in run.stream(stream)]


async def test_a_fork_from_a_step_has_its_state_and_streams(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(writes))
    run = await app.start("writes", id="original")
    first = await run.result(timeout=60)
    before = await app.store.journal("original"), await run.record()
    second = await run.fork(at="0/draft#3", id="again")
    assert second.id == "again"
    result = await second.result(timeout=60)
    assert result[:2] == first[:2]
    assert result[2] == "draft 3 (4)"
    assert [name.split(" for ")[0] for name in ledger.ran] == [
        "draft 1", "draft 2", "draft 3", "draft 3",
    ]  # fmt: skip
    assert ledger.ran[3] == "draft 3 for again:0/draft#3"
    assert await second.state() == {"done": 3}
    assert await told(second, "words") == ["word 1", "word 2", "word 3"]
    assert (await app.store.journal("original"), await run.record()) == before
    record = await second.record()
    assert (record.workflow, record.version, record.origin) == (
        "writes", "1.0.0", "fork of original at 0/draft#3",
    )  # fmt: skip


async def test_state_and_streams_are_those_of_that_moment(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(writes))
    run = await app.start("writes")
    await run.result(timeout=60)
    await app.close()
    world.apps.clear()
    client = await world.open(declare(writes), worker=False)  # nobody goes on with it
    forked = await client.run(run.id).fork(at="0/draft#3")
    assert await forked.state() == {"done": 2}
    kept = [entry.key for entry in await client.store.journal(forked.id)]
    assert "0/draft#3" not in kept
    assert kept[0] == "0/draft#1"
    assert await forked.status() == "pending"


async def test_a_fork_from_the_first_step_begins_anew(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(writes))
    run = await app.start("writes")
    await run.result(timeout=60)
    await (await run.fork(at="0/draft#1")).result(timeout=60)
    assert len(ledger.ran) == 6


async def asks() -> list[Any]:
    found = [await aura.receive("first")]
    await draft(1)
    found.append(await aura.receive("second"))
    await draft(2)
    found.append(await aura.receive("third"))
    return found


async def test_signals_of_that_moment_come_along(world: World, ledger: Ledger) -> None:
    """Received ones are in the journal; those that had come unread wait; later ones do not come."""
    app = await world.open(declare(asks))
    run = await app.start("asks")
    for name in ("first", "second"):
        await run.signal(name, name.upper(), id=name)
    await until(lambda: _has(app, run, "0/draft#2"))
    await run.signal("third", "THIRD")
    assert await run.result(timeout=60) == ["FIRST", "SECOND", "THIRD"]
    forked = await run.fork(at="0/draft#1")
    assert [one.name for one in await app.store.signals([(forked.id, 0)])] == ["first", "second"]
    await until(lambda: _has(app, forked, "0/draft#2"))
    await forked.signal("third", "another")
    assert await forked.result(timeout=60) == ["FIRST", "SECOND", "another"]
    late = await run.fork(at="0/signal:third#1/got")
    assert [one.name for one in await app.store.signals([(late.id, 0)])] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert await late.result(timeout=60) == ["FIRST", "SECOND", "THIRD"]


async def _has(app: aura.Aura, run: Run[Any], key: str) -> bool:
    return key in [entry.key for entry in await app.store.journal(run.id)]


async def test_a_fork_that_waits_for_a_signal_leaves_memory_and_wakes(
    world: World, ledger: Ledger
) -> None:
    """What it has not read is no reason to be taken up again and again."""
    app = await world.open(declare(asks), keep_in_memory=0.0)
    run = await app.start("asks")
    await run.signal("first", 1)
    await run.signal("other", 0)
    await until(lambda: _has(app, run, "0/draft#1"))
    forked = await run.fork(at="0/draft#1")

    async def asleep() -> bool:
        return await forked.status() == "waiting"

    await until(asleep)
    assert (await forked.record()).epoch == 1
    for name in ("second", "third"):
        await forked.signal(name, 2)
    assert await forked.result(timeout=60) == [1, 2, 2]


async def test_branches_beside_the_key_are_kept_as_far_as_they_were(
    world: World, ledger: Ledger
) -> None:
    gate = asyncio.Event()

    @step
    async def slow(name: str) -> str:
        LEDGER(f"slow {name}")
        if name == "left":
            await gate.wait()
        return name

    async def left() -> list[str]:
        return [await slow("left"), await look("left")]

    async def right() -> list[str]:
        found = [await look("right"), await look("more")]
        gate.set()
        return found

    async def both() -> list[list[str]]:
        return [*await asyncio.gather(left(), right())]

    app = await world.open(declare(both))
    run = await app.start("both")
    expected = [["left", "left"], ["right", "more"]]
    assert await run.result(timeout=60) == expected
    ledger.ran.clear()
    assert await (await run.fork(at="0.1/slow#1")).result(timeout=60) == expected
    assert ledger.ran == ["slow left", "look left"]
    ledger.ran.clear()
    assert await (await run.fork(at="0.2/look#1")).result(timeout=60) == expected
    assert sorted(ledger.ran) == ["look left", "look more", "look right", "slow left"]


async def test_a_parked_run_goes_on_with_another_version(world: World, ledger: Ledger) -> None:
    async def before() -> list[str]:
        return [await look("a"), await draft(1), await look("b")]

    async def changed() -> list[str]:
        return [await look("a"), await draft(2), await look("b")]

    app = await world.open(declare(before, "1.0.0", "flow"))
    run = await app.start("flow")
    await run.result(timeout=60)
    await world.crash(app)
    app = await world.open(declare(changed, "2.0.0", "flow"))
    original = app.run(run.id)
    wrong = await original.fork(version="2.0.0")
    with pytest.raises(RunParked, match=NonDeterminism.__name__):
        await wrong.result(timeout=60)
    right = await original.fork(at="0/draft#1", version="2.0.0")
    assert await right.result(timeout=60) == ["a", "draft 2 (4)", "b"]
    again = await wrong.fork(at="0/draft#1")
    assert (await again.result(timeout=60))[0] == "a"
    assert (await original.record()).state == "completed"


async def test_a_failed_run_goes_on_from_where_it_failed(world: World, ledger: Ledger) -> None:
    broken = True

    @step(retries=Retry(attempts=1, first=0.0))
    async def flaky() -> str:
        if broken:
            raise OSError("the network")
        return "connected"

    async def flow() -> list[str]:
        return [await draft(1), await flaky()]

    app = await world.open(declare(flow))
    run = await app.start("flow")
    with pytest.raises(RunFailed):
        await run.result(timeout=60)
    broken = False
    forked = await run.fork(at="0/flaky#1")
    assert (await forked.result(timeout=60))[1] == "connected"
    assert len(ledger.ran) == 1
    assert {entry.kind for entry in await app.store.journal(forked.id)} == {"step"}


async def test_steps_that_were_compensated_are_named(world: World, ledger: Ledger) -> None:
    @step
    async def charge() -> str:
        return "charged"

    async def refund(receipt: str) -> None:
        LEDGER(f"refund {receipt}")

    @step
    async def fails() -> None:
        raise ValueError("sold out")

    async def buys() -> None:
        async with aura.saga() as saga:
            await saga.step(charge, compensate=refund)
            await look("stock")
            await saga.step(fails)

    app = await world.open(declare(buys))
    run = await app.start("buys")
    with pytest.raises(RunFailed):
        await run.result(timeout=60)
    made = await fork(app.store, Fork(run.id, "f1", "0/fails#1"), app.clock.now())
    assert made.undone == ("0/charge#1",)
    made = await fork(app.store, Fork(run.id, "f2", "0/charge#1"), app.clock.now())
    assert made.undone == ()


async def test_what_cannot_be_forked(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(writes))
    run = await app.start("writes", id="original")
    await run.result(timeout=60)
    with pytest.raises(InvalidInput, match=r"no key '0/draft#9'.*0/draft#"):
        await run.fork(at="0/draft#9")
    with pytest.raises(InvalidInput, match="aura runs show"):
        await run.fork(at="zzzzzzzzzz")
    with pytest.raises(InvalidInput, match="semantic version"):
        await run.fork(at="0/draft#1", version="two")
    with pytest.raises(InvalidInput, match="500 printable"):
        await run.fork(at="0/draft#1", id="")
    with pytest.raises(RunNotFound):
        await app.run("nobody").fork(at="0/draft#1")
    with pytest.raises(RunConflict, match="original"):
        await run.fork(at="0/draft#1", id="original")
    assert [one.id for one in await app.runs()] == ["original"]


async def test_a_fork_of_an_encrypted_run(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(writes), encryption_keys=(K1,))
    run = await app.start("writes")
    first = await run.result(timeout=60)
    forked = await run.fork(at="0/draft#2")
    assert (await forked.result(timeout=60))[0] == first[0]
    assert await forked.state() == {"done": 3}


async def test_a_run_in_flight_is_forked_and_goes_on(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(asks))
    run = await app.start("asks")
    await run.signal("first", 1)
    await until(lambda: _has(app, run, "0/draft#1"))
    forked = await run.fork()
    for one in (run, forked):
        for name in ("second", "third"):
            await one.signal(name, one.id)
    assert await run.result(timeout=60) == [1, run.id, run.id]
    assert await forked.result(timeout=60) == [1, forked.id, forked.id]
    assert len([name for name in ledger.ran if name.startswith("draft 1")]) == 1


async def test_every_column_of_a_run_is_shared_or_given_anew(memory: World) -> None:
    """Whoever adds a column says in `fork` what a fork makes of it."""
    app = await memory.open(declare(writes))
    columns = set((await app.store.layout())["runs"])
    row = dict.fromkeys(columns, 0) | {"id": "a", "version": "1.0.0", "rank": None}
    fresh = _beginning(Fork("a", "b"), row, 0, 1.0)
    assert columns - KEPT - fresh.keys() == set()
    assert KEPT & fresh.keys() == set()
    plan = planned(Fork("a", "b"), row, [], [], 1.0)
    assert plan.run.keys() == columns


async def test_children_that_were_started_are_shared(world: World, ledger: Ledger) -> None:
    """The fork waits for the same child, and cancelling the fork does not stop it."""

    async def child() -> str:
        await look("child")
        return str(await aura.receive("go"))

    minor = declare(child)

    async def parent() -> list[str]:
        await look("start")
        return [await minor(), await draft(1)]

    app = await world.open(minor, declare(parent))
    run = await app.start("parent", id="p")
    await until(lambda: _has(app, run, "0/child#1"))
    forks = [await run.fork(id=name) for name in ("f1", "f2")]

    async def begun() -> bool:
        return all([(await one.record()).epoch for one in forks])

    await until(begun)
    await forks[0].cancel()

    async def stopped() -> bool:
        return await forks[0].status() == "cancelled"

    await until(stopped)
    minor_run = app.run("p/0/child#1")
    assert not (await minor_run.record()).cancel_requested
    await minor_run.signal("go", "ended")
    assert (await run.result(timeout=60))[0] == "ended"
    assert (await forks[1].result(timeout=60))[0] == "ended"
    assert len([name for name in ledger.ran if name == "look child"]) == 1


async def test_a_fork_at_any_key_comes_to_an_end(memory: World, ledger: Ledger) -> None:
    """Every first part of a journal is a journal, whatever it has."""

    async def child(name: str) -> str:
        return await look(name)

    minor = declare(child)

    async def lane(name: str) -> list[str]:
        first = await look(name)
        await aura.sleep(0.001)
        return [first, await minor(name)]

    async def everything() -> list[Any]:
        go = await aura.receive("go", timeout=60)
        aura.set_state("go", go)
        found = await asyncio.gather(lane("left"), lane("right"))
        async with aura.timeout(60):
            await draft(1)
        await aura.emit("things", 1)
        async with aura.saga() as saga:
            await saga.step(look, "kept", compensate=look)
        aura.stream("log").write("end")
        return [go, *found, await look(str(aura.random() < 1))]

    major = declare(everything)
    app = await memory.open(minor, major)
    run = await app.start(major)
    await run.signal("go", 1)
    expected = [1, ["left", "left"], ["right", "right"], "True"]
    assert await run.result(timeout=60) == expected
    keys = list(dict.fromkeys(entry.key for entry in await app.store.journal(run.id)))
    assert len(keys) > 15
    forks = [await run.fork(at=key) for key in keys]
    for key, one in zip(keys, forks, strict=True):
        if key == "0/signal:go#1":
            await one.signal("go", 1)  # the wait began before the signal had come
        assert await one.result(timeout=60) == expected, key
        assert await told(one, "log") == ["end"], key
