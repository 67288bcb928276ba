"""`aura rollout`: orders to a rollout that another process drives."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from aura.cli.rollout import picture, rollout_name
from aura.errors import ConfigError
from tests.cli.conftest import Aura, Process, Spawn
from tests.cli.demo.kit import tripped

HELD = """
rollout:
  name: careful
  split: research
  baseline: research@1.0.0
  candidate: research@1.1.0
  guards: [errors: {}]
  stages: [10%, 50%, 100%]
  defaults: {min_requests: 1000, min_time: 10m, max_time: 1h}
"""


@pytest.fixture
def server(project: Path, spawn: Spawn) -> tuple[Process, str]:
    """`aura serve` with the gateway, and its URL."""
    (project / "careful.yaml").write_text(HELD)
    process = spawn(
        *("serve", "research:app", "--gateway", "aura.yaml", "--port", "0", "--json"),
    )
    ready = process.line()
    assert ready["event"] == "ready"
    return process, ready["url"]


def ask(url: str, user: str) -> str:
    """Send one research request; the arm that answered it."""
    answer = httpx.post(
        f"{url}/research",
        json={"text": "abc"},
        headers={"x-user": user},
        timeout=60,
        trust_env=False,
    )
    arm = answer.headers["x-aura-arm"]
    assert answer.json() == ({"length": 3} if arm == "research@1.0.0" else "ABC")
    return str(arm)


class Traffic:
    """Requests of many users, until the end of the block."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        number = 0
        while not self._over.is_set():
            ask(self._url, f"user-{number}")
            number += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_rollout_from_start_to_end(aura: Aura, server: tuple[Process, str], spawn: Spawn) -> None:
    _, url = server
    assert ask(url, "u") == "research@1.0.0"  # the baseline, while there is no split
    watched = spawn("rollout", "start", "aura.yaml", "--watch", "--json")
    seen = [watched.line()]  # before there is any traffic that could end the stage
    with Traffic(url):
        while seen[-1]["state"] == "running":
            seen.append(watched.line())
    assert watched.popen.wait(60) == 0
    assert watched.log.read_text() == ""
    assert (seen[0]["state"], seen[0]["stage"]) == ("running", "50%")
    assert (seen[-1]["state"], seen[-1]["weights"]["research@1.1.0"]) == ("completed", 1.0)
    assert seen[-1]["stages"][0]["candidate"]["requests"] >= 3
    assert ask(url, "u") == "research@1.1.0"
    shown = aura("rollout", "status", "aura.yaml")
    assert shown.code == 0
    for part in ("next  completed", "research@1.1.0", "100.00%", "errors", "pass"):
        assert part in shown.out
    over = aura("rollout", "hold", "next")
    assert over.code == 1
    assert "rollout next is completed" in over.err


def test_orders(aura: Aura, server: tuple[Process, str]) -> None:
    started = aura("rollout", "start", "careful.yaml", "--json")
    assert (started.code, started.err) == (0, "")
    assert started.json["name"] == "careful"
    again = aura("rollout", "start", "careful.yaml")
    assert again.code == 1
    assert "rollout careful of split research is running" in again.err

    held = aura("rollout", "hold", "careful.yaml", "--reason", "a look", "--by", "ada", "--json")
    assert (held.json["order"], held.json["rollout"]["name"]) == ("hold", "careful")
    status = until(aura, "held")
    (event,) = (event for event in status["history"] if event["what"] == "hold")
    assert event["by"] == "ada"
    assert "a look" in event["reason"]
    assert aura("rollout", "resume", "careful").code == 0
    until(aura, "running")
    assert "is not held" in aura("rollout", "resume", "careful").err
    assert aura("rollout", "advance", "careful.yaml").err.startswith("Rollout careful is told")
    until(aura, "running", stage="50%")
    assert aura("rollout", "rollback", "careful", "--reason", "enough").code == 0
    status = until(aura, "rolled-back")
    assert status["weights"] == {"research@1.0.0": 1.0, "research@1.1.0": 0.0}
    watched = aura("rollout", "status", "careful", "--watch")
    assert watched.code == 1
    assert watched.out.startswith("careful  rolled-back  stage ")  # in a pipe: a line per change
    assert watched.out.count("\n") == 1
    assert "was rolled back" in watched.err
    everything = aura("rollout", "status", "--json").json
    assert [one["name"] for one in everything["rollouts"]] == ["careful"]
    assert "rolled-back" in aura("rollout", "status").out


STEERED = HELD.replace(
    "stages: [10%, 50%, 100%]",
    "stages: [10%: {approval: {from: [ada]}}, 50%, 100%]",
)


def test_steering(aura: Aura, server: tuple[Process, str], project: Path) -> None:
    (project / "careful.yaml").write_text(STEERED)
    assert aura("rollout", "start", "careful.yaml").code == 0
    stranger = aura("rollout", "approve", "careful", "--by", "eve")
    assert "eve is none of those who approve stage 10%" in stranger.err
    approved = aura("rollout", "approve", "careful", "--by", "ada", "--reason", "fine", "--json")
    assert approved.json["approval"] == "approved"
    assert aura("rollout", "pause", "careful", "--by", "ada").code == 0
    until(aura, "paused")
    shown = aura("rollout", "status", "careful").out
    assert "approvals: 1 needed of ada; given by ada" in shown
    assert aura("rollout", "resume", "careful").code == 0
    until(aura, "running")
    assert aura("rollout", "retry", "careful", "--reason", "again").code == 0
    assert "no stage 'x'" in aura("rollout", "skip", "careful", "--stage", "x").err
    assert aura("rollout", "skip", "careful", "--stage", "50%").code == 0
    until(aura, "running", stage="50%")
    (found,) = aura("rollout", "history", "careful", "--json").json["rollouts"]
    assert [event["what"] for event in found["history"]] == [
        *("start", "approve", "pause", "resume", "retry", "skip")
    ]
    table = aura("rollout", "history", "careful.yaml").out
    assert "rollout-careful-1" in table
    assert "1 of 1 approvals of stage 10%: fine" in table


def request(number: int) -> dict[str, Any]:
    """Every other one goes to the candidate and fails."""
    ok = number % 2 == 0
    where = {"split": "research", "epoch": 1, "arm": f"research@1.{number % 2}.0", "share": 0.5}
    who = {"unit": f"u{number}", "at": 1000.0 + number}
    return {**where, **who, "ok": ok, "latency": 0.1, "user_ok": ok}


def test_a_backtest(aura: Aura, server: tuple[Process, str], project: Path) -> None:
    assert aura("rollout", "start", "careful.yaml").code == 0
    nothing = aura("rollout", "backtest", "careful.yaml", "--on", "careful")
    assert nothing.code in (0, 1)
    assert aura("rollout", "backtest", "careful.yaml").code == 1
    lines = [json.dumps(request(number)) for number in range(60)]
    (project / "friday.jsonl").write_text("\n".join(lines))
    found = aura("rollout", "backtest", "careful.yaml", "--observations", "friday.jsonl", "--json")
    assert found.json["backtest"]["state"] == "rolled-back"
    assert 0 < found.json["backtest"]["hits"]["requests"] < 30
    assert found.json["backtest"]["recorded"]["requests"] == 30
    assert "recorded weights" in found.json["caveat"]
    told = aura("rollout", "backtest", "careful.yaml", "--observations", "friday.jsonl")
    assert "rollback" in told.out
    assert "is an estimate" in told.err
    (project / "friday.jsonl").write_text(lines[0] + "\nnonsense")
    wrong = aura("rollout", "backtest", "careful.yaml", "--observations", "friday.jsonl")
    assert "friday.jsonl:2: an observation is not JSON" in wrong.err


def until(aura: Aura, state: str, stage: str = "10%") -> Any:
    """The status, as soon as the rollout is in that state and stage."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        status = aura("rollout", "status", "careful", "--json").json
        if (status["state"], status["stage"]) == (state, stage) or status["state"] == "rolled-back":
            break
    assert status["state"] == state
    return status


def test_an_order_says_when_nobody_carries_it_out(aura: Aura, server: tuple[Process, str]) -> None:
    aura("rollout", "start", "careful.yaml")
    assert server[0].stop(signal.SIGTERM) == 0
    ended = aura("rollout", "rollback", "careful")
    assert ended.code == 0
    assert "no live worker is there to carry it out" in ended.err


def test_a_rollout_without_a_worker_says_so_and_begins_with_the_next_one(
    aura: Aura, project: Path, spawn: Spawn
) -> None:
    (project / "careful.yaml").write_text(HELD)
    aura("run", "research:app", "research", '"a"')
    ended = aura("rollout", "start", "careful.yaml")
    assert ended.code == 1
    assert ended.err.startswith("No live worker is there to drive the rollout")
    assert "aura worker MODULE:APP" in ended.err
    worker = spawn("worker", "research:app", "--json")
    assert worker.line()["event"] == "ready"
    assert until_known(aura)["state"] == "running"


def until_known(aura: Aura) -> Any:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        ended = aura("rollout", "status", "careful", "--json")
        if ended.code == 0 and ended.json["reason"] != "waits for a worker":
            return ended.json
    raise AssertionError(ended)


def test_a_plan_whose_baseline_is_not_what_serves_is_refused(aura: Aura, project: Path) -> None:
    aura("run", "research:app", "research", '"a"')
    path = project / "aura.yaml"
    swapped = path.read_text().replace(
        "  baseline: research@1.0.0\n  candidate: research@1.1.0",
        "  baseline: broken\n  candidate: research@1.1.0",
    )
    path.write_text(swapped)
    ended = aura("rollout", "start", "aura.yaml")
    assert ended.code == 1
    assert "/research serves research@1.0.0 now, the plan's baseline is broken" in ended.err
    assert "--replace" in ended.err
    assert aura("rollout", "status", "--json").json == {"rollouts": []}
    assert "no worker has taken it up" in aura("rollout", "start", "aura.yaml", "--replace").err


def test_a_status_fits_a_terminal() -> None:
    screen = Console(width=80, file=io.StringIO())
    screen.print(picture(tripped().status))
    text = screen.file.getvalue() if isinstance(screen.file, io.StringIO) else ""
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for header in (
        "STAGE VERDICT ARM REQUESTS ERRORS FALLBACKS p50 p95",
        "GUARD VERDICT EVIDENCE LIMIT REASON",
    ):
        assert any(line.split() == header.split() for line in lines), text


def test_no_rollouts(aura: Aura) -> None:
    aura("run", "research:app", "research", '"a"')
    ended = aura("rollout", "status")
    assert (ended.code, ended.out) == (0, "")
    assert "aura rollout start FILE" in ended.err
    assert aura("rollout", "status", "--json").json == {"rollouts": []}
    for command in ("status", "rollback", "hold"):
        unknown = aura("rollout", command, "unknown")
        assert unknown.code == 1
        assert "there is no rollout unknown" in unknown.err


def test_a_rollout_is_named_by_its_plan_or_by_its_name(project: Path) -> None:
    assert rollout_name("aura.yaml") == "next"
    assert rollout_name("next") == "next"
    for missing in ("other.yaml", "plans/other"):
        with pytest.raises(ConfigError, match="there is no file"):
            rollout_name(missing)
