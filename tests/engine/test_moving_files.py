"""The files of moving runs: whole or not at all, readable for those who may, in bounded memory."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aura import Aura, NonRetryable, Workflow
from aura.engine.bundle import Encoder, Header
from aura.engine.moving import Export, export
from aura.engine.promotion import promote
from aura.errors import BundleDamaged, BundleError, DatabaseMoved, KeyMissing, RunsBusy
from aura.store.base import Claimed, RunFilter
from aura.store.events import PARTITIONS
from aura.store.portable import Page
from tests.engine.kit import World, declare, until
from tests.engine.test_encryption import K1, K2
from tests.engine.test_moving import (
    CLOCK,
    LEDGER,
    MARKER,
    _encrypted,
    _three_runs,
    client,
    into,
    out,
    speaks,
)
from tests.store.kit import append, settle, start


@pytest.fixture(autouse=True)
def empty_ledger() -> None:
    LEDGER.ran.clear()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    worlds = World(str(tmp_path / "one.db")), World(str(tmp_path / "two.db"))
    yield worlds
    for world in worlds:
        await world.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "app.bundle"


async def test_damaged_files_import_nothing(two: tuple[World, World], bundle: Path) -> None:
    source, target = two
    async with client(source) as store:
        await _three_runs(store)
    await out(source, bundle, Export(app=True, move="m"))
    whole = bundle.read_bytes()
    text = gzip.decompress(whole)
    changed = gzip.compress(text.replace(b'"version":"1.0.0"', b'"version":"9.0.0"', 1))
    lines = text.splitlines(keepends=True)
    cut = gzip.compress(b"".join(lines[:-1]))
    flipped = whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]
    for content in (b"", b"nonsense", whole[:-20], whole[:50], flipped, changed, cut):
        bundle.write_bytes(content)
        with pytest.raises(BundleDamaged):
            await into(target, bundle)
        async with client(target) as store:
            assert await store.runs(RunFilter()) == []
            assert await store.documents("split") == []
    with pytest.raises(BundleError, match="cannot be read"):
        await into(target, bundle.with_name("nowhere"))


async def test_what_a_newer_aura_has_written_is_refused(
    two: tuple[World, World], bundle: Path
) -> None:
    _, target = two
    lines = Encoder()
    row = {"id": "a", "state": "completed", "moved": None, "wake_at": None, "colour": "red"}
    parts = [lines.header(Header("copy", "", "sqlite", 1.0)), lines.row("runs", row), lines.end()]
    bundle.write_bytes(gzip.compress(b"".join(parts)))
    with pytest.raises(BundleError, match=r"runs\.colour.*Upgrade"):
        await into(target, bundle)


async def test_bundles_are_for_their_owner_only(two: tuple[World, World], bundle: Path) -> None:
    source, _ = two
    await out(source, bundle, Export())
    assert bundle.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BundleError, match="cannot be written"):
        await out(source, bundle.parent / "no" / "folder", Export())


async def test_a_long_run_is_carried_in_pages(
    two: tuple[World, World], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory at once does not grow with the journal."""
    source, target = two
    monkeypatch.setattr("aura.store.sqlite_rows.PAGE_BYTES", 2_000)
    async with client(source) as store:
        await store.commit([start("a", owner="w"), *(append("a", n) for n in range(1, 301))])
        await store.commit([settle("a", "waiting", wake_at=5e9)])
        pages: list[int] = []
        read = store.rows

        async def counted(page: Any) -> Any:
            found = await read(page)
            pages.append(len(found))
            return found

        monkeypatch.setattr(store, "rows", counted)
        await export(store, CLOCK, Export(move="m"), bundle)
    assert max(pages) < 100
    await into(target, bundle)
    async with client(target) as store:
        past = Claimed((await store.runs(RunFilter()))[0], await store.journal("a"))
    assert [entry.seq for entry in past.journal] == list(range(1, 301))


async def test_a_bundle_is_readable_when_that_is_asked_for(
    two: tuple[World, World], bundle: Path
) -> None:
    source, target = two
    await _encrypted(source)
    what = Export(app=True, move="m", opened=True)
    await out(source, bundle, what, encryption_keys=(K1,))
    assert MARKER.encode() in gzip.decompress(bundle.read_bytes())
    await into(target, bundle, encryption_keys=(K2,))
    new = await target.open(declare(speaks), encryption_keys=(K2,))
    await new.run("speaks").signal("go", "!")
    assert await new.run("speaks").result(timeout=20) == MARKER + "!"
    await new.close()
    target.apps.clear()
    assert MARKER.encode() not in (Path(target.database)).read_bytes()


async def test_a_bundle_without_the_key_of_its_database(
    two: tuple[World, World], bundle: Path
) -> None:
    source, _ = two
    await _encrypted(source)
    with pytest.raises(KeyMissing):
        await out(source, bundle, Export())
    assert not bundle.exists()


async def test_a_lost_file_is_written_again_by_its_name_only(
    two: tuple[World, World], bundle: Path, tmp_path: Path
) -> None:
    source, _ = two
    async with client(source) as store:
        await _three_runs(store)
    await out(source, bundle, Export(move="m"))
    with pytest.raises(BundleError, match="is there already"):
        await out(source, bundle, Export(move="m"))
    bundle.unlink()
    with pytest.raises(BundleError, match=r"written before, with 3 runs.*--again"):
        await out(source, bundle, Export(move="m"))
    other = await out(source, bundle, Export(move="other"))
    assert (other.runs, other.moves) == (0, ("m",))
    with pytest.raises(BundleError, match="run a was moved before, by m"):
        await out(source, tmp_path / "x", Export(("a",), move="third"))
    again = await out(source, tmp_path / "again", Export(move="m", again=True))
    assert again.runs == 3


async def test_events_queues_and_schedules_move_with_their_app(
    two: tuple[World, World], bundle: Path, request: pytest.FixtureRequest
) -> None:
    """A group goes on after what it has handled, and topics go on counting."""
    source, _ = two
    target = World(str(request.getfixturevalue("postgres_url")))
    heard: list[str] = []

    def listening(world: World) -> Aura:
        app = world.app()

        @app.subscribe("orders", group="billing")
        async def bill(order: str) -> None:
            if order == "bad":
                raise NonRetryable("no such order")
            heard.append(order)

        app.queue("slow", concurrency=3)
        return app

    old = listening(source)
    async with old:
        for order in ("a", "bad", "b"):
            await old.emit("orders", order, key="k")
        await until(lambda: heard == ["a", "b"])
        await until(partial(_dead, old))
    async with old.client():
        await old.emit("orders", "late", key="k")
        async with client(source) as here, client(target) as there:
            done = await promote(here, there, CLOCK, Export(), bundle)
        await until(partial(_refuses_events, old))  # as soon as it has heard of the move
    async with listening(source).client() as stale:
        assert await _refuses_events(stale), "nobody would ever handle it"
    assert done.rows > 4
    new = listening(target)
    async with new:
        await until(lambda: heard == ["a", "b", "late"])
        await new.emit("orders", "new", key="k")
        await until(lambda: heard == ["a", "b", "late", "new"])
        assert await _dead(new)
        assert {one.name for one in await new.store.queues()} >= {"slow"}
    with pytest.raises(DatabaseMoved, match="AURA_DATABASE_URL"):
        await listening(source).open()


async def _refuses_events(app: Aura) -> bool:
    known = len((await app.store.events.read("orders", 0, tuple(range(PARTITIONS)), 100)).events)
    try:
        await app.emit("orders", "lost", key="k")
    except DatabaseMoved:
        found = await app.store.events.read("orders", 0, tuple(range(PARTITIONS)), 100)
        return len(found.events) == known
    return False


async def _dead(app: Aura) -> bool:
    return len(await app.store.events.dead_letters("orders", "billing")) == 1


async def test_nothing_is_promoted_while_workers_handle_events(
    two: tuple[World, World], bundle: Path
) -> None:
    source, target = two
    app = source.app()

    @app.subscribe("orders", group="billing")
    async def bill(order: str) -> None:
        """Nothing to do."""

    async with app:
        await until(partial(_subscribed, app))
        async with client(source) as here, client(target) as there:
            with pytest.raises(RunsBusy, match="Stop its workers"):
                await promote(here, there, CLOCK, Export(), bundle)
        assert (await app.start(_nothing(app))).id


async def _subscribed(app: Aura) -> bool:
    return bool(await app.store.rows(Page("consumers")))


def _nothing(app: Aura) -> Workflow[[], None]:
    async def nothing() -> None:
        """Nothing to do."""

    made = Workflow("nothing", "1.0.0", nothing)
    app.registry.add(made)
    return made
