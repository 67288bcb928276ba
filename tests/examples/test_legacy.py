"""The legacy service speaks its JSON over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from examples.research.corpus import sample_queries
from examples.research.models import SLA_SECONDS


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service has ended"
        try:
            if client.get("/healthz").json() == {"status": "ok"}:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the service did not come up in two minutes")


@pytest.fixture(scope="module")
def legacy() -> Iterator[httpx.Client]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.research.legacy", "--port", str(port)]
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_healthy(client, process)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_it_answers_in_the_json_that_clients_know(legacy: httpx.Client) -> None:
    answer = legacy.post("/research", json={"query": 'The "**" operator', "limit": 3}).json()
    assert list(answer) == [
        "workflow_id",
        "status",
        "domain_analysis",
        "extracted_knowledge",
        "search_results",
        "performance_metrics",
    ]
    assert answer["status"] == "completed"
    assert answer["domain_analysis"]["domain"] == "operators"
    assert answer["domain_analysis"]["code_words"] == ["**"]
    assert set(answer["extracted_knowledge"]) == {"concepts", "relations", "grammar"}
    assert [result["rank"] for result in answer["search_results"]] == [1, 2, 3]
    assert answer["performance_metrics"]["total_time"] > 0
    seconds = answer["performance_metrics"]["total_time"]
    assert answer["performance_metrics"]["sla_compliance"] is (seconds <= SLA_SECONDS)


def test_the_same_query_has_the_same_meaning_each_time(legacy: httpx.Client) -> None:
    query = sample_queries()[0]
    one, two = (legacy.post("/research", json={"query": query}).json() for _ in range(2))
    assert one["workflow_id"] != two["workflow_id"]
    for part in ("domain_analysis", "extracted_knowledge", "search_results"):
        assert one[part] == two[part]


@pytest.mark.parametrize(
    "body",
    [{}, {"query": ""}, {"query": "x", "limit": 0}, {"query": "x" * 2_001}, {"query": 3}, []],
)
def test_bad_input_is_refused(legacy: httpx.Client, body: object) -> None:
    assert legacy.post("/research", json=body).status_code == 422
