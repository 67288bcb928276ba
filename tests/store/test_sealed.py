"""Encryption: nothing readable is stored, all comes back, and what does not open is told."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import asyncpg
import pytest

from aura.codec import is_encrypted, unpack
from aura.errors import ConfigError, DecryptionFailed, KeyMissing, MissingExtra
from aura.store.base import (
    Append,
    AppendFeed,
    Claim,
    Entry,
    PutDocument,
    RequestCancel,
    RunFilter,
    SendSignal,
    Settle,
    Started,
    StartRun,
    Store,
)
from aura.store.keys import Keyring
from aura.store.portable import Page
from aura.store.postgres import PostgresStore
from aura.store.sealed import SealedStore, sealed
from aura.store.sqlite import SqliteStore
from tests.store.kit import PAIRS, beat, the_run

MARKER = b"tell-nobody-4711"
JSON = b'"' + MARKER + b'"'


def key(key_id: str) -> str:
    return f"{key_id}:{base64.b64encode(os.urandom(32)).decode()}"


K1, K2 = key("k1"), key("k2")


async def fill(store: Store) -> None:
    """One of everything that may hold a payload; the fingerprints are telling too."""
    text = MARKER.decode()
    entry = Entry("a", 1, "0/s#1", "step", text, JSON, JSON, None, 1, 1.0, 2.0)
    await beat(store, "w")
    await store.commit([StartRun("a", "research", "1.0.0", JSON, text, "o", "w")])
    outcomes = await store.commit(
        [
            Append(1, entry),
            Append(1, entry._replace(seq=2, key="0/s#2", output=None, error=JSON)),
            SendSignal("a", "go", JSON, "id-1"),
            PutDocument("split", "s", JSON),
            AppendFeed("observations/s", (JSON, JSON)),
        ]
    )
    assert not any(isinstance(outcome, Exception) for outcome in outcomes), outcomes
    for run_id, state in (("b", "completed"), ("c", "failed")):
        await store.commit([StartRun(run_id, "research", "1.0.0", JSON, text, "o", "w")])
        output, error = (JSON, None) if state == "completed" else (None, JSON)
        ended = "completed" if state == "completed" else "failed"
        await store.commit([Settle(run_id, 1, ended, output, error)])  # type: ignore[arg-type]


async def check(store: Store) -> None:
    """All of it comes back."""
    run = await the_run(store, "a")
    assert (run.input, run.fingerprint) == (JSON, MARKER.decode())
    first, second = await store.journal("a")
    assert (first.fingerprint, first.input, first.output) == (MARKER.decode(), JSON, JSON)
    assert (second.output, second.error) == (None, JSON)
    assert await store.entries("a", "step") == [first, second]
    assert [signal.payload for signal in await store.signals([("a", 0)])] == [JSON]
    document = await store.document("split", "s")
    assert document is not None
    assert document.body == JSON
    assert await store.documents("split") == [document]
    assert [item.payload for item in await store.feed("observations/s")] == [JSON, JSON]
    by_id = {run.id: run for run in await store.runs(RunFilter())}
    assert (by_id["b"].output, by_id["c"].error) == (JSON, JSON)


async def test_everything_comes_back(store: Store) -> None:
    safe = await sealed(store, Keyring([K1]))
    await fill(safe)
    await check(safe)


async def test_nothing_readable_is_in_the_rows(store: Store) -> None:
    await fill(await sealed(store, Keyring([K1])))
    rows = [
        *await store.runs(RunFilter()),
        *await store.journal("a"),
        *await store.signals([("a", 0)]),
        *await store.documents("split"),
        *await store.documents("key"),
        *await store.feed("observations/s"),
    ]
    assert len(rows) == 10
    assert MARKER not in repr(rows).encode()
    stored = await the_run(store, "a")
    assert is_encrypted(stored.input)


async def test_nothing_readable_is_in_the_files(tmp_path: Path) -> None:
    """The SQLite file and its log, byte by byte; without keys the same way finds the marker."""
    for name, keys, expected in (("sealed.db", [K1], False), ("plain.db", [], True)):
        store = SqliteStore(str(tmp_path / name))
        await store.open()
        await fill(await sealed(store, Keyring(keys)))
        written = b"".join(one.read_bytes() for one in tmp_path.glob(name + "*"))
        await store.close()
        written += (tmp_path / name).read_bytes()
        assert b"observations/s" in written
        assert (MARKER in written) is expected


async def test_nothing_readable_is_in_a_dump(postgres_url: str, tmp_path: Path) -> None:
    store = PostgresStore(postgres_url)
    await store.open()
    await fill(await sealed(store, Keyring([K1])))
    connection = await asyncpg.connect(postgres_url)
    dump = b""
    for table in ("runs", "journal", "signals", "documents", "feeds", "workers"):
        file = tmp_path / table
        await connection.copy_from_table(table, schema_name="aura", output=file, format="binary")
        assert file.stat().st_size > 30, table
        dump += file.read_bytes()
    await connection.close()
    await store.close()
    assert b"observations/s" in dump
    assert MARKER not in dump


async def test_started_and_claimed_runs_are_open(store: Store) -> None:
    safe = await sealed(store, Keyring([K1]))
    op = StartRun("a", "research", "1.0.0", JSON, "f", "o")
    for created in (True, False):
        [outcome] = await safe.commit([op])
        assert isinstance(outcome, Started)
        assert (outcome.created, outcome.run.input, outcome.run.fingerprint) == (created, JSON, "f")
    await beat(safe, "w")
    [claimed] = (await safe.claim(Claim("w", PAIRS, 10))).runs
    assert (claimed.run.input, claimed.run.fingerprint) == (JSON, "f")
    [asked] = await safe.commit([RequestCancel("a")])
    assert getattr(asked, "input", None) == JSON


async def test_keys_are_rotated(store: Store) -> None:
    await fill(await sealed(store, Keyring([K1])))
    both = await sealed(store, Keyring([K2, K1]))
    await check(both)
    await both.commit([StartRun("new", "research", "1.0.0", JSON, "f", "o")])
    assert b"k2" in (await the_run(store, "new")).input[:8]
    old = await sealed(store, Keyring([K1]))
    assert isinstance(old, SealedStore)
    assert isinstance(old.refusal, KeyMissing)
    assert old.refusal.key_id == "k2"
    new = await sealed(store, Keyring([K2]))
    assert (await the_run(new, "new")).input == JSON
    with pytest.raises(KeyMissing, match="the key k1, which this process does not have"):
        unpack((await the_run(new, "a")).input)
    await new.commit([StartRun("newer", "research", "1.0.0", JSON, "f", "o")])


async def test_rows_are_sealed_anew_where_they_are_as_they_were_read(store: Store) -> None:
    await store.commit([PutDocument("split", "plain", JSON)])
    old = await sealed(store, Keyring([K1]))
    await old.commit([PutDocument("split", "s", JSON), PutDocument("split", "late", JSON)])
    new = await sealed(store, Keyring([K2, K1]))
    assert isinstance(new, SealedStore)
    await new.commit([PutDocument("split", "new", JSON)])
    changes, last = await new.stale(Page("documents"))
    assert [was["name"] for was, _ in changes] == ["late", "plain", "s"]
    assert all(row["body"] == JSON for _, row in changes)
    await old.commit([PutDocument("split", "late", b'"later"')])
    assert await new.replace_rows("documents", changes) == 2
    only = await sealed(store, Keyring([K2]))
    before = {one.name: one for one in await new.documents("split")}
    for name in ("plain", "s", "new"):
        assert await only.document("split", name) == before[name]
    assert before["s"].epoch == 1, "nobody has changed it"
    with pytest.raises(KeyMissing, match="key k1"):
        await only.document("split", "late")
    assert before["late"].body == b'"later"'
    assert isinstance(only, SealedStore)
    assert last is not None
    assert await new.stale(Page("documents", last)) == ([], None)
    assert await only.stale(Page("documents")) == ([], last), "what it cannot open is left out"


async def test_feeds_are_sealed_anew(store: Store) -> None:
    old = await sealed(store, Keyring([K1]))
    await old.commit([AppendFeed("choices/a", (JSON, b"2")), AppendFeed("choices/b", (b"3",))])
    new = await sealed(store, Keyring([K2, K1]))
    assert isinstance(new, SealedStore)
    changes, _ = await new.stale(Page("feeds"))
    assert await new.replace_rows("feeds", changes) == 3
    only = await sealed(store, Keyring([K2]))
    assert [one.payload for one in await only.feed("choices/a")] == [JSON, b"2"]
    assert [one.payload for one in await only.feed("choices/b")] == [b"3"]
    assert (await new.stale(Page("feeds")))[0] == []


@pytest.mark.parametrize(("keys", "kind"), [((), KeyMissing), ((key("k1"),), DecryptionFailed)])
async def test_without_the_key_all_is_kept_and_nothing_is_written(
    store: Store, keys: tuple[str, ...], kind: type[DecryptionFailed]
) -> None:
    await fill(await sealed(store, Keyring([K1])))
    stranger = await sealed(store, Keyring(keys))
    with pytest.raises(kind, match="key k1"):
        await stranger.commit([StartRun("x", "research", "1.0.0", JSON, "f", "o")])
    assert await store.run("x") is None
    found = await the_run(stranger, "a")
    assert is_encrypted(found.input)
    with pytest.raises(kind):
        unpack(found.input)
    with pytest.raises(kind):
        await stranger.document("split", "s")
    with pytest.raises(kind):
        await stranger.feed("observations/s")
    await check(await sealed(store, Keyring([K1])))


async def test_a_plain_database_may_become_an_encrypted_one(store: Store) -> None:
    assert await sealed(store, Keyring([])) is store
    await fill(store)
    await check(await sealed(store, Keyring([K1])))


async def test_two_processes_that_are_first_together_agree(store: Store) -> None:
    one, other = key("k1"), key("k1")
    await sealed(store, Keyring([one]))
    second = await sealed(store, Keyring([other]))
    assert isinstance(second, SealedStore)
    assert isinstance(second.refusal, DecryptionFailed)


async def test_a_frame_opens_in_its_place_only(store: Store) -> None:
    safe = await sealed(store, Keyring([K1]))
    await safe.commit([StartRun("a", "research", "1.0.0", JSON, "f", "o")])
    moved = (await the_run(store, "a")).input
    await store.commit([StartRun("b", "research", "1.0.0", moved, "f", "o")])
    with pytest.raises(DecryptionFailed, match="changed or moved"):
        unpack((await the_run(safe, "b")).input)


def test_frames_differ_and_changed_ones_do_not_open() -> None:
    keys = Keyring([K1])
    one, other = keys.seal(JSON, b"here"), keys.seal(JSON, b"here")
    assert one != other
    assert MARKER not in one
    assert Keyring([K2, K1]).open(one, b"here") == JSON
    for at in range(len(one)):
        changed = one[:at] + bytes([one[at] ^ 1]) + one[at + 1 :]
        assert keys.open(changed, b"here") != JSON, at
    for length in range(1, len(one)):
        with pytest.raises(DecryptionFailed):
            unpack(keys.open(one[:length], b"here"))


@pytest.mark.parametrize(
    "texts",
    [
        ["no-colon"],
        [":" + K1.partition(":")[2]],
        ["k1:" + base64.b64encode(b"short").decode()],
        ["k1:not base64, but secret"],
        [K1, K1],
        [K1, "a b:" + K2.partition(":")[2]],
    ],
)
def test_bad_keys_are_refused_without_showing_them(texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Keyring(texts)
    said = str(caught.value)
    assert "openssl rand -base64 32" in said
    assert all(text.partition(":")[2][:12] not in said for text in texts if text[:2] == "k1")


def test_a_keyring_shows_ids_only() -> None:
    keys = Keyring([K1, K2])
    assert repr(keys) == "<keyring k1 k2>"
    url_safe = "k3:" + base64.urlsafe_b64encode(b"\xff" * 32).decode()
    assert Keyring([url_safe]).ids == ("k3",)


def test_without_the_package_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingExtra, match=r"pip install 'aura-workflows\[crypto\]'"):
        Keyring([K1])
    assert Keyring([]).ids == ()
