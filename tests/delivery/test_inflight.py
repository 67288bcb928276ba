"""Runs under way on a candidate that is rolled back: pinned, forked or compensated."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import Any

import pytest

import aura
from aura import Aura, step
from aura.delivery import inflight
from aura.delivery.inflight import fork_of
from aura.delivery.plan import PlanFlaw
from aura.delivery.status import RolloutStatus
from tests.delivery.rollout_crew import crew
from tests.delivery.rollout_kit import app_on, forever, wait_for

ARMS = {"baseline": "job@1.0.0", "candidate": "job@2.0.0"}


def given(policy: Any, **arms: str) -> Any:
    changes: dict[str, Any] = {**ARMS, **arms, "in_flight": policy}
    return replace(forever(stages=forever().stages[1:]), **changes)


class Book:
    """What the steps of an app did."""

    def __init__(self) -> None:
        self.done: list[str] = []


def app_with(database: str, book: Book) -> Aura:
    """An app with workflow `job`: it prepares, then waits for a signal; 2.0.0 may reserve in a saga
    before that, and 0.9.0 cannot do what the others do."""
    app = app_on(database)

    @step
    async def prepare(name: str) -> str:
        book.done.append(f"prepare {name}")
        return name

    @step
    async def reserve(name: str) -> str:
        book.done.append(f"reserve {name}")
        return name

    @step
    async def free(reserved: str) -> None:
        book.done.append(f"free {reserved}")

    async def old(name: str, in_saga: bool = False) -> str:
        await prepare(name)
        return f"old {await aura.receive('go')}"

    async def refuses(name: str, in_saga: bool = False) -> str:
        raise ValueError("nothing is good enough")

    async def new(name: str, in_saga: bool = False) -> str:
        await prepare(name)
        if not in_saga:
            return f"new {await aura.receive('go')}"
        async with aura.saga() as saga:
            await saga.step(reserve, name, compensate=free)
            return f"new {await aura.receive('go')}"

    for version, code in (("0.9.0", refuses), ("1.0.0", old), ("2.0.0", new)):
        app.workflow(version=version, name="job")(code)
    return app


async def waits(app: Aura, run_id: str) -> None:
    """Return when the run has come to its signal."""
    give_up = asyncio.get_running_loop().time() + 60
    while not any(one.key.endswith("prepare#1") for one in await app.store.journal(run_id)):
        assert asyncio.get_running_loop().time() < give_up
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # it is waiting now, or about to; both are fine


async def rolled_back(app: Aura) -> RolloutStatus:
    await app.rollouts.order("t", "rollback")
    run = (await app.rollouts.status("t")).run
    assert await app.run(run).result(timeout=60) == "rolled-back"
    return await app.rollouts.status("t")


async def test_a_run_goes_on_as_the_baselines_version(database: str) -> None:
    book = Book()
    async with app_with(database, book) as app:
        before = await app.start("job", "older", id="older", version="2.0.0")
        await app.rollouts.start(given("fork"))
        await app.start("job", "a", id="run-a", version="2.0.0")
        await app.start("job", "b", id="run-b", version="1.0.0")
        for one in ("run-a", "run-b"):
            await waits(app, one)
        status = await rolled_back(app)
        assert status.in_flight is not None
        assert status.in_flight.counts == {"forked": 1}
        ((run, outcome),) = status.in_flight.runs
        assert run == "run-a"
        forked = fork_of("run-a", status.run)
        assert outcome.startswith(f"forked: {forked} keeps 1 entries")
        assert (await app.run("run-a").record()).state == "cancelled"
        await app.run(forked).signal("go", 1)
        assert await app.run(forked).result(timeout=60) == "old 1"
        assert (await app.run(forked).record()).version == "1.0.0"
        assert sorted(book.done).count("prepare a") == 1  # kept, and not made again
        for waiting in (app.run("run-b"), before):
            await waiting.signal("go", 2)
        assert await app.run("run-b").result(timeout=60) == "old 2"
        assert await before.result(timeout=60) == "new 2"  # it began before the rollout did


async def test_what_a_saga_took_back_is_done_anew(database: str) -> None:
    book = Book()
    async with app_with(database, book) as app:
        await app.rollouts.start(given("fork"))
        await app.start("job", "s", True, id="run-s", version="2.0.0")
        await waits(app, "run-s")
        status = await rolled_back(app)
        assert status.in_flight is not None
        assert status.in_flight.counts == {"forked": 1}
        assert book.done.count("free s") == book.done.count("reserve s")
        forked = fork_of("run-s", status.run)
        await app.run(forked).signal("go", 3)
        assert await app.run(forked).result(timeout=60) == "old 3"


async def test_compensate(database: str) -> None:
    book = Book()
    async with app_with(database, book) as app:
        await app.rollouts.start(given("compensate"))
        names = [f"run-{number}" for number in range(inflight.BATCH + 3)]
        for name in names:
            await app.start("job", name, True, id=name, version="2.0.0")
        for name in names:
            await waits(app, name)
        status = await rolled_back(app)
        assert status.in_flight is not None
        assert status.in_flight.counts == {"compensated": len(names)}
        assert [one for one, _ in status.in_flight.runs] == sorted(names)
        freed = sorted(one for one in book.done if one.startswith("free"))
        reserved = sorted(one for one in book.done if one.startswith("reserve"))
        assert freed == [one.replace("reserve", "free") for one in reserved]
        records = await app.store.runs_by_id(names)
        assert {one.state for one in records} == {"cancelled"}


async def test_pinned_runs_finish_where_they_began(database: str) -> None:
    book = Book()
    async with app_with(database, book) as app:
        await app.rollouts.start(given("pin"))
        run = await app.start("job", "p", id="run-p", version="2.0.0")
        await waits(app, "run-p")
        status = await rolled_back(app)
        assert status.in_flight is None
        await run.signal("go", 1)
        assert await run.result(timeout=60) == "new 1"


async def test_what_cannot_be_forked_is_left_and_said(database: str) -> None:
    book = Book()
    async with app_with(database, book) as app:
        await app.rollouts.start(given("fork", baseline="job@0.9.0"))
        run = await app.start("job", "p", id="run-p", version="2.0.0")
        await waits(app, "run-p")
        status = await rolled_back(app)
        assert status.in_flight is not None
        assert status.in_flight.counts == {"pinned": 1}
        assert "nothing is good enough" in status.in_flight.runs[0][1]
        await run.signal("go", 1)
        assert await run.result(timeout=60) == "new 1"


@pytest.mark.parametrize(
    ("policy", "arms", "said"),
    [
        ("fork", {"candidate": "service"}, "the candidate service is no version"),
        ("compensate", {"candidate": "service"}, "the candidate service is no version"),
        ("fork", {"baseline": "legacy"}, "legacy is no version of job"),
        ("fork", {"baseline": "other@1.0.0"}, "other@1.0.0 is no version of job"),
    ],
)
def test_plans_that_cannot_work(policy: str, arms: dict[str, str], said: str) -> None:
    with pytest.raises(PlanFlaw, match=said):
        given(policy, **arms)
    given("pin", **arms)


async def test_a_worker_is_killed_between_asking_and_forking(database: str) -> None:
    """Each run is forked once, whatever was done by then; the last worker ends it."""
    points = [("before", "0/ask#1"), ("before", "0/settle#1")]
    names = [f"run-{number}" for number in range(3)]
    async with crew() as people, app_on(database).client() as app:
        engine = app.rollouts.engine
        run = await engine.announce(given("fork"))
        await app.start(engine.workflow, given("fork"), run, id=run)
        worker = await people.hire("jobs", database, *names)
        following = await people.hire("jobs", database, *names)
        await worker.begin()
        for name in names:
            await waits(app, name)
        worker.signal(signal.SIGKILL)
        await worker.end()
        await app.rollouts.order("t", "rollback")
        for when, point in points:
            worker, following = following, await people.hire("jobs", database, *names)
            await worker.begin(when, point)
            assert await worker.end() == -signal.SIGKILL
        await following.begin()
        status = await wait_for(app, lambda one: one.in_flight is not None)
        assert status.in_flight is not None
        assert status.in_flight.counts == {"forked": 3}
        forks = [fork_of(name, status.run) for name in names]
        assert len(await app.store.runs_by_id(forks)) == 3
        assert {one.state for one in await app.store.runs_by_id(names)} == {"cancelled"}
