"""Emergencies: everybody to the baseline, with and without a worker, until it is released."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from aura import Aura
from aura.delivery.channels import Channel
from aura.delivery.split import Arm, Split
from aura.delivery.status import Event
from aura.delivery.turn import read_order, write_order
from aura.errors import RolloutError, SplitError
from aura.store.base import PutDocument, RunFilter
from tests.delivery.rollout_kit import (
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

HALF = plan(stages=(*forever().stages[1:],))


async def test_a_rollout_under_way_is_over_at_once(database: str) -> None:
    async with app_on(database) as app, traffic(app) as made:
        await app.rollouts.start(HALF)
        await until(lambda: bool(made.splits))
        before = await split_of(app)
        assert (before.share("b"), before.moving, before.forced) == (0.3, True, "")
        (done,) = await app.rollouts.emergencies.force(None, reason="fire", by="ann")
        assert (done.split, done.baseline, done.changed, done.ended) == ("t", "a", True, ("t",))
        split = await split_of(app)
        assert (split.epoch, split.share("b"), split.forced) == (before.epoch + 1, 0.0, "fire")
        assert not split.moving
        status = await app.rollouts.status("t")
        assert (status.state, status.weights) == ("rolled-back", {"a": 1.0, "b": 0.0})
        assert (status.history[-1].by, status.history[-1].reason) == ("ann", "emergency: fire")
        assert await app.run(status.run).result(timeout=60) == "rolled-back"
        after = await app.rollouts.status("t")
        assert story(after) == ["start", "rollback"]  # its workflow adds nothing of its own
        assert await split_of(app) == split
        await until(lambda: made.splits[-1].epoch == split.epoch)
        check_the_way_up(made.splits)


async def test_nothing_moves_it_until_it_is_released(database: str) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(HALF)
        await app.rollouts.emergencies.force(["t"], reason="fire")
        split = await split_of(app)
        with pytest.raises(SplitError, match="aura rollback t --release"):
            split.with_weights({"b": 1.0})
        with pytest.raises(
            RolloutError, match=r"split t is forced to its baseline: fire.*--release"
        ):
            await app.rollouts.start(plan(name="other", split="t"))
        (again,) = await app.rollouts.emergencies.force(None, reason="more fire")
        assert (again.changed, again.note) == (False, "it is forced already: fire")
        ((listed, record),) = await app.rollouts.emergencies.forced()
        assert record is not None
        assert (listed.name, record.before, record.ended) == ("t", {"a": 0.7, "b": 0.3}, ("t",))
        (free,) = await app.rollouts.emergencies.release(["t"], by="ann", reason="out")
        assert free.changed
        now = await split_of(app)
        assert (now.epoch, now.share("b"), now.forced) == (split.epoch + 1, 0.0, "")
        assert await app.rollouts.emergencies.forced() == []
        begun = await app.rollouts.start(HALF)
        assert (begun.state, begun.run) == ("running", "rollout-t-2")
        assert (await split_of(app)).share("b") == 0.3


async def test_a_race_with_a_start_is_lost_by_the_start(database: str) -> None:
    """It was announced before, and a worker takes it up after the emergency."""
    async with app_on(database).client() as app:
        run = await app.rollouts.engine.announce(HALF)
        await app.start(app.rollouts.engine.workflow, HALF, run, id=run)
        (done,) = await app.rollouts.emergencies.force(["t"], reason="fire")
        assert (done.changed, done.epoch, done.ended) == (True, 1, ("t",))
        async with app_on(database) as worker:
            with pytest.raises(Exception, match="forced"):
                await worker.run(run).result(timeout=60)
        assert (await split_of(app)).forced == "fire"
        assert (await app.rollouts.status("t")).state == "rolled-back"


async def test_without_a_worker(database: str) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(HALF)
    async with app_on(database).client() as app:
        names = [HALF.name]
        await app.rollouts.emergencies.force(names, reason="nobody works here")
        assert (await split_of(app)).share("b") == 0.0
        status = await app.rollouts.status("t")
        assert (status.state, status.reason) == ("rolled-back", "emergency: nobody works here")
    async with app_on(database) as app:  # the next worker finds that it is over
        assert await app.run(status.run).result(timeout=60) == "rolled-back"
        assert story(await app.rollouts.status("t")) == ["start", "rollback"]


async def test_a_completed_rollout_is_taken_back_and_restored(database: str) -> None:
    async with app_on(database) as app, traffic(app):
        await app.rollouts.start(plan(stages=plan().stages[3:]))
        await ended(app)
        served = await split_of(app)
        assert (served.share("b"), served.moving) == (1.0, False)
        (done,) = await app.rollouts.emergencies.force(None, reason="late fire")
        assert (done.changed, done.ended) == (True, ())
        assert (await app.rollouts.status("t")).state == "rolled-back"
        assert (await split_of(app)).share("b") == 0.0
        await app.rollouts.emergencies.release(None, restore=True, by="ann")
        assert (await split_of(app)).share("b") == 1.0
        status = await app.rollouts.status("t")
        assert (status.state, story(status)[-2:]) == ("completed", ["rollback", "restore"])


async def test_splits_that_are_moved_together_go_back_together(database: str) -> None:
    from aura.delivery.plan import Pair

    both = plan(stages=HALF.stages, together=(Pair("u", "x", "y"),))
    async with app_on(database) as app:
        await app.rollouts.start(both)
        assert (await split_of(app, "u")).share("y") == 0.3
        done = await app.rollouts.emergencies.force(["u"], reason="fire")
        assert [(one.split, one.changed) for one in done] == [("t", True), ("u", True)]
        for name in ("t", "u"):
            split = await split_of(app, name)
            assert (split.share(split.arms[1].name), split.forced) == (0.0, "fire")
        status = await app.rollouts.status("t")
        assert await app.run(status.run).result(timeout=60) == "rolled-back"
        after = await app.rollouts.status("t")
        assert (after.state, story(after)) == ("rolled-back", ["start", "rollback"])


def test_an_order_that_a_conflict_wrote_twice_is_noted_once() -> None:
    order = read_order(4, write_order("rollback", "ann", "emergency: fire", 9.0))
    noted = Event(9.0, "rollback", "emergency: fire", "ann", 9.0)
    assert order.is_in((noted,))
    assert not order.is_in((replace(noted, by="bob"),))
    assert order.is_in((Event(9.0, "hold", "", "bob", order=4),))


async def test_many_at_once_while_others_move_them(database: str) -> None:
    """All splits are forced though each is being changed by somebody else at the same time."""
    async with app_on(database).client() as app:
        names = [f"s{number}" for number in range(6)]
        for name in names:
            split = Split(name, 1, "seed", (Arm("a", 0.5), Arm("b", 0.5)), moving=True)
            await app.store.commit([PutDocument("split", name, split.to_json(), 0)])

        async def disturb(name: str) -> None:
            while True:
                split = await split_of(app, name)
                if split.forced:
                    return
                body = split.with_weights({"b": 0.4}).to_json()
                await app.store.commit([PutDocument("split", name, body, split.epoch)])
                await asyncio.sleep(0.02)

        disturbing = [asyncio.create_task(disturb(name)) for name in names]
        done = await app.rollouts.emergencies.force(None, reason="fire")
        await asyncio.wait_for(asyncio.gather(*disturbing), 60)
        assert [one.split for one in done if one.changed] == names
        for name in names:
            assert (await split_of(app, name)).forced == "fire"


async def test_nonsense(database: str) -> None:
    async with app_on(database).client() as app:
        desk = app.rollouts.emergencies
        assert await desk.force(None, reason="nothing is here") == []
        with pytest.raises(RolloutError, match="no split and no rollout nothing"):
            await desk.force(["nothing"], reason="x")
        with pytest.raises(RolloutError, match="has no reason"):
            await desk.force(None, reason="  ")
        split = Split("s", 1, "seed", (Arm("a", 1.0), Arm("b", 0.0)))
        await app.store.commit([PutDocument("split", "s", split.to_json(), 0)])
        (left,) = await desk.release(["s"])
        assert (left.changed, left.note) == (False, "it is not forced")


async def test_it_is_told_to_those_who_wanted_to_know_of_the_rollout(database: str) -> None:
    given = plan(stages=HALF.stages, alerts=(Channel(kind="log"),))
    async with app_on(database) as app:
        await app.rollouts.start(given)
        (done,) = await app.rollouts.emergencies.force(None, reason="fire", by="ann")
        told = await app.run(f"alert-emergency-t-{done.epoch}").result(timeout=60)
        assert told == "told log"
        status = await app.rollouts.status("t")
        await app.run(status.run).result(timeout=60)
        alerts = await app.store.runs(RunFilter(workflow="aura.alert"))
        assert json.loads(json.dumps([one.id for one in alerts])) != []


async def test_a_rollout_that_is_shifting_meanwhile_does_not_win(database: str) -> None:
    """Its next turn finds the split forced, and leaves it."""
    async with app_on(database) as app, traffic(app) as made:
        given = plan(stages=plan().stages[1:])
        await app.rollouts.start(given)
        await wait_for(app, lambda status: status.turn >= 1)
        await app.rollouts.emergencies.force(None, reason="fire")
        status = await app.rollouts.status("t")
        if status.state == "rolled-back" and status.history[-1].reason == "emergency: fire":
            await until(lambda: made.splits[-1].forced == "fire")
        split = await split_of(app)
        assert (split.share("b"), split.forced) == (0.0, "fire")
        assert Aura is not None
