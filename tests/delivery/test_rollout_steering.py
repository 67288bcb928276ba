"""What people do to rollouts: approve, refuse, pause, retry, skip; and the way back in steps.

Through the public face, under made traffic, on both stores."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from aura import Aura
from aura.delivery.approval import ApprovalRule
from aura.delivery.backtest import Backtest, Replay
from aura.delivery.descent import Descent
from aura.delivery.plan import Pair, Plan
from aura.delivery.status import RolloutStatus
from aura.delivery.windows import Window
from aura.errors import RolloutError
from aura.store.base import AppendFeed
from tests.delivery.rollout_kit import (
    PLAN,
    Traffic,
    app_on,
    check_the_way_up,
    ended,
    forever,
    held,
    observed,
    plan,
    split_of,
    story,
    traffic,
    wait_for,
)

GATED = plan(
    stages=(
        replace(PLAN.stages[1], approval=ApprovalRule(2, ("ann", "bob", "cid"))),
        PLAN.stages[3],
    )
)


def asked(status: RolloutStatus) -> bool:
    return status.approval is not None and status.approval.asked_at is not None


async def test_a_stage_is_passed_when_enough_people_have_approved(database: str) -> None:
    async with app_on(database) as app, traffic(app) as made:
        await app.rollouts.start(GATED)
        status = await wait_for(app, asked)
        assert status.reason.endswith("waits for 2 approvals of ann or bob or cid")
        for by, stage, wrong in (
            ("eve", "", "eve is none of those"),
            ("ann", "100%", "in stage 30%, not 100%"),
            ("", "", "somebody's"),
        ):
            with pytest.raises(RolloutError, match=wrong):
                await app.rollouts.approve("t", by=by, stage=stage)
        await app.rollouts.approve("t", by="ann", stage="30%", reason="looks good")
        status = await wait_for(app, lambda s: s.approval is not None and bool(s.approval.given))
        assert status.state == "running"
        assert status.approval is not None
        assert status.approval.given == ("ann",)
        await app.rollouts.approve("t", by="ann")  # she counts once
        await wait_for(app, lambda s: "void" in story(s))
        await app.run(status.run).signal("approval", {"by": "bob"})  # as anybody may
        status = await ended(app)
        assert story(status) == [
            *("start", "ask", "approve", "void", "approve", "advance", "complete")
        ]
        assert [event.by for event in status.history[2:5]] == ["ann", "ann", "bob"]
        assert "1 of 2 approvals of stage 30%: looks good" in status.history[2].reason
        assert "ann has approved already" in status.history[3].reason
        check_the_way_up(made.splits)
        journal = await app.store.journal(status.run)
        assert sum(entry.kind == "signal" for entry in journal) == 3


def voids(status: RolloutStatus) -> list[str]:
    """Why approvals did not count."""
    return [event.reason for event in status.history if event.what == "void"]


async def test_approvals_that_cannot_be_read_do_no_harm() -> None:
    async with app_on(":memory:") as app, traffic(app):
        begun = await app.rollouts.start(GATED)
        for payload in (None, 7, "yes", {"ok": "yes", "by": "ann"}, {}, {"by": "eve"}):
            await app.run(begun.run).signal("approval", payload)
        status = await wait_for(app, lambda s: story(s).count("void") == 6)
        assert status.state == "running"
        assert "eve is none of ann, bob, cid" in voids(status)[-1]
        await app.run(begun.run).signal("approval", {"by": "ann", "stage": "100%"})
        status = await wait_for(app, lambda s: story(s).count("void") == 7)
        assert "it is for stage 100%, the rollout is in stage 30%" in voids(status)[-1]


@pytest.mark.parametrize(("answer", "state"), [("rollback", "rolled-back"), ("hold", "held")])
async def test_a_refusal(database: str, answer: str, state: str) -> None:
    rule = ApprovalRule(1, on_refusal=answer)  # type: ignore[arg-type]
    given = plan(stages=(replace(PLAN.stages[1], approval=rule), PLAN.stages[3]))
    async with app_on(database) as app, traffic(app):
        await app.rollouts.start(given)
        await app.rollouts.approve("t", by="ann", reason="prices", ok=False)
        status = await wait_for(app, lambda s: s.state == state)
        last = status.history[-1]
        assert (last.by, last.reason) == ("ann", "refused by ann: prices")
        assert (await split_of(app)).share("b") == (0.0 if state == "rolled-back" else 0.3)


async def test_nobody_approves_in_time() -> None:
    rule = ApprovalRule(1, timeout=0.2)
    given = plan(stages=(replace(PLAN.stages[1], approval=rule),))
    async with app_on(":memory:") as app, traffic(app):
        await app.rollouts.start(given)
        status = await wait_for(app, held)
        assert story(status) == ["start", "ask", "hold"]
        assert "not approved within 200 ms" in status.reason
        await app.rollouts.order("t", "rollback")
        await ended(app)
        with pytest.raises(RolloutError, match="is rolled-back"):
            await app.rollouts.approve("t", by="ann")


def closed_now() -> Window:
    """An hour of the week that is half a week away."""
    day = int(time.time() // 86_400 + 3 + 3) % 7  # 1970-01-01 was a Thursday
    return Window((day,), 0, 60)


async def test_outside_of_its_window_a_stage_is_not_passed(database: str) -> None:
    stages = (PLAN.stages[1], replace(PLAN.stages[2], windows=()), PLAN.stages[3])
    async with app_on(database) as app, traffic(app) as made:
        await app.rollouts.start(plan(stages=stages, windows=(closed_now(),)))
        status = await wait_for(app, lambda s: "has its evidence and waits for" in s.reason)
        assert "its window, which opens " in status.reason
        assert story(status) == ["start"]
        await app.rollouts.order("t", "advance", by="ann")  # a person may
        status = await wait_for(app, lambda s: s.stage == "100%")
        assert "without its window, which opens" in status.history[1].reason
        assert story(status)[:3] == ["start", "advance", "advance"]  # 60% has no window
        made.failing["b"] = 0.9  # and no window keeps it from going back
        assert (await ended(app)).state == "rolled-back"


async def test_a_pause_stops_the_clock_and_nothing_else(database: str) -> None:
    stages = (replace(PLAN.stages[1], min_time=1.5), PLAN.stages[3])
    async with app_on(database) as app:
        await app.rollouts.start(plan(stages=stages))  # without traffic no stage is passed
        await app.rollouts.order("t", "pause", by="ann", reason="freeze")
        status = await wait_for(app, lambda s: s.state == "paused")
        with pytest.raises(RolloutError, match="is paused"):
            await app.rollouts.order("t", "pause")
        paused = await split_of(app)
        before = status.history[-1].at - status.history[0].at
        await asyncio.sleep(0.3)
        async with traffic(app) as made:
            await app.rollouts.order("t", "resume", by="ann")
            status = await ended(app)
        assert story(status) == ["start", "pause", "resume", "advance", "complete"]
        at = [event.at for event in status.history]
        assert at[3] - at[2] >= 1.5 - before - 0.1  # the rest of its time
        assert at[3] - at[0] >= 1.5 + (at[2] - at[1]) - 0.1
        assert made.splits[0].epoch == paused.epoch


async def test_guards_watch_during_a_pause() -> None:
    async with app_on(":memory:") as app, traffic(app) as made:
        await app.rollouts.start(forever(stages=PLAN.stages[1:]))
        await app.rollouts.order("t", "pause")
        await wait_for(app, lambda s: s.state == "paused")
        made.failing["b"] = 0.9
        assert (await ended(app)).guard == "errors"


async def test_a_stage_is_begun_anew(database: str) -> None:
    async with app_on(database) as app, traffic(app):
        await app.rollouts.start(forever(stages=PLAN.stages[1:]))
        await wait_for(app, lambda s: s.stages[0].candidate.requests > 30)
        before = await split_of(app)
        await app.rollouts.order("t", "retry", by="ann", reason="cold caches")
        status = await wait_for(app, lambda s: s.turn == 1)
        assert story(status) == ["start", "retry"]
        assert status.history[-1].by == "ann"
        assert status.stages[0].candidate.requests > 30  # counts go on
        assert "0 of 8 requests" in status.evidence[0].reason or "no failures" in (
            status.evidence[0].reason
        )
        split = await split_of(app)
        assert (split.epoch, split.share("b")) == (before.epoch + 1, 0.3)


async def test_stages_are_skipped(database: str) -> None:
    async with app_on(database) as app, traffic(app) as made:
        await app.rollouts.start(forever())
        for stage, wrong in (("nowhere", "no stage 'nowhere'"), ("", "no stage ''")):
            with pytest.raises(RolloutError, match=wrong):
                await app.rollouts.order("t", "skip", to=stage)
        await app.rollouts.order("t", "skip", to="60%", by="ann", reason="tested elsewhere")
        status = await wait_for(app, lambda s: s.turn == 1)
        assert (status.stage, story(status)) == ("60%", ["start", "skip"])
        with pytest.raises(RolloutError, match=r"at 60\.00%, stage 30% is no later one"):
            await app.rollouts.order("t", "skip", to="30%")
        check_the_way_up([*made.splits, await split_of(app)])


LADDER = Descent(steps=(0.5, 0.2), min_requests=20, min_time=0.05, max_time=60.0)


async def test_a_gradual_rollback_stops_where_it_is_healthy_again(database: str) -> None:
    """It fails as long as it has more than 40 % of the traffic."""
    given = plan(stages=(PLAN.stages[3],), guards=PLAN.guards[:1], on_trip="gradual")
    given = replace(given, gradual=LADDER, guards=(replace(PLAN.guards[0], max_error_rate=None),))
    stages = (replace(given.stages[0], min_requests=10**9),)
    async with app_on(database) as app, traffic(app, per_second=2_000) as made:
        made.failing["b"], made.fine_up_to = 0.5, 0.4
        await app.rollouts.start(replace(given, stages=stages))
        status = await wait_for(app, held)
        made.failing.clear()
        assert story(status) == ["start", "descend", "descend", "hold"]
        assert [split.share("b") for split in made.splits] == [1.0, 0.5, 0.2]
        assert "healthy again at 20.00%" in status.reason
        assert (status.weight, status.stages[0].verdict) == (0.2, "held")
        assert (await split_of(app)).share("b") == 0.2
        await app.rollouts.order("t", "resume", by="ann")
        status = await wait_for(app, lambda s: s.state == "running")
        assert (status.weight, status.stage) == (1.0, "100%")


TOGETHER = plan(together=(Pair("s", "a", "b"),), stages=PLAN.stages[1:])


class Both:
    """Traffic on two splits."""

    def __init__(self, first: Traffic, second: Traffic) -> None:
        self.made = (first, second)

    def check(self) -> None:
        for made in self.made:
            check_the_way_up(made.splits)
            assert made.went_back == []
        seeds = [made.splits[0].seed for made in self.made]
        assert seeds == ["t/rollout-t-1", "s/rollout-t-1"]


async def test_splits_are_moved_together(database: str) -> None:
    async with app_on(database) as app, traffic(app) as one, traffic(app, split="s") as two:
        await app.rollouts.start(TOGETHER)
        status = await ended(app)
        assert story(status) == ["start", "advance", "advance", "complete"]
        assert "t: " in status.history[1].reason
        assert "; s: " in status.history[1].reason
        assert [pair.split for pair in status.together] == ["s"]
        for pair in status.pairs:
            assert pair.weights == {"a": 0.0, "b": 1.0}
            assert all(stage.candidate.requests >= 8 for stage in pair.stages)
        Both(one, two).check()
        again = plan(name="x", split="s", baseline="b", candidate="c")
        assert (await app.rollouts.start(again)).run == "rollout-x-1"


async def test_a_split_without_traffic_holds_up_the_other(database: str) -> None:
    async with app_on(database) as app, traffic(app):
        await app.rollouts.start(TOGETHER)
        status = await wait_for(app, lambda s: "s: 8 more requests" in s.reason)
        assert status.stage == "30%"
        with pytest.raises(RolloutError, match="rollout t of split s is running"):
            await app.rollouts.start(plan(name="x", split="s"))


async def test_a_trip_in_one_takes_all_back(database: str) -> None:
    async with app_on(database) as app, traffic(app), traffic(app, split="s") as two:
        two.failing["b"] = 0.6
        await app.rollouts.start(TOGETHER)
        status = await ended(app)
        assert (status.state, status.guard) == ("rolled-back", "errors")
        assert status.reason.startswith("s: errors")
        for name in ("t", "s"):
            assert (await split_of(app, name)).share("b") == 0


async def test_of_two_splits_one_is_taken_so_the_other_stays(database: str) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(forever(name="x", split="s"))
        with pytest.raises(RolloutError, match="rollout x of split s is running"):
            await app.rollouts.start(TOGETHER)
        engine = app.rollouts.engine  # and when both have looked before
        run = await engine.announce(TOGETHER)
        await app.start(engine.workflow, TOGETHER, run, id=run)
        status = await ended(app)
        assert story(status) == ["refuse"]
        assert await app.store.document("split", "t") is None


# What is odd is said.


async def test_wrong_clocks_and_requests_without_a_unit_are_said(database: str) -> None:
    async with app_on(database) as app:
        await app.rollouts.start(forever(stages=PLAN.stages[1:]))
        now = time.time()
        bodies = [observed(unit=f"u{n}", at=now).to_json() for n in range(4)]
        bodies += [observed(unit="u5", at=now + 3_600).to_json()]
        bodies += [observed(unit="u6", at=now - 900).to_json(), b"nonsense"]
        bodies += [observed(unit="address:10.0.0.7", at=now).to_json()]
        await app.committer.submit(AppendFeed("observations/t", tuple(bodies)))
        status = await wait_for(app, lambda s: len(s.notes) == 4)
        assert status.stages[0].candidate.requests == 7
        unreadable, ahead, behind, nameless = status.notes
        assert unreadable.startswith("1 observations cannot be read")
        assert "1 of 7 observations came from the future, up to 3,6" in ahead
        assert "1 of 7 observations were written late, up to 9" in behind
        assert "1 of 7 observations are of requests that named no unit" in nameless


def test_an_observation_from_the_future_does_not_empty_the_windows() -> None:
    """A gateway's clock is an hour ahead: the failures of the others still count."""
    given: Plan = plan(stages=PLAN.stages[1:])
    replay = Replay(given, 1_000.0)
    for number in range(20):
        at = 1_000.0 + number * 0.1
        replay.see(observed(unit=f"u{number}", arm="b", at=at, ok=number % 2 == 0), at)
        replay.see(observed(unit=f"v{number}", arm="a", at=at + 3_600), at)
    found = replay.result()
    assert found.state == "rolled-back"
    assert "20 of" in found.notes[0] or "from the future" in found.notes[0]


# Histories, and what another plan would have done.


async def test_histories_are_kept_and_replayed(database: str) -> None:
    first = plan(stages=PLAN.stages[1:])
    async with app_on(database) as app, traffic(app) as made:
        await app.rollouts.start(first)
        await ended(app)
        made.failing["b"] = 0.5
        await app.rollouts.start(first, again=True)
        assert (await ended(app)).state == "rolled-back"
        made.failing.clear()
        before, now = await app.rollouts.past("t")
        assert (before.run, before.state) == ("rollout-t-1", "completed")
        assert (now.run, now.state) == ("rollout-t-2", "rolled-back")
        assert story(before) == ["start", "advance", "advance", "complete"]

        found = await backtested(app, now, first)
        assert found.state == "rolled-back"
        assert found.hits.requests >= 1
        assert found.hits.requests <= found.recorded.requests
        again = await backtested(app, before, first)
        assert again.observations >= 24  # eight of the candidate in each of three stages
        assert again.ended >= again.began
        with pytest.raises(RolloutError, match="recorded nothing of split t from a to c"):
            await backtested(app, before, replace(first, candidate="c"))


async def backtested(app: Aura, status: RolloutStatus, given: Plan) -> Backtest:
    replay = Replay(given, status.opened[1] if status.opened else None)
    async for one, written in app.rollouts.recorded(status, given):
        replay.see(one, written)
    return replay.result()
