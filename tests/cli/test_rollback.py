"""`aura rollback` and `aura decommission`, as a person uses them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Aura, Spawn

HELD = """
rollout:
  name: careful
  split: research
  baseline: research@1.0.0
  candidate: research@1.1.0
  guards: [errors: {}]
  stages: [10%, 100%]
  defaults: {min_requests: 1000, min_time: 10m, max_time: 1h}
alerts: [log]
decommission:
  target: research@1.0.0
  endpoints: [/research]
  gate: {stable: 0s}
  grace: 1d
"""


@pytest.fixture
def moved(project: Path, aura: Aura, spawn: Spawn) -> None:
    """A rollout in its first stage, and no worker any more."""
    (project / "careful.yaml").write_text(HELD)
    worker = spawn("worker", "research:app", "--json")
    assert worker.line()["event"] == "ready"
    assert aura("rollout", "start", "careful.yaml").code == 0
    worker.close()


def test_an_emergency(aura: Aura, moved: None, spawn: Spawn) -> None:
    ended = aura("rollback", "--all", "--reason", "fire", "--by", "ann")
    assert (ended.code, ended.out) == (0, "")
    assert "research: rolled back at epoch 2; rollout careful is over" in ended.err
    (listed,) = aura("rollback", "--list", "--json").json["splits"]
    assert (listed["split"], listed["baseline"]) == ("research", "research@1.0.0")
    assert [(one["what"], one["by"]) for one in listed["history"]] == [("force", "ann")]
    assert "fire" in aura("rollback", "--list").out
    refused = aura("rollout", "start", "careful.yaml")
    assert refused.code == 1
    assert "split research is forced to its baseline: fire" in refused.err
    assert "aura rollback research --release" in refused.err
    again = aura("rollback", "careful.yaml", "--reason", "more")
    assert (again.code, "is forced already" in again.err) == (0, True)
    freed = aura("rollback", "research", "--release", "--json")
    assert freed.json["splits"][0]["changed"] is True
    assert "Nothing is rolled back." in aura("rollback", "--list").err
    assert aura("rollout", "status", "careful", "--json").json["state"] == "rolled-back"


def test_what_makes_no_sense(aura: Aura, moved: None) -> None:
    for arguments, said in (
        (["--reason", "x"], "name what is to be rolled back"),
        (["--all", "research", "--reason", "x"], "names and --all do not fit"),
        (["research"], "an emergency has no reason"),
        (["nothing", "--reason", "x"], "there is no split and no rollout nothing"),
        (["missing.yaml", "--reason", "x"], "there is no file missing.yaml"),
        (["research", "--restore", "--reason", "x"], "--restore alone does nothing"),
    ):
        ended = aura("rollback", *arguments)
        assert (ended.code, said in ended.err) == (1, True), ended


def test_a_decommission_waits_and_is_undone(aura: Aura, moved: None, spawn: Spawn) -> None:
    begun = aura("decommission", "careful.yaml")
    assert begun.code == 0
    assert "research@1.0.0 is being decommissioned" in begun.err
    assert "already" in aura("decommission", "start", "careful.yaml").err
    worker = spawn("worker", "research:app", "--json")
    assert worker.line()["event"] == "ready"
    give_up = time.monotonic() + 60
    while not (found := _status(aura))["gates"]:
        assert time.monotonic() < give_up
    assert found["gates"] == ["drained: split research still sends 90.00% of its units to it"]
    shown = aura("decommission", "status")
    assert "waits: drained" in shown.out
    assert aura("decommission", "undo", "research@1.0.0", "--reason", "not yet").code == 0
    while (found := _status(aura))["state"] != "undone":
        assert time.monotonic() < give_up
    assert found["history"][-1]["reason"] == "everything is back: not yet"
    assert "nothing can be undone" in aura("decommission", "undo", "research@1.0.0").err
    assert "is not being decommissioned" in aura("decommission", "status", "other").err
    assert "there is no file x.yaml" in aura("decommission", "x.yaml").err


def _status(aura: Aura) -> dict[str, Any]:
    (found,) = aura("decommission", "status", "careful.yaml", "--json").json["targets"]
    return dict(found)


def test_a_target_that_nobody_has_heard_of_is_not_decommissioned(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"a"').code == 0
    ended = aura("decommission", "nope")
    assert ended.code == 1
    assert "no split has an arm nope" in ended.err
    assert aura("decommission", "status", "--json").json["targets"] == []
