"""Adaptive durability: what may wait does, and nothing that anybody has seen is ever lost.

A workflow is drawn from a seed, and its process dies at each of its commits, before it and after.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

import aura
from aura import Aura, Config, Workflow, step
from aura.codec import plain
from aura.engine.durability import Durability
from aura.errors import ConfigError
from aura.store.base import Append, Entry, Op, Outcome, Settle
from aura.store.events import Emit
from tests.engine.kit import World, declare

FAR = 1e9  # seconds between failures: what may wait waits for as long as the bounds allow


@dataclass
class Witness:
    """What is outside of the runs: which step's code ran, and what each effect was told."""

    ran: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


outside = Witness()


def _token() -> str:
    outside.ran.append(aura.idempotency_key())
    return uuid.uuid4().hex[:8]


@step(idempotent=True)
async def look(before: list[str]) -> str:
    await asyncio.sleep(0)
    return _token()


@step
async def effect(before: list[str]) -> str:
    outside.told += before
    return _token()


async def _branch(before: list[str], looks: int) -> list[str]:
    found: list[str] = []
    for _ in range(looks):
        found.append(await look(before + found))
    return [*found, await effect(before + found)]


async def _lazy(seed: int) -> list[str]:
    """Rows of looks, and now and then something that others see."""
    draw = random.Random(seed)
    found: list[str] = []
    for _ in range(draw.randint(3, 5)):
        for _ in range(draw.randint(1, 4)):
            found.append(await look(found))
        found.append(f"{aura.random():.6f}")
        kind = draw.choice(("effect", "effect", "branches", "state", "event", "nap"))
        if kind == "effect":
            found.append(await effect(found))
        elif kind == "branches":
            for part in await asyncio.gather(*(_branch(found, n) for n in (1, 2))):
                found += part
        elif kind == "state":
            aura.set_state("so far", len(found))
        elif kind == "event":
            await aura.emit("news", found)
        else:
            await aura.sleep(0.001)
    return found


def lazy(durability: Durability | None = "adaptive") -> Workflow[[int], list[str]]:
    return Workflow("lazy", "1.0.0", _lazy, durability=durability)


class Killer:
    """Stops a process for good at its n-th commit for a run, before or after it is written."""

    def __init__(self, app: Aura, number: int, after: bool) -> None:
        self.seen = 0
        self.struck = asyncio.Event()
        self._number = number
        self._after = after
        self._commit = app.store.commit
        app.store.commit = self.commit  # type: ignore[method-assign]

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        if not any(isinstance(op, Append | Emit | Settle) for op in ops):
            return await self._commit(ops)
        self.seen += 1
        if self.seen == self._number:
            if self._after:
                await self._commit(ops)
            self.struck.set()
            await asyncio.Event().wait()
        return await self._commit(ops)


def _tokens(journal: Sequence[Entry]) -> set[str]:
    """What the journal remembers of what the workflow was given."""
    steps = {str(plain(one.output)) for one in journal if one.kind == "step"}
    values = {f"{plain(one.output):.6f}" for one in journal if one.kind == "value"}
    return steps | values


async def _news(app: Aura) -> list[str]:
    page = await app.store.events.read("news", 0, list(range(64)), 100)
    return [token for event in page.events for token in cast("list[str]", plain(event.payload))]


def _stop_settling(app: Aura) -> None:
    """The dead do not wait for the outcome of their last commit."""
    worker = app._worker
    assert worker is not None
    for run_id, execution in tuple(worker._executions.items()):
        if execution._settling:
            worker._tasks[run_id].cancel()


async def _die_at(world: World, seed: int, number: int, after: bool) -> bool:
    """One life that ends at that commit, and one that ends well. Whether there was such a commit.

    Raises AssertionError when anything that was seen outside is lost.
    """
    workflow = lazy()
    outside.ran, outside.told = [], []
    first = await world.open(workflow, lease=60.0)
    killer = Killer(first, number, after)
    run = await first.start(workflow, seed, id=f"{seed}-{number}-{after}")
    ended = asyncio.create_task(run.result(timeout=60))
    struck = asyncio.create_task(killer.struck.wait())
    await asyncio.wait((struck, ended), return_when="FIRST_COMPLETED")
    if ended.done() and not killer.struck.is_set():
        ended.result()
        return False
    ended.cancel()
    _stop_settling(first)
    await world.crash(first)
    before = await world.journal(run.id)
    assert [one.seq for one in before] == list(range(1, len(before) + 1))
    told, executed = list(outside.told), len(outside.ran)
    assert set(told) <= _tokens(before), "an effect began before what it knew was durable"

    second = await world.open(workflow, lease=60.0)
    assert await second.store.run(run.id) is not None, "an acknowledged start is lost"
    news = set(await _news(second))
    found = await second.run(run.id, workflow).result(timeout=60)
    journal = await second.store.journal(run.id)
    assert [one.seq for one in journal] == list(range(1, len(journal) + 1))
    assert journal[: len(before)] == before
    answered = {f"{run.id}:{one.key}" for one in before if one.kind == "step"}
    assert not answered & set(outside.ran[executed:]), "a finished step ran again"
    assert set(found) == _tokens(journal)
    assert set(outside.told) <= _tokens(journal)
    assert news <= set(await _news(second)) <= _tokens(journal)
    await second.close()
    world.apps.remove(second)
    return True


@pytest.mark.parametrize("seed", [1, 5])
async def test_nothing_seen_is_lost_whichever_commit_a_process_dies_at(
    world: World, seed: int
) -> None:
    boundaries = 0
    while await _die_at(world, seed, boundaries // 2 + 1, after=bool(boundaries % 2)):
        boundaries += 1
    assert boundaries >= 4  # how many entries a commit takes along is for the machine to say


async def _commits(world: World, workflow: Workflow[..., Any], *args: Any) -> tuple[int, int]:
    """How many commits a run took, and how many entries it has."""
    app = await world.open(workflow, durability="adaptive", lease=60.0, mtbf=FAR)
    await (await app.start(workflow, *args)).result(timeout=60)
    counts = app.committer.counts
    await app.close()
    world.apps.remove(app)
    assert counts.deferred == 0 or counts.saved > 0
    return counts.commits, counts.entries


async def _bursts(rounds: int) -> None:
    for _ in range(rounds):
        for _ in range(50):
            await look([])
        await effect([])


@step(idempotent=True)
async def slow() -> None:
    await asyncio.sleep(0.002)


async def _steady(rounds: int) -> None:
    for _ in range(rounds):
        for _ in range(8):
            await slow()
        await effect([])


async def test_bursts_take_a_tenth_of_the_commits(world: World) -> None:
    commits, entries = await _commits(world, Workflow("b", "1.0.0", _bursts), 6)
    assert entries == 6 * 51
    assert commits <= entries / 10


async def test_steady_work_takes_less_than_half_of_the_commits(world: World) -> None:
    commits, entries = await _commits(world, Workflow("s", "1.0.0", _steady), 6)
    assert entries == 6 * 9
    assert commits <= entries * 0.6


@pytest.mark.parametrize(
    ("app_says", "workflow_says", "waits"),
    [
        ("sync", None, False),
        ("adaptive", None, True),
        ("adaptive", "sync", False),
        ("sync", "adaptive", True),
    ],
)
async def test_who_says_what_may_wait(
    world: World, app_says: Durability, workflow_says: Durability | None, waits: bool
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @step(idempotent=True)
    async def pause() -> None:
        begun.set()
        await go_on.wait()

    async def flow() -> None:
        await look([])
        await pause()

    workflow = Workflow("flow", "1.0.0", flow, durability=workflow_says)
    app = await world.open(workflow, durability=app_says, lease=60.0, mtbf=FAR)
    run = await app.start(workflow)
    await asyncio.wait_for(begun.wait(), 60)
    if not waits:
        while not await app.store.journal(run.id):  # nobody asked for it
            await asyncio.sleep(0.001)
    deferred = app.committer._pace is not None
    go_on.set()
    await run.result(timeout=60)
    assert deferred is waits
    assert len(await app.store.journal(run.id)) == 2


async def test_what_waits_is_written_before_long(world: World) -> None:
    """Without anybody who depends on it: so that others see how far a run is."""
    go_on = asyncio.Event()

    @step(idempotent=True)
    async def pause() -> None:
        await go_on.wait()

    async def flow() -> None:
        await look([])
        await pause()

    workflow = Workflow("flow", "1.0.0", flow, durability="adaptive")
    app = await world.open(workflow, lease=60.0, mtbf=FAR)
    run = await app.start(workflow)
    async with asyncio.timeout(60):
        while not await app.store.journal(run.id):
            await asyncio.sleep(0.01)
    go_on.set()
    await run.result(timeout=60)


async def test_an_answer_to_an_update_has_all_before_it_on_disk(world: World) -> None:
    async def flow() -> str:
        found = await look([])
        update = await aura.receive_update("ask")
        update.answer(found)
        await aura.receive("end")
        return found

    workflow = Workflow("flow", "1.0.0", flow, durability="adaptive")
    app = await world.open(workflow, lease=60.0, mtbf=FAR)
    run = await app.start(workflow)
    answer = await run.update("ask", timeout=60)
    assert answer in _tokens(await world.journal(run.id))
    await run.signal("end")
    assert await run.result(timeout=60) == answer


async def test_a_transaction_has_all_before_it_on_disk(world: World) -> None:
    seen: list[int] = []

    @step.transaction
    async def count(tx: Any) -> int:
        found = await tx.fetchval("SELECT 1")
        seen.append(len(await app.store.journal(run_id)))
        return int(found)

    async def flow() -> int:
        for _ in range(5):
            await look([])
        return await count()

    workflow = Workflow("flow", "1.0.0", flow, durability="adaptive")
    app = await world.open(workflow, lease=60.0, mtbf=FAR)
    run_id = "t"
    run = await app.start(workflow, id=run_id)
    assert await run.result(timeout=60) == 1
    assert seen == [5]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="durability 'lazy'"):
        Config(durability="lazy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mtbf is 0"):
        Config(mtbf=0)
    with pytest.raises(ConfigError, match="durability 'never'"):
        Workflow("x", "1.0.0", _steady, durability="never")  # type: ignore[arg-type]
    assert Config().durability == "sync"
    assert declare(_steady).durability is None


async def test_what_the_committer_begins_opens_no_lane(world: World) -> None:
    """It begins tasks when something is submitted: they are not the workflow's branches."""

    async def ear() -> None:
        await aura.receive("go")

    async def flow() -> list[str]:
        found = await look([])  # the first entry that waits: how often processes fail is looked up
        await app.run("ear").signal("go", priority="critical")  # a commit of its own
        return list(await asyncio.gather(look([found]), effect([found])))

    listener = Workflow("ear", "1.0.0", ear)
    workflow = Workflow("flow", "1.0.0", flow, durability="adaptive")
    app = await world.open(workflow, listener, lease=60.0)
    await app.start(listener, id="ear")
    run = await app.start(workflow)
    await run.result(timeout=60)
    keys = {one.key for one in await world.journal(run.id) if one.kind == "step"}
    assert keys >= {"0/look#1", "0.1/look#1", "0.2/effect#1"}
