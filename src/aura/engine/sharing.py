"""One question for all who ask the same at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Shared:
    """Asks once for many. Who asks gets an answer to a question that was put after they asked:
    while one is under way they wait for the next one, together. So what they have just heard of is
    in it, and however many they are, at most one question of a kind is under way."""

    def __init__(self) -> None:
        self._now: dict[Hashable, asyncio.Task[Any]] = {}
        self._next: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, key: Hashable, put: Callable[[], Awaitable[T]]) -> T:
        """The answer, or what asking has raised. One who is cancelled takes nothing from others."""
        if key in self._next:
            task = self._next[key]
        elif key in self._now:
            task = self._begin(self._next, key, self._after(self._now[key], key, put))
        else:
            task = self._begin(self._now, key, _answer(put))
        return cast("T", await asyncio.shield(task))

    def _begin(
        self, where: dict[Hashable, asyncio.Task[Any]], key: Hashable, work: Awaitable[Any]
    ) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        where[key] = task
        task.add_done_callback(lambda done: self._end(key, done))
        return task

    def _end(self, key: Hashable, done: asyncio.Task[Any]) -> None:
        for where in (self._now, self._next):
            if where.get(key) is done:
                del where[key]
        if not done.cancelled():
            done.exception()  # whoever waits has it

    async def _after(
        self, before: asyncio.Task[Any], key: Hashable, put: Callable[[], Awaitable[T]]
    ) -> T:
        await asyncio.wait([before])
        self._now[key] = self._next.pop(key)  # who asks from now on waits for the one after it
        return await put()


async def _answer(put: Callable[[], Awaitable[T]]) -> T:
    return await put()
