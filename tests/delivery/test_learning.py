"""A split that learns: shares follow what is worth most, over crashes, with guards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aura import Aura, Config
from aura.delivery.learning import LearningPlan, LearningStatus, due, fold, load_learning
from aura.delivery.ledger import Ledger
from aura.delivery.observation import Observation
from aura.delivery.policy import Policy
from aura.delivery.reward import Reward
from aura.delivery.split import Split
from aura.errors import FlowError, PlanError, RunFailed
from aura.store.base import FeedItem, PutDocument
from tests.engine.kit import until

FAST = Policy(floor=0.05, max_failures=0.3)


def plan(**changes: object) -> LearningPlan:
    given = {"name": "route", "split": "chat", "arms": ("small", "large"), "every": 0.1}
    return LearningPlan(**{"policy": FAST, **given, **changes})  # type: ignore[arg-type]


def made(database: str) -> Aura:
    return Aura("learns", config=Config(database=database, lease=2.0))


def observed(app: Aura, arm: str, number: int, *, ok: bool, **more: object) -> None:
    app.rollouts.observe(
        Observation("chat", 1, arm, f"u{number}", app.clock.now(), ok, 0.1, share=0.5, **more)  # type: ignore[arg-type]
    )


async def look(app: Aura, wanted: object) -> LearningStatus:
    async def reached() -> bool:
        return bool(wanted(await app.learning.status("route")))  # type: ignore[operator]

    await until(reached, timeout=60)
    return await app.learning.status("route")


async def serving(app: Aura) -> Split:
    document = await app.store.document("split", "chat")
    assert document is not None
    return Split.from_json(document.body)


async def test_traffic_goes_where_it_is_worth_most(database: str) -> None:
    async with made(database) as app:
        begun = await app.learning.start(plan(policy=Policy(floor=0.05)))
        assert begun.weights == {"small": 0.5, "large": 0.5}
        assert (await serving(app)).moving
        for number in range(60):
            observed(app, "small", number, ok=number % 2 == 0)
            observed(app, "large", number, ok=True)
        status = await look(app, lambda one: one.weights["large"] > 0.9)
        split = await serving(app)
        assert {arm.name: arm.weight for arm in split.arms} == dict(status.weights)
        assert status.weights["small"] >= 0.05
        await app.learning.stop("route", keep=True, by="ada", reason="enough")
        ended = await look(app, lambda one: one.state == "stopped")
        assert ended.weights == status.weights
        assert ended.history[-1]["by"] == "ada"
        assert not (await serving(app)).moving


async def test_an_arm_that_fails_gets_nothing(database: str) -> None:
    async with made(database) as app:
        await app.learning.start(plan())
        for number in range(40):
            observed(app, "small", number, ok=True)
            observed(app, "large", number, ok=False)
        status = await look(app, lambda one: one.weights["large"] == 0)
        assert [line["what"] for line in status.history] == ["start", "trip"]
        await app.learning.stop("route")
        ended = await look(app, lambda one: one.state == "stopped")
        assert ended.weights == {"small": 1.0, "large": 0.0}


async def test_late_rewards_of_units(database: str) -> None:
    async with made(database) as app:
        await app.learning.start(plan(metric="score"))
        for number in range(40):
            observed(app, "small" if number % 2 else "large", number, ok=True)
        await look(app, lambda one: len(one.ledger["pending"]) == 40)
        for number in range(40):
            await app.reward("chat", f"u{number}", float(number % 2 == 0), metric="score")
        status = await look(app, lambda one: not one.ledger["pending"])
        assert status.ledger["arms"]["large"]["total"] == 20
        await look(app, lambda one: one.weights["large"] > 0.9)


async def test_another_worker_goes_on_and_folds_nothing_twice(database: str) -> None:
    async with made(database) as app:
        run = (await app.learning.start(plan())).run
        for number in range(10):
            observed(app, "large", number, ok=True)
        await look(app, lambda one: one.ledger["arms"].get("large", {}).get("rewarded") == 10)
    async with made(database) as app:
        for number in range(10, 15):
            observed(app, "large", number, ok=True)
        status = await look(app, lambda one: one.ledger["arms"]["large"]["rewarded"] >= 15)
        assert status.ledger["arms"]["large"]["rewarded"] == 15
        assert status.run == run
        await app.run(run).cancel()
        ended = await look(app, lambda one: one.state == "stopped")
        assert ended.weights["small"] == 1.0
        assert "cancelled" in ended.history[-1]["reason"]


async def test_it_begins_anew_before_its_journal_is_long(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.delivery.learning._LOOKS", 3)
    async with made(database) as app:
        begun = await app.learning.start(plan())

        async def again() -> bool:
            return (await app.run(begun.run).record()).execution > 2

        await until(again, timeout=60)
        observed(app, "large", 1, ok=True)
        await look(app, lambda one: one.ledger["arms"].get("large", {}).get("rewarded") == 1)
        await app.learning.stop("route")
        await look(app, lambda one: one.state == "stopped")


async def test_an_emergency_ends_it_and_its_shares_are_not_restored(database: str) -> None:
    async with made(database) as app:
        begun = await app.learning.start(plan())
        desk = app.rollouts.emergencies
        await desk.force(None, reason="fire")
        ended = await look(app, lambda one: one.state == "stopped")
        assert ended.history[-1]["reason"] == "split chat was forced to its baseline: fire"
        assert ended.weights == {"small": 1.0, "large": 0.0}
        assert await app.run(begun.run).result(timeout=60) == "stopped"
        split = await serving(app)
        assert (split.forced, split.share("small")) == ("fire", 1.0)
        with pytest.raises(FlowError, match="is forced to its baseline: fire"):
            await app.learning.start(plan())
        (free,) = await desk.release(None, restore=True)
        assert f"the run {begun.run} was moving it" in free.note
        assert (await serving(app)).share("small") == 1.0


async def test_it_does_not_take_up_again_what_an_emergency_has_released(database: str) -> None:
    """It was released before the next look."""
    async with made(database) as app:
        await app.learning.start(plan(every=1.0))
        desk = app.rollouts.emergencies
        await desk.force(None, reason="fire")
        await desk.release(None)
        for number in range(40):
            observed(app, "large", number, ok=True)
        ended = await look(app, lambda one: one.state == "stopped")
        assert "fire" in ended.history[-1]["reason"] or "taken back" in ended.history[-1]["reason"]
        split = await serving(app)
        assert (split.share("small"), split.moving) == (1.0, False)


async def test_what_is_refused(database: str) -> None:
    async with made(database) as app:
        with pytest.raises(FlowError, match="no split learns"):
            await app.learning.status("route")
        await app.learning.start(plan())
        with pytest.raises(FlowError, match="under way"):
            await app.learning.start(plan())
        with pytest.raises(FlowError, match="moved by the run"):
            await app.learning.start(plan(name="other"))
        await app.learning.stop("route")
        await look(app, lambda one: one.state == "stopped")
        with pytest.raises(FlowError, match="stopped"):
            await app.learning.stop("route")
    for changes in ({"arms": ("small",)}, {"arms": ("a", "a")}, {"every": 0.0}):
        with pytest.raises(FlowError):
            plan(**changes)
    with pytest.raises(FlowError, match="learn nothing"):
        plan(policy=Policy("weights", {"small": 1.0}))


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "learning.yaml"
    text = """
learning:
  name: model-route
  split: chat
  arms: [small, large]
  policy: ucb
  reward: {metric: score, horizon: 1d}
  sla: 800ms
  floor: 5%
  every: 30s
  max_failures: 10%
"""
    file.write_text(text)
    found = load_learning(file)
    assert (found.metric, found.policy.horizon, found.sla) == ("score", 86_400.0, 0.8)
    assert (found.policy.rule, found.policy.max_failures) == ("ucb", 0.1)
    file.write_text("learning: {name: a, arms: [x, y]}")
    assert load_learning(file).metric == "outcome"
    for wrong in ("learning: {name: a}", "rollout: {}", "learning: {name: a, arms: [x]}", "a: ["):
        file.write_text(wrong)
        with pytest.raises(PlanError, match=r"learning.yaml:1"):
            load_learning(file)


async def test_nobody_waits_for_a_worker_for_ever(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.delivery.learning._PATIENCE", 0.1)
    app = Aura("learns", config=Config(database=database))
    async with app.client():
        with pytest.raises(FlowError, match="no worker"):
            await app.learning.start(plan())


def _item(seq: int, at: float, payload: bytes) -> FeedItem:
    return FeedItem(seq, at, payload)


def _seen(seq: int, at: float, unit: str, clock: float = 0.0) -> FeedItem:
    one = Observation("chat", 1, "large", unit, at + clock, True, 0.1, share=0.5)
    return _item(seq, at, one.to_json())


def test_rewards_that_came_in_time_count_after_a_long_absence() -> None:
    """The worker was away for an hour of one-minute horizons; a gateway is a day ahead."""
    scored = plan(metric="score", policy=Policy(floor=0.05, horizon=60.0))
    observations = [_seen(1, 0.0, "a"), _seen(2, 0.1, "b", clock=86_400.0), _seen(3, 3_600.0, "c")]
    rewards = [
        _item(1, 30.0, Reward("a", "score", 1.0, "1").to_json()),
        _item(2, 90.0, Reward("b", "score", 1.0, "2").to_json()),  # too late
        _item(3, 3_599.9, Reward("c", "score", 1.0, "3").to_json()),  # before what it is for
        _item(4, 3_600.0, b"nonsense"),
    ]
    ledger = Ledger()
    fold(scored, ledger, observations, rewards)
    arm = ledger.arm("large")
    assert (arm.rewarded, arm.total, arm.overdue, ledger.pending) == (3, 2.0, 1, 0)
    assert ledger.ignored == 2


def test_pages_of_two_feeds_are_folded_in_the_order_of_time() -> None:
    observations = [_item(n, float(n), b"") for n in range(1, 21)]
    rewards = [_item(n, n * 3.0, b"") for n in range(1, 9)]
    seen: list[tuple[float, str]] = []
    at, late = 0, 0
    while True:
        some, others = due(observations[at : at + 4], rewards[late : late + 4], 23.5, 4)
        if not some and not others:
            break
        at, late = at + len(some), late + len(others)
        seen += sorted([(i.at, "o") for i in some] + [(i.at + 1.0, "r") for i in others])
    assert seen == sorted(seen)
    assert (at, late) == (20, 7)  # the last one may be of something that is not written yet


async def test_a_run_that_dies_between_the_split_and_its_status_takes_the_split_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with made(database) as app:
        put = app.learning._put

        async def failing(kind: str, name: str, body: bytes, expected: int) -> None:
            if kind == "learning":
                raise FlowError("the status cannot be written")
            await put(kind, name, body, expected)

        monkeypatch.setattr(app.learning, "_put", failing)
        monkeypatch.setattr("aura.delivery.learning._PATIENCE", 0.0)
        with pytest.raises(FlowError, match="recorded"):
            await app.learning.start(plan())

        async def taken_back() -> bool:
            document = await app.store.document("split", "chat")
            return document is not None and not Split.from_json(document.body).moving

        await until(taken_back, timeout=60)
        assert (await serving(app)).share("small") == 1.0


async def test_a_name_is_one_runs_also_when_two_begin_at_once(database: str) -> None:
    async with made(database) as app:
        first = await app.learning.start(plan())
        with pytest.raises(FlowError, match="under way"):
            await app.learning._open_split(plan(split="other"), "aura.learning:route:2")
        assert await app.store.document("split", "other") is None
        assert (await app.learning.status("route")).run == first.run


async def test_a_shift_whose_status_was_lost_is_seen_by_the_next_look(database: str) -> None:
    """The worker died between the two, and by the next look the shares are even again."""
    async with made(database) as app:
        begun = await app.learning.start(plan(every=600.0))
        await app.learning._shift(plan(), begun.run, {"small": 0.1, "large": 0.9})
        assert await app.learning._look_once(plan(), begun.run) == begun.weights
        assert (await serving(app)).share("large") == 0.5


async def test_who_loses_the_split_says_so(database: str) -> None:
    async with made(database) as app:
        begun = await app.learning.start(plan())
        split = await serving(app)
        other = replace(split, seed="chat/another", epoch=split.epoch + 1)
        await app.store.commit([PutDocument("split", "chat", other.to_json(), split.epoch)])
        ended = await look(app, lambda one: one.state == "stopped")
        assert "taken over" in ended.history[-1]["reason"]
        with pytest.raises(RunFailed, match="taken over"):
            await app.run(begun.run).result(timeout=60)
        assert (await serving(app)).seed == "chat/another"
