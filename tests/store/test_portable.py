"""Whole rows out of one database and into another one, and runs that are taken out for that."""

from __future__ import annotations

import base64
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from aura.errors import KeyMissing, LeaseLost, RunEnded
from aura.store.base import (
    AppendFeed,
    Claim,
    PutDocument,
    RequestCancel,
    RunRecord,
    SendSignal,
    Started,
    Store,
)
from aura.store.keys import Keyring
from aura.store.portable import (
    LEFT,
    OF_RUNS,
    TABLES,
    Fence,
    Line,
    Moved,
    Page,
    Row,
    admission,
    key_ids,
)
from aura.store.sealed import sealed
from aura.store.sqlite import SqliteStore
from tests.store.kit import PAIRS, append, backend_of, beat, settle, start, the_run

Open = Callable[[str], Any]


@pytest.fixture(params=["sqlite-postgres", "postgres-sqlite", "sqlite-sqlite"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Two databases, of kinds that differ or not."""

    def url() -> str:
        return str(request.getfixturevalue("postgres_url"))

    backends = []
    for number, kind in enumerate(request.param.split("-")):
        folder = tmp_path / str(number)
        folder.mkdir()
        backends.append(backend_of("sqlite-file" if kind == "sqlite" else kind, folder, url))
    yield [await one.open() for one in backends]
    for one in backends:
        await one.close()


async def all_rows(store: Store, table: str, run: str | None = None) -> list[Row]:
    found: list[Row] = []
    while True:
        after = tuple(found[-1][name] for name in TABLES[table].key) if found else ()
        page = await store.rows(Page(table, after, run))
        if not page:
            return found
        found += page


async def lines_of(store: Store, run: str) -> list[Line]:
    return [(table, row) for table in OF_RUNS for row in await all_rows(store, table, run)]


async def run_row(store: Store, run: str) -> dict[str, Any]:
    [row] = await store.rows(Page("runs", run=run))
    return dict(row)


async def fill(store: Store, run: str = "a", owner: str = "w") -> None:
    await beat(store, owner)
    await store.commit([start(run, owner=owner), append(run, 1), append(run, 2)])
    late = SendSignal(run, "go", b'{"x": 1.5}', "s1", "high", 12.25, True)
    await store.commit([late, SendSignal(run, "go", b"\x00\xff", "s2")])


@pytest.mark.parametrize("kind", ["sqlite-file", "postgres"])
async def test_every_table_is_carried_or_left_for_a_reason(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whoever adds a table says here whether it travels."""
    backend = backend_of(kind, tmp_path, lambda: str(request.getfixturevalue("postgres_url")))
    layout = await (await backend.open()).layout()
    await backend.close()
    assert set(layout) == set(TABLES) | set(LEFT)
    for table in TABLES.values():
        assert set(table.key) | set(table.payloads) <= set(layout[table.name])


async def test_every_payload_is_sealed(tmp_path: Path) -> None:
    """Whoever adds a column of bytes says here that it is sealed, or that all may read it."""
    store = SqliteStore(str(tmp_path / "aura.db"))
    await store.open()
    await store.close()
    database = sqlite3.connect(tmp_path / "aura.db")
    found = database.execute(
        "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c "
        "WHERE m.type = 'table' AND c.type = 'BLOB'"
    ).fetchall()
    database.close()
    sealed = {(table.name, column) for table in TABLES.values() for column in table.payloads}
    apart = {("payloads", "body")}  # what stands elsewhere, and is sealed there
    marks = {(table, "mark") for table in ("payloads", "payload_uses", "payloads_loose")}
    assert set(found) - sealed - apart - marks == {("workers", "info")}


async def test_a_run_arrives_with_all_its_columns(pair: list[Store]) -> None:
    source, target = pair
    await fill(source)
    await source.fence(Fence("m", force=True))
    run, lines = await run_row(source, "a"), await lines_of(source, "a")
    assert await target.adopt({**run, "state": "pending", "moved": None}, lines) == "create"
    there = await run_row(target, "a")
    assert _plain(there | {"state": "moved", "moved": run["moved"]}) == _plain(run)
    assert [(name, _plain(row)) for name, row in await lines_of(target, "a")] == [
        (name, _plain(row)) for name, row in lines
    ]
    assert await target.journal("a") == await source.journal("a")
    assert await target.signals([("a", 0)]) == await source.signals([("a", 0)])
    await beat(target, "other")
    [claimed] = (await target.claim(Claim("other", PAIRS, 10))).runs
    assert (claimed.run.id, claimed.run.epoch) == ("a", 3)


def _plain(row: Row) -> dict[str, Any]:
    """SQLite has no truth values."""
    return {name: int(one) if isinstance(one, bool) else one for name, one in row.items()}


async def test_rows_of_the_app_are_added_where_there_are_none(pair: list[Store]) -> None:
    source, target = pair
    await source.commit([PutDocument("split", "s", b"1"), PutDocument("split", "s", b"2", 1)])
    await source.commit([AppendFeed("f", (b"one", b"two"))])
    for _ in range(2):
        for table in ("documents", "feeds"):
            await target.add_rows(table, await all_rows(source, table))
    assert await target.documents("split") == await source.documents("split")
    assert await target.feed("f") == await source.feed("f")
    assert await target.add_rows("documents", await all_rows(source, "documents")) == 0
    assert await target.commit([AppendFeed("f", (b"three",))]) == [3]


async def test_pages_are_bounded_and_leave_nothing_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sqlite_rows", "postgres_rows"):
        monkeypatch.setattr(f"aura.store.{module}.PAGE_BYTES", 1_000)
        monkeypatch.setattr(f"aura.store.{module}.PAGE_ROWS", 7)
    await store.commit([AppendFeed("f", tuple(b"x" * 400 for _ in range(10)))])
    await store.commit([AppendFeed("g", tuple(b"" for _ in range(10)))])
    first = await store.rows(Page("feeds"))
    assert len(first) == 3
    assert [(row["feed"], row["seq"]) for row in await all_rows(store, "feeds")] == [
        (name, seq) for name in "fg" for seq in range(1, 11)
    ]
    small = await store.rows(Page("feeds", ("g", 2)))
    assert [row["seq"] for row in small] == [3, 4, 5, 6, 7, 8, 9]


async def test_a_fenced_run_takes_nothing_more(store: Store) -> None:
    await fill(store)
    await store.commit([start("b"), start("c", owner="w"), settle("c", "waiting", wake_at=5e9)])
    await store.commit([start("p", owner="w"), settle("p", "parked")])
    await store.commit([start("done", owner="w"), settle("done")])
    assert sorted(await store.fence(Fence("m"))) == ["b", "c", "p"]
    assert sorted(await store.fence(Fence("m", force=True))) == ["a"]
    assert await store.fence(Fence("m", force=True)) == []
    told = await store.commit([append("a", 3), settle("a"), SendSignal("a", "go", b"1", "s3")])
    assert [type(one) for one in told] == [LeaseLost, LeaseLost, RunEnded]
    asked = cast("RunRecord", (await store.commit([RequestCancel("b")]))[0])
    assert (asked.state, asked.cancel_requested) == ("moved", False)
    assert not await store.requeue("p")
    again = cast("Started", (await store.commit([start("b")]))[0])
    assert (again.created, again.run.state) == (False, "moved")
    await beat(store, "other")
    nothing = await store.claim(Claim("other", PAIRS, 10))
    assert (nothing.runs, nothing.next_wake) == ([], None)
    befores = {run: Moved.of(await run_row(store, run)) for run in "abcp"}
    assert befores == {
        "a": Moved("m", "pending", None),
        "b": Moved("m", "pending", None),
        "c": Moved("m", "waiting", 5e9),
        "p": Moved("m", "parked", None),
    }
    assert (await the_run(store, "done")).state == "completed"


async def test_a_run_of_a_dead_worker_is_fenced_at_once(store: Store) -> None:
    await fill(store)
    await beat(store, "w", 0.0)
    assert await store.fence(Fence("m", ("a", "none"))) == ["a"]


async def test_only_those_asked_for_are_fenced_and_in_batches(store: Store) -> None:
    await store.commit([start(f"run-{at}") for at in range(5)])
    assert await store.fence(Fence("m", ("run-1",))) == ["run-1"]
    assert len(await store.fence(Fence("m", limit=3))) == 3
    assert len(await store.fence(Fence("m", limit=3))) == 1


def test_who_is_let_in() -> None:
    row = {"workflow": "w", "created_at": 1.5, "epoch": 4, "state": "moved"}
    assert admission(None, row) == "create"
    assert admission({**row, "state": "running"}, row) == "present"
    assert admission({**row, "state": "completed"}, row, take_back=True) == "present"
    assert admission(row, {**row, "epoch": 5}) == "return"
    assert admission(row, row) == "here"
    assert admission(row, row, take_back=True) == "return"
    assert admission(row, {**row, "epoch": 3}, take_back=True) == "older"
    assert admission(row, {**row, "created_at": 2.0}) == "other"
    assert admission(row, {**row, "workflow": "x"}) == "other"


async def test_a_run_comes_back_with_what_happened_elsewhere(pair: list[Store]) -> None:
    here, there = pair
    await fill(here)
    await here.fence(Fence("m", force=True))
    first = await run_row(here, "a")
    resumed = {**first, "state": "pending", "moved": None}
    assert await here.adopt(resumed, []) == "here"
    assert await there.adopt(resumed, await lines_of(here, "a")) == "create"
    assert await there.adopt(resumed, await lines_of(here, "a")) == "present"
    await beat(there, "w2")
    [claimed] = (await there.claim(Claim("w2", PAIRS, 1))).runs
    await there.commit([append("a", 3, epoch=claimed.run.epoch)])
    await there.fence(Fence("back", force=True))
    back = {**await run_row(there, "a"), "state": "pending", "moved": None}
    assert await here.adopt(back, await lines_of(there, "a")) == "return"
    assert [one.seq for one in await here.journal("a")] == [1, 2, 3]
    assert await here.adopt(resumed, []) == "present"
    assert await there.adopt(resumed, []) == "older"


async def test_a_run_does_not_arrive_beside_one_with_its_dedup_key(store: Store) -> None:
    await fill(store)
    row = {**await run_row(store, "a"), "state": "pending", "owner": None, "dedup": "d"}
    assert await store.adopt({**row, "id": "b"}, []) == "create"
    lines = [(name, {**one, "run_id": "c"}) for name, one in await lines_of(store, "a")]
    assert await store.adopt({**row, "id": "c"}, lines) == "other"
    assert (await store.run("c"), await store.journal("c")) == (None, [])
    assert await store.adopt({**row, "id": "d", "state": "completed"}, []) == "create"
    await store.fence(Fence("m", ("b",)))
    moved = await run_row(store, "b")
    await store.adopt({**row, "id": "e"}, [])
    back = {**moved, "state": "pending", "moved": None, "epoch": 9}
    assert await store.adopt(back, []) == "other"
    assert await run_row(store, "b") == moved


async def test_nothing_of_a_run_is_written_when_its_rows_break_off(store: Store) -> None:
    await fill(store)
    await store.fence(Fence("m", force=True))
    row, lines = await run_row(store, "a"), await lines_of(store, "a")

    def broken() -> Any:
        yield from lines[:1]
        raise ValueError("the file ends here")

    other = {**row, "id": "b", "state": "pending", "moved": None}
    with pytest.raises(ValueError, match="ends here"):
        await store.adopt(other, ((name, {**row, "run_id": "b"}) for name, row in broken()))
    assert await store.run("b") is None
    assert await store.journal("b") == []
    assert await store.commit([start("c")])  # and it goes on


async def test_a_copy_counts_the_signals_that_came_after_its_row_was_read(store: Store) -> None:
    await fill(store)
    row = {**await run_row(store, "a"), "id": "b", "state": "parked", "owner": None, "signals": 1}
    lines = [(name, {**one, "run_id": "b"}) for name, one in await lines_of(store, "a")]
    assert await store.adopt(row, lines) == "create"
    assert (await the_run(store, "b")).signals == 2


def key(name: str) -> str:
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}"


@asynccontextmanager
async def keyed(store: Store, *keys: str) -> AsyncIterator[Store]:
    yield await sealed(store, Keyring(keys))


async def test_rows_leave_sealed_and_open_where_the_key_is(pair: list[Store]) -> None:
    """Also those that were written before there were keys."""
    source, target = pair
    secret = key("k1")
    await fill(source, "old")
    async with keyed(source, secret) as safe:
        await fill(safe, "new")
        for run in ("old", "new"):
            lines = [("runs", await run_row(safe, run)), *await lines_of(safe, run)]
            assert {one for line in lines for one in key_ids(*line)} == {"k1"}
            assert b"text" not in repr(lines).encode()
            resumed = {**lines[0][1], "state": "pending", "moved": None, "owner": None}
            async with keyed(target, secret) as there:
                assert await there.adopt(resumed, lines[1:]) == "create"
                assert (await the_run(there, run)).input == b'"text"'
                assert await there.journal(run) == await safe.journal(run)
                assert await there.signals([(run, 0)]) == await safe.signals([(run, 0)])
        [opened] = await safe.rows(Page("runs", run="new", opened=True))
        assert (opened["input"], opened["fingerprint"]) == (b'"text"', "fingerprint")
    async with keyed(source, key("k2"), secret) as rotated:
        await rotated.commit([start("newest")])
    async with keyed(source, secret) as stranger:
        with pytest.raises(KeyMissing, match="k2"):
            await stranger.rows(Page("runs", run="newest"))


async def test_plain_rows_are_sealed_on_their_way_in(store: Store) -> None:
    await fill(store)
    row, lines = await run_row(store, "a"), await lines_of(store, "a")
    moved = [(name, {**one, "run_id": "b"}) for name, one in lines]
    async with keyed(store, key("k1")) as safe:
        resumed = {**row, "id": "b", "state": "pending", "owner": None}
        assert await safe.adopt(resumed, moved) == "create"
        assert (await the_run(safe, "b")).input == b'"text"'
        await safe.add_rows("documents", [_document("x", b'"text"')])
        found = await safe.document("split", "x")
        assert found is not None
        assert found.body == b'"text"'
    raw = [("runs", await run_row(store, "b")), *await lines_of(store, "b")]
    assert b'"text"' not in repr(raw).encode()
    assert {one for line in raw for one in key_ids(*line)} == {"k1"}
    assert b'"text"' not in repr(await store.documents("split")).encode()


def _document(name: str, body: bytes) -> Row:
    return {"kind": "split", "name": name, "epoch": 3, "body": body, "updated_at": 1.5}
