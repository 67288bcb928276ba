"""The HTTP API over an open app: shapes, problems, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from aura.errors import RunError, StoreUnavailable
from aura.server.serving import Serving, build
from tests.server.kit import client, make_app


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    async with build(make_app()) as opened:
        yield opened


@pytest.fixture
async def http(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with client(serving) as one:
        yield one


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error answer, which must be a problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document.keys() >= {"type", "title", "detail", "code"}
    return answer.status_code, document["code"]


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_health(http: httpx.AsyncClient, prefix: str) -> None:
    assert (await http.get(f"{prefix}/healthz")).json() == {"status": "ok"}
    assert (await http.get(f"{prefix}/readyz")).json() == {"status": "ready"}


async def test_a_process_without_its_database_lives_but_is_not_ready(
    serving: Serving, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(kind: str, name: str) -> None:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(serving.app.store, "document", away)
    assert problem(await http.get("/readyz")) == (503, "store-unavailable")
    assert (await http.get("/healthz")).status_code == 200


async def test_a_database_that_does_not_answer_is_not_ready(
    serving: Serving, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = serving.app.store.document

    async def silent(kind: str, name: str) -> object:
        return await (serving.app.clock.sleep(60) if name == "ready" else read(kind, name))

    monkeypatch.setattr(serving.app.store, "document", silent)
    monkeypatch.setattr("aura.server.api.READY_WITHIN", 0.05)
    assert problem(await http.get("/readyz")) == (503, "store-unavailable")


async def test_status_shows_runs_workers_and_rollouts(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    await (await serving.app.start("research", "text")).result()
    found = (await http.get("/api/v1/status")).json()
    assert found.keys() == {"app", "database", "runs", "workers", "rollouts"}
    assert found["runs"]["completed"] == 1
    assert found["database"]["kind"] == "sqlite"
    (worker,) = found["workers"]
    assert worker["live"]
    assert "research 1.0.0" in worker["workflows"]
    assert (await http.get("/api/v1/rollouts")).json() == {"rollouts": []}


async def test_runs_are_listed_page_by_page(serving: Serving, http: httpx.AsyncClient) -> None:
    for at in range(3):
        await (await serving.app.start("research", "text", id=f"r{at}")).result()
    first = (await http.get("/api/v1/runs", params={"limit": 2})).json()
    assert [run["id"] for run in first["runs"]] == ["r2", "r1"]
    rest = (await http.get("/api/v1/runs", params={"cursor": first["next"]})).json()
    assert [run["id"] for run in rest["runs"]] == ["r0"]
    assert rest["next"] is None
    none = (await http.get("/api/v1/runs", params={"state": "failed"})).json()
    assert none["runs"] == []


async def test_a_run_is_shown_with_its_journal(serving: Serving, http: httpx.AsyncClient) -> None:
    run_id = "doc/17 ü"
    await (await serving.app.start("research", "text", times=2, id=run_id)).result()
    found = (await http.get("/api/v1/runs/doc%2F17%20%C3%BC")).json()
    assert found["run"]["id"] == run_id
    assert found["run"]["state"] == "completed"
    assert found["run"]["created_at"].endswith("Z")
    assert found["input"]["value"] == {"text": "text", "times": 2}
    assert found["output"]["value"] == {"length": 8}
    assert [(call["lane"], call["name"], call["state"]) for call in found["journal"]] == [
        ("0.1", "measure", "done"),
        ("0.2", "measure", "done"),
    ]


async def test_large_payloads_are_whole_on_demand_only(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    await (await serving.app.start("research", "a" * 5_000, id="large")).result()
    short = (await http.get("/api/v1/runs/large")).json()["input"]
    assert (short["whole"], short["value"], len(short["preview"])) == (False, None, 400)
    full = (await http.get("/api/v1/runs/large?full=true")).json()["input"]
    assert full["value"] == {"text": "a" * 5_000}


async def test_a_failed_run_tells_why(serving: Serving, http: httpx.AsyncClient) -> None:
    with pytest.raises(RunError):
        await (await serving.app.start("broken", "<script>", id="bad")).result()
    error = (await http.get("/api/v1/runs/bad")).json()["run"]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "<script>")
    assert "in broken" in error["traceback"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/runs/missing", (404, "run-not-found")),
        ("/api/v1/runs/", (404, "not-found")),
        ("/api/v1/runs/a%00b", (404, "run-not-found")),
        ("/api/v1/runs?state=lost", (422, "invalid-input")),
        ("/api/v1/runs?limit=0", (422, "invalid-input")),
        ("/api/v1/runs?limit=many", (422, "invalid-input")),
        ("/api/v1/runs?cursor=%21", (422, "invalid-input")),
        ("/api/v1/runs/x?full=perhaps", (422, "invalid-input")),
        ("/api/v1/nothing", (404, "not-found")),
        ("/nothing", (404, "not-found")),
    ],
)
async def test_bad_requests_are_problem_documents(
    http: httpx.AsyncClient, path: str, expected: tuple[int, str]
) -> None:
    assert problem(await http.get(path)) == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_what_is_read_cannot_be_written(http: httpx.AsyncClient, method: str) -> None:
    for path in ("/api/v1/audit", "/api/v1/status", "/api/v1/splits/x", "/api/v1/runs/x"):
        answer = await http.request(method, path)
        assert problem(answer) == (405, "method-not-allowed")
        assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "192.168.0.1:8080", "localhost.evil", "0.0.0.0"],
)
async def test_other_names_for_this_machine_are_refused(serving: Serving, host: str) -> None:
    async with client(serving, host) as http:
        assert problem(await http.get("/api/v1/runs")) == (403, "host-not-allowed")
        assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.9.9.9", "[::1]:8080"])
async def test_this_machines_own_names_are_welcome(serving: Serving, host: str) -> None:
    async with client(serving, host) as http:
        answer = await http.get("/api/v1/runs")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"


async def test_a_fault_of_the_server_does_not_show_its_inside(
    serving: Serving, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks() -> None:
        raise KeyError("secret")

    monkeypatch.setattr(serving.app.rollouts, "all", breaks)
    answer = await http.get("/api/v1/rollouts")
    assert problem(answer) == (500, "failed")
    assert "secret" not in answer.text


async def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(
    http: httpx.AsyncClient,
) -> None:
    document = (await http.get("/api/v1/openapi.json")).json()
    assert document["paths"].keys() >= {"/healthz", "/api/v1/runs", "/api/v1/runs/{run_id}"}
    for path in ("/docs", "/redoc"):
        assert (await http.get(path)).status_code == 404
