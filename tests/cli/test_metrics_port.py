"""`--metrics-port`: each process has its own endpoint."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from aura.cli.ports import address
from aura.errors import ConfigError
from tests.cli.conftest import Aura, Spawn


def text(url: str, host: str = "") -> httpx.Response:
    headers = {"host": host} if host else {}
    return httpx.get(url, timeout=60, trust_env=False, headers=headers)


def test_a_server_and_a_worker_have_metrics_of_their_own(
    aura: Aura, project: Path, spawn: Spawn
) -> None:
    server = spawn(
        "serve", "research:app", "--port", "0", "--no-worker", "--metrics-port", "0", "--json"
    )
    worker = spawn("worker", "research:app", "--metrics-port", "0", "--json")
    said, at = server.line(), worker.line()
    front, back = said["metrics"], at["metrics"]
    assert front.startswith("http://127.0.0.1:")
    assert front != back
    assert said["url"] not in front
    run = ("run", "research:app", "research", '"abc"')
    assert aura(*run, "--detach", "--id", "one").code == 0
    ended = 'aura_workflow_duration_seconds_count{outcome="completed",workflow="research"} 1.0'
    give_up = time.monotonic() + 60
    while ended not in text(back).text:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    for url in (front, f"{said['url']}/metrics"):
        answer = text(url)
        assert answer.status_code == 200
        assert ended not in answer.text  # it was the worker
        assert "aura_store_up 1.0" in answer.text
    assert text(front, "evil.example").status_code == 403
    assert text(front.replace("/metrics", "/healthz")).json() == {"status": "ok"}
    assert text(front.replace("/metrics", "/api/v1/runs")).status_code == 404
    assert (server.stop(signal.SIGTERM), worker.stop(signal.SIGTERM)) == (0, 0)
    assert "metrics at http" in worker.log.read_text()
    with pytest.raises(httpx.ConnectError):
        text(back)


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize("port", ["http", "70000", "-1", "localhost:", "9464:", "", "٣"])
def test_a_port_that_is_none_is_refused(aura: Aura, project: Path, command: str, port: str) -> None:
    ended = aura(command, "research:app", f"--metrics-port={port}")
    assert ended.code != 0
    assert "--metrics-port" in ended.err


def test_a_port_that_is_taken_is_refused(aura: Aura, project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = aura("worker", "research:app", "--metrics-port", port)
    assert ended.code != 0
    assert f"port {port}" in ended.err
    assert "--metrics-port" in ended.err


def test_addresses() -> None:
    assert address("9464") == ("127.0.0.1", 9464)
    assert address("0.0.0.0:0") == ("0.0.0.0", 0)
    assert address("[::1]:9464") == ("[::1]", 9464)
    with pytest.raises(ConfigError):
        address("9464 ")
