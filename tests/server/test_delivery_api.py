"""The HTTP API's routes for delivery: what the command line can do, with who and why."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aura import Aura, Config
from aura.delivery.observation import Observation
from aura.delivery.split import Arm, Split
from aura.server import tokens
from aura.server.serving import Serving, build
from aura.server.tokens import create
from aura.store.base import PutDocument
from tests.delivery.experiment_kit import baskets, observed
from tests.delivery.rollout_kit import traffic
from tests.server.kit import client

V = "/api/v1"
PLAN: dict[str, Any] = {
    "name": "t",
    "baseline": "a",
    "candidate": "b",
    "sla": "100ms",
    "guards": [{"errors": {"max_error_rate": "20%", "min_sample": 8}}, "latency"],
    "stages": ["30%", {"60%": {"min_requests": 1_000_000}}, "100%"],
    "defaults": {"min_requests": 8, "min_time": "20ms", "max_time": "1m"},
}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(autouse=True)
def _fresh_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "FRESH", 0.0)


def app_on(database: str) -> Aura:
    app = Aura("shop", config=Config(database=database, poll=0.05))

    @app.workflow(version="1.0.0", owner="search")
    async def research(text: str) -> int:
        return len(text)

    @app.workflow(version="2.0.0", name="research")
    async def research_2(text: str, depth: int) -> int:
        return len(text) * depth

    @app.workflow(version="1.0.0")
    async def routed(text: str) -> str:
        import aura

        return await aura.choose(
            "strategy", {"fast": _said("fast"), "deep": _said("deep")}, policy={"fast": 1.0}
        ) + text  # fmt: skip

    return app


def _said(word: str) -> Callable[[], str]:
    return lambda: word


@asynccontextmanager
async def served(
    database: str, role: str = "operator", *, worker: bool = True
) -> AsyncIterator[tuple[Serving, httpx.AsyncClient]]:
    async with build(app_on(database), worker=worker) as serving:
        _, text = await create(serving.app, "ann", role)
        async with client(serving) as http:
            http.headers["authorization"] = f"Bearer {text}"
            yield serving, http


async def got(http: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await http.get(f"{V}{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def told(http: httpx.AsyncClient, path: str, body: Any = None, status: int = 200) -> Any:
    answer = await http.post(f"{V}{path}", json=body or {})
    assert answer.status_code == status, answer.text
    return answer.json()


async def until(http: httpx.AsyncClient, path: str, holds: Callable[[Any], bool]) -> Any:
    give_up = time.monotonic() + 60
    while not holds(found := await got(http, path)):
        assert time.monotonic() < give_up, found
        await asyncio.sleep(0.02)
    return found


async def log_of(serving: Serving) -> list[tuple[str, str, str, dict[str, str]]]:
    from aura.server.audit import read_log

    entries = (await read_log(serving.app, limit=1000)).entries
    return [(one.what, one.by, one.why, one.target) for one in entries]


async def test_a_rollout_from_its_start_to_its_rollback(database: str) -> None:
    async with served(database) as (serving, http):
        dry = await told(http, "/rollouts", {"plan": PLAN, "dry_run": True})
        assert dry["rollout"] is None
        assert dry["checked"]["driven"] is True
        assert [one["weight"] for one in dry["checked"]["plan"]["stages"]] == [0.3, 0.6, 1.0]
        assert (await got(http, "/rollouts"))["rollouts"] == []
        async with traffic(serving.app, per_second=400):
            begun = await told(http, "/rollouts", {"plan": PLAN})
            assert begun["rollout"]["by"] == "ann"
            found = await until(http, "/rollouts/t", lambda one: one["stage"] == "60%")
            assert found["history"][0]["by"] == "ann"
            why = {"reason": "release freeze"}
            assert (await told(http, "/rollouts/t/pause", why))["order"] == "pause"
            await until(http, "/rollouts/t", lambda one: one["state"] == "paused")
            await told(http, "/rollouts/t/resume")
            await until(http, "/rollouts/t", lambda one: one["state"] == "running")
            await told(http, "/rollouts/t/rollback", {"reason": "wrong prices"})
            over = await until(http, "/rollouts/t", lambda one: one["state"] == "rolled-back")
        assert over["weights"] == {"a": 1.0, "b": 0.0}
        assert [(one["what"], one["by"]) for one in over["history"]] == [
            *(("start", "ann"), ("advance", "")),
            *(("pause", "ann"), ("resume", "ann"), ("rollback", "ann")),
        ]
        assert "wrong prices" in over["history"][-1]["reason"]
        split = await got(http, "/splits/t")
        assert {one["name"]: one["share"] for one in split["arms"]} == {"a": 1.0, "b": 0.0}
        assert (await got(http, "/splits"))["splits"] == [split]
        past = await got(http, "/rollouts/t/history")
        assert [one["run"] for one in past["runs"]] == ["rollout-t-1"]
        log = await log_of(serving)
        assert ("rollout start", "ann", "", {"name": "t"}) in log
        order = {"name": "t", "order": "rollback"}
        assert ("rollout rollback", "ann", "wrong prices", order) in log


async def test_a_rollouts_curve_has_both_arms_over_time(database: str) -> None:
    async with served(database) as (serving, http):
        async with traffic(serving.app, per_second=400, slow={"b": 0.04}):
            await told(http, "/rollouts", {"plan": PLAN})
            await until(http, "/rollouts/t", lambda one: one["stage"] == "60%")
            curve = await until(
                http, "/rollouts/t/curve",
                lambda one: {each["stage"] for each in one["latencies"]} == {"30%", "60%"},
            )  # fmt: skip
        assert curve["limits"].keys() == {"errors", "latency"}
        points = curve["points"]
        times = [one["at"] for one in points]
        assert times == sorted(times)
        assert points[0]["weight"] == 0.3
        assert points[-1]["stage"] == "60%"
        last = points[-1]["splits"][0]
        assert last["candidate_requests"] > points[0]["splits"][0]["candidate_requests"]
        assert last["evidence"].keys() == {"errors", "latency"}
        arms = {one["arm"]: one["buckets"] for one in curve["latencies"] if one["stage"] == "30%"}
        ((low, high, count),) = arms["b"]
        assert low < 40 <= high
        assert count > 0
        assert arms["a"][0][0] < 10 <= arms["a"][0][1]
        assert (await http.get(f"{V}/rollouts/t/curve?run=other")).status_code == 404


async def test_who_approves_is_the_tokens_name(database: str) -> None:
    plan = {**PLAN, "stages": [{"30%": {"approval": {"needed": 1, "from": ["bob"]}}}, "100%"]}
    async with served(database) as (serving, http):
        _, bob = await create(serving.app, "bob", "operator")
        async with traffic(serving.app, per_second=400):
            await told(http, "/rollouts", {"plan": plan})
            refused = await told(http, "/rollouts/t/approve", {"stage": "30%"}, 409)
            assert "ann is none of those who approve" in refused["detail"]
            http.headers["authorization"] = f"Bearer {bob}"
            assert (await told(http, "/rollouts/t/approve", {}))["order"] == "approved"
            over = await until(http, "/rollouts/t", lambda one: one["state"] == "completed")
        assert "bob" in [one["by"] for one in over["history"]]


async def test_an_emergency_and_its_release(database: str) -> None:
    async with served(database, worker=False) as (serving, http):
        split = Split("shop", 1, "shop/run", (Arm("a", 0.0), Arm("b", 1.0)))
        await serving.app.committer.submit(PutDocument("split", "shop", split.to_json(), 0))
        assert (await told(http, "/emergencies", {"everything": True}, 409))["detail"]
        assert (await told(http, "/emergencies", {"reason": "x"}, 409))["detail"]
        assert (await told(http, "/emergencies", {"names": ["no"], "reason": "x"}, 404))["detail"]
        body = {"everything": True, "reason": "checkout is down"}
        done = await told(http, "/emergencies", body)
        assert [(one["split"], one["changed"]) for one in done["splits"]] == [("shop", True)]
        forced = (await got(http, "/emergencies"))["splits"]
        assert [(one["reason"], one["history"][-1]["by"]) for one in forced] == [
            ("checkout is down", "ann")
        ]
        plan = {**PLAN, "split": "shop"}
        assert (
            "forced"
            in (await told(http, "/rollouts", {"plan": plan, "dry_run": True}, 409))["detail"]
        )
        await told(http, "/emergencies/release", {"names": ["shop"], "restore": True})
        assert (await got(http, "/emergencies"))["splits"] == []
        assert {a["name"]: a["share"] for a in (await got(http, "/splits/shop"))["arms"]}["b"] == 1
        log = await log_of(serving)
        assert ("rollback", "ann", "checkout is down", {"everything": "true"}) in log
        assert log[-1][0] == "rollback release"


async def test_the_catalog_and_what_fits(database: str) -> None:
    async with served(database) as (serving, http):
        await serving.app.catalog.registered()
        listed = (await got(http, "/catalog", workflow="research"))["versions"]
        assert [(one["name"], one["live"]) for one in listed] == [
            ("research@2.0.0", True),
            ("research@1.0.0", True),
        ]
        shown = await got(http, "/catalog/workflows/research")
        cells = {(one["old"], one["new"]): one for one in shown["matrix"]}
        assert len(cells) == 4
        upward = cells["research@1.0.0", "research@2.0.0"]
        assert upward["inputs"]["verdict"] == "incompatible"
        assert upward == await got(http, "/catalog/diff", old="research@^1", new="research@^2")
        plan = {**PLAN, "baseline": "research@1.0.0", "candidate": "research@^2"}
        refused = await told(http, "/rollouts", {"plan": plan, "dry_run": True}, 409)
        assert refused["code"] == "incompatible"
        why = {"plan": plan, "dry_run": True, "incompatible": "the adapter adds depth"}
        pinned = (await told(http, "/rollouts", why))["checked"]["plan"]["pairs"]
        assert pinned[0]["candidate"] == "research@2.0.0"
        said = {"reason": "too slow", "replacement": "^2"}
        old = await told(http, "/catalog/versions/research@1.0.0/deprecate", said)
        assert old["deprecated"]["by"] == "ann"
        assert (await told(http, "/catalog/versions/research@1.0.0/restore"))["deprecated"] is None
        gone = await http.get(f"{V}/catalog/versions/research@3.0.0")
        assert (gone.status_code, gone.json()["code"]) == (404, "version-not-found")


async def test_an_override_is_somebodys(database: str) -> None:
    plan = {**PLAN, "baseline": "research@1.0.0", "candidate": "research@2.0.0"}
    async with served(database) as (_, http):
        await told(http, "/rollouts", {"plan": plan, "incompatible": "the adapter adds depth"})
        fit = await got(http, "/catalog/diff", old="research@1.0.0", new="research@2.0.0")
        assert [(one["by"], one["reason"]) for one in fit["overrides"]] == [
            ("ann", "the adapter adds depth")
        ]


EXPERIMENT = {
    "name": "copy",
    "split": "shop",
    "arms": {"a": "50%", "b": "50%"},
    "primary": {"metric": "basket", "from": "observation", "better": "higher", "horizon": "0s"},
    "min_time": "30m",
    "max_time": "1h",
    "planned": 1000,
}


async def test_an_experiment_from_its_forecast_to_its_end(database: str) -> None:
    async with served(database) as (serving, http):
        guess = {"mean": 10.0, "spread": 3.0, "per_day": 900.0}
        dry = await told(
            http, "/experiments", {"experiment": EXPERIMENT, "dry_run": True, "traffic": guess}
        )
        assert dry["experiment"] is None
        assert dry["forecast"]["arms"][0]["detectable"] > 0
        begun = await told(http, "/experiments", {"experiment": EXPERIMENT})
        assert begun["experiment"]["state"] == "running"
        split = Split.from_json((await serving.app.store.document("split", "shop")).body)  # type: ignore[union-attr]
        values = baskets({"b": 0.1})
        for number in range(300):
            unit = f"u{number}"
            one: Observation = observed(split, unit, values(unit, split.assign(unit)))
            serving.app.rollouts.observe(one)
        found = await until(
            http,
            "/experiments/copy",
            lambda one: one["comparisons"] and one["comparisons"][0]["points"],
        )
        point = found["comparisons"][0]["points"][0]
        assert point["low"] is None or point["low"] < point["difference"] < point["high"]
        reward = {"unit": "u1", "metric": "basket", "value": 3.5}
        await told(http, "/experiments/copy/rewards", reward)
        listed = await got(http, "/experiments")
        assert [one["name"] for one in listed["experiments"]] == ["copy"]
        refused = await told(http, "/experiments/copy/promote", {"arm": "c"}, 409)
        assert "Its candidates: b" in refused["detail"]
        await told(http, "/experiments/copy/promote", {"arm": "b", "reason": "enough"})
        over = await until(http, "/experiments/copy", lambda one: one["state"] == "won")
        assert over["history"][-1]["by"] == "ann"
        log = await log_of(serving)
        order = {"name": "copy", "order": "promote", "arm": "b"}
        assert ("experiment promote", "ann", "enough", order) in log


async def test_choices_and_splits_that_learn(database: str) -> None:
    async with served(database) as (serving, http):
        run = await serving.app.start("routed", "!", id="r-1")
        assert await run.result(60) == "fast!"
        assert [one["name"] for one in (await got(http, "/flows"))["flows"]] == ["strategy"]
        await told(http, "/runs/r-1/rewards/strategy", {"value": 0.8})
        shown = await got(http, "/flows/strategy")
        assert shown["arms"]["fast"]["rewarded"] == 1
        worth = await got(http, "/flows/strategy/worth", policy="fast")
        assert worth["ips"]["low"] is None
        assert worth["logged"] == pytest.approx(0.8)
        for policy in ("fast=x", "slow", "fast=0.4", "fast=nan"):
            answer = await http.get(f"{V}/flows/strategy/worth", params={"policy": policy})
            assert 400 <= answer.status_code < 500, policy
        await told(http, "/flows/strategy/release", {"arm": "fast"})
        plan = {"name": "route", "split": "chat", "arms": ["small", "large"], "every": "1s"}
        dry = await told(http, "/learning", {"learning": plan, "dry_run": True})
        assert dry == {"learning": None, "driven": True}
        begun = await told(http, "/learning", {"learning": plan})
        assert begun["learning"]["arms"]["small"]["share"] == 0.5
        await told(http, "/learning/route/stop", {"reason": "enough"})
        over = await until(http, "/learning/route", lambda one: one["state"] == "stopped")
        assert (over["history"][-1]["by"], over["history"][-1]["reason"]) == ("ann", "enough")
        assert [one["name"] for one in (await got(http, "/learning"))["learning"]] == ["route"]


async def test_shadow_reports_have_examples(database: str) -> None:
    from aura.delivery.shadow import Example, Finding

    async with served(database) as (serving, http):
        desk = serving.app.rollouts.shadows
        for number in range(3):
            example = Example("1", str(number), "value", 100.0)
            desk.found("shop", "b", Finding({"price": example}, noise=frozenset()))
        found = await until(http, "/shadows", lambda one: one["splits"] == ["shop"])
        report = (await got(http, "/shadows/shop"))["reports"][0]
        assert (report["copies"], report["fields"][0]["field"]) == (3, "price")
        assert report["fields"][0]["examples"][0]["right"] == "0"
        assert (await told(http, "/shadows/shop/clear"))["cleared"] == 1
        assert (await got(http, "/shadows/shop"))["reports"] == []
        assert found
        assert (await http.get(f"{V}/shadows/nothing")).status_code == 404


async def test_a_decommission_is_begun_by_an_admin_and_undone_by_an_operator(
    database: str,
) -> None:
    body = {"decommission": {"target": "a", "gate": {"idle": False}}}
    async with served(database) as (serving, http):
        split = Split("shop", 1, "shop/run", (Arm("a", 1.0), Arm("b", 0.0)))
        await serving.app.committer.submit(PutDocument("split", "shop", split.to_json(), 0))
        operator = http.headers["authorization"]
        assert (await told(http, "/decommissions", body, 403))["code"] == "role-too-low"
        _, admin = await create(serving.app, "root", "admin")
        http.headers["authorization"] = f"Bearer {admin}"
        for wrong in ({"target": "a", "backup": "/etc"}, {"target": "a", "alerts": ["log"]}):
            assert (
                "from here"
                in (await told(http, "/decommissions", {"decommission": wrong}, 422))["detail"]
            )
        slip = {"decommission": {"target": "aa"}}
        assert "no split has an arm" in (await told(http, "/decommissions", slip, 409))["detail"]
        dry = await told(http, "/decommissions", {**body, "dry_run": True})
        assert (dry["target"], dry["endpoints"]) == (None, ["*"])
        begun = await told(http, "/decommissions", body)
        assert begun["target"]["state"] == "gate"
        found = await until(http, "/decommissions/a", lambda one: one["gates"])
        assert any("still sends" in one for one in found["gates"])
        http.headers["authorization"] = operator
        await told(http, "/decommissions/a/undo", {"reason": "one caller left"})
        over = await until(http, "/decommissions/a", lambda one: one["state"] == "undone")
        assert "one caller left" in over["history"][-1]["reason"]
        assert [one["target"] for one in (await got(http, "/decommissions"))["targets"]] == ["a"]


async def test_what_a_plan_says_wrong_is_named_by_its_place() -> None:
    cases = [
        ({**PLAN, "stages": ["30%", "20%"]}, "rollout.stages[1]: "),
        ({**PLAN, "sla": 800}, "rollout.sla: sla is '800'"),
        ({**PLAN, "guards": [{"errors": {"min_samples": 3}}]}, "rollout.guards[0].errors"),
        ({"name": "t"}, "rollout"),
        ({**PLAN, "alerts": [{"command": ["id"]}]}, "no alerts of its own"),
        ({**PLAN, "name": "a\u2028b\x00"}, ""),
        ({**PLAN, "name": "\ud800"}, ""),
        ({**PLAN, "<<": {"alerts": [{"command": ["id"]}]}}, "rollout.<<"),
        ({**PLAN, "stages": [[[[[[[[[[[[[[[[[[[[[[[[["1%"]]]]]]]]]]]]]]]]]]]]]]]]]}, "deep"),
        ({**PLAN, "stages": ["1%"] * 20_000}, ""),
    ]
    async with served(":memory:", worker=False) as (_, http):
        for plan, text in cases:
            sent = json.dumps({"plan": plan, "dry_run": True})
            kind = {"content-type": "application/json"}
            answer = await http.post(f"{V}/rollouts", content=sent, headers=kind)
            assert answer.status_code in (413, 422), answer.text
            assert text in answer.json()["detail"], answer.text
        for path in ("rollouts", "experiments", "learning", "decommissions"):
            answer = await http.post(f"{V}/{path}", json={"plan": "x"})
            assert answer.status_code in (403, 422)


async def test_names_that_nothing_has_are_not_found() -> None:
    async with served(":memory:", worker=False) as (_, http):
        for name in ("nothing", "a%00b", "%ED%A0%80", "a%2Fb", "x" * 3000):
            for path in (
                *("rollouts/{}", "rollouts/{}/history", "rollouts/{}/curve", "splits/{}"),
                *("experiments/{}", "flows/{}", "learning/{}", "shadows/{}"),
                *("decommissions/{}", "catalog/workflows/{}", "flows/{}/worth?policy=a"),
                "catalog/versions/{}@1.0.0",
            ):
                answer = await http.get(f"{V}/{path.format(name)}")
                assert answer.status_code in (404, 422), f"{path} {name}: {answer.text}"
                assert answer.json()["code"] != "failed"
            for path in ("rollouts/{}/hold", "experiments/{}/stop", "learning/{}/stop"):
                answer = await http.post(f"{V}/{path.format(name)}", json={})
                assert answer.status_code == 404, answer.text
        assert (await http.post(f"{V}/rollouts/x/dance", json={})).status_code == 422


async def test_without_a_worker_an_order_says_so() -> None:
    async with served(":memory:", worker=False) as (_, http):
        dry = await told(http, "/rollouts", {"plan": PLAN, "dry_run": True})
        assert dry["checked"]["driven"] is False
        assert "aura worker MODULE:APP" in dry["checked"]["notes"][0]
