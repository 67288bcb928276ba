"""Queues over HTTP, and what is shown of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from aura.server import queues
from aura.server.serving import build
from tests.server.kit import Gate, client, make_app


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def http(gate: Gate) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(gate=gate)
    narrow = app.queue("narrow", concurrency=1, resources={"card": 0.5}, requires={"gpu"})
    app.queue("a/b: wide")
    async with build(app) as serving:
        for number in range(3):
            place = narrow.place(key=f"k{number % 2}", priority="high")
            await app.start("gated", id=f"r{number}", queue=place)
        async with client(serving) as one:
            yield one


async def test_the_list(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/queues")
    assert answer.status_code == 200
    wide, narrow = answer.json()["queues"]
    assert (wide["name"], wide["pending"], wide["concurrency"]) == ("a/b: wide", 0, None)
    assert narrow["changed_at"].endswith("Z")
    assert narrow | {"changed_at": ""} == {
        "name": "narrow",
        "pending": 3,
        "running": 0,
        "waiting": 0,
        "parked": 0,
        "concurrency": 1,
        "per_worker": None,
        "per_key": None,
        "rate": None,
        "per": None,
        "requires": ["gpu"],
        "resources": {"card": 0.5},
        "changed_at": "",
    }


async def test_one_of_them(http: httpx.AsyncClient) -> None:
    found = (await http.get("/api/v1/queues/narrow")).json()
    assert found["queue"]["pending"] == 3
    assert found["keys"] == [
        {"key": "k0", "pending": 2, "running": 0},
        {"key": "k1", "pending": 1, "running": 0},
    ]
    assert found["running_on"] == {}
    assert found["served_by"] == [], "no worker here has the tag"
    wide = (await http.get("/api/v1/queues/a%2Fb: wide")).json()
    assert len(wide["served_by"]) == 1


@pytest.mark.parametrize("name", ["none", "a%00b", "%ff"])
async def test_one_that_is_not_there(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/api/v1/queues/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "queue-not-found")


async def test_a_run_says_where_it_waits(http: httpx.AsyncClient) -> None:
    run = (await http.get("/api/v1/runs/r1")).json()["run"]
    assert (run["queue"], run["key"], run["priority"]) == ("narrow", "k1", 10)


async def test_who_has_its_runs(gate: Gate) -> None:
    app = make_app(gate=gate)
    async with app:
        app.queue("late")  # stored when it is used for the first time
        await app.start("gated", id="r", queue="late")
        await gate.reached.wait()
        assert app._worker is not None
        found = await queues.show_queue(app, "late")
        assert found.running_on == {app._worker.id: 1}
        assert found.queue.running == 1
        gate.open.set()
        await app.run("r").result()
