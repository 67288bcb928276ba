"""What changes, as server-sent events: from this process and others, with resume, for each its own;
and listeners that do not listen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aura.errors import StoreUnavailable
from aura.server import changes, tokens
from aura.server.changes import Batch, Change, Changes, Here, Reset, Wanted, changes_of
from aura.server.serving import Serving, build
from aura.server.tokens import create, revoke
from tests.server.kit import Gate, client, make_app
from tests.server.test_api import problem

V = "/api/v1"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def serving(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    monkeypatch.setattr(changes, "GATHER", 0.01)
    monkeypatch.setattr(changes, "LOOK", 0.05)
    monkeypatch.setattr(changes, "WORKERS", 0.05)
    async with build(make_app(database), worker=False) as opened:
        yield opened


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]

    @property
    def names(self) -> set[str]:
        return {one["name"] for one in self.data.get("changes", ())}


class Listener:
    """A client that reads events as they come; httpx would wait for the end."""

    def __init__(self, serving: Serving, query: str = "", **headers: str) -> None:
        self.events: list[Event] = []
        self.place = ""
        self.status = 0
        self._news = asyncio.Event()
        self._gone = asyncio.Event()
        self._text = b""
        raw = f"{V}/changes"
        named = {"host": "127.0.0.1", **headers}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": raw, "raw_path": raw.encode(), "query_string": query.encode(),
            "headers": [(key.replace("_", "-").encode(), text.encode())
                        for key, text in named.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080), "root_path": "",
        }  # fmt: skip
        self.task = asyncio.create_task(serving(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self._text += message.get("body", b"")
        *whole, self._text = self._text.split(b"\n\n")
        for one in whole:
            if not one.startswith(b":"):
                lines = dict(line.split(": ", 1) for line in one.decode().split("\n"))
                data = json.loads(lines["data"])
                self.place = lines.get("id", self.place)  # the last one that was told
                self.events.append(Event(self.place, lines["event"], data))
        self._news.set()

    async def until(self, holds: Callable[[list[Event]], object]) -> list[Event]:
        async with asyncio.timeout(60):
            while not holds(self.events):
                self._news.clear()
                await self._news.wait()
        return self.events

    async def leave(self) -> None:
        self._gone.set()
        await self.task


def has(kind: str, name: str, **what: Any) -> Callable[[list[Event]], bool]:
    def holds(events: list[Event]) -> bool:
        every = (one for event in events if event.kind == kind for one in event.data["changes"])
        return any(one["name"] == name and one.items() >= what.items() for one in every)

    return holds


def is_ready(events: list[Event]) -> bool:
    return any(one.kind in ("ready", "reset") for one in events)


async def test_what_another_process_does_is_heard(serving: Serving, database: str) -> None:
    every = Listener(serving)
    runs = Listener(serving, "kind=runs")
    await every.until(is_ready)
    await runs.until(is_ready)
    other = make_app(database)
    other.schedule("nightly", "research", "a", cron="0 3 * * *")
    async with other:
        run = await other.start("research", "abc", id="doc-17")
        await run.result(timeout=60)
        await every.until(has("runs", "doc-17", state="completed", workflow="research"))
        await every.until(has("schedules", "nightly"))
        await other.emit("orders", {"a": 1})
        await every.until(has("topics", "orders"))
        [worker] = [one.id for one in await other.store.workers()]
        await every.until(has("workers", worker, live=True))
    await every.until(has("workers", worker, live=False))
    await runs.until(has("runs", "doc-17", state="completed"))
    assert {one.kind for one in runs.events} == {"ready", "runs"}
    await every.leave()
    await runs.leave()


async def test_who_comes_back_hears_what_was_missed(serving: Serving) -> None:
    app = serving.app
    first = Listener(serving, "kind=runs")
    await first.until(is_ready)
    await app.start("research", "a", id="one")
    await first.until(has("runs", "one"))
    last = first.events[-1].id
    await first.leave()
    away = Listener(serving)  # somebody hears that it has happened meanwhile
    await away.until(is_ready)
    await app.start("research", "a", id="two")
    await away.until(has("runs", "two"))
    for query, headers in (("kind=runs", {"last_event_id": last}), (f"since={last}", {})):
        again = Listener(serving, query, **headers)
        await again.until(has("runs", "two"))
        assert again.events[0].kind == "ready"
        assert not any("one" in event.names for event in again.events)
        await again.leave()
    await away.leave()


@pytest.mark.parametrize("place", ["00000000-3", "nonsense", "", "00000000-99999999999999999"])
async def test_who_comes_from_elsewhere_begins_anew(serving: Serving, place: str) -> None:
    listener = Listener(serving, "timeout=0", last_event_id=place)
    await listener.until(is_ready)
    await listener.task
    assert [one.kind for one in listener.events] == ["reset"]


async def test_a_run_is_followed_step_by_step(database: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(changes, "LOOK", 0.05)
    gate = Gate()
    async with build(make_app(database, gate)) as serving:
        await serving.app.start("naps", 3_600.0, id="nap")
        listener = Listener(serving, "run=nap&kind=workers")
        await listener.until(has("run", "nap", state="waiting"))
        await serving.app.run("nap").cancel()
        await listener.until(has("run", "nap", state="cancelled"))
        assert not any(one.kind == "runs" for one in listener.events)
        await listener.leave()


async def test_a_limited_token_hears_of_its_runs(serving: Serving) -> None:
    app = serving.app
    _, mine = await create(app, "mine", "viewer", workflows=("research",))
    _, whole = await create(app, "whole", "viewer")
    listeners = [Listener(serving, authorization=f"Bearer {one}") for one in (mine, whole)]
    for each in listeners:
        await each.until(is_ready)
    await app.start("naps", 1.0, id="nap")
    await app.start("research", "a", id="doc")
    for each in listeners:
        await each.until(has("runs", "doc"))
    assert not any("nap" in event.names for event in listeners[0].events)
    await listeners[1].until(has("runs", "nap"))
    for each in listeners:
        await each.leave()
    bearer = {"authorization": f"Bearer {mine}"}
    async with client(serving) as http:
        for query, expected in (
            ("kind=workers", (403, "token-limited")),
            ("run=nap", (403, "workflow-not-allowed")),
        ):
            told = await http.get(f"{V}/changes?{query}&timeout=0", headers=bearer)
            assert problem(told) == expected
        told = await http.get(
            f"{V}/changes?kind=audit&timeout=0", headers={"authorization": f"Bearer {whole}"}
        )
        assert problem(told) == (403, "token-limited")


async def test_a_stream_ends_with_its_token(serving: Serving, monkeypatch: Any) -> None:
    monkeypatch.setattr("aura.server.changes_api.BEAT", 0.05)
    made, text = await create(serving.app, "mine", "viewer")
    await create(serving.app, "other", "viewer")
    listener = Listener(serving, authorization=f"Bearer {text}")
    await listener.until(is_ready)
    await revoke(serving.app, made.id)
    await asyncio.wait_for(listener.task, 60)


async def test_streams_end_with_the_server(database: str) -> None:
    async with build(make_app(database), worker=False) as serving:
        listener = Listener(serving)
        await listener.until(is_ready)
    await asyncio.wait_for(listener.task, 60)


@pytest.mark.parametrize(
    "query",
    ["kind=nothing", "since=x", "since=00000000-", "timeout=-1", "timeout=nan", "timeout=1e9"],
)
async def test_questions_that_cannot_be(query: str) -> None:
    async with build(make_app(), worker=False) as serving, client(serving) as http:
        assert problem(await http.get(f"{V}/changes?{query}")) == (422, "invalid-input")
        assert problem(await http.get(f"{V}/changes?run=nobody")) == (404, "run-not-found")


async def test_who_is_slow_is_told_to_begin_anew_and_costs_nothing() -> None:
    app = make_app()
    async with app.client():
        hub = Changes(app)
        slow = hub.follow(Wanted())
        assert await anext(slow) == Here(0)
        for number in range(changes.KEPT + 10):
            hub._publish({"runs": (Change(f"r{number}", {}),)}, ())
        assert len(hub._batches) == changes.KEPT
        assert await anext(slow) == Reset(changes.KEPT + 10)
        hub._publish({"runs": (Change("last", {}),)}, ())
        found = await anext(slow)
        assert isinstance(found, Batch)
        assert [one.name for one in found.changes["runs"]] == ["last"]
        await slow.aclose()
        await hub.close()


async def test_many_changes_are_told_as_many(monkeypatch: Any) -> None:
    monkeypatch.setattr(changes, "MOST", 5)
    app = make_app()
    async with app.client():
        hub = changes_of(app)
        assert changes_of(app) is hub
        listening = hub.follow(Wanted(frozenset({"runs"})))
        await anext(listening)
        await asyncio.gather(*(app.start("research", "a", id=f"r{at}") for at in range(40)))
        found = await anext(listening)
        while not isinstance(found, Batch) or "runs" not in found.more:
            found = await anext(listening)
        assert len(found.changes["runs"]) == 5
        await listening.aclose()
        await hub.close()


async def test_an_outage_of_the_database_ends_no_stream(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(serving, "kind=runs")
    await listener.until(is_ready)
    asked = asyncio.Event()

    async def away(*_: Any) -> Awaitable[None]:
        asked.set()
        raise StoreUnavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(serving.app.store, "changed_runs", away)
        await asyncio.wait_for(asked.wait(), 60)
    await serving.app.start("research", "a", id="after")
    await listener.until(has("runs", "after"))
    await listener.leave()
