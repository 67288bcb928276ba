"""The commands of docs/operate/backup.md, while runs are under way; then everything is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PostgresServer
from tests.engine.kit import until
from tests.operate.kit import client_of, commands, ledger, shell, worker, write_app

PAGE = "docs/operate/backup.md"
ORDERS = [f"order-{n}" for n in range(8)]


async def under_way(folder: Path, database: str, backup: Callable[[], None]) -> None:
    """Orders are taken and wait in their second step when the backup is made. More are taken after
    it, and then the worker dies with all that it had."""
    with worker(folder, database, lease=4.0) as process:  # as long the restored runs wait
        app = client_of(database)
        async with app.client():
            for order in ORDERS:
                await app.start("order", order, id=order)
            await until(lambda: sum(ledger(folder)[f"hold {one}"] for one in ORDERS) == len(ORDERS))
            backup()
            await app.start("order", "later", id="later")
            await until(lambda: ledger(folder)["hold later"] == 1)
        process.popen.kill()
        process.popen.wait(60)


async def gone_on(folder: Path, database: str) -> None:
    """On the restored database every order ends, and no step that had ended is run again."""
    (folder / "gate").touch()
    with worker(folder, database):
        app = client_of(database)
        async with app.client():
            for order in ORDERS:
                assert await app.run(order).result(60) == f"1.0.0 {order}"
                record = await app.run(order).record()
                assert record.recoveries == 1
            assert {one.id for one in await app.runs()} == set(ORDERS)
    lines = ledger(folder)
    for order in ORDERS:
        assert lines[f"take {order}"] == 1  # it was in the backup
        assert lines[f"hold {order}"] == 2  # it was under way
        assert lines[f"send {order}"] == 1


async def test_sqlite_is_backed_up_and_restored(tmp_path: Path) -> None:
    write_app(tmp_path)
    backup, restore = commands(PAGE, "SQLite")
    database = str(tmp_path / "aura.db")
    await under_way(tmp_path, database, lambda: shell(backup, tmp_path))
    (tmp_path / "aura.db").write_bytes(b"the disk is lost")
    shell(restore, tmp_path)
    await gone_on(tmp_path, database)


async def test_postgresql_is_backed_up_and_restored(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    write_app(tmp_path)
    backup, restore = commands(PAGE, "PostgreSQL")
    programs = f"{postgres_server.programs}:{os.environ['PATH']}"
    await under_way(
        tmp_path, postgres_url,
        lambda: shell(backup, tmp_path, PATH=programs, AURA_DATABASE_URL=postgres_url),
    )  # fmt: skip
    name = postgres_server.lend()
    restored = postgres_server.url(name)
    try:
        shell(restore, tmp_path, PATH=programs, AURA_RESTORED_URL=restored)
        await gone_on(tmp_path, restored)
    finally:
        postgres_server.take_back(name)


def test_the_page_has_commands_for_both() -> None:
    """Else the tests above would run nothing."""
    assert "source.backup(copy)" in commands(PAGE, "SQLite")[0]
    assert "pg_dump" in commands(PAGE, "PostgreSQL")[0]
    with pytest.raises(ValueError, match="substring"):
        commands(PAGE, "Oracle")
