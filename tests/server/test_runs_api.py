"""Runs from start to end over HTTP: starting once, waiting, many at once, limits of requests; and
that each change is in the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from aura.app import Config
from aura.engine.retention import sweep
from aura.errors import StoreUnavailable
from aura.server import audit, tokens
from aura.server.audit import FEED
from aura.server.serving import Serving, build
from aura.server.tokens import create
from aura.store.base import Sweep
from tests.server.kit import Gate, client, make_app
from tests.server.test_api import problem

V = "/api/v1"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(params=["sqlite", "postgres"])
async def serving(
    request: pytest.FixtureRequest, tmp_path: Path, gate: Gate
) -> AsyncIterator[Serving]:
    url = tmp_path / "aura.db"
    database = url if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with build(make_app(str(database), gate)) as opened:
        yield opened


@pytest.fixture
async def http(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with client(serving) as one:
        yield one


async def test_a_run_is_started_once_and_waited_for(
    serving: Serving, http: httpx.AsyncClient, gate: Gate
) -> None:
    body = {"workflow": "gated", "id": "g/1"}
    made = await http.post(f"{V}/runs", json=body)
    assert (made.status_code, made.json()["id"]) == (201, "g/1")
    assert (await http.post(f"{V}/runs", json=body)).json()["id"] == "g/1"
    url = f"{V}/runs/g%2F1/result"
    early = (await http.get(url, params={"timeout": 0.01})).json()
    assert (early["settled"], early["output"]) == (False, None)
    waiting = asyncio.create_task(http.get(url, params={"timeout": 60}))
    await gate.reached.wait()
    gate.open.set()
    late = (await waiting).json()
    assert (late["settled"], late["run"]["state"], late["output"]["value"]) == (
        True, "completed", "through",
    )  # fmt: skip


async def test_an_idempotency_key_makes_one_run(serving: Serving, http: httpx.AsyncClient) -> None:
    body = {"workflow": "research", "input": {"text": "abc"}}
    key = {"idempotency-key": "order 17"}
    sent = await asyncio.gather(*(http.post(f"{V}/runs", json=body, headers=key) for _ in range(5)))
    [run_id] = {one.json()["id"] for one in sent}
    other = {"workflow": "research", "input": {"text": "other"}}
    conflict = await http.post(f"{V}/runs", json=other, headers=key)
    assert problem(conflict) == (409, "run-conflict")
    both = await http.post(f"{V}/runs", json={**body, "id": "x"}, headers=key)
    assert problem(both) == (422, "invalid-input")
    assert len((await http.get(f"{V}/runs")).json()["runs"]) == 1
    ended = (await http.get(f"{V}/runs/{run_id}/result?timeout=60")).json()
    assert ended["output"]["value"] == {"length": 3}


async def test_a_failed_run_says_why_in_its_result(http: httpx.AsyncClient) -> None:
    await http.post(f"{V}/runs", json={"workflow": "broken", "input": {"text": "t"}, "id": "b"})
    ended = (await http.get(f"{V}/runs/b/result?timeout=60")).json()
    assert (ended["settled"], ended["run"]["error"]["type"]) == (True, "ValueError")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "invalid-input")),
        ({"workflow": "nobody"}, (404, "workflow-not-found")),
        ({"workflow": "research", "version": "9.9.9", "input": {"text": "a"}},
         (404, "workflow-not-found")),
        ({"workflow": "research"}, (422, "invalid-input")),
        ({"workflow": "research", "input": {"text": 1}}, (422, "invalid-input")),
        ({"workflow": "research", "input": {"text": "a"}, "id": ""}, (422, "invalid-input")),
        ({"workflow": "research", "input": {"text": "a"}, "id": "a\0"}, (422, "invalid-input")),
        ({"workflow": "research", "input": {"text": "a"}, "queue": "no"}, (404, "queue-not-found")),
        ({"workflow": "research", "input": {"text": "a"}, "delay": -1}, (422, "invalid-input")),
        ({"workflow": "research", "input": {"text": "a"}, "deadline": "soon"},
         (422, "invalid-input")),
        ({"workflow": "research", "input": [], "x": 1}, (422, "invalid-input")),
        ({"workflow": "named", "input": {"id": "a", "self": 1}}, (422, "invalid-input")),
    ],
)  # fmt: skip
async def test_starts_that_cannot_be(body: dict[str, object], expected: tuple[int, str]) -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        assert problem(await http.post(f"{V}/runs", json=body)) == expected


async def test_many_runs_at_once_and_what_would_come_of_it(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    app = serving.app
    for at in range(3):
        await app.start("naps", 3_600.0, id=f"n{at}")
    await (await app.start("research", "a", id="done")).result(60)
    order = {"action": "cancel", "workflow": "naps", "limit": 2, "dry_run": True}
    asked = (await http.post(f"{V}/bulk/runs", json=order)).json()
    assert [(one["run"], one["outcome"]) for one in asked["outcomes"]] == [
        ("n2", "would be done"), ("n1", "would be done"),
    ]  # fmt: skip
    assert not (await app.run("n2").record()).cancel_requested
    order = {**order, "dry_run": False}
    first = (await http.post(f"{V}/bulk/runs", json=order)).json()
    assert [one["outcome"] for one in first["outcomes"]] == ["done", "done"]
    rest = (await http.post(f"{V}/bulk/runs", json={**order, "cursor": first["next"]})).json()
    assert ([one["run"] for one in rest["outcomes"]], rest["next"]) == (["n0"], None)
    for at in range(3):
        assert (await app.run(f"n{at}").record()).cancel_requested
    named = {"action": "retry", "ids": ["done", "nobody", "done", "a\0"]}
    told = (await http.post(f"{V}/bulk/runs", json=named)).json()["outcomes"]
    assert [(one["run"], one["outcome"]) for one in told] == [
        ("done", "not-needed"), ("nobody", "run-not-found"), ("a\0", "run-not-found"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {"action": "cancel"},
        {"action": "destroy", "state": "failed"},
        {"action": "cancel", "state": "lost"},
        {"action": "cancel", "ids": ["a"], "state": "failed"},
        {"action": "cancel", "ids": ["a"] * 201},
        {"action": "cancel", "state": "failed", "limit": 0},
        {"action": "cancel", "state": "failed", "cursor": "!"},
    ],
)
async def test_bulk_orders_that_cannot_be(body: dict[str, object]) -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        assert problem(await http.post(f"{V}/bulk/runs", json=body)) == (422, "invalid-input")


async def test_no_change_is_made_whose_entry_cannot_be_written(
    serving: Serving, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await serving.app.start("naps", 3_600.0, id="n")

    async def away(*_: object) -> int:
        raise StoreUnavailable("the log is full")

    with monkeypatch.context() as broken:
        broken.setattr(audit, "_append", away)
        for path, body in (("runs/n/cancel", {}), ("runs", {"workflow": "naps", "input": {}})):
            assert problem(await http.post(f"{V}/{path}", json=body)) == (503, "store-unavailable")
    assert not (await run.record()).cancel_requested
    assert [one.id for one in await serving.app.runs()] == ["n"]
    assert (await http.post(f"{V}/runs/n/cancel", json={})).status_code == 200


async def test_every_change_is_in_the_audit_log(
    serving: Serving, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    _, text = await create(serving.app, "ann", "admin")
    http.headers["authorization"] = f"Bearer {text}"
    await serving.app.start("naps", 3_600.0, id="n/1")
    why = {"aura-reason": "it%20h%C3%A4ngt"}
    await http.post(f"{V}/runs/n%2F1/cancel", json={}, headers=why)
    await http.post(f"{V}/runs/gone/signals/go", json={"payload": "a secret"})
    await http.post(f"{V}/runs/gone/signals/go", content=b"<xml>", headers={"content-type": "x/y"})
    await http.get(f"{V}/runs/n%2F1")
    page = (await http.get(f"{V}/audit", params={"limit": 2})).json()
    assert page["next"] == 2
    told = page["entries"] + (await http.get(f"{V}/audit?after=2")).json()["entries"]
    assert [(one["number"], one["what"], one["outcome"], one["of"]) for one in told] == [
        (1, "runs cancel", "asked", None),
        (2, "runs signal", "asked", None),
        (3, "runs signal", "run-not-found", 2),
    ]
    first = told[0]
    assert (first["by"], first["role"], first["via"], first["address"], first["why"]) == (
        "ann", "admin", "http", "127.0.0.1", "it hängt",
    )  # fmt: skip
    assert first["target"] == {"run_id": "n/1"}
    start = rb'{"workflow": "research", "input": {"text": "a secret"}, "id": "s\ud800"}'  # half
    kind = {"content-type": "application/json"}
    assert problem(await http.post(f"{V}/runs", content=start, headers=kind))[0] == 422
    order = {"action": "cancel", "ids": ["x"], "dry_run": True}
    await http.post(f"{V}/bulk/runs", json=order)
    started, refused, many = (await http.get(f"{V}/audit?after=3")).json()["entries"]
    assert started["target"] == {"workflow": "research", "id": r"s\ud800"}
    assert (refused["outcome"], refused["of"]) == ("invalid-input", 4)
    assert many["target"] == {"action": "cancel", "ids": '["x"]', "dry_run": "true"}
    assert "a secret" not in str([told, started, refused, many])
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert problem(await http.request(method, f"{V}/audit", json={}))[0] == 405
    app = serving.app
    plan = await app.sweep_plan(0.0)
    assert isinstance(plan, Sweep)

    async def planned() -> Sweep:
        return plan

    await sweep(app.store, app.clock, planned)
    assert len(await app.store.feed(FEED)) == 6


async def test_requests_have_a_size() -> None:
    app = make_app()
    app.config = Config(database=":memory:", max_payload=1_000)
    async with build(app, worker=False) as serving, client(serving) as http:
        large = b'{"workflow": "research", "input": {"text": "' + b"a" * 1_100_000 + b'"}}'
        kind = {"content-type": "application/json"}
        told = await http.post(f"{V}/runs", content=large, headers=kind)
        assert problem(told) == (413, "payload-too-large")

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b" " * 100_000

        told = await http.post(f"{V}/runs", content=pieces(), headers=kind)  # it names no length
        assert problem(told) == (413, "payload-too-large")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"workflow": NaN}'])
async def test_bodies_that_are_no_object_are_refused(body: bytes) -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        kind = {"content-type": "application/json"}
        told = await http.post(f"{V}/runs", content=body, headers=kind)
        status, code = problem(told)
        assert (status, code) in ((422, "invalid-input"), (400, "bad-request"))


async def test_answers_carry_headers_that_keep_browsers_calm(http: httpx.AsyncClient) -> None:
    for path in ("runs", "runs/nobody", "no/page", "healthz"):
        headers = (await http.get(f"{V}/{path}")).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["referrer-policy"] == "no-referrer"


async def test_runs_are_found_by_their_attributes(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    for at, customer in enumerate("xyx"):
        words = {"customer": customer, "tier": "gold"}
        body = {"workflow": "research", "input": {"text": "a"}, "id": f"r{at}", "attributes": words}
        made = await http.post(f"{V}/runs", json=body)
        assert (made.status_code, made.json()["attributes"]) == (201, words)
    page = {"attribute": "customer:x", "limit": "1"}
    first = (await http.get(f"{V}/runs", params=page)).json()
    assert [one["id"] for one in first["runs"]] == ["r2"]
    rest = (await http.get(f"{V}/runs", params={**page, "cursor": first["next"]})).json()
    assert ([one["id"] for one in rest["runs"]], rest["next"]) == (["r0"], None)
    assert rest["runs"][0]["attributes"] == {"customer": "x", "tier": "gold"}
    both = await http.get(f"{V}/runs?attribute=customer:y&attribute=tier:gold")
    assert [one["id"] for one in both.json()["runs"]] == ["r1"]
    assert (await http.get(f"{V}/runs?attribute=customer:y&attribute=tier:tin")).json()[
        "runs"
    ] == []
    shown = (await http.get(f"{V}/runs/r1")).json()["run"]
    assert shown["attributes"] == {"customer": "y", "tier": "gold"}
    ended = (await http.get(f"{V}/runs/r1/result?timeout=30")).json()["run"]
    assert (ended["state"], ended["attributes"]) == ("completed", shown["attributes"])
    for order in ("cancel", "requeue"):
        done = (await http.post(f"{V}/runs/r1/{order}", json={})).json()
        assert done["attributes"] == shown["attributes"], order
    for nobodys in ("customer:", "a:%00", "customer:z"):
        assert (await http.get(f"{V}/runs?attribute={nobodys}")).json()["runs"] == []
    for wrong in ("customer", ":x", "a b:c"):
        told = await http.get(f"{V}/runs?attribute={wrong}")
        assert problem(told) == (422, "invalid-input"), wrong
    many = "&".join(f"attribute=a:{at}" for at in range(17))
    assert problem(await http.get(f"{V}/runs?{many}")) == (422, "invalid-input")
    body = {"workflow": "research", "input": {"text": "a"}, "attributes": {"a b": "c"}}
    assert problem(await http.post(f"{V}/runs", json=body)) == (422, "invalid-input")
