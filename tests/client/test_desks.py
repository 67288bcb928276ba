"""The desks of a server, over HTTP: rollouts, experiments, schedules, topics, dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from aura.client import Client
from aura.delivery.status import RolloutStatus
from aura.errors import (
    NoSuchDeadLetter,
    PlanError,
    RolloutError,
    UnknownExperiment,
    UnknownRollout,
    UnknownSchedule,
    UnknownTopic,
    UnknownVersion,
)
from tests.client.conftest import Served
from tests.client.kit import waits_flow

PLAN = {
    "name": "next", "split": "pay", "baseline": "sorts@1.0.0", "candidate": "sorts@1.1.0",
    "stages": ["10%", "100%"], "guards": [{"errors": {}}],
    "defaults": {"min_requests": 3, "min_time": "1h", "max_time": "2h"},
}  # fmt: skip


@pytest.fixture
async def app(served: Served) -> AsyncIterator[Client]:
    async with Client(served.url) as client:
        yield client


async def until(client: Client, name: str, state: str) -> RolloutStatus:
    async with asyncio.timeout(60):
        while (status := await client.rollouts.status(name)).state != state:
            await asyncio.sleep(0.02)
    return status


async def test_a_rollout_is_started_and_steered(app: Client, served: Served) -> None:
    checked = await app.rollouts.check(PLAN)
    assert checked["plan"]["name"] == "next"
    assert await app.rollouts.all() == []
    status = await app.rollouts.start(PLAN)
    assert (status.name, status.stage, status.weight) == ("next", "10%", 0.1)
    told = await app.rollouts.order("next", "hold", reason="look at the logs")
    assert isinstance(told, RolloutStatus)
    held = await until(app, "next", "held")
    assert [one.name for one in await app.rollouts.all()] == ["next"]
    assert held == await served.app.rollouts.status("next")  # the same value as in process
    with pytest.raises(RolloutError):
        await app.rollouts.approve("next", stage="10%")
    await app.rollouts.order("next", "rollback", reason="enough")
    await until(app, "next", "rolled-back")
    assert (await app.rollouts.history("next"))["runs"][0]["state"] == "rolled-back"
    assert "points" in await app.rollouts.curve("next")
    with pytest.raises(UnknownRollout):
        await app.rollouts.status("nobody")
    with pytest.raises(PlanError):
        await app.rollouts.start({**PLAN, "stages": ["110%"]})


async def test_a_schedule_is_made_and_steered(app: Client) -> None:
    await app.schedules.create("nightly", workflow="picks", every=86_400.0)
    async with asyncio.timeout(60):
        while not await app.schedules.list():
            await asyncio.sleep(0.02)
    assert [one["name"] for one in await app.schedules.list()] == ["nightly"]
    await app.schedules.pause("nightly")
    for _ in range(2):
        await app.schedules.trigger("nightly", id="once")
    await app.schedules.resume("nightly")
    await app.schedules.show("nightly")
    start = datetime.now(UTC) - timedelta(days=1, hours=1)
    await app.schedules.backfill("nightly", start)
    await app.schedules.delete("nightly")
    async with asyncio.timeout(60):
        while await app.schedules.list():
            await asyncio.sleep(0.02)
    with pytest.raises(UnknownSchedule):
        await app.schedules.show("nobody")


async def test_topics_letters_and_the_rest(app: Client) -> None:
    await app.emit("reports", {"id": 1})
    assert [one["topic"] for one in await app.topics.list()] == ["reports"]
    assert (await app.topics.show("reports"))["emitted"] == 1
    assert len((await app.topics.events("reports"))["events"]) == 1
    with pytest.raises(UnknownTopic):
        await app.topics.show("nothing")
    assert (await app.letters.list())["letters"] == []
    with pytest.raises(NoSuchDeadLetter):
        await app.letters.requeue("run:nobody")
    assert {one["version"] for one in await app.catalog.list("sorts")} == {"1.0.0", "1.1.0"}
    assert (await app.catalog.show("sorts@1.0.0"))["version"] == "1.0.0"
    assert await app.catalog.diff("sorts@1.0.0", "sorts@1.1.0")
    with pytest.raises(UnknownVersion):
        await app.catalog.show("sorts@9.0.0")
    assert await app.experiments.all() == []
    with pytest.raises(UnknownExperiment):
        await app.experiments.status("nobody")
    assert "splits" in await app.emergencies.forced()
    await app.start(waits_flow)
