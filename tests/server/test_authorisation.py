"""Every route with every role and in every state of a token: nothing is left out, because the
routes are walked; a new one without a line in `ROUTES` fails here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from aura.server import changes_api, tokens
from aura.server.access import SAFE, GuardedRoute
from aura.server.api import HEALTH
from aura.server.problems import CODES
from aura.server.serving import Serving, build
from aura.server.tokens import ROLES, create, revoke
from tests.server.kit import make_app

V = "/api/v1"
ROUTES = {
    ("GET", f"{V}/runs"): ("viewer", "body"),
    ("POST", f"{V}/runs"): ("operator", "body"),
    ("POST", f"{V}/bulk/runs"): ("operator", "body"),
    ("GET", f"{V}/runs/{{run_id}}"): ("viewer", "run"),
    ("GET", f"{V}/runs/{{run_id}}/result"): ("viewer", "run"),
    ("GET", f"{V}/runs/{{run_id}}/state"): ("viewer", "run"),
    ("GET", f"{V}/runs/{{run_id}}/streams/{{name}}"): ("viewer", "run"),
    ("POST", f"{V}/runs/{{run_id}}/signals/{{name}}"): ("operator", "run"),
    ("POST", f"{V}/runs/{{run_id}}/updates/{{name}}"): ("operator", "run"),
    ("POST", f"{V}/runs/{{run_id}}/rewards/{{name}}"): ("operator", "run"),
    ("POST", f"{V}/runs/{{run_id}}/cancel"): ("operator", "run"),
    ("POST", f"{V}/runs/{{run_id}}/requeue"): ("operator", "run"),
    ("POST", f"{V}/runs/{{run_id}}/retry"): ("operator", "run"),
    ("POST", f"{V}/runs/{{run_id}}/fork"): ("operator", "run"),
    ("POST", f"{V}/topics/{{name}}/events"): ("operator", "all"),
    ("GET", f"{V}/schedules"): ("viewer", "body"),
    ("GET", f"{V}/schedules/{{name}}"): ("viewer", "body"),
    ("PUT", f"{V}/schedules/{{name}}"): ("operator", "body"),
    ("POST", f"{V}/schedules/{{name}}/pause"): ("operator", "body"),
    ("POST", f"{V}/schedules/{{name}}/resume"): ("operator", "body"),
    ("POST", f"{V}/schedules/{{name}}/trigger"): ("operator", "body"),
    ("POST", f"{V}/schedules/{{name}}/backfill"): ("operator", "body"),
    ("POST", f"{V}/schedules/{{name}}/delete"): ("operator", "body"),
    ("GET", f"{V}/topics"): ("viewer", "all"),
    ("GET", f"{V}/topics/{{topic}}"): ("viewer", "all"),
    ("GET", f"{V}/topics/{{topic}}/events"): ("viewer", "all"),
    ("POST", f"{V}/topics/{{topic}}/replay"): ("operator", "all"),
    ("POST", f"{V}/topics/{{topic}}/forget"): ("operator", "all"),
    ("GET", f"{V}/letters"): ("viewer", "body"),
    ("GET", f"{V}/letters/{{letter}}"): ("viewer", "body"),
    ("POST", f"{V}/letters/{{letter}}/requeue"): ("operator", "body"),
    ("POST", f"{V}/letters/{{letter}}/drop"): ("operator", "body"),
    ("POST", f"{V}/bulk/letters"): ("operator", "body"),
    ("GET", f"{V}/workflows"): ("viewer", "body"),
    ("GET", f"{V}/workflows/{{workflow}}"): ("viewer", "body"),
    ("GET", f"{V}/workers"): ("viewer", "all"),
    ("GET", f"{V}/workers/{{worker}}"): ("viewer", "all"),
    ("GET", f"{V}/changes"): ("viewer", "body"),
    ("GET", f"{V}/status"): ("viewer", "all"),
    ("GET", f"{V}/catalog"): ("viewer", "all"),
    ("GET", f"{V}/catalog/workflows/{{name}}"): ("viewer", "all"),
    ("GET", f"{V}/catalog/versions/{{version}}"): ("viewer", "all"),
    ("GET", f"{V}/catalog/diff"): ("viewer", "all"),
    ("POST", f"{V}/catalog/versions/{{version}}/deprecate"): ("operator", "all"),
    ("POST", f"{V}/catalog/versions/{{version}}/restore"): ("operator", "all"),
    ("GET", f"{V}/rollouts"): ("viewer", "all"),
    ("POST", f"{V}/rollouts"): ("operator", "all"),
    ("POST", f"{V}/backtests"): ("operator", "all"),
    ("GET", f"{V}/rollouts/{{name}}"): ("viewer", "all"),
    ("GET", f"{V}/rollouts/{{name}}/history"): ("viewer", "all"),
    ("GET", f"{V}/rollouts/{{name}}/curve"): ("viewer", "all"),
    ("POST", f"{V}/rollouts/{{name}}/approve"): ("operator", "all"),
    ("POST", f"{V}/rollouts/{{name}}/{{order}}"): ("operator", "all"),
    ("GET", f"{V}/splits"): ("viewer", "all"),
    ("GET", f"{V}/splits/{{name}}"): ("viewer", "all"),
    ("GET", f"{V}/emergencies"): ("viewer", "all"),
    ("POST", f"{V}/emergencies"): ("operator", "all"),
    ("POST", f"{V}/emergencies/release"): ("operator", "all"),
    ("GET", f"{V}/experiments"): ("viewer", "all"),
    ("POST", f"{V}/experiments"): ("operator", "all"),
    ("GET", f"{V}/experiments/{{name}}"): ("viewer", "all"),
    ("POST", f"{V}/experiments/{{name}}/rewards"): ("operator", "all"),
    ("POST", f"{V}/experiments/{{name}}/{{order}}"): ("operator", "all"),
    ("GET", f"{V}/flows"): ("viewer", "all"),
    ("GET", f"{V}/flows/{{name}}"): ("viewer", "all"),
    ("GET", f"{V}/flows/{{name}}/worth"): ("viewer", "all"),
    ("POST", f"{V}/flows/{{name}}/release"): ("operator", "all"),
    ("GET", f"{V}/learning"): ("viewer", "all"),
    ("POST", f"{V}/learning"): ("operator", "all"),
    ("GET", f"{V}/learning/{{name}}"): ("viewer", "all"),
    ("POST", f"{V}/learning/{{name}}/stop"): ("operator", "all"),
    ("GET", f"{V}/shadows"): ("viewer", "all"),
    ("GET", f"{V}/shadows/{{name}}"): ("viewer", "all"),
    ("POST", f"{V}/shadows/{{name}}/clear"): ("operator", "all"),
    ("GET", f"{V}/decommissions"): ("viewer", "all"),
    ("POST", f"{V}/decommissions"): ("admin", "all"),
    ("GET", f"{V}/decommissions/{{target}}"): ("viewer", "all"),
    ("POST", f"{V}/decommissions/{{target}}/undo"): ("operator", "all"),
    ("GET", f"{V}/queues"): ("viewer", "all"),
    ("GET", f"{V}/queues/{{name}}"): ("viewer", "all"),
    ("GET", f"{V}/gateway"): ("viewer", "all"),
    ("GET", f"{V}/audit"): ("admin", "all"),
    ("GET", f"{V}/openapi.json"): ("viewer", "body"),
    ("GET", f"{V}/build"): ("viewer", "body"),
    ("GET", f"{V}/metrics"): ("viewer", "all"),
    ("GET", "/metrics"): ("viewer", "all"),
}
"""What each route needs: the least role, and what it is about. Those of `HEALTH` need nothing."""

REFUSED = {"role-too-low", "token-limited", "workflow-not-allowed"}


def walk(api: FastAPI) -> Iterator[tuple[str, Any]]:
    """All routes, with the paths at which they are served."""
    for route in api.routes:
        inner = getattr(route, "original_router", None)  # FastAPI since 0.13x keeps routers whole
        if inner is None:
            yield str(getattr(route, "path", "")), route
            continue
        prefix = str(vars(route)["include_context"].prefix)
        for each in inner.routes:
            yield prefix + each.path, each


def without_convertors(path: str) -> str:
    return path.replace(":segment}", "}")


@pytest.fixture
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    monkeypatch.setattr(changes_api, "LONGEST", 0.0)  # what is live ends at once
    async with build(make_app(), worker=False) as opened:
        yield opened


def test_every_route_is_guarded_and_in_the_table() -> None:
    found = {}
    for path, route in walk(build(make_app()).api):
        path = without_convertors(path)
        if path in HEALTH:
            continue
        assert isinstance(route, GuardedRoute), f"{path} is served to everybody"
        assert isinstance(route, APIRoute)
        for method in route.methods or ():
            found[method, path] = (route.needs.role, route.needs.about)
    assert found == ROUTES


def test_what_changes_something_is_not_for_viewers() -> None:
    for (method, path), (role, _) in ROUTES.items():
        assert method in SAFE or role in ("operator", "admin"), path


def url_of(path: str, run: str) -> str:
    return re.sub(r"\{\w+\}", "word", path.replace("{run_id}", run))


async def ask(serving: Serving, method: str, path: str, text: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {text}"} if text else {}
    transport = httpx.ASGITransport(app=serving, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a.example") as http:
        body: Any = {"workflow": "research", "input": {"text": "a"}} if path == f"{V}/runs" else {}
        if path == f"{V}/bulk/runs":
            body = {"action": "cancel", "workflow": "research", "dry_run": True}
        if "/updates/" in path:
            body = {"timeout": 0.01}
        sent = None if method == "GET" else body
        params = {"workflow": "research"} if (method, path) == ("GET", f"{V}/runs") else None
        return await http.request(method, path, headers=headers, json=sent, params=params)


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_gets_what_it_may_have_and_nothing_else(
    serving: Serving, role: str
) -> None:
    app = serving.app
    await app.start("research", "a", id="mine")
    _, whole = await create(app, "whole", role)
    limits: dict[str, str] = {}
    if role != "admin":
        _, limits["theirs"] = await create(app, "theirs", role, workflows=("research",))
        _, limits["others"] = await create(app, "others", role, workflows=("naps", "gated"))
    for (method, path), (needed, about) in ROUTES.items():
        url = url_of(path, "mine")
        allowed = ROLES.index(role) >= ROLES.index(needed)
        where = f"{method} {path} as {role}"
        got = await ask(serving, method, url, whole)
        assert (got.status_code not in (401, 403)) == allowed, where
        assert got.status_code < 500 or got.status_code == 504, where
        for whose, text in limits.items():
            got = await ask(serving, method, url, text)
            code = "" if got.is_success else got.json()["code"]
            if not allowed:
                assert code == "role-too-low", f"{where}, {whose}"
            elif about == "all":
                assert code == "token-limited", f"{where}, {whose}"
            elif whose == "theirs":
                assert code not in {*REFUSED, "run-not-found"}, f"{where}, {whose}"
            elif about == "run":
                assert (got.status_code, code) == (404, "run-not-found"), f"{where}, {whose}"
            elif "/runs" in path:
                assert code == "workflow-not-allowed", f"{where}, {whose}"


@pytest.mark.parametrize("state", ["missing", "unknown", "malformed", "expired", "revoked"])
async def test_no_route_answers_without_a_good_token(serving: Serving, state: str) -> None:
    app = serving.app
    await app.start("research", "a", id="mine")
    _, good = await create(app, "good", "admin")
    text = {"missing": "", "unknown": good[:18] + "x" * 43, "malformed": good[:-1]}.get(state)
    if text is None:
        made, text = await create(app, "bad", "admin", seconds=1e-6 if state == "expired" else None)
        if state == "revoked":
            await revoke(app, made.id)
    before = await app.store.run("mine")
    codes = set()
    for method, path in ROUTES:
        got = await ask(serving, method, url_of(path, "mine"), text)
        codes.add(got.json()["code"])
        assert got.status_code in (401, 429), f"{method} {path}"
        assert "mine" not in got.text
    known = {"missing": "missing", "expired": "expired", "revoked": "revoked"}
    assert f"token-{known.get(state, 'invalid')}" in codes
    assert await app.store.run("mine") == before
    assert await app.store.feed("audit") == []


async def test_health_is_everybodys(serving: Serving) -> None:
    await create(serving.app, "good", "admin")
    for path in HEALTH:
        assert (await ask(serving, "GET", path, "")).status_code == 200


async def test_a_limited_token_sees_no_other_workflow_in_lists(serving: Serving) -> None:
    app = serving.app
    await app.start("research", "a", id="mine")
    await app.start("naps", 1.0, id="nap")
    _, one = await create(app, "one", "operator", workflows=("research",))
    _, two = await create(app, "two", "operator", workflows=("research", "naps"))
    transport = httpx.ASGITransport(app=serving)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
        http.headers["authorization"] = f"Bearer {one}"
        assert [r["id"] for r in (await http.get(f"{V}/runs")).json()["runs"]] == ["mine"]
        many = {"action": "cancel", "ids": ["mine", "nap"]}
        assert (await http.post(f"{V}/bulk/runs", json=many)).status_code == 403
        started = await http.post(f"{V}/runs", json={"workflow": "naps@^1", "input": {}})
        assert started.json()["code"] == "workflow-not-allowed"
        http.headers["authorization"] = f"Bearer {two}"
        assert (await http.get(f"{V}/runs")).json()["code"] == "workflow-not-allowed"
        named = await http.get(f"{V}/runs", params={"workflow": "naps"})
        assert [r["id"] for r in named.json()["runs"]] == ["nap"]
    assert (await app.run("nap").record()).cancel_requested is False


def test_every_public_error_has_a_code() -> None:
    import aura.errors

    known = {
        one
        for one in vars(aura.errors).values()
        if isinstance(one, type) and issubclass(one, aura.errors.AuraError)
    }
    assert set(CODES) == known
    for status, code in CODES.values():
        assert 400 <= status < 600
        assert code == code.lower()
        assert " " not in code
