"""A user's transaction with journal entries in it: the same on every store, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aura.codec import is_encrypted
from aura.errors import (
    LeaseLost,
    StoreUnavailable,
    TransactionConflict,
    TransactionError,
    TransactionInDoubt,
)
from aura.store.base import PutDocument, Store
from aura.store.keys import Keyring
from aura.store.postgres import PostgresStore
from aura.store.sealed import sealed
from aura.store.session import Session, first_word
from aura.store.sqlite import SqliteStore
from tests.store.cutting_proxy import Proxy
from tests.store.kit import Backend, append, claim, settle, start

Query = Callable[[str], str]


def query_of(store: Store) -> Query:
    """Statements are written with `?`; PostgreSQL numbers its parameters."""
    if isinstance(store, SqliteStore):
        return lambda sql: sql

    def numbered(sql: str) -> str:
        first, *rest = sql.split("?")
        return first + "".join(f"${at}{part}" for at, part in enumerate(rest, 1))

    return numbered


async def began(store: Store, limit: float = 30.0) -> Session:
    session = store.session(None, limit)
    await session.begin()
    return session


async def accounts(store: Store) -> Query:
    """A table with two accounts of 100 cents, and a run of this worker's."""
    await store.commit([start("r", owner="w")])
    session = await began(store)
    await session.execute("CREATE TABLE accounts (id TEXT PRIMARY KEY, cents BIGINT NOT NULL)", ())
    rows = [("ada", 100), ("bob", 100)]
    await session.execute_many(
        query_of(store)("INSERT INTO accounts (id, cents) VALUES (?, ?)"), rows
    )
    await session.commit([])
    return query_of(store)


async def cents(store: Store, who: str = "ada") -> int:
    session = await began(store)
    sql = query_of(store)("SELECT cents FROM accounts WHERE id = ?")
    [row] = await session.fetch(sql, (who,))
    await session.rollback()
    return int(row["cents"])


async def take(session: Session, query: Query, amount: int = 30) -> int:
    sql = query("UPDATE accounts SET cents = cents - ? WHERE id = ?")
    return await session.execute(sql, (amount, "ada"))


async def test_statements_and_entries_are_committed_together(store: Store) -> None:
    query = await accounts(store)
    session = await began(store)
    assert await take(session, query) == 1
    [row] = await session.fetch(query("SELECT id, cents FROM accounts WHERE id = ?"), ("ada",))
    assert (row["cents"], row[0], len(row), dict(row)) == (70, "ada", 2, {"id": "ada", "cents": 70})
    await session.commit([append("r", 1), append("r", 2)])
    assert await cents(store) == 70
    assert [one.seq for one in await store.journal("r")] == [1, 2]
    await store.commit([append("r", 3)])


async def test_a_rollback_leaves_no_trace(store: Store) -> None:
    query = await accounts(store)
    session = await began(store)
    await take(session, query)
    await session.rollback()
    await session.rollback()
    assert await cents(store) == 100
    assert await store.journal("r") == []


@pytest.mark.parametrize("wrong", ["epoch", "settled", "taken place", "no such run"])
async def test_a_worker_that_lost_the_run_commits_nothing(store: Store, wrong: str) -> None:
    query = await accounts(store)
    op = append("nobody" if wrong == "no such run" else "r", 1)
    session = store.session(None, 30.0)
    if wrong == "epoch":
        assert [one.run.id for one in await claim(store, "other")] == ["r"]
    elif wrong == "settled":
        await store.commit([append("r", 1), settle("r")])
        op = append("r", 2)
    elif wrong == "taken place":
        await store.commit([append("r", 1)])  # the same entry: whose was it?
    await session.begin()
    await take(session, query)
    with pytest.raises(LeaseLost):
        await session.commit([op])
    await session.rollback()
    assert await cents(store) == 100
    assert len(await store.journal("r")) == (wrong in ("settled", "taken place"))


@pytest.mark.parametrize(
    "sql",
    [
        *("COMMIT", "rollback", " ;; END", "-- so\nCommit", "/* a */ ABORT", "SAVEPOINT x"),
        *("RELEASE x", "BEGIN", "PREPARE TRANSACTION 'x'", "/*x*/--\n/**/START TRANSACTION"),
    ],
)
async def test_statements_cannot_end_it(store: Store, sql: str) -> None:
    query = await accounts(store)
    session = await began(store)
    await take(session, query)
    word = first_word(sql, nested=False)
    for attempt in (
        session.execute(sql, ()),
        session.fetch(sql, ()),
        session.execute_many(sql, []),
    ):
        with pytest.raises(TransactionError, match=f"cannot run {word}"):
            await attempt
    await session.rollback()
    assert await cents(store) == 100


async def test_a_script_cannot_hide_an_end(store: Store) -> None:
    query = await accounts(store)
    session = await began(store)
    await take(session, query)
    script = "UPDATE accounts SET cents = 0; COMMIT"
    for attempt in (session.execute(script, ()), session.fetch(script, ())):
        with pytest.raises((asyncpg.PostgresError, sqlite3.Error, sqlite3.Warning, Exception)):
            await attempt
    await session.rollback()
    assert await cents(store) == 100


async def test_comments_end_where_the_dialect_ends_them() -> None:
    hidden = "/* /* */ COMMIT -- */"
    assert first_word(hidden, nested=False) == "COMMIT"
    assert first_word(hidden, nested=True) == ""
    assert first_word("/* /* */ */ COMMIT", nested=True) == "COMMIT"
    assert first_word("/* never closed", nested=True) == ""


async def test_a_failed_statement_raises_the_drivers_error(store: Store) -> None:
    query = await accounts(store)
    session = await began(store)
    insert = query("INSERT INTO accounts (id, cents) VALUES (?, ?)")
    await session.mark("set", 1)
    with pytest.raises((sqlite3.IntegrityError, asyncpg.UniqueViolationError)):
        await session.execute(insert, ("ada", 5))
    await session.mark("undo", 1)
    await session.mark("set", 2)
    await session.execute(insert, ("eve", 5))
    await session.mark("keep", 2)
    await session.commit([append("r", 1)])
    assert await cents(store, "eve") == 5


async def test_a_missing_table_says_where_it_was_looked_for(store: Store) -> None:
    session = await began(store)
    with pytest.raises(TransactionError, match=r"nowhere.*in Aura's database.*tables are in"):
        await session.fetch("SELECT * FROM nowhere", ())
    await session.rollback()


async def test_others_read_and_the_loop_goes_on_meanwhile(shared: Backend) -> None:
    store = await shared.open()
    query = await accounts(store)
    session = await began(store)
    await take(session, query)
    other = asyncio.create_task(store.commit([PutDocument("kind", "name", b"1")]))
    assert await store.run("r") is not None  # reading does not wait
    if session.exclusive:
        await asyncio.sleep(0.05)
        assert not other.done()
    else:
        await asyncio.wait_for(other, 30)
    await session.commit([append("r", 1)])
    assert await asyncio.wait_for(other, 30) == [1]
    assert await cents(store) == 70


async def test_sessions_follow_each_other(store: Store) -> None:
    query = await accounts(store)

    async def one(seq: int) -> None:
        session = await began(store)
        await take(session, query, 1)
        await session.rollback() if seq % 3 == 0 else await session.commit([])

    await asyncio.gather(*(one(seq) for seq in range(12)))
    assert await cents(store) == 92


async def test_a_cancelled_begin_leaves_the_next_one_room(store: Store) -> None:
    await accounts(store)
    holders = [await began(store) for _ in range(1 if isinstance(store, SqliteStore) else 4)]
    waiting = [asyncio.create_task(began(store)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for holder in holders:
        await holder.rollback()
    assert await cents(store) == 100


async def test_a_session_knows_its_database(backend: Backend, tmp_path: Path) -> None:
    store = await backend.open()
    session = store.session(None, 1.0)
    if isinstance(store, PostgresStore):
        assert session.is_on(store._link.url)
        assert not session.is_on("postgresql://elsewhere/db")
        assert not session.is_on("aura.db")
    else:
        assert isinstance(store, SqliteStore)
        assert session.is_on(store.path)
        assert session.is_on(f"sqlite:///{store.path}")
        assert not session.is_on(str(tmp_path / "other.db"))
        assert not session.is_on("postgresql://localhost/db")


async def test_its_entries_are_sealed(store: Store) -> None:
    key = "k:" + "A" * 43 + "="
    outer = await sealed(store, Keyring((key,)))
    await outer.commit([start("r", owner="w")])
    session = await began(outer)
    await session.commit([append("r", 1)])
    [hidden], [shown] = await store.journal("r"), await outer.journal("r")
    assert is_encrypted(hidden.output)
    assert is_encrypted(hidden.input)
    assert (shown.output, shown.fingerprint) == (b"1", "shape")
    assert hidden.fingerprint != "shape"


# -- SQLite ------------------------------------------------------------------------------------


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "aura.db"))
    await store.open()
    yield store
    await store.close()


ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize("busy", [False, True])
async def test_sqlite_takes_the_lock_back(file: SqliteStore, busy: bool) -> None:
    query = await accounts(file)
    session = await began(file, limit=0.2)
    with contextlib.suppress(TransactionError):  # its time may be over already
        await take(session, query)
    running = asyncio.create_task(session.fetch(ENDLESS, ())) if busy else None
    await asyncio.wait_for(file.commit([PutDocument("kind", "name", b"1")]), 30)
    if running is not None:
        with pytest.raises(TransactionError, match=r"0\.2 s and was rolled back"):
            await running
    for attempt in (take(session, query), session.commit([append("r", 1)])):
        with pytest.raises(TransactionError, match=r"0\.2 s and was rolled back"):
            await attempt
    await session.rollback()
    assert await cents(file) == 100
    assert await file.journal("r") == []


async def test_sqlite_stops_a_statement_that_nobody_waits_for(file: SqliteStore) -> None:
    query = await accounts(file)
    session = await began(file)
    await take(session, query)
    running = asyncio.create_task(session.fetch(ENDLESS, ()))
    await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.wait_for(session.rollback(), 30)
    assert await cents(file) == 100


async def test_sqlite_notices_a_statement_that_rolled_back(file: SqliteStore) -> None:
    query = await accounts(file)
    session = await began(file)
    await take(session, query)
    with pytest.raises(TransactionError, match="rolled the transaction back"):
        await session.execute("INSERT OR ROLLBACK INTO accounts VALUES ('ada', 1)", ())
    for attempt in (take(session, query), session.commit([append("r", 1)])):
        with pytest.raises(TransactionError, match="rolled the transaction back"):
            await attempt
    await session.rollback()
    assert await cents(file) == 100
    assert await file.journal("r") == []


@pytest.mark.parametrize("sql", ["PRAGMA synchronous = OFF", "ATTACH 'x.db' AS x", "vacuum"])
async def test_sqlite_keeps_its_connection(file: SqliteStore, sql: str) -> None:
    session = await began(file)
    with pytest.raises(TransactionError, match="connection that Aura writes with"):
        await session.execute(sql, ())
    await session.rollback()


async def test_sqlite_takes_names_too(file: SqliteStore) -> None:
    await accounts(file)
    session = await began(file)
    [row] = await session.fetch("SELECT :a + :b", ({"a": 1, "b": 2},))
    assert row[0] == 3
    await session.rollback()


async def test_sqlite_waits_for_another_process(file: SqliteStore) -> None:
    query = await accounts(file)
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 'ada'")
    beginning = asyncio.create_task(began(file))
    await asyncio.sleep(0.05)
    assert not beginning.done()
    other.execute("COMMIT")
    session = await asyncio.wait_for(beginning, 30)
    await take(session, query)
    await session.commit([append("r", 1)])
    assert await cents(file) == 71
    other.close()


class BreaksAtCommit:
    """A connection whose next COMMIT fails, before or after it took place."""

    def __init__(self, db: sqlite3.Connection, when: str) -> None:
        self._db = db
        self._when = when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql != "COMMIT" or not self._when:
            return self._db.execute(sql, *values)
        when, self._when = self._when, ""
        if when == "after":
            self._db.execute(sql)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error


@pytest.mark.parametrize("when", ["before", "after"])
async def test_sqlite_finds_out_what_a_broken_commit_did(file: SqliteStore, when: str) -> None:
    query = await accounts(file)
    session = await began(file)
    await take(session, query)
    db = file._writer._db
    assert db is not None
    file._writer._db = BreaksAtCommit(db, when)  # type: ignore[assignment]
    if when == "after":
        await session.commit([append("r", 1)])
    else:
        with pytest.raises(StoreUnavailable, match="disk I/O error"):
            await session.commit([append("r", 1)])
    file._writer._db = db
    assert await cents(file) == (70 if when == "after" else 100)
    assert len(await file.journal("r")) == (when == "after")


# -- PostgreSQL --------------------------------------------------------------------------------


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.open()
    yield store
    await store.close()


async def test_postgres_says_when_to_try_again(postgres: PostgresStore) -> None:
    await accounts(postgres)
    sessions = [postgres.session("serializable", 1.0) for _ in range(2)]
    for at, session in enumerate(sessions):
        await session.begin()
        await session.fetch("SELECT sum(cents) FROM accounts", ())
        await session.execute("INSERT INTO accounts VALUES ($1, $2)", (f"new {at}", at))
    await sessions[0].commit([append("r", 1)])
    with pytest.raises(TransactionConflict):
        await sessions[1].commit([append("r", 2)])
    await sessions[1].rollback()
    assert [one.seq for one in await postgres.journal("r")] == [1]
    again = await began(postgres)
    assert (await again.fetch("SELECT count(*) FROM accounts", ()))[0][0] == 3
    await again.rollback()


async def test_postgres_refuses_to_go_on_after_a_failure(postgres: PostgresStore) -> None:
    query = await accounts(postgres)
    session = await began(postgres)
    await take(session, query)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await session.fetch("SELECT 1 / 0", ())
    with pytest.raises(TransactionError, match=r"failed statement .division by zero.*savepoint"):
        await take(session, query)
    with pytest.raises(TransactionError, match="failed statement"):
        await session.commit([append("r", 1)])
    assert await cents(postgres) == 100


async def test_postgres_gives_each_transaction_a_clean_connection(postgres: PostgresStore) -> None:
    await accounts(postgres)
    for _ in range(6):
        session = await began(postgres)
        [row] = await session.fetch(
            "SELECT current_setting('search_path') AS path, current_setting('enable_seqscan') AS"
            " scan, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks",
            (),
        )
        assert dict(row) == {"path": '"$user", public', "scan": "on", "locks": 0}
        await session.execute("SET search_path = elsewhere", ())
        await session.fetch("SELECT pg_advisory_lock(7)", ())
        await session.commit([])


async def test_postgres_is_durable_whatever_the_user_sets(postgres: PostgresStore) -> None:
    query = await accounts(postgres)
    session = await began(postgres)
    await session.execute("SET LOCAL synchronous_commit = off", ())
    await take(session, query)
    seen: list[str] = []
    connection = session._connection  # type: ignore[attr-defined]
    connection.add_query_logger(lambda record: seen.append(record.query))
    await session.fetch("SELECT 1", ())
    assert (await connection.fetchval("SHOW synchronous_commit")) == "off"
    execute = connection.execute

    async def look(sql: str, **more: Any) -> Any:
        if sql == "COMMIT":
            seen.append(await connection.fetchval("SHOW synchronous_commit"))
        return await execute(sql, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(connection), "execute", lambda _, sql, **more: look(sql, **more))
        await session.commit([append("r", 1)])
    assert "on" in seen


async def test_postgres_survives_a_killed_connection(
    postgres: PostgresStore, postgres_url: str
) -> None:
    query = await accounts(postgres)
    session = await began(postgres)
    await take(session, query)
    admin = await asyncpg.connect(postgres_url)
    [row] = await session.fetch("SELECT pg_backend_pid()", ())
    await admin.execute("SELECT pg_terminate_backend($1)", row[0])

    async def until_it_fails() -> None:
        async with asyncio.timeout(60):
            while True:
                await take(session, query, 0)

    with pytest.raises(StoreUnavailable):
        await until_it_fails()
    with pytest.raises(StoreUnavailable):
        await session.commit([append("r", 1)])
    await session.rollback()
    assert await cents(postgres) == 100
    await admin.close()


@pytest.fixture
async def proxy(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgres_url, tmp_path_factory.mktemp("p"))
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.mark.parametrize("mode", ["before", "after", "slow"])
async def test_postgres_finds_out_what_a_cut_commit_did(proxy: Proxy, mode: str) -> None:
    store = PostgresStore(proxy.url)
    await store.open()
    query = await accounts(store)
    session = await began(store)
    await take(session, query)
    proxy.mode = mode
    if mode == "slow":
        asyncio.get_running_loop().call_later(0.2, proxy.let_go.set)
    if mode == "before":
        with pytest.raises(TransactionConflict, match="before the commit"):
            await session.commit([append("r", 1)])
    else:
        await session.commit([append("r", 1)])
    assert proxy.cuts == 1
    assert await cents(store) == (100 if mode == "before" else 70)
    assert len(await store.journal("r")) == (mode != "before")
    await store.close()


async def test_postgres_says_when_nobody_knows(proxy: Proxy) -> None:
    store = PostgresStore(proxy.url)
    await store.open()
    query = await accounts(store)
    session = await began(store)
    await take(session, query)
    proxy.mode = "after"
    with pytest.raises(TransactionInDoubt, match="not known whether"):
        await session.commit([])
    await store.close()
