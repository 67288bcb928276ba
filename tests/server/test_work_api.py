"""Schedules, topics, dead letters, workflows and workers over HTTP: what is shown, what is ordered,
what cannot be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aura import Aura
from aura.server import tokens
from aura.server.serving import Serving, build
from aura.server.tokens import create
from aura.store.base import RunFilter
from tests.engine.kit import until
from tests.server.kit import client, make_app
from tests.server.test_api import problem

V = "/api/v1"


def make_work(database: str) -> Aura:
    app = make_app(database)

    @app.subscribe("orders", group="billing", retries=0)
    async def bill(payload: Any) -> None:
        if payload == "bad":
            raise ValueError("cannot bill")

    return app


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def serving(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    async with build(make_work(database)) as opened:
        yield opened


@pytest.fixture
async def http(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with client(serving) as one:
        yield one


async def test_a_schedule_from_its_making_to_its_end(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    url = f"{V}/schedules/nightly"
    serving.app.schedules.patience = 60.0
    body = {"workflow": "research", "input": {"text": "abc"}, "cron": "0 0 29 2 *"}
    made = (await http.put(url, json=body)).json()
    assert (made["order"], made["done"], made["driven"]) == ("create", True, True)
    moved = {**body, "timezone": "Europe/Berlin", "missed": 3600}
    again = (await http.put(url, json=moved)).json()
    assert (again["order"], again["done"]) == ("replace", True)
    assert (again["schedule"]["timezone"], again["schedule"]["window"]) == ("Europe/Berlin", 3600)
    shown = (await http.get(url, params={"ticks": 3})).json()
    assert len(shown["ticks"]) == 3
    assert shown["schedule"]["next"] == shown["ticks"][0]
    assert shown["schedule"]["input"]["value"] == {"text": "abc"}
    why = {"aura-reason": "freeze"}
    paused = (await http.post(f"{url}/pause", json={}, headers=why)).json()
    assert (paused["done"], paused["schedule"]["state"]) == (True, "paused")
    assert paused["schedule"]["history"][-1]["reason"] == "local: freeze"
    assert (await http.get(url)).json()["ticks"] == []
    assert problem(await http.post(f"{url}/pause", json={})) == (409, "schedule-refused")
    order = {"id": "t-1"}
    triggered = (await http.post(f"{url}/trigger", json=order)).json()
    assert (triggered["done"], triggered["schedule"]["counts"]["started"]) == (True, 1)
    await http.post(f"{url}/trigger", json=order)
    [run] = await serving.app.runs(RunFilter(workflow="research"))
    assert await serving.app.run(run.id).result(timeout=60) == {"length": 3}
    span = {"start": "2024-02-28T00:00:00Z", "end": "2024-03-01T00:00:00Z"}
    filled = (await http.post(f"{url}/backfill", json=span)).json()
    assert filled["done"]
    assert (await http.post(f"{url}/resume", json={})).json()["schedule"]["state"] == "active"
    listed = (await http.get(f"{V}/schedules")).json()["schedules"]
    assert [one["name"] for one in listed] == ["nightly"]
    assert (await http.get(f"{V}/schedules?workflow=naps")).json()["schedules"] == []
    assert (await http.post(f"{url}/delete", json={})).json()["done"]
    done = [one["what"] for one in (await http.get(f"{V}/audit")).json()["entries"]]
    assert done.count("schedules put") == 2
    assert {"schedules pause", "schedules trigger", "schedules backfill"} <= set(done)


@pytest.mark.parametrize(
    ("order", "body", "expected"),
    [
        ("", {"workflow": "nobody", "cron": "0 3 * * *"}, (404, "workflow-not-found")),
        ("", {"workflow": "research"}, (422, "invalid-input")),
        ("", {"workflow": "research", "cron": "0 3 * * *"}, (422, "invalid-input")),
        ("", {"workflow": "research", "cron": "often", "input": {"text": "a"}},
         (422, "invalid-input")),
        ("", {"workflow": "research", "every": -1, "input": {"text": "a"}},
         (422, "invalid-input")),
        ("", {"workflow": "research", "every": 60, "input": {"text": "a"}, "queue": "no"},
         (404, "queue-not-found")),
        ("", {"workflow": "research", "every": 60, "input": {"text": "a"}, "timezone": "Mars"},
         (422, "invalid-input")),
        ("", {"workflow": "research", "every": 60, "input": {"text": 1}}, (422, "invalid-input")),
        ("/pause", {}, (404, "schedule-not-found")),
        ("/pause", {"x": 1}, (422, "invalid-input")),
        ("/trigger", {"id": ""}, (422, "invalid-input")),
        ("/backfill", {"start": "soon"}, (422, "invalid-input")),
        ("/backfill", {"start": "2026-03-01T00:00:00"}, (422, "invalid-input")),
    ],
)  # fmt: skip
async def test_schedules_that_cannot_be(
    order: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        url = f"{V}/schedules/s{order}"
        ask = http.post if order else http.put
        assert problem(await ask(url, json=body)) == expected
        assert (await http.get(f"{V}/schedules")).json() == {"schedules": []}


async def test_an_order_without_a_worker_is_kept() -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        body = {"workflow": "research", "input": {"text": "abc"}, "every": 3600}
        made = (await http.put(f"{V}/schedules/s", json=body)).json()
        assert (made["done"], made["driven"], made["schedule"]["state"]) == (
            False, False, "starting",
        )  # fmt: skip
        order = (await http.post(f"{V}/schedules/s/pause", json={})).json()
        assert (order["done"], order["driven"]) == (False, False)


async def dead(serving: Serving, count: int) -> None:
    for at in range(count):
        await serving.app.emit("orders", "bad", key=f"k{at}")

    async def are_dead() -> bool:
        return len(await serving.app.store.events.dead_letters()) == count

    await until(are_dead, timeout=60)


async def test_topics_are_read_and_replayed(serving: Serving, http: httpx.AsyncClient) -> None:
    app = serving.app
    for number in range(5):
        await app.emit("orders", {"number": number}, key="k")

    async def handled() -> bool:
        groups = await app.store.events.groups("orders")
        return bool(groups) and groups[0].lag == 0

    await until(handled, timeout=60)
    [topic] = (await http.get(f"{V}/topics")).json()["topics"]
    assert (topic["topic"], topic["emitted"], topic["groups"][0]["group"]) == (
        "orders", 5, "billing",
    )  # fmt: skip
    assert (await http.get(f"{V}/topics/orders")).json() == topic
    page = (await http.get(f"{V}/topics/orders/events", params={"limit": 2})).json()
    assert [one["payload"]["value"]["number"] for one in page["events"]] == [0, 1]
    rest = (await http.get(f"{V}/topics/orders/events", params={"after": page["next"]})).json()
    assert [one["seq"] for one in rest["events"]] == [3, 4, 5]
    end = (await http.get(f"{V}/topics/orders/events", params={"last": 1})).json()
    assert ([one["seq"] for one in end["events"]], end["next"], end["tail"]) == ([5], 5, 5)
    order = {"group": "billing", "since": page["events"][1]["at"]}
    assert (await http.post(f"{V}/topics/orders/replay", json=order)).json() == {"events": 4}
    await until(handled, timeout=60)
    gone = await http.post(f"{V}/topics/orders/forget", json={"group": "billing"})
    assert problem(gone) == (422, "invalid-input")  # workers take part in it
    for method, path, body in (
        ("GET", "topics/nothing", None),
        ("GET", "topics/nothing/events", None),
        ("GET", "topics/a%00b/events", None),
        ("POST", "topics/nothing/replay", order),
        ("POST", "topics/orders/replay", {**order, "group": "nobody"}),
        ("POST", "topics/orders/forget", {"group": "no\x00body"}),
    ):
        told = await http.request(method, f"{V}/{path}", json=body)
        assert problem(told) == (404, "topic-not-found"), path
    for query in ("after=-1", "limit=0", "limit=501", "last=x", "unknown=1"):
        told = await http.get(f"{V}/topics/orders/events?{query}")
        assert problem(told) == (422, "invalid-input"), query


async def test_dead_letters_page_by_page_one_by_one_and_many_at_once(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    await dead(serving, 4)
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await http.get(f"{V}/letters", params={"limit": 3, **cursor})).json()
        seen += [one["id"] for one in page["letters"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert sorted(seen) == [f"event:orders/billing/{seq}" for seq in range(1, 5)]
    one = f"{V}/letters/event%3Aorders%2Fbilling%2F1"
    shown = (await http.get(one)).json()
    assert (shown["payload"]["value"], shown["history"][0]["type"]) == ("bad", "ValueError")
    of_a_function = await http.post(f"{one}/requeue", json={"version": "1.0.0"})
    assert problem(of_a_function) == (422, "invalid-input")
    assert "without a version" in of_a_function.json()["detail"]
    assert (await http.post(f"{one}/drop", json={})).json() == {"id": "event:orders/billing/1"}
    assert problem(await http.get(one)) == (404, "dead-letter-not-found")
    assert problem(await http.post(f"{one}/requeue", json={})) == (404, "dead-letter-not-found")
    many = {"action": "drop", "topic": "orders", "limit": 2, "dry_run": True}
    asked = (await http.post(f"{V}/bulk/letters", json=many)).json()
    assert [one["outcome"] for one in asked["outcomes"]] == ["would be done"] * 2
    many["dry_run"] = False
    first = (await http.post(f"{V}/bulk/letters", json=many)).json()
    assert [one["outcome"] for one in first["outcomes"]] == ["done"] * 2
    rest = (await http.post(f"{V}/bulk/letters", json={**many, "cursor": first["next"]})).json()
    assert ([one["outcome"] for one in rest["outcomes"]], rest["next"]) == (["done"], None)
    assert (await http.get(f"{V}/letters?kind=event")).json()["letters"] == []
    named = {"action": "requeue", "ids": ["event:orders/billing/1", "run:nobody", "nonsense"]}
    told = (await http.post(f"{V}/bulk/letters", json=named)).json()["outcomes"]
    assert [one["outcome"] for one in told] == [
        "dead-letter-not-found", "dead-letter-not-found", "invalid-input",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"action": "drop"},
        {"action": "burn", "topic": "orders"},
        {"action": "drop", "ids": ["run:a"], "topic": "orders"},
        {"action": "drop", "ids": ["run:a"] * 201},
        {"action": "drop", "topic": "orders", "workflow": "research"},
        {"action": "drop", "topic": "orders", "version": "1.0.0"},
        {"action": "drop", "topic": "orders", "cursor": "!"},
        {"action": "drop", "topic": "orders", "limit": 0},
    ],
)
async def test_bulk_orders_that_cannot_be(body: dict[str, Any]) -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        assert problem(await http.post(f"{V}/bulk/letters", json=body)) == (422, "invalid-input")


async def test_letters_that_cannot_be() -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        for query in ("kind=x", "limit=0", "cursor=%21", "kind=run&topic=a", "topic=%00"):
            told = await http.get(f"{V}/letters?{query}")
            assert problem(told) == (422, "invalid-input"), query
        told = await http.get(f"{V}/letters/nonsense")
        assert problem(told) == (422, "invalid-input")
        for nobody in ("run%3Anobody", "event%3Aa%2Fb%2F1", "run%3A%00", "event%3A%00%2Fb%2F1"):
            told = await http.get(f"{V}/letters/{nobody}")
            assert problem(told)[0] in (404, 422), nobody


async def test_limited_tokens_see_their_letters_and_schedules(serving: Serving) -> None:
    app = serving.app
    await dead(serving, 1)
    await app.schedules.create("mine", "research", ["a"], every=3_600)
    await app.schedules.create("naps", "naps", [1.0], every=3_600)
    _, text = await create(app, "one", "operator", workflows=("research",))
    async with client(serving) as http:
        http.headers["authorization"] = f"Bearer {text}"
        assert (await http.get(f"{V}/letters")).json() == {"letters": [], "next": None}
        one = f"{V}/letters/event%3Aorders%2Fbilling%2F1"
        assert problem(await http.get(one)) == (404, "dead-letter-not-found")
        assert problem(await http.post(f"{one}/drop", json={})) == (404, "dead-letter-not-found")
        many: dict[str, Any] = {"action": "drop", "topic": "orders"}
        assert problem(await http.post(f"{V}/bulk/letters", json=many)) == (422, "invalid-input")
        many = {"action": "drop", "ids": ["event:orders/billing/1"]}
        told = await http.post(f"{V}/bulk/letters", json=many)
        assert problem(told) == (404, "dead-letter-not-found")
        listed = (await http.get(f"{V}/schedules")).json()["schedules"]
        assert [one["name"] for one in listed] == ["mine"]
        hidden = await http.post(f"{V}/schedules/naps/pause", json={})
        assert problem(hidden) == (404, "schedule-not-found")
        body = {"workflow": "research", "input": {"text": "a"}, "every": 60}
        assert problem(await http.put(f"{V}/schedules/naps", json=body)) == (
            404, "schedule-not-found",
        )  # fmt: skip
        naps = {"workflow": "naps", "input": {"seconds": 1}, "every": 60}
        told = await http.put(f"{V}/schedules/new", json=naps)
        assert problem(told) == (403, "workflow-not-allowed")
        [flow] = (await http.get(f"{V}/workflows")).json()["workflows"]
        assert flow["name"] == "research"
        assert problem(await http.get(f"{V}/workflows/naps")) == (404, "workflow-not-found")
    assert len(await app.store.events.dead_letters()) == 1


async def test_workflows_and_workers(serving: Serving, http: httpx.AsyncClient) -> None:
    app = serving.app
    await (await app.start("research", "abc", id="doc")).result(timeout=60)
    await app.catalog.registered()
    names = [one["name"] for one in (await http.get(f"{V}/workflows")).json()["workflows"]]
    assert names == ["broken", "gated", "named", "naps", "research"]
    found = (await http.get(f"{V}/workflows/research")).json()
    [version] = found["versions"]
    assert (version["version"], version["here"], version["workers"]) == ("1.0.0", True, 1)
    assert (found["runs"], version["runs"]) == ({"completed": 1}, {"completed": 1})
    assert set(version["input"]["properties"]) == {"text", "times"}
    [worker] = (await http.get(f"{V}/workers")).json()["workers"]
    assert (worker["live"], "research 1.0.0" in worker["workflows"]) == (True, True)
    shown = (await http.get(f"{V}/workers/{worker['id']}")).json()
    assert shown["worker"]["id"] == worker["id"]
    assert problem(await http.get(f"{V}/workers/nobody")) == (404, "worker-not-found")
    assert problem(await http.get(f"{V}/workflows/nobody")) == (404, "workflow-not-found")
    assert problem(await http.get(f"{V}/workers?gone=perhaps")) == (422, "invalid-input")
    about = (await http.get(f"{V}/build")).json()
    assert (about["app"], about["api"]) == ("served", V)
