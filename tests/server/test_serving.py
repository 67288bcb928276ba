"""The composition: whose path it is, which split is obeyed, and what a leaving client leaves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aura.delivery.split import Arm, Split
from aura.errors import ConfigError, InvalidInput, StoreUnavailable
from aura.gateway import GatewayConfig, parse_gateway
from aura.gateway.client import Receive, Scope, Send
from aura.server.own_paths import check_routes, pages
from aura.server.serving import AppRunner, Serving, build
from aura.store.base import PutDocument
from tests.gateway.conftest import Servers
from tests.server.kit import Gate, client, make_app

TARGETS = """
  targets:
    old: {workflow: research, version: 1.0.0}
    new: {workflow: named, version: 1.0.0}
"""


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.close()


def gateway(*paths: str) -> GatewayConfig:
    routes = "".join(
        f"    - {{path: {path!r}, split: s, baseline: old, unit: {{header: x-user}}}}\n"
        for path in paths
    )
    config = parse_gateway(f"gateway:\n  routes:\n{routes}{TARGETS}")
    assert config is not None
    return config


@pytest.mark.parametrize("named", [True, False])
async def test_routes_win_over_health_when_they_name_it_but_not_over_the_api(named: bool) -> None:
    paths = ("/*", "/healthz") if named else ("/*",)
    async with build(make_app(), gateway(*paths)) as serving, client(serving) as http:
        arm = {"x-user": "u"}
        routed = await http.post("/research", json={"text": "text"}, headers=arm)
        assert (routed.status_code, routed.json()) == (200, {"length": 4})
        assert routed.headers["x-aura-arm"] == "old"
        taken = await http.post("/healthz", json={"text": "a"}, headers=arm)
        assert (taken.status_code == 200) == named
        assert taken.headers.get("x-aura-arm") == ("old" if named else None)
        assert ((await http.get("/healthz")).json() == {"status": "ok"}) != named
        assert (await http.get("/api/v1/healthz")).json() == {"status": "ok"}
        assert (await http.get("/api/v1/runs")).json()["runs"][0]["workflow"] == "research"
        assert (await http.get("/api/v1")).json()["code"] == "not-found"


async def test_paths_without_a_route_are_the_apis() -> None:
    async with build(make_app(), gateway("/research")) as serving, client(serving) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/nothing")).json()["code"] == "not-found"
        wrong = await http.post("/research", json={"id": "mine", "text": "a"})
        assert wrong.status_code == 422  # a client cannot choose the run's id


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/*", "/api/v1/runs", "/api/v1/x/*"])
def test_a_route_inside_the_api_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="Aura's own API"):
        build(make_app(), gateway(path))


@pytest.mark.parametrize("path", ["/*", "/api/*"])
def test_a_route_around_the_api_is_warned_of(path: str, caplog: pytest.LogCaptureFixture) -> None:
    build(make_app(), gateway(path))
    assert "/api/v1" in caplog.text


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/*", "/"),
        ("/runs", "/runs"),
        ("/runs/*", "/runs/{run_id}"),
        ("/login", "/login"),
        ("/_nicegui_ws/*", "/_nicegui_ws/socket.io/"),
    ],
)
def test_a_route_that_would_hide_the_dashboard_is_refused(path: str, page: str) -> None:
    with pytest.raises(ConfigError, match=f"would hide the dashboard at {re.escape(page)}") as told:
        build(make_app(), gateway(path), dashboard=True)
    assert "--gateway-port" in told.value.hint


def test_routes_beside_the_dashboard_are_fine() -> None:
    check_routes(gateway("/shop/*", "/research", "/shop").routes, pages())
    assert {"/", "/runs", "/login"} <= set(pages())


async def test_a_gateway_with_a_port_of_its_own_has_all_paths_there(servers: Servers) -> None:
    """Two sockets, one server: the gateway's has nothing of Aura, and the other one no routes."""
    serving = build(make_app(), gateway("/*"), apart=True)
    async with serving:
        own, apart = [await servers.asgi(_Without(serving)) for _ in range(2)]
        serving.apart = apart
        async with httpx.AsyncClient(headers={"x-user": "u"}) as http:
            for path in ("/healthz", "/api/v1/runs", "/metrics", "/", "/research"):
                routed = await http.post(f"http://127.0.0.1:{apart}{path}", json={"text": "text"})
                assert (routed.status_code, routed.json()) == (200, {"length": 4}), path
            assert (await http.get(f"http://127.0.0.1:{own}/healthz")).json() == {"status": "ok"}
            assert (await http.get(f"http://127.0.0.1:{own}/api/v1/runs")).json()["runs"]
            nothing = await http.post(f"http://127.0.0.1:{own}/research", json={"text": "text"})
            assert (nothing.status_code, nothing.json()["code"]) == (404, "not-found")


class _Without:
    """An application that is open already: a second server must not open it again."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._serving(scope, receive, send)
            return
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})


async def test_the_first_request_obeys_the_split_that_is_there(tmp_path: Path) -> None:
    database = str(tmp_path / "aura.db")
    split = Split("s", 1, "seed", (Arm("old", 0.0), Arm("new", 1.0)))
    async with make_app(database).client() as app:
        await app.committer.submit(PutDocument("split", "s", split.to_json()))
    async with build(make_app(database), gateway("/x")) as serving, client(serving) as http:
        answer = await http.post("/x", json={"id": "a"}, headers={"x-user": "u"})
        assert (answer.headers["x-aura-arm"], answer.json()) == ("new", "a/3/")


async def test_a_newer_split_is_pushed_to_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.delivery.follower.POLL", 3_600.0)  # they do not look by themselves
    database = str(tmp_path / "aura.db")
    one, two = (build(make_app(database), gateway("/x")) for _ in range(2))
    async with one, two, client(two) as http:
        split = Split("s", 1, "seed", (Arm("old", 0.0), Arm("new", 1.0)))
        await one.app.committer.submit(PutDocument("split", "s", split.to_json()))
        async with asyncio.timeout(60):
            while True:
                answer = await http.post("/x", json={"text": "t"}, headers={"x-user": "u"})
                if answer.headers["x-aura-arm"] == "new":
                    break


async def test_observations_reach_the_database() -> None:
    async with build(make_app(), gateway("/x")) as serving, client(serving) as http:
        split = Split("s", 1, "seed", (Arm("old", 0.5), Arm("new", 0.5)))
        await serving.app.committer.submit(PutDocument("split", "s", split.to_json()))
        for at in range(10):
            await http.post("/x", json={"text": "t"}, headers={"x-user": f"u{at}"})
        store = serving.app.store
        async with asyncio.timeout(60):
            while len(await store.feed("observations/s")) < 10:
                await asyncio.sleep(0.01)


async def test_a_wait_that_is_cancelled_leaves_its_run_going() -> None:
    gate = Gate()
    async with make_app(gate=gate) as app:
        runner = AppRunner(app)
        waiting = asyncio.create_task(runner.run_workflow("gated", None, {}, run_id="g"))
        await gate.reached.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await app.run("g").status() == "running"
        gate.open.set()
        assert await app.run("g").result(60) == "through"


async def test_a_wait_that_is_cancelled_while_its_run_starts_leaves_it_going() -> None:
    gate = Gate()
    gate.open.set()
    async with make_app(gate=gate) as app:
        runner = AppRunner(app)
        for turns in range(6):  # at each point of the start
            waiting = asyncio.create_task(
                runner.run_workflow("gated", None, {}, run_id=f"g{turns}")
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await runner.close()
            if await app.store.run(f"g{turns}") is not None:
                assert await app.run(f"g{turns}").result(60) == "through"
        assert await app.store.run("g5") is not None  # the loop has reached the start


async def test_the_same_id_joins_the_run() -> None:
    async with make_app() as app:
        runner = AppRunner(app)
        for _ in range(2):
            assert await runner.run_workflow("research", "1.0.0", {"text": "a"}, run_id="j") == {
                "length": 1
            }
        with pytest.raises(InvalidInput):
            await runner.run_workflow("research", None, {"text": 1}, run_id="k")


async def test_a_serving_without_a_worker_leaves_runs_to_others(tmp_path: Path) -> None:
    database = str(tmp_path / "aura.db")
    async with build(make_app(database), gateway("/x"), worker=False) as front:
        assert (await front.app.store.workers()) == []
        async with make_app(database), client(front) as http:
            answer = await http.post("/x", json={"text": "abc"})
            assert answer.json() == {"length": 3}


async def test_its_lifespan_opens_and_closes_it() -> None:
    serving = build(make_app())
    said: list[str] = []
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: Any) -> None:
        said.append(message["type"])

    task = asyncio.create_task(serving({"type": "lifespan"}, inbox.get, send))
    await inbox.put({"type": "lifespan.startup"})
    async with asyncio.timeout(60):
        while not said:
            await asyncio.sleep(0)
        async with client(serving) as http:
            assert (await http.get("/readyz")).status_code == 200
        await inbox.put({"type": "lifespan.shutdown"})
        await task
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_lifespan_that_cannot_start_says_why(tmp_path: Path) -> None:
    serving = build(make_app(str(tmp_path / "no" / "folder" / "aura.db")))
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    await serving({"type": "lifespan"}, receive, send)
    assert said[0]["type"] == "lifespan.startup.failed"
    assert "aura.db" in said[0]["message"]


async def test_what_cannot_be_opened_is_a_typed_error(tmp_path: Path) -> None:
    serving = build(make_app(str(tmp_path / "no" / "folder" / "aura.db")), gateway("/x"))
    with pytest.raises(StoreUnavailable):
        await serving.open()
    await serving.close()  # harmless


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("//api/v1/runs", "not-found"),
        ("/x/%2e%2e/api/v1/runs", "path-not-normal"),
        ("/*", "not-found"),
    ],
)
async def test_a_path_cannot_be_both_a_route_and_the_api(path: str, code: str) -> None:
    async with build(make_app(), gateway("/x/*")) as serving, client(serving) as http:
        answer = await http.get(httpx.URL(f"http://127.0.0.1{path}"))
        assert answer.json()["code"] == code


async def test_what_is_open_is_not_opened_again_and_closes_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with build(make_app(), gateway("/x")) as serving:
        store = serving.app.store
        await serving.open()
        assert serving.app.store is store

        async def breaks() -> None:
            raise OSError("the gateway")

        monkeypatch.setattr(serving.gateway, "close", breaks)
        with pytest.raises(OSError, match="the gateway"):
            await serving.close()
        with pytest.raises(ConfigError, match="not open"):
            await serving.app.start("research", "text")
