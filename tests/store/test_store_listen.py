"""Topics: what listeners hear from their own store and from others."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from aura.store.base import (
    AppendFeed,
    Op,
    PutDocument,
    RequestCancel,
    RunState,
    Settle,
    Store,
    topics,
)
from aura.store.postgres import PostgresStore
from tests.store.kit import Backend, append, beat, claim, eventually, settle, start

LATE = 2_000_000_000.0 * 2


class Heard:
    """Collects what a store's listeners hear."""

    def __init__(self, store: Store) -> None:
        self.topics: list[str] = []
        self.stop = store.listen(self.topics.append)

    async def until(self, topic: str) -> list[str]:
        """All topics heard up to this one; forgets them."""

        async def there() -> bool:
            return topic in self.topics

        await eventually(there)
        heard, self.topics[:] = list(self.topics), []
        return heard


BATCHES: list[tuple[list[Op], set[str]]] = [
    ([start("new")], {"ready"}),
    ([start("mine", owner="w"), start("mine2", owner="w"), append("mine", 1)], set()),
    ([settle("mine")], {"run:mine"}),
    ([settle("mine2", "pending")], {"ready"}),
    ([RequestCancel("new")], {"cancel:new", "run:new"}),
    ([PutDocument("split", "sea/rch", b"1", 0)], {"doc:split/sea/rch"}),
    ([PutDocument("split", "sea/rch", b"1", 0), PutDocument("k", "n", b"")], {"doc:k/n"}),
    ([AppendFeed("f", (b"1",)), AppendFeed("g", (b"1",))], {"feed:f", "feed:g"}),
    ([start("100%\né", owner="w"), settle("100%\né")], {"run:100%\né"}),
]


async def test_this_store_hears_at_once(store: Store) -> None:
    await beat(store, "w")
    heard: list[str] = []
    store.listen(heard.append)
    for ops, expected in BATCHES:
        await store.commit(ops)
        assert set(heard) == expected
        assert len(heard) == len(expected)
        heard.clear()


async def test_other_stores_hear_the_same(shared: Backend) -> None:
    speaker, other = await shared.open(), await shared.open()
    heard = Heard(other)
    await beat(speaker, "w")
    for number, (ops, expected) in enumerate(BATCHES):
        mark = f"doc:mark/{number}"
        await speaker.commit(ops)
        await speaker.commit([PutDocument("mark", str(number), b"")])
        assert set(await heard.until(mark)) - {mark} == expected


async def test_a_result_that_nobody_awaits_stays_here(shared: Backend) -> None:
    speaker, other = await shared.open(), await shared.open()
    here, there = Heard(speaker), Heard(other)
    await speaker.commit([start("a", owner="w"), Settle("a", 1, "completed", announce=False)])
    await speaker.commit([PutDocument("mark", "end", b"")])
    assert "run:a" in await here.until("doc:mark/end")
    assert "run:a" not in await there.until("doc:mark/end")


async def test_own_announcements_are_heard_once(shared: Backend) -> None:
    speaker, other = await shared.open(), await shared.open()
    here, there = Heard(speaker), Heard(other)
    await speaker.commit([AppendFeed("mine", (b"1",))])
    await there.until("feed:mine")
    await other.commit([AppendFeed("theirs", (b"1",))])
    assert (await here.until("feed:theirs")).count("feed:mine") == 1


async def test_many_topics_at_once_are_all_heard(shared: Backend) -> None:
    """More than one notification can carry."""
    speaker, other = await shared.open(), await shared.open()
    heard = Heard(other)
    names = [f"{at:03}-{'n' * (at % 90)}" for at in range(400)]
    await speaker.commit([PutDocument("split", one, b"") for one in names])

    async def all_there() -> bool:
        return {f"doc:split/{one}" for one in names} <= set(heard.topics)

    await eventually(all_there)


async def test_a_listener_can_end(store: Store) -> None:
    heard = Heard(store)
    heard.stop()
    await store.commit([PutDocument("k", "n", b"")])
    assert heard.topics == []


async def test_a_pending_run_wakes_another_process(shared: Backend) -> None:
    starter, worker = await shared.open(), await shared.open()
    heard = Heard(worker)
    await starter.commit([start("a")])
    await heard.until("ready")
    assert [one.run.id for one in await claim(worker)] == ["a"]


async def test_a_broken_listening_connection_is_replaced(postgres_url: str) -> None:
    """After the break listeners are told to look, then they hear again."""
    store, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    await store.open()
    await other.open()
    heard = Heard(store)
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query ILIKE '%listen%' AND pid <> pg_backend_pid()"
    )
    await admin.close()
    await heard.until("ready")
    await other.commit([PutDocument("k", "after", b"")])
    assert "doc:k/after" in await heard.until("doc:k/after")
    await asyncio.gather(store.close(), other.close())


@pytest.mark.parametrize("state", ["pending", "waiting"])
def test_runs_given_back_can_be_claimed(state: RunState) -> None:
    assert topics([settle("a", state)], [None]) == (["ready"], ["ready"])
