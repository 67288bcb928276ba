"""Small changes under running work: old runs go the old way, new ones the new way, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

import aura
from aura import Retry, Run, step
from aura.errors import ConfigError, RegistrationError
from aura.store.base import Entry
from tests.engine.kit import Ledger, World, declare, replayed, until

Code = Callable[[], Awaitable[Any]]
NAME = "flow"


@pytest.fixture
def ledger() -> Ledger:
    LEDGER.ran.clear()
    return LEDGER


LEDGER = Ledger()


@step
async def one() -> str:
    LEDGER("one")
    return "one"


@step
async def two() -> str:
    LEDGER("two")
    return "two"


@step
async def check() -> str:
    LEDGER("check")
    return "check"


@step(retries=Retry(attempts=1, first=60.0))
async def flaky() -> str:
    raise OSError("the network")


async def old() -> list[str]:
    found = [await one()]
    await aura.receive("go")
    return [*found, await two()]


async def new() -> list[str]:
    found = [await one()]
    if aura.patched("check-first"):
        found.append(await check())
    await aura.receive("go")
    return [*found, await two()]


async def newest() -> list[str]:
    """The old way is deleted, and with it the call of `patched`."""
    found = [await one(), await check()]
    await aura.receive("go")
    return [*found, await two()]


async def begun(world: World, code: Code, entries: int) -> Run[Any]:
    """A run that has so many entries, and then the process is killed."""
    app = await world.open(declare(code, name=NAME))
    run = await app.start(NAME)

    async def written() -> bool:
        return len(await app.store.journal(run.id)) >= entries

    await until(written)
    await world.crash(app)
    return run


async def ended(world: World, code: Code, run_id: str, signal: str = "go") -> Any:
    app = await world.open(declare(code, name=NAME))
    await app.run(run_id).signal(signal, id="once")
    return await app.run(run_id).result(timeout=60)


def keys(journal: list[Entry]) -> list[str]:
    return [entry.key for entry in journal]


async def passed() -> list[str]:
    found = [await one()]
    await aura.sleep(0)
    await aura.receive("go")
    return [*found, await two()]


async def passed_patched() -> list[str]:
    found = [await one()]
    if aura.patched("check-first"):
        found.append(await check())
    await aura.sleep(0)
    await aura.receive("go")
    return [*found, await two()]


async def test_a_new_run_goes_the_new_way(world: World, ledger: Ledger) -> None:
    app = await world.open(declare(new, name=NAME))
    run = await app.start(NAME)
    await run.signal("go")
    assert await run.result(timeout=60) == ["one", "check", "two"]
    marks = [one for one in await app.store.journal(run.id) if one.kind == "patch"]
    assert [(mark.key, mark.seq) for mark in marks] == [("0/~patch:check-first#1", 2)]


async def test_a_run_that_had_passed_the_point_goes_the_old_way(
    world: World, ledger: Ledger
) -> None:
    run = await begun(world, passed, 3)
    assert await ended(world, passed_patched, run.id) == ["one", "two"]
    assert ledger.count("check") == 0
    assert not [one for one in await world.journal(run.id) if one.kind == "patch"]


async def test_a_run_that_comes_to_the_point_goes_the_new_way(world: World, ledger: Ledger) -> None:
    run = await begun(world, old, 1)
    assert await ended(world, new, run.id) == ["one", "check", "two"]
    assert ledger.count("one") == 1


async def test_the_answer_stays_over_crashes(world: World, ledger: Ledger) -> None:
    """For both ways, and whatever the journal has by then."""
    for code, entries, expected in ((old, 1, ["one", "check", "two"]), (passed, 3, ["one", "two"])):
        changed = new if code is old else passed_patched
        run = await begun(world, code, entries)
        before = len(await world.journal(run.id))
        app = await world.open(declare(changed, name=NAME))
        if changed is new:
            await until(partial(_grown, app, run, before + 2))
        else:
            await until(partial(_taken, app, run))
        await world.crash(app)
        assert await ended(world, changed, run.id) == expected
        await world.close()
        world.apps.clear()


async def _grown(app: aura.Aura, run: Run[Any], entries: int) -> bool:
    return len(await app.store.journal(run.id)) >= entries


async def _taken(app: aura.Aura, run: Run[Any]) -> bool:
    return (await app.run(run.id).record()).epoch >= 2


async def test_a_failed_try_after_the_point_says_that_it_was_passed(
    memory: World, ledger: Ledger
) -> None:
    async def before() -> str:
        await one()
        return await flaky()

    async def after() -> str:
        await one()
        if aura.patched("p"):
            return "new"
        return "old"

    app = await memory.open(declare(before, name=NAME), declare(after, "2.0.0", NAME))
    run = await app.start(NAME, version="1.0.0")
    await until(lambda: _grown(app, run, 2))
    journal = await app.store.journal(run.id)
    assert [entry.kind for entry in journal] == ["step", "attempt"]
    assert await replayed(app, app.registry.get(NAME, "2.0.0"), journal) == "old"
    assert await replayed(app, app.registry.get(NAME, "2.0.0"), journal[:1]) == "new"


async def test_what_a_lane_has_streamed_after_the_point_counts(
    memory: World, ledger: Ledger
) -> None:
    async def before() -> None:
        await one()
        aura.stream("words").write("old")
        await aura.receive("never")

    async def after() -> bool:
        await one()
        return aura.patched("p")

    app = await memory.open(declare(before, name=NAME), declare(after, "2.0.0", NAME))
    run = await app.start(NAME, version="1.0.0")
    await until(lambda: _grown(app, run, 2))
    journal = await app.store.journal(run.id)
    new_code = app.registry.get(NAME, "2.0.0")
    assert await replayed(app, new_code, journal) is False
    assert await replayed(app, new_code, journal[:1]) is True


async def test_the_first_answer_is_the_answer(memory: World, ledger: Ledger) -> None:
    """Also in a loop that goes on behind what was recorded, and for every branch."""

    async def before() -> None:
        for _ in range(2):
            await one()

    async def after() -> list[bool]:
        found = []
        for _ in range(4):
            found.append(aura.patched("p"))
            await one()

        async def branch() -> bool:
            return aura.patched("p")

        return [*found, *await asyncio.gather(branch(), branch())]

    app = await memory.open(declare(before, name=NAME), declare(after, "2.0.0", NAME))
    run = await app.start(NAME, version="1.0.0")
    await run.result(timeout=60)
    journal = await app.store.journal(run.id)
    new_code = app.registry.get(NAME, "2.0.0")
    assert await replayed(app, new_code, journal) == [False] * 6
    fresh = await app.start(NAME, version="2.0.0")
    assert await fresh.result(timeout=60) == [True] * 6
    assert [one.kind for one in await app.store.journal(fresh.id)].count("patch") == 1


async def test_two_patches_are_two_answers(memory: World, ledger: Ledger) -> None:
    async def first() -> bool:
        answer = aura.patched("a")
        await one()
        return answer

    async def second() -> list[bool]:
        found = [aura.patched("a")]
        await one()
        found.append(aura.patched("b"))
        await two()
        return found

    app = await memory.open(declare(first, name=NAME), declare(second, "2.0.0", NAME))
    run = await app.start(NAME, version="1.0.0")
    assert await run.result(timeout=60) is True
    journal = await app.store.journal(run.id)
    assert await replayed(app, app.registry.get(NAME, "2.0.0"), journal) == [True, True]


async def test_the_old_way_is_deleted_when_no_run_takes_it(world: World, ledger: Ledger) -> None:
    """A patch in the journal that nobody asks for harms nothing."""
    app = await world.open(declare(new, name=NAME))
    run = await app.start(NAME)
    await until(lambda: _grown(app, run, 3))
    await world.crash(app)
    assert await ended(world, newest, run.id) == ["one", "check", "two"]
    assert ledger.count("check") == 1


async def test_a_forgotten_patch_does_not_decide_others(memory: World, ledger: Ledger) -> None:
    async def first() -> None:
        assert aura.patched("gone")
        await one()

    async def second() -> bool:
        await one()
        return aura.patched("next")

    app = await memory.open(declare(first, name=NAME), declare(second, "2.0.0", NAME))
    run = await app.start(NAME, version="1.0.0")
    await run.result(timeout=60)
    journal = await app.store.journal(run.id)
    assert await replayed(app, app.registry.get(NAME, "2.0.0"), journal) is True


async def test_outside_a_run_the_new_way_is_taken() -> None:
    assert aura.patched("anything") is True


async def test_a_step_cannot_ask(memory: World, ledger: Ledger) -> None:
    @step
    async def asks() -> bool:
        return aura.patched("p")

    async def flow() -> bool:
        return await asks()

    app = await memory.open(declare(flow))
    with pytest.raises(aura.RunFailed, match=ConfigError.__name__):
        await (await app.start("flow")).result(timeout=60)


@pytest.mark.parametrize("name", ["", "a/b", "a#1", 7])
def test_a_patch_has_a_name(name: Any) -> None:
    with pytest.raises(RegistrationError):
        aura.patched(name)


async def test_a_run_stays_on_its_version(world: World, ledger: Ledger) -> None:
    """Also when a newer one is there, and the worker that had begun it is gone."""
    run = await begun(world, old, 1)
    app = await world.open(declare(new, "2.0.0", NAME))
    late = await app.start(NAME)
    await late.signal("go")
    assert await late.result(timeout=60) == ["one", "check", "two"]
    record = await app.run(run.id).record()
    assert (record.version, record.state) == ("1.0.0", "running")  # nobody here has its code
    both = await world.open(declare(new, "2.0.0", NAME), declare(old, name=NAME))
    await both.run(run.id).signal("go")
    assert await both.run(run.id).result(timeout=60) == ["one", "two"]
