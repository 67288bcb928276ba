"""Whatever the API offers the client offers, too: the routes are walked, so that a new one without
a verb fails here. Nothing is sent: what would be asked is compared with the route."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from aura.client import Client
from aura.client.wire import Ask
from aura.server.serving import build
from tests.client.kit import make_app
from tests.server.test_authorisation import V, walk, without_convertors

Verb = Callable[[Client], Awaitable[object]]
AT = datetime(2026, 3, 1, tzinfo=UTC)
PLAN: dict[str, Any] = {"name": "x"}

VERBS: dict[tuple[str, str], Verb] = {
    ("GET", "/runs"): lambda app: app.page(),
    ("POST", "/runs"): lambda app: app.start("research", "durable"),
    ("POST", "/bulk/runs"): lambda app: app.bulk("cancel", ["a"]),
    ("GET", "/runs/{run_id}"): lambda app: app.run("a/b").show(),
    ("GET", "/runs/{run_id}/result"): lambda app: app.run("a").result(),
    ("GET", "/runs/{run_id}/state"): lambda app: app.run("a").state(),
    ("GET", "/runs/{run_id}/streams/{name}"): lambda app: anext(app.run("a").stream("s")),
    ("POST", "/runs/{run_id}/signals/{name}"): lambda app: app.run("a").signal("go"),
    ("POST", "/runs/{run_id}/updates/{name}"): lambda app: app.run("a").update("go"),
    ("POST", "/runs/{run_id}/rewards/{name}"): lambda app: app.run("a").reward("route", 1.0),
    ("POST", "/runs/{run_id}/cancel"): lambda app: app.run("a").cancel(),
    ("POST", "/runs/{run_id}/requeue"): lambda app: app.run("a").requeue(),
    ("POST", "/runs/{run_id}/retry"): lambda app: app.run("a").retry(),
    ("POST", "/runs/{run_id}/fork"): lambda app: app.run("a").fork(),
    ("POST", "/topics/{name}/events"): lambda app: app.emit("orders"),
    ("GET", "/schedules"): lambda app: app.schedules.list(),
    ("GET", "/schedules/{name}"): lambda app: app.schedules.show("nightly"),
    ("PUT", "/schedules/{name}"): lambda app: app.schedules.create("nightly", workflow="w"),
    ("POST", "/schedules/{name}/pause"): lambda app: app.schedules.pause("nightly"),
    ("POST", "/schedules/{name}/resume"): lambda app: app.schedules.resume("nightly"),
    ("POST", "/schedules/{name}/trigger"): lambda app: app.schedules.trigger("nightly"),
    ("POST", "/schedules/{name}/backfill"): lambda app: app.schedules.backfill("nightly", AT),
    ("POST", "/schedules/{name}/delete"): lambda app: app.schedules.delete("nightly"),
    ("GET", "/topics"): lambda app: app.topics.list(),
    ("GET", "/topics/{topic}"): lambda app: app.topics.show("orders"),
    ("GET", "/topics/{topic}/events"): lambda app: app.topics.events("orders"),
    ("POST", "/topics/{topic}/replay"): lambda app: app.topics.replay("orders", "billing", AT),
    ("POST", "/topics/{topic}/forget"): lambda app: app.topics.forget("orders", "billing"),
    ("GET", "/letters"): lambda app: app.letters.list(),
    ("GET", "/letters/{letter}"): lambda app: app.letters.show("event:orders/billing/1"),
    ("POST", "/letters/{letter}/requeue"): lambda app: app.letters.requeue("run:a"),
    ("POST", "/letters/{letter}/drop"): lambda app: app.letters.drop("run:a"),
    ("POST", "/bulk/letters"): lambda app: app.letters.bulk("drop", ["run:a"]),
    ("GET", "/workflows"): lambda app: app.workflows.list(),
    ("GET", "/workflows/{workflow}"): lambda app: app.workflows.show("research"),
    ("GET", "/workers"): lambda app: app.workers.list(),
    ("GET", "/workers/{worker}"): lambda app: app.workers.show("w"),
    ("GET", "/changes"): lambda app: anext(app.changes("runs")),
    ("GET", "/status"): lambda app: app.overview(),
    ("GET", "/catalog"): lambda app: app.catalog.list(),
    ("GET", "/catalog/workflows/{name}"): lambda app: app.catalog.matrix("research"),
    ("GET", "/catalog/versions/{version}"): lambda app: app.catalog.show("research@1.0.0"),
    ("GET", "/catalog/diff"): lambda app: app.catalog.diff("a@1.0.0", "a@2.0.0"),
    ("POST", "/catalog/versions/{version}/deprecate"): lambda app: app.catalog.deprecate(
        "a@1.0.0", reason="slow"
    ),
    ("POST", "/catalog/versions/{version}/restore"): lambda app: app.catalog.restore("a@1.0.0"),
    ("GET", "/rollouts"): lambda app: app.rollouts.all(),
    ("POST", "/rollouts"): lambda app: app.rollouts.start(PLAN),
    ("POST", "/backtests"): lambda app: app.rollouts.backtest(PLAN, on="next"),
    ("GET", "/rollouts/{name}"): lambda app: app.rollouts.status("next"),
    ("GET", "/rollouts/{name}/history"): lambda app: app.rollouts.history("next"),
    ("GET", "/rollouts/{name}/curve"): lambda app: app.rollouts.curve("next"),
    ("POST", "/rollouts/{name}/approve"): lambda app: app.rollouts.approve("next"),
    ("POST", "/rollouts/{name}/{order}"): lambda app: app.rollouts.order("next", "hold"),
    ("GET", "/splits"): lambda app: app.splits.list(),
    ("GET", "/splits/{name}"): lambda app: app.splits.show("pay"),
    ("GET", "/emergencies"): lambda app: app.emergencies.forced(),
    ("POST", "/emergencies"): lambda app: app.emergencies.rollback(["pay"]),
    ("POST", "/emergencies/release"): lambda app: app.emergencies.release(["pay"]),
    ("GET", "/experiments"): lambda app: app.experiments.all(),
    ("POST", "/experiments"): lambda app: app.experiments.start(PLAN),
    ("GET", "/experiments/{name}"): lambda app: app.experiments.status("copy"),
    ("POST", "/experiments/{name}/rewards"): lambda app: app.experiments.reward(
        "copy", "u", 1.0, metric="basket"
    ),
    ("POST", "/experiments/{name}/{order}"): lambda app: app.experiments.order("copy", "stop"),
    ("GET", "/flows"): lambda app: app.flows.names(),
    ("GET", "/flows/{name}"): lambda app: app.flows.show("route"),
    ("GET", "/flows/{name}/worth"): lambda app: app.flows.evaluate("route", "fast"),
    ("POST", "/flows/{name}/release"): lambda app: app.flows.release("route", "deep"),
    ("GET", "/learning"): lambda app: app.learning.all(),
    ("POST", "/learning"): lambda app: app.learning.start(PLAN),
    ("GET", "/learning/{name}"): lambda app: app.learning.status("chat"),
    ("POST", "/learning/{name}/stop"): lambda app: app.learning.stop("chat"),
    ("GET", "/shadows"): lambda app: app.rollouts.shadows.splits(),
    ("GET", "/shadows/{name}"): lambda app: app.rollouts.shadows.reports("pay"),
    ("POST", "/shadows/{name}/clear"): lambda app: app.rollouts.shadows.clear("pay"),
    ("GET", "/decommissions"): lambda app: app.rollouts.decommissions.all(),
    ("POST", "/decommissions"): lambda app: app.rollouts.decommissions.start(PLAN),
    ("GET", "/decommissions/{target}"): lambda app: app.rollouts.decommissions.status("legacy"),
    ("POST", "/decommissions/{target}/undo"): lambda app: app.rollouts.decommissions.undo("legacy"),
    ("GET", "/queues"): lambda app: app.queue_list(),
    ("GET", "/queues/{name}"): lambda app: app.queue("slow"),
    ("GET", "/gateway"): lambda app: app.gateway(),
    ("GET", "/audit"): lambda app: app.audit(),
    ("GET", "/build"): lambda app: app.build(),
}

EXCEPTIONS = {
    ("GET", "/openapi.json"): "it describes the API to tools that have no client yet",
    ("GET", "/metrics"): "it is Prometheus' text, for Prometheus",
    ("GET", "/healthz"): "load balancers ask it",
    ("GET", "/readyz"): "load balancers ask it",
}


class Asked(Exception):
    def __init__(self, ask: Ask) -> None:
        self.ask = ask


class Recorder(Client):
    """Says what it would ask in place of asking."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        self._wire.send = self._send  # type: ignore[method-assign]
        self._wire.listen = self._listen  # type: ignore[assignment, method-assign]

    async def _send(self, ask: Ask) -> NoReturn:
        raise Asked(ask)

    def _listen(self, ask: Ask, _: float) -> NoReturn:
        raise Asked(ask)


def routes() -> set[tuple[str, str]]:
    found = walk(build(make_app(":memory:")).api)
    return {
        (method, without_convertors(path).removeprefix(V))
        for path, route in found
        for method in getattr(route, "methods", None) or ()
    }


def test_every_route_has_a_verb_or_a_reason() -> None:
    assert set(VERBS) | set(EXCEPTIONS) == routes()
    assert not set(VERBS) & set(EXCEPTIONS)


@pytest.mark.parametrize("route", list(VERBS), ids=" ".join)
async def test_the_verb_asks_for_that_route(route: tuple[str, str]) -> None:
    method, path = route
    with pytest.raises(Asked) as told:
        await VERBS[route](Recorder())
    ask = told.value.ask
    pattern = re.sub(r"\{\w+\}", "[^ ]+", path).split("/")[1:]
    assert ask.method == method
    assert len(ask.path) == len(pattern)
    assert all(re.fullmatch(one, part) for one, part in zip(pattern, ask.path, strict=True))
