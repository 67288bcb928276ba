"""What a crash leaves and what it does not touch: finished steps stay finished."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import aura
from aura import step
from aura.codec import to_json
from tests.engine.kit import Ledger, World, declare, resumed, until


async def test_a_finished_step_is_not_rerun_and_the_others_are(
    world: World, ledger: Ledger
) -> None:
    stuck = asyncio.Event()

    @step
    async def first(number: int) -> int:
        ledger("first")
        return number + random.randrange(10**9)

    @step
    async def second(number: int) -> int:
        ledger("second")
        if ledger.count("second") == 1:
            stuck.set()
            await asyncio.Event().wait()
        return number + 1

    @step
    async def third(number: int) -> int:
        ledger("third")
        return number + 1

    async def flow(start: int) -> list[int]:
        one = await first(start)
        two = await second(one)
        return [one, two, await third(two)]

    workflow = declare(flow)
    app = await world.open(workflow)
    run = await app.start(workflow, 5, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    before = await world.journal("r")
    await world.crash(app)

    app = await world.open(workflow)
    one, two, three = await app.run("r", workflow).result(timeout=60)
    assert [one + 1, two + 1] == [two, three]
    assert ledger.ran == ["first", "second", "second", "third"]
    after = await world.journal("r")
    assert after[: len(before)] == before
    assert [entry.seq for entry in after] == [1, 2, 3]
    assert [entry.key for entry in after] == ["0/first#1", "0/second#1", "0/third#1"]
    record = await world.record(run.id)
    assert (record.state, record.epoch, record.recoveries) == ("completed", 2, 1)


async def test_a_result_is_there_for_who_asks_later(world: World) -> None:
    async def flow(text: str) -> dict[str, int]:
        return {text: len(text)}

    workflow = declare(flow)
    app = await world.open(workflow)
    await (await app.start(workflow, "abc", id="r")).result(timeout=60)
    await app.close()
    world.apps.remove(app)
    other = await world.open(workflow, worker=False)
    assert await other.run("r", workflow).result(timeout=60) == {"abc": 3}
    assert await other.run("r").result(timeout=60) == {"abc": 3}


async def test_values_are_the_same_on_replay(world: World, ledger: Ledger) -> None:
    seen: list[tuple[datetime, float, UUID]] = []
    stuck = asyncio.Event()

    @step
    async def hold() -> None:
        ledger("hold")
        if ledger.count("hold") == 1:
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        seen.append((aura.now(), aura.random(), aura.uuid()))
        await hold()
        seen.append((aura.now(), aura.random(), aura.uuid()))

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    await world.crash(app)
    await asyncio.sleep(0.01)
    app = await world.open(workflow)
    await app.run("r").result(timeout=60)
    first, again, later = seen
    assert first == again
    assert first[0] < later[0]
    assert len({first[1], later[1]}) == len({first[2], later[2]}) == 2
    assert first[0].tzinfo is UTC
    assert abs((datetime.now(UTC) - first[0]).total_seconds()) < 60
    assert first[2].version == 4


async def test_a_sleep_keeps_its_first_deadline(world: World, ledger: Ledger) -> None:
    async def flow(seconds: float) -> float:
        ledger("flow")
        started = aura.now()
        await aura.sleep(timedelta(seconds=seconds))
        return (aura.now() - started).total_seconds()

    workflow = declare(flow)
    app = await world.open(workflow)
    for seconds in (0.6, 3_600.0):
        await app.start(workflow, seconds, id=f"r{seconds}")
        await until(lambda seconds=seconds: _sleeps(world, f"r{seconds}"))  # type: ignore[misc]
    before = {one: await world.journal(one) for one in ("r0.6", "r3600.0")}
    await world.crash(app)
    app = await world.open(workflow)
    assert await app.run("r0.6", workflow).result(timeout=60) >= 0.6
    after = await world.journal("r0.6")
    assert after[: len(before["r0.6"])] == before["r0.6"]
    # The hour is over when the run comes back: a sleep that began anew would take another one.
    noted = [
        entry._replace(output=to_json(time.time() - 1)) if entry.kind == "sleep" else entry
        for entry in before["r3600.0"]
    ]
    again = await resumed(app, workflow, noted, 3_600.0)
    await again.result(timeout=60)
    assert ledger.count("flow") >= 3


async def _sleeps(world: World, run_id: str) -> bool:
    return [entry.kind for entry in await world.journal(run_id)] == ["value", "sleep"]


async def test_a_long_sleep_leaves_memory_and_wakes(world: World, ledger: Ledger) -> None:
    @step
    async def note(text: str) -> str:
        ledger(text)
        return text

    async def flow() -> list[str]:
        before = await note("before")
        await aura.sleep(3.0)
        return [before, await note("after")]

    workflow = declare(flow)
    app = await world.open(workflow, keep_in_memory=0.3)
    run = await app.start(workflow, id="r")
    await until(lambda: _is(world, "r", "waiting"))
    worker = app._worker
    assert worker is not None
    await until(lambda: not worker.executes("r"))  # it hears of its own commit last
    wake_at = (await run.record()).wake_at
    assert wake_at is not None
    assert wake_at - time.time() <= 3.0
    assert await run.result(timeout=60) == ["before", "after"]
    assert time.time() >= wake_at
    assert ledger.ran == ["before", "after"]


async def _is(world: World, run_id: str, state: str) -> bool:
    return (await world.record(run_id)).state == state


async def test_a_long_sleep_beside_a_short_branch_leaves_memory(memory: World) -> None:
    @step
    async def short() -> int:
        await asyncio.sleep(0.3)
        return 1

    async def flow() -> None:
        await asyncio.gather(aura.sleep(3600), short())

    workflow = declare(flow)
    app = await memory.open(workflow)
    run = await app.start(workflow, id="r")

    async def waiting() -> bool:
        return await run.status() == "waiting"

    await until(waiting)
    assert [e.kind for e in await app.store.journal("r")] == ["sleep", "step"]


async def test_a_short_sleep_of_nothing(memory: World) -> None:
    async def flow() -> str:
        await aura.sleep(0)
        await aura.sleep(-1)
        return "done"

    app = await memory.open()
    assert await (await app.start(declare(flow))).result(timeout=60) == "done"


async def test_the_idempotency_key_is_stable(world: World, ledger: Ledger) -> None:
    keys: list[tuple[str, str]] = []
    stuck = asyncio.Event()

    @step(retries=aura.Retry(attempts=3, first=0.01))
    async def pay(name: str) -> None:
        keys.append((name, aura.idempotency_key()))
        ledger(name)
        if ledger.count(name) == 1:
            raise ValueError("again")
        if name == "b" and ledger.count(name) == 2:
            stuck.set()
            await asyncio.Event().wait()

    async def flow() -> None:
        await pay("a")
        await asyncio.gather(pay("b"), pay("c"))
        await pay("d")

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="one")
    await asyncio.wait_for(stuck.wait(), 60)
    await until(lambda: ledger.count("c") == 2)
    await world.crash(app)
    app = await world.open(workflow)
    await app.run("one").result(timeout=60)
    by_name: dict[str, set[str]] = {}
    for name, key in keys:
        by_name.setdefault(name, set()).add(key)
    assert all(len(found) == 1 for found in by_name.values())
    assert len(set.union(*by_name.values())) == 4
    await (await app.start(workflow, id="two")).result(timeout=60)
    assert not {k for _, k in keys if k.startswith("one")} & {
        k for _, k in keys if k.startswith("two")
    }


async def test_the_same_step_twice_in_order(world: World, ledger: Ledger) -> None:
    stuck = asyncio.Event()

    @step
    async def draw(number: int) -> list[float]:
        ledger(str(number))
        if number == 3 and ledger.count("3") == 1:
            stuck.set()
            await asyncio.Event().wait()
        return [number, random.random()]

    async def flow() -> list[list[float]]:
        return [await draw(number) for number in (1, 1, 2, 3, 1)]

    workflow = declare(flow)
    app = await world.open(workflow)
    await app.start(workflow, id="r")
    await asyncio.wait_for(stuck.wait(), 60)
    before = await world.journal("r")
    await world.crash(app)
    app = await world.open(workflow)
    found = await app.run("r", workflow).result(timeout=60)
    assert [int(one[0]) for one in found] == [1, 1, 2, 3, 1]
    assert ledger.ran == ["1", "1", "2", "3", "3", "1"]
    assert [e.output for e in before] == [e.output for e in (await world.journal("r"))[:3]]
    assert len({one[1] for one in found}) == 5


async def test_idempotent_results_are_durable_before_an_effect_starts(
    world: World, ledger: Ledger
) -> None:
    seen: list[int] = []

    @step(idempotent=True)
    async def look(number: int) -> int:
        return number

    @step
    async def act() -> None:
        seen.append(len(await world.journal("r")))

    async def flow() -> None:
        for number in range(5):
            await look(number)
        aura.now()
        await act()

    app = await world.open()
    await (await app.start(declare(flow), id="r")).result(timeout=60)
    assert seen == [6]


async def test_a_run_of_ten_thousand_steps(memory: World) -> None:
    @step
    async def add(number: int) -> int:
        return number + 1

    async def flow() -> int:
        number = 0
        for _ in range(10_000):
            number = await add(number)
        return number

    app = await memory.open()
    run = await app.start(declare(flow), id="r")
    assert await run.result(timeout=200) == 10_000
    journal = await app.store.journal("r")
    assert [e.seq for e in journal] == list(range(1, 10_001))
