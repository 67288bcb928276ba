"""`aura runs`: list, show, cancel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Aura

RUN_KEYS = {
    *("id", "workflow", "version", "state", "created_at", "started_at", "finished_at", "seconds"),
    *("wake_at", "worker", "epoch", "recoveries", "cancel_requested", "error"),
    *("queue", "key", "priority", "parent", "detached", "execution"),
    "attributes",
}
CALL_KEYS = {
    *("lane", "name", "number", "key", "kind", "state", "attempts", "started_at", "seconds"),
    *("input", "output", "error", "failures"),
}


@pytest.fixture
def some_runs(aura: Aura) -> None:
    aura("run", "research:app", "research", '"a"', "--id", "first")
    aura("run", "research:app", "broken", '"wrong [bold]markup\\u001b[31m"', "--id", "second")
    aura("run", "research:app", "research", '"a"', "--id", "third", "--detach")


def test_the_list_is_newest_first(aura: Aura, some_runs: None) -> None:
    ended = aura("runs", "list")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "third", "second", "first"]
    assert "\x1b" not in ended.out
    assert "wrong [bold]markup" in lines[2]


def test_the_shape_of_the_list(aura: Aura, some_runs: None) -> None:
    ended = aura("runs", "list", "--json")
    assert ended.err == ""
    assert ended.json.keys() == {"runs", "next"}
    assert all(run.keys() == RUN_KEYS for run in ended.json["runs"])
    assert [run["state"] for run in ended.json["runs"]] == ["pending", "failed", "completed"]
    assert ended.json["runs"][1]["error"]["type"] == "ValueError"


def test_filters_and_pages(aura: Aura, some_runs: None) -> None:
    def ids(*options: str) -> list[str]:
        return [run["id"] for run in aura("runs", "list", "--json", *options).json["runs"]]

    assert ids("--state", "failed") == ["second"]
    assert ids("--workflow", "research") == ["third", "first"]
    assert ids("--workflow", "research", "--state", "completed") == ["first"]
    assert ids("--limit", "2") == ["third", "second"]
    more = aura("runs", "list", "--limit", "2")
    cursor = more.err.split("the same command with --cursor ")[1].split()[0]
    assert ids("--cursor", cursor) == ["first"]


def test_an_empty_list_says_what_to_type(aura: Aura, some_runs: None) -> None:
    ended = aura("runs", "list", "--state", "parked")
    assert (ended.code, ended.out) == (0, "")
    assert "aura run MODULE:APP" in ended.err
    assert aura("runs", "list", "--state", "parked", "--json").json == {"runs": [], "next": None}


def test_a_run_is_shown_as_a_tree_of_lanes(aura: Aura) -> None:
    arguments = ('"abc"', "2", "--version", "1.0.0", "--id", "tree")
    aura("run", "research:app", "research", *arguments)
    shown = aura("runs", "show", "tree").out
    for part in ("research 1.0.0", '{"text": "abc", "times": 2}', "lane 0.1", "lane 0.2"):
        assert part in shown
    assert shown.count("measure#1  done") == 2
    assert 'output {"length": 6}' in shown


def test_the_shape_of_a_run(aura: Aura) -> None:
    aura("run", "research:app", "research", '"abc"', "--version", "1.0.0", "--id", "tree")
    found = aura("runs", "show", "tree", "--json").json
    assert found.keys() == {
        *("run", "input", "output", "journal", "children", "more_children", "suppressed"),
        *("waits", "more_waits"),
    }
    assert found["run"].keys() == RUN_KEYS
    assert found["input"].keys() == {"bytes", "whole", "value", "preview", "encrypted"}
    (call,) = found["journal"]
    assert call.keys() == CALL_KEYS
    assert (call["lane"], call["name"], call["kind"]) == ("0.1", "measure", "step")
    assert (call["state"], call["attempts"], call["output"]["value"]) == ("done", 1, 3)


FAMILY = """

@app.workflow(version="1.0.0")
async def part(number: int, turn: int = 1) -> int:
    if number < 0:
        raise ValueError("below zero")
    if turn < 3:
        aura.continue_as_new(number, turn + 1)
    return 2 * number


@app.workflow(version="1.0.0")
async def whole(count: int) -> int:
    total = sum(await aura.map(part, range(count)))
    try:
        await part(-1)
    except aura.RunFailed:
        return total
"""


def test_a_run_is_shown_with_its_children(aura: Aura, project: Path) -> None:
    module = project / "research.py"
    module.write_text(module.read_text().replace("import", "import aura\nimport", 1) + FAMILY)
    ended = aura("run", "research:app", "whole", "3", "--id", "w")
    assert ended.code == 0, ended.err
    shown = aura("runs", "show", "w").out
    for part in ("w/0.1.1/part#1", "w/0.1.3/part#1", "part#1 (child)  failed", "below zero"):
        assert part in shown
    child = aura("runs", "show", "w/0.1.2/part#1")
    assert "w, which stops it at its end" in child.out
    assert "execution  3" in " ".join(child.out.split()).replace("execution 3", "execution  3")
    found = aura("runs", "show", "w", "--json").json
    assert len(found["children"]) == 4
    assert not found["more_children"]
    assert all(run.keys() == RUN_KEYS for run in found["children"])
    assert {run["parent"] for run in found["children"]} == {"w"}
    assert sorted({run["execution"] for run in found["children"]}) == [1, 3]
    calls = {call["key"]: call for call in found["journal"]}
    assert calls["0.1.2/part#1"]["state"] == "done"
    assert calls["0.1.2/part#1"]["output"]["value"] == 2


def test_attempts_are_shown_with_why_they_failed(aura: Aura, project: Path) -> None:
    path = json.dumps(str(project / "once"))
    assert aura("run", "research:app", "tries_twice", path, "--id", "t").json == "second"
    shown = aura("runs", "show", "t").out
    assert "2 attempts" in shown
    assert "tried: ConnectionError: the first try fails" in shown
    (call,) = aura("runs", "show", "t", "--json").json["journal"]
    assert (call["attempts"], [one["type"] for one in call["failures"]]) == (2, ["ConnectionError"])


def test_large_payloads_are_abbreviated_unless_full(aura: Aura) -> None:
    aura("run", "research:app", "research", json.dumps("x" * 5_000), "--id", "large")
    short = aura("runs", "show", "large")
    assert "--full shows all" in short.out
    assert "x" * 500 not in short.out
    assert aura("runs", "show", "large", "--json").json["input"]["whole"] is False
    full = aura("runs", "show", "large", "--full", "--json").json
    assert full["input"]["value"] == {"text": "x" * 5_000}
    assert aura("runs", "show", "large", "--full").out.count("x") >= 5_000


def test_an_error_is_shown_with_its_traceback_as_data(aura: Aura, some_runs: None) -> None:
    shown = aura("runs", "show", "second").out
    assert "error ValueError: wrong [bold]markup" in shown
    assert "Traceback" in shown
    assert "in broken" in shown
    assert "\x1b" not in shown


def test_cancelling(aura: Aura, some_runs: None) -> None:
    ended = aura("runs", "cancel", "third")
    assert (ended.code, ended.out, ended.err) == (0, "", "Run third is cancelled.\n")
    again = aura("runs", "cancel", "third")
    assert (again.code, again.err) == (0, "Run third had ended before: it is cancelled.\n")
    shape = aura("runs", "cancel", "third", "--json").json
    assert shape.keys() == RUN_KEYS
    assert shape["state"] == "cancelled"


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize("run_id", ["missing", "a/b", "ü", "a\ud800"])
def test_an_unknown_run_is_an_error(aura: Aura, some_runs: None, command: str, run_id: str) -> None:
    ended = aura("runs", command, run_id)
    assert (ended.code, ended.out) == (1, "")
    assert "there is no run" in ended.err
    assert "aura runs list" in ended.err


WAITS = """
import aura

app = aura.Aura("waits")


@app.workflow(version="1.0.0")
async def waits() -> str:
    try:
        return await aura.receive("go", type=str, timeout=0.01)
    except aura.SignalTimeout:
        return "nobody"


@app.workflow(version="1.0.0")
async def asks() -> None:
    await aura.receive(("yes", "no"), timeout=86_400)
"""


def test_a_wait_is_shown_with_its_end(aura: Aura, project: Path) -> None:
    (project / "waits.py").write_text(WAITS)
    assert aura("run", "waits:app", "waits", "--id", "w").json == "nobody"
    assert re.search(r"signal:go#1 \(signal\) .* none came", aura("runs", "show", "w").out)
    assert aura("run", "waits:app", "asks", "--id", "a", "--timeout", "0.5").code != 0
    [wait] = aura("runs", "show", "a", "--json").json["waits"]
    assert wait["kind"] in ("signal", "worker"), "it was handed back, or had left memory before"
    assert re.search(f"waits for +{wait['what']}", aura("runs", "show", "a").out)
