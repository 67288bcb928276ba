"""`aura top` and `aura runs watch`: once, as JSON, line by line, and live in a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aura.server.glance import NEWEST, pace_of
from tests.cli.conftest import Aura, Spawn
from tests.cli.test_processes import eventually


def start(aura: Aura, *arguments: str) -> None:
    assert aura("run", "research:app", *arguments).code in (0, 1)


@contextmanager
def terminal(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The command in a terminal of 100 columns, and the other end of that."""
    near, far = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "aura.cli.main", *arguments], stdin=far, stdout=far, stderr=far,
        env={**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"},
        start_new_session=True,
    )  # fmt: skip
    os.close(far)
    try:
        yield near, child
    finally:
        child.kill()
        child.wait()
        os.close(near)


COLOURS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def read_until(near: int, text: bytes) -> bytes:
    """What the terminal shows, up to and with the text; its end is a failure."""
    seen = b""
    while text not in COLOURS.sub(b"", seen):
        try:
            piece = os.read(near, 4096)
        except OSError as error:
            raise AssertionError(seen.decode()) from error
        assert piece, seen.decode()
        seen += piece
    return seen


def drained(near: int, child: subprocess.Popen[bytes]) -> int:
    """The exit code, once all that it shows was read."""
    try:
        while os.read(near, 4096):
            pass
    except OSError:
        pass  # the other end is closed
    return child.wait(60)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_top_is_one_frame_or_one_object(
    aura: Aura, project: Path, request: pytest.FixtureRequest, store: str
) -> None:
    url = "aura.db" if store == "sqlite" else str(request.getfixturevalue("postgres_url"))
    at = ("--database", url)
    start(aura, "research", '"abc"', "--version", "1.0.0", *at)
    start(aura, "broken", '"x"', *at)
    found = aura("top", "--json", *at).json
    assert (found["runs"]["completed"], found["runs"]["failed"]) == (1, 1)
    assert (found["pace"]["ended"], found["pace"]["failed"]) == (2, 1)
    assert found["pace"]["p50"] <= found["pace"]["p95"]
    assert (found["queues"], found["rollouts"], found["writes_per_second"]) == ([], [], None)
    shown = aura("top", *at)
    assert (shown.code, shown.err) == (0, "")
    for part in ("completed 1", "failed 1", "1 of 2 not well", "aura worker", "aura rollout start"):
        assert part in shown.out
    assert "\x1b" not in shown.out


def test_top_asks_a_server(
    aura: Aura, project: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = spawn("serve", "research:app", "--gateway", "aura.yaml", "--port", "0", "--json")
    url = server.line()["url"]
    assert aura("rollout", "start", "aura.yaml").code == 0
    found = aura("top", "--url", url, "--json").json
    assert [one["name"] for one in found["rollouts"]] == ["next"]
    assert found["workers"][0]["host"]
    shown = aura("top", "--url", url).out
    assert "50.00%" in shown
    assert "research 1.0.0" in shown
    token = aura("token", "create", "--name", "ann", "--role", "viewer", "--json").json["token"]
    eventually(lambda: aura("top", "--url", url, "--json").code == 1)
    refused = aura("top", "--url", url)
    assert (refused.code, refused.out) == (1, "")
    assert "AURA_TOKEN" in refused.err
    monkeypatch.setenv("AURA_URL", url)
    monkeypatch.setenv("AURA_TOKEN", token)
    assert aura("top", "--json").json["rollouts"]
    both = aura("top", "--url", url, "--database", "aura.db")
    assert both.code == 1
    assert token not in aura("top", "--help").out + refused.err + both.err


def test_top_is_live_in_a_terminal_and_ends_by_a_key(aura: Aura, project: Path) -> None:
    start(aura, "research", '"abc"')
    with terminal("top", "--every", "0.1") as (near, child):
        read_until(near, b"completed 1")
        start(aura, "research", '"abc"')
        read_until(near, b"completed 2")
        os.write(near, b"q")
        assert drained(near, child) == 0


@pytest.mark.parametrize("wrong", [("--every", "0"), ("--every", "x"), ("--url", "ftp://x")])
def test_top_of_nonsense(aura: Aura, wrong: tuple[str, str]) -> None:
    ended = aura("top", *wrong)
    assert (ended.code in (1, 2), ended.out) == (True, "")
    assert ended.err.count("\n") == 1


def test_the_pace_is_what_ended_lately() -> None:
    assert pace_of([], 100.0).p50 is None
    ended = [(99.0, 2.0, True), (98.0, 1.0, False), (50.0, 3.0, True), (10.0, 9.0, True)]
    pace = pace_of(ended, 100.0)
    assert (pace.ended, pace.failed, pace.per_second) == (3, 1, 3 / 60)
    assert (pace.p50, pace.p95) == (2.0, 3.0)
    many = [(100.0 - at / 100, 1.0, True) for at in range(NEWEST)]  # all within 1.99 s
    assert pace_of(many, 100.0).per_second == pytest.approx(NEWEST / 1.99)


def test_a_run_is_watched_until_it_ends(aura: Aura, project: Path, spawn: Spawn) -> None:
    gate = project / "gate"
    assert aura("run", "research:app", "holds", json.dumps(str(gate)), "--id", "h",
                "--detach").code == 0  # fmt: skip
    watching = spawn("runs", "watch", "h", "--json")
    assert watching.line()["run"]["state"] == "pending"
    spawn("worker", "research:app")
    eventually((project / "gate.log").exists)
    gate.touch()
    assert watching.popen.wait(60) == 0
    assert watching.popen.stdout is not None
    last = json.loads(watching.popen.stdout.read().splitlines()[-1])
    assert (last["run"]["state"], last["output"]["value"]) == ("completed", "seen")
    said = aura("runs", "watch", "h")
    assert said.out.splitlines()[-1] == "run h  completed"
    assert "0/wait_for#1  done" in said.out
    assert len(said.out.splitlines()) == 4


def test_the_exit_code_says_how_a_watched_run_ended(aura: Aura, project: Path) -> None:
    start(aura, "broken", '"x\\u001b[31m"', "--id", "b")
    ended = aura("runs", "watch", "b")
    assert ended.code == 1
    assert "run b  failed  ValueError" in ended.out
    assert "\x1b" not in ended.out
    missing = aura("runs", "watch", "nobody")
    assert (missing.code, missing.out) == (1, "")


def test_runs_are_watched_live(aura: Aura, project: Path, spawn: Spawn) -> None:
    start(aura, "research", '"abc"', "--id", "one")
    watching = spawn("runs", "watch", "--json")
    assert watching.line()["id"] == "one"
    start(aura, "research", '"abc"', "--id", "two")
    line = watching.line()
    while line["state"] != "completed":
        line = watching.line()
    assert line["id"] == "two"
    assert watching.stop(2) == 0
    with terminal("runs", "watch") as (near, child):
        read_until(near, b"two")
        start(aura, "research", '"abc"', "--id", "three")
        read_until(near, b"three")
        child.send_signal(signal.SIGINT)
        assert drained(near, child) == 0
    with terminal("runs", "watch", "three") as (near, child):
        read_until(near, b"completed")
        assert drained(near, child) == 0
