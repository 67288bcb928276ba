"""What goes wrong with databases: errors that say what to do, and recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from aura.errors import ConfigError, LeaseLost, StoreError, StoreUnavailable
from aura.store.base import AppendFeed, Claim, PutDocument, Store
from aura.store.postgres import PostgresStore
from aura.store.postgres_link import explain, masked, place, refuse_old_server
from aura.store.sqlite import SqliteStore
from tests.conftest import PostgresServer
from tests.store.kit import (
    PAIRS,
    Backend,
    append,
    beat,
    claim,
    claimed_ids,
    eventually,
    settle,
    start,
    the_run,
)


async def terminate(url: str, where: str = "true") -> int:
    """Kill the database's other connections; how many there were."""
    admin = await asyncpg.connect(url)
    killed = await admin.fetch(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {where}"  # noqa: S608
        " AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    await admin.close()
    return len(killed)


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.open()
    yield store
    await store.close()


async def test_data_outlives_its_store(shared: Backend) -> None:
    first = await shared.open()
    await first.commit([start("a", owner="w"), append("a", 1), settle("a")])
    before = await first.run("a")
    await first.close()
    second = await shared.open()
    assert await second.run("a") == before
    assert len(await second.journal("a")) == 1


async def test_a_closed_postgres_says_so(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.run("a")
    await store.open()
    await store.close()
    for attempt in (
        store.commit([start("a")]),
        store.claim(Claim("w", PAIRS, 1)),
        store.run("a"),
        store.info(),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await attempt
    await store.close()


async def test_a_store_can_be_opened_again(shared: Backend) -> None:
    store = await shared.open()
    await store.commit([start("a")])
    await store.close()
    await store.open()
    assert await claimed_ids(store) == ["a"]


async def test_a_server_that_is_not_there() -> None:
    store = PostgresStore("postgresql://aura:secret@127.0.0.1:1/aura")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1.*cannot be reached") as caught:
        await store.open()
    assert "secret" not in str(caught.value)
    assert "AURA_DATABASE_URL" in str(caught.value)


async def test_a_host_without_a_name() -> None:
    store = PostgresStore("postgresql://aura@no-such-host.invalid/aura")
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid"):
        await store.open()


async def test_a_database_that_does_not_exist(postgres_server: PostgresServer) -> None:
    with pytest.raises(StoreUnavailable, match="createdb"):
        await PostgresStore(postgres_server.url("nowhere")).open()


async def test_a_user_that_does_not_exist(postgres_url: str) -> None:
    url = postgres_url.replace("//postgres:", "//nobody:hush")
    with pytest.raises(StoreUnavailable, match="refused the login") as caught:
        await PostgresStore(url).open()
    assert "hush" not in str(caught.value)


async def test_a_user_without_rights(postgres_url: str, postgres_server: PostgresServer) -> None:
    role = urlsplit(postgres_url).path.strip("/") + "_guest"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(StoreUnavailable, match="GRANT"):
            await PostgresStore(postgres_url.replace("//postgres:", f"//{role}:")).open()
    finally:
        postgres_server.execute(f"DROP ROLE {role}")


async def test_a_read_only_database(postgres_url: str, postgres_server: PostgresServer) -> None:
    name = urlsplit(postgres_url).path.strip("/")
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match="read-only"):
        await PostgresStore(postgres_url).open()


async def test_no_connection_left(postgres_url: str, postgres_server: PostgresServer) -> None:
    name = urlsplit(postgres_url).path.strip("/")
    role = name + "_one"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    try:
        with pytest.raises(StoreUnavailable, match="max_connections"):
            await PostgresStore(postgres_url.replace("//postgres:", f"//{role}:")).open()
    finally:
        postgres_server.execute(f"DROP ROLE {role}")


def test_other_urls_are_refused() -> None:
    with pytest.raises(ConfigError, match="postgresql://user:password@host"):
        PostgresStore("mysql://root:secret@localhost/aura")


@pytest.mark.parametrize(
    ("url", "shown", "where"),
    [
        (
            "postgresql://me:pa@ss:word@db.example:5433/aura?ssl=require",
            "postgresql://me:***@db.example:5433/aura?ssl=require",
            "db.example:5433, database aura",
        ),
        ("postgresql://me@db/aura", "postgresql://me@db/aura", "db, database aura"),
        (
            "postgresql:///aura?host=/run/pg&password=hush&user=me",
            "postgresql:///aura?host=/run/pg&password=***&user=me",
            "/run/pg, database aura",
        ),
        ("postgres://db", "postgres://db", "db, database (default)"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str, where: str) -> None:
    assert masked(url) == shown
    assert place(url) == where
    assert PostgresStore(url).url == shown


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (asyncpg.DiskFullError("no space left"), "Free disk space"),
        (asyncpg.CannotConnectNowError("starting up"), "in a moment"),
        (asyncpg.AdminShutdownError("terminating"), "connects anew"),
        (asyncpg.DeadlockDetectedError("deadlock"), "try again"),
        (asyncpg.InvalidCachedStatementError("changed"), "try again"),
        (asyncpg.OutOfMemoryError("out of memory"), "server's log"),
        (TimeoutError(), "does not answer"),
        (ConnectionResetError("reset"), "Check that it runs"),
    ],
)
def test_each_condition_has_its_advice(error: BaseException, advice: str) -> None:
    shown = explain(error, "postgresql://me:hush@db/aura")
    assert shown is not None
    assert advice in str(shown)
    assert "db, database aura" in str(shown)
    assert "hush" not in str(shown)


def test_servers_that_are_too_old_are_refused() -> None:
    refuse_old_server(14)
    with pytest.raises(StoreError, match=r"13 is too old.*14 or newer"):
        refuse_old_server(13)


async def test_a_table_changed_under_a_prepared_statement(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """As a newer Aura's migration does while this one runs."""
    await postgres.commit([PutDocument("k", "n", b"1")])
    (before,) = await postgres.documents("k")
    other = await asyncpg.connect(postgres_url)
    await other.execute("ALTER TABLE aura.documents ALTER epoch TYPE bigint")
    await other.close()
    assert await postgres.documents("k") == [before]
    assert await postgres.commit([PutDocument("k", "n", b"2")]) == [2]


def test_programming_errors_are_not_masked() -> None:
    for error in (asyncpg.UndefinedColumnError("x"), asyncpg.InterfaceError("x"), KeyError("x")):
        assert explain(error, "postgresql://db/aura") is None


async def test_wrong_values_raise_and_leave_the_store_usable(postgres: PostgresStore) -> None:
    with pytest.raises(asyncpg.DataError):
        await postgres.commit([PutDocument("k", "n", "text")])  # type: ignore[arg-type]
    with pytest.raises(asyncpg.PostgresError):
        await postgres.commit([start("nul\x00")])
    assert len(await postgres.commit([start("a")])) == 1


async def test_killed_connections_are_replaced(postgres: PostgresStore, postgres_url: str) -> None:
    await beat(postgres, "w")
    await postgres.commit([start("a", owner="w")])
    assert await terminate(postgres_url) >= 2

    async def recovered() -> bool:
        try:
            return await postgres.commit([append("a", 1)]) == [None]
        except StoreUnavailable:
            return False

    await eventually(recovered)
    assert (await the_run(postgres, "a")).state == "running"
    assert [one.seq for one in await postgres.journal("a")] == [1]


async def test_a_commit_that_is_cut_off_can_be_repeated(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """Connections are killed again and again while batches are written; none is lost or doubled."""
    await postgres.commit([start("a", owner="w")])
    done = asyncio.Event()

    kills = 0

    async def kill() -> None:
        nonlocal kills
        while not done.is_set():
            kills += await terminate(postgres_url, "query ~ 'aura[.](append|journal)'")
            await asyncio.sleep(0.02)

    async def write() -> tuple[int, int]:
        """How many entries were written, and how often that failed."""
        failures = written = 0
        while written < 200 or kills < 3:
            try:
                outcomes = await postgres.commit([append("a", written + 1)])
            except StoreUnavailable:
                failures += 1
                continue
            assert outcomes == [None]
            written += 1
        done.set()
        return written, failures

    _, (written, failures) = await asyncio.gather(kill(), write())
    assert failures <= kills
    assert [one.seq for one in await postgres.journal("a")] == list(range(1, written + 1))


async def test_a_cut_off_batch_leaves_nothing_half_done(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """The server dies under a batch that waits for a lock after it has written entries."""
    await postgres.commit([start("a", owner="w"), AppendFeed("f", (b"1",))])
    blocker = await asyncpg.connect(postgres_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE aura.feeds")
        batch = asyncio.create_task(
            postgres.commit([append("a", 1), settle("a"), AppendFeed("f", (b"2",))])
        )

        async def waits() -> bool:
            return await terminate(postgres_url, "wait_event_type = 'Lock'") > 0

        await eventually(waits)
        with pytest.raises(StoreUnavailable, match="connects anew"):
            await batch
    await blocker.close()
    assert (await the_run(postgres, "a")).state == "running"
    assert await postgres.journal("a") == []
    assert len(await postgres.feed("f")) == 1


async def test_a_claim_that_is_cut_off_takes_nothing(
    postgres: PostgresStore, postgres_url: str
) -> None:
    await postgres.commit([start("a")])
    blocker = await asyncpg.connect(postgres_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE aura.journal IN ACCESS EXCLUSIVE MODE")
        attempt = asyncio.create_task(claim(postgres))

        async def waits() -> bool:
            return await terminate(postgres_url, "wait_event_type = 'Lock'") > 0

        await eventually(waits)
        with pytest.raises(StoreUnavailable):
            await attempt
    await blocker.close()
    (one,) = await claim(postgres)
    assert one.run.epoch == 1


async def test_a_claim_whose_commit_was_cut_off_is_found_again(
    postgres: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs are owned, but the answer never came: the next claim returns them."""
    await beat(postgres, "w")
    await postgres.commit([start("a"), append("a", 1, epoch=0)])
    commit = asyncpg.transaction.Transaction.commit

    async def cut_off(self: asyncpg.transaction.Transaction) -> None:
        await commit(self)
        raise ConnectionResetError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.transaction.Transaction, "commit", cut_off)
        with pytest.raises(StoreUnavailable):
            await claim(postgres)
    assert (await the_run(postgres, "a")).owner == "w"
    assert await claim(postgres, "other") == []
    (found,) = await claim(postgres)
    assert (found.run.id, found.run.epoch, found.run.owner) == ("a", 1, "w")
    assert await claim(postgres) == []


async def test_a_doubtful_claim_that_was_undone_is_forgotten(
    postgres: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await beat(postgres, "w")
    await postgres.commit([start("a")])

    async def cut_off(self: asyncpg.transaction.Transaction) -> None:
        raise ConnectionResetError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.transaction.Transaction, "commit", cut_off)
        with pytest.raises(StoreUnavailable):
            await claim(postgres)
    (found,) = await claim(postgres)
    assert found.run.epoch == 1
    assert await postgres.commit([append("a", 1)]) == [None]


async def test_an_entry_waits_for_the_claim_and_is_refused(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """A claim under way locks the run; the old owner's write sees its epoch afterwards."""
    await postgres.commit([start("a", owner="old"), start("b", owner="old")])
    other = await asyncpg.connect(postgres_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM aura.runs WHERE id = 'a' FOR UPDATE")
    late = asyncio.create_task(postgres.commit([append("a", 1), append("b", 1)]))

    async def waits() -> bool:
        watcher = await asyncpg.connect(postgres_url)
        found = await watcher.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        )
        await watcher.close()
        return bool(found)

    await eventually(waits)
    await other.execute("UPDATE aura.runs SET epoch = 2, owner = 'new' WHERE id = 'a'")
    await transaction.commit()
    await other.close()
    refused, accepted = await late
    assert isinstance(refused, LeaseLost)
    assert accepted is None
    assert await postgres.journal("a") == []


async def test_a_cancelled_caller_does_not_break_the_store(postgres: PostgresStore) -> None:
    for at in range(10):
        task: asyncio.Task[object] = asyncio.ensure_future(postgres.commit([start(f"r{at}")]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(await postgres.commit([start("last")])) == 1


@pytest.mark.parametrize("what", ["folder", "text"])
async def test_an_unusable_sqlite_path(tmp_path: Path, what: str) -> None:
    path = tmp_path / "aura.db"
    if what == "folder":
        path.mkdir()
    else:
        path.write_text("this is not a database, but it is long enough to be read as one" * 50)
    store: Store = SqliteStore(str(path))
    with pytest.raises(StoreUnavailable, match=r"aura\.db"):
        await store.open()
    await store.close()
