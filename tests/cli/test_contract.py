"""`aura contract`: from examples to a document, and a service checked against it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Aura

ANSWERS: dict[str, Any] = {"/orders/1": {"id": 1, "state": "open"}, "/orders/2": {"id": "two"}}


class _Orders(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Orders)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pairs(project: Path) -> Path:
    lines = [
        {"request": {"path": path}, "response": {"body": {"id": 5, "state": "paid"}}}
        for path in ANSWERS
    ]
    file = project / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_a_contract_is_written_and_a_service_checked(
    aura: Aura, project: Path, pairs: Path, service: str
) -> None:
    aura("contract", "infer", "pairs.jsonl", "-o", "legacy.yaml")
    document = yaml.safe_load((project / "legacy.yaml").read_text())
    assert list(document["paths"]) == ["/orders/{p1}"]
    assert aura("contract", "infer", "pairs.jsonl", "--json").json == document
    words = ("contract", "check", "pairs.jsonl", "--against", service, "--contract", "legacy.yaml")
    checked = aura(*words, "--json")
    assert checked.code == 1
    found = checked.json
    assert [one["violations"] for one in found] == [
        [],
        [
            {"path": "$", "message": '"state" is a required property'},
            {"path": "$.id", "message": 'the value is not of type "integer"'},
        ],
    ]
    told = aura(*words)
    assert "1 of 2 answers fit" in told.err
    assert "GET /orders/2" in told.out


def test_what_cannot_be_checked_says_so(aura: Aura, project: Path, pairs: Path) -> None:
    nobody = aura("contract", "check", "pairs.jsonl", "--against", "http://127.0.0.1:9")
    assert "has no answer" in nobody.err
    (project / "odd.json").write_text('{"request": 1}')
    assert "no example" in aura("contract", "infer", "odd.json").err
    assert "cannot be read" in aura("contract", "infer", "none.json").err
