"""PostgreSQL: what is not known of a claim for a while, and connections that went wrong inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from aura.errors import StoreUnavailable
from aura.store.portable import Fence
from aura.store.postgres import PostgresStore
from aura.store.postgres_link import Link
from tests.store.kit import beat, claim, eventually, start, the_run


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.open()
    yield store
    await store.close()


async def test_a_claim_whose_commit_is_still_under_way_stays_in_doubt(
    postgres: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was lost, and the server commits only after the next claims have looked."""
    await beat(postgres, "w")
    await postgres.commit([start("a")])
    left: list[Any] = []

    async def cut_off(self: Any) -> None:
        left.append(self._connection)
        raise ConnectionResetError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.transaction.Transaction, "commit", cut_off)
        patch.setattr(asyncpg.Connection, "terminate", lambda _: None)
        patch.setattr(Link, "judge", _unavailable)
        assert postgres._reads is not None
        patch.setattr(postgres._reads, "take_back", lambda _: postgres._reads._room.release())
        with pytest.raises(StoreUnavailable):
            await claim(postgres)
    assert await claim(postgres) == []
    assert await claim(postgres) == []
    (connection,) = left
    await connection.execute("COMMIT")
    await connection.close()
    assert (await the_run(postgres, "a")).owner == "w"
    (found,) = await claim(postgres)
    assert (found.run.id, found.run.epoch, found.run.owner) == ("a", 1, "w")
    assert await claim(postgres) == []


def _unavailable(_link: Link, _connection: object, error: BaseException) -> None:
    raise StoreUnavailable(str(error)) from error


async def test_a_refused_claim_leaves_no_broken_transaction(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """Somebody cancels the query of a claim; its connection is not lent in a failed transaction."""
    await beat(postgres, "w")
    await postgres.commit([start("a")])
    blocker = await asyncpg.connect(postgres_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE aura.journal IN ACCESS EXCLUSIVE MODE")
        attempt = asyncio.create_task(claim(postgres))

        async def cancelled() -> bool:
            watcher = await asyncpg.connect(postgres_url)  # one transaction sees one state only
            found = await watcher.fetchval(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            await watcher.close()
            return bool(found)

        await eventually(cancelled)
        with pytest.raises(StoreUnavailable):
            await attempt
    await blocker.close()
    (found,) = await claim(postgres)
    assert found.run.epoch == 1


async def test_taking_runs_away_waits_for_no_commit_while_it_holds_others(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """A commit locks runs in the order of its entries, so the two would wait for each other."""
    await beat(postgres, "w")
    await postgres.commit([start("a", owner="w"), start("b", owner="w")])
    blocker = await asyncpg.connect(postgres_url)
    lock = "SELECT FROM aura.runs WHERE id = $1 FOR KEY SHARE"
    async with blocker.transaction():
        await blocker.execute(lock, "b")
        assert await postgres.fence(Fence("m", force=True)) == ["a"], "not the one that is locked"
        await blocker.execute(lock, "a")
        waiting = asyncio.create_task(postgres.fence(Fence("m", force=True)))
    assert await waiting == ["b"]
    assert await postgres.fence(Fence("m", force=True)) == []
    await blocker.close()


async def test_a_server_that_goes_away_while_a_connection_is_set_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the database's condition, whatever the driver calls it: who listens tries again."""
    link = Link(postgres_url)

    async def refused(self: asyncpg.Connection[Any], *_: Any, **__: Any) -> str:
        raise asyncpg.AdminShutdownError("terminating connection due to administrator command")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", refused)
        with pytest.raises(StoreUnavailable):
            await link.connect()
