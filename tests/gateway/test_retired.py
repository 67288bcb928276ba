"""What callers get from targets that are taken out of service, and from splits nobody confirms."""

from __future__ import annotations

from collections import Counter
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from aura import Aura, Config
from aura.delivery.retirement import Endpoint, Policy, Retirement, callers, notices
from aura.delivery.split import Arm, Split
from aura.gateway.config import parse_gateway
from aura.server.serving import Serving
from aura.store.base import PutDocument
from tests.gateway.conftest import Servers, Start, named, split_of

UNTIL = 4_000_000_000.0


def retirement(policy: Policy, phase: Any, path: str = "/*", link: str = "") -> Retirement:
    endpoint = Endpoint(path, phase, UNTIL - 60, UNTIL)
    return Retirement("legacy", "run", "disabling", policy, (endpoint,), link)


@pytest.mark.parametrize("path", ["/*", "*"])
async def test_gone(start: Start, servers: Servers, path: str) -> None:
    running = await start(await servers.asgi(named("legacy")))
    found = retirement("gone", "grace", path, "https://example.com/why")
    running.gateway.retired.obey(notices([found]))
    answer = await running.client.get("/x")
    assert answer.status_code == 410
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "gone"
    assert "https://example.com/why" in answer.json()["detail"]
    assert parsedate_to_datetime(answer.headers["sunset"]).timestamp() == UNTIL
    assert answer.headers["deprecation"] == f"@{int(UNTIL - 60)}"
    assert answer.headers["link"] == '<https://example.com/why>; rel="sunset"'
    assert running.observed == []  # it says nothing about the arm
    assert running.gateway.retired.take() == Counter({(path, "legacy"): 1})
    running.gateway.retired.obey({})
    assert (await running.client.get("/x")).status_code == 200


async def test_served_in_the_grace_and_gone_after_it(start: Start, servers: Servers) -> None:
    running = await start(await servers.asgi(named("legacy")))
    running.gateway.retired.obey(notices([retirement("serve", "grace")]))
    answer = await running.client.get("/x")
    assert (answer.status_code, answer.json()["from"]) == (200, "legacy")
    assert parsedate_to_datetime(answer.headers["sunset"]).timestamp() == UNTIL
    assert "link" not in answer.headers
    running.gateway.retired.obey(notices([retirement("serve", "off")]))
    assert (await running.client.get("/x")).status_code == 410
    assert running.gateway.retired.take() == Counter({("/*", "legacy"): 2})
    assert running.gateway.retired.take() == Counter()


async def test_what_is_gone_is_no_fallback(start: Start, servers: Servers) -> None:
    """The candidate's own failure is the answer, then; while it is served it still falls back."""
    legacy, new = await servers.asgi(named("legacy")), await servers.asgi(named("new", status=500))
    running = await start(legacy, new, split=split_of(1.0))
    running.gateway.retired.obey(notices([retirement("serve", "grace")]))
    answer = await running.client.get("/x")
    assert (answer.status_code, answer.json()["from"]) == (200, "legacy")
    assert "sunset" in answer.headers
    assert running.gateway.retired.take() == Counter({("/*", "legacy"): 1})
    running.gateway.retired.obey(notices([retirement("gone", "grace")]))
    answer = await running.client.get("/x")
    assert (answer.status_code, answer.json()["from"]) == (500, "new")
    assert running.gateway.retired.take() == Counter()


async def test_a_forced_baseline_that_is_no_target_here(start: Start, servers: Servers) -> None:
    """Then the one serves that serves while there is no split."""
    running = await start(await servers.asgi(named("legacy")))
    arms = (Arm("older", 1.0), Arm("legacy", 0.0))
    running.holder.offer(Split("s", 3, "seed", arms, forced="fire"))
    answer = await running.client.get("/x")
    assert (answer.status_code, answer.headers["x-aura-arm"]) == (200, "legacy")


GATEWAY = """
gateway:
  routes: [{{path: /ask, split: s, baseline: legacy, unit: {{header: x-user}}}}]
  targets:
    legacy: {{http: "http://127.0.0.1:{0}"}}
    new: {{http: "http://127.0.0.1:{1}"}}
  freshness: 1s
"""


async def test_a_process_that_loses_its_database(servers: Servers, tmp_path: Any) -> None:
    """Its candidate is on trial, so everybody gets the baseline until the database is back."""
    ports = [await servers.asgi(named("legacy")), await servers.asgi(named("new"))]
    app = Aura("test", config=Config(database=str(tmp_path / "aura.db")))
    async with app.client():
        split = Split("s", 1, "seed", (Arm("legacy", 0.0), Arm("new", 1.0)), moving=True)
        await app.store.commit([PutDocument("split", "s", split.to_json(), 0)])
    async with Serving(app, parse_gateway(GATEWAY.format(*ports)), worker=False) as serving:
        port = await servers.asgi(serving)
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as client:

            async def arm() -> str:
                return str((await client.get("/ask")).headers["x-aura-arm"])

            assert await arm() == "new"
            read = app.store.document

            async def away(*_: object) -> Any:
                raise TimeoutError

            setattr(app.store, "document", away)  # noqa: B010  (a method of one object)
            while await arm() == "new":
                pass
            shown = (await client.get("/api/v1/gateway")).json()
            assert shown["counters"]["lapsed"] > 0
            (known,) = shown["splits"]
            assert (known["lapsed"], known["weights"]["legacy"]) == (True, 1.0)
            setattr(app.store, "document", read)  # noqa: B010
            while await arm() != "new":
                pass
            shown = (await client.get("/api/v1/gateway")).json()
            assert shown["splits"][0]["lapsed"] is False
            body = retirement("serve", "grace", "/ask").to_json()
            await app.store.commit([PutDocument("retirement", "new", body, 0)])
    async with app.client():
        assert await callers(app.store, "new") == {}
