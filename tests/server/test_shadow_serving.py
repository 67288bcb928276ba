"""A new version beside the old one: copies run as shadows, and what they show is kept."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

import aura
from aura import Aura, Config, step
from aura.cli.main import main
from aura.delivery.observation import Observation
from aura.delivery.shadow import ShadowReport
from aura.delivery.shadows import ShadowDesk
from aura.delivery.split import Arm, Split
from aura.gateway import GatewayConfig, parse_gateway
from aura.server.serving import Serving, build
from aura.store.base import PutDocument
from tests.engine.kit import until
from tests.server.kit import client

paid: list[int] = []


@step
async def charge(cents: int) -> dict[str, Any]:
    paid.append(cents)
    return {"receipt": f"r{len(paid)}", "cents": cents}


@step
async def notify(text: str) -> None:
    raise AssertionError("only shadows come here")


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


both = pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)


class Said(NamedTuple):
    code: int
    stdout: str
    stderr: str


def shop(database: str) -> Aura:
    paid.clear()
    app = Aura("shop", config=Config(database=database, poll=0.05))

    @app.workflow(version="1.0.0", name="order")
    async def old(cents: int) -> dict[str, Any]:
        receipt = await charge(cents)
        return {"id": str(aura.uuid()), "receipt": receipt, "total": cents}

    @app.workflow(version="2.0.0", name="order")
    async def new(cents: int) -> dict[str, Any]:
        receipt = await charge(cents)
        aura.set_state("cost", 0.25)
        if cents > 100:
            await notify("much")
        return {"id": str(aura.uuid()), "receipt": receipt, "total": cents + 1}

    return app


def config(noise: str = "100%") -> GatewayConfig:
    found = parse_gateway(
        f"""
gateway:
  routes:
    - {{path: /order, split: order, baseline: order@1, unit: {{header: x-user}}}}
  targets:
    order@1: {{workflow: order, version: 1.0.0}}
    order@2: {{workflow: order, version: 2.0.0}}
  shadow: {{noise: {noise}, timeout: 60s}}
"""
    )
    assert found is not None
    return found


async def mirrored(app: Aura) -> None:
    arms = (Arm("order@1", 1.0), Arm("order@2", 0.0))
    split = Split("order", 1, "seed", arms, mirror="order@2")
    async with app.client() as opened:
        await opened.committer.submit(PutDocument("split", "order", split.to_json()))


async def copies(serving: Serving, count: int) -> list[Observation]:
    """The observations of copies, when there are so many."""

    async def seen() -> list[Observation]:
        items = await serving.app.store.feed("observations/order")
        found = [Observation.from_json(item.payload) for item in items]
        return [one for one in found if one.shadow]

    async def enough() -> bool:
        return len(await seen()) >= count

    await until(enough)
    return await seen()


async def send(http: httpx.AsyncClient, cents: int) -> httpx.Response:
    return await http.post("/order", json={"cents": cents}, headers={"x-user": "ada"})


@both
async def test_copies_have_no_effects_and_differences_are_kept(database: str) -> None:
    await mirrored(shop(database))
    async with build(shop(database), config()) as serving, client(serving) as http:
        answers = [await send(http, cents) for cents in (5, 7)]
        assert [one.headers["x-aura-arm"] for one in answers] == ["order@1"] * 2
        seen = await copies(serving, 2)
        assert paid == [5, 7]
        assert [one.differences for one in seen] == [("$.total",)] * 2
        assert [one.metrics["cost"] for one in seen] == [0.25, 0.25]
        assert all(one.run.startswith("shadow-order-") for one in seen)
        runs = [await serving.app.run(one.run).record() for one in seen]
        assert [(run.queue, run.version) for run in runs] == [("aura.shadow", "2.0.0")] * 2
        assert {run.key for run in runs} == {one.headers["x-aura-run"] for one in answers}
        assert all(run.deadline is not None for run in runs)

    async with shop(database).client() as app:
        (report,) = await app.rollouts.shadows.reports("order")
    assert (report.arm, report.compared, report.paired) == ("order@2", 2, 2)
    assert set(report.fields) == {"$.total"}  # not $.id: it is what the baseline's was
    assert report.effects == {"step charge: baseline": 2}
    assert report.cost == 0.5
    assert report.fields["$.total"].examples[0].run.startswith("shadow-order-")


@both
async def test_an_effect_that_nothing_answers_is_no_failure_of_the_candidate(database: str) -> None:
    await mirrored(shop(database))
    async with build(shop(database), config("0%")) as serving, client(serving) as http:
        assert (await send(http, 500)).status_code == 200
        (seen,) = await copies(serving, 1)
        assert (seen.ok, seen.error) == (True, "not compared: suppressed: no answer")
        assert await serving.app.run(seen.run).status() == "cancelled"
    async with shop(database).client() as app:
        (report,) = await app.rollouts.shadows.reports("order")
    assert report.reasons == {"suppressed: no answer": 1}
    assert report.effects == {"step charge: baseline": 1, "step notify: none": 1}


def test_the_report_as_a_table_as_json_and_as_a_page(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    database = str(tmp_path / "aura.db")
    page = tmp_path / "report.html"

    async def begin() -> None:
        await mirrored(shop(database))
        async with build(shop(database), config()) as serving, client(serving) as http:
            await send(http, 5)
            await copies(serving, 1)

    def command(*words: str) -> Said:
        capfdbinary.readouterr()
        code = main(["shadow", *words, "--database", database])
        said = capfdbinary.readouterr()
        return Said(code, said.out.decode(), said.err.decode())

    asyncio.run(begin())
    shown = command("report", "order", "--html", str(page))
    assert ["$.total", "differs", "100.00%", "0.00%"] in [
        line.split()[:4] for line in shown.stdout.splitlines()
    ]
    assert "step charge: baseline" in shown.stdout
    text = page.read_text()
    assert "<code>$.total</code>" in text
    assert "<script" not in text
    (as_json,) = json.loads(command("report", "order", "--json").stdout)
    assert as_json["fields"][0]["examples"][0]["left"] == "5"
    unknown = command("report", "nothing")
    assert unknown.code == 1
    assert "neither a split nor a rollout nothing" in unknown.stderr
    assert "with reports: order" in unknown.stderr.lower()
    command("clear", "order")
    assert "No copies" in command("report", "order").stderr


@both
async def test_gateways_add_to_one_report(database: str) -> None:
    from tests.delivery.test_shadow_report import finding

    apps = [Aura("desk", config=Config(database=database)) for _ in range(3)]
    for app in apps:
        await app.open(worker=False)
    desks: list[ShadowDesk] = [app.rollouts.shadows for app in apps]
    for _ in range(5):
        for desk in desks:
            desk.found("s", "new", finding("$.time", noise=("$.time",)))
            desk.skipped("s", "new", "no room")
        await asyncio.gather(*(desk._write() for desk in desks))
    for app in apps[1:]:
        await app.close()
    (report,) = await desks[0].reports("s")
    assert (report.copies, report.skipped) == (15, {"no room": 15})
    assert report.fields["$.time"].noise == 15
    document = await apps[0].store.document("shadow", "s/new")
    assert document is not None
    assert ShadowReport.from_json(document.body) == report
    await apps[0].close()
