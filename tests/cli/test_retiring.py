"""A service is replaced and taken out of service while callers keep calling: `aura serve`."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import httpx

from tests.cli.conftest import GATEWAY, PLAN, Aura, Spawn

OLD = """    - path: /old
      split: old
      methods: [POST]
      unit: {header: x-user}
      baseline: research@1.0.0
      sla: 5s
  targets:
"""
RETIRE = """
decommission:
  target: research@1.0.0
  endpoints: [/old, /research]
  gate: {stable: 100ms}
  grace: 300ms
  link: https://example.com/gone
  backup: kept
"""


class Callers:
    """They call both paths until they are told to stop; what they got, in its order."""

    def __init__(self, url: str) -> None:
        self.got: dict[str, list[httpx.Response]] = {"/research": [], "/old": []}
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _call(self) -> None:
        with httpx.Client(timeout=60, trust_env=False, base_url=self._url) as http:
            number = 0
            while not self._stop.wait(0.02):
                number += 1
                for path, got in self.got.items():
                    user = {"x-user": f"u{number % 50}"}
                    got.append(http.post(path, json={"text": "abc"}, headers=user))


def test_from_the_rollout_to_the_archive_nobody_of_the_new_one_notices(
    aura: Aura, project: Path, spawn: Spawn
) -> None:
    (project / "aura.yaml").write_text(GATEWAY.replace("  targets:\n", OLD) + PLAN)
    (project / "retire.yaml").write_text(RETIRE)
    server = spawn("serve", "research:app", "--port", "0", "--json", "--gateway", "aura.yaml")
    give_up = time.monotonic() + 90
    ready = server.line()
    assert ready.get("event") == "ready", (ready, server.log.read_text())
    with Callers(ready["url"]) as callers:
        assert aura("rollout", "start", "aura.yaml").code == 0
        while aura("rollout", "status", "next", "--json").json["state"] != "completed":
            assert time.monotonic() < give_up
        assert aura("decommission", "retire.yaml").code == 0
        while True:
            (found,) = aura("decommission", "status", "retire.yaml", "--json").json["targets"]
            if found["state"] == "archived":
                break
            assert time.monotonic() < give_up, found
        after = len(callers.got["/old"])
        while len(callers.got["/old"]) < after + 3:
            assert time.monotonic() < give_up
    kept, gone = callers.got["/research"], callers.got["/old"]
    assert {answer.status_code for answer in kept} == {200}
    assert {str(answer.json()) for answer in kept} == {"{'length': 3}", "ABC"}
    assert kept[-1].json() == "ABC"
    codes = [answer.status_code for answer in gone]
    assert set(codes) == {200, 410}
    assert codes == sorted(codes)  # nobody is served once somebody was not
    told = gone[codes.index(410)]
    assert (told.json()["code"], "sunset" in told.headers) == ("gone", True)
    assert "https://example.com/gone" in told.json()["detail"]
    assert 1 <= found["calls"]["/old"] <= codes.count(410)
    assert "/research" not in found["calls"]
    assert [one["phase"] for one in found["endpoints"]] == ["off", "off"]
    archive = json.loads((project / found["archive"]).read_text())
    assert archive["rollouts"][0]["name"] == "next"
    again = aura("rollout", "start", "aura.yaml", "--again")
    assert (again.code, "was decommissioned" in again.err) == (1, True)
    undo = aura("decommission", "undo", "research@1.0.0")
    assert (undo.code, "nothing can be undone" in undo.err) == (1, True)
    assert server.stop(signal.SIGTERM) == 0
