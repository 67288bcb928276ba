"""Forks by the HTTP API."""

from __future__ import annotations

from pathlib import Path

from aura.server.serving import build
from tests.server.kit import client, make_app


async def test_a_run_is_forked(tmp_path: Path) -> None:
    app = make_app(str(tmp_path / "aura.db"))
    async with build(app) as serving, client(serving) as http:
        await (await app.start("research", "abc", id="one/a")).result(timeout=20)
        asked = {"at": "0.1/measure#1", "id": "two"}
        answer = await http.post("/api/v1/runs/one%2Fa/fork", json=asked)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["run"]["id"], found["entries"], found["undone"]) == ("two", 0, [])
        assert await app.run("two").result(timeout=20) == {"length": 3}
        whole = (await http.post("/api/v1/runs/one%2Fa/fork", json={})).json()
        assert whole["entries"] == 1
        assert whole["run"]["id"].startswith("one/a~")


async def test_what_cannot_be_forked_is_a_problem(tmp_path: Path) -> None:
    app = make_app(str(tmp_path / "aura.db"))
    async with build(app) as serving, client(serving) as http:
        await (await app.start("research", "abc", id="one")).result(timeout=20)
        for run, body, status, code in (
            ("nobody", {}, 404, "run-not-found"),
            ("one", {"at": "0/nothing#1"}, 422, "invalid-input"),
            ("one", {"version": "new"}, 422, "invalid-input"),
            ("one", {"id": ""}, 422, "invalid-input"),
            ("one", {"id": "\x00"}, 422, "invalid-input"),
            ("one", {"id": "one"}, 409, "run-conflict"),
            ("one", {"where": 1}, 422, "invalid-input"),
        ):
            answer = await http.post(f"/api/v1/runs/{run}/fork", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), body
        assert len(await app.runs()) == 1
