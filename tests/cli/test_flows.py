"""`aura flows`: what a choice has learnt, other policies, releasing an arm."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

import aura as library
from aura import Aura as App
from aura import Config, step
from aura.delivery.ledger import Line
from tests.cli.conftest import Aura


@step(idempotent=True)
async def path(name: str) -> str:
    return name


async def choose_often(project: Path) -> None:
    """Thirty choices of which only "deep" pays, one that waits, and a trip."""
    app = App("shop", config=Config(database=str(project / "aura.db")))
    app.flows.dice = random.Random(3).random

    @app.workflow(version="1.0.0")
    async def research() -> str:
        arms = {"quick": lambda: path("quick"), "deep": lambda: path("deep")}
        return await library.choose("strategy", arms, policy={"quick": 0.5, "deep": 0.5})

    async with app:
        for _ in range(30):
            run = await app.start(research)
            await run.reward("strategy", float(await run.result() == "deep"))
        await (await app.start(research)).result()
        await app.flows.write("strategy", Line("trip", app.clock.now(), "quick", by="too many"))


@pytest.fixture
def chosen(project: Path) -> None:
    asyncio.run(choose_often(project))


def test_nothing_was_chosen(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"a"').code == 0
    assert "No choice" in aura("flows", "list").err
    assert aura("flows", "list", "--json").json == []
    ended = aura("flows", "show", "strategy")
    assert ended.code == 1
    assert "no choice strategy" in ended.err


def test_what_was_learnt(aura: Aura, chosen: None) -> None:
    [one] = aura("flows", "list", "--json").json
    assert (one["name"], one["pending"], one["ignored"]) == ("strategy", 1, 0)
    assert one["arms"]["deep"]["mean"] == 1.0
    assert one["arms"]["quick"]["tripped"] == "too many"
    shown = aura("flows", "show", "strategy")
    assert "too many" in shown.out
    assert "1 choices wait" in shown.err or "1 choice waits" in shown.err


def test_a_reward_of_what_is_not_there(aura: Aura, chosen: None) -> None:
    ended = aura("runs", "reward", "nobody", "strategy", "0.5", "--json")
    assert ended.code == 1
    assert ended.json["error"]["type"] == "RunNotFound"
    run = aura("runs", "list", "--json").json["runs"][0]
    ended = aura("runs", "reward", run["id"], "nothing", "0.5", "--json")
    assert ended.code == 1
    assert ended.json["error"]["type"] == "UnknownFlow"


def test_another_policy(aura: Aura, chosen: None) -> None:
    found = aura("flows", "evaluate", "strategy", "--policy", "deep", "--json").json
    assert found["n"] == 30
    assert found["doubly_robust"]["estimate"] == pytest.approx(1.0, abs=0.2)
    half = aura("flows", "evaluate", "strategy", "--policy", "quick=0.5,deep=0.5")
    assert "Intervals need 100 choices" in half.err
    assert "inf" not in half.out
    for wrong in ("other", "quick=0.5", "quick=a,deep=b"):
        ended = aura("flows", "evaluate", "strategy", "--policy", wrong)
        assert ended.code == 1
        assert "Traceback" not in ended.err


def test_release(aura: Aura, chosen: None) -> None:
    assert aura("flows", "release", "strategy", "other").code == 1
    assert aura("flows", "release", "strategy", "quick", "--by", "ada").code == 0
    [one] = aura("flows", "list", "--json").json
    assert one["arms"]["quick"]["tripped"] == ""
