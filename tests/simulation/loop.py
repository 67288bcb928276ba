"""Time and event loops of a simulated world: nothing here waits, and chance comes from one seed.

Each process of the world has an event loop of its own, so a process that dies is a loop that is not
stepped any more. Inside one loop callbacks run first in, first out, as asyncio promises. What the
seed decides is what reality decides: which process goes on next, when input and output are done,
and which of several timers of one instant is first.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

_ROUND = 20e-6  # seconds of simulated time that one round of an event loop takes


class Stuck(AssertionError):
    """The world did not come to an end."""


class Universe:
    """Simulated time, in seconds from 0, and what happens in it."""

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.random = random
        self.rounds = 0
        self._loops: list[Loop] = []
        self._alive: list[Loop] = []
        self._inside: Loop | None = None
        self._timers: list[tuple[float, float, int, Loop | None, Any]] = []
        self._numbers = itertools.count(1)

    def loop(self, node: Any) -> Loop:
        """The event loop of a new process."""
        made = Loop(self, node, next(self._numbers))
        self._loops.append(made)
        self._alive.append(made)
        return made

    def bury(self, loop: Loop) -> None:
        """That of a process which is dead."""
        self._alive.remove(loop)

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Let something happen at that time, outside of all processes."""
        self.push(when, None, happen)

    def push(self, when: float, loop: Loop | None, what: Any) -> None:
        entry = (when, self.random.random(), next(self._numbers), loop, what)
        heapq.heappush(self._timers, entry)

    def run(self, done: Callable[[], bool], limit: float) -> None:
        """Go on until it is done. Raises Stuck when that takes more seconds than the limit."""
        try:
            while not done():
                self._go_on()
                if self.now > limit:
                    raise Stuck(f"not done after {limit:g} simulated seconds")
        finally:
            self.enter(None)

    def _go_on(self) -> None:
        """One round of one event loop; when none has anything to do, on to the next timer."""
        timers = self._timers
        ready = [one for one in self._alive if one.ready and one.awake]
        if ready:
            chosen = ready[0] if len(ready) == 1 else self.random.choice(ready)
            self.rounds += 1
            self.enter(chosen)
            chosen.round()
            self.now += _ROUND
        elif timers:
            self.now = max(self.now, timers[0][0])
        else:
            raise Stuck("nothing is left that could happen")
        if timers and timers[0][0] <= self.now:
            self._fire()

    def _fire(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            _, _, _, loop, what = heapq.heappop(timers)
            if loop is None:
                self.enter(None)
                what()
            elif not loop.dead and not what.cancelled:
                loop.ready.append(what)

    def enter(self, loop: Loop | None) -> Loop | None:
        """Say which loop goes on (None: what happens is outside of all); the one before. To say so
        is a system call, so nothing is said when it is the same again."""
        before = self._inside
        if loop is not before:
            self._inside = loop
            asyncio._set_running_loop(loop)
        return before

    def end(self) -> None:
        """Take everything apart, quietly and in order."""
        for loop in self._loops:
            loop.kill()
        for loop in self._loops:
            loop.dismantle()
        self.enter(None)
        self._timers.clear()


class Handle:
    """A callback that is to be called, unless it is cancelled before."""

    __slots__ = ("args", "callback", "cancelled", "context")

    def __init__(self, callback: Any, args: tuple[Any, ...], context: Any) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.cancelled = False

    def cancel(self) -> None:
        """asyncio's: it stays where it is until its time has come."""
        self.cancelled = True
        self.callback, self.args = None, ()


class Task(asyncio.Task[Any]):
    """A task whose place in a set is the same in every execution of the seed."""

    def __init__(self, coro: Any, *, loop: Loop, **kwargs: Any) -> None:
        self.number = next(loop.numbers)
        loop.tasks.append(self)
        self.context = kwargs.pop("context", None) or contextvars.copy_context()
        super().__init__(coro, loop=loop, context=self.context, **kwargs)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


_Base: Any = asyncio.AbstractEventLoop  # of whose fifty methods a few are enough


class Loop(_Base):  # type: ignore[misc]
    """What asyncio, the engine and steps need of an event loop, and no more."""

    def __init__(self, universe: Universe, node: Any, number: int) -> None:
        self.universe = universe
        self.node = node
        self.ready: deque[Handle] = deque()
        self.awake = True
        self.dead = False
        self.numbers = itertools.count(number * 1_000_000)
        self.tasks: list[Task] = []
        self._factory: Any = None

    # The world's side.

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task from outside."""
        around = self.universe.enter(self)  # that of another process, which is going on
        try:
            task: asyncio.Task[Any] = self.create_task(coro)
        finally:
            self.universe.enter(around)
        return task

    def round(self) -> None:
        """Run what is ready now; what becomes ready by that is for the next round."""
        ready = self.ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled:
                try:
                    handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException:  # noqa: BLE001, S110
                    pass  # what nobody looked at is looked at by the checker, in the journal
            if self.dead:
                return

    def kill(self) -> None:
        """The process dies where it is."""
        if not self.dead:
            self.dead = True
            self.awake = False
            self.universe.bury(self)
        self.ready.clear()

    def dismantle(self) -> None:
        self.universe.enter(self)  # for what ends by beginning something
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                task.context.run(_close, task.get_coro())
        self.tasks.clear()

    # asyncio's side.

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Handle:
        handle = Handle(callback, args, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Handle:
        return self.call_at(self.universe.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Handle:
        handle = Handle(callback, args, context)
        self.universe.push(when, self, handle)
        return handle

    def time(self) -> float:
        return self.universe.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> Any:
        if self._factory is None:
            return Task(coro, loop=self, **kwargs)
        return self._factory(self, coro, **kwargs)

    def get_task_factory(self) -> Any:
        return self._factory or (lambda loop, coro, **kwargs: Task(coro, loop=loop, **kwargs))

    def set_task_factory(self, factory: Any) -> None:
        self._factory = factory

    def run_in_executor(self, _: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """A thread: its work is done at once, some time from now."""
        future = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001  (it is the caller's)
                future.set_exception(error)

        self.call_later(self.universe.random.expovariate(200.0), work)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: Any) -> None:
        """See `round`."""


def _close(coro: Any) -> None:
    with contextlib.suppress(BaseException):  # its process is dead
        coro.close()
