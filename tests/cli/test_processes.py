"""Workers and servers as real processes: signals, crashes, several on one database."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.cli.conftest import Aura, Spawn

SERVE = ("serve", "research:app", "--port", "0", "--json")


def get(url: str) -> Any:
    return httpx.get(url, timeout=60, trust_env=False).json()


def research(url: str) -> httpx.Response:
    """Send one request through the gateway, which must be answered well."""
    answer = httpx.post(f"{url}/research", json={"text": "abc"}, timeout=60, trust_env=False)
    assert (answer.status_code, answer.json()) == (200, {"length": 3})
    return answer


def eventually(true: Callable[[], object], patience: float = 60.0) -> None:
    give_up = time.monotonic() + patience
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def start_holding(aura: Aura, gate: Path, run_id: str = "held") -> None:
    """A run that is inside a step until the file `gate` is there."""
    given = json.dumps(str(gate))
    assert aura("run", "research:app", "holds", given, "--id", run_id, "--detach").code == 0


def state(aura: Aura, run_id: str, *options: str) -> str:
    return str(aura("runs", "show", run_id, "--json", *options).json["run"]["state"])


def done(aura: Aura, run_id: str) -> list[str]:
    journal = aura("runs", "show", run_id, "--json").json["journal"]
    return [call["name"] for call in journal if call["state"] == "done"]


def test_a_worker_executes_what_is_there_and_stops_when_told(
    aura: Aura, project: Path, spawn: Spawn
) -> None:
    aura("run", "research:app", "research", '"a"', "--id", "before", "--detach")
    worker = spawn("worker", "research:app", "--json")
    assert worker.line()["event"] == "ready"
    eventually(lambda: state(aura, "before") == "completed")
    assert worker.stop(signal.SIGTERM) == 0
    assert worker.line()["event"] == "stopped"
    log = worker.log.read_text()
    assert "worker started: app research (research 1.0.0" in log
    assert json.loads(log.splitlines()[-1])["message"] == "worker stopped"  # no terminal: JSON
    assert "Traceback" not in log
    assert "no live worker" in aura("doctor").out  # its lease is given up, not left to expire


def test_a_worker_lets_a_step_end_before_it_stops(aura: Aura, project: Path, spawn: Spawn) -> None:
    gate = project / "gate"
    start_holding(aura, gate)
    worker = spawn("worker", "research:app", "--json", GRACE="60")
    eventually((project / "gate.awaited").exists)  # between two steps it would stop at once
    worker.popen.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in worker.log.read_text())
    gate.touch()
    assert worker.popen.wait(60) == 0
    found = aura("runs", "show", "held", "--json").json
    assert [call["name"] for call in found["journal"]][:2] == ["mark", "wait_for"]
    assert found["run"]["state"] in ("pending", "completed")


def test_a_second_signal_ends_the_worker_at_once(aura: Aura, project: Path, spawn: Spawn) -> None:
    start_holding(aura, project / "gate")
    worker = spawn("worker", "research:app", GRACE="600")
    eventually((project / "gate.awaited").exists)  # between two steps it would stop at once
    worker.popen.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in worker.log.read_text())
    assert worker.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "Traceback" not in worker.log.read_text()


def test_a_step_in_a_thread_that_never_ends_does_not_keep_the_worker(
    aura: Aura, project: Path, spawn: Spawn
) -> None:
    begun = project / "begun"
    given = json.dumps(str(begun))
    aura("run", "research:app", "stuck", given, "--id", "s", "--detach")
    worker = spawn("worker", "research:app")
    eventually(begun.exists)
    assert worker.stop(signal.SIGTERM) == 0
    assert "do not end" in worker.log.read_text()
    assert state(aura, "s") == "pending"


def test_a_step_in_a_thread_that_never_ends_does_not_keep_a_command(
    project: Path, spawn: Spawn
) -> None:
    given = json.dumps(str(project / "begun"))
    process = spawn("run", "research:app", "stuck", given, "--timeout", "0.5")
    assert process.popen.wait(60) == 1
    assert "no result after 0.5 s" in process.log.read_text()


def test_a_killed_workers_runs_are_taken_over(aura: Aura, project: Path, spawn: Spawn) -> None:
    gate = project / "gate"
    start_holding(aura, gate)
    first = spawn("worker", "research:app")
    eventually(lambda: "mark" in done(aura, "held"))  # the step has run, and that is written
    first.stop(signal.SIGKILL)
    second = spawn("worker", "research:app")
    eventually(lambda: "run held recovered with 1 entries" in second.log.read_text())
    gate.touch()
    eventually(lambda: state(aura, "held") == "completed")
    began, ended = lines(project / "gate.log")  # the step before the crash is not repeated
    assert (began, ended) == (f"began in {first.popen.pid}", f"ended in {second.popen.pid}")
    assert aura("runs", "show", "held", "--json").json["run"]["recoveries"] == 1


def test_run_hands_its_run_back_when_it_is_stopped(aura: Aura, project: Path, spawn: Spawn) -> None:
    gate = project / "gate"
    process = spawn("run", "research:app", "holds", json.dumps(str(gate)), "--id", "held")
    eventually(lambda: lines(project / "gate.log"))
    assert process.stop(signal.SIGINT) == 130
    assert "goes on in the next worker" in process.log.read_text()
    gate.touch()
    given = json.dumps(str(gate))
    assert aura("run", "research:app", "holds", given, "--id", "held").json == "seen"


def test_serve_answers_and_stops(aura: Aura, project: Path, spawn: Spawn) -> None:
    server = spawn(*SERVE)
    url = server.line()["url"]
    assert url.startswith("http://127.0.0.1:")
    assert get(f"{url}/healthz") == {"status": "ok"}
    assert get(f"{url}/readyz") == {"status": "ready"}
    aura("run", "research:app", "research", '"a"', "--id", "r", "--detach")
    eventually(lambda: get(f"{url}/api/v1/runs/r")["run"]["state"] == "completed")
    assert get(f"{url}/api/v1/status")["workers"][0]["pid"] == server.popen.pid
    assert server.stop(signal.SIGTERM) == 0
    assert server.line()["event"] == "stopped"
    assert "Traceback" not in server.log.read_text()


def test_serve_lets_requests_finish_and_takes_no_more(
    aura: Aura, project: Path, spawn: Spawn
) -> None:
    gate = project / "gate"
    config = (project / "aura.yaml").read_text().replace("workflow: broken", "workflow: holds")
    config = config.replace("baseline: research@1.0.0", "baseline: broken").replace("sla: 5s", "")
    (project / "aura.yaml").write_text(config)
    server = spawn(*SERVE, "--gateway", "aura.yaml", GRACE="60")
    url = server.line()["url"]
    answers: list[tuple[int, bytes]] = []

    def request() -> None:
        body = {"path": str(gate)}
        answer = httpx.post(f"{url}/research", json=body, timeout=60, trust_env=False)
        answers.append((answer.status_code, answer.content))

    client = threading.Thread(target=request)
    client.start()
    eventually(lambda: lines(project / "gate.log"))
    server.popen.send_signal(signal.SIGTERM)
    eventually(lambda: not accepts(url))
    gate.touch()
    client.join(60)
    assert answers == [(200, b'"seen"')]
    assert server.popen.wait(60) == 0
    assert len(lines(project / "gate.log")) == 2


def accepts(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=60, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_several_servers_share_one_database(aura: Aura, project: Path, spawn: Spawn) -> None:
    servers = [spawn(*SERVE, "--gateway", "aura.yaml") for _ in range(2)]
    urls = [server.line()["url"] for server in servers]
    pids = {worker["pid"] for worker in get(f"{urls[0]}/api/v1/status")["workers"]}
    assert pids == {server.popen.pid for server in servers}
    for url in urls:
        research(url)
    assert len(get(f"{urls[1]}/api/v1/runs")["runs"]) == 2


def test_on_postgres(aura: Aura, project: Path, spawn: Spawn, postgres_url: str) -> None:
    database = ("--database", postgres_url)
    server = spawn(*SERVE, "--gateway", "aura.yaml", "--no-worker", *database)
    url = server.line()["url"]
    worker = spawn("worker", "research:app", "--json", *database)
    assert worker.line()["event"] == "ready"
    run_id = research(url).headers["x-aura-run"]
    assert state(aura, run_id, *database) == "completed"
    listed = aura("runs", "list", "--json", *database).json["runs"]
    assert [run["id"] for run in listed] == [run_id]
    assert aura("runs", "show", "a\ud800", *database).code == 1
    examined = aura("doctor", "--json", *database)
    assert {one["name"] for one in examined.json["checks"]} >= {"durability", "clock", "workers"}
    for process in (server, worker):
        assert process.stop(signal.SIGTERM) == 0
        assert "Traceback" not in process.log.read_text()
    assert not list(project.glob("*.db"))


def test_ports_and_logs_show_no_password(spawn: Spawn, project: Path) -> None:
    database = "postgresql://a:s3cret@127.0.0.1:1/x"
    process = spawn("worker", "research:app", AURA_DATABASE_URL=database)
    assert process.popen.wait(60) == 1
    assert "s3cret" not in process.log.read_text()
    assert process.log.read_text().startswith("Error: PostgreSQL at 127.0.0.1:1")


def test_another_process_on_a_damaged_file_says_so(spawn: Spawn, project: Path) -> None:
    sqlite3.connect(project / "aura.db").close()
    (project / "aura.db").write_bytes(b"not a database" * 1_000)
    process = spawn("serve", "research:app", "--port", "0")
    assert process.popen.wait(60) == 1
    assert "not a database" in process.log.read_text()
