"""Experiments through the public face, on both stores."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aura import Aura
from aura.delivery.experiment import Experiment
from aura.delivery.experiments import Assignment
from aura.delivery.layers import Layer
from aura.delivery.observation import Observation
from aura.delivery.plan import parse_plan
from aura.delivery.split import Hashing, Split
from aura.errors import CodecError, ExperimentError, RolloutError, StoreUnavailable
from aura.store.base import AppendFeed
from tests.delivery.experiment_kit import (
    EXPERIMENT,
    ended,
    made,
    metric,
    story,
    visit,
    wait_for,
)
from tests.delivery.rollout_kit import app_on
from tests.engine.kit import until


def forever(**changes: Any) -> Experiment:
    """An experiment that has never enough."""
    return made(primary=metric(effect=0.0), min_units=10**6, **changes)


async def split_of(app: Aura, name: str = "shop") -> Split:
    document = await app.store.document("split", name)
    assert document is not None
    return Split.from_json(document.body)


async def units_of(app: Aura, count: int, name: str = "copy") -> None:
    """Return when so many units have been counted."""
    await wait_for(
        app, lambda s: s.ratio is not None and sum(s.ratio.units.values()) >= count, name
    )


def move_on(app: Aura, seconds: float) -> None:
    """The database's time is so much later from now on."""
    moment = app.store.moment

    async def later() -> float:
        return await moment() + seconds

    setattr(app.store, "moment", later)  # noqa: B010  (a method of one object)


async def test_a_better_arm_is_promoted_and_an_equal_one_is_not(database: str) -> None:
    async with app_on(database) as app:
        begun = await app.experiments.start(EXPERIMENT, by="ada")
        assert (begun.by, begun.history[0].by) == ("ada", "ada")
        assert (begun.state, begun.opened, begun.run) == ("running", 1, "experiment-copy-1")
        await visit(app, 900, {"b": 0.3})
        status = await ended(app)
        assert (status.state, status.winner) == ("won", "b")
        assert story(status) == ["start", "won"]
        assert (status.by, status.history[0].by, status.history[-1].by) == ("ada", "ada", "")
        assert status.weights == {"a": 0.0, "b": 1.0}
        primary = status.comparisons[0]
        assert primary.verdict == "better"
        assert len(primary.points) > 3
        split = await split_of(app)
        assert (split.share("b"), split.epoch, split.moving) == (1.0, 2, False)
        assert await app.run(status.run).result(timeout=60) == "won"

        again = made(primary=metric(effect=0.3), arms=(("b", 0.5), ("c", 0.5)))
        await app.experiments.start(again)
        assert (await app.experiments.status("copy")).run == "experiment-copy-2"
        await visit(app, 900)
        status = await ended(app)
        assert (status.state, status.winner) == ("no-effect", "")
        assert (await split_of(app)).share("b") == 1.0


async def test_an_aa_run_ends_without_a_winner_at_its_time(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(made(primary=metric(effect=0.0)))
        await visit(app, 900)
        await units_of(app, 900)
        move_on(app, 3_600.0)
        status = await ended(app)
        assert (status.state, status.winner) == ("not-enough", "")
        assert sum(status.ratio.units.values()) == 900 if status.ratio else False
        assert status.weights == {"a": 1.0, "b": 0.0}
        assert "a difference: basket of b differs by" in status.reason


async def test_rewards_decide_and_the_same_one_counts_once(database: str) -> None:
    """They are given before the requests are told of, so that no horizon depends on how fast this
    machine is; `tests/delivery/test_experiment_analysis.py` has the late ones."""
    rewarded = made(
        primary=metric(
            name="bought", source="reward", aggregate="sum", horizon=0.5, missing="zero", effect=0.0
        ),
        secondary=(),
    )
    async with app_on(database) as app:
        await app.experiments.start(rewarded)
        units = [await app.experiments.assign("shop", f"u{number}") for number in range(600)]
        buyers = [
            one for number, one in enumerate(units) if number % (2 if one.arm == "b" else 5) == 0
        ]
        again = buyers[:20]  # told again by somebody who was not sure
        await asyncio.gather(
            *(
                app.reward(name, one.unit, 2.5, metric="bought", id=f"order-{one.unit}")
                for name, told in (("copy", buyers), ("shop", again))
                for one in told
            )
        )
        for one in units:
            app.observe(one)
        status = await ended(app)
        assert (status.state, status.winner) == ("won", "b")
        counters = status.counters
        assert counters is not None
        assert counters.rewards + counters.unmatched == len(buyers)
        assert counters.late_rewards == 0
        found = status.comparisons[0]
        assert found.mean == pytest.approx(1.25, rel=0.25)
        assert found.baseline_mean == pytest.approx(0.5, rel=0.35)


async def test_harm_ends_it(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(forever())
        for number in range(300):
            one = await app.experiments.assign("shop", f"u{number}")
            app.observe(one, ok=one.arm == "a", metrics={"basket": 1.0})
        status = await ended(app)
        assert status.state == "harmed"
        assert "errors" in status.reason
        assert (await split_of(app)).share("b") == 0


async def test_one_of_three_is_dropped_and_another_one_wins(database: str) -> None:
    three = made(arms=(("a", 0.34), ("b", 0.33), ("c", 0.33)), min_units=250)
    async with app_on(database) as app:
        await app.experiments.start(three)
        of = {"c": 0.4}
        await visit(app, 450, {**of, "b": -0.5})
        status = await wait_for(app, lambda s: bool(s.dropped))
        assert status.dropped == ("b",)
        split = await split_of(app)
        assert (split.share("b"), split.share("c"), split.epoch) == (0.0, 0.33, 2)
        while (await app.experiments.assign("shop", "u")).epoch < 2:
            await asyncio.sleep(0.01)
        await visit(app, 900, of, first=450)
        status = await ended(app)
        assert (status.state, status.winner) == ("won", "c")
        assert story(status) == ["start", "drop", "won"]
        assert status.ratio is not None
        assert not status.ratio.tripped
        assert (await split_of(app)).share("c") == 1.0


async def test_lost_units_are_told(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(forever())
        for number in range(1_200):
            one = await app.experiments.assign("shop", f"u{number}")
            if one.arm == "a" or number % 3:
                app.observe(one, metrics={"basket": 1.0})
        status = await ended(app)
        assert status.state == "invalid"
        assert "the sample ratio is wrong" in status.reason
        assert (await split_of(app)).share("a") == 1.0


async def test_a_winner_goes_on_into_a_rollout(database: str) -> None:
    plan = parse_plan("""
rollout:
  name: go
  split: shop
  baseline: a
  candidate: b
  stages: [{weight: 20%, min_requests: 1000}, 100%]
""")
    async with app_on(database) as app:
        await app.experiments.start(made(on_win="rollout", then=plan))
        await visit(app, 900, {"b": 0.3})
        status = await wait_for(app, lambda s: story(s)[-1] == "rollout")
        assert story(status) == ["start", "won", "rollout"]
        assert "rollout go of b begins" in status.history[-1].reason
        rollout = await app.rollouts.status("go")
        assert (rollout.state, rollout.candidate) == ("running", "b")
        assert (await split_of(app)).share("b") == 0.2
        assert await app.run(status.run).result(timeout=60) == "won"


async def test_a_person_ends_it(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(forever(on_win="hold"))
        with pytest.raises(ExperimentError, match="no candidate 'a' to promote"):
            await app.experiments.order("copy", "promote", arm="a")
        with pytest.raises(ExperimentError, match="there is no order 'pause'"):
            await app.experiments.order("copy", "pause")  # type: ignore[arg-type]
        with pytest.raises(ExperimentError, match="there is no experiment nobody"):
            await app.experiments.order("nobody", "stop")
        await app.experiments.order("copy", "promote", arm="b", by="ann", reason="we know it")
        status = await ended(app)
        assert (status.state, status.winner) == ("won", "b")
        assert status.history[-1].by == "ann"
        assert status.reason == "promoted by the operator: we know it"
        with pytest.raises(ExperimentError, match="has ended: it is won"):
            await app.experiments.order("copy", "stop")
        await app.experiments.start(forever(arms=(("b", 0.5), ("a", 0.5))))
        await app.experiments.order("copy", "stop", by="ann")
        assert (await ended(app)).state == "stopped"
        assert (await split_of(app)).share("b") == 1.0


async def test_a_held_winner_waits_for_a_person(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(made(on_win="hold"))
        await visit(app, 900, {"b": 0.3})
        status = await wait_for(app, lambda s: s.state == "held")
        assert "arm b is better" in status.reason
        assert (await split_of(app)).share("b") == 0.5
        await app.experiments.order("copy", "promote", arm="b")
        status = await ended(app)
        assert story(status) == ["start", "hold", "won"]


async def test_layers_keep_experiments_apart(database: str) -> None:
    shop = forever(layer="checkout", share=0.6, holdout=0.1)
    other = forever(name="prices", split="prices", layer="checkout", share=0.3)
    async with app_on(database) as app:
        first = await app.experiments.start(shop)
        second = await app.experiments.start(other)
        assert (first.ranges, first.holdout) == (((0, 6000),), 1000)
        assert (second.ranges, second.holdout) == (((6000, 9000),), 1000)
        with pytest.raises(ExperimentError, match=r"full wants 20 %, 10 % is free"):
            await app.experiments.start(replace(other, name="full", split="full", share=0.2))
        assert (await app.experiments.status("full")).state == "stopped"
        with pytest.raises(ExperimentError, match=r"the hold-out is 10.00%, experiment more wants"):
            await app.experiments.start(
                replace(other, name="more", split="more", share=0.1, holdout=0.2)
            )
        both = [
            (
                await app.experiments.assign("shop", f"u{n}"),
                await app.experiments.assign("prices", f"u{n}"),
            )
            for n in range(500)
        ]
        assert not [pair for pair in both if pair[0].enrolled and pair[1].enrolled]
        before = [two for _, two in both]
        await app.experiments.order("copy", "stop")
        await ended(app)
        layers, holdout = await app.experiments.layers()
        assert holdout == 1000
        (layer,) = layers
        assert [tenant.experiment for tenant in layer.tenants] == ["prices"]
        await app.experiments.start(replace(other, name="full", split="full", share=0.5))
        assert [await app.experiments.assign("prices", one.unit) for one in before] == before


async def test_two_on_one_split_and_what_else_does_not_begin(database: str) -> None:
    plan = parse_plan("rollout: {name: r, split: shop, baseline: a, candidate: b, stages: [50%]}")
    async with app_on(database) as app:
        await app.experiments.start(forever())
        with pytest.raises(ExperimentError, match="experiment copy of split shop is running"):
            await app.experiments.start(forever(name="second"))
        with pytest.raises(RolloutError, match="split shop is moved by another rollout"):
            await app.rollouts.start(plan, again=True)
        await app.experiments.order("copy", "stop")
        await ended(app)
        with pytest.raises(ExperimentError, match="sends its requests to a, the baseline"):
            await app.experiments.start(forever(arms=(("x", 0.5), ("y", 0.5))))
        await app.rollouts.start(plan)
        with pytest.raises(ExperimentError, match="split shop is moved by the run rollout-r-2"):
            await app.experiments.start(forever())
        await app.rollouts.order("r", "rollback")


async def test_units_that_come_from_another_system_keep_their_places(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(forever(hashing=Hashing("unleash", "AB12A")))
        found = [await app.experiments.assign("shop", unit) for unit in ("122", "155")]
        assert [one.arm for one in found] == ["b", "a"]


async def test_an_emergency_ends_it(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(forever())
        await app.rollouts.emergencies.force(None, reason="fire", by="ann")
        status = await ended(app)
        assert status.state == "stopped"
        assert "forced to its baseline: fire" in status.reason
        assert (await split_of(app)).forced == "fire"
        with pytest.raises(ExperimentError, match="is forced to its baseline: fire"):
            await app.experiments.start(forever())


async def test_its_shares_are_not_restored_after_an_emergency(database: str) -> None:
    """Nobody would watch over them; neither when it has heard of the emergency nor before."""
    async with app_on(database) as app:
        begun = await app.experiments.start(forever())
        desk = app.rollouts.emergencies
        await desk.force(None, reason="fire")
        (free,) = await desk.release(None, restore=True)
        assert f"the run {begun.run} was moving it" in free.note
        split = await split_of(app)
        assert (split.share("a"), split.forced, split.moving) == (1.0, "", False)
        await ended(app)
        assert (await split_of(app)).share("a") == 1.0


async def test_without_a_worker_it_waits_for_one(database: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("aura.delivery.experiments._PATIENCE", 0.1)
    app = app_on(database)
    async with app.client():
        with pytest.raises(ExperimentError, match="no worker has taken it up"):
            await app.experiments.start(forever())
    async with app:
        await wait_for(app, lambda status: status.opened == 1)


async def test_a_cancelled_run_leaves_everybody_on_the_baseline(database: str) -> None:
    async with app_on(database) as app:
        status = await app.experiments.start(forever(layer="l", share=0.5))
        await app.run(status.run).cancel()
        status = await ended(app)
        assert (status.state, story(status)) == ("stopped", ["start", "stop"])
        split = await split_of(app)
        assert (split.share("a"), split.gate, split.moving) == (1.0, None, False)
        assert (await app.experiments.layers())[0] == [Layer("l")]


# -- bad input ---------------------------------------------------------------------------------


async def test_numbers_that_are_none_are_refused_and_counted(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(forever())
        one = await app.experiments.assign("shop", "u1")
        for value in (math.nan, math.inf, "3", None, True):
            with pytest.raises(CodecError):
                app.observe(one, metrics={"basket": value})  # type: ignore[dict-item]
            with pytest.raises(CodecError):
                await app.reward("copy", "u1", value, metric="m")  # type: ignore[arg-type]
        with pytest.raises(CodecError):
            app.observe(one, latency=-1.0)
        assert app.experiments.refused == 11
        with pytest.raises(CodecError):
            Observation("shop", 1, "a", "u", 1.0, True, 0.1, metrics={"basket": math.nan})
        with pytest.raises(ExperimentError, match="neither an experiment nor a split moon"):
            await app.reward("moon", "u1", 1.0, metric="m")
        with pytest.raises(CodecError):
            await app.reward("copy", "", 1.0, metric="m")
        with pytest.raises(ExperimentError, match="there is no split moon"):
            await app.experiments.assign("moon", "u1")
        with pytest.raises(ExperimentError, match="a unit of split shop is ''"):
            await app.experiments.assign("shop", "")
        nan = b'{"split":"shop","epoch":1,"arm":"a","unit":"u","at":1,"ok":true,"latency":NaN}'
        await app.committer.submit(AppendFeed("observations/shop", (nan, b"nonsense")))
        await app.committer.submit(AppendFeed("rewards/shop", (b"[]",)))
        status = await wait_for(app, lambda s: s.counters is not None and s.counters.refused == 3)
        assert status.state == "running"


async def test_a_metric_that_never_arrives_is_told_and_holds(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(EXPERIMENT)
        for number in range(50):
            app.observe(await app.experiments.assign("shop", f"u{number}"))
        await units_of(app, 50)
        move_on(app, 3_600.0)
        status = await wait_for(app, lambda s: s.state == "held")
        assert "no observation has a number of that name" in status.reason
        assert (await split_of(app)).share("b") == 0.5
        await app.experiments.order("copy", "stop")
        assert (await ended(app)).state == "stopped"


# -- crashes -----------------------------------------------------------------------------------


async def test_folding_the_feed_again_finds_the_same(database: str) -> None:
    """Another worker takes over in the middle: it reads both feeds again and goes on."""
    async with app_on(database, lease=1.0, grace=0.1) as app:
        await app.experiments.start(made(min_units=400, primary=metric(effect=0.0)))
        await visit(app, 500, {"b": 0.2})
        await units_of(app, 500)
        before = await app.experiments.status("copy")
    async with app_on(database, lease=1.0) as app:
        await visit(app, 600, {"b": 0.2}, first=500)
        status = await ended(app)
        assert (status.state, status.winner) == ("won", "b")
        assert story(status) == ["start", "won"]
        assert before.ratio is not None and status.ratio is not None  # noqa: PT018
        assert sum(status.ratio.units.values()) >= 800 > sum(before.ratio.units.values())
        mine = {point.units: point for point in status.comparisons[0].points}
        for point in before.comparisons[0].points:
            assert mine[point.units] == point
        assert await app.run(status.run).result(timeout=60) == "won"
        keys = [entry.key for entry in await app.store.journal(status.run)]
        assert len(keys) == len(set(keys)) == 4


def test_an_assignment_is_a_value() -> None:
    one = Assignment("s", 1, "u", "a", True, 0.5)
    assert one == replace(one)


async def test_two_first_assignments_at_once_follow_the_split_once(database: str) -> None:
    async with app_on(database) as app:
        await app.experiments.start(EXPERIMENT)
        before = len(app.rollouts._followers)
        await asyncio.gather(*(app.experiments.assign("shop", "u") for _ in range(5)))
        assert len(app.rollouts._followers) == before + 1


async def test_a_process_that_cannot_reach_the_database_assigns_the_baseline(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback may have happened that it cannot hear of."""
    async with app_on(database) as app:
        await app.experiments.start(EXPERIMENT)
        units = [f"u{number}" for number in range(40)]
        before = [await app.experiments.assign("shop", unit) for unit in units]
        assert {one.arm for one in before} == {"a", "b"}
        with monkeypatch.context() as broken:
            away = AsyncMock(side_effect=StoreUnavailable("away"))
            broken.setattr(app.store, "document", away)

            async def fallen() -> bool:
                found = [await app.experiments.assign("shop", unit) for unit in units]
                return {(one.arm, one.enrolled) for one in found} == {("a", False)}

            await until(fallen, timeout=60)

        async def recovered() -> bool:
            return [await app.experiments.assign("shop", unit) for unit in units] == before

        await until(recovered, timeout=60)
