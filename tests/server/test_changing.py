"""What is said to runs over HTTP, and heard of them: signals, updates, state, streams."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

import aura
from aura import Aura, Config, step
from aura.engine import Retry
from aura.server.messages import broken_at
from aura.server.serving import Serving, build
from aura.store.base import Entry, Settle
from tests.server.kit import client
from tests.server.test_api import problem

broken: set[str] = set()


@step(retries=Retry(attempts=0))
async def fragile(name: str) -> str:
    if name in broken:
        raise ValueError(f"{name} is broken")
    return name


async def talks() -> list[Any]:
    aura.set_state("phase", "asking")
    pen = aura.stream("words")
    pen.write("one")
    pen.write({"two": 2})
    heard = [await aura.receive("go"), await aura.receive("go")]
    update = await aura.receive_update("add", type=int)
    update.answer(update.value + 1)
    pen.write("three")
    return heard


async def fails(name: str) -> str:
    first = await fragile("first")
    return first + await fragile(name)


def make() -> Aura:
    app = Aura("served", config=Config(database=":memory:"))
    app.workflow(version="1.0.0")(talks)
    app.workflow(version="1.0.0")(fails)
    return app


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    broken.clear()
    async with build(make()) as opened:
        yield opened


@pytest.fixture
async def http(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with client(serving) as one:
        yield one


@pytest.mark.parametrize("run_id", ["r", "doc/17 ü", "a/signals/b", "a/state", "50%2F"])
async def test_a_conversation(serving: Serving, http: httpx.AsyncClient, run_id: str) -> None:
    run = await serving.app.start("talks", id=run_id)
    url = f"/api/v1/runs/{quote(run_id, safe='')}"
    low = {"payload": {"n": 2}, "priority": "low"}
    first = await http.post(f"{url}/signals/go", json={"payload": 1, "id": "a", "deadline": 60})
    assert (first.status_code, first.json()["number"]) == (200, 1)
    again = await http.post(f"{url}/signals/go", json={"payload": 9, "id": "a"})
    assert (again.json()["number"], again.json()["duplicate"]) == (1, True)
    sent = (await http.post(f"{url}/signals/go", json=low)).json()
    assert sent.keys() == {"run", "id", "number", "duplicate", "late", "state"}
    answer = await http.post(f"{url}/updates/add", json={"value": 4, "timeout": 60})
    assert answer.json() == {"answer": 5}
    assert await run.result(timeout=60) == [1, {"n": 2}]
    assert (await http.get(f"{url}/state")).json() == {"state": {"phase": "asking"}}
    items = ["one", {"two": 2}, "three"]
    assert (await http.get(f"{url}/streams/words")).json() == {
        "items": items,
        "next": 3,
        "ended": True,
    }
    rest = (await http.get(f"{url}/streams/words", params={"after": 2})).json()
    assert (rest["items"], rest["next"]) == (["three"], 3)
    assert (await http.get(f"{url}/streams/silence")).json()["items"] == []


async def test_a_stream_is_followed_as_events_and_gone_on_with(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    run = await serving.app.start("talks", id="r")
    for number in (1, 2):
        await run.signal("go", number)
    await run.update("add", 1, timeout=60)
    url = "/api/v1/runs/r/streams/words?follow=true"
    told = await http.get(url)
    assert told.headers["content-type"].startswith("text/event-stream")
    events = [f"id: {n}\ndata: {text}\n\n" for n, text in enumerate(
        ['"one"', '{"two":2}', '"three"'], 1
    )]  # fmt: skip
    assert told.text == "".join(events)
    assert (await http.get(url, headers={"last-event-id": "2"})).text == events[2]
    assert problem(await http.get(url.replace("/r/", "/nobody/"))) == (404, "run-not-found")


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("missing/signals/go", {}, (404, "run-not-found")),
        ("a%00b/signals/go", {}, (404, "run-not-found")),
        ("r/signals/go", {"priority": "urgent"}, (422, "invalid-input")),
        ("r/signals/go", {"deadline": -1}, (422, "invalid-input")),
        ("r/signals/go", {"id": ""}, (422, "invalid-input")),
        ("r/signals/go", {"playload": 1}, (422, "invalid-input")),
        ("r/signals/a%0Ab", {}, (422, "invalid-input")),
        ("r/signals/go", {"payload": "x" * 9_000_000}, (413, "payload-too-large")),
        ("r/updates/add", {"timeout": 0.01}, (504, "no-answer-yet")),
        ("r/updates/add", {"timeout": 1e9}, (422, "invalid-input")),
        ("ended/signals/go", {}, (409, "run-ended")),
        ("ended/retry", {}, (422, "invalid-input")),
        ("missing/requeue", {}, (404, "run-not-found")),
        ("missing/cancel", {}, (404, "run-not-found")),
    ],
)
async def test_what_cannot_be_done_is_a_problem_document(
    serving: Serving,
    http: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    expected: tuple[int, str],
) -> None:
    await serving.app.start("talks", id="r")
    await (await serving.app.start("fails", "x", id="ended")).result(timeout=60)
    assert problem(await http.post(f"/api/v1/runs/{path}", json=body)) == expected


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),  # what any web page may send without asking
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
        ({"content-type": "application/json", "origin": "https://evil.example"}, 403),
        ({"content-type": "application/json", "origin": "null"}, 403),
        ({"content-type": "application/json; charset=utf-8", "origin": "http://localhost:1"}, 200),
    ],
)
async def test_strange_pages_change_nothing(
    serving: Serving, http: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    run = await serving.app.start("talks", id="r")
    for what in ("signals/go", "requeue"):
        answer = await http.post(f"/api/v1/runs/r/{what}", content=b"{}", headers=headers)
        assert answer.status_code == status
    assert (await run.record()).signals == (status == 200)


async def test_cancelling(serving: Serving, http: httpx.AsyncClient) -> None:
    run = await serving.app.start("talks", id="r")
    assert (await http.post("/api/v1/runs/r/cancel", json={})).json()["id"] == "r"
    with pytest.raises(aura.AuraError, match="cancelled"):
        await run.result(timeout=60)


async def test_changes_leave_a_line(
    serving: Serving, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await serving.app.start("talks", id="r")
    with caplog.at_level(logging.INFO, "aura.audit"):
        await http.post("/api/v1/runs/r/signals/go", json={"payload": "a secret"})
        await http.post("/api/v1/runs/r/cancel", json={})
    assert "signal go, number 1, to run r by local, HTTP from 127.0.0.1" in caplog.text
    assert "cancel of run r by local" in caplog.text
    assert "a secret" not in caplog.text


async def test_a_failed_run_is_tried_again_from_the_step_that_failed(
    serving: Serving, http: httpx.AsyncClient
) -> None:
    broken.add("second")
    run = await serving.app.start("fails", "second", id="r")
    with pytest.raises(aura.RunFailed):
        await run.result(timeout=60)
    broken.clear()
    fork = (await http.post("/api/v1/runs/r/retry", json={})).json()
    assert fork["id"].startswith("r~")
    assert await serving.app.run(fork["id"]).result(timeout=60) == "firstsecond"
    assert await run.status() == "failed", "the original stays"
    journal = await serving.app.store.journal(fork["id"])
    assert [entry.key for entry in journal] == ["0/fragile#1", "0/fragile#2"]


async def test_a_parked_run_goes_on(serving: Serving, http: httpx.AsyncClient) -> None:
    app = serving.app
    for run_id, what in (("q", "requeue"), ("t", "retry")):
        run = await app.start("talks", id=run_id)
        epoch = (await run.record()).epoch
        assert await app.store.commit([Settle(run_id, epoch, "parked")]) == [None]
        answer = await http.post(f"/api/v1/runs/{run_id}/{what}", json={})
        assert (answer.status_code, answer.json()["id"]) == (200, run_id)
        assert answer.json()["state"] in ("pending", "running")


def entry(seq: int, key: str, error: bytes | None = None) -> Entry:
    output = None if error else b"1"
    return Entry("r", seq, key, "step", "", None, output, error, 1, 0.0, 0.0)


@pytest.mark.parametrize(
    ("journal", "at"),
    [
        ([], None),
        ([entry(1, "0/a#1")], None),
        ([entry(1, "0/a#1", b"{}"), entry(2, "0/b#1"), entry(3, "0/c#1", b"{}")], "0/c#1"),
        (
            [entry(1, "0/a#1"), entry(2, "0/b#1"), entry(3, "0/c#1", b"{}"), entry(4, "0/~b#1")],
            "0/b#1",
        ),
    ],
    ids=["empty", "the workflow", "the last step", "a compensated step"],
)
def test_where_a_failed_run_is_made_anew(journal: list[Entry], at: str | None) -> None:
    assert broken_at(journal) == at
