"""`aura replay`: nothing is executed, nothing is written, and what diverges is shown."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import PROJECT, Aura

LONGER = PROJECT.replace(
    "    lengths = await asyncio.gather(*(measure(text) for _ in range(times)))",
    '    await mark("new.log", "inserted")\n'
    "    lengths = await asyncio.gather(*(measure(text + text) for _ in range(times)))",
)


@pytest.fixture
def recorded(aura: Aura, project: Path) -> Path:
    for number in range(3):
        arguments = ('"abc"', f"{number + 1}", "--version", "1.0.0", "--id", f"run-{number}")
        assert aura("run", "research:app", "research", *arguments).code == 0
    assert aura("run", "research:app", "broken", '"x"', "--id", "broken").code == 1
    assert aura("run", "research:app", "research", '"a"', "--id", "new").code == 0
    return project


def contents(project: Path) -> list[list[tuple[object, ...]]]:
    database = sqlite3.connect(project / "aura.db")
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    found = [
        database.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608  (its own tables)
        for (name,) in sorted(tables)
    ]
    database.close()
    return found


def test_the_code_at_hand_replays_what_it_wrote(aura: Aura, recorded: Path) -> None:
    ended = aura("replay", "research:app")
    assert (ended.code, ended.err) == (0, "All 5 runs replay.\n")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["WORKFLOW", "RECORDED", "BY", "CODE", "RUNS", "DIVERGE"],
        ["broken", "1.0.0", "1.0.0", "1", "0"],
        ["research", "1.0.0", "1.0.0", "3", "0"],
        ["research", "1.1.0", "1.1.0", "1", "0"],
    ]


def test_changed_code_diverges_and_nothing_happens(aura: Aura, recorded: Path) -> None:
    (recorded / "research.py").write_text(LONGER)
    before = contents(recorded)
    ended = aura("replay", "research:app", "--all", "--workflow", "research")
    assert ended.code == 1
    assert 'inserted: the code asks for the step 0/mark#1 with {"path":"new.log"' in ended.out
    assert 'the journal goes on with the step 0.1/measure#1 with {"text":"abc"}' in ended.out
    assert "run run-0 (completed)" in ended.out
    assert not (recorded / "new.log").exists()
    assert contents(recorded) == before


def test_the_report_for_programs(aura: Aura, recorded: Path) -> None:
    (recorded / "research.py").write_text(LONGER)
    ended = aura("replay", "research:app", "run-1", "new", "--json")
    assert (ended.code, ended.err) == (1, "")
    found = ended.json
    assert (found["runs"], found["compatible"]) == (2, False)
    [one] = found["diverged"]
    assert (one["run"], one["recorded_version"], one["version"]) == ("run-1", "1.0.0", "1.0.0")
    [first] = one["divergences"]
    assert (first["kind"], first["asked"]["key"], first["recorded"]["key"]) == (
        "inserted", "0/mark#1", "0.1/measure#1",
    )  # fmt: skip


def test_histories_against_a_newer_version(aura: Aura, recorded: Path) -> None:
    ended = aura("replay", "research:app", "--version", "1.1.0", "--workflow", "research", "--json")
    assert ended.code == 1
    pairs = [
        (one["recorded_version"], one["version"], one["runs"], one["diverged"])
        for one in ended.json["pairs"]
    ]
    assert pairs == [("1.0.0", "1.1.0", 3, 3), ("1.1.0", "1.1.0", 1, 0)]
    assert {one["kind"] for run in ended.json["diverged"] for one in run["divergences"]} == {
        "removed"
    }


def test_how_many_and_which(aura: Aura, recorded: Path) -> None:
    assert aura("replay", "research:app", "--runs", "2", "--json").json["runs"] == 2
    assert aura("replay", "research:app", "--state", "failed", "--json").json["runs"] == 1
    assert "There are no such runs" in aura("replay", "research:app", "--state", "parked").err


def test_a_bundle_is_replayed_without_its_database(aura: Aura, recorded: Path) -> None:
    assert aura("runs", "export", "run-0", "run-1", "-o", "past.bundle").code == 0
    (recorded / "aura.db").unlink()
    assert aura("replay", "research:app", "--bundle", "past.bundle").code == 0
    (recorded / "research.py").write_text(LONGER)
    found = aura("replay", "research:app", "--bundle", "past.bundle", "--json").json
    assert [one["run"] for one in found["diverged"]] == ["run-0", "run-1"]
    assert not (recorded / "aura.db").exists()


def test_what_cannot_be_replayed_is_said(aura: Aura, recorded: Path) -> None:
    ended = aura("replay", "research:app", "run-0", "--version", "9.0.0")
    assert ended.code == 1
    assert "Skipped run run-0: workflow research 9.0.0 is not registered here" in ended.err
    for options, says in (
        (("nobody",), "no run nobody"),
        (("--state", "odd"), "no state 'odd'"),
        (("--bundle", "nowhere"), "nowhere cannot be read"),
        (("--bundle", "nowhere", "--state", "failed"), "takes all runs of its file"),
        (("--workflow", "reserch"), "reserch is not in the code of research:app. It has: "),
        (("--database", "nowhere.db"), "no database at nowhere.db"),
    ):
        wrong = aura("replay", "research:app", *options)
        assert (wrong.code, wrong.err.count("\n")) == (1, 1)
        assert says in wrong.err
