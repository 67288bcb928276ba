"""Documents, feeds and what a store says of itself: the same on every store."""

from __future__ import annotations

import asyncio

from aura.errors import EpochConflict
from aura.store.base import AppendFeed, Document, Heartbeat, Op, PutDocument, Store
from aura.store.queries import migrations
from tests.store.kit import Backend, database_now, start


async def test_a_document_counts_its_changes(store: Store) -> None:
    assert await store.document("split", "search") is None
    for epoch in (1, 2, 3):
        put = PutDocument("split", "search", b"\x00body%d" % epoch)
        assert await store.commit([put]) == [epoch]
    found = await store.document("split", "search")
    assert found is not None
    assert found[:4] == ("split", "search", 3, b"\x00body3")
    assert abs(found.updated_at - await database_now(store)) < 60


async def test_compare_and_set(store: Store) -> None:
    async def put(expected: int | None) -> object:
        (outcome,) = await store.commit([PutDocument("k", "n", b"%r" % expected, expected)])
        return outcome if isinstance(outcome, int) else type(outcome)

    assert await put(1) is EpochConflict
    assert await store.document("k", "n") is None
    assert await put(0) == 1
    assert await put(0) is EpochConflict
    assert await put(2) is EpochConflict
    assert await put(1) == 2
    assert await put(None) == 3
    found = await store.document("k", "n")
    assert found is not None
    assert found[2:4] == (3, b"None")


async def test_a_lost_compare_and_set_is_refused_alone(store: Store) -> None:
    ops: list[Op] = [
        PutDocument("k", "b", b"1", 0),
        PutDocument("k", "a", b"1", 0),
        PutDocument("k", "b", b"2", 0),
        PutDocument("k", "b", b"3", 1),
        start("run"),
    ]
    outcomes = await store.commit(ops)
    assert outcomes[:2] == [1, 1]
    assert isinstance(outcomes[2], EpochConflict)
    assert "k b" in str(outcomes[2])
    assert outcomes[3] == 2
    assert await store.run("run") is not None


async def test_documents_of_a_kind_by_name(store: Store) -> None:
    await store.commit([PutDocument(k, n, b"") for k, n in ("xb", "xa", "yc", "xB", "xé")])
    found: list[Document] = await store.documents("x")
    assert [one.name for one in found] == ["B", "a", "b", "é"]
    assert await store.documents("z") == []


async def test_racing_compare_and_sets_lose_no_change(shared: Backend) -> None:
    stores = [await shared.open(), await shared.open()]

    async def add_one(store: Store) -> None:
        while True:
            found = await store.document("k", "n")
            epoch, count = (found.epoch, int(found.body)) if found else (0, 0)
            put = PutDocument("k", "n", b"%d" % (count + 1), epoch)
            if not isinstance((await store.commit([put]))[0], EpochConflict):
                return

    await asyncio.gather(*(add_one(stores[at % 2]) for at in range(12)))
    found = await stores[0].document("k", "n")
    assert found is not None
    assert (found.epoch, found.body) == (12, b"12")


async def test_feeds_number_their_items(store: Store) -> None:
    assert await store.feed("f") == []
    ops: list[Op] = [
        AppendFeed("f", (b"1", b"2")),
        AppendFeed("g", (b"\x00",)),
        AppendFeed("f", ()),
        AppendFeed("f", (b"3",)),
    ]
    assert await store.commit(ops) == [2, 1, 2, 3]
    assert await store.commit([AppendFeed("f", (b"4",) * 3), AppendFeed("h", ())]) == [6, 0]
    items = await store.feed("f")
    assert [(one.seq, one.payload) for one in items[:4]] == [
        (1, b"1"),
        (2, b"2"),
        (3, b"3"),
        (4, b"4"),
    ]
    now = await database_now(store)
    assert all(abs(one.at - now) < 60 for one in items)
    assert [one.seq for one in await store.feed("f", after=2, limit=3)] == [3, 4, 5]
    assert await store.feed("f", after=6) == []


async def test_feeds_have_no_gaps_under_concurrent_writers(shared: Backend) -> None:
    """A reader that goes on after the last seq it has seen misses nothing."""
    stores = [await shared.open() for _ in range(3)]
    done = asyncio.Event()

    async def write(at: int) -> None:
        for number in range(15):
            mine = b"%d/%d" % (at, number)
            feeds = ("a", "b") if at % 2 else ("b", "a")
            await stores[at % 2].commit([AppendFeed(feed, (mine, mine)) for feed in feeds])

    async def read() -> list[tuple[int, bytes]]:
        seen: list[tuple[int, bytes]] = []
        while True:
            last_look = done.is_set()
            items = await stores[2].feed("a", after=seen[-1][0] if seen else 0, limit=7)
            seen += [(one.seq, one.payload) for one in items]
            if last_look and not items:
                return seen
            await asyncio.sleep(0)

    async def write_all() -> None:
        await asyncio.gather(*map(write, range(6)))
        done.set()

    _, seen = await asyncio.gather(write_all(), read())
    assert [seq for seq, _ in seen] == list(range(1, 181))
    for at in range(6):
        mine = [body for _, body in seen if body.startswith(b"%d/" % at)]
        assert mine == [b"%d/%d" % (at, number) for number in range(15) for _ in range(2)]


async def test_workers_are_listed(store: Store) -> None:
    await store.commit([Heartbeat("b", 30.0, b"{}"), Heartbeat("a", 30.0, b'{"host":"x"}')])
    workers = {one.id: one for one in await store.workers()}
    assert set(workers) == {"a", "b"}
    assert workers["a"].info == b'{"host":"x"}'
    assert abs(workers["a"].lease_until - workers["a"].started_at - 30) < 1
    await store.commit([Heartbeat("a", 0.0)])
    [left] = [one for one in await store.workers() if one.id == "a"]
    assert 0 <= left.lease_until - left.started_at < 29  # the moment at which it stopped


async def test_info_tells_what_keeps_the_data_safe(store: Store) -> None:
    info = await store.info()
    assert info.schema == max(one.number for one in migrations(info.kind))
    assert info.server
    assert abs(info.clock_offset) < 5
    if info.kind == "postgres":
        assert info.settings["synchronous_commit"] == "on"
        assert info.settings["fsync"] == "on"
    else:
        assert info.settings["synchronous"] == "2"
