"""The Grafana dashboards: they are what their source says, and show what there is."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from tests.cli.conftest import Process
from tests.deploy.kit import DEPLOY, OURS, RULES, family_of, odd_labels, read, run
from tests.tidy_rules import ROOT
from tests.tools import tool

pytestmark = pytest.mark.timeout(900)

GRAFANA = DEPLOY / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
SCHEMA = 39


def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboards", GRAFANA / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def boards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in FILES}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, board in boards().items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield name, panel


def expressions() -> list[str]:
    return [target["expr"] for _, panel in panels() for target in panel["targets"]]


def test_the_files_are_made_of_their_source() -> None:
    assert make().files() == {path.name: path.read_text() for path in FILES}
    assert set(boards()) == {"aura-engine", "aura-delivery", "aura-bus"}


def test_ids_are_unique_and_the_schema_is_pinned() -> None:
    uids = [board["uid"] for board in boards().values()]
    assert len(set(uids)) == len(uids)
    for name, board in boards().items():
        assert board["uid"] == name
        assert board["schemaVersion"] == SCHEMA
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [(panel["type"], panel["title"]) for panel in board["panels"]]
        assert len(set(titles)) == len(titles)


def test_panels_do_not_overlap_and_fit_the_grid() -> None:
    for name, board in boards().items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, (name, panel["title"])
            assert all(0 <= x < 24 for x, _ in cells)
            taken |= cells


def test_every_panel_asks_the_chosen_prometheus_and_variables_that_exist() -> None:
    for name, board in boards().items():
        variables = {one["name"] for one in board["templating"]["list"]}
        for panel in board["panels"]:
            if panel["type"] == "row":
                continue
            assert panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
                assert used <= variables, (name, panel["title"])
                assert "job" in used or "aura" not in target["expr"]
                legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                kept = set(
                    re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))
                )
                assert legend <= kept | {"instance"}, (name, panel["title"])


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"dashboards:{at}",
            "expr": re.sub(r"\$\w+", "x", one.replace("$__rate_interval", "1m")),
        }
        for at, one in enumerate(expressions())
    ]
    path = tmp_path / "expressions.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    checked = run(tool("promtool"), "check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


APP = """
from aura import Aura
app = Aura("scraped")

@app.workflow(version="1.0.0")
async def answer(text: str) -> str:
    return text
"""
GATEWAY = """
gateway:
  targets:
    old: {workflow: answer, version: 1.0.0}
  routes:
    - {path: /x, split: s, baseline: old, sla: 60s}
"""


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[set[str]]:
    """The names of what a running process has to show."""
    (tmp_path / "scraped.py").write_text(APP)
    (tmp_path / "aura.yaml").write_text(GATEWAY)
    process = Process(
        tmp_path, "serve", "scraped:app", "--gateway", "aura.yaml", "--port", "0",
        "--metrics-port", "0", "--json", AURA_DATABASE_URL=str(tmp_path / "aura.db"),
    )  # fmt: skip
    try:
        text = httpx.get(process.line()["metrics"], timeout=60, trust_env=False).text
        yield set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
        assert process.stop(signal.SIGTERM) == 0
    finally:
        process.close()


def test_what_is_shown_is_exported_by_a_running_process(exported: set[str]) -> None:
    rules = [rule["expr"] for group in read(RULES)["groups"] for rule in group["rules"]]
    asked = [one["definition"] for board in boards().values()
             for one in board["templating"]["list"] if one["type"] == "query"]  # fmt: skip
    for one in (*expressions(), *rules, *asked):
        names = set(OURS.findall(re.sub(r"\baura:\S+", "", one)))
        assert {family_of(name) for name in names} <= exported, one


def test_labels_of_expressions_exist() -> None:
    assert [odd for one in expressions() for odd in odd_labels(one)] == []
    assert list(odd_labels('sum by (split) (rate(aura_bus_lag{job="a", arm="x"}[5m]))')) == [
        "aura_bus_lag has no arm",
        'no metric of \'sum by (split) (rate(aura_bus_lag{job="a", arm="x"}[5m]))\' has split',
    ]


def test_provisioning_finds_the_dashboards_where_compose_puts_them() -> None:
    compose = read(DEPLOY / "compose" / "compose.yaml")["services"]["grafana"]
    mounted = dict(volume.split(":")[:2] for volume in compose["volumes"] if volume[0] == ".")
    [provider] = read(GRAFANA / "provisioning" / "dashboards" / "aura.yaml")["providers"]
    assert mounted["../grafana/dashboards"] == provider["options"]["path"]
    assert mounted["../grafana/provisioning"] == "/etc/grafana/provisioning"
    [source] = read(GRAFANA / "provisioning" / "datasources" / "aura.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "${PROMETHEUS_URL}"
    assert "PROMETHEUS_URL" in compose["environment"]
    assert (ROOT / "deploy" / "grafana" / "dashboards").is_dir()
