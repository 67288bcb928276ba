"""The smaller parts: answers, traffic, script, checkout, the terminal's picture, processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aura.cli.demo.answers import differences, fields, flaw
from aura.cli.demo.checkout import (
    LEGACY_URL,
    Workspace,
    configured,
    find_checkout,
    locked,
    prepare,
    renamed,
)
from aura.cli.demo.gather import read_effects, read_executions
from aura.cli.demo.live import bar, picture, progress, recent_latencies
from aura.cli.demo.model import Process, Scene
from aura.cli.demo.processes import Children, leash
from aura.cli.demo.script import QUICK_SAMPLE, script_of, shortened
from aura.cli.demo.story import mood_of, sentence
from aura.cli.demo.traffic import Seen, Traffic, verdict_of
from aura.clock import SystemClock
from aura.errors import ConfigError, DemoFailed
from aura.gateway.diff import Pattern, Rules
from tests.cli.demo.kit import BEGAN, CANARY, MAIN, completed, exchange, tripped

ROOT = Path(__file__).parents[3]
ANSWER: dict[str, Any] = {
    "workflow_id": "1",
    "status": "completed",
    "domain_analysis": {
        "domain": "names", "confidence": 0.5, "intent": "topic", "terms": ["a"], "code_words": [],
    },
    "extracted_knowledge": {"concepts": [], "relations": [], "grammar": []},
    "search_results": [
        {"rank": 1, "section": "s", "title": "t", "score": 0.1, "found_by": ["graph"],
         "excerpt": "e"}
    ],
    "performance_metrics": {"total_time": 0.1, "sla_compliance": True},
}  # fmt: skip


def body(**changes: Any) -> bytes:
    return json.dumps({**ANSWER, **changes}).encode()


# -- answers -----------------------------------------------------------------------------------


def test_the_legacy_json_has_no_flaw() -> None:
    assert flaw(body()) == ""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "be an object"),
        (body(extra=1), "extra"),
        (body(status="failed"), "status"),
        (body(search_results=[]), "search_results"),
        (body(performance_metrics={"total_time": 0.1}), "sla_compliance"),
        (json.dumps({k: v for k, v in ANSWER.items() if k != "status"}).encode(), "status"),
    ],
)
def test_anything_else_has_one(wrong: bytes, says: str) -> None:
    assert says in flaw(wrong)


def test_differences_are_listed_once_with_count_and_whether_they_are_expected() -> None:
    rules = Rules(ignore=(Pattern.parse("$.workflow_id"),))
    pairs = [(body(), body(workflow_id="2")), (body(), body(workflow_id="3", status="other"))]
    found = [(one.path, one.count, one.ignored) for one in differences(pairs, rules)]
    assert found == [("$.status", 1, False), ("$.workflow_id", 2, True)]
    assert differences([(body(), body())], rules) == []
    assert fields(body()) == 14


# -- traffic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (None, "lost"),
        (Seen(200, "legacy", "", body()), "ok"),
        (Seen(502, "legacy", "", b"no"), "status"),
        (Seen(302, "legacy", "", b""), "status"),
        (Seen(200, "legacy", "", b"{}"), "invalid"),
    ],
)
def test_every_answer_has_a_verdict(seen: Seen | None, verdict: str) -> None:
    found, why = verdict_of(seen, "ReadTimeout")
    assert found == verdict
    assert bool(why) == (verdict != "ok")


async def test_traffic_keeps_its_rate_whatever_becomes_of_the_requests() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"user-00" in head:  # users 1 to 9 are never answered
            writer.close()
            return
        text = body()
        writer.write(b"HTTP/1.1 200 OK\r\nx-aura-arm: legacy\r\nx-aura-run: r1\r\n")
        writer.write(b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(text) + text)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scene = Scene(began=0.0, rate=200.0)
    traffic = Traffic(f"http://127.0.0.1:{port}/", ["a", "b"], SystemClock(), scene)
    sending = asyncio.create_task(traffic.run())
    async with asyncio.timeout(60):
        while len(scene.exchanges) < 100:
            await asyncio.sleep(0.01)
    sending.cancel()
    await traffic.drain()
    await traffic.close()
    server.close()
    lost = [one for one in scene.exchanges if one.verdict == "lost"]
    assert scene.in_flight == 0
    assert lost
    assert all(one.unit.startswith("user-00") and one.why for one in lost)
    good = [one for one in scene.exchanges if one.verdict == "ok"]
    assert {one.query for one in good} == {0, 1}
    assert {(one.arm, one.run, one.status) for one in good} == {("legacy", "r1", 200)}


# -- script ------------------------------------------------------------------------------------


def test_the_whole_script_leaves_the_plans_alone() -> None:
    script = script_of((MAIN, CANARY), quick=False)
    assert (script.main, script.canaries) == (MAIN, (CANARY,))


def test_the_short_script_has_fewer_stages_but_the_crash_among_them() -> None:
    script = script_of((MAIN, CANARY), quick=True)
    assert script.crash_stage in script.main.stage_names()
    assert all(guard.min_sample <= QUICK_SAMPLE for guard in script.main.guards)
    assert [guard.alpha for guard in script.main.guards] == [g.alpha for g in MAIN.guards]
    assert shortened(script.main) == script.main


# -- checkout ----------------------------------------------------------------------------------


def test_the_checkout_is_found_from_inside() -> None:
    assert find_checkout(ROOT / "tests" / "cli") == ROOT


def test_a_broken_checkout_says_what_is_missing(tmp_path: Path) -> None:
    example = tmp_path / "examples" / "research"
    example.mkdir(parents=True)
    (example / "aura.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"release-2\.1\.0\.yaml, .*legacy\.py"):
        find_checkout(tmp_path)


def test_without_a_checkout_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura.__file__", str(tmp_path / "site" / "aura" / "__init__.py"))
    with pytest.raises(ConfigError, match="needs a checkout") as caught:
        find_checkout(tmp_path)
    assert "make demo" in caught.value.hint


def test_the_gateways_file_gets_the_demos_port_and_split() -> None:
    text = (ROOT / "examples" / "research" / "aura.yaml").read_text()
    changed = configured(text, 4711, "research-x")
    assert "http://127.0.0.1:4711" in changed
    assert "split: research-x\n" in changed
    with pytest.raises(ConfigError, match="does not contain"):
        configured(text.replace(LEGACY_URL, "http://elsewhere"), 4711, "research")


def test_plans_are_renamed_together_with_their_split() -> None:
    found = renamed(MAIN, "-x")
    assert (found.name, found.split) == ("replace-legacy-x", "research-x")


def test_a_fresh_folder_has_nothing_of_the_demo_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AURA_DATABASE_URL", raising=False)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old.log").write_text("old")
    (tmp_path / "aura.db").write_text("old")
    (tmp_path / "mine.txt").write_text("kept")
    found = prepare(ROOT, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "mine.txt", "steps"]
    assert list(found.logs.iterdir()) == []
    assert (found.database, found.mark) == (str(tmp_path / "aura.db"), "")


def test_a_shared_database_gets_fresh_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURA_DATABASE_URL", "postgresql://there/db")
    first, second = prepare(ROOT, tmp_path), prepare(ROOT, tmp_path)
    assert first.database == "postgresql://there/db"
    assert first.split != second.split
    assert {plan.split for plan in first.plans()} == {first.split}


def test_one_demo_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(locked(tmp_path))
        with pytest.raises(ConfigError, match="another demo"):
            stack.enter_context(locked(tmp_path))
    with locked(tmp_path):
        pass


def test_the_witnesses_files_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "7.log").write_text("1.5 run-1:0/search#1\n2.5 run-1:0/bill#1\n")
    found = read_executions(tmp_path)
    assert [(one.at, one.run, one.key) for one in found] == [
        (1.5, "run-1", "0/search#1"),
        (2.5, "run-1", "0/bill#1"),
    ]


def test_no_ledger_has_no_effects(tmp_path: Path) -> None:
    assert read_effects(Workspace(ROOT, tmp_path, "aura.db")) == []


# -- the terminal ------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [completed(), tripped()], ids=["completed", "tripped"])
def test_the_picture_shows_arms_stages_guards_and_events(release: Any) -> None:
    scene = Scene(began=BEGAN, phase="rolling out", rate=12.0, status=release.status)
    scene.processes["legacy"] = Process("legacy", 4711, "ready")
    scene.exchanges.append(exchange(1, verdict="status"))
    scene.note(BEGAN + 3, "a worker was killed", "crash")
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(picture(scene, BEGAN + 5))
    text = console.export_text()
    console.file.close()
    for wanted in (
        *("5.0 s", "rolling out", "1 errors, 0 lost", "legacy 4711", "a worker was killed"),
        *(release.status.candidate, "guard errors", release.status.state),
    ):
        assert wanted in text


def test_a_line_of_progress_says_where_things_stand() -> None:
    scene = Scene(began=BEGAN, phase="rolling out", status=completed().status)
    assert "replace-legacy: completed, stage 100%" in progress(scene, BEGAN + 5).plain


def test_only_recent_requests_count_for_the_latencies() -> None:
    seen = [exchange(at, seconds=float(at)) for at in (1, 15, 29)]
    assert recent_latencies(seen, BEGAN + 30) == [29.0]


def test_a_bar_is_as_long_as_its_share() -> None:
    assert (bar(0, 4), bar(0.5, 4), bar(1, 4)) == ("░░░░", "██░░", "████")


def test_events_are_told_in_words() -> None:
    status = tripped().status
    assert "begins" in sentence(status, status.history[0])
    assert "traffic back 40 ms later" in sentence(status, status.history[1])
    assert mood_of(status.history[1]) == "bad"


# -- processes ---------------------------------------------------------------------------------


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    made = Children(tmp_path, tmp_path, {"MARK": "here"}, SystemClock())
    yield made
    made.kill()


async def test_a_child_that_ends_too_early_is_named_with_its_log(children: Children) -> None:
    child = children.start("short", [sys.executable, "-c", "print('so long'); raise SystemExit(3)"])
    child.popen.wait(60)
    with pytest.raises(DemoFailed, match=r"(?s)short ended with code 3.*so long"):
        children.check()


async def test_children_are_ended_and_a_killed_one_is_no_failure(children: Children) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    stubborn = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True);"
        "time.sleep(60)",
    ]
    first, second = children.start("a", sleeper), children.start("b", sleeper)
    third = children.start("c", stubborn)
    async with asyncio.timeout(60):
        while not third.tail():
            await asyncio.sleep(0.02)
    first.kill()
    children.check()
    await children.close()
    assert [one.popen.returncode for one in (first, second, third)] == [-9, -15, -9]


def test_a_frozen_child_does_nothing_until_it_is_thawed(children: Children, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"""
import pathlib, time
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.01)
print(sum(range(10)))
"""
    child = children.start("sum", [sys.executable, "-c", script])
    child.freeze()
    go.touch()
    with pytest.raises(subprocess.TimeoutExpired):
        child.popen.wait(0.3)
    child.thaw()
    assert child.popen.wait(60) == 0
    assert child.tail() == "45"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_end_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    inner = f"import os,time; open({str(pid_file)!r},'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import os,subprocess,sys,time;"
        f"subprocess.Popen([*{leash()!r}, str(os.getpid()), sys.executable, '-c', {inner!r}],"
        "start_new_session=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", outer]) as demo:
        pid = _wait_for_pid(pid_file)
        demo.send_signal(signal.SIGKILL)
    assert _ends(pid)


def _wait_for_pid(file: Path) -> int:
    for _ in range(1_200):
        if file.exists() and file.read_text():
            return int(file.read_text())
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("the child did not start")


def _ends(pid: int) -> bool:
    for _ in range(1_200):
        state = Path(f"/proc/{pid}/stat")
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        subprocess.run(["sleep", "0.05"], check=True)
    return False
