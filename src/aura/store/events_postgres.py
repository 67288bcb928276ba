"""Events in PostgreSQL: see `aura.store.events`, whose verbs these are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from aura.store.events import (
    PARTITIONS,
    Assignment,
    DeadLetter,
    Delivery,
    Emit,
    Event,
    GroupInfo,
    Join,
    LetterPlace,
    Page,
    Partition,
    Progress,
    TopicInfo,
    partition,
)
from aura.store.postgres_link import Connection
from aura.store.queries import queries

T = TypeVar("T")
_SQL = queries("postgres")
_FOREVER = 1e12  # seconds
_FIRST = LetterPlace(math.inf, 0, "", "")
Connections = Callable[[], AbstractAsyncContextManager[Connection]]


def emit_rows(ops: Sequence[Emit], entries: int) -> list[tuple[Any, ...]]:
    """The events as `aura.commit` takes them; those of an op with an entry carry the number of that
    among all entries, which are `entries` others before."""
    rows: list[tuple[Any, ...]] = []
    for op in ops:
        number = None
        if op.append is not None:
            number = entries = entries + 1
        rows += [
            (event.topic, event.id, event.key, partition(event), event.payload, number)
            for event in op.events
        ]
    return rows


def progress_rows(ops: Sequence[Progress]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The partitions and the changes of their deliveries, as `aura.commit` takes them."""
    parts = [(op.topic, op.group, op.part, op.epoch, op.cursor, op.release) for op in ops]
    return parts, [(number, *one) for number, op in enumerate(ops, 1) for one in op.changes]


class PostgresEvents:
    """`connections` lends a connection for reading and single statements."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def balance(self, worker: str, joins: Sequence[Join]) -> list[Assignment]:
        if not joins:
            return []
        rows = await self._rows("balance", worker, *zip(*joins, strict=True), PARTITIONS)
        found: dict[int, Assignment] = {}
        for row in rows:
            topic, group, _ = joins[row["n"] - 1]
            columns = (row["parts"], row["epochs"] or (), row["cursors"] or ())
            parts = map(Partition, *columns, row["takeovers"] or ())
            found[row["n"]] = Assignment(
                topic, group, list(parts), row["quota"], row["tail"], row["generation"],
                row["replayed_to"], row["joined"], row["told"],
            )  # fmt: skip
        return [found[number] for number in sorted(found)]

    async def leave(self, worker: str) -> None:
        await self._rows("leave", worker)

    async def read(self, topic: str, after: int, parts: Sequence[int], limit: int) -> Page:
        rows = await self._rows("read", topic, after, parts, limit)
        if not rows:
            return Page(0, [])
        events = [Event(*tuple(row)[:-1]) for row in rows if row[0] is not None]
        return Page(rows[0]["tail"], events)

    async def events(self, topic: str, seqs: Sequence[int]) -> list[Event]:
        return await self._fetch(Event, "events", topic, seqs)

    async def deliveries(
        self, topic: str, group: str, parts: Sequence[int], *, dead_after: int | None = None
    ) -> list[Delivery]:
        return await self._fetch(Delivery, "deliveries", topic, group, parts, dead_after)

    async def dead_letters(
        self,
        topic: str | None = None,
        group: str | None = None,
        limit: int = 50,
        before: LetterPlace | None = None,
    ) -> list[DeadLetter]:
        return await self._dead((topic, group, None), limit, before or _FIRST)

    async def dead_letter(self, topic: str, group: str, seq: int) -> DeadLetter | None:
        found = await self._dead((topic, group, seq), 1, _FIRST)
        return found[0] if found else None

    async def _dead(
        self, of: tuple[str | None, str | None, int | None], limit: int, before: LetterPlace
    ) -> list[DeadLetter]:
        rows = await self._rows("dead_letters", *of, limit, *before)
        split = len(Delivery._fields)
        return [DeadLetter(Delivery(*row[:split]), Event(*row[split:])) for row in map(tuple, rows)]

    async def requeue(self, topic: str, group: str, seq: int, version: str | None) -> bool:
        return bool(await self._rows("requeue_delivery", topic, group, seq, version))

    async def drop(self, topic: str, group: str, seq: int) -> bool:
        return bool(await self._rows("drop_delivery", topic, group, seq))

    async def replay(self, topic: str, group: str, since: float) -> int | None:
        rows = await self._rows("replay", topic, group, since)
        count: int | None = rows[0][0]
        return count

    async def forget(self, topic: str, group: str) -> bool:
        return bool(await self._rows("forget", topic, group))

    async def topics(self) -> list[TopicInfo]:
        return await self._fetch(TopicInfo, "topics")

    async def groups(self, topic: str | None = None) -> list[GroupInfo]:
        rows = await self._rows("groups", topic)
        return [
            GroupInfo(name, group, lag, age, waiting, dead, workers)
            for name, group, lag, waiting, dead, age, workers in rows
        ]

    async def sweep(self, age: float, unread: float | None, limit: int) -> int:
        """Delete old events; how many. See `aura.store.base.Sweep`."""
        until = _FOREVER if unread is None else unread
        count: int = (await self._rows("sweep_events", age, until, limit))[0][0]
        return count

    async def sweepable(self, age: float, unread: float | None) -> int:
        """How many events there are for `sweep`."""
        until = _FOREVER if unread is None else unread
        count: int = (await self._rows("sweepable_events", age, until))[0][0]
        return count

    async def _rows(self, query: str, *values: Any) -> list[Any]:
        async with self._connections() as connection:
            return await connection.fetch(_SQL[query], *values)

    async def _fetch(self, kind: type[T], query: str, *values: Any) -> list[T]:
        return [kind(*row) for row in await self._rows(query, *values)]
