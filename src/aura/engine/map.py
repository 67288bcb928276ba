"""The same call for many items, so many at a time, in a run or outside of one.

In a run the map is a lane of its own (`0.3`), and each item a lane below it (`0.3.1`, `0.3.2`):
items are begun in their order, so an item's keys are the same on every replay, whatever finished
first. How many go on at once is journalled with the first run through it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar, overload

from aura.engine.lanes import Lane, scope
from aura.errors import InvalidInput

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 100


@overload
async def map(
    function: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    concurrency: int = AT_ONCE,
    return_exceptions: Literal[False] = False,
) -> list[R]: ...


@overload
async def map(
    function: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    concurrency: int = AT_ONCE,
    return_exceptions: Literal[True],
) -> list[R | Exception]: ...


async def map(
    function: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    concurrency: int = AT_ONCE,
    return_exceptions: bool = False,
) -> list[Any]:
    """Call a step, a workflow or any async function for each item; the results in order of items.

    At most `concurrency` calls go on at once. In a run each step is journalled as ever, and each
    workflow is a child, so that a map that was interrupted goes on where it was; the items have to
    be the same on a replay, in the same order. When a call fails, those under way are cancelled, no
    more are begun and its error is raised; with `return_exceptions` errors stand in their places
    among the results.

    Raises InvalidInput, and what the function raises.
    """
    if type(concurrency) is not int or concurrency < 1:
        raise InvalidInput(f"aura.map(concurrency={concurrency!r})", hint="Give 1 or more")
    context = contextvars.copy_context()
    lane = scope.get()
    if type(lane) is Lane:
        concurrency = lane.execution.value(lane, "map", lambda: concurrency)
        context.run(scope.set, lane.child())
    return await _Map(function, context, return_exceptions).all_of(items, concurrency)


class _Map:
    """One call of `map`. `context` is that of its lane."""

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        context: contextvars.Context,
        keep: bool,
    ) -> None:
        self._function = function
        self._context = context
        self._keep = keep
        self._results: list[Any] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def all_of(self, items: Iterable[Any], concurrency: int) -> list[Any]:
        try:
            for number, item in enumerate(items):
                if len(self._under_way) >= concurrency:
                    await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                if self._failure is not None:
                    break
                self._results.append(None)
                self._begin(number, item)
            while self._under_way and self._failure is None:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure
        return self._results

    def _begin(self, number: int, item: Any) -> None:
        """Open the next lane below the map's own, whichever task is running."""
        make = asyncio.get_running_loop().create_task
        task = self._context.run(make, self._one(number, item))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _one(self, number: int, item: Any) -> None:
        try:
            self._results[number] = await self._function(item)
        except BaseException as error:  # noqa: BLE001  (raised by `all_of`, or a result)
            if self._keep and isinstance(error, Exception):
                self._results[number] = error
            else:
                self._failure = self._failure or error

    async def _end(self) -> None:
        """Nothing of the map goes on when it has ended."""
        left = tuple(self._under_way)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
