"""Rollouts through the public face, under made traffic, on both stores."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from aura.delivery.channels import Channel
from aura.delivery.decide import ORDERS, Order
from aura.delivery.plan import OnNotEnough, Pair, Plan
from aura.delivery.rollout import Engine
from aura.delivery.split import Hashing, Split
from aura.delivery.turn import Leg
from aura.delivery.watchman import Watchman
from aura.engine import Retry
from aura.errors import NonDeterminism, RolloutError, RunCancelled
from aura.store.base import AppendFeed
from tests.delivery.rollout_kit import (
    PLAN,
    THROUGH,
    app_on,
    check_the_way_up,
    ended,
    forever,
    held,
    plan,
    short,
    split_of,
    story,
    traffic,
    until,
    wait_for,
)


async def test_a_healthy_rollout_goes_through_all_stages_once(database: str) -> None:
    async with app_on(database) as app:
        begun = await app.rollouts.start(PLAN)
        assert (begun.state, begun.stage, begun.run) == ("running", "shadow", "rollout-t-1")
        async with traffic(app) as made:
            status = await ended(app)
            await until(lambda: made.splits[-1].epoch == 5)
        assert status.state == "completed"
        assert story(status) == THROUGH
        assert [stage.verdict for stage in status.stages] == ["pass"] * 4
        assert all(stage.candidate.requests >= 8 for stage in status.stages)
        assert status.weights == {"a": 0.0, "b": 1.0}
        assert await app.run(status.run).result(timeout=60) == "completed"

        assert [(s.epoch, s.share("b"), s.mirror, s.sample) for s in made.splits] == [
            (1, 0.0, "b", 0.5),
            (2, 0.3, "", 1.0),
            (3, 0.6, "", 1.0),
            (4, 1.0, "", 1.0),
            (5, 1.0, "", 1.0),  # nobody moves it any more
        ]
        assert made.went_back == []
        assert len({split.seed for split in made.splits}) == 1
        keys = [entry.key for entry in await app.store.journal(status.run)]
        assert len(keys) == len(set(keys)) == 2 + 2 * 4


async def test_units_that_come_from_another_system_keep_their_places(database: str) -> None:
    """The published cases of Unleash's group AB12A."""
    stages = forever().stages[1:]
    half = (replace(stages[0], name="half", weight=0.5), stages[-1])
    given = plan(stages=half, hashing=Hashing("unleash", "AB12A"), together=(Pair("u", "x", "y"),))
    async with app_on(database) as app:
        await app.rollouts.start(given)
        split = await split_of(app)
        assert split.hashing == Hashing("unleash", "AB12A")
        assert [split.assign(unit) for unit in ("122", "155")] == ["b", "a"]
        assert (await split_of(app, "u")).assign("122") == "y"
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.weight == 1)
        assert (await split_of(app)).hashing == Hashing("unleash", "AB12A")


async def test_a_failing_candidate_is_rolled_back(database: str) -> None:
    async with app_on(database) as app, traffic(app, failing={"b": 0.5}) as made:
        await app.rollouts.start(plan(stages=PLAN.stages[1:]))
        status = await ended(app)
        assert (status.state, status.guard) == ("rolled-back", "errors")
        assert story(status) == ["start", "rollback"]
        last = status.history[-1]
        assert 0 <= last.done - last.since < 30  # the demo and the benchmarks have the figure
        assert (await split_of(app)).share("b") == 0
        assert status.weights == {"a": 1.0, "b": 0.0}
        assert [stage.verdict for stage in status.stages] == ["trip", "waiting", "waiting"]
        await until(lambda: made.splits[-1].share("b") == 0)


async def test_a_slow_candidate_is_rolled_back(database: str) -> None:
    async with app_on(database) as app, traffic(app, slow={"b": 0.3}):
        await app.rollouts.start(PLAN)
        status = await ended(app)
        assert (status.state, status.guard) == ("rolled-back", "latency")
        assert story(status) == ["start", "advance", "rollback"]  # nobody waits for a shadow


async def test_a_trip_may_hold_and_what_is_resumed_starts_from_new_evidence(database: str) -> None:
    async with app_on(database) as app, traffic(app, failing={"b": 0.5}) as made:
        await app.rollouts.start(plan(on_trip="hold", stages=PLAN.stages[1:]))
        status = await wait_for(app, held)
        assert story(status) == ["start", "hold"]
        assert "errors" in status.reason
        before = await split_of(app)
        assert before.share("b") == 0.3

        made.failing.clear()
        await app.rollouts.order("t", "resume", by="ann", reason="it was the network")
        status = await ended(app)
        assert status.state == "completed"
        assert story(status) == ["start", "hold", "resume", "advance", "advance", "complete"]
        await until(lambda: made.splits[-1].epoch == 5)  # who follows hears of it later
        resumed = status.history[2]
        assert resumed.by == "ann"
        assert "it was the network" in resumed.reason
        assert [split.epoch for split in made.splits] == [1, 2, 3, 4, 5]
        assert made.splits[1].share("b") == 0.3
        assert status.stages[0].candidate.errors > 0  # the counts are still those of all
        assert made.went_back == []


async def test_a_trip_that_holds_may_be_overruled(database: str) -> None:
    async with app_on(database) as app, traffic(app, failing={"b": 0.5}) as made:
        await app.rollouts.start(plan(on_trip="hold", stages=PLAN.stages[1:]))
        await wait_for(app, held)
        made.failing.clear()
        await app.rollouts.order("t", "advance", by="ann")
        status = await ended(app)
        assert status.state == "completed"
        assert story(status) == ["start", "hold", "advance", "advance", "complete"]
        assert "ordered by the operator" in status.history[2].reason


async def test_a_trip_that_holds_may_be_rolled_back(database: str) -> None:
    async with app_on(database) as app, traffic(app, failing={"b": 0.5}):
        await app.rollouts.start(plan(on_trip="hold", stages=PLAN.stages[1:]))
        await wait_for(app, held)
        await app.rollouts.order("t", "rollback", by="ann", reason="enough")
        status = await ended(app)
        assert story(status) == ["start", "hold", "rollback"]
        assert status.history[-1].reason == "ordered by the operator: enough"
        assert (await split_of(app)).share("b") == 0


async def test_orders_at_every_status(database: str) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(forever())
        given: list[tuple[Order, str]] = [
            ("advance", "running"),
            ("hold", "held"),
            ("hold", "held"),
            ("resume", "running"),
            ("hold", "held"),
            ("advance", "running"),
            ("rollback", "rolled-back"),
        ]
        for number, (order, state) in enumerate(given, 1):
            if order == "resume":
                assert (await app.rollouts.status("t")).state == "held"
            await app.rollouts.order("t", order, by=f"p{number}", reason=f"why {number}")
            status = await wait_for(app, lambda s, n=number: s.turn == n)  # type: ignore[misc]
            assert status.state == state
            assert story(status)[1:] == [what for what, _ in given[:number]]
            assert status.history[-1].by == f"p{number}"
            assert status.history[-1].reason.endswith(f": why {number}")
            if order == "hold":
                assert status.reason.endswith(f": why {number}")
        assert status.stage == "60%"
        for order in ORDERS:
            with pytest.raises(RolloutError, match="rolled-back"):
                await app.rollouts.order("t", order)
        with pytest.raises(RolloutError, match="no rollout nobody"):
            await app.rollouts.order("nobody", "hold")


async def test_orders_that_make_no_sense_are_refused() -> None:
    async with app_on(":memory:") as app:
        await app.rollouts.start(forever())
        with pytest.raises(RolloutError, match="not held"):
            await app.rollouts.order("t", "resume")
        unknown: Any = "sideways"
        with pytest.raises(RolloutError, match="advance, hold, resume, rollback, pause"):
            await app.rollouts.order("t", unknown)


async def test_orders_are_kept_for_the_worker_that_comes(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.delivery.rollouts._PATIENCE", 0.1)
    async with app_on(database).client() as client:
        with pytest.raises(RolloutError, match="no worker has taken it up"):
            await client.rollouts.start(forever())
        assert (await client.rollouts.status("t")).reason == "waits for a worker"
        await client.rollouts.order("t", "hold", by="ann")
        await client.rollouts.order("t", "advance", by="bob")
        async with app_on(database) as app:
            status = await wait_for(app, lambda status: status.turn == 2)
            assert [(one.what, one.by) for one in status.history] == [
                ("start", ""),
                ("hold", "ann"),
                ("advance", "bob"),
            ]
            assert status.stage == "30%"


async def test_orders_that_cannot_be_read_change_nothing() -> None:
    async with app_on(":memory:") as app:
        begun = await app.rollouts.start(forever())
        feed = f"orders/{begun.run}"
        for payload in (b"\xff", b"[]", b'{"order": "sideways"}', b'{"order": {}}'):
            await app.committer.submit(AppendFeed(feed, (payload,)))
        await app.rollouts.order("t", "advance")
        status = await wait_for(app, lambda status: status.turn == 5)
        assert story(status) == ["start", "void", "void", "void", "void", "advance"]
        assert "order 2 cannot be read" in status.history[2].reason


async def test_an_order_that_comes_too_late_is_in_the_history() -> None:
    async with app_on(":memory:") as app:
        begun = await app.rollouts.start(forever())
        both = [json.dumps({"order": order}).encode() for order in ("rollback", "advance")]
        await app.committer.submit(AppendFeed(f"orders/{begun.run}", tuple(both)))
        status = await wait_for(app, lambda status: len(status.history) == 3)
        assert story(status) == ["start", "rollback", "advance"]
        assert "after the end" in status.history[-1].reason
        assert [event.order for event in status.history] == [0, 1, 2]


async def test_one_rollout_moves_a_split_at_a_time(database: str) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(forever())
        with pytest.raises(RolloutError, match="rollout t of split t is running"):
            await app.rollouts.start(plan(name="other"))
        with pytest.raises(RolloutError, match="rollout t of split t is running"):
            await app.rollouts.start(PLAN)
        with pytest.raises(RolloutError, match="rollout t of split t is running"):
            await app.rollouts.start(plan(split="elsewhere"))  # its name is taken
        await app.rollouts.start(forever(name="other", split="elsewhere"))
        assert {status.name for status in await app.rollouts.all()} == {"t", "other"}
        assert (await split_of(app)).epoch == 1


async def test_of_two_that_start_at_once_one_is_refused(database: str) -> None:
    one, two = app_on(database).client(), app_on(database).client()
    async with app_on(database) as app, one as first, two as second:
        answers = await asyncio.gather(
            first.rollouts.start(forever(name="one")),
            second.rollouts.start(forever(name="two")),
            return_exceptions=True,
        )
        assert sorted(isinstance(answer, RolloutError) for answer in answers) == [False, True]
        alive = [s for s in await app.rollouts.all() if await app.rollouts.engine.under_way(s)]
        assert len(alive) == 1
        assert (await split_of(app)).seed == f"t/{alive[0].run}"
        assert (await split_of(app)).epoch == 1


async def test_the_loser_of_a_race_for_a_split_says_so(database: str) -> None:
    """Both had looked before either began."""
    async with app_on(database) as app:
        engine = app.rollouts.engine
        runs = [await engine.announce(forever(name=name)) for name in ("one", "two")]
        for run, name in zip(runs, ("one", "two"), strict=True):
            await app.start(engine.workflow, forever(name=name), run, id=run)
        await wait_for(app, lambda s: s.opened is not None or s.ended, "one")
        await wait_for(app, lambda s: s.opened is not None or s.ended, "two")
        found = {status.state: status for status in await app.rollouts.all()}
        assert set(found) == {"running", "rolled-back"}
        refused = found["rolled-back"]
        assert story(refused) == ["refuse"]
        assert found["running"].name in refused.reason
        assert (await split_of(app)).epoch == 1


async def test_the_same_name_with_two_plans_at_once_is_one_rollout(database: str) -> None:
    one, two = app_on(database).client(), app_on(database).client()
    async with app_on(database), one as first, two as second:
        answers = await asyncio.gather(
            first.rollouts.start(forever()),
            second.rollouts.start(forever(candidate="c")),
            return_exceptions=True,
        )
    assert sorted(isinstance(answer, RolloutError) for answer in answers) == [False, True]


async def test_the_next_rollout_begins_with_its_own_arms(database: str) -> None:
    async with app_on(database) as app, traffic(app) as made:
        await app.rollouts.start(PLAN)
        first = await ended(app)
        await until(lambda: made.splits[-1].epoch == 5)  # only the newest epoch is told
        await app.rollouts.start(plan(name="next", baseline="b", candidate="c"))
        await wait_for(app, lambda status: status.ended, "next")
        await until(lambda: made.splits[-1].epoch == 10)
        status = await app.rollouts.status("next")
        assert status.state == "completed"
        assert story(status) == THROUGH
        seeds = {split.seed: split.arms[1].name for split in made.splits}
        assert seeds == {f"t/{first.run}": "b", f"t/{status.run}": "c"}
        assert [split.epoch for split in made.splits] == list(range(1, 11))
        assert made.went_back == []


async def test_the_same_plan_again(database: str) -> None:
    async with app_on(database) as app, traffic(app):
        for number in (1, 2, 3):
            if number > 1:
                with pytest.raises(RolloutError, match=r"has completed: b serves.*--again"):
                    await app.rollouts.start(PLAN)
            begun = await app.rollouts.start(PLAN, again=number > 1)
            assert begun.run == f"rollout-t-{number}"
            status = await ended(app)
            assert story(status) == THROUGH
            assert (await split_of(app)).seed == f"t/rollout-t-{number}"


async def test_a_plan_whose_baseline_does_not_serve_is_refused_unless_it_is_meant(
    database: str,
) -> None:
    """It would move everybody to its baseline at once."""
    async with app_on(database) as app, traffic(app):
        await app.rollouts.start(PLAN)
        await ended(app)
        assert await app.rollouts.serving("t") == ("b",)
        other = forever(name="other", baseline="a", candidate="c")
        with pytest.raises(RolloutError, match=r"to b, the baseline of rollout other is a.*--repl"):
            await app.rollouts.start(other)
        assert await app.rollouts.serving("t") == ("b",)
        assert [status.name for status in await app.rollouts.all()] == ["t"]
        await app.rollouts.start(other, replace=True)
        assert await app.rollouts.serving("t") == ("a",)


@pytest.mark.parametrize(
    ("on_not_enough", "state"), [("hold", "held"), ("rollback", "rolled-back")]
)
async def test_without_traffic_time_runs_out(
    database: str, on_not_enough: OnNotEnough, state: str
) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(short(on_not_enough=on_not_enough))
        status = await wait_for(app, lambda status: status.state == state)
        assert "the candidate has had no traffic" in status.reason
        assert "not enough evidence after 150 ms" in status.history[-1].reason
        await asyncio.sleep(0.4)
        assert "the candidate has had no traffic" in (await app.rollouts.status("t")).reason
        if state == "held":
            await app.rollouts.order("t", "resume")
            status = await wait_for(app, lambda status: status.turn == 3)
            assert story(status) == ["start", "hold", "resume", "hold"]


async def test_without_traffic_a_plan_may_wait_on() -> None:
    async with app_on(":memory:") as app:
        await app.rollouts.start(short(on_not_enough="extend"))
        status = await wait_for(app, lambda s: "not enough evidence" in s.reason)
        assert status.state == "running"
        async with traffic(app):
            assert (await ended(app)).state == "completed"


async def test_a_cancelled_rollout_leaves_the_baseline(database: str) -> None:
    async with app_on(database) as app, traffic(app):
        begun = await app.rollouts.start(forever())
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.turn == 1)
        await app.run(begun.run).cancel()
        with pytest.raises(RunCancelled):
            await app.run(begun.run).result(timeout=60)
        status = await app.rollouts.status("t")
        assert (status.state, status.reason) == ("rolled-back", "its run was cancelled")
        assert (await split_of(app)).share("b") == 0
        assert (await app.rollouts.start(PLAN)).run == "rollout-t-2"


async def test_a_rollout_that_cannot_be_watched_leaves_the_baseline() -> None:
    async with app_on(":memory:") as app, traffic(app):
        engine = app.rollouts.engine
        await app.rollouts.start(forever())
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.turn == 1)
        engine._watch.retry = Retry()

        def broken(*_: object) -> None:
            raise RuntimeError("the disk of the guard is full")

        setattr(engine, "_look", broken)  # noqa: B010  (a method of one object)
        status = await ended(app)
        assert status.state == "rolled-back"
        assert story(status) == ["start", "advance", "rollback"]
        assert "the disk of the guard is full" in status.reason
        assert (await split_of(app)).share("b") == 0


async def test_a_version_with_one_more_setting_goes_on_with_the_rollouts_of_the_one_before(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = Engine._follow_plan

    async def newer(self: Engine, plan: Plan, run: str) -> str:
        return await followed(self, replace(plan, in_flight="pin", on_not_enough="extend"), run)

    async with app_on(database) as app:
        await app.rollouts.start(forever())
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.turn == 1)
    monkeypatch.setattr(Engine, "_follow_plan", newer)
    async with app_on(database) as app, traffic(app, failing={"b": 1.0}):
        status = await ended(app)
        assert story(status) == ["start", "advance", "rollback"]
        assert (await split_of(app)).share("b") == 0


async def test_a_rollout_that_nothing_moves_says_so(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(forever())
        await app.rollouts.order("t", "advance")
        moved = await wait_for(app, lambda status: status.turn == 1)
        assert moved.notes == ()

    async def another(self: Engine, plan: Plan, run: str) -> str:
        raise NonDeterminism("the code has changed", hint="restore it")

    async def nothing(self: Watchman) -> None:
        return None

    monkeypatch.setattr(Engine, "_rollout", another)  # not even its own care for the traffic
    monkeypatch.setattr(Watchman, "look", nothing)
    async with app_on(database) as app:
        status = await wait_for(app, lambda status: bool(status.notes))
        assert status.state == "running"
        (note,) = status.notes
        assert "no guard watches: its run is failed. See why: aura runs show rollout-t-1" in note
        assert "aura rollback t --reason" in note
        assert [one.notes for one in await app.rollouts.all()] == [status.notes]
        with pytest.raises(RolloutError, match=r"nothing moves rollout t.*aura rollback t"):
            await app.rollouts.order("t", "rollback")
        made = await app.rollouts.emergencies.force(["t"], reason="nobody watches", by="ann")
        assert made
        assert (await split_of(app)).share("b") == 0


@pytest.mark.parametrize("ends", ["parked", "failed"])
async def test_the_traffic_comes_back_from_a_rollout_that_nobody_watches(
    database: str, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(forever(alerts=(Channel(kind="log"),)))
        await app.rollouts.order("t", "advance")
        await wait_for(app, lambda status: status.turn == 1)
        assert (await split_of(app)).share("b") > 0

    async def another(self: Engine, plan: Plan, run: str) -> str:
        raise ValueError("the code has changed")

    settings = {"max_history": 3}  # its journal has more
    if ends == "failed":
        settings = {}
        monkeypatch.setattr(Engine, "_rollout", another)  # not even its own care for the traffic
    async with app_on(database, **settings) as app:
        if ends == "parked":
            await app.rollouts.order("t", "hold")
        status = await ended(app)
        assert status.state == "rolled-back"
        assert status.reason == f"no guard watches it: its run is {ends}"
        assert status.history[-1].what == "rollback"
        split = await split_of(app)
        assert (split.share("b"), split.moving, split.epoch) == (0, False, status.epoch)
        assert await app.store.run("alert-rollout-t-1-unwatched") is not None
    monkeypatch.undo()
    async with app_on(database) as app:
        assert (await app.rollouts.start(forever())).run == "rollout-t-2"


async def test_a_split_that_someone_else_changes_is_given_up() -> None:
    async with app_on(":memory:") as app:
        await app.rollouts.start(forever())
        split = await split_of(app)
        changed = split.with_weights({"b": 0.5})
        assert await app.rollouts.engine.put("split", "t", changed.to_json(), split.epoch)
        await app.rollouts.order("t", "advance")
        status = await ended(app)
        assert "given up: split t was changed by someone else" in status.reason
        assert (await split_of(app)).share("b") == 0


async def test_a_split_that_another_rollout_took_is_left_alone() -> None:
    async with app_on(":memory:") as app:
        await app.rollouts.start(forever())
        split = await split_of(app)
        taken = Split("t", split.epoch + 1, "t/else", split.arms, "b")
        assert await app.rollouts.engine.put("split", "t", taken.to_json(), split.epoch)
        await app.rollouts.order("t", "advance")
        status = await ended(app)
        assert "given up: split t was taken over by another rollout" in status.reason
        assert await split_of(app) == taken


async def test_two_rollouts_at_once_do_not_disturb_each_other() -> None:
    async with app_on(":memory:") as app, traffic(app), traffic(app, split="s") as other:
        await app.rollouts.start(PLAN)
        await app.rollouts.start(plan(name="s", split="s"))
        assert story(await ended(app)) == THROUGH
        assert story(await ended(app, "s")) == THROUGH
        splits: list[Split] = other.splits
        check_the_way_up(splits)


async def test_whatever_ends_it_the_traffic_goes_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only steps that give up: an error of the workflow's own code too."""

    def broken(self: Leg, *_: object) -> Leg:
        raise ZeroDivisionError("a bug")

    async with app_on(database) as app, traffic(app):
        monkeypatch.setattr(Leg, "onward", broken)
        await app.rollouts.start(PLAN)
        status = await ended(app)
        assert status.state == "rolled-back"
        assert "ZeroDivisionError: a bug" in status.reason
        assert (await split_of(app)).share("b") == 0
