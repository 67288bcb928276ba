"""`aura runs signal|update|state|stream|requeue|retry`, and Ctrl-C before anything is loaded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aura.store.base import Heartbeat, Settle, StartRun
from aura.store.sqlite import SqliteStore
from tests.cli.conftest import Aura, Spawn
from tests.cli.test_processes import eventually, state


def test_a_conversation_with_a_run(aura: Aura, project: Path, spawn: Spawn) -> None:
    assert aura("run", "research:app", "talks", "--id", "t", "--detach").code == 0
    early = aura("runs", "signal", "t", "stop", "--priority", "low", "--deadline", "600")
    assert (early.code, early.out) == (0, "")
    assert "Run t has the signal, number 1" in early.err
    sent = aura("runs", "signal", "t", "go", '{"ok": true}', "--id", "one", "--json").json
    assert sent == {
        "run": "t", "id": "one", "number": 2, "duplicate": False, "late": False, "state": "pending",
    }  # fmt: skip
    assert (
        "had this signal before, as number 2"
        in aura("runs", "signal", "t", "go", "--id", "one").err
    )
    worker = spawn("worker", "research:app", "--json")
    assert worker.line()["event"] == "ready"
    assert aura("runs", "update", "t", "add", "4", "--timeout", "60").json == 5
    eventually(lambda: state(aura, "t") == "completed")
    assert aura("runs", "state", "t").json == {"phase": "asking"}
    assert aura("runs", "state", "t", "--json").json == {"state": {"phase": "asking"}}
    plain = aura("runs", "stream", "t", "words")
    assert [json.loads(line) for line in plain.out.splitlines()] == [
        "one",
        {"two": "\x1b[31m"},
        "three",
    ]
    assert "\x1b" not in plain.out
    rest = aura("runs", "stream", "t", "words", "--after", "2", "--json").json
    assert rest == {"items": ["three"], "next": 3, "ended": True}
    followed = aura("runs", "stream", "t", "words", "--follow", "--json", "--after", "1").out
    assert [json.loads(line)["number"] for line in followed.splitlines()] == [2, 3]
    ended = aura("runs", "update", "t", "add", "1")
    assert ended.code == 1
    assert "completed" in ended.err


def test_a_stream_is_followed_while_it_is_written(aura: Aura, project: Path, spawn: Spawn) -> None:
    aura("run", "research:app", "talks", "--id", "t", "--detach")
    spawn("worker", "research:app")
    follower = spawn("runs", "stream", "t", "words", "--follow")
    assert [follower.line() for _ in range(2)] == ["one", {"two": "\x1b[31m"}]
    assert aura("runs", "signal", "t", "go").code == 0
    assert aura("runs", "update", "t", "add", "1", "--timeout", "60").json == 2
    assert follower.line() == "three"
    assert follower.popen.wait(60) == 0


def test_a_parked_run_is_requeued(aura: Aura, project: Path) -> None:
    asyncio.run(park("p", "q"))
    ended = aura("runs", "requeue", "p")
    assert (ended.code, ended.out) == (0, "")
    assert "Run p goes on in the next worker that has its app; it is pending." in ended.err
    assert "not parked, it is pending: nothing was changed" in aura("runs", "requeue", "p").err
    assert aura("runs", "retry", "q", "--json").json["state"] == "pending"


async def park(*runs: str) -> None:
    store = SqliteStore("aura.db")
    await store.open()
    for run_id in runs:
        op = StartRun(run_id, "research", "1.1.0", b'{"text":"a"}', "f", "o", "gone")
        await store.commit([Heartbeat("gone", 0.0), op])
        await store.commit([Settle(run_id, 1, "parked")])
    await store.close()


def test_a_failed_run_is_retried_as_a_fork(aura: Aura) -> None:
    assert aura("run", "research:app", "broken", '"no"', "--id", "b").code == 1
    ended = aura("runs", "retry", "b")
    assert ended.code == 0
    assert ended.out.startswith("b~")
    assert f"its fork {ended.out.strip()} tries again" in ended.err
    assert state(aura, ended.out.strip()) == "pending"
    assert state(aura, "b") == "failed"
    aura("run", "research:app", "research", '"a"', "--id", "good")
    refused = aura("runs", "retry", "good")
    assert refused.code == 1
    assert "there is nothing to try again" in refused.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["signal", "p", "go", "{"], "the payload is not JSON"),
        (["signal", "p", "a/b"], "a/b"),
        (["signal", "p", "go", "--priority", "urgent"], "there is no priority 'urgent'"),
        (["signal", "p", "go", "--id", ""], "cannot have the id"),
        (["signal", "nobody", "go"], "there is no run nobody"),
        (["update", "p", "add", "1"], "is parked and did not answer"),
        (["update", "n", "add", "1", "--timeout", "0.05"], "no answer after 0.05 s"),
        (["update", "nobody", "add"], "there is no run nobody"),
        (["state", "a\ud800"], "there is no run"),
        (["stream", "nobody", "words", "--follow"], "there is no run nobody"),
        (["requeue", "nobody"], "there is no run nobody"),
        (["retry", "nobody"], "there is no run nobody"),
    ],
    ids=lambda value: " ".join(value)[:30].encode("ascii", "replace").decode()
    if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_done(aura: Aura, project: Path, arguments: list[str], says: str) -> None:
    asyncio.run(park("p"))
    aura("run", "research:app", "talks", "--id", "n", "--detach")
    ended = aura("runs", *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert says in ended.err


def test_an_interrupt_while_the_command_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    script = "import sys; from aura_command import main; sys.exit(main())"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script, "runs", "list"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")
