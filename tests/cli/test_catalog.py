"""`aura catalog`, and what `aura replay --record` and `aura rollout start` have to do with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import PROJECT, Aura

THIRD = """

@app.workflow(version="2.0.0", name="research", owner="search", changelog="modes")
async def research_2(text: str, mode: str) -> int:
    return len(text)
"""
PLAN = """
rollout:
  name: leap
  split: research
  baseline: research@1.0.0
  candidate: research@{candidate}
  guards: [errors: {{}}]
  stages: [50%, 100%]
"""


@pytest.fixture
def known(aura: Aura, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database whose catalog has three versions of research, and two runs of 1.0.0."""
    monkeypatch.setattr("aura.delivery.rollouts._PATIENCE", 0.2)  # there is no worker
    (project / "research.py").write_text(PROJECT + THIRD)
    for number in range(2):
        arguments = ('"abc"', "--version", "1.0.0", "--id", f"run-{number}")
        assert aura("run", "research:app", "research", *arguments).code == 0
    return project


def test_the_list(aura: Aura, known: Path) -> None:
    ended = aura("catalog", "list", "--workflow", "research")
    assert (ended.code, ended.err) == (0, "")
    head, *rows = [line.split() for line in ended.out.splitlines()]
    assert head == ["VERSION", "OWNER", "CHANGELOG", "DEPRECATED", "IN", "FLIGHT", "LAST", "SEEN"]
    assert [row[0] for row in rows] == ["research@2.0.0", "research@1.1.0", "research@1.0.0"]
    found = aura("catalog", "list", "--json").json["versions"]
    assert {one["workflow"] for one in found} >= {"research", "broken", "echo"}
    [newest] = [one for one in found if one["name"] == "research@2.0.0"]
    assert (newest["owner"], newest["runs_in_flight"], newest["live"]) == ("search", 0, False)
    assert newest["input"]["required"] == ["text", "mode"]


def test_the_matrix_is_drawn(aura: Aura, known: Path) -> None:
    ended = aura("catalog", "show", "research")
    assert ended.code == 0
    drawn = [line.split() for line in ended.out.splitlines()]
    at = drawn.index(["OLD", "\\", "NEW", "2.0.0", "1.1.0", "1.0.0"])
    assert drawn[at + 1 : at + 4] == [
        ["2.0.0", "·", "✗", "✗", "?", "✗", "✗", "?"],
        ["1.1.0", "✗", "✗", "?", "·", "✓", "✗", "?"],
        ["1.0.0", "✗", "✗", "?", "✓", "✓", "?", "·"],
    ]
    cells = aura("catalog", "show", "research", "--json").json["matrix"]
    assert len(cells) == 9
    assert {"old", "new", "inputs", "outputs", "runs"} < cells[0].keys()


def test_replays_fill_the_matrix_when_they_are_told_to(aura: Aura, known: Path) -> None:
    pair = ("catalog", "diff", "research@1.0.0", "research@1.1.0")
    against = ("replay", "research:app", "--workflow", "research", "--version", "1.1.0")
    assert aura(*against).code == 1
    assert aura(*pair, "--json").json["runs"]["verdict"] == "unknown"
    assert aura(*against, "--record").code == 1
    found = aura(*pair, "--json").json["runs"]
    assert found["verdict"] == "incompatible"
    assert found["findings"][0]["reason"] == "2 of 2 histories diverge"
    assert "removed: the code does not ask for the step" in found["findings"][1]["reason"]


def test_the_difference_and_its_exit_code(aura: Aura, known: Path) -> None:
    ended = aura("catalog", "diff", "research@^1", "research@2.0.0")
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines()[:3] == [
        "research@1.1.0 → research@2.0.0",
        "✗ inputs: incompatible",
        "    mode: required by 2.0.0, not sent by callers of 1.1.0",
    ]
    assert aura("catalog", "diff", "research@1.0.0", "research@1.1.0").code == 0


def test_deprecating_and_taking_it_back(aura: Aura, known: Path) -> None:
    said = ("--why", "too slow", "--replacement", "^1.1", "--by", "ada")
    ended = aura("catalog", "deprecate", "research@1.0.0", *said)
    assert (ended.code, ended.err) == (0, "research@1.0.0 is deprecated.\n")
    assert "too slow → ^1.1" in aura("catalog", "list").out
    ran = aura("run", "research:app", "research@1.0.0", '"abc"', "--id", "late")
    assert ran.code == 0
    shown = aura("catalog", "show", "research@1.0.0")
    assert ["started", "since", "1"] in [line.split() for line in shown.out.splitlines()]
    one = aura("catalog", "show", "research@1.0.0", "--json").json
    assert (one["starts"], one["deprecated"]["by"]) == (1, "ada")
    assert aura("catalog", "deprecate", "research@1.0.0", "--undo", "--json").json["starts"] == 0


def test_a_plan_that_does_not_fit_is_refused(aura: Aura, known: Path) -> None:
    (known / "leap.yaml").write_text(PLAN.format(candidate="^2"))
    ended = aura("rollout", "start", "leap.yaml", "--json")
    assert ended.code == 1
    error = ended.json["error"]
    assert error["type"] == "Incompatible"
    assert "input mode: required by 2.0.0, not sent by callers of 1.0.0" in error["message"]
    assert "aura catalog diff research@1.0.0 research@2.0.0" in error["hint"]
    assert aura("rollout", "status", "--json").json == {"rollouts": []}
    why = ("--incompatible", "the adapter translates")
    told = aura("rollout", "start", "leap.yaml", *why)
    assert "no worker has taken it up" in told.err
    pair = ("catalog", "diff", "research@1.0.0", "research@2.0.0")
    assert "Rollout leap started all the same" in aura(*pair).out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("show", "nothing"), "no workflow nothing"),
        (("show", "research@9.9.9"), "no version 9.9.9 of research"),
        (("diff", "research", "research@1.0.0"), "names no version"),
        (("diff", "research@^7", "research@1.0.0"), "no version ^7 of research"),
        (("deprecate", "research@1.0.0"), "no reason"),
        (("deprecate", "research@1.0.0", "--why", "x", "--replacement", "so"), "no range"),
    ],
)
def test_nonsense(aura: Aura, known: Path, arguments: tuple[str, ...], told: str) -> None:
    ended = aura("catalog", *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert told in ended.err
    assert ended.err.count("\n") == 1


def test_an_empty_catalog(aura: Aura, project: Path) -> None:
    assert "there is no database" in aura("catalog", "list").err
    (project / "research.py").write_text("from aura import Aura\napp = Aura('research')\n")
    assert aura("run", "research:app", "none").code == 1
