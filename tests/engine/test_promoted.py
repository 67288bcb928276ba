"""What an app may still do where it has been promoted from: look, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

import aura
from aura import Aura, step
from aura.clock import SystemClock
from aura.delivery.plan import parse_plan
from aura.engine import residence
from aura.engine.moving import Export
from aura.engine.promotion import promote
from aura.engine.residence import Home, changes_the_app
from aura.errors import DatabaseMoved
from aura.server import audit, tokens
from aura.store import base
from aura.store.base import (
    Announce,
    AppendFeed,
    Heartbeat,
    Op,
    PutDocument,
    RequestCancel,
    SendSignal,
    StartRun,
    Store,
    Sweep,
)
from aura.store.events import Emit, EventStore, NewEvent, Progress
from aura.store.portable import OF_THE_APP, Page
from aura.store.queues import QueueLimits
from tests.engine.kit import PAIRS, World, declare, until
from tests.engine.test_encryption import K1, K2
from tests.engine.test_moving import bundle as bundle
from tests.engine.test_moving import client, quick
from tests.engine.test_moving import places as places
from tests.engine.test_moving import source as source
from tests.engine.test_moving import target as target

PLAN = """
rollout:
  name: t
  baseline: a
  candidate: b
  guards:
    - errors: {max_error_rate: 20%, min_sample: 8}
  stages:
    - 30%
    - 100%
  defaults: {min_requests: 1000000, min_time: 1h, max_time: 9h}
"""


class Held:
    """A step that waits for the test."""

    reached: asyncio.Event
    go_on: asyncio.Event
    app: Aura


@pytest.fixture(autouse=True)
def held() -> None:
    Held.reached, Held.go_on = asyncio.Event(), asyncio.Event()


@step
async def holds(name: str) -> str:
    Held.reached.set()
    await Held.go_on.wait()
    app = Held.app
    await app.committer.submit(PutDocument("split", name, b'"by a step"'))
    await app.store.put_queue(f"of-{name}", QueueLimits(2), replace=True)
    await app.emit("orders", name, key="k")
    return name


async def child(name: str) -> str:
    return f"child of {name}"


async def works(name: str) -> Any:
    found = await holds(name)
    async with aura.saga():
        await aura.emit("orders", f"{found} again", key="k")
    return await (await Held.app.start("child", found, id="kid")).result()


async def waits() -> str:
    return str(await aura.receive("go"))


CODE = [declare(one) for one in (child, works, waits)]


async def _promote(source: World, target: World, bundle: Path, **settings: Any) -> None:
    async with client(source, **settings) as old, client(target, **settings) as new:
        await promote(old, new, SystemClock(), Export(), bundle)


async def _has_heard(app: Aura) -> bool:
    return app._residence._left


def _is_asked_for(app: Aura, run_id: str) -> bool:
    """Whether its worker hands it over as soon as its step has ended."""
    assert app._worker is not None
    execution = app._worker._executions.get(run_id)
    return execution is not None and execution._releasing


async def _rows_of_the_app(store: Store) -> dict[str, list[Any]]:
    """All that a promotion copies beside runs."""
    found: dict[str, list[Any]] = {}
    for table in OF_THE_APP:
        rows = await store.rows(Page(table))
        ours = residence.OURS if table == "documents" else residence.STAYS
        named = "kind" if table == "documents" else "feed"
        found[table] = [dict(row) for row in rows if row.get(named) not in ours]
    return found


async def _emits_in_a_transaction(app: Aura) -> None:
    async with app.transaction():
        await aura.emit("orders", "lost", key="k")


def changes(app: Aura) -> dict[str, Callable[[], Awaitable[object]]]:
    """One change by every way that there is out of a process."""
    store, events = app.store, app.store.events
    plan = parse_plan(PLAN.replace("name: t", "name: other"))
    put = PutDocument("split", "s", b"1")
    return {
        "start": lambda: app.start("waits", id="new"),
        "emit": lambda: app.emit("orders", "lost"),
        "transaction": partial(_emits_in_a_transaction, app),
        "document": lambda: app.committer.submit(put),
        "document of a store": lambda: store.commit([put]),
        "feed": lambda: app.committer.submit(AppendFeed("observations/s", (b"1",))),
        "rollout": lambda: app.rollouts.start(plan),
        "emergency": lambda: app.rollouts.emergencies.force(("t",), by="ann", reason="x"),
        "reward": lambda: app.reward("t", "unit", 1.0, metric="m"),
        "reward of a run": lambda: app.run("waits").reward("path", 1.0),
        "catalog": lambda: app.catalog.deprecate("waits@1.0.0", why="old", by="ann"),
        "token": lambda: tokens.create(app, "ci", "viewer"),
        "queue": lambda: store.put_queue("slow", QueueLimits(1), replace=True),
        "schedule": lambda: app.start(app.schedules.engine.workflow, id="schedule-x"),
        "requeue": lambda: app.run("waits").requeue(),
        "fork": lambda: app.run("waits").fork(),
        "sweep": lambda: store.sweep(Sweep(60.0)),
        "letter requeued": lambda: events.requeue("orders", "g", 1, None),
        "letter dropped": lambda: events.drop("orders", "g", 1),
        "replay": lambda: events.replay("orders", "g", 0.0),
        "forget": lambda: events.forget("orders", "g"),
    }


@pytest.mark.parametrize("places", PAIRS, indirect=True)
async def test_a_source_that_is_still_alive_changes_nothing(
    source: World, target: World, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a worker, a rollout and what watches it, on both sides of the move."""
    old = await quick(source, *CODE)
    await old.committer.submit(PutDocument("notes", "s", b'"split"'))
    await old.emit("orders", "first", key="k")
    await old.committer.submit(AppendFeed("choices/path", (b"{}",)))
    await old.rollouts.start(parse_plan(PLAN))
    await old.start("waits", id="waits")
    await old.catalog.registered()
    await _promote(source, target, bundle)
    await until(partial(_has_heard, old))
    before = await _rows_of_the_app(old.store)
    for name, change in changes(old).items():
        with pytest.raises(DatabaseMoved, match="AURA_DATABASE_URL"):
            await change()
        assert await _rows_of_the_app(old.store) == before, name
    assert [row["seq"] for row in before["events"]] == [1]
    async with source.app(*CODE).client() as late:  # it comes when all is over
        for change in changes(late).values():
            with pytest.raises(DatabaseMoved):
                await change()
        assert await late.run("waits").status() == "moved"
        assert await late.store.document("notes", "s") is not None
    new = await target.open(*CODE)
    await new.run("waits").signal("go", "there")
    assert await new.run("waits").result(timeout=60) == "there"
    assert await new.rollouts.status("t") is not None
    told = [one for one in caplog.records if "nothing here any more" in one.message]
    assert len(told) == 1  # by the process that was there, and not by the one that promotes
    assert not [one for one in caplog.records if one.exc_info]


async def test_what_runs_do_until_they_are_handed_over_moves_with_them(
    source: World, target: World, bundle: Path
) -> None:
    """A step that is under way when the app leaves is not failed by that, and nothing is lost."""
    old = Held.app = await quick(source, *CODE)
    await old.start("works", "it", id="works")
    await Held.reached.wait()
    moving = asyncio.create_task(_promote(source, target, bundle))
    await until(partial(_has_heard, old))
    with pytest.raises(DatabaseMoved):
        await old.emit("orders", "from outside", key="k")
    await until(partial(_is_asked_for, old, "works"))
    Held.go_on.set()
    await moving
    new = Held.app = target.app(*CODE)
    target.apps.append(new)
    await new.open()
    assert await new.run("works").result(timeout=60) == "child of it"
    document = await new.store.document("split", "it")
    assert document is not None
    assert document.body == b'"by a step"'
    assert "of-it" in {queue.name for queue in await new.store.queues()}
    events = (await new.store.events.read("orders", 0, tuple(range(16)), 10)).events
    assert [event.payload for event in events] == [b'"it"', b'"it again"']
    record = await source.record("works")
    assert record.state == "moved"


async def test_a_transaction_that_is_open_when_the_app_leaves_is_rolled_back(
    source: World, target: World, bundle: Path
) -> None:
    async with source.app().client() as old:
        async with old.transaction() as made:
            await made.execute("CREATE TABLE mine (name TEXT)")
        emitted = old.transaction()
        await emitted.__aenter__()
        await aura.emit("orders", "lost", key="k")
        await _promote(source, target, bundle)
        await until(partial(_has_heard, old))
        with pytest.raises(DatabaseMoved):
            await emitted.__aexit__(None, None, None)
        assert await old.store.events.topics() == []
        with pytest.raises(DatabaseMoved):
            old.transaction()


async def test_who_did_not_hear_of_it_looks(
    source: World, target: World, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "_LOOK", 0.01)
    monkeypatch.setattr(residence.Residence, "_hear", lambda *_: None)
    async with source.app().client() as old:
        await _promote(source, target, bundle)
        await until(partial(_has_heard, old))
        with pytest.raises(DatabaseMoved):
            await old.committer.submit(PutDocument("split", "s", b"1"))


async def test_an_encrypted_source_refuses_too_and_is_sealed_anew_no_more(
    source: World, target: World, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with source.app(encryption_keys=(K2,)).client() as app:
        await app.committer.submit(PutDocument("notes", "s", b'"split"'))
    old = await source.open(encryption_keys=(K1, K2))
    await _promote(source, target, bundle, encryption_keys=(K1, K2))
    await until(partial(_has_heard, old))
    await until(lambda: old._resealing.done)
    for name in ("document", "document of a store", "queue", "emit"):
        with pytest.raises(DatabaseMoved):
            await changes(old)[name]()
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_the_audit_log_says_who_tried(source: World, target: World, bundle: Path) -> None:
    await _promote(source, target, bundle)
    async with source.app().client() as old:
        what = audit.Change("emit", "ann", "", "cli", "here", "", {})
        number = await audit.record(old, what)
        with pytest.raises(DatabaseMoved):
            await old.emit("orders", "lost")
        await audit.failed(old, what, number, "database-moved")
        found = await audit.newest(old)
        assert [one.outcome for one in found.entries] == ["database-moved", "asked"]


def _verbs(protocol: Any) -> set[str]:
    return {name for name in dir(protocol) if not name.startswith("_")}


READS = {
    *("info", "moment", "listen", "open", "close", "layout", "rows", "key_ids", "events"),
    *("run", "runs", "runs_by_id", "changed_runs", "pulses", "attributes", "journal", "entries"),
    *("entries_of", "outline", "signals", "document", "documents", "feed", "workers", "queues"),
    *("count_runs", "depths", "sweepable"),
}
FENCED = {"claim", "fence"}  # of runs, which are nobody's here any more
OF_EVENTS = {
    *("read", "events", "deliveries", "dead_letters", "dead_letter", "topics", "groups"),
    *("balance", "leave"),  # of workers, which do not begin here any more
}


def test_every_verb_of_the_store_is_either_refused_or_changes_nothing() -> None:
    """A new one has to be put on one of the two sides."""
    refused = {name for name in vars(Home) if not name.startswith("_")}
    assert refused.isdisjoint(READS | FENCED)
    assert _verbs(Store) - {"events"} == (refused | READS | FENCED) - {"events"}
    events = {name for name in vars(residence._HomeEvents) if not name.startswith("_")}
    assert events.isdisjoint(OF_EVENTS)
    assert _verbs(EventStore) == events | OF_EVENTS


def test_every_operation_is_either_refused_or_fenced() -> None:
    start = StartRun("r", "w", "1.0.0", b"", "f", "o")
    event = NewEvent("orders", "1", None, b"1")
    refused: list[Op] = [
        PutDocument("split", "s", b""),
        AppendFeed("f", (b"1",)),
        start,
        Emit((event,)),
    ]
    assert all(map(changes_the_app, refused))
    passes: list[Op] = [
        PutDocument("move", "m", b""), PutDocument("promotion", "to", b""),
        AppendFeed("f", ()), AppendFeed("audit", (b"1",)), Announce("x"), Heartbeat("w", 1.0),
        RequestCancel("r"), SendSignal("r", "s", b"", "1"),
        StartRun("r/1", "w", "1.0.0", b"", "f", "o", parent="r", parent_epoch=1),
    ]  # fmt: skip
    assert not any(map(changes_the_app, passes))
    fenced = {base.Append, base.Settle, base.Continue, Progress}  # by epochs
    assert set(get_args(Op)) == {type(one) for one in [*refused, *passes]} | fenced
