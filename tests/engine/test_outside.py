"""What those outside see of a run, and ask of it: state, streams, updates."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

import aura
from aura import step
from aura.errors import (
    CodecError,
    ConfigError,
    RegistrationError,
    ResultTimeout,
    RunEnded,
    RunNotFound,
    UpdateRejected,
)
from tests.engine.kit import World, declare, replayed, resumed, until


@dataclass
class Item:
    name: str
    count: int


async def counting() -> int:
    """Shows and writes at each step."""
    for number in range(3):
        aura.set_state("number", number)
        aura.stream("numbers").write(number)
        aura.stream("squares").write(number * number)
        await noted(number)
    aura.set_state("done", True)
    return 3


@step
async def noted(number: int) -> int:
    return number


async def cart() -> int:
    total = 0
    while total < 10:
        update = await aura.receive_update("add", type=int)
        if update.value < 0:
            update.reject("no negative numbers")
        else:
            total += update.value
            update.answer(total)
    return total


counting_workflow, cart_workflow = declare(counting), declare(cart)


async def read(run: aura.Run[Any], name: str, **options: Any) -> list[Any]:
    return [item async for item in run.stream(name, **options)]


async def test_state_is_seen_from_another_process(world: World) -> None:
    async def phases() -> None:
        aura.set_state("phase", "one")
        aura.set_state("item", Item("a", 1))
        await aura.receive("go")
        aura.set_state("phase", "two")
        await aura.receive("end")

    workflow = declare(phases)
    app = await world.open(workflow)
    client = await world.open(workflow, worker=False)
    run = await app.start(workflow)
    outside = client.run(run.id)

    async def shows(phase: str) -> bool:
        state = await outside.state()
        return state == {"phase": phase, "item": {"name": "a", "count": 1}}

    await until(lambda: shows("one"))
    await outside.signal("go")
    await until(lambda: shows("two"))
    await outside.signal("end")
    await run.result(timeout=60)
    assert await shows("two"), "also when the run has ended"


async def test_state_of_nobody_and_of_a_run_that_shows_none(world: World) -> None:
    app = await world.open(cart_workflow)
    with pytest.raises(RunNotFound):
        await app.run("nobody").state()
    run = await app.start(cart_workflow)
    assert await run.state() == {}
    await run.cancel()


async def test_what_is_shown_is_written_once_over_a_crash_at_any_point(world: World) -> None:
    app = await world.open(counting_workflow)
    first = await app.start(counting_workflow)
    assert await first.result(timeout=60) == 3
    journal = await world.journal(first.id)
    assert {entry.kind for entry in journal} == {"state", "stream", "step"}
    for cut in range(len(journal) + 1):
        run = await resumed(app, counting_workflow, journal[:cut])
        assert await run.result(timeout=60) == 3
        assert await read(run, "numbers") == [0, 1, 2], f"cut at {cut}"
        assert await read(run, "squares") == [0, 1, 4]
        assert await run.state() == {"number": 2, "done": True}


async def test_a_stream_is_followed_from_another_process_and_resumed(world: World) -> None:
    async def talk() -> None:
        pen = aura.stream("tokens")
        for number in range(5):
            pen.write(f"a{number}")
        await aura.receive("more")
        for number in range(5):
            pen.write(f"b{number}")

    workflow = declare(talk)
    app = await world.open(workflow)
    client = await world.open(workflow, worker=False)
    run = await app.start(workflow)
    follower = client.run(run.id).stream("tokens", after=2)
    assert [await anext(follower) for _ in range(3)] == ["a2", "a3", "a4"]
    waiting = asyncio.ensure_future(anext(follower))
    await run.signal("more")
    assert await waiting == "b0"
    assert [item async for item in follower] == ["b1", "b2", "b3", "b4"]
    assert await read(run, "tokens", after=8) == ["b3", "b4"]
    assert await read(run, "tokens", after=100) == []
    assert await read(run, "silence") == []


async def test_items_are_typed_for_who_asks(memory: World) -> None:
    async def talk() -> None:
        aura.stream("items").write(Item("a", 1))

    workflow = declare(talk)
    app = await memory.open(workflow)
    run = await app.start(workflow)
    assert await read(run, "items") == [{"name": "a", "count": 1}]
    assert await read(run, "items", type=Item) == [Item("a", 1)]
    with pytest.raises(CodecError, match="items"):
        await read(run, "items", type=int)


async def test_steps_write_to_streams_also_in_threads(world: World) -> None:
    @step
    def in_a_thread() -> None:
        for number in range(300):
            aura.stream("numbers").write(number)

    @step(retries=1)
    async def twice() -> None:
        tries.append(1)
        aura.stream("tries").write(len(tries))
        if len(tries) == 1:
            raise ValueError("again")

    async def talk() -> None:
        await in_a_thread()
        await twice()

    tries: list[int] = []
    workflow = declare(talk)
    app = await world.open(workflow)
    run = await app.start(workflow)
    assert await read(run, "numbers") == list(range(300))
    assert await read(run, "tries") == [1, 2], "a step that runs again writes again"
    entries = [entry for entry in await world.journal(run.id) if entry.kind == "stream"]
    assert len(entries) < 150, "items are written in batches"


async def test_streams_of_nobody_and_of_a_failed_run(world: World) -> None:
    async def fails() -> None:
        aura.stream("words").write("last")
        raise ValueError("after it")

    workflow = declare(fails)
    app = await world.open(workflow)
    assert await read(await app.start(workflow), "words") == ["last"]
    with pytest.raises(RunNotFound):
        await read(app.run("nobody"), "words")


async def test_showing_outside_a_run_does_nothing() -> None:
    aura.set_state("phase", 1)
    aura.stream("words").write("nobody hears this")
    with pytest.raises(CodecError):
        aura.set_state("phase", object())
    with pytest.raises(RegistrationError):
        aura.stream("a/b")


async def test_state_is_not_for_steps(memory: World) -> None:
    @step
    async def shows() -> None:
        aura.set_state("phase", 1)

    async def work() -> None:
        await shows()

    workflow = declare(work)
    app = await memory.open(workflow)
    with pytest.raises(aura.RunFailed, match="ConfigError"):
        await (await app.start(workflow)).result(timeout=60)


async def test_updates_are_answered_also_over_processes(world: World) -> None:
    await world.open(cart_workflow)
    client = await world.open(cart_workflow, worker=False)
    run = await client.start(cart_workflow)
    assert await run.update("add", 4, timeout=60) == 4
    assert await run.update("add", 1, type=float, timeout=60) == 5.0
    with pytest.raises(UpdateRejected, match="no negative numbers"):
        await run.update("add", -1, timeout=60)
    with pytest.raises(UpdateRejected, match="update add"):
        await run.update("add", "many", timeout=60)
    assert await run.update("add", 5, timeout=60) == 10
    assert await run.result(timeout=60) == 10
    with pytest.raises(RunEnded):
        await run.update("add", 1, timeout=60)


async def test_an_update_is_sent_once_per_id(world: World) -> None:
    app = await world.open(cart_workflow)
    run = await app.start(cart_workflow)
    answers = await asyncio.gather(*(run.update("add", 3, id="x", timeout=60) for _ in range(4)))
    assert answers == [3] * 4
    assert await run.update("add", 7, timeout=60) == 10
    assert await run.update("add", 3, id="x", timeout=60) == 3, "also when the run has ended"


async def test_updates_in_flight_are_answered_after_a_crash_at_any_point(world: World) -> None:
    app = await world.open(cart_workflow)
    run = await app.start(cart_workflow)
    for value in (4, -1, 6):
        await asyncio.gather(run.update("add", value, timeout=60), return_exceptions=True)
    journal = await world.journal(run.id)
    assert await replayed(app, cart_workflow, journal) == 10
    for cut in range(len(journal)):
        again = await resumed(app, cart_workflow, journal[:cut])
        numbered = enumerate([4, -1, 6])
        asked = [again.update("add", value, id=f"{at}", timeout=60) for at, value in numbered]
        answers: list[object] = []
        for ask in [asyncio.ensure_future(one) for one in asked]:
            answers += await asyncio.gather(ask, return_exceptions=True)
        assert [answers[0], answers[2]] == [4, 10], f"cut at {cut}"
        assert isinstance(answers[1], UpdateRejected)


async def test_an_update_without_an_answer(world: World) -> None:
    async def deaf() -> None:
        await aura.receive("end")

    workflow = declare(deaf)
    app = await world.open(workflow)
    run = await app.start(workflow)
    with pytest.raises(ResultTimeout, match="no answer"):
        await run.update("add", 1, timeout=0.05)
    asking = asyncio.ensure_future(run.update("add", 2, timeout=60))

    async def sent() -> bool:
        return (await run.record()).signals == 2

    await until(sent)
    await run.signal("end")
    with pytest.raises(RunEnded, match="did not answer"):
        await asking


async def test_an_update_is_answered_once(memory: World) -> None:
    async def twice() -> None:
        update = await aura.receive_update("add")
        update.answer(1)
        update.answer(2)

    workflow = declare(twice)
    app = await memory.open(workflow)
    run = await app.start(workflow)
    assert await run.update("add", timeout=60) == 1
    with pytest.raises(aura.RunFailed, match="answered twice"):
        await run.result(timeout=60)
    with pytest.raises(ConfigError):
        await aura.receive_update("add")
