"""Queues through the public face: order, limits, rates, keys, tags, delays; and over crashes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import aura
from aura import Aura, Workflow
from aura.errors import ConfigError, RunConflict
from aura.store.base import Heartbeat, RunFilter
from tests.engine.kit import World, declare, drop, until
from tests.engine.queue_kit import PATIENCE, Gate, opened, quiet, results, visiting


@pytest.fixture
def gate() -> Gate:
    return Gate()


# Limits.


async def test_two_workers_share_a_limit(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    for _ in range(2):
        app = world.app(workflow)
        queue = app.queue("q", concurrency=3)
        await opened(world, app)
    runs = [await app.start(workflow, f"r{n}", queue=queue) for n in range(8)]
    await until(lambda: len(gate.inside) == 3, PATIENCE)
    await quiet(world)
    assert len(gate.inside) == 3
    gate.open = True
    assert await results(runs) == [f"r{n}" for n in range(8)]
    assert gate.most == 3


async def test_limits_per_worker_and_key(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    for _ in range(2):
        app = world.app(workflow)
        queue = app.queue("q", per_worker=2, per_key=1)
        await opened(world, app)
    names = ["a1", "a2", "b1", "c1", "d1", "e1"]
    runs = [await app.start(workflow, name, queue=queue.place(key=name[0])) for name in names]
    await until(lambda: len(gate.inside) == 4, PATIENCE)
    await quiet(world)
    assert sorted(gate.inside) == ["a1", "b1", "c1", "d1"]
    gate.let_out.add("a1")
    await until(lambda: len(gate.came) == 5, PATIENCE)
    assert gate.came[4] in {"a2", "e1"}
    gate.open = True
    assert await results(runs) == names


async def test_a_place_that_gets_free_is_taken_at_once_elsewhere(world: World, gate: Gate) -> None:
    """Nobody waits for the slow poll, which is slower here than the test's patience."""
    workflow = visiting(gate)
    apps = []
    for _ in range(2):
        app = world.app(workflow, poll=600.0)
        app.queue("q", concurrency=1, per_worker=1)
        apps.append(await opened(world, app))
    runs = [await app.start(workflow, f"r{n}", queue="q") for n in range(6)]
    gate.open = True
    await results(runs)
    assert gate.most == 1


async def test_a_run_that_waits_long_gives_up_its_place(world: World, gate: Gate) -> None:
    visit = visiting(gate)

    async def approval(name: str) -> str:
        return str(await aura.receive("go", type=str))

    waits = declare(approval)
    app = world.app(visit, waits)
    app.queue("q", concurrency=1)
    await opened(world, app)
    waiting = await app.start(waits, "w", queue="q")

    async def asleep() -> bool:
        return await waiting.status() == "waiting"

    await until(asleep, PATIENCE)
    blocks = await app.start(visit, "b", queue="q")
    await gate.holds("b")
    await waiting.signal("go", "yes")
    await quiet(world)
    assert await waiting.status() == "pending", "it waits for a place again"
    gate.open = True
    assert await blocks.result(timeout=PATIENCE) == "b"
    assert await waiting.result(timeout=PATIENCE) == "yes"


async def test_cancelled_failed_and_parked_runs_free_their_place(world: World, gate: Gate) -> None:
    visit = visiting(gate)

    async def breaks(name: str) -> str:
        raise RuntimeError(name)

    bad = declare(breaks)
    app = world.app(visit, bad, poll=600.0)
    app.queue("q", concurrency=1)
    await opened(world, app)
    first = await app.start(visit, "a", queue="q")
    await gate.holds("a")
    never = await app.start(visit, "never", queue="q")
    await app.start(bad, "x", queue="q")
    last = await app.start(visit, "z", queue="q")
    assert await never.cancel() == "cancelled", "it had not begun"
    await first.cancel()
    await gate.holds("z")
    gate.open = True
    assert await last.result(timeout=PATIENCE) == "z"
    assert gate.came == ["a", "z"]


async def test_a_child_does_not_wait_for_its_parents_place(world: World, gate: Gate) -> None:
    """The only place of the queue is the parent's, until it leaves memory to wait for the child."""
    visit = visiting(gate)

    async def family(name: str) -> str:
        run = await app.start(visit, name, queue="q")
        return str(await run.result())

    parent = declare(family)
    app = world.app(visit, parent)
    app.queue("q", concurrency=1)
    await opened(world, app)
    gate.open = True
    run = await app.start(parent, "a", queue="q")
    assert await run.result(timeout=PATIENCE) == "a"
    [child] = await app.runs(RunFilter(workflow=visit.name))
    assert (child.parent, child.queue) == (run.id, "q")


async def test_workflows_have_a_queue_of_their_own(world: World, gate: Gate) -> None:
    async def flow(name: str) -> str:
        return await gate.visit(name)

    app = world.app(poll=600.0)
    app.queue("other")
    workflow = app.workflow(version="1.0.0", queue=app.queue("own"))(flow)
    await opened(world, app)
    gate.open = True
    places = [None, app.place(key="k", delay=0.05), "other"]
    runs = [await app.start(workflow, "x", queue=place) for place in places]
    await results(runs)
    records = [await run.record() for run in runs]
    assert [(one.queue, one.key) for one in records] == [("own", ""), ("own", "k"), ("other", "")]


# Recovery.


async def test_concurrency_and_rate_limits_under_recovery(world: World, gate: Gate) -> None:
    """A worker dies with all places taken. Its runs are taken over in their places and count once,
    so before, during and after that no more run than may, and no more begin than may."""
    workflow = visiting(gate)

    def app() -> Aura:
        made = world.app(workflow)
        made.queue("q", concurrency=2, rate=(3, timedelta(hours=1)))
        return made

    doomed = await opened(world, app())
    runs = [await doomed.start(workflow, f"r{n}", id=f"r{n}", queue="q") for n in range(5)]
    await gate.holds("r0", "r1")
    heir = await opened(world, app())
    await quiet(world)
    assert sorted(gate.came) == ["r0", "r1"]
    await world.crash(doomed)
    await gate.holds("r0", "r1")
    assert sorted(gate.came) == ["r0", "r0", "r1", "r1"], "taken over"
    await quiet(world)
    assert sorted(gate.inside) == ["r0", "r1"]
    gate.let_out |= {"r0", "r1"}
    await gate.holds("r2")
    await quiet(world)
    assert gate.inside == ["r2"], "one place is free, but three have begun within the hour"
    gate.open = True
    for name in ("r0", "r1", "r2"):
        assert await heir.run(name).result(timeout=PATIENCE) == name
    await quiet(world)
    records = [await world.record(run.id) for run in runs]
    assert [one.state for one in records] == ["completed"] * 3 + ["pending"] * 2
    assert [one.recoveries for one in records] == [1, 1, 0, 0, 0]
    assert [one.started_at is None for one in records] == [False] * 3 + [True] * 2


async def test_a_lease_that_runs_out_hands_its_places_on(world: World, gate: Gate) -> None:
    """Nobody says that the worker is gone: its places stay taken until its lease is over."""
    workflow = visiting(gate)
    doomed = world.app(workflow, lease=1.0)
    queue = doomed.queue("q", concurrency=1)
    await opened(world, doomed)
    first = await doomed.start(workflow, "a", id="a", queue=queue)
    second = await doomed.start(workflow, "b", id="b", queue=queue)
    await gate.holds("a")
    world.apps.remove(doomed)
    await drop(doomed)
    await gate.holds()
    heir = await opened(world, world.app(workflow))
    gate.open = True
    assert await heir.run(second.id).result(timeout=PATIENCE) == "b"
    assert gate.came == ["a", "a", "b"], "b could begin only after a had been taken over"
    assert (await world.record(first.id)).recoveries == 1


async def test_a_worker_that_lost_its_lease_does_not_make_one_too_many(
    world: World, gate: Gate
) -> None:
    """It goes on under a new name while others have its runs, and claims within the limit."""
    workflow = visiting(gate)
    apps = []
    for _ in range(2):
        app = world.app(workflow)
        app.queue("q", concurrency=2)
        apps.append(await opened(world, app))
    runs = [await app.start(workflow, f"r{n}", queue="q") for n in range(6)]
    await until(lambda: len(gate.inside) == 2, PATIENCE)
    for app in apps:
        worker = app._worker
        assert worker is not None
        old = worker.id
        worker.renounce(ConfigError("tested"))
        async with world.store() as store:
            await store.commit([Heartbeat(old, 0.0)])
    await until(lambda: len(gate.inside) == 2, PATIENCE)
    gate.open = True
    await results(runs)
    records = [await world.record(run.id) for run in runs]
    assert {one.state for one in records} == {"completed"}


async def test_what_is_put_back_at_a_shutdown_goes_on_first(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    first = world.app(workflow, grace=0.05)
    first.queue("q", concurrency=1, rate=(2, timedelta(hours=1)))
    await opened(world, first)
    await first.start(workflow, "a", id="a", queue="q")
    await gate.holds("a")
    await first.start(workflow, "b", id="b", queue=first.place("q", priority="critical"))
    world.apps.remove(first)
    await first.close()
    second = world.app(workflow)
    await opened(world, second)
    await gate.holds("a")
    gate.open = True
    for name in "ab":
        assert await second.run(name).result(timeout=PATIENCE) == name


# Order.


async def test_priorities_and_keys(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    app = world.app(workflow)
    queue = app.queue("q", concurrency=1)
    await opened(world, app)
    names = {"first": "normal", "low": "low", "b": 0, "a": 1, "high": "high", "critical": 100}
    runs = []
    for name, priority in names.items():
        place = queue.place(priority=priority)  # type: ignore[arg-type]
        runs.append(await app.start(workflow, name, queue=place))
        await gate.holds("first")
    gate.open = True
    await results(runs)
    assert gate.came == ["first", "critical", "high", "a", "b", "low"]


async def test_one_tenant_does_not_keep_the_others_waiting(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    app = world.app(workflow)
    queue = app.queue("q", concurrency=2)
    await opened(world, app)
    runs = [await app.start(workflow, f"a{n}", queue=queue.place(key="a")) for n in range(10)]
    await gate.holds("a0", "a1")
    runs.append(await app.start(workflow, "b0", queue=queue.place(key="b")))
    gate.let_out.add("a0")
    await gate.holds("a1", "b0")
    gate.open = True
    await results(runs)


# Times.


async def test_delays(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    app = world.app(workflow, poll=600.0)
    queue = app.queue("q")
    await opened(world, app)
    gate.open = True
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    runs = [
        await app.start(workflow, "default", queue=app.place(delay=timedelta(seconds=0.3))),
        await app.start(workflow, "queue", queue=queue.place(delay=0.3)),
        await app.start(workflow, "at", queue=app.place(at=soon)),
    ]
    far = await app.start(workflow, "far", queue=queue.place(delay=timedelta(days=3)))
    assert await far.status() == "waiting"
    assert await results(runs) == ["default", "queue", "at"]
    records = [await run.record() for run in runs]
    for record, first in zip(records, (0.3, 0.3, 0.0), strict=True):
        assert record.started_at is not None
        assert record.started_at - record.created_at >= first
    assert (records[2].started_at or 0.0) >= soon.timestamp()
    await far.signal("go", 1)
    assert await far.status() == "waiting"
    assert await far.cancel() == "cancelled"


async def test_a_rate_goes_on_by_itself(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    app = world.app(workflow, poll=600.0)
    app.queue("q", rate=(2, 0.3))
    await opened(world, app)
    gate.open = True
    runs = [await app.start(workflow, f"r{n}", queue="q") for n in range(6)]
    await results(runs)
    began = sorted([(await run.record()).started_at or 0.0 for run in runs])
    assert all(later - earlier >= 0.3 for earlier, later in zip(began, began[2:], strict=False))


async def test_one_word_for_many_starts(world: World, gate: Gate) -> None:
    workflow = visiting(gate)
    app = world.app(workflow)
    queue = app.queue("q", concurrency=1)
    await opened(world, app)
    first = await app.start(workflow, "a", queue=queue.place(dedup="doc-7"))
    second = await app.start(workflow, "b", queue=queue.place(dedup="doc-7"))
    default = await app.start(workflow, "c", queue=app.place(dedup="doc-7"))
    assert first.id == second.id == default.id
    await gate.holds("a")
    gate.open = True
    assert await second.result(timeout=PATIENCE) == "a"
    third = await app.start(workflow, "d", queue=queue.place(dedup="doc-7"))
    assert third.id != first.id
    assert await third.result(timeout=PATIENCE) == "d"
    with pytest.raises(RunConflict):
        await app.start(workflow, "other", id=third.id, queue=queue.place(dedup="doc-8"))


@pytest.mark.parametrize("encrypted", [False, True])
async def test_debouncing(world: World, gate: Gate, encrypted: bool) -> None:
    """Many starts, one run: with the input of the last one, and once things have calmed down."""
    workflow = visiting(gate)
    key = "k1:" + base64.b64encode(bytes(range(32))).decode()
    app = world.app(workflow, encryption_keys=(key,) if encrypted else ())
    await opened(world, app)
    place = app.place(dedup="index", debounce=600.0)
    runs = [await app.start(workflow, f"v{n}", queue=place) for n in range(4)]
    assert await runs[0].status() == "waiting"
    soon = app.place(dedup="index", debounce=0.05)
    runs.append(await app.start(workflow, "v4", queue=soon))
    assert len({run.id for run in runs}) == 1
    await gate.holds("v4")
    later = await app.start(workflow, "v5", queue=soon)
    assert later.id != runs[0].id, "the first one has begun without this input"
    gate.open = True
    assert await results([*runs, later]) == ["v4"] * 5 + ["v5"]
    assert gate.came == ["v4", "v5"]


# Who may take what.


async def test_tags_and_resources(world: World, gate: Gate) -> None:
    workflow = visiting(gate)

    async def local(name: str) -> str:
        return await gate.visit(name)

    eu = Workflow("eu", "1.0.0", local, queue="gpu", requires=frozenset({"eu"}))

    def app(**settings: Any) -> Aura:
        made = world.app(workflow, eu, **settings)
        made.queue("gpu", requires={"gpu"}, resources={"gpu": 2})
        return made

    poor = await opened(world, app(resources={"gpu": 8}))
    small = await opened(world, app(tags=frozenset({"gpu"}), resources={"gpu": 1.5}))
    runs = [await poor.start(workflow, f"r{n}", queue="gpu") for n in range(3)]
    tagged = await small.start(eu, "eu")
    await quiet(world)
    assert gate.came == [], "no tag here, too few resources there"
    big = await opened(world, app(tags=frozenset({"gpu"}), resources={"gpu": 5}))
    await until(lambda: len(gate.inside) == 2, PATIENCE)
    await quiet(world)
    assert sorted(gate.inside) == ["r0", "r1"]
    gate.open = True
    await results(runs)
    await quiet(world)
    assert await tagged.status() == "pending"
    await opened(world, app(tags=frozenset({"gpu", "eu"}), resources={"gpu": 2}))
    assert await big.run(tagged.id).result(timeout=PATIENCE) == "eu"
    assert (await tagged.record()).queue == "gpu"


async def test_a_start_here_does_not_pass_a_tag_by(world: World, gate: Gate) -> None:
    """The short cut, by which a worker begins what it starts, asks for tags as well."""

    async def local(name: str) -> str:
        return await gate.visit(name)

    flow = Workflow("tagged", "1.0.0", local, requires=frozenset({"eu"}))
    app = await opened(world, world.app(flow))
    run = await app.start(flow, "a")
    await quiet(world)
    assert await run.status() == "pending"
    await opened(world, world.app(flow, tags=frozenset({"eu"})))
    gate.open = True
    assert await run.result(timeout=PATIENCE) == "a"
