"""Choices inside workflows: journalled, learnt from, guarded, and falling back."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest

import aura
from aura import Aura, Config, step
from aura.delivery.flow import Flows
from aura.delivery.ledger import Ledger, Line, folded
from aura.delivery.policy import Policy, draw, features, probabilities, tripping
from aura.errors import (
    FlowError,
    InvalidInput,
    RunFailed,
    RunNotFound,
    StoreUnavailable,
    UnknownFlow,
)
from aura.store.base import Sweep

calls: Counter[str] = Counter()


@step
async def quick() -> str:
    calls["quick"] += 1
    return "quick"


@step
async def deep() -> str:
    calls["deep"] += 1
    return "deep"


@step
async def broken() -> str:
    calls["broken"] += 1
    raise ValueError("no")


def made(database: str, **workflows: Any) -> Aura:
    calls.clear()
    app = Aura("flows", config=Config(database=database))
    app.flows.dice = random.Random(5).random
    for name, function in workflows.items():
        app.workflow(version="1.0.0", name=name)(function)
    return app


async def test_the_choice_is_in_the_journal_and_in_the_log(database: str) -> None:
    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick, "deep": deep})

    app = made(database, research=research)
    async with app:
        run = await app.start("research")
        taken = await run.result()
        [line] = await app.flows.lines("strategy")
        assert (line.kind, line.arm, line.run, line.value) == ("choice", taken, run.id, 0.5)
        entry = (await app.store.journal(run.id))[0]
        assert entry.key == "0/choose:strategy#1"
        assert await app.flows.names() == ["strategy"]


async def test_rewards_may_come_late_and_are_learnt_from(database: str) -> None:
    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick, "deep": deep})

    app = made(database, research=research)
    async with app:
        for _ in range(12):
            run = await app.start("research")
            await run.reward("strategy", 1.0 if await run.result() == "deep" else 0.0)
        await run.reward("strategy", 0.5)  # it has one already
        flow = await app.flows.show("strategy")
        assert flow.pending == 0
        assert flow.ignored == 1
        assert sum(arm.rewarded for arm in flow.arms.values()) == 12
        better = flow.arms["deep"].mean > flow.arms["quick"].mean or flow.arms["quick"].choices == 0
        assert better
        assert flow.probabilities["deep"] > 0.5


async def test_a_reward_of_what_is_not_there_is_refused(database: str) -> None:
    """Nothing of it is written; a run that chose something else is told by a count."""

    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick, "deep": deep})

    async def other() -> str:
        return "chose nothing"

    app = made(database, research=research, other=other)
    async with app:
        first = await app.start("other", id="first")
        with pytest.raises(UnknownFlow, match="strategy"):
            await first.reward("strategy", 1.0)
        await (await app.start("research")).result()
        for name in ("strategy", "none"):
            with pytest.raises(RunNotFound, match="nobody"):
                await app.run("nobody").reward(name, 1.0)
        with pytest.raises(UnknownFlow, match="none"):
            await first.reward("none", 1.0)
        assert [line.kind for line in await app.flows.lines("strategy")] == ["choice"]
        assert await app.store.feed("choices/none") == []
        await first.reward("strategy", 1.0)
        flow = await app.flows.show("strategy")
        assert (flow.ignored, flow.pending) == (1, 1)


async def test_a_reward_of_the_result_needs_nobody(database: str) -> None:
    async def research() -> str:
        return await aura.choose(
            "strategy",
            {"quick": quick, "deep": deep},
            reward=lambda result: 1.0 if result == "deep" else 0.0,
        )

    app = made(database, research=research)
    async with app:
        await asyncio.gather(*[(await app.start("research")).result() for _ in range(10)])
        flow = await app.flows.show("strategy")
        assert flow.pending == 0
        for name, arm in flow.arms.items():
            assert arm.mean == (name == "deep")
            assert arm.good == arm.choices


async def test_a_replay_takes_the_recorded_choice(database: str) -> None:
    """The run is taken out of memory between the choice and the path, and another process, to which
    the other arm would be the only good one, goes on with it."""

    async def research() -> list[str]:
        first = await aura.choose(
            "strategy", {"quick": quick, "deep": deep}, policy={"quick": 1.0, "deep": 0.0}
        )
        await aura.receive("go")
        again = await aura.choose(
            "strategy", {"quick": quick, "deep": deep}, policy=lambda _: "deep"
        )
        return [first, again]

    app = made(database, research=research)
    async with app:
        run = await app.start("research")
        while not calls["quick"]:
            await asyncio.sleep(0.01)
    second = Aura("flows", config=Config(database=database))
    second.workflow(version="1.0.0", name="research")(research)
    async with second:
        found: Any = second.run(run.id)
        await found.signal("go")
        assert await found.result() == ["quick", "deep"]
    assert calls == {"quick": 1, "deep": 1}


async def test_a_condition_names_the_path(database: str) -> None:
    async def research(size: int) -> str:
        return await aura.choose(
            "by-size",
            {"quick": quick, "deep": deep},
            context={"size": size},
            policy=lambda context: "deep" if int(context["size"]) > 10 else "quick",
        )

    app = made(database, research=research)
    async with app:
        assert await (await app.start("research", 3)).result() == "quick"
        assert await (await app.start("research", 30)).result() == "deep"
        assert await app.flows.names() == []  # nothing is learnt from it


async def test_loops_and_fallbacks(database: str) -> None:
    async def research() -> list[str]:
        return [
            await aura.choose(
                "strategy",
                {"broken": broken, "deep": deep},
                policy={"broken": 1.0, "deep": 0.0},
                fallback=True,
            )
            for _ in range(3)
        ]

    app = made(database, research=research)
    async with app:
        assert await (await app.start("research")).result() == ["deep"] * 3
        assert calls == {"broken": 3, "deep": 3}


async def test_without_a_fallback_the_error_is_the_paths(database: str) -> None:
    async def research() -> str:
        return await aura.choose("strategy", {"broken": broken})

    app = made(database, research=research)
    async with app:
        with pytest.raises(RunFailed, match="no"):
            await (await app.start("research")).result()


async def test_an_arm_that_fails_too_often_is_taken_no_more(database: str) -> None:
    policy = Policy(max_failures=0.05, floor=0.3)

    async def research() -> str:
        return await aura.choose(
            "strategy", {"deep": deep, "broken": broken}, policy=policy, fallback=True
        )

    app = made(database, research=research)
    async with app:
        for _ in range(40):
            await (await app.start("research")).result()
            app.flows._known.clear()  # as another process would see it
        flow = await app.flows.show("strategy")
        assert "evidence" in flow.arms["broken"].tripped
        assert flow.probabilities == {"deep": 1.0, "broken": 0.0}
        failures = calls["broken"]
        assert 2 <= failures <= 10
        await app.flows.release("strategy", "broken", by="ada")
        flow = await app.flows.show("strategy")
        assert flow.probabilities["broken"] >= 0.3
        assert [line.by for line in await app.flows.lines("strategy")][-1] == "ada"


async def test_snapshots_carry_on(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aura.delivery.flow._SNAPSHOT", 5)

    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick, "deep": deep}, context={"a": True})

    app = made(database, research=research)
    async with app:
        for _ in range(12):
            run = await app.start("research")
            await run.reward("strategy", float(await run.result() == "deep"))
            await app.flows.show("strategy")
        known = app.flows._known["strategy"]
        other = Flows()
        other.open(app.store, app.committer, app.clock)
        await other.show("strategy")
        assert other._known["strategy"].kept > 0
        assert other._known["strategy"].ledger.to_dict() == known.ledger.to_dict()


async def test_bad_input(database: str) -> None:
    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick, "deep": deep})

    async def bad(what: str) -> str:
        arms: Any = {"quick": quick}
        given: Any = {
            "weights": {"policy": {"quick": 0.5}},
            "arms": {"policy": {"other": 1.0}},
            "name": {"policy": "best"},
            "context": {"context": {"x": float("nan")}},
            "condition": {"policy": lambda _: "other"},
            "reward": {"reward": lambda _: 7.0},
        }[what]
        return await aura.choose("strategy", arms, **given)

    app = made(database, research=research, bad=bad)
    async with app:
        run = await app.start("research")
        await run.result()
        for reward in (float("nan"), 1.5, "much"):
            with pytest.raises(InvalidInput):
                await run.reward("strategy", reward)  # type: ignore[arg-type]
        for what, text in {
            "weights": "add up to 0.5", "arms": "no arm", "name": "best", "context": "nan",
            "condition": "other", "reward": "7.0",
        }.items():  # fmt: skip
            with pytest.raises(RunFailed, match=text):
                await (await app.start("bad", what)).result()
        with pytest.raises(FlowError, match="no choice nothing"):
            await app.flows.show("nothing")


# The rules, without a database.


def test_pending_choices_count_when_their_time_is_over() -> None:
    lines = [
        Line("choice", 0.0, "a", "1", "r1", 0.5, until=10.0, overdue=0.0),
        Line("choice", 1.0, "b", "2", "r2", 0.5, until=5.0),
        Line("choice", 2.0, "b", "3", "r3", 0.5, until=20.0, overdue=0.0),
        Line("reward", 12.0, run="r1", value=1.0),  # too late
        Line("reward", 12.0, run="r3", value=1.0),
    ]
    ledger = folded(lines)
    assert (ledger.arm("a").rewarded, ledger.arm("a").total) == (1, 0.0)
    assert (ledger.arm("b").rewarded, ledger.arm("b").total, ledger.arm("b").overdue) == (1, 1.0, 1)
    assert (ledger.pending, ledger.ignored) == (0, 1)
    assert Ledger.from_dict(folded(lines[:3]).to_dict()).to_dict() == folded(lines[:3]).to_dict()


def test_a_choice_that_was_logged_twice_is_one() -> None:
    ledger = folded(
        [Line("choice", 0.0, "a", "1", "r1", 0.5), Line("choice", 1.0, "b", "1", "r1", 0.5)]
    )
    assert (ledger.arm("a").choices, ledger.arm("b").choices, ledger.pending) == (0, 1, 1)


def test_when_all_arms_are_tripped_the_baseline_is_taken() -> None:
    lines = [Line("outcome", 0.0, arm, value=0.0) for arm in "ab" for _ in range(20)]
    ledger = folded(lines)
    policy = Policy(max_failures=0.1)
    assert set(tripping(policy, ledger, "ab")) == {"a", "b"}
    folded([Line("trip", 1.0, arm, by="bad") for arm in "ab"], ledger)
    assert probabilities(policy, ledger, ["a", "b"]) == {"a": 1.0, "b": 0.0}


def test_an_arm_within_its_limit_is_hardly_ever_tripped() -> None:
    """1,000 arms that fail in exactly 10 %, looked at after each of 300 outcomes."""
    policy, tripped = Policy(max_failures=0.1, alpha=0.05), 0
    for seed in range(300):
        rng, ledger = random.Random(seed), Ledger()
        for _ in range(200):
            ledger.fold(Line("outcome", 0.0, "a", value=float(rng.random() >= 0.1)))
            if tripping(policy, ledger, ["a"]):
                tripped += 1
                break
    assert tripped <= 0.05 * 300


def test_context_changes_what_is_best() -> None:
    ledger = Ledger()
    for number in range(60):
        good = {"long": float(number % 2)}
        for arm in ("quick", "deep"):
            fits = (arm == "deep") == bool(number % 2)
            ledger.fold(Line("choice", number, arm, f"{arm}{number}", "r", 0.5, context=good))
            ledger.fold(Line("reward", number, id=f"{arm}{number}", value=float(fits)))
    long = probabilities(Policy(), ledger, ["quick", "deep"], {"long": 1.0})
    short = probabilities(Policy(), ledger, ["quick", "deep"], {"long": 0.0})
    assert long["deep"] > 0.9
    assert short["quick"] > 0.9


def test_ucb_takes_the_highest_bound_and_keeps_the_floor() -> None:
    ledger = Ledger()
    for number, (arm, value) in enumerate([("a", 1.0), ("b", 0.0)] * 20):
        ledger.fold(Line("choice", number, arm, str(number), "r", 0.5))
        ledger.fold(Line("reward", number, id=str(number), value=value))
    assert probabilities(Policy("ucb", floor=0.05), ledger, ["a", "b"]) == pytest.approx(
        {"a": 0.95, "b": 0.05}
    )


def test_draws_fall_where_they_should() -> None:
    found = {"a": 0.25, "b": 0.0, "c": 0.75}
    assert [draw(found, one).arm for one in (0.0, 0.24, 0.25, 0.999)] == ["a", "a", "c", "c"]
    assert draw(found, 0.5).probability == 0.75


def test_features_of_a_context() -> None:
    assert features({"lang": "de", "new": True, "size": 0.5}) == {
        "lang=de": 1.0, "new": 1.0, "size": 0.5,
    }  # fmt: skip
    with pytest.raises(FlowError, match="size"):
        features({"size": float("inf")})


def test_an_outcome_that_is_told_twice_counts_once() -> None:
    """A worker died between the log and the journal: the next one tells it again."""
    chosen = Line("choice", 0.0, "a", "1", "r1", 0.5, until=10.0, overdue=0.0, tells=True)
    ended, worth = Line("outcome", 1.0, "a", "1"), Line("reward", 1.0, id="1", value=1.0)
    for lines in (
        [chosen, ended, ended],
        [chosen, ended, worth, ended, worth],  # with the reward of the result
        [chosen, worth, ended, ended],  # somebody rewarded it before its path had ended
        [chosen, replace(ended, at=99.0), replace(ended, at=99.0)],  # its time was over
    ):
        ledger = Ledger()
        for line in lines:  # every process may take over at any line
            ledger = folded([line], Ledger.from_dict(json.loads(json.dumps(ledger.to_dict()))))
        assert (ledger.arm("a").failed, ledger.arm("a").good) == (1, 0), lines
        assert ledger.arm("a").rewarded == (1 if worth in lines or lines[1].at > 10 else 0)


async def test_a_step_that_tells_twice_counts_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are in the log, and the database says that it does not know."""

    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick}, reward=lambda _: 1.0)

    app = made(database, research=research)
    written = app.flows.write
    lost = [True]

    async def write(name: str, *lines: Line) -> None:
        await written(name, *lines)
        if lines[0].kind == "outcome" and lost:
            lost.clear()
            raise StoreUnavailable("the answer was lost")

    monkeypatch.setattr(app.flows, "write", write)
    async with app:
        await (await app.start("research")).result()
        assert len(await app.flows.lines("strategy")) == 5
        arm = (await app.flows.show("strategy")).arms["quick"]
        assert (arm.good, arm.rewarded, arm.total) == (1, 1, 1.0)


async def test_a_clock_that_is_ahead_ends_nobodys_wait(database: str) -> None:
    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick, "deep": deep})

    app = made(database, research=research)
    async with app:
        run = await app.start("research")
        await run.result()
        ahead = Line("reward", app.clock.now() + 30 * 86_400, run="another", value=1.0)
        await app.flows.write("strategy", ahead)
        assert (await app.flows.show("strategy")).pending == 1
        await run.reward("strategy", 1.0)
        flow = await app.flows.show("strategy")
        assert (flow.pending, sum(arm.total for arm in flow.arms.values())) == (0, 1.0)


async def test_a_trip_that_could_not_be_written_is_written_later(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def research() -> str:
        return await aura.choose("strategy", {"quick": quick})

    app = made(database, research=research)
    async with app:
        lines = [Line("outcome", 0.0, "deep", value=0.0) for _ in range(20)]
        await app.flows.write("strategy", *lines)
        policy, written = Policy(max_failures=0.1), app.flows.write
        away = AsyncMock(side_effect=StoreUnavailable("away"))
        monkeypatch.setattr(app.flows, "write", away)
        with pytest.raises(StoreUnavailable):
            await app.flows.draw("strategy", ["quick", "deep"], {}, policy)
        monkeypatch.setattr(app.flows, "write", written)
        await app.flows.draw("strategy", ["quick", "deep"], {}, policy)
        assert [line.kind for line in await app.flows.lines("strategy")].count("trip") == 1


async def test_a_process_that_missed_lines_which_are_swept_takes_the_snapshot(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had not looked for longer than old lines are kept."""
    monkeypatch.setattr("aura.delivery.flow._SNAPSHOT", 4)
    async with made(database) as app:
        idle, busy = Flows(), Flows()
        for one in (idle, busy):
            one.open(app.store, app.committer, app.clock)
        good = Line("outcome", 0.0, "a", value=1.0)
        await busy.write("strategy", good)
        await idle.show("strategy")
        for _ in range(10):
            await busy.write("strategy", good)
        assert (await busy.show("strategy")).arms["a"].good == 11
        swept = await app.store.sweep(Sweep(-60.0, ("choices/",)))
        assert swept.items == 10  # the last one stays
        await busy.write("strategy", good)
        assert (await idle.show("strategy")).arms["a"].good == 12
        for _ in range(2):
            await busy.write("strategy", good)
        assert (await app.store.sweep(Sweep(-60.0, ("choices/",)))).items == 3
        assert (await idle.show("strategy")).arms["a"].good == 13  # no snapshot has the others
