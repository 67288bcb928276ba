"""What is wrong with a request is said: what, where, and how to mend it; on every route, and
without what was sent."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, field_validator

from aura import Aura, Config
from aura.masking import Mask, Masking
from aura.server import changes_api
from aura.server.api import openapi_of
from aura.server.invalid import unsaid
from aura.server.serving import Serving, build
from tests.server.kit import client, make_app

V = "/api/v1"
DOCUMENT = openapi_of(build(make_app()).api)
ROUTES = [
    (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
    if path not in ("/healthz", "/readyz")
]
CHANGES = [one for one in ROUTES if one[0] != "GET"]
SECRET = "hunter2-the-secret"  # noqa: S105


@pytest.fixture
async def http(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(changes_api, "LONGEST", 0.0)  # what is live ends at once
    async with build(make_app(), worker=False) as serving, client(serving) as opened:
        yield opened


def told(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def url(method: str, path: str, name: str = "") -> str:
    """The route, with the examples that it names, or with that name."""
    examples = {
        one["name"]: str(one["schema"].get("examples", [one["schema"].get("enum", ["x"])[0]])[0])
        for one in told(method, path).get("parameters", ())
        if one["in"] == "path"
    }
    if name:
        known = {"letter": f"event:{name}/{name}/1", "version": f"{name}@1.0.0"}
        orders = {one: examples[one] for one in examples if one == "order"}
        examples = dict.fromkeys(examples, name) | {**known, **orders}
    return re.sub(r"\{(\w+)\}", lambda found: examples[found[1]].replace("/", "%2F"), path)


def example(method: str, path: str) -> dict[str, Any]:
    body = told(method, path)["requestBody"]["content"]["application/json"]["schema"]
    schema = DOCUMENT["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    found: dict[str, Any] = schema["examples"][0]
    return found


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, f"{answer.request.method} {answer.url}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    return found


async def test_bodies_that_do_not_fit(http: httpx.AsyncClient) -> None:
    for route in CHANGES:
        await _bodies_that_do_not_fit(http, route)


async def _bodies_that_do_not_fit(http: httpx.AsyncClient, route: tuple[str, str]) -> None:
    method, where = route[0], url(*route)
    for wrong, what in (
        ([1], "body: it should be an object, and is a list. Send JSON such as {"),
        ("text", "body: it should be an object, and is a text. Send JSON such as {"),
        (None, "body: it "),
        ({**example(*route), "nonsense": 1}, "body.nonsense: there is no such field. Leave it out"),
    ):
        sent = {"content": json.dumps(wrong), "headers": {"content-type": "application/json"}}
        found = problem(await http.request(method, where, **sent), 422)  # type: ignore[arg-type]
        assert found["detail"].startswith(what)
        assert (found["code"], found["field"]) == (
            "invalid-input",
            "nonsense" if isinstance(wrong, dict) else "body",
        )
    broken = {"content": b'{"a": ', "headers": {"content-type": "application/json"}}
    found = problem(await http.request(method, where, **broken), 422)  # type: ignore[arg-type]
    assert re.match(
        r"body: it is not JSON: .*, at character 6\. Send JSON such as {", found["detail"]
    )
    binary = {"content": b'"\xff"', "headers": {"content-type": "application/json"}}
    assert "UTF-8" in problem(await http.request(method, where, **binary), 400)["detail"]  # type: ignore[arg-type]
    form = {"content": b"a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}}
    found = problem(await http.request(method, where, **form), 415)  # type: ignore[arg-type]
    assert found["detail"] == "send JSON (content-type: application/json), {} for nothing"


async def test_queries_methods_and_sizes(http: httpx.AsyncClient) -> None:
    for route in ROUTES:
        await _queries_methods_and_sizes(http, route)


async def _queries_methods_and_sizes(http: httpx.AsyncClient, route: tuple[str, str]) -> None:
    method, where = route[0], url(*route)
    sent: dict[str, Any] = {} if method == "GET" else {"json": example(*route)}
    found = problem(await http.request(method, where, params={"nonsense": "1"}, **sent), 422)
    assert found["field"] == "nonsense"
    assert re.search("; it (may have|takes none)", found["detail"])
    found = problem(await http.request("PATCH", where, json={}), 405)
    assert method in found["detail"].rpartition("it is served to ")[2]
    if method != "GET":
        large = {"content-type": "application/json", "content-length": str(10**9)}
        found = problem(await http.request(method, where, content=b"{}", headers=large), 413)
        assert (found["code"], "bytes" in found["detail"]) == ("payload-too-large", True)


async def test_parameters_of_the_wrong_kind(http: httpx.AsyncClient) -> None:
    for route in ROUTES:
        await _parameters_of_the_wrong_kind(http, route)


async def _parameters_of_the_wrong_kind(http: httpx.AsyncClient, route: tuple[str, str]) -> None:
    method, where = route[0], url(*route)
    for one in told(*route).get("parameters", ()):
        text = json.dumps(one["schema"])
        bounded = re.search(r'"(integer|number|boolean|enum|pattern)"', text)
        if one["in"] != "query" or not bounded:
            continue
        needed = {
            each["name"]: each["schema"].get("examples", ["x"])[0]
            for each in told(*route)["parameters"]
            if each["in"] == "query" and each["required"]
        }
        found = problem(await http.request(method, where, params={**needed, one["name"]: "§"}), 422)
        assert found["field"].startswith(one["name"])
        assert re.match(r"[\w\[\]]+: (it|String) should ", found["detail"])
        assert "§" not in found["detail"]


async def test_ids_that_nobody_has(http: httpx.AsyncClient) -> None:
    """What needs no id that is there (a schedule is made by PUT) is left out."""
    for route in [one for one in ROUTES if "{" in one[1]]:
        await _ids_that_nobody_has(http, route)


async def _ids_that_nobody_has(http: httpx.AsyncClient, route: tuple[str, str]) -> None:
    method, path = route
    where = url(*route, "nobody")
    if method == "PUT" or path.endswith("/topics/{name}/events"):
        return
    sent: dict[str, Any] = {} if method == "GET" else {"json": example(*route)}
    query = {
        one["name"]: one["schema"].get("examples", ["x"])[0]
        for one in told(*route)["parameters"]
        if one["in"] == "query" and one["required"]
    }
    found = problem(await http.request(method, where, params=query, **sent), 404)
    assert found["code"].endswith("-not-found")
    assert ". " in found["detail"] or ": " in found["detail"], "it says what to do"


async def test_cursors_and_keys(http: httpx.AsyncClient) -> None:
    for path in ("/runs", "/letters"):
        for cursor in ("x", "e30", "WzEsMl0", "§", "=" * 100):
            found = problem(await http.get(V + path, params={"cursor": cursor}), 422)
            assert found["detail"] == (
                "the cursor cannot be read. Give the `next` of the page before, unchanged"
            )
    body = {"workflow": "research", "input": {"text": "a"}}
    key = {"idempotency-key": "k"}
    first = await http.post(f"{V}/runs", json=body, headers=key)
    again = await http.post(f"{V}/runs", json=body, headers=key)
    assert first.json()["id"] == again.json()["id"]
    other = {"workflow": "research", "input": {"text": "b"}}
    found = problem(await http.post(f"{V}/runs", json=other, headers=key), 409)
    assert found["code"] == "run-conflict"
    assert "another input" in found["detail"]


class Login(BaseModel):
    user: str
    password: str

    @field_validator("user", "password")
    @classmethod
    def _fits(cls, given: str) -> str:
        if len(given) < 100:
            raise ValueError(f"{given} is too short")
        return given


@pytest.mark.parametrize("opened", [False, True])
async def test_problems_have_no_secrets(opened: bool) -> None:
    app = Aura("m", config=Config(database=":memory:", masking=Masking(admins_see_all=opened)))

    @app.workflow(version="1.0.0")
    async def session(login: Login, password: int = 0) -> None: ...

    async with Serving(app, None, worker=False) as serving, client(serving) as http:
        asked = {"workflow": "session", "input": {"login": {"user": "ada", "password": SECRET}}}
        found = problem(await http.post(f"{V}/runs", json=asked), 422)
        assert (SECRET in found["detail"]) == opened
        assert "password: " in found["detail"]
        assert "ada is too short" in found["detail"], "what is no secret is said"
        for wrong in (
            {"password": SECRET},
            {"login": f"password={SECRET}"},
            {"password": [SECRET]},
        ):
            asked = {"workflow": "session", "input": wrong}
            found = problem(await http.post(f"{V}/runs", json=asked), 422)
            assert SECRET not in found["detail"]
        for path, body in (
            (f"{V}/runs", {"workflow": "session", "password": SECRET}),
            (f"{V}/runs", {"workflow": {"password": SECRET}}),
            (f"{V}/runs", {"workflow": "session", "version": f"password={SECRET}"}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code in (404, 422)
            assert opened or SECRET not in answer.text


def test_what_pydantic_says_of_a_secret_field_stays_readable() -> None:
    mask = Mask()
    for text in (
        "password: Input should be a valid integer",
        "login.password: Field required; user: Input should be a valid string",
        "body.api_key: it should be a text, and is a list",
        "there is no run doc-17. List runs with: aura runs list",
    ):
        assert unsaid(text, mask) == text
    assert SECRET not in unsaid(f"login.password: Value error, {SECRET} is short; a: b", mask)
    assert unsaid(f"a: Value error, {SECRET}", mask).endswith(SECRET)
    assert (
        unsaid(f"cannot log in with password={SECRET}", mask) == "cannot log in with password=***"
    )


async def test_what_is_no_time_is_told_what_a_time_is(http: httpx.AsyncClient) -> None:
    for wrong in ("yesterday", "2026-05-01", "2026-05-01T12:00:00"):
        found = problem(await http.get("/api/v1/runs", params={"since": wrong}), 422)
        assert "since: it should be a time with its zone, such as 2" in found["detail"]
