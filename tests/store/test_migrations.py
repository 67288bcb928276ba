"""Schemas: opened together, opened by old code, changed behind Aura's back."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from aura.errors import SchemaMismatch, SchemaTooNew
from aura.store.base import Heartbeat, RunFilter, Store
from aura.store.postgres import PostgresStore
from aura.store.queries import Migration, migrations, outstanding, queries
from aura.store.sqlite import SqliteStore
from tests.store.kit import Backend, eventually, start


def known(*names: str) -> tuple[Migration, ...]:
    return tuple(
        Migration(int(name[:4]), "pre" if "pre" in name else "post", "x", "", f"sum-{name}")
        for name in names
    )


RUNNERS = {"sqlite": "sqlite", "postgres": "postgres_migrations"}
ALL = known("0001_pre", "0002_pre", "0002_post", "0003_pre")


def applied(*names: str) -> dict[str, str]:
    return {name: f"sum-{name}" for name in names}


def ids(found: list[Migration]) -> list[str]:
    return [one.id for one in found]


def test_a_fresh_database_gets_everything() -> None:
    assert ids(outstanding(ALL, {}, None)) == ["0001_pre", "0002_pre", "0002_post", "0003_pre"]


def test_what_is_there_is_not_applied_again() -> None:
    assert ids(outstanding(ALL, applied("0001_pre", "0002_pre"), None)) == ["0002_post", "0003_pre"]
    assert outstanding(ALL, applied("0001_pre", "0002_pre", "0002_post", "0003_pre"), 1) == []


def test_removals_wait_for_older_workers() -> None:
    there = applied("0001_pre")
    assert ids(outstanding(ALL, there, 1)) == ["0002_pre", "0003_pre"]
    assert ids(outstanding(ALL, there, 3)) == ["0002_pre", "0002_post", "0003_pre"]


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(SchemaTooNew, match=r"0004.*0003.*[Uu]pgrade"):
        outstanding(ALL, applied("0001_pre", "0004_pre"), None)


def test_a_changed_migration_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="0001_pre"):
        outstanding(ALL, {"0001_pre": "other"}, None)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_the_files_are_in_order(dialect: str) -> None:
    found = migrations(dialect)
    assert [one.number for one in found] == sorted(one.number for one in found)
    assert len({one.id for one in found}) == len(found)
    assert found[0].id == "0001_pre"
    assert all(queries(dialect).values())


def _meddle(store: Store, sql: str) -> Callable[[], object]:
    if isinstance(store, SqliteStore):
        path = store.path

        def in_sqlite() -> None:
            with contextlib.closing(sqlite3.connect(path)) as db:
                db.execute(sql)
                db.commit()

        return in_sqlite
    assert isinstance(store, PostgresStore)
    url = store.url

    async def in_postgres() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(sql.replace("migrations", "aura.migrations"))
        finally:
            await connection.close()

    return in_postgres


async def meddle(store: Store, sql: str) -> None:
    done = _meddle(store, sql)()
    if asyncio.iscoroutine(done):
        await done


async def test_a_database_of_a_newer_aura_is_refused(shared: Backend) -> None:
    store = await shared.open()
    await meddle(store, "INSERT INTO migrations VALUES ('9999_pre', 'x', 0)")
    with pytest.raises(SchemaTooNew, match="9999"):
        await shared.open()


async def test_a_database_with_another_migration_is_refused(shared: Backend) -> None:
    store = await shared.open()
    await meddle(store, "UPDATE migrations SET checksum = 'x' WHERE id = '0001_pre'")
    with pytest.raises(SchemaMismatch, match="0001_pre"):
        await shared.open()
    assert len(await store.commit([start("a")])) == 1


async def test_stores_open_a_fresh_database_together(shared: Backend) -> None:
    stores = [shared.unopened() for _ in range(5)]
    await asyncio.gather(*(one.open() for one in stores))
    for at, store in enumerate(stores):
        await store.commit([start(f"run-{at}")])
        assert await stores[0].run(f"run-{at}") is not None


_OPEN = """
import asyncio, sys
from aura.store.base import Store
from aura.store.postgres import PostgresStore
from aura.store.sqlite import SqliteStore

async def main(where):
    store = PostgresStore(where) if "://" in where else SqliteStore(where)
    await store.open()
    print((await store.info()).schema)
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


async def test_processes_open_a_fresh_database_together(shared: Backend, tmp_path: Path) -> None:
    store = shared.unopened()
    assert isinstance(store, SqliteStore | PostgresStore)
    where = store.path if isinstance(store, SqliteStore) else store.url
    script = tmp_path / "open.py"
    script.write_text(_OPEN)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(script), where, stdout=-1, stderr=-1
        )
        for _ in range(3)
    ]
    answers = [await one.communicate() for one in processes]
    dialect = "sqlite" if isinstance(store, SqliteStore) else "postgres"
    newest = str(migrations(dialect)[-1].number).encode()
    assert [out.strip() for out, _ in answers] == [newest] * 3, answers


@pytest.mark.parametrize("phase", ["pre", "post"])
async def test_a_removal_waits_for_the_workers_of_before(
    shared: Backend, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """An addition is made at once; what older workers still need goes when they have gone."""
    store = await shared.open()
    await store.commit([Heartbeat("older", 60.0)])
    dialect = (await store.info()).kind
    table = "aura.migrations_2" if dialect == "postgres" else "migrations_2"
    known = migrations(dialect)
    newest = known[-1].number + 1
    second = Migration(newest, "pre", "extra", f"CREATE TABLE {table} (id integer);", "two")
    if phase == "post":
        second = replace(second, phase="post")
    monkeypatch.setattr(f"aura.store.{RUNNERS[dialect]}.migrations", lambda _: (*known, second))
    await (await shared.open()).close()
    assert await extra_is_there(store) == (phase == "pre")
    await store.commit([Heartbeat("older", 0.0)])
    await (await shared.open()).close()
    assert await extra_is_there(store)


async def extra_is_there(store: Store) -> bool:
    try:
        await meddle(store, "INSERT INTO migrations_2 VALUES (1)")
    except (sqlite3.OperationalError, asyncpg.UndefinedTableError):
        return False
    return True


async def test_a_failed_migration_leaves_nothing_behind(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = migrations("postgres")[0]
    broken = Migration(1, "pre", "core", first.sql + "\nSELECT no_such_function();", "x")
    with monkeypatch.context() as patch:
        patch.setattr("aura.store.postgres_migrations.migrations", lambda _: (broken,))
        with pytest.raises(asyncpg.UndefinedFunctionError):
            await PostgresStore(postgres_url).open()
    store = PostgresStore(postgres_url)
    await store.open()
    assert (await store.info()).schema == migrations("postgres")[-1].number
    await store.close()


async def test_forgotten_workers_leave_the_list(postgres_url: str) -> None:
    """A worker that died a day ago and owns nothing is no news to anybody."""
    store = PostgresStore(postgres_url)
    await store.open()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "INSERT INTO aura.workers VALUES ('gone', 1, 0, 1, ''), ('owner', 1, 0, 1, '')"
    )
    await store.commit([start("a", owner="owner")])
    await connection.close()
    await store.close()
    await store.open()
    assert [one.id for one in await store.workers()] == ["owner"]
    await store.close()


async def test_an_index_of_a_large_table_is_built_while_others_write(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with the new schema come to a database with the old one, in which somebody has
    a transaction open: that one can write, the other two wait, and one of them builds the index."""
    known = migrations("postgres")
    online = next(one for one in known if one.online)
    with monkeypatch.context() as patch:
        others = tuple(one for one in known if one is not online)
        patch.setattr("aura.store.postgres_migrations.migrations", lambda _: others)
        old = PostgresStore(postgres_url)
        await old.open()
    connection, watcher = [await asyncpg.connect(postgres_url) for _ in range(2)]
    new = [PostgresStore(postgres_url) for _ in range(2)]
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("UPDATE aura.runs SET epoch = epoch")  # locks the table
        opening = [asyncio.create_task(one.open()) for one in new]
        building = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%CREATE INDEX CONC%'"

        async def is_building() -> bool:
            return bool(await watcher.fetchval(f"{building} AND pid <> pg_backend_pid()"))

        await eventually(is_building)
        await old.commit([start("meanwhile")])
        await connection.execute("INSERT INTO aura.documents VALUES ('a', 'b', 1, '', 0)")
        assert not any(one.done() for one in opening)
        await transaction.commit()
        await asyncio.gather(*opening)
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'aura.runs_listed'::regclass"
        assert await connection.fetchval(valid)
        assert [one.id for one in await new[1].runs(RunFilter("pending"))] == ["meanwhile"]
    finally:
        await connection.close()
        await watcher.close()
        for one in (old, *new):
            await one.close()


async def test_an_index_that_was_broken_off_is_built_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations("postgres")
    online = next(one for one in known if one.online)
    with monkeypatch.context() as patch:
        before = tuple(one for one in known if one.number < online.number)
        patch.setattr("aura.store.postgres_migrations.migrations", lambda _: before)
        old = PostgresStore(postgres_url)
        await old.open()
        await old.close()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE INDEX runs_listed ON aura.runs (origin)")  # another one
    store = PostgresStore(postgres_url)
    await store.open()
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'aura.runs_listed'::regclass"
    assert await connection.fetchval(columns) == 4
    await connection.close()
    await store.close()


async def test_an_older_worker_keeps_the_index_that_its_lists_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "aura.db")
    known = migrations("sqlite")
    with monkeypatch.context() as patch:
        for module in ("sqlite", "sqlite_ops"):
            patch.setattr(f"aura.store.{module}.migrations", lambda _: known[:4])
        old = SqliteStore(path)
        await old.open()
        await old.commit([Heartbeat("older", 60.0), start("a"), start("b", owner="older")])

    async def indexes() -> set[str]:
        new = SqliteStore(path)
        await new.open()
        listed = [run.id for run in await new.runs(RunFilter(workflow="research"))]
        assert listed == ["b", "a"]
        await new.close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE sql > ''")}

    assert {"runs_listed", "runs_resting"} <= await indexes()
    await old.commit([Heartbeat("older", 0.0)])
    assert {"runs_listed", "runs_resting"} & await indexes() == {"runs_resting"}
    await old.close()
