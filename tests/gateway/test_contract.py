"""The old API as a contract, from a document and from examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aura.delivery.guard import Guard, GuardState, judge
from aura.errors import ConfigError
from aura.gateway.client import Receive, Scope, Send
from aura.gateway.config import parse_gateway
from aura.gateway.contract import ContractSpec, compile_contract, load_contract, read_document
from aura.gateway.inferring import infer, read_examples, shape
from aura.gateway.units import UnitSource
from tests.gateway.conftest import Servers, Start, app_of, free_port, read_body, reply, split_of

JSON = ((b"content-type", b"application/json; charset=utf-8"),)

ORDER = {
    "type": "object",
    "required": ["id", "state", "lines"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["open", "paid"], "nullable": True, "type": "string"},
        "total": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        "lines": {"type": "array", "items": {"$ref": "#/components/schemas/Line"}},
        "nullable": {"type": "boolean"},
    },
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "orders", "version": "1"},
    "servers": [{"url": "https://old.example/v1"}],
    "paths": {
        "/orders/{id}": {
            "get": {
                "responses": {
                    "200": {
                        "description": "one",
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": ORDER}},
                    },
                    "404": {"$ref": "#/components/responses/Missing"},
                }
            }
        },
        "/orders/newest": {"get": {"responses": {"2XX": {"description": "any"}}}},
    },
    "components": {
        "schemas": {
            "Line": {
                "type": "object",
                "required": ["n"],
                "properties": {
                    "n": {"type": "integer"}, "note": {"type": "string", "nullable": True}
                },
            },
        },
        "responses": {
            "Missing": {"description": "", "content": {"application/problem+json": {}}},
        },
    },
}  # fmt: skip
GOOD = {"id": "a", "state": "open", "total": 1.5, "lines": [{"n": 1, "note": None}]}


def check(body: Any, *, status: int = 200, headers: Any = None, path: str = "/v1/orders/7") -> Any:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = (*JSON, (b"etag", b"x")) if headers is None else headers
    found = compile_contract(DOCUMENT).check("GET", path, status, given, sent)
    return [str(one) for one in found]


def test_an_answer_that_fits_has_no_violations() -> None:
    assert check(GOOD) == []
    assert check(GOOD, path="/orders/7?full=1") == []
    assert check({**GOOD, "state": None}) == []


def test_unknown_fields_pass() -> None:
    assert check({**GOOD, "new": {"a": 1}, "lines": [{"n": 1, "more": 2}]}) == []


@pytest.mark.parametrize(
    ("body", "violation"),
    [
        ({**GOOD, "id": 7}, '$.id: the value is not of type "string"'),
        ({"id": "a", "lines": []}, '$: "state" is a required property'),
        ({**GOOD, "state": "lost"}, '$.state: the value is not one of "open", "paid" or null'),
        ({**GOOD, "lines": [{"n": 1.5}]}, '$.lines[0].n: the value is not of type "integer"'),
        (
            {**GOOD, "lines": [{"n": 1, "note": 5}]},
            '$.lines[0].note: the value is not of types "null", "string"',
        ),
        ({**GOOD, "total": 0}, "$.total: the value is less than or equal to the minimum of 0"),
        ([], '$: the value is not of type "object"'),
        (b"{", "body: it is not JSON"),
        (b"[" * 100_000, "body: it is not JSON"),
    ],
)  # fmt: skip
def test_what_breaks_it(body: Any, violation: str) -> None:
    assert check(body) == [violation]


def test_status_content_type_and_fields_of_the_head() -> None:
    assert check(GOOD, status=201) == ["status: 201 is not declared: 200, 404"]
    html = ((b"content-type", b"text/html"), (b"etag", b"x"))
    assert check(b"<p>", headers=html) == [
        "content-type: text/html is not declared: application/json"
    ]
    assert check(GOOD, headers=JSON) == ["header ETag: it is required and missing"]
    problem = ((b"content-type", b"application/problem+json"),)
    assert check({"anything": 1}, status=404, headers=problem) == []


def test_paths_without_parameters_go_first_and_unknown_ones_are_not_checked() -> None:
    assert check(b"anything", path="/v1/orders/newest", headers=()) == []
    assert check(b"anything", path="/v1/others", headers=()) == []
    assert check(b"anything", path="/v1/orders/7/lines", headers=()) == []


def test_swagger_two() -> None:
    document = {
        "swagger": "2.0",
        "basePath": "/api",
        "produces": ["application/json"],
        "definitions": {"A": {"type": "object", "required": ["a"]}},
        "paths": {"/a": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/A"}}}}}},
    }
    contract = compile_contract(document)
    assert contract.check("GET", "/api/a", 200, JSON, b'{"a": 1}') == []
    assert len(contract.check("GET", "/api/a", 200, JSON, b"{}")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"paths": []},
        {"paths": {"/a": {"get": {"responses": {"200": 5}}}}},
        {"paths": {"/a": {"get": {"responses": {"200": {"$ref": "#/nowhere"}}}}}},
        {"paths": {"/a": {"get": {"responses": {"200": {"$ref": "other.yaml#/a"}}}}}},
        {"paths": {"/a": {"get": {"responses": {"200": {"content": {"application/json": {
            "schema": {"$ref": "https://example.com/schema"}}}}}}}}},
        {"paths": {"/a": {"get": {"responses": {"200": {"content": {"application/json": {
            "schema": {"type": "odd"}}}}}}}}},
        {"paths": {"/a": {"get": {"responses": {"200": {"content": {"application/json": {
            "schema": {"$ref": "#/components/schemas/Missing"}}}}}}}}},
    ],
)  # fmt: skip
def test_documents_that_are_no_contract(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        compile_contract(wrong)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "openapi_: 3", "\x00"])
def test_files_that_are_no_document(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_document(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document(str(tmp_path / "none.yaml"))


def pair(path: str, body: Any, status: int = 200) -> dict[str, Any]:
    return {"request": {"path": path}, "response": {"status": status, "body": body}}


def examples_in(folder: Path, *pairs: Any) -> str:
    for number, one in enumerate(pairs):
        (folder / f"{number}.json").write_text(json.dumps(one))
    return str(folder / "*.json")


def test_a_contract_is_inferred_from_examples(tmp_path: Path) -> None:
    pattern = examples_in(
        tmp_path,
        pair("/orders/7", {"id": 1, "note": None, "tags": ["a"], "sum": 1}),
        [pair("/orders/8?x=1", {"id": 2, "note": "n", "tags": [], "sum": 1.5, "more": True})],
        pair("/orders/9", {"error": "gone"}, status=404),
    )
    document = infer(read_examples([pattern]))
    assert list(document["paths"]) == ["/orders/{p1}"]
    schema = document["paths"]["/orders/{p1}"]["get"]["responses"]["200"]["content"]
    assert schema["application/json"]["schema"] == {
        "type": "object",
        "required": ["id", "note", "sum", "tags"],
        "properties": {
            "id": {"type": "integer"},
            "more": {"type": "boolean"},
            "note": {"type": ["null", "string"]},
            "sum": {"type": "number"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
    }
    contract = load_contract(ContractSpec(examples=(pattern,)))
    good = {"id": 5, "note": None, "tags": ["b"], "sum": 2, "unknown": 1}
    assert contract.check("GET", "/orders/77", 200, JSON, json.dumps(good).encode()) == []
    bad = json.dumps({**good, "id": "5"}).encode()
    assert [one.path for one in contract.check("GET", "/orders/77", 200, JSON, bad)] == ["$.id"]
    assert [one.path for one in contract.check("GET", "/orders/77", 500, JSON, b"{}")] == ["status"]


def test_all_examples_fit_what_is_inferred_from_them() -> None:
    values: list[Any] = [1, 1.5, None, "a", [], [1, None], {"a": [{"b": 1}]}, {"a": []}, True]
    schema = shape(values)
    document = {"openapi": "3.1.0", "paths": {"/": {"get": {"responses": {"200": {
        "content": {"application/json": {"schema": schema}}}}}}}}  # fmt: skip
    contract = compile_contract(document)
    for value in values:
        assert contract.check("GET", "/", 200, JSON, json.dumps(value).encode()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "5", '{"request": {}}', '[{"request": 1, "response": 2}]']
)
def test_files_that_are_no_examples(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(ConfigError):
        read_examples([str(tmp_path / "e.json")])


def test_bytes_of_examples(tmp_path: Path) -> None:
    exact = pair("/receipt", '{"a": 1}')
    exact["response"]["headers"] = {"Content-Type": "application/json"}
    pattern = examples_in(tmp_path, exact)
    contract = load_contract(ContractSpec(examples=(pattern,), exact=()))
    assert contract.check_example("GET", "/receipt", b"", b'{"a": 1}') == []
    assert len(contract.check_example("GET", "/receipt", b"", b'{"a":1}')) == 1
    assert contract.check_example("GET", "/receipt?other=1", b"", b'{"a":1}') == []
    assert not compile_contract(DOCUMENT).is_exact("GET", "/orders/7")
    some = compile_contract(DOCUMENT, ContractSpec(exact=("/orders/{id}",)))
    assert some.is_exact("GET", "/orders/7")
    assert not some.is_exact("GET", "/orders/newest")
    with pytest.raises(ConfigError, match="does not have"):
        compile_contract(DOCUMENT, ContractSpec(exact=("/order",)))


# -- in the gateway ------------------------------------------------------------------------


@pytest.fixture
def document(tmp_path: Path) -> str:
    file = tmp_path / "legacy.json"
    schema = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}
    answers = {"200": {"content": {"application/json": {"schema": schema}}}}
    made = {"openapi": "3.1.0", "paths": {"/orders": {"post": {"responses": answers}}}}
    file.write_text(json.dumps(made))
    return str(file)


def saying(body: bytes) -> Any:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await reply(send, body, headers=[(b"content-type", b"application/json")])

    return app_of(handle)


async def serve(start: Start, servers: Servers, bodies: tuple[bytes, bytes], **route: Any) -> Any:
    legacy, new = [await servers.asgi(saying(body)) for body in bodies]
    weight = route.pop("weight", 1.0)
    split = split_of(weight, mirror=not weight)
    return await start(legacy, new, split=split, route=route)


async def test_a_violation_is_the_candidates_failure_and_passes(
    start: Start, servers: Servers, document: str
) -> None:
    spec = ContractSpec(openapi=document)
    running = await serve(start, servers, (b'{"id": 1}', b'{"id": "one"}'), contract=spec)
    response = await running.client.post("/orders", content=b"{}")
    assert (response.json(), response.headers["x-aura-arm"]) == ({"id": "one"}, "new")
    (seen,) = await running.observations(1)
    assert (seen.ok, seen.error, seen.fallback, seen.user_ok) == (False, "contract", False, False)
    report = running.gateway.shadows.desk._new["s", "new"]
    assert report.violations == {'$.id: the value is not of type "integer"': 1}


async def test_with_fallback_the_user_gets_the_baselines_answer(
    start: Start, servers: Servers, document: str
) -> None:
    spec = ContractSpec(openapi=document, on_violation="fallback")
    running = await serve(start, servers, (b'{"id": 1}', b"[]"), contract=spec)
    response = await running.client.post("/orders", content=b"{}")
    assert (response.json(), response.headers["x-aura-arm"]) == ({"id": 1}, "legacy")
    (seen,) = await running.observations(1)
    assert (seen.arm, seen.ok, seen.error, seen.fallback, seen.user_ok) == (
        "new", False, "contract", True, True
    )  # fmt: skip


async def test_a_bad_answer_is_better_than_none(
    start: Start, servers: Servers, document: str
) -> None:
    spec = ContractSpec(openapi=document, on_violation="fallback")
    new = await servers.asgi(saying(b"[]"))
    running = await start(free_port(), new, split=split_of(1.0), route={"contract": spec})
    response = await running.client.post("/orders", content=b"{}")
    assert (response.status_code, response.json()) == (200, [])
    (seen,) = await running.observations(1)
    assert (seen.ok, seen.user_ok) == (False, False)


async def test_in_shadow_a_violation_is_a_difference_and_a_failure(
    start: Start, servers: Servers, document: str
) -> None:
    spec = ContractSpec(openapi=document)
    bodies = (b'{"id": 1}', b'{"id": "1"}')
    running = await serve(start, servers, bodies, contract=spec, weight=0.0)
    assert (await running.client.post("/orders", content=b"{}")).json() == {"id": 1}
    copy = next(one for one in await running.observations(2) if one.shadow)
    assert (copy.ok, copy.error) == (False, "contract")
    assert copy.differences == ("contract $.id", "$.id")


async def test_where_the_baseline_breaks_it_too_the_candidate_does_not_count(
    start: Start, servers: Servers, document: str
) -> None:
    spec = ContractSpec(openapi=document)
    running = await serve(start, servers, (b"{}", b"{}"), contract=spec, weight=0.0)
    await running.client.post("/orders", content=b"{}")
    user, copy = sorted(await running.observations(2), key=lambda one: one.shadow)
    assert (user.ok, user.error) == (False, "contract")
    assert (copy.ok, copy.differences) == (True, ())


async def test_bytes_count_where_they_are_required(
    start: Start, servers: Servers, document: str
) -> None:
    bodies = (b'{"id": 1}', b'{"id":1}')
    exact = ContractSpec(openapi=document, exact=())
    running = await serve(start, servers, bodies, contract=exact, weight=0.0)
    await running.client.post("/orders", content=b"{}")
    copy = next(one for one in await running.observations(2) if one.shadow)
    assert copy.differences == ("bytes",)


FILE = """
gateway:
  routes:
    - path: /orders/*
      split: s
      baseline: legacy
      contract: {openapi: legacy.json, on_violation: fallback, bytes: [/orders]}
      comparers: {"$.text": "rules:close"}
      masked: ["$.email"]
  targets:
    legacy: {http: "http://127.0.0.1:1"}
  shadow:
    {noise: 10%, relative: 30%, absolute: 1%, max_cost: 2.5, cost_window: 1h, cost_header: X-C}
"""


def test_the_configuration() -> None:
    config = parse_gateway(FILE, file="/etc/aura/aura.yaml")
    assert config is not None
    route = config.routes[0]
    assert route.contract == ContractSpec("/etc/aura/legacy.json", (), "fallback", ("/orders",))
    assert [(one.text, name) for one, name in route.rules.comparers] == [("$.text", "rules:close")]
    shadow = config.shadow
    assert (shadow.noise, shadow.max_cost, shadow.cost_window) == (0.1, 2.5, 3600.0)
    assert (shadow.thresholds.relative, shadow.cost_header) == (0.3, "x-c")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("openapi: legacy.json, ", "", "either openapi or examples"),
        ("openapi: legacy.json", "openapi: a, examples: [b]", "either openapi or examples"),
        ("fallback,", "retry,", "retry"),
        ("bytes: [/orders]", "bytes: []", "names no path"),
        ("bytes: [/orders]", "bytes: maybe", "maybe"),
        ("rules:close", "rules", "no adapter|module:object"),
        ('masked: ["$.email"]', 'unordered: ["$"]', "lies in the unordered"),
        ("$.email", "email", "does not start"),
        ("noise: 10%", "noise: often", "percentage"),
        ("relative: 30%", "relative: 100%", "below 1"),
        ("max_cost: 2.5", "max_cost: 0", "above 0"),
        ("X-C", "X C", "not a header"),
        ("X-C", "X-Aura-Cost", "Aura's own"),
    ],
)
def test_configurations_that_cannot_work(old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(ConfigError, match=message):
        parse_gateway(FILE.replace(old, new))


async def test_violations_trip_the_guard_of_errors(
    start: Start, servers: Servers, document: str
) -> None:
    """The policy is to pass them: users get the candidate's answers, and the guard sees them."""
    guard = GuardState(Guard(kind="errors", alpha=0.01), "legacy", "new")
    spec = ContractSpec(openapi=document)
    running = await serve(
        start, servers, (b'{"id": 1}', b'{"id": "1"}'), contract=spec, weight=0.5,
        unit=UnitSource("header", "x-user"),
    )  # fmt: skip
    for number in range(40):
        await running.client.post("/orders", content=b"{}", headers={"x-user": f"u{number}"})
    for seen in await running.observations(40):
        assert seen.ok == (seen.arm == "legacy")
        guard.fold(seen)
    assert judge(guard, 0.5).verdict == "trip"
