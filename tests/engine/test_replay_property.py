"""Random task trees, random completion orders, and a crash after every journal append.

A tree is drawn from a seed, which is the run's input, so every replay builds the same one. How
long its steps take and what they return is drawn anew each time: a result that comes back is one
that the journal had.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import aura
from aura import Retry, StepFailed, step
from aura.store.base import Entry
from tests.engine.kit import World, declare, replayed, resumed

Branch = Callable[[], Coroutine[Any, Any, Any]]
chance = random.Random()
ran: list[str] = []


async def _work(name: str, fails: bool) -> float:
    ran.append(aura.idempotency_key().partition(":")[2])
    for _ in range(chance.choice((0, 0, 0, 1, 2, 5, 9))):
        await asyncio.sleep(0)
    if chance.random() < 0.1:
        await asyncio.sleep(chance.random() * 0.004)
    if fails:
        raise ValueError(f"{name} {chance.random()}")
    return chance.random()


@step
async def effect(name: str, fails: bool) -> float:
    return await _work(name, fails)


@step(idempotent=True)
async def safe(name: str, fails: bool) -> float:
    return await _work(name, fails)


@step(retries=Retry(attempts=1, first=0.0))
async def retried(name: str, fails: bool) -> float:
    return await _work(name, fails)


@step
def threaded(name: str, fails: bool) -> float:
    ran.append(aura.idempotency_key().partition(":")[2])
    if fails:
        raise ValueError(name)
    return chance.random()


class Tree:
    """Draws a workflow's shape from a seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._left = self._draw.randint(3, 16)  # steps still to be placed
        self._names = 0

    def node(self, depth: int = 0) -> Branch:
        shapes: list[Callable[[int], Branch]] = [self._leaf, self._leaf, self._value, self._sleep]
        if depth < 4 and self._left > 1:
            shapes += [self._row, self._row, self._gather, self._group, self._tasks, self._race]
        if not depth:
            shapes = [self._row]
        return self._draw.choice(shapes)(depth)

    def _several(self, depth: int) -> list[Branch]:
        return [self.node(depth + 1) for _ in range(self._draw.randint(2, 4))]

    def _leaf(self, _: int) -> Branch:
        self._left -= 1
        self._names += 1
        kind: Any = self._draw.choice((effect, effect, safe, retried, threaded))
        name, fails = f"n{self._names}", self._draw.random() < 0.15

        async def leaf() -> Any:
            try:
                return await kind(name, fails)
            except StepFailed as error:
                return [error.type, error.reason, error.attempts]

        return leaf

    def _value(self, _: int) -> Branch:
        make = self._draw.choice((aura.random, aura.now, aura.uuid))

        async def value() -> Any:
            return str(make())

        return value

    def _sleep(self, _: int) -> Branch:
        seconds = self._draw.choice((0.0, 0.001))

        async def pause() -> None:
            await aura.sleep(seconds)

        return pause

    def _row(self, depth: int) -> Branch:
        parts = self._several(depth)

        async def row() -> Any:
            return [await part() for part in parts]

        return row

    def _gather(self, depth: int) -> Branch:
        parts = self._several(depth)

        async def gather() -> Any:
            return list(await asyncio.gather(*(part() for part in parts)))

        return gather

    def _group(self, depth: int) -> Branch:
        parts = self._several(depth)

        async def group() -> Any:
            async with asyncio.TaskGroup() as tasks:
                made = [tasks.create_task(part()) for part in parts]
            return [task.result() for task in made]

        return group

    def _tasks(self, depth: int) -> Branch:
        parts, then = self._several(depth), self.node(depth + 1)

        async def tasks() -> Any:
            made = [asyncio.create_task(part()) for part in parts]
            meanwhile = await then()
            return [meanwhile, [await task for task in reversed(made)]]

        return tasks

    def _race(self, depth: int) -> Branch:
        parts, then = self._several(depth), self.node(depth + 1)
        cancels = self._draw.random() < 0.6

        async def race() -> Any:
            made = [asyncio.create_task(part()) for part in parts]
            await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
            first = [at for at, task in enumerate(made) if task.done()]
            if cancels:
                for task in made:
                    task.cancel()
            after = await then()
            rest = await asyncio.gather(*made, return_exceptions=True)
            said = [repr(one) if isinstance(one, BaseException) else one for one in rest]
            return [first, after, said]

        return race


async def program(seed: int) -> Any:
    return await Tree(seed).node()()


workflow = declare(program)


def _answered(journal: list[Entry]) -> set[str]:
    return {entry.key for entry in journal if entry.kind == "step"}


async def _check(app: aura.Aura, seed: int) -> int:
    """Crash the run of one tree after every append. Gives the number of crashes."""
    run = await app.start(workflow, seed)
    live = await run.result(timeout=60)
    journal = await app.store.journal(run.id)
    assert [entry.seq for entry in journal] == list(range(1, len(journal) + 1))
    for cut in range(len(journal) + 1):
        ran.clear()
        again = await resumed(app, workflow, journal[:cut], seed)
        result = await again.result(timeout=60)
        assert not _answered(journal[:cut]) & set(ran), f"seed {seed} cut {cut}: ran again"
        if cut == len(journal):
            assert result == live, f"seed {seed}: another result"
            assert not _answered(journal) & set(ran)
            continue
        grown = await app.store.journal(again.id)
        assert [e.key for e in grown[:cut]] == [e.key for e in journal[:cut]]
        assert len(_answered(grown)) == len([e for e in grown if e.kind == "step"])
        if chance.random() < 0.3:
            assert await replayed(app, workflow, grown, seed) == result, f"seed {seed} cut {cut}"
    return len(journal) + 1


@pytest.mark.parametrize("batch", range(4))
async def test_random_trees_survive_a_crash_after_every_append(memory: World, batch: int) -> None:
    app = await memory.open(workflow)
    crashes = 0
    for seed in range(batch * 1000, batch * 1000 + 15):
        chance.seed(seed)
        crashes += await _check(app, seed)
    assert crashes > 150


async def test_concurrent_runs_of_trees_do_not_disturb_each_other(memory: World) -> None:
    chance.seed(9000)
    app = await memory.open(workflow)
    seeds = range(9000, 9040)
    runs: list[Awaitable[Any]] = [
        (await app.start(workflow, seed, id=f"s{seed}")).result(timeout=60) for seed in seeds
    ]
    live = await asyncio.gather(*runs)
    journals = [await app.store.journal(f"s{seed}") for seed in seeds]
    ran.clear()
    again = await asyncio.gather(
        *(
            replayed(app, workflow, journal, seed)
            for journal, seed in zip(journals, seeds, strict=True)
        )
    )
    assert again == live
