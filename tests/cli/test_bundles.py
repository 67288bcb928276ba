"""`aura runs export` and `import`, and `aura promote`, also when they are killed."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Aura, Spawn

KEY = "k1:" + base64.b64encode(b"0123456789abcdef" * 2).decode()


@pytest.fixture
def in_flight(aura: Aura, project: Path) -> None:
    """One run that has ended, two that have not begun."""
    arguments = ('"abc"', "--version", "1.0.0", "--id")
    assert aura("run", "research:app", "research", *arguments, "ended").code == 0
    for name in ("first", "second"):
        assert aura("run", "research:app", "research", *arguments, name, "--detach").code == 0


def states(aura: Aura, database: str) -> dict[str, str]:
    found = aura("runs", "list", "--json", "--database", database).json["runs"]
    return {run["id"]: run["state"] for run in found}


def test_runs_move_and_go_on(aura: Aura, in_flight: None) -> None:
    done = aura("runs", "export", "--unfinished", "--move", "-o", "two.bundle")
    assert (done.code, done.out) == (0, "")
    assert "two.bundle has 2 runs" in done.err
    arrived = aura("runs", "import", "two.bundle", "--database", "new.db")
    assert "2 runs have arrived." in arrived.err
    assert states(aura, "aura.db") == {"ended": "completed", "first": "moved", "second": "moved"}
    assert states(aura, "new.db") == {"first": "pending", "second": "pending"}
    again = aura("runs", "import", "two.bundle", "--database", "new.db", "--json")
    assert (again.json["created"], again.json["present"]) == (0, 2)
    assert "another database" in aura("run", "research:app", "research", '"abc"', "--version",
                                      "1.0.0", "--id", "first").err  # fmt: skip


def test_an_app_is_promoted_with_workers_at_work(
    aura: Aura, spawn: Spawn, project: Path, postgres_url: str
) -> None:
    """The step that is under way ends at the old worker, and is not made again by the new one."""
    old = spawn("worker", "research:app", "--json")
    old.line()
    aura("run", "research:app", "holds", '"gate"', "--id", "held", "--detach")
    _wait_for(project / "gate.log")
    promotion = spawn("promote", "--from", "aura.db", "--to", postgres_url, "--json")
    _wait_until(lambda: _sign(project))
    (project / "gate").touch()
    found = json.loads(promotion.popen.stdout.read())  # type: ignore[union-attr]
    assert promotion.popen.wait(60) == 0
    assert found["created"] == 1
    refused = aura("run", "research:app", "research", '"abc"', "--id", "late", "--detach")
    assert refused.code == 1
    assert "promoted to another one" in refused.err
    assert aura("worker", "research:app").code == 1
    new = spawn("worker", "research:app", "--database", postgres_url, "--json")
    new.line()
    _wait_until(lambda: states(aura, postgres_url).get("held") == "completed")
    lines = (project / "gate.log").read_text().splitlines()
    assert [line.split(" in ")[0] for line in lines] == ["began", "ended"]
    assert {line.rpartition(" ")[2] for line in lines} <= {f"{old.popen.pid}", f"{new.popen.pid}"}
    assert old.stop(signal.SIGTERM) == 0
    again = aura("promote", "--from", "aura.db", "--to", postgres_url, "--json")
    assert (again.code, again.json["created"], again.json["present"]) == (0, 0, 1)


def _wait_for(file: Path) -> None:
    _wait_until(lambda: file.exists() and file.read_text() != "")


def _wait_until(condition: object) -> None:
    import time

    give_up = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _sign(project: Path) -> bool:
    database = sqlite3.connect(project / "aura.db", timeout=10)
    found = database.execute("SELECT count(*) FROM documents WHERE kind = 'promotion'").fetchone()
    database.close()
    return bool(found[0])


KILLER = """
import os, signal, sys
from aura.store import sqlite
from aura.cli.main import main

calls = int(sys.argv.pop(1))

def mortal(name):
    verb = getattr(sqlite.SqliteStore, name)
    async def call(self, *args, **options):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return await verb(self, *args, **options)
    setattr(sqlite.SqliteStore, name, call)

for name in ("commit", "fence", "rows", "adopt", "add_rows"):
    mortal(name)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_a_killed_promotion_is_finished_by_the_same_command(
    aura: Aura, in_flight: None, project: Path, calls: int
) -> None:
    """SIGKILL before the first run is taken, between source and target, and among the rows."""
    (project / "killer.py").write_text(KILLER)
    command = ["promote", "--from", "aura.db", "--to", "new.db"]
    done = subprocess.run(
        [sys.executable, "killer.py", str(calls), *command],
        cwd=project, env=dict(os.environ), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    able = {"pending", "running", "waiting"}
    here = {run for run, state in states(aura, "aura.db").items() if state in able}
    there = {run for run, state in states(aura, "new.db").items() if state in able}
    assert not here & there
    assert aura(*command).code == 0
    assert states(aura, "new.db") == {
        "ended": "completed", "first": "pending", "second": "pending",
    }  # fmt: skip
    assert set(states(aura, "aura.db").values()) == {"completed", "moved"}


def test_a_promotion_needs_an_empty_target_and_another_one(aura: Aura, in_flight: None) -> None:
    for target, says in (("aura.db", "the database that it is in"), ("./aura.db", "that it is in")):
        ended = aura("promote", "--from", "aura.db", "--to", target)
        assert (ended.code, says in ended.err) == (1, True)
    assert aura("promote", "--from", "nowhere.db", "--to", "new.db").code == 1
    assert aura("promote", "--from", "aura.db", "--to", "new.db").code == 0
    other = aura("promote", "--from", "aura.db", "--to", "third.db")
    assert other.code == 1
    assert "was promoted to" in other.err


def test_a_bundle_of_an_encrypted_database_is_closed(
    aura: Aura, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.setenv("AURA_ENCRYPTION_KEYS", KEY)
    arguments = ('"tell-nobody"', "--id", "one", "--version", "1.0.0")
    aura("run", "research:app", "research", *arguments)
    assert aura("runs", "export", "--all", "-o", "closed").code == 0
    assert aura("runs", "export", "--all", "--plaintext", "-o", "open").code == 0
    assert b"tell-nobody" not in gzip.decompress((project / "closed").read_bytes())
    assert b"tell-nobody" in gzip.decompress((project / "open").read_bytes())
    monkeypatch.delenv("AURA_ENCRYPTION_KEYS")
    refused = aura("runs", "import", "closed", "--database", "new.db")
    assert refused.code == 1
    assert "encrypted with the key k1" in refused.err
    assert states(aura, "new.db") == {}


def test_nonsense_is_one_paragraph(aura: Aura, in_flight: None, project: Path) -> None:
    (project / "odd").write_bytes(b"odd")
    for arguments, says in (
        (("export", "-o", "x"), "it is not said which runs"),
        (("export", "first", "--all", "-o", "x"), "in several ways"),
        (("export", "nobody", "-o", "x"), "no run nobody"),
        (("export", "--all", "-o", "odd"), "odd is there already"),
        (("export", "--all", "-o", "no/where"), "No such file or directory. Name a file"),
        (("import", "odd"), "the bundle is damaged: odd is not compressed"),
        (("import", "nowhere"), "nowhere cannot be read"),
    ):
        ended = aura("runs", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1), arguments
        assert says in ended.err
    assert aura("runs", "export", "--all").code == 2
    assert states(aura, "aura.db")["first"] == "pending"
