"""A session around a session: journal entries are encrypted, the user's own rows are the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from aura.store.session import Row, Session, Written


class SealedSession:
    """See `aura.store.session.Session`."""

    def __init__(self, inner: Session, seal: Callable[[Written], Written]) -> None:
        self._inner = inner
        self._seal = seal
        self.exclusive = inner.exclusive
        self.place = inner.place

    def is_on(self, database: str) -> bool:
        return self._inner.is_on(database)

    async def begin(self) -> None:
        await self._inner.begin()

    async def execute(self, sql: str, values: Sequence[Any]) -> int:
        return await self._inner.execute(sql, values)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        await self._inner.execute_many(sql, rows)

    async def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        return await self._inner.fetch(sql, values)

    async def mark(self, what: Literal["set", "keep", "undo"], number: int) -> None:
        await self._inner.mark(what, number)

    async def commit(self, entries: Sequence[Written]) -> None:
        await self._inner.commit([self._seal(one) for one in entries])

    async def rollback(self) -> None:
        await self._inner.rollback()
