"""A durable workflow behind an old service's JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pydantic
import pytest

from aura.clock import SystemClock
from aura.errors import (
    AuraError,
    ConfigError,
    InvalidInput,
    RunConflict,
    RunFailed,
    StoreUnavailable,
)
from aura.gateway import Gateway, HttpSpec, PlainAdapter, RunInfo, WorkflowSpec, WorkflowTarget
from aura.gateway.adapters import CopyOf, Effects, load_adapter
from aura.gateway.build import build_holders, build_targets
from aura.gateway.config import GatewayConfig, Route
from tests.gateway.conftest import Running, Servers, Start, named, split_of


class Query(pydantic.BaseModel):
    text: str
    limit: int = 10


class LegacyAdapter:
    """As a team writes one: a model for the input, the old shape for the output."""

    def to_input(self, body: Any) -> Mapping[str, Any]:
        return {"text": body["query"], **Query(text=body["query"]).model_dump(include={"limit"})}

    def to_response(self, result: Any, run: RunInfo) -> Any:
        return {"workflow_id": run.id, "answer": result["answer"], "fast": run.seconds < 5}


class ModelAdapter(LegacyAdapter):
    def to_input(self, body: Any) -> Mapping[str, Any]:
        return Query.model_validate(body).model_dump()


class BrokenAdapter(LegacyAdapter):
    def to_input(self, body: Any) -> Mapping[str, Any]:
        raise RuntimeError(f"a bug with {body}")


@dataclass
class Runner:
    """Runs nothing durable: keeps what it was asked and answers from `result`."""

    result: Any = field(default_factory=lambda: {"answer": 42})
    calls: list[tuple[str, str | None, Mapping[str, Any], str]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    copies: list[CopyOf | None] = field(default_factory=list)
    release: asyncio.Event | None = None

    async def effects(self, run_id: str) -> Effects:
        return Effects((("step", run_id, "stub"),), 0.5)

    async def run_workflow(
        self,
        workflow: str,
        version: str | None,
        arguments: Mapping[str, Any],
        *,
        run_id: str,
        copy: CopyOf | None = None,
    ) -> Any:
        self.calls.append((workflow, version, arguments, run_id))
        self.copies.append(copy)
        if self.release is not None:
            await self.release.wait()
        if isinstance(self.result, BaseException):
            raise self.result
        self.finished.append(run_id)
        return self.result


def target(runner: Runner, adapter: Any = None, timeout: float = 5.0) -> WorkflowTarget:
    return WorkflowTarget("new", "research", "2.0.0", runner, adapter=adapter, timeout=timeout)


async def only(start: Start, servers: Servers, new: WorkflowTarget) -> Running:
    return await start(
        await servers.asgi(named("legacy")), new, split=split_of(1.0), route={"fallback": False}
    )


async def test_json_in_a_run_json_out(start: Start, servers: Servers) -> None:
    runner = Runner()
    running = await only(start, servers, target(runner, LegacyAdapter()))
    response = await running.client.post("/", json={"query": "q"})
    (workflow, version, arguments, run_id) = runner.calls[0]
    assert (workflow, version, arguments) == ("research", "2.0.0", {"text": "q", "limit": 10})
    assert response.json() == {"workflow_id": run_id, "answer": 42, "fast": True}
    assert response.headers["x-aura-run"] == run_id
    assert response.headers["content-type"] == "application/json"
    assert running.observed[0].run == run_id


async def test_run_ids_follow_the_idempotency_key(start: Start, servers: Servers) -> None:
    runner = Runner()
    running = await only(start, servers, target(runner))

    async def run_of(**headers: str) -> str:
        response = await running.client.post("/", json={}, headers=headers)
        return str(response.headers["x-aura-run"])

    keyed = {"idempotency-key": "k1"}
    first = await run_of(**keyed)
    assert await run_of(**keyed) == first
    assert await run_of(**{"idempotency-key": "k2"}) != first
    assert await run_of() != await run_of()


async def test_a_shadow_and_a_fallback_have_runs_of_their_own(
    start: Start, servers: Servers
) -> None:
    shadowed, serving = Runner(), Runner()
    running = await start(
        WorkflowTarget("legacy", "research", "1.0.0", serving),
        WorkflowTarget("new", "research", "2.0.0", shadowed),
        split=split_of(0.0, mirror=True),
    )
    await running.client.post("/", json={}, headers={"idempotency-key": "k"})
    await running.observations(2)
    assert serving.calls[0][3].startswith("research-")
    assert shadowed.calls[0][3].startswith("shadow-research-")
    shadowed.result = RunFailed("it broke", run_id="r", type="ValueError")
    running.holder.offer(split_of(1.0, epoch=2))
    response = await running.client.post("/", json={}, headers={"idempotency-key": "f"})
    assert response.headers["x-aura-arm"] == "legacy"
    assert shadowed.calls[1][3] != serving.calls[1][3]


@pytest.mark.parametrize(
    ("adapter", "body", "status", "code", "in_field"),
    [
        (PlainAdapter(), b"{", 400, "invalid-json", None),
        (PlainAdapter(), b"\xff", 400, "invalid-json", None),
        (PlainAdapter(), b"[" * 100_000, 400, "invalid-json", None),
        (PlainAdapter(), b"[1]", 422, "invalid-input", None),
        (LegacyAdapter(), b"{}", 422, "invalid-input", "query"),
        (LegacyAdapter(), b"[]", 422, "invalid-input", None),
        (ModelAdapter(), b'{"text": "a", "limit": "x"}', 422, "invalid-input", "limit"),
        (BrokenAdapter(), b"{}", 502, "adapter-failed", None),
    ],
)
async def test_input_that_does_not_fit(
    start: Start,
    servers: Servers,
    adapter: Any,
    body: bytes,
    status: int,
    code: str,
    in_field: str | None,
) -> None:
    runner = Runner()
    running = await only(start, servers, target(runner, adapter))
    response = await running.client.post("/", content=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json().get("field") == in_field
    assert runner.calls == []
    assert running.observed[0].ok is (status < 500)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RunFailed("secret", run_id="r", type="ValueError"), 502, "run-failed"),
        (StoreUnavailable("dsn with password"), 502, "store-unavailable"),
        (RunConflict("another input"), 409, "idempotency-key-reused"),
        (InvalidInput("text is too long"), 422, "invalid-input"),
        (RuntimeError("a bug"), 502, "target-broken"),
    ],
)
async def test_runs_that_fail(
    start: Start, servers: Servers, error: Exception, status: int, code: str
) -> None:
    running = await only(start, servers, target(Runner(result=error)))
    response = await running.client.post("/", json={})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert "secret" not in response.text
    assert "password" not in response.text
    if isinstance(error, AuraError) and status == 502:
        assert response.json()["run"] == response.headers["x-aura-run"]


async def test_a_slow_run_is_a_504_and_goes_on(start: Start, servers: Servers) -> None:
    runner = Runner(release=asyncio.Event())
    running = await only(start, servers, target(runner, timeout=0.05))
    response = await running.client.post("/", json={})
    assert (response.status_code, response.json()["code"]) == (504, "run-timeout")
    assert response.json()["run"].startswith("research-")


async def test_a_result_that_the_adapter_cannot_write(start: Start, servers: Servers) -> None:
    running = await only(start, servers, target(Runner(result=object())))
    response = await running.client.post("/", json={})
    assert (response.status_code, response.json()["code"]) == (502, "adapter-failed")


async def test_a_body_over_the_buffer_is_too_large_for_a_workflow(
    start: Start, servers: Servers
) -> None:
    running = await start(
        await servers.asgi(named("legacy")),
        target(Runner()),
        split=split_of(1.0),
        route={"fallback": False},
        buffer=100,
    )
    response = await running.client.post("/", content=b'"' + b"x" * 200 + b'"')
    assert (response.status_code, response.json()["code"]) == (413, "body-too-large")


async def test_targets_from_a_configuration(servers: Servers) -> None:
    route = Route("/*", split="s", baseline="legacy")
    config = GatewayConfig(
        (route,),
        {
            "legacy": HttpSpec(f"http://127.0.0.1:{await servers.asgi(named('legacy'))}"),
            "new": WorkflowSpec("research", adapter=f"{__name__}:LegacyAdapter"),
        },
    )
    with pytest.raises(ConfigError, match="no app to run it"):
        build_targets(config, runner=None, clock=SystemClock())
    runner = Runner()
    targets = build_targets(config, runner=runner, clock=SystemClock())
    holders = build_holders(config)
    holders["s"].offer(split_of(1.0))
    gateway = Gateway(
        config, targets=targets, splits=holders, observe=lambda _: None, clock=SystemClock()
    )
    port = await servers.asgi(gateway)
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"http://127.0.0.1:{port}/", json={"query": "q"})
    assert response.json()["answer"] == 42


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "names no adapter"),
        ("no.such.module:X", "cannot be loaded"),
        (f"{__name__}:Missing", "cannot be loaded"),
        (f"{__name__}:Query", "cannot be made"),
        ("json:dumps", "has no function to_input"),
    ],
)
def test_adapters_that_cannot_be_loaded(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_adapter(name)


def test_a_gateway_without_its_parts_is_refused() -> None:
    config = GatewayConfig((Route("/", split="s", baseline="legacy"),), {})
    clock = SystemClock()
    with pytest.raises(ConfigError, match="has no target"):
        Gateway(config, targets={}, splits={}, observe=lambda _: None, clock=clock)
    legacy = target(Runner())
    with pytest.raises(ConfigError, match="has no holder"):
        Gateway(config, targets={"legacy": legacy}, splits={}, observe=lambda _: None, clock=clock)
