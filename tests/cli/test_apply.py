"""`aura apply`: all of it or nothing, and nothing again the second time."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Aura

CATALOG = """
catalog:
  research:
    owner: search
    metadata: {tier: gold}
    versions:
      1.0.0:
        deprecated: {why: too slow, replacement: ^1.1, since: 2026-11-01}
      1.1.0: {changelog: capitals, metadata: {speed: 2}}
  legacy:
    versions:
      0.1.0: {input: {type: object}, output: {type: string}}
"""
PLAN = """
rollout:
  name: next
  split: research
  baseline: research@1.0.0
  candidate: research@^1.1
  guards: [errors: {}]
  stages: [50%, 100%]
"""
START = PLAN + "  start: true\n"


@pytest.fixture
def known(aura: Aura, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("aura.delivery.rollouts._PATIENCE", 0.2)  # there is no worker
    assert aura("run", "research:app", "research", '"abc"', "--version", "1.0.0").code == 0
    (project / "catalog.yaml").write_text(CATALOG)
    (project / "plan.yaml").write_text(PLAN)
    (project / "start.yaml").write_text(START)
    return project


def documents(project: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(project / "aura.db") as database:
        return database.execute(
            "SELECT kind, name, epoch, body FROM documents ORDER BY 1, 2"
        ).fetchall()


def actions(ended: Any) -> dict[str, str]:
    return {f"{one['kind']} {one['name']}": one["action"] for one in ended.json["changes"]}


def test_a_dry_run_tells_and_writes_nothing(aura: Aura, known: Path) -> None:
    before = documents(known)
    ended = aura("apply", "catalog.yaml", "start.yaml", "--dry-run")
    assert (ended.code, ended.err) == (0, "Nothing was written: this was a dry run.\n")
    lines = [re.split(r"\s{2,}", line.strip(), maxsplit=2) for line in ended.out.splitlines()]
    assert lines[1] == ["update", "catalog research@1.0.0", 'owner: – → "search"']
    assert ['deprecated.since: – → "2026-11-01T00:00:00+00:00"'] in lines
    assert [line[:2] for line in lines if "catalog" in line[-1] or len(line) > 1][-2:] == [
        ["create", "catalog legacy@0.1.0"],
        ["start", "rollout next"],
    ]
    assert documents(known) == before


def test_applied_again_nothing_changes(aura: Aura, known: Path) -> None:
    first = aura("apply", "catalog.yaml", "plan.yaml", "--json")
    assert (first.code, first.json["applied"]) == (0, True)
    assert actions(first) == {
        "catalog research@1.0.0": "update",
        "catalog research@1.1.0": "update",
        "catalog legacy@0.1.0": "create",
        "rollout next": "create",
    }
    before = documents(known)
    second = aura("apply", "catalog.yaml", "plan.yaml", "--json")
    assert set(actions(second).values()) == {"unchanged"}
    assert documents(known) == before
    one = aura("catalog", "show", "research@1.1.0", "--json").json
    assert (one["owner"], one["changelog"]) == ("search", "capitals")
    assert one["metadata"] == {"tier": "gold", "speed": 2}
    assert aura("rollout", "status", "--json").json == {"rollouts": []}  # nobody said start


def test_a_change_shows_the_fields_of_before_and_after(aura: Aura, known: Path) -> None:
    aura("apply", "catalog.yaml", "plan.yaml")
    (known / "plan.yaml").write_text(PLAN.replace("50%", "25%"))
    (known / "catalog.yaml").write_text(CATALOG.replace("capitals", "shouts"))
    found = aura("apply", "catalog.yaml", "plan.yaml", "--json").json["changes"]
    by_name = {one["name"]: one for one in found}
    assert by_name["research@1.1.0"]["fields"] == [
        {"field": "changelog", "old": "capitals", "new": "shouts"}
    ]
    [stages] = by_name["next"]["fields"]
    assert (stages["field"], stages["old"][0]["name"], stages["new"][0]["name"]) == (
        "stages", "50%", "25%",
    )  # fmt: skip


def test_a_plan_is_started_once_with_its_versions_pinned(aura: Aura, known: Path) -> None:
    ended = aura("apply", "start.yaml", "--json")
    assert (ended.code, actions(ended)) == (0, {"rollout next": "start"})
    assert "no worker has taken it up" in ended.json["notes"][0]
    [status] = aura("rollout", "status", "--json").json["rollouts"]
    assert (status["candidate"], status["run"]) == ("research@1.1.0", "rollout-next-1")
    assert actions(aura("apply", "start.yaml", "--json")) == {"rollout next": "unchanged"}
    (known / "start.yaml").write_text(START.replace("50%", "25%"))
    refused = aura("apply", "start.yaml", "catalog.yaml")
    assert refused.code == 1
    assert "rollout next is under way" in refused.err
    assert aura("catalog", "show", "research@1.1.0", "--json").json["owner"] == ""


def test_nothing_is_written_when_one_change_is_refused(aura: Aura, known: Path) -> None:
    before = documents(known)
    schema = "1.1.0: {input: {type: object, required: [mode], properties: {mode: {}}}}"
    text = re.sub(r"1\.1\.0: \{.*\}\}", schema, CATALOG)
    assert text != CATALOG
    (known / "catalog.yaml").write_text(text + START)
    ended = aura("apply", "catalog.yaml", "--json")
    assert (ended.code, ended.json["applied"]) == (1, False)
    [plan] = [one for one in ended.json["changes"] if one["kind"] == "rollout"]
    assert plan["action"] == "refused"
    assert "input mode: required by 1.1.0, not sent by callers of 1.0.0" in plan["reason"]
    assert documents(known) == before
    assert aura("apply", "catalog.yaml").err.startswith("Error: nothing was written, 1 of the")
    (known / "catalog.yaml").write_text(text + START + "  incompatible: the adapter translates\n")
    assert aura("apply", "catalog.yaml").code == 0
    found = aura("catalog", "diff", "research@1.0.0", "research@1.1.0", "--json").json
    assert [one["reason"] for one in found["overrides"]] == ["the adapter translates"]
    assert all(one["by"] for one in found["overrides"])


def test_the_same_thing_in_two_files_is_refused(aura: Aura, known: Path) -> None:
    (known / "other.yaml").write_text(CATALOG.replace("owner: search", "owner: ops"))
    ended = aura("apply", "catalog.yaml", "other.yaml")
    assert ended.code == 1
    assert "it is said 2 times: catalog.yaml:8, other.yaml:8" in ended.err


def test_a_deprecation_is_kept_until_a_file_takes_it_back(aura: Aura, known: Path) -> None:
    def deprecated() -> Any:
        return aura("catalog", "show", "research@1.0.0", "--json").json["deprecated"]

    aura("apply", "catalog.yaml", "--by", "ada")
    assert deprecated() == {
        "since": 1793491200.0, "why": "too slow", "replacement": "^1.1", "by": "ada",
    }  # fmt: skip
    silent = "catalog: {research: {versions: {1.0.0: {}}}}"
    (known / "catalog.yaml").write_text(silent)
    assert aura("apply", "catalog.yaml").code == 0
    assert deprecated()["why"] == "too slow"
    (known / "catalog.yaml").write_text(silent.replace("{}}", "{deprecated: false}}"))
    assert aura("apply", "catalog.yaml").code == 0
    assert deprecated() is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gateway: {}", "f.yaml:1: there is nothing to apply"),
        ("catalog: {research: {}}", "f.yaml:1: the workflow research has no versions"),
        ("catalog:\n  research: {versions: {1.0: {}}}", "f.yaml:2: '1.0' is no version"),
        ("catalog:\n  r@1: {versions: {}}", "f.yaml:2: 'r@1' names no workflow"),
        ("catalog: {r: {versions: {1.0.0: {author: x}}}}", "f.yaml:1: "),
        ("catalog: {r: {versions: {1.0.0: {owner: [x]}}}}", "f.yaml:1: owner is a list"),
        ("catalog: {r: {versions: {1.0.0: {deprecated: true}}}}", "deprecated is true"),
        ("catalog: {r: {versions: {1.0.0: {deprecated: {}}}}}", "has no why"),
        (
            "catalog: {r: {versions: {1.0.0: {deprecated: {why: x, since: soon}}}}}",
            "since is 'soon'",
        ),
        (
            "catalog: {r: {versions: {1.0.0: {deprecated: {why: x, replacement: so}}}}}",
            "no range of versions",
        ),
        ("catalog: {r: {versions: {1.0.0: {input: 3}}}}", "input is '3'"),
        ("catalog: {r: {versions: {1.0.0: {metadata: {at: 2026-01-01}}}}}", "plain values"),
        (PLAN.replace("research@^1.1", "research@^8") + "  start: true", "no version ^8"),
        (PLAN + "  start: perhaps", "start is 'perhaps'"),
    ],
)
def test_files_that_cannot_be(aura: Aura, known: Path, text: str, told: str) -> None:
    (known / "f.yaml").write_text(text)
    before = documents(known)
    ended = aura("apply", "catalog.yaml", "f.yaml")
    assert ended.code == 1
    assert told in ended.err
    assert documents(known) == before


EXPERIMENT = """
experiment:
  name: copy
  split: shop
  arms: {a: 50%, b: 50%}
  primary: outcome
  start: true
"""
DECOMMISSION = """
decommission:
  target: legacy
  grace: 1h
  start: true
gateway:
  routes: [{path: /research, split: research, baseline: legacy}]
  targets: {legacy: {http: "http://127.0.0.1:1"}}
"""


def test_experiments_and_decommissions_begin_once(
    aura: Aura, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.delivery.experiments._PATIENCE", 0.2)
    (known / "copy.yaml").write_text(EXPERIMENT)
    (known / "legacy.yaml").write_text(DECOMMISSION)
    before = documents(known)
    dry = aura("apply", "copy.yaml", "legacy.yaml", "--dry-run", "--json")
    assert actions(dry) == {"experiment copy": "start", "decommission legacy": "start"}
    assert documents(known) == before
    first = aura("apply", "copy.yaml", "legacy.yaml", "--by", "ada", "--json")
    assert (first.code, first.json["applied"]) == (0, True)
    assert "no worker has taken it up" in " ".join(first.json["notes"])
    [copy] = aura("experiment", "list", "--json").json["experiments"]
    assert copy["name"] == "copy"
    [legacy] = aura("decommission", "status", "--json").json["targets"]
    assert [one["path"] for one in legacy["endpoints"]] == ["/research"]
    assert legacy["history"][0]["by"] == "ada"
    kept = documents(known)
    again = aura("apply", "copy.yaml", "legacy.yaml", "--json")
    assert actions(again) == {"experiment copy": "unchanged", "decommission legacy": "unchanged"}
    assert documents(known) == kept
    (known / "copy.yaml").write_text(EXPERIMENT.replace("50%", "50.00%") + "  alpha: 0.01\n")
    (known / "legacy.yaml").write_text(DECOMMISSION.replace("1h", "2h"))
    refused = aura("apply", "copy.yaml", "legacy.yaml", "--json")
    assert (refused.code, refused.json["applied"]) == (1, False)
    assert {one["name"]: one["reason"] for one in refused.json["changes"]} == {
        "copy": "experiment copy is under way: let it end or stop it first",
        "legacy": "it is being decommissioned already",
    }
    assert documents(known) == kept


def test_what_does_not_say_start_is_left_alone(aura: Aura, known: Path) -> None:
    (known / "copy.yaml").write_text(EXPERIMENT.replace("  start: true\n", ""))
    ended = aura("apply", "copy.yaml")
    assert (ended.code, "says `start: true`" in ended.err) == (1, True)
    (known / "copy.yaml").write_text(EXPERIMENT.replace("true", "perhaps"))
    assert "start is 'perhaps'" in aura("apply", "copy.yaml").err
    (known / "one.yaml").write_text(EXPERIMENT)
    twice = aura("apply", "one.yaml", "one.yaml", "--json")
    assert {one["reason"] for one in twice.json["changes"]} == {"it is said 2 times"}
