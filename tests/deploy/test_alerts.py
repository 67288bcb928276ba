"""The alert rules, by Prometheus' own tool: each fires, each stays silent, all of them are real."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.kit import DEPLOY, OURS, RULES, family_of, odd_labels, read, run, specs
from tests.tidy_rules import ROOT
from tests.tools import tool

pytestmark = pytest.mark.timeout(900)  # the first one may have to install the tools

TESTS = RULES.with_name("aura.rules.test.yml")
RUNBOOK = ROOT / "docs" / "operate" / "alerts.md"


def rules() -> list[dict[str, Any]]:
    return [rule for group in read(RULES)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_rules_and_their_tests_hold() -> None:
    checked = run(tool("promtool"), "check", "rules", RULES)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout
    tested = run(tool("promtool"), "test", "rules", TESTS.name, cwd=TESTS.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def cases(*, firing: bool) -> dict[str, list[dict[str, Any]]]:
    """The groups of tests that expect something of an alert, or that expect nothing of it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group in read(TESTS)["tests"]:
        by_alert: dict[str, list[bool]] = {}
        for one in group["alert_rule_test"]:
            by_alert.setdefault(one["alertname"], []).append(bool(one.get("exp_alerts")))
        for name, fires in by_alert.items():
            if any(fires) is firing:
                found.setdefault(name, []).append(group)
    return found


def test_each_alert_has_a_test_that_it_fires_and_one_that_it_is_silent() -> None:
    assert set(alerts()) == set(cases(firing=True)) == set(cases(firing=False))
    for groups in cases(firing=True).values():  # and all of them wait as long as they say
        first = groups[0]["alert_rule_test"][0]
        assert not first.get("exp_alerts"), f"{first} is never shown to wait"


@pytest.mark.parametrize(
    ("firing", "expression"),
    [(True, "vector(0) > 1"), (False, "vector(1)")],
    ids=["never fires", "always fires"],
)
def test_the_tests_find_rules_that_do_nothing_or_too_much(
    firing: bool, expression: str, tmp_path: Path
) -> None:
    """Each alert's own tests fail when it is replaced by one that never, or always, fires."""
    broken = read(RULES)
    for group in broken["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["expr"] = expression
                rule.pop("for", None)
    (tmp_path / RULES.name).write_text(yaml.safe_dump(broken))
    groups = [one for found in cases(firing=firing).values() for one in found]
    body = {**read(TESTS), "tests": groups}
    (tmp_path / TESTS.name).write_text(yaml.safe_dump(body))
    tested = run(tool("promtool"), "test", "rules", TESTS.name, cwd=tmp_path)
    assert tested.returncode != 0
    complained = set(re.findall(r"alertname: ?(\w+)", tested.stdout + tested.stderr))
    assert complained == set(alerts())


def test_alerts_look_at_metrics_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        names = {family_of(name) for name in OURS.findall(re.sub(r"\baura:\S+", "", rule["expr"]))}
        assert names <= set(specs()), rule
        used = set(re.findall(r"\baura:[\w:]+", rule["expr"]))
        assert used <= recorded
        assert names or used or "up{" in rule["expr"]
        if not used:
            assert list(odd_labels(rule["expr"])) == []


def test_every_alert_has_a_severity_and_a_page_of_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alerts())
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operate/alerts.md#{name.lower()}"


@pytest.mark.parametrize(
    "path", ["prometheus/prometheus.yml", "compose/prometheus.yml"], ids=lambda p: p
)
def test_the_scrape_configuration_is_valid(path: str, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text((DEPLOY / path).read_text())
    (tmp_path / RULES.name).write_text(RULES.read_text())
    checked = run(tool("promtool"), "check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    config = read(DEPLOY / path)
    assert {one["job_name"] for one in config["scrape_configs"]} == {"aura"}
    interval = int(config["global"]["scrape_interval"].removesuffix("s"))
    window = re.search(
        r"max_over_time\(up\{[^}]*\}\[(\d+)s\]\)", alerts()["AuraTargetDown"]["expr"]
    )
    assert window is not None
    assert 2 * interval < int(window[1]) < 3 * interval  # so there are exactly three probes in it


MANAGER = DEPLOY / "alertmanager" / "alertmanager.yml"


def test_the_alertmanager_sends_pages_to_the_pager_and_tickets_to_the_chat() -> None:
    checked = run(tool("amtool"), "check-config", MANAGER)
    assert checked.returncode == 0, checked.stderr
    for severity, receiver in (("page", "pager"), ("ticket", "chat")):
        found = run(
            tool("amtool"), "config", "routes", "test", f"--config.file={MANAGER}",
            f"--verify.receivers={receiver}", f"severity={severity}", "alertname=AuraAny",
        )  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr
    for rule in read(MANAGER)["inhibit_rules"]:
        text = " ".join(rule["source_matchers"] + rule["target_matchers"])
        assert set(re.findall(r"Aura\w+", text)) <= set(alerts())
