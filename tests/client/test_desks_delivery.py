"""Desks over HTTP about what is found out and what goes out of service, and what changes live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from aura.client import Client, News
from aura.client.events import EventParser, ServerEvent
from aura.delivery.observation import Observation
from aura.delivery.retirement import Retirement
from aura.errors import (
    DecommissionError,
    InvalidInput,
    PlanError,
    RolloutError,
    RunNotFound,
    ServerUnavailable,
    UnknownRollout,
    UnknownSplit,
    UnknownWorker,
    UnknownWorkflow,
)
from aura.server import backtests, changes_api
from aura.server.backtests import Bounds
from aura.server.changes import Batch, Change, Wanted
from aura.server.rollouts import read_plan
from aura.server.serving import build
from tests.client.conftest import Served
from tests.client.kit import make_app, waits_flow
from tests.client.test_desks import PLAN
from tests.gateway.conftest import Servers

LEARNING = {"name": "chat", "split": "chat", "arms": ["small", "large"], "every": "1h"}


@pytest.fixture
async def app(served: Served) -> AsyncIterator[Client]:
    async with Client(served.url) as client:
        yield client


async def test_a_split_learns_and_its_arm_goes_out_of_service(app: Client) -> None:
    await app.learning.check(LEARNING)
    with pytest.raises(PlanError, match="arms"):
        await app.learning.check({"name": "chat"})
    assert await app.learning.all() == []
    begun = await app.learning.start(LEARNING)
    assert (begun.name, begun.state, begun.arms) == ("chat", "running", ("small", "large"))
    assert begun.weights == {"small": 0.5, "large": 0.5}
    assert [one["name"] for one in await app.splits.list()] == ["chat"]
    assert (await app.splits.show("chat"))["baseline"] == "small"
    await app.learning.stop("chat", reason="enough")
    async with asyncio.timeout(60):
        while (found := await app.learning.status("chat")).state == "running":
            await asyncio.sleep(0.02)
    assert found.history[-1]["reason"] == "enough"
    desk = app.rollouts.decommissions
    wanted = {"target": "large", "endpoints": ["/chat"], "gate": {"stable": "48h"}}
    assert await desk.check(wanted) == ("/chat",)
    with pytest.raises(DecommissionError, match="no split has an arm nobody"):
        await desk.check({**wanted, "target": "nobody"})
    begun_too = await desk.start(wanted, reason="nobody asks it")
    assert isinstance(begun_too, Retirement)
    assert (begun_too.target, begun_too.state) == ("large", "gate")
    assert [one.target for one in await desk.all()] == ["large"]
    assert await desk.calls("large") == {}
    await desk.undo("large", reason="somebody does")
    async with asyncio.timeout(60):
        while not (await desk.status("large")).ended:
            await asyncio.sleep(0.02)


async def test_another_plan_is_tried_on_what_was_observed(app: Client, served: Served) -> None:
    def seen(number: int) -> dict[str, Any]:
        ok = number % 2 == 0
        arm = "sorts@1.0.0" if ok else "sorts@1.1.0"
        who = {"unit": f"u{number}", "at": 1000.0 + number, "latency": 0.1}
        return {"split": "pay", "epoch": 1, "arm": arm, "share": 0.5, "ok": ok, "user_ok": ok} | who

    every = [seen(number) for number in range(60)]
    found = await app.rollouts.backtest(PLAN, observations=every)
    assert found["recorded"] is None
    assert found["backtest"]["state"] == "rolled-back"
    assert 0 < found["backtest"]["hits"]["requests"] < 30
    await app.rollouts.start(PLAN)
    for number in range(1, 60, 2):
        one = (await served.app.rollouts.status("next")).epoch
        served.app.rollouts.observe(Observation(**(seen(number) | {"epoch": one})))
    async with asyncio.timeout(60):
        while (await app.rollouts.status("next")).state != "rolled-back":
            await asyncio.sleep(0.02)
    found = await app.rollouts.backtest(PLAN, on="next")
    assert found["recorded"]["state"] == found["backtest"]["state"] == "rolled-back"
    assert found["backtest"]["observations"] > 0
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({}, InvalidInput, "Give either"),
        ({"on": "next", "observations": every}, InvalidInput, "Give either"),
        ({"on": "nobody"}, UnknownRollout, "nobody"),
        ({"on": "next", "run": "rollout-next-9"}, RolloutError, "has the run rollout-next-9"),
        ({"observations": []}, RolloutError, "there are no observations"),
        ({"observations": [every[0], {"split": "pay"}]}, InvalidInput, r"observations\[1\]: "),
    ]
    for given, kind, why in wrong:
        with pytest.raises(kind, match=why):
            await app.rollouts.backtest(PLAN, **given)
    with pytest.raises(RolloutError, match="has recorded nothing of split other"):
        await app.rollouts.backtest({**PLAN, "split": "other"}, on="next")


async def test_a_backtest_has_its_bounds(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await read_plan(PLAN)
    slow = asyncio.Event()

    async def waits(*_: object) -> None:
        await slow.wait()

    monkeypatch.setattr(asyncio, "to_thread", waits)
    one = {"split": "pay", "epoch": 1, "arm": "a", "unit": "u", "at": 1.0, "ok": True, "latency": 0}
    with pytest.raises(RolloutError, match=r"longer than 0\.01 s"):
        await backtests.backtest_sent(served.app, plan, [one], Bounds(seconds=0.01))


async def test_who_works_on_what(app: Client) -> None:
    await app.start(waits_flow, id="w")
    assert {"sorts", "waits"} <= {one["name"] for one in await app.workflows.list()}
    assert [one["version"] for one in (await app.workflows.show("sorts"))["versions"]] == [
        "1.1.0",
        "1.0.0",
    ]
    assert (await app.catalog.matrix("sorts"))["versions"]
    [worker] = await app.workers.list()
    assert (await app.workers.show(worker["id"]))["worker"]["live"]
    assert (await app.queue("slow"))["queue"]["concurrency"] == 1
    assert await app.gateway() is None
    assert (await app.build())["app"] == "served"
    assert (await app.audit())["entries"][0]["what"] == "runs start"
    for asked, kind in (
        (app.workflows.show("nobody"), UnknownWorkflow),
        (app.workers.show("nobody"), UnknownWorker),
        (app.splits.show("nobody"), UnknownSplit),
    ):
        with pytest.raises(kind, match="nobody"):
            await asked


async def heard(news: AsyncIterator[News], kind: str, name: str) -> News:
    """The first news of that kind about that name."""
    async with asyncio.timeout(60):
        async for one in news:
            if one.kind == kind and name in [each.name for each in one.changes]:
                return one
    raise AssertionError


async def test_changes_are_heard_over_lost_connections(
    app: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_api, "LONGEST", 0.3)  # each connection ends after that
    async with aclosing(app.changes("runs")) as news:
        first = await anext(news)
        assert (first.kind, first.changes) == ("ready", ())
        for number in range(3):
            await app.start("picks", id=f"p{number}")
            one = await heard(news, "runs", f"p{number}")
            assert one.kind == "runs"
        place = one.id
    await (await app.start("picks", id="later")).result(60)
    async with aclosing(app.changes("runs", since=place)) as news:
        assert (await heard(news, "runs", "later")).changes[0].what["workflow"] == "picks"
    async with aclosing(app.changes(run="later")) as news:
        assert (await anext(news)).kind == "ready"
    async with aclosing(app.changes("runs", since="00000000-1")) as news:
        assert (await anext(news)).kind == "reset"


async def test_changes_that_cannot_be_heard(app: Client) -> None:
    with pytest.raises(RunNotFound):
        await anext(app.changes(run="nobody"))
    with pytest.raises(InvalidInput, match=r"kind\[0\]: it should be 'runs'"):
        await anext(app.changes("weather"))
    async with Client("http://127.0.0.1:9", patience=0.2) as away:
        with pytest.raises(ServerUnavailable):
            await anext(away.changes())


async def test_a_server_that_comes_back_begins_anew(database: str) -> None:
    """Its memory is gone, so whoever listens is told to read everything again."""
    first, again = Servers(), Servers()
    try:
        port = await first.asgi(build(make_app(database)))
        client = Client(f"http://127.0.0.1:{port}")
        async with client, aclosing(client.changes("runs")) as news:
            assert (await anext(news)).kind == "ready"
            await first.close()
            waiting = asyncio.create_task(anext(news))
            await again.asgi(build(make_app(database)), port)
            assert (await asyncio.wait_for(waiting, 60)).kind == "reset"
    finally:
        await again.close()


def test_events_that_come_together_have_their_place_in_the_last_one() -> None:
    """So nothing is lost when the connection breaks between them."""
    batch = Batch(7, {"runs": (Change("a", {}),), "workers": (Change("w", {}),)})
    parser = EventParser()
    parser.feed(b"id: hub-6\nevent: ready\ndata: {}\n\n")
    found: list[ServerEvent] = parser.feed(changes_api._told("hub", batch, Wanted(), None))
    assert [(one.id, one.name) for one in found] == [("hub-6", "runs"), ("hub-7", "workers")]
