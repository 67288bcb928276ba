"""`aura experiment`: from the forecast to the page with plots."""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from aura import Aura as App
from aura import Config
from aura.delivery.experiment import parse_experiment
from tests.cli.conftest import Aura
from tests.delivery.experiment_kit import ended, visit

TEXT = """
experiment:
  name: copy
  split: shop
  arms: {a: 50%, b: 50%}
  primary: {metric: basket, from: observation, better: higher, horizon: 0s, effect: 10%}
  secondary: [{metric: latency, horizon: 0s}]
  planned: 1000
  min_time: 0s
  max_time: 1h
"""


@pytest.fixture
def file(project: Path) -> str:
    (project / "copy.yaml").write_text(TEXT)
    return "copy.yaml"


async def _live(lift: float) -> None:
    async with App("shop", config=Config(database="aura.db", poll=0.05)) as app:
        await app.experiments.start(parse_experiment(TEXT))
        await visit(app, 900, {"b": lift})
        await ended(app)


def test_from_the_forecast_to_the_report(aura: Aura, file: str, project: Path) -> None:
    asyncio.run(_live(0.3))
    planned = aura("experiment", "plan", file)
    assert planned.code == 0
    assert "basket per unit on the baseline: mean 1" in planned.out
    assert "With a probability of 80%" in planned.out
    given = aura(
        "experiment", "plan", file, "--mean", "10", "--spread", "3", "--per-day", "900", "--json"
    ).json
    assert given["traffic"] == {"mean": 10.0, "spread": 3.0, "per_day": 900.0}
    assert given["arms"][0]["units"] > 300

    shown = aura("experiment", "status", file)
    assert (shown.code, shown.err) == (0, "")
    for part in ("copy  won", "arm b is better", "winner", "Sample ratio: as it should be"):
        assert part in shown.out
    assert aura("experiment", "list", "--json").json["experiments"][0]["winner"] == "b"
    assert "copy" in aura("experiment", "list").out

    reported = aura("experiment", "report", "copy", "--html", "report.html")
    assert reported.code == 0
    assert "requests of units that take part" in reported.out
    page = (project / "report.html").read_text()
    assert not re.search(r"(src|href)=|https?://|<script", page)
    assert "prefers-color-scheme: dark" in page
    plots = re.findall(r"<svg.*?</svg>", page)
    assert len(plots) == 2
    for plot in plots:
        root = ET.fromstring(plot)  # noqa: S314  (our own)
        line = next(one for one in root.iter() if one.get("class") == "mid")
        assert len((line.get("points") or "").split()) > 3
    assert aura("experiment", "report", "copy", "--json").json["state"] == "won"
    over = aura("experiment", "stop", "copy")
    assert over.code == 1
    assert "experiment copy has ended: it is won" in over.err


def test_names_are_escaped_in_the_page(project: Path, aura: Aura) -> None:
    evil = TEXT.replace("name: copy", "name: '<script>x</script>'")
    (project / "evil.yaml").write_text(evil)

    async def begin() -> None:
        async with App("shop", config=Config(database="aura.db", poll=0.05)) as app:
            await app.experiments.start(parse_experiment(evil))

    asyncio.run(begin())
    assert aura("experiment", "report", "evil.yaml", "--html", "report.html").code == 0
    page = (project / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_without_a_worker_and_with_nonsense(
    aura: Aura, file: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.delivery.experiments._PATIENCE", 0.1)
    assert "there is no database" in aura("experiment", "list").err
    assert aura("run", "research:app", "research", '"x"').code == 0
    assert "There are no experiments" in aura("experiment", "list").err
    started = aura("experiment", "start", file)
    assert started.code == 1
    assert "No live worker is there" in started.err
    assert "no worker has taken it up" in started.err
    assert "there is no experiment nobody" in aura("experiment", "status", "nobody").err
    assert "there is no file none.yaml" in aura("experiment", "status", "none.yaml").err
    assert "needs --mean, --spread and --per-day" in aura(
        "experiment", "plan", file, "--mean", "3"
    ).err  # fmt: skip
    told = aura("experiment", "stop", "copy", "--promote", "x")
    assert "has no candidate 'x' to promote" in told.err
    (project / "bad.yaml").write_text(TEXT.replace("50%, b", "60%, b"))
    assert "bad.yaml:5: the weights of the arms add up to 110 %" in aura(
        "experiment", "start", "bad.yaml"
    ).err  # fmt: skip
