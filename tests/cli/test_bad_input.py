"""Whatever is wrong: one readable paragraph on stderr, exit 1, no traceback, nothing on stdout."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Aura, Ended

RUN = ("run", "research:app")


def refused(ended: Ended, *said: str) -> None:
    """It ended with 1 and one paragraph that says all of these."""
    assert ended.code == 1, ended
    assert ended.out == ""
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    for part in said:
        assert part in ended.err


# -- workflows and their input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing", '"a"'], ["workflow missing", "Registered:", "research 1.0.0"]),
        (
            ["research", '"a"', "--version", "9.0.0"],
            ["research 9.0.0", "Registered: research 1.1.0, research 1.0.0.\n"],
        ),
        (["research", '"a"', "--version", "new"], ["research new"]),
        (["research", "hello"], ["argument 1 is not JSON", "hello", "Quote text twice"]),
        (["research", '"a"', "{"], ["argument 2 is not JSON"]),
        (["research", "[" * 5_000], ["argument 1 is not JSON"]),
        (["research", '"\\ud800"'], ["argument 1 is not JSON"]),
        (["research", "5"], ["'text'", "valid string"]),
        (["research", '"a"', '"many"'], ["'times'", "valid integer"]),
        (["research"], ["'text'", "text, times"]),
        (["research", '"a"', "1", "2"], ["too many", "text, times"]),
        (["research", "--input", '["a"]'], ["--input is not a JSON object"]),
        (["research", "--input", "{"], ["--input is not JSON"]),
        (["research", "--input", "@missing.json"], ["missing.json cannot be read"]),
        (["research", "--input", '{"text": "a", "id": "b"}'], ["'id'", "text, times"]),
        (["research", '"a"', "--input", '{"text": "b"}'], ["text"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_input_that_does_not_fit(aura: Aura, arguments: list[str], said: list[str]) -> None:
    refused(aura(*RUN, *arguments), *said)


def test_an_input_over_the_limit(aura: Aura, project: Path) -> None:
    (project / "large.json").write_text(json.dumps({"text": "a" * 9_000_000}))
    refused(aura(*RUN, "research", "--input", "@large.json"), "'text'", "9,000,002", "max_payload")


def test_the_id_of_another_run(aura: Aura) -> None:
    aura(*RUN, "research", '"a"', "--id", "taken")
    refused(aura(*RUN, "research", '"b"', "--id", "taken"), "taken", "another id")


# -- as JSON, too --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "run"),
    [
        (["runs", "show", "nobody"], 1, "RunNotFound", None),
        (["runs", "signal", "nobody", "go"], 1, "RunNotFound", None),
        (["run", "research:app", "missing"], 1, "UnknownWorkflow", None),
        (
            ["run", "research:app", "broken", '"\\ud83d \\u001b[31m"', "--id", "b"],
            1,
            "InvalidInput",
            None,
        ),
        (["run", "research:app", "broken", '"no"', "--id", "b"], 1, "RunFailed", "b"),
        (["rollout", "start", "none.yaml"], 1, "PlanError", None),
        (["worker", "missing:app"], 1, "ConfigError", None),
        (["runs", "list", "--limit", "many"], 2, "UsageError", None),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_an_error_is_json_when_that_is_asked_for(
    aura: Aura, arguments: list[str], code: int, kind: str, run: str | None
) -> None:
    aura(*RUN, "research", '"a"')
    ended = aura(*arguments, "--json")
    assert ended.code == code
    assert ended.out.count("\n") == 1
    assert ended.json.keys() == {"error"}
    assert ended.json["error"].keys() == {"type", "message", "hint", "run"}
    assert (ended.json["error"]["type"], ended.json["error"]["run"]) == (kind, run)
    assert ended.json["error"]["message"]
    assert ended.err.startswith("Error: ")


def test_json_shows_no_password_either(aura: Aura) -> None:
    ended = aura("runs", "list", "--database", "postgresql://a:s3cret@127.0.0.1:1/x", "--json")
    assert ended.json["error"]["type"] == "StoreUnavailable"
    assert "s3cret" not in ended.out + ended.err


# -- modules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("research", ["names no app", "MODULE:APP"]),
        (":app", ["names no app"]),
        ("missing:app", ["there is no module missing", "project's folder"]),
        ("missing.deep:app", ["there is no module missing.deep"]),
        ("research:missing", ["has no missing", "research:app"]),
        ("research:Aura.open", ["not an Aura app", "research:app"]),
        ("research:asyncio", ["of type module", "research:app"]),
        ("research.py:app", ["is a file", "research:app"]),
        ("./research.py:app", ["is a file", "research:app"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "worker", "serve"])
def test_apps_that_are_not_there(aura: Aura, command: str, target: str, said: list[str]) -> None:
    rest = ["research", '"a"'] if command == "run" else []
    refused(aura(command, target, *rest), *said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_to_be_found", ["No module named 'nowhere_to_be_found'", "line 1"]),
        ("x = 1\n1 / 0", ["ZeroDivisionError", "broken.py", "line 2"]),
        ("def f(:", ["SyntaxError", "broken.py, line 1"]),
        ("import sys; sys.exit(3)", ["SystemExit"]),
        ("raise ImportError('half installed')", ["half installed"]),
        ("text = '\x00'", ["cannot be imported"]),
    ],
)
def test_modules_that_break(aura: Aura, project: Path, source: str, said: list[str]) -> None:
    (project / "broken.py").write_text(source)
    refused(aura("worker", "broken:app"), "broken cannot be imported", *said)


TWICE = """
from aura import Aura
app = Aura("a")

@app.workflow(version="1.0.0")
async def same() -> int:
    return 1

@app.workflow(version="1.0.0", name="same")
async def other() -> int:
    return 2
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (TWICE, ["same 1.0.0 is declared twice", ".same (line 5)", ".other (line 9)"]),
        (TWICE.replace("async def same", "def same"), ["not an async function"]),
        (TWICE.replace("1.0.0", "one"), ["not a semantic version"]),
        (TWICE.replace('Aura("a")', 'Aura("a", config=None, nonsense=1)'), ["nonsense"]),
    ],
    ids=["duplicate", "plain", "version", "setting"],
)
def test_declarations_that_cannot_be(
    aura: Aura, project: Path, source: str, said: list[str]
) -> None:
    (project / "declared.py").write_text(source)
    refused(aura("run", "declared:app", "same"), *said)


FAULTY = """
import asyncio
from aura import Aura, step
app = Aura("a")

@step
async def fetch() -> int:
    return 1

@step
async def opaque():
    return object()

@app.workflow(version="1.0.0")
async def forgets() -> int:
    fetch()
    return 2

@app.workflow(version="1.0.0")
async def returns_nonsense() -> int:
    await opaque()
    return 2
"""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # about the coroutine that is not awaited
@pytest.mark.parametrize(
    ("workflow", "said"), [("forgets", ["fetch", "await"]), ("returns_nonsense", ["opaque"])]
)
def test_runs_whose_code_is_wrong(
    aura: Aura, project: Path, workflow: str, said: list[str]
) -> None:
    (project / "faulty.py").write_text(FAULTY)
    refused(aura("run", "faulty:app", workflow), "failed", *said)


# -- databases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("postgresql://aura:s3cret@127.0.0.1:1/none", ["127.0.0.1:1", "cannot be reached"]),
        ("postgresql://aura:s3cret@127.0.0.1:port/none", ["127.0.0.1:port", "AURA_DATABASE_URL"]),
        ("mysql://aura:s3cret@127.0.0.1/none", ["mysql", "unknown kind"]),
        ("no/such/folder/aura.db", ["aura.db", "folder exists"]),
        (".", ["cannot use ."]),
        ("research.py", ["not a database"]),
        ("", ["--database is empty"]),
    ],
)
def test_databases_that_cannot_be_used(aura: Aura, database: str, said: list[str]) -> None:
    ended = aura("worker", "research:app", "--database", database)
    refused(ended, *said)
    assert "s3cret" not in ended.err


def test_a_database_that_is_not_there_is_not_made_by_looking(aura: Aura, project: Path) -> None:
    for command in (["runs", "list"], ["runs", "show", "x"], ["rollout", "status"]):
        refused(aura(*command), "there is no database at aura.db", "--database")
    assert not (project / "aura.db").exists()
    refused(aura("runs", "list", "--database", ":memory:"), "in memory")


def test_a_schema_newer_than_this_aura(aura: Aura) -> None:
    aura(*RUN, "research", '"a"')
    db = sqlite3.connect("aura.db")
    with db:
        db.execute("INSERT INTO migrations (id, checksum, applied_at) VALUES ('9999_pre', 'x', 0)")
    db.close()
    for command in (["runs", "list"], [*RUN, "research", '"b"'], ["worker", "research:app"]):
        refused(aura(*command), "schema 9999", "pip install --upgrade")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions count: root, who may do anything, acts as nobody meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_database(aura: Aura) -> None:
    aura(*RUN, "research", '"a"')
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "aura.db"
        file.write_bytes(Path("aura.db").read_bytes())
        file.chmod(0o444)
        with unprivileged():
            ended = aura("runs", "list", "--database", str(file))
            examined = aura("doctor", "--database", str(file))
        refused(ended, str(file), "readonly", "write access")
        assert examined.code == 1
        assert "may not write" in examined.out


# -- plans, gateways, ports --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("50%", "lots"), 21, "lots"),
        (("candidate", "candidates"), 19, "candidates"),
        (("[50%, 100%]", "[50%, 100%"), 22, "YAML"),
        (("min_time: 200ms", "min_time: soon"), 22, "soon"),
    ],
)
def test_a_plan_that_cannot_be_followed(
    aura: Aura, project: Path, change: tuple[str, str], line: int, said: str
) -> None:
    path = project / "aura.yaml"
    path.write_text(path.read_text().replace(*change))
    for command in ("start", "rollback"):
        refused(aura("rollout", command, "aura.yaml"), f"aura.yaml:{line}", said)


def test_a_plan_with_an_arm_that_the_gateway_does_not_have(aura: Aura, project: Path) -> None:
    path = project / "aura.yaml"
    path.write_text(path.read_text().replace("candidate: research@1.1.0", "candidate: reserch"))
    refused(aura("rollout", "start", "aura.yaml"), "aura.yaml", "reserch", "research@1.1.0")


def test_a_plan_that_is_not_there(aura: Aura) -> None:
    refused(aura("rollout", "start", "none.yaml"), "none.yaml", "Check the path")
    refused(aura("rollout", "status", "none.yaml"), "there is no file none.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("baseline: research@1.0.0", "baseline: other"),
            ["aura.yaml:8", "other", "research@1"],
        ),
        (("sla: 5s", "sla: 5"), ["aura.yaml:9", "sla"]),
        (("path: /research", "path: /api/v1/runs"), ["/api/v1/runs", "Aura's own API"]),
        (("workflow: broken", "adapter: 'no:thing', workflow: broken"), ["no:thing"]),
        (("gateway:", "gate:"), ["aura.yaml", "no `gateway:` section"]),
        (
            ("version: 1.0.0", "version: 9.0.0"),
            ["target research@1.0.0", "research 9.0.0", "research 1.1.0"],
        ),
    ],
)
def test_a_gateway_that_cannot_be(
    aura: Aura, project: Path, change: tuple[str, str], said: list[str]
) -> None:
    path = project / "aura.yaml"
    path.write_text(path.read_text().replace(*change, 1))
    refused(aura("serve", "research:app", "--gateway", "aura.yaml", "--port", "0"), *said)


def test_a_gateways_file_that_cannot_be_read(aura: Aura, project: Path) -> None:
    (project / "latin.yaml").write_bytes(b"gateway: \xff")
    (project / "large.yaml").write_text("#" * 1_100_000)
    for name, said in (
        ("none.yaml", "No such file"),
        ("latin.yaml", "UTF-8"),
        ("large.yaml", "large"),
    ):
        refused(aura("serve", "research:app", "--gateway", name), name, said)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_a_host_that_others_can_reach(aura: Aura, host: str) -> None:
    refused(aura("serve", "research:app", "--host", host), "loopback", "aura token create")


def test_a_port_that_is_taken(aura: Aura) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(aura("serve", "research:app", "--port", port), f"port {port}", "--port")


def test_apps_with_different_databases(aura: Aura, project: Path) -> None:
    (project / "other.py").write_text(
        'from aura import Aura, Config\napp = Aura("o", config=Config(database="other.db"))\n'
    )
    refused(aura("worker", "research:app", "other:app"), "different databases", "--database")


# -- faults ------------------------------------------------------------------------------------


def test_a_fault_of_our_own_is_told_and_can_be_debugged(
    aura: Aura, monkeypatch: pytest.MonkeyPatch
) -> None:
    aura(*RUN, "research", '"a"')

    def breaks(*_: object) -> None:
        raise KeyError("postgresql://a:s3cret@h/x")

    monkeypatch.setattr("aura.cli.runs.table", breaks)
    refused(aura("runs", "list"), "unexpected KeyError", "AURA_DEBUG=1")
    monkeypatch.setenv("AURA_DEBUG", "1")
    ended = aura("runs", "list")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "s3cret" not in ended.err
