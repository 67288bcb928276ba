"""Rollouts whose workers are killed, frozen and closed; epochs that reach other processes."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import time
from dataclasses import replace

import pytest

from aura import Aura
from aura.delivery import follower
from aura.delivery.approval import ApprovalRule
from aura.delivery.descent import Descent
from aura.delivery.plan import Pair, Plan
from aura.delivery.split import Arm, Split
from aura.errors import RolloutError
from aura.store.base import PutDocument
from tests.delivery.rollout_crew import Crew, crew
from tests.delivery.rollout_kit import (
    PLAN,
    Traffic,
    app_on,
    check_the_way_up,
    ended,
    forever,
    plan,
    split_of,
    story,
    traffic,
    until,
    wait_for,
)

SOME = 150
"""Requests per second: whoever takes over on a busy machine reads all that has come meanwhile."""

TWO_STAGES = plan(stages=(PLAN.stages[0], PLAN.stages[3]))
BOUNDARIES = [
    *("0/begin#1", "split:1", "status:1", "0/open#1"),
    *("0/watch#1", "split:2", "status:2", "0/shift#1"),
    *("0/watch#2", "split:3", "status:3", "0/shift#2"),
]


async def begin(app: Aura, given: Plan) -> None:
    """Start a rollout for which there is no worker yet."""
    engine = app.rollouts.engine
    run = await engine.announce(given)
    await app.start(engine.workflow, given, run, id=run)


async def check(app: Aura, made: Traffic, expected: list[str], state: str = "completed") -> None:
    status = await ended(app)
    await app.run(status.run).result(timeout=60)
    status = await app.rollouts.status("t")
    assert status.state == state
    assert story(status) == expected
    journal = await app.store.journal(status.run)
    keys = [entry.key for entry in journal if entry.kind != "recovered"]
    assert len(keys) == len(set(keys)) == 2 * len(expected)
    check_the_way_up([*made.splits, await split_of(app)])
    assert made.went_back == [] or state == "rolled-back"


async def test_a_worker_is_killed_at_every_boundary(database: str) -> None:
    """One worker after the other dies at the next boundary; the last one is let live. A commit
    may carry the run over two boundaries at once, then nobody can die between them."""
    async with (
        crew() as people,
        app_on(database).client() as app,
        traffic(app, per_second=SOME) as made,
    ):
        await begin(app, TWO_STAGES)
        worker, deaths = await people.hire("worker", database), 0
        for when, point in [("before", BOUNDARIES[0]), *(("after", one) for one in BOUNDARIES)]:
            if await passed(app, point):
                continue
            await worker.begin(when, point)
            following = await people.hire("worker", database)
            assert await worker.end() == -signal.SIGKILL
            worker, deaths = following, deaths + 1
        await worker.begin()
        await check(app, made, ["start", "advance", "complete"])
        await until(lambda: made.splits[-1].epoch == 3)
        assert [split.epoch for split in made.splits] == [1, 2, 3]
        assert deaths >= 8
        record = await app.run((await app.rollouts.status("t")).run).record()
        assert record.epoch in (deaths, deaths + 1)  # it may have ended with the last boundary


TOGETHER = plan(
    stages=(
        replace(PLAN.stages[1], approval=ApprovalRule(1, ("ann",))),
        PLAN.stages[3],
    ),
    together=(Pair("s", "a", "b"),),
)
BETWEEN = [
    *("split:1", "status:2"),  # one of two splits is taken; it asks
    *("0/watch#2", "0/signal:approval#1/got", "status:3"),  # and is answered
    *("split:2", "s:2"),
]


async def test_a_worker_is_killed_between_two_splits_and_around_an_approval(database: str) -> None:
    """As above; a shift of two splits goes on with the second one, and an approval counts once."""
    async with (
        crew() as people,
        app_on(database).client() as app,
        traffic(app, per_second=80) as one,
        traffic(app, split="s", per_second=80) as two,
    ):
        await begin(app, TOGETHER)
        worker, deaths = await people.hire("worker", database), 0
        for point in BETWEEN:
            if await passed(app, point):
                continue
            await worker.begin("after", point)
            following = await people.hire("worker", database)
            if point == "0/watch#2":
                run = (await app.rollouts.status("t")).run
                await wait_for(app, lambda status: len(status.history) == 2)
                await app.run(run).signal("approval", {"by": "ann"}, id="once")
            assert await worker.end() == -signal.SIGKILL
            worker, deaths = following, deaths + 1
        await worker.begin()
        status = await ended(app)
        await app.run(status.run).result(timeout=60)
        status = await app.rollouts.status("t")
        assert story(status) == ["start", "ask", "approve", "advance", "complete"]
        assert deaths >= 5
        for made, name in ((one, "t"), (two, "s")):
            check_the_way_up([*made.splits, await split_of(app, name)])
            assert made.went_back == []
            assert (await split_of(app, name)).epoch == 3


DOWN = ["split:2", "status:2", "split:3", "0/watch#3"]


async def test_a_worker_is_killed_at_every_step_down(database: str) -> None:
    """No step is left out or made twice, and each begins with its own evidence."""
    down = Descent(steps=(0.5, 0.2), min_requests=10**9, min_time=0.0, max_time=0.5)
    given = replace(TWO_STAGES, stages=(PLAN.stages[3],), on_trip="gradual", gradual=down)
    guard = replace(PLAN.guards[0], max_error_rate=None, allowed=0.2)
    stages = (replace(PLAN.stages[3], min_requests=10**9),)
    given = replace(given, guards=(guard,), stages=stages)
    async with (
        crew() as people,
        app_on(database).client() as app,
        traffic(app, per_second=150) as made,
    ):
        made.failing["b"] = 0.4
        await begin(app, given)
        worker, deaths = await people.hire("worker", database), 0
        for point in DOWN:
            if await passed(app, point):
                continue
            await worker.begin("after", point)
            following = await people.hire("worker", database)
            assert await worker.end() == -signal.SIGKILL
            worker, deaths = following, deaths + 1
        await worker.begin()
        status = await ended(app)
        await app.run(status.run).result(timeout=60)
        status = await app.rollouts.status("t")
        assert story(status) == ["start", "descend", "descend", "rollback"]
        assert status.guard == "errors"
        assert deaths >= 3
        shares = {split.epoch: split.share("b") for split in made.splits}
        assert [shares[epoch] for epoch in sorted(shares)][:3] == [1.0, 0.5, 0.2]
        assert (await split_of(app)).share("b") == 0.0


async def passed(app: Aura, point: str) -> bool:
    """Whether what is written at that boundary is there."""
    kind, _, number = point.partition(":")
    if kind in ("split", "s"):
        document = await app.store.document("split", "t" if kind == "split" else "s")
        return document is not None and document.epoch >= int(number)
    status = await app.rollouts.status("t")
    if kind == "status":
        return len(status.history) >= int(number)
    return any(entry.key == point for entry in await app.store.journal(status.run))


@pytest.mark.parametrize("failing", [0.0, 0.6])
async def test_workers_are_killed_at_random_moments(database: str, failing: float) -> None:
    """A healthy candidate comes to the end, a failing one back to nothing."""
    dice = random.Random(str(failing))
    given = plan(stages=PLAN.stages[1:])
    async with (
        crew() as people,
        app_on(database).client() as app,
        traffic(app, per_second=SOME) as made,
    ):
        made.failing["b"] = failing
        await begin(app, given)
        member = await people.hire("worker", database)
        for _ in range(4):
            await member.begin()
            following = await people.hire("worker", database)
            await asyncio.sleep(dice.uniform(0.02, 1.0))
            member.signal(signal.SIGKILL)
            await member.end()
            member = following
        await member.begin()
        if failing:
            await check(app, made, ["start", "rollback"], "rolled-back")
        else:
            await check(app, made, ["start", "advance", "advance", "complete"])


@pytest.mark.parametrize("point", ["split:2", "status:2"])
async def test_a_worker_that_wakes_up_late_changes_nothing(database: str, point: str) -> None:
    """It was frozen in the middle of a shift, and the rollout is two stages further."""
    given = forever(stages=PLAN.stages[1:])
    async with (
        crew() as people,
        app_on(database).client() as app,
        traffic(app, per_second=SOME) as made,
    ):
        await begin(app, given)
        await app.rollouts.order("t", "advance")
        late = await people.hire("worker", database)
        other = await people.hire("worker", database)
        await late.begin("freeze", point)
        await until(late.frozen)
        await other.begin()
        await wait_for(app, lambda status: status.turn == 1)
        await app.rollouts.order("t", "advance")
        status = await wait_for(app, lambda status: status.turn == 2)
        before = await split_of(app)
        late.signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert await split_of(app) == before
        assert (await app.rollouts.status("t")).history == status.history
        await app.rollouts.order("t", "advance")
        await check(app, made, ["start", "advance", "advance", "complete"])
        assert await late.leave() == 0


async def test_a_closed_worker_hands_the_rollout_over_at_once(database: str) -> None:
    settings = {"grace": 600.0, "lease": 600.0}  # nobody could wait for these
    async with app_on(database, **settings) as first, app_on(database).client() as other:
        await first.rollouts.start(forever())
        async with app_on(database, **settings) as second, traffic(other):
            async with asyncio.timeout(60):
                await first.close()  # as on SIGTERM
            await other.rollouts.order("t", "advance", by="ann")
            await wait_for(other, lambda status: status.turn == 1)
            await wait_for(other, lambda status: status.stages[1].candidate.requests > 0)
            record = await second.run("rollout-t-1").record()
            assert (record.epoch, record.recoveries) == (2, 0)


async def _changes(app: Aura, count: int) -> dict[int, float]:
    """Change a split so often; when each epoch was committed."""
    when = {}
    for epoch in range(2, count + 2):
        arms = (Arm("a", 1 - epoch / 100), Arm("b", epoch / 100))
        body = Split("pushed", epoch, "seed", arms).to_json()
        await app.committer.submit(PutDocument("split", "pushed", body, epoch - 1))
        when[epoch] = time.time()
        await asyncio.sleep(0.05 + epoch % 5 * 0.02)
    return when


async def _delays(people: Crew, app: Aura, database: str, *how: str) -> list[float]:
    """Seconds from each commit until each of four processes obeys it."""
    changes = 2 if "deaf" in how else 20
    first = Split("pushed", 1, "seed", (Arm("a", 1.0), Arm("b", 0.0)))
    await app.committer.submit(PutDocument("split", "pushed", first.to_json(), 0))
    members = [await people.hire("follower", database, "pushed", *how) for _ in range(4)]
    for member in members:
        await member.begin()
    for member in members:
        assert (await member.line()).startswith("1 ")
    when = await _changes(app, changes)
    delays = []
    for member in members:
        epoch = 0
        while epoch <= changes:
            line = await member.line()
            epoch, at = int(line.split()[0]), float(line.split()[1])
            delays.append(at - when[epoch])
    return delays


async def test_an_epoch_is_pushed_to_every_process(database: str) -> None:
    """They do not look by themselves, so what they know they were told."""
    async with crew() as people, app_on(database).client() as app:
        delays = await _delays(people, app, database, "blind")
        kind = "postgres" if "postgres" in database else "sqlite"
        print(f"{kind}: {len(delays)} pushes, ", end="")
        print(f"median {statistics.median(delays) * 1000:.1f} ms, longest {max(delays):.3f} s")


async def test_an_epoch_reaches_a_process_that_hears_nothing(database: str) -> None:
    """It looks twice a second."""
    assert follower.POLL <= 0.5
    async with crew() as people, app_on(database).client() as app:
        delays = await _delays(people, app, database, "deaf")
        print(f"deaf: longest {max(delays) * 1000:.1f} ms")
        assert max(delays) > 0


async def test_two_processes_start_at_once(database: str) -> None:
    """Whoever is refused is told so; only one of the plans moves the split."""
    async with crew() as people, app_on(database).client() as app:
        member = await people.hire("worker", database)
        await member.begin()
        clients = [app_on(database) for _ in range(3)]
        for client in clients:
            await client.open(worker=False)
        plans = [forever(name=f"plan{number}") for number in range(3)]
        answers = await asyncio.gather(
            *(c.rollouts.start(p) for c, p in zip(clients, plans, strict=True)),
            return_exceptions=True,
        )
        for client in clients:
            await client.close()
        assert sorted(isinstance(answer, RolloutError) for answer in answers) == [False, True, True]
        assert (await split_of(app)).epoch == 1
