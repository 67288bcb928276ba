"""An experiment on what a running gateway reads in answers: from the request to the promotion."""

from __future__ import annotations

import asyncio
import itertools
import time

from aura import Aura, Config
from aura.delivery.experiment import parse_experiment
from aura.delivery.experiment_status import ExperimentStatus
from aura.gateway import parse_gateway
from aura.server.serving import build
from tests.server.kit import client

GATEWAY = """
gateway:
  routes:
    - path: /shop
      split: shop
      baseline: a
      unit: {header: x-user}
      metrics: {basket: {field: order.basket}}
  targets:
    a: {workflow: shop, version: 1.0.0}
    b: {workflow: shop, version: 2.0.0}
"""
EXPERIMENT = """
experiment:
  name: copy
  split: shop
  arms: {a: 50%, b: 50%}
  primary: {metric: basket, from: observation, better: higher, horizon: 0s, effect: 10%}
  guards: [errors: {min_sample: 10}]
  planned: 200
  min_time: 0s
  max_time: 1h
"""


def shop(database: str) -> Aura:
    app = Aura("shop", config=Config(database=database))

    @app.workflow(version="1.0.0", name="shop")
    async def cheap(visit: int) -> dict[str, object]:
        return {"order": {"basket": None if visit % 7 == 0 else 10.0 + visit % 3}}

    @app.workflow(version="2.0.0", name="shop")
    async def dear(visit: int) -> dict[str, object]:
        return {"order": {"basket": "much" if visit % 7 == 0 else 20.0 + visit % 3}}

    return app


async def test_numbers_in_answers_decide_and_the_winner_serves() -> None:
    config = parse_gateway(GATEWAY)
    async with build(shop(":memory:"), config) as serving, client(serving) as http:
        experiments = serving.app.experiments
        await experiments.start(parse_experiment(EXPERIMENT))
        give_up = time.monotonic() + 60
        served: set[str] = set()
        visits = itertools.count()

        async def visit(number: int) -> str:
            user = {"x-user": f"u{number}"}
            answer = await http.post("/shop", json={"visit": number}, headers=user)
            assert answer.status_code == 200
            return str(answer.headers["x-aura-arm"])

        found: ExperimentStatus = await experiments.status("copy")
        while not found.ended:
            assert time.monotonic() < give_up, found
            served |= set(await asyncio.gather(*(visit(next(visits)) for _ in range(20))))
            found = await experiments.status("copy")
        assert (found.state, found.winner, served) == ("won", "b", {"a", "b"})
        assert serving.gateway is not None
        assert serving.gateway.counters.metrics_refused > 0
        while {await visit(next(visits)) for _ in range(20)} != {"b"}:
            assert time.monotonic() < give_up
