"""Runs on an encrypted database: as before for those who have the key, closed to all others."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

import aura
from aura import Config, RunFailed, step
from aura.app import open_store
from aura.clock import SystemClock
from aura.codec import is_encrypted
from aura.engine.residence import unguarded
from aura.errors import ConfigError, DecryptionFailed, KeyMissing, RunConflict
from aura.store.base import AppendFeed
from tests.engine.kit import World, declare, until

MARKER = "tell-nobody-4711"


def key(key_id: str) -> str:
    return f"{key_id}:{base64.b64encode(os.urandom(32)).decode()}"


K1, K2 = key("k1"), key("k2")


@step(idempotent=True)
async def shout(text: str) -> str:
    return text * 500


@step
async def refuse(text: str) -> None:
    raise ValueError(text)


async def speaks(text: str) -> str:
    await shout(text)
    return text


async def breaks(text: str) -> None:
    await refuse(text)


async def rests(text: str) -> str:
    await shout(text)
    await aura.sleep(3_600)
    return text


async def stored(database: str) -> bytes:
    """Everything that the database has on disk, or says of its rows."""
    if "://" not in database:
        folder = Path(database).parent
        return b"".join(one.read_bytes() for one in folder.glob("aura.db*"))
    connection = await asyncpg.connect(database)
    dump = io.BytesIO()
    for table in ("runs", "journal", "signals", "documents", "feeds", "workers"):
        await connection.copy_from_table(table, schema_name="aura", output=dump, format="binary")
    await connection.close()
    return dump.getvalue()


@pytest.mark.parametrize("keys", [(K1,), ()])
async def test_nothing_readable_is_stored(world: World, keys: tuple[str, ...]) -> None:
    """Without keys the same search finds the marker: it looks where it should."""
    speaking, breaking = declare(speaks), declare(breaks)
    app = await world.open(speaking, breaking, encryption_keys=keys)
    assert await (await app.start(speaking, MARKER)).result() == MARKER
    failed = await app.start(breaking, MARKER)
    with pytest.raises(RunFailed, match=MARKER):
        await failed.result()
    found = await stored(world.database)
    assert b"shout#1" in found
    assert (MARKER.encode() in found) is not bool(keys)


async def test_a_crashed_run_goes_on_with_the_key(world: World) -> None:
    resting = declare(rests)
    app = await world.open(resting, encryption_keys=(K1,))
    run = await app.start(resting, MARKER)
    await until(lambda: _entries(app, run.id, 2))
    await world.crash(app)
    app = await world.open(resting, encryption_keys=(K2, K1), keep_in_memory=0.0)
    await until(lambda: _is(app, run.id, "waiting"))
    assert (await app.run(run.id).record()).error is None
    assert len(await app.store.journal(run.id)) == 2


async def test_the_same_start_twice_is_one_run(world: World) -> None:
    speaking = declare(speaks)
    app = await world.open(speaking, encryption_keys=(K1,))
    for _ in range(2):
        run = await app.start(speaking, MARKER, id="once")
        assert await run.result() == MARKER
    with pytest.raises(RunConflict):
        await app.start(speaking, "another", id="once")


async def test_a_worker_without_the_key_does_not_begin(world: World) -> None:
    speaking = declare(speaks)
    app = await world.open(speaking, encryption_keys=(K1,))
    await (await app.start(speaking, MARKER)).result()
    for keys, kind in (((), KeyMissing), ((K2,), KeyMissing), ((key("k1"),), DecryptionFailed)):
        other = world.app(speaking, encryption_keys=keys)
        with pytest.raises(kind, match="key k1"):
            await other.open()


async def test_a_client_without_the_key_only_looks(world: World) -> None:
    speaking = declare(speaks)
    app = await world.open(speaking, encryption_keys=(K1,))
    run = await app.start(speaking, MARKER)
    await run.result()
    client = await world.open(speaking, worker=False)
    assert await client.run(run.id).status() == "completed"
    with pytest.raises(KeyMissing, match="key k1"):
        await client.run(run.id).result()
    with pytest.raises(KeyMissing, match="key k1"):
        await client.start(speaking, MARKER)


async def _locked_run(world: World) -> str:
    """A run that only the key k1 opens, in a database where k2 is the newest."""
    speaking = declare(speaks)
    app = await world.open(speaking, encryption_keys=(K1,), worker=False)
    run = await app.start(speaking, MARKER)
    await world.open(speaking, encryption_keys=(K2, K1), worker=False)
    return run.id


async def test_runs_with_an_older_key_wait_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are neither failed nor parked: a worker that has the key takes them up again."""
    monkeypatch.setattr("aura.engine.worker._KEY_PATIENCE", 0.3)
    run_id = await _locked_run(world)
    new = await world.open(declare(speaks), encryption_keys=(K2,))
    await until(lambda: _is(new, run_id, "waiting"))
    record = await new.run(run_id).record()
    assert is_encrypted(record.input)
    assert record.error is not None
    assert b"KeyMissing" in record.error
    assert b"the key k1" in record.error
    assert record.wake_at is not None
    await new.close()
    both = await world.open(declare(speaks), encryption_keys=(K2, K1))
    assert await both.run(run_id).result(timeout=60) == MARKER
    assert (await both.run(run_id).record()).error is None


async def test_an_older_key_is_taken_out_when_its_ended_runs_are_gone(world: World) -> None:
    """Whatever no retention deletes is sealed with the new key: schedules, the catalog, feeds,
    events, and runs that go on with their signals."""
    heard: list[str] = []

    async def waits(word: str) -> list[str]:
        found = [await mark(word), await aura.receive("go")]
        return [*found, await aura.receive("later"), await mark(word)]

    async def opened(keys: tuple[str, ...], *, listening: bool = False) -> aura.Aura:
        app = world.app(declare(waits), encryption_keys=keys)
        app.schedule("nightly", "waits", MARKER, cron="0 3 * * *")
        if listening:
            app.subscribe("topic", group="g")(_hears(heard))
        await app.open()
        return app

    app = await opened((K1,))
    await app.committer.submit(AppendFeed("choices/c", (b"1", b"2")))
    await app.emit("topic", MARKER, key="k")
    await app.start("waits", MARKER, id="r")
    await until(lambda: _entries(app, "r", 1))
    await app.close()
    async with world.app(encryption_keys=(K1,)).client() as client:
        await client.run("r").signal("later", MARKER)
    app = await opened((K2, K1))
    await until(lambda: app._resealing.done)
    await app.close()
    app = await opened((K2,), listening=True)
    try:
        [status] = await app.schedules.list()
        assert (status.schedule.name, status.state) == ("nightly", "active")
        assert "nightly" in (await app.schedules.pause("nightly")).run
        assert {one.workflow for one in await app.catalog.versions()} >= {"waits"}
        assert [one.payload for one in await app.store.feed("choices/c")] == [b"1", b"2"]
        await until(lambda: heard == [MARKER])
        await app.run("r").signal("go", MARKER)
        assert await app.run("r").result(timeout=60) == [MARKER] * 4
    finally:
        await app.close()


@step
async def mark(word: str) -> str:
    return word


def _hears(heard: list[str]) -> Callable[[str], Awaitable[None]]:
    async def hears(word: str) -> None:
        heard.append(word)

    return hears


async def test_a_run_that_nobody_can_open_is_parked_when_it_is_asked_to_stop(world: World) -> None:
    run_id = await _locked_run(world)
    new = await world.open(declare(speaks), encryption_keys=(K2,))
    await until(lambda: _is(new, run_id, "waiting"))
    await new.run(run_id).cancel()
    await until(lambda: _is(new, run_id, "parked"))


async def _is(app: aura.Aura, run_id: str, state: str) -> bool:
    return await app.run(run_id).status() == state


async def _entries(app: aura.Aura, run_id: str, count: int) -> bool:
    return len(await app.store.journal(run_id)) == count


async def test_keys_are_in_no_text(world: World, caplog: pytest.LogCaptureFixture) -> None:
    secret = K1.partition(":")[2]
    config = Config(database=world.database, encryption_keys=(K1,))
    speaking = declare(speaks)
    app = await world.open(speaking, encryption_keys=(K1,))
    await (await app.start(speaking, MARKER)).result()
    with pytest.raises(ConfigError) as caught:
        Config(encryption_keys=(K1, K1))
    said = [repr(config), repr(app), repr(app.store), repr(vars(app.store)), str(caught.value)]
    assert all(secret not in one for one in [*said, caplog.text])


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_ENCRYPTION_KEYS", f"{K1}, {K2}")
    assert Config().encryption_keys == (K1, K2)
    monkeypatch.delenv("AURA_ENCRYPTION_KEYS")
    assert Config().encryption_keys == ()


async def test_without_keys_the_store_is_not_wrapped(memory: World) -> None:
    app = await memory.open(declare(speaks))
    assert type(unguarded(app.store)) is type(open_store(":memory:", SystemClock()))
