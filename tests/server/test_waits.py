"""What a run waits for is told, and how long it has waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import aura
from aura import Aura, Config, Retry, step
from aura.codec import to_json
from aura.server import operations, outline
from aura.server.journal import calls
from aura.server.outline import Outline
from aura.server.ui.first import SOME, first_command
from aura.server.ui.pages import Page
from aura.server.views import MOST_WAITS, RunDetail
from aura.server.waits import waits, waits_now
from aura.store.base import Entry, RunRecord, RunState


@step(retries=Retry(3, first=3_600.0, longest=7_200.0))
async def unreliable() -> None:
    raise ConnectionError("nobody answers")


def make_app(database: str = ":memory:") -> Aura:
    app = Aura("waiting", config=Config(database=database, poll=0.05, grace=1.0))

    @app.workflow(version="1.0.0")
    async def approval(seconds: float | None = None) -> Any:
        return await aura.receive("approval", timeout=seconds)

    @app.workflow(version="1.0.0")
    async def everything() -> None:
        async def result() -> None:
            other = await app.start(approval, id="other")
            await other.result()

        await asyncio.gather(
            aura.receive(("approval", "stop")),
            aura.receive("late", timeout=timedelta(days=1)),
            aura.sleep(timedelta(hours=1)),
            approval(),
            unreliable(),
            aura.receive_update("amend"),
            result(),
        )

    return app


@pytest.fixture(params=["sqlite", "postgres"])
async def app(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Aura]:
    sqlite = str(tmp_path / "aura.db")
    database = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with make_app(str(database)) as opened:
        yield opened


async def shown(app: Aura, run_id: str, holds: Callable[[RunDetail], bool]) -> RunDetail:
    """The run, once that is so."""
    async with asyncio.timeout(60):
        while not holds(found := await operations.show_run(app, run_id)):
            await asyncio.sleep(0.05)
    return found


async def test_all_that_a_run_waits_for_is_told_and_why(app: Aura) -> None:
    await app.start("everything", id="r")
    found = await shown(app, "r", lambda one: len(one.waits) == 7 and one.run.state == "waiting")
    told = {one.call: one for one in found.waits}
    assert {key: (one.kind, one.names, one.runs) for key, one in told.items()} == {
        "0.1/signal:approval|stop#1": ("signal", ("approval", "stop"), ()),
        "0.2/signal:late#1": ("signal", ("late",), ()),
        "0.3/sleep#1": ("timer", (), ()),
        "0.4/approval#1": ("child", (), ("r/0.4/approval#1",)),
        "0.5/unreliable#1": ("retry", (), ()),
        "0.6/update:amend#1": ("update", ("amend",), ()),
        "0.7/result#1": ("run", (), ("other",)),
    }
    assert told["0.1/signal:approval|stop#1"].what == "the signal approval or stop"
    assert "ConnectionError: nobody answers" in told["0.5/unreliable#1"].what
    began = found.run.created_at
    assert all(one.since is not None and one.since >= began for one in found.waits)
    until = {key: one.until - one.since for key, one in told.items() if one.until and one.since}
    assert abs(until["0.2/signal:late#1"] - timedelta(days=1)) < timedelta(seconds=60)
    assert abs(until["0.3/sleep#1"] - timedelta(hours=1)) < timedelta(seconds=60)
    assert until.keys() == {"0.2/signal:late#1", "0.3/sleep#1", "0.5/unreliable#1"}

    known = Outline("r")
    await outline.go_on(app, known, 1)
    record = await outline.record_of(app, "r")
    assert await waits_now(app, record, known) == found.waits, "the page says the same"


async def test_the_bar_of_a_wait_has_its_true_length(app: Aura) -> None:
    run = await app.start("approval", id="r")
    before = await shown(app, "r", lambda one: one.run.state == "waiting")
    [asked] = before.journal
    assert (asked.key, asked.kind, asked.state, asked.seconds) == (
        "0/signal:approval#1", "wait", "waiting", None,
    )  # fmt: skip
    await run.signal("approval", {"ok": True})
    await run.result(timeout=60)
    after = await operations.show_run(app, "r")
    [over] = after.journal
    assert (over.key, over.kind, over.state, after.waits) == (asked.key, "signal", "done", ())
    assert over.output is not None
    assert over.output.value == {"ok": True}
    assert over.started_at == asked.started_at
    assert over.seconds is not None
    assert over.seconds >= 0.9, "it had left memory, which takes a second of waiting"
    fork = await app.run("r").fork(at=over.key)
    again = await shown(app, fork.id, lambda one: one.run.state == "waiting")
    assert [one.names for one in again.waits] == [("approval",)], "it was made before the signal"


async def test_a_wait_that_began_anew_after_a_crash_counts_from_its_begin(tmp_path: Any) -> None:
    database = str(tmp_path / "aura.db")
    async with make_app(database) as first:
        await first.start("approval", 3_600.0, id="r")
        before = await shown(first, "r", lambda one: bool(one.waits))
    async with make_app(database) as second:
        run = second.run("r")
        await run.signal("approval", 1)
        assert await run.result(timeout=60) == 1
        [over] = (await operations.show_run(second, "r")).journal
        assert over.started_at == before.journal[0].started_at
        entries = await second.store.journal("r")
        assert [one.kind for one in entries] == ["wait", "signal"]


async def test_a_signal_that_is_there_already_has_no_entry_of_a_wait() -> None:
    async with make_app() as app:
        run = await app.start("approval", 0.01, id="late")
        with pytest.raises(Exception, match="no signal approval"):
            await run.result(timeout=60)
        [over] = (await operations.show_run(app, "late")).journal
        assert (over.kind, over.state, over.output) == ("signal", "done", None)
        now = await app.start("approval", id="now")
        await now.signal("approval", 1)
        assert await now.result(timeout=60) == 1
        assert [one.kind for one in await app.store.journal("now")][-1] == "signal"


def run(state: RunState = "waiting", **more: Any) -> RunRecord:
    record = RunRecord(
        "r", "w", "1.0.0", state, 1, None, "here", b"{}", "f", None, None, None, False, 0, 1.0,
        2.0, None,
    )  # fmt: skip
    return record._replace(**more)


def entry(
    seq: int, key: str, kind: str, output: Any = None, given: Any = None, error: Any = None
) -> Entry:
    packed = [None if one is None else to_json(one) for one in (given, output, error)]
    return Entry(
        "r", seq, key, kind, "", packed[0], packed[1], packed[2], 1, float(seq), float(seq)
    )


def told(record: RunRecord, *entries: Entry, now: float = 10.0) -> list[tuple[str, str]]:
    return [(one.kind, one.what) for one in waits(record, calls(entries), now)]


def test_what_a_lane_has_left_behind_is_over() -> None:
    lost = entry(1, "0/signal:a#1", "wait", 100.0, {"names": ["a"]})
    later = entry(2, "0/signal:b#1", "wait", None, {"names": ["b"]})
    assert told(run(), lost, later) == [("signal", "the signal b")]


def test_a_timer_that_would_have_ended_before_the_run_wakes_is_over() -> None:
    short, long = entry(1, "0.1/sleep#1", "sleep", 50.0), entry(2, "0.2/sleep#1", "sleep", 100.0)
    assert len(told(run(wake_at=50.0), short, long)) == 2
    assert len(told(run(wake_at=100.0), short, long)) == 1
    assert told(run(wake_at=None), short, long) == []
    assert len(told(run("running"), short, long, now=60.0)) == 1


def test_a_try_that_is_under_way_is_no_wait() -> None:
    failed = {"type": "OSError", "message": "away", "retry_at": 20.0}
    attempt = entry(1, "0/charge#1", "attempt", error=failed)
    assert told(run("running"), attempt, now=10.0) == [
        ("retry", "the next try of charge, after OSError: away")
    ]
    assert told(run("running"), attempt, now=21.0) == []


def test_the_journals_of_older_versions_name_signals_in_their_keys() -> None:
    old = entry(1, "0/signal:a|b#1", "wait", 100.0)
    assert told(run(wake_at=100.0), old) == [("signal", "the signal a or b")]


def test_a_saga_that_asks_says_what_may_be_answered() -> None:
    asks = entry(1, "0/signal:saga:travel#1", "wait", None, {"names": ["saga:travel"]})
    assert told(run(), asks) == [
        ("signal", 'the signal saga:travel, which says "retry", "skip" or "compensate"')
    ]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (run("parked", error=to_json({"type": "E", "message": "odd"})), ("person", "odd")),
        (run("pending", queue="gpu", key="ann"), ("queue", "queue gpu, key ann")),
        (run("pending"), ("worker", "a worker that has w 1.0.0")),
        (run(started_at=None, wake_at=9.0), ("start", "its start")),
        (run(error=to_json({"type": "E", "message": "no key"})), ("worker", "no key")),
    ],
)
def test_a_run_that_does_not_go_on_by_itself_says_so(
    record: RunRecord, said: tuple[str, str]
) -> None:
    [(kind, what)] = told(record, entry(1, "0/sleep#1", "sleep", 50.0))
    assert kind == said[0]
    assert what.endswith(said[1])


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "moved"])
def test_a_run_that_has_ended_waits_for_nothing(state: RunState) -> None:
    assert told(run(state), entry(1, "0/sleep#1", "sleep", 50.0)) == []


def test_what_does_not_open_here_is_named_by_its_key() -> None:
    closed = entry(1, "0/signal:a#1", "wait")._replace(input=b"\xff", output=b"\xff")
    assert told(run(), closed) == [("signal", "the signal a")]
    child = entry(1, "0/part#1", "child")._replace(output=b"\xff")
    assert told(run(), child) == [("child", "the child part")]


async def test_of_many_waits_the_first_ones_are_shown() -> None:
    async with make_app() as app:

        @app.workflow(version="1.0.0")
        async def many() -> None:
            await asyncio.gather(*(aura.sleep(3_600) for _ in range(MOST_WAITS + 1)))

        await app.start(many, id="r")
        found = await shown(app, "r", lambda one: one.run.state == "waiting")
        assert (len(found.waits), found.more_waits) == (MOST_WAITS, True)


def test_a_tab_is_named_after_what_it_shows() -> None:
    site = pytest.importorskip("aura.server.ui.site")
    made = Page("/runs/{run_id}", "Run", None, "", None)  # type: ignore[arg-type]
    assert site.title_of(made, {"run_id": "doc-17"}) == "doc-17 · Run · Aura"
    assert len(site.title_of(made, {"run_id": "x" * 3_000})) < 200


served = Aura("served")


@served.workflow(version="1.0.0")
async def compare(text: str, times: int, since: datetime | None, note: str = "") -> None:
    """A workflow beside its app."""


def test_an_empty_page_says_a_command_of_the_app_that_is_served() -> None:
    assert first_command(served) == (
        "aura run tests.server.test_waits:served compare --input "
        """'{"text": "text", "times": 1, "since": "2026-05-01T12:00:00Z"}'"""
    )
    assert first_command(served, ("others",)) == SOME
    assert first_command(Aura("empty")) == SOME
