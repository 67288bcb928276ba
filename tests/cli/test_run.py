"""`aura run`: arguments in, a result out."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Aura


def test_it_prints_the_result_and_nothing_else_on_stdout(aura: Aura) -> None:
    ended = aura("run", "research:app", "research", '"text"', "--version", "1.0.0")
    assert (ended.code, ended.json) == (0, {"length": 4})
    assert "completed in" in ended.err


def test_arguments_by_position_and_by_name(aura: Aura) -> None:
    both = ('"ab"', "--input", '{"times": 3}', "--version", "1.0.0")
    assert aura("run", "research:app", "research", *both).json == {"length": 6}


def test_the_highest_version_runs_unless_told_otherwise(aura: Aura) -> None:
    assert aura("run", "research:app", "research", '"text"').json == "TEXT"


def test_input_from_a_file_and_from_stdin(
    aura: Aura, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "input.json").write_text('{"text": "from a file"}')
    assert aura("run", "research:app", "research", "--input", "@input.json").json == "FROM A FILE"
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "stdin"}'))
    assert aura("run", "research:app", "research", "--input", "-").json == "STDIN"


def test_arguments_have_the_types_that_json_stands_for(aura: Aura) -> None:
    data = base64.b64encode(b"\x00\xff").decode()
    given = json.dumps({"value": data, "id": "not the run's"})
    ended = aura("run", "research:app", "echo", "--input", given, "--id", "own")
    assert ended.json == "b'\\x00\\xff' not the run's"
    assert aura("runs", "show", "own", "--json").json["run"]["state"] == "completed"


def test_json_has_the_run_and_its_result(aura: Aura) -> None:
    ended = aura("run", "research:app", "research", '"a"', "--id", "doc-17", "--json")
    assert ended.err == ""
    assert ended.json.keys() == {"run", "result"}
    assert (ended.json["run"]["id"], ended.json["run"]["state"]) == ("doc-17", "completed")
    assert ended.json["result"] == "A"


def test_an_empty_id_is_no_id(aura: Aura) -> None:
    ended = aura("run", "research:app", "research", '"a"', "--id", "")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "cannot have the id ''" in ended.err


def test_the_same_id_is_the_same_run(aura: Aura) -> None:
    for _ in range(2):
        assert aura("run", "research:app", "research", '"a"', "--id", "one").json == "A"
    assert len(aura("runs", "list", "--json").json["runs"]) == 1
    other = aura("run", "research:app", "research", '"b"', "--id", "one")
    assert other.code == 1
    assert "another input" in other.err


def test_detached_runs_are_left_to_workers(aura: Aura) -> None:
    ended = aura("run", "research:app", "research", '"a"', "--id", "later", "--detach")
    assert (ended.code, ended.out) == (0, "later\n")
    assert "aura runs show later" in ended.err
    shown = aura("run", "research:app", "research", '"a"', "--id", "later", "--detach", "--json")
    assert shown.json["state"] == "pending"


def test_a_failed_run_is_one_paragraph_and_exit_1(aura: Aura) -> None:
    ended = aura("run", "research:app", "broken", '"no such luck"')
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert "ValueError: no such luck. See: aura runs show " in ended.err


def test_a_timeout_leaves_the_run(aura: Aura, project: Path) -> None:
    path = json.dumps(str(project / "never"))
    ended = aura("run", "research:app", "holds", path, "--id", "slow", "--timeout", "0.05")
    assert ended.code == 1
    assert "no result after 0.05 s" in ended.err
    assert aura("runs", "show", "slow", "--json").json["run"]["state"] == "pending"


def test_another_database(aura: Aura, project: Path) -> None:
    other = ("--database", "other.db")
    assert aura("run", "research:app", "research", '"a"', "--id", "one", *other).json == "A"
    assert not (project / "aura.db").exists()
    assert aura("runs", "show", "one", "--json", *other).json["run"]["state"] == "completed"


def test_odd_results_are_printed_safely(aura: Aura) -> None:
    ended = aura("run", "research:app", "research", '"\\u001b[31m\\u00fc"')
    assert ended.json == "\x1b[31MÜ"
    assert "\x1b" not in ended.out


def test_runs_of_others_are_left_to_their_workers(aura: Aura) -> None:
    theirs = aura("run", "research:app", "research", '"theirs"', "--detach", "--json").json["id"]
    assert aura("run", "research:app", "research", '"mine"').json == "MINE"
    assert aura("runs", "show", theirs, "--json").json["run"]["state"] == "pending"
