"""Lanes: the branches of a run's task tree, which name its journal keys.

The workflow function is lane `0`. Every task that a lane creates (`asyncio.gather`, `TaskGroup`,
`create_task`) opens a child lane, numbered at creation: `0.1`, `0.2`, `0.2.1`. Inside one lane code
runs in order, so the n-th call of a name in a lane is the same call on every replay, whatever order
the branches finish in.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from aura.errors import RegistrationError

if TYPE_CHECKING:
    from aura.engine.execution import Execution
    from aura.store.events import NewEvent

ROOT = "0"

tick = itertools.count(1).__next__  # orders what happens in this process


class Lane:
    """A branch of a run: it hands out keys and numbers its children.

    `opened` are the ticks at which it and the lanes around it were opened, outermost first.
    """

    __slots__ = ("_calls", "_children", "execution", "id", "opened")

    def __init__(
        self, execution: Execution, lane_id: str = ROOT, opened: tuple[int, ...] = (0,)
    ) -> None:
        self.execution = execution
        self.id = lane_id
        self.opened = opened
        self._calls: dict[str, int] = {}
        self._children = 0

    def key(self, name: str) -> str:
        """The journal key of the next call of `name` here: `<lane>/<name>#<n>`."""
        count = self._calls.get(name, 0) + 1
        self._calls[name] = count
        return f"{self.id}/{name}#{count}"

    @property
    def depth(self) -> int:
        """How many branches lie between the workflow function and this lane."""
        return self.id.count(".")

    def child(self) -> Lane:
        self._children += 1
        return Lane(self.execution, f"{self.id}.{self._children}", (*self.opened, tick()))


class FixedLane(Lane):
    """A lane for one call, whose key is known before."""

    __slots__ = ("_key",)

    def __init__(self, lane: Lane, key: str) -> None:
        super().__init__(lane.execution, lane.id, lane.opened)
        self._key = key

    def key(self, name: str) -> str:  # noqa: ARG002  (the key was chosen before)
        return self._key


class Gate:
    """Whether a try of a step still counts. Read by the thread that runs it."""

    __slots__ = ("closed",)

    def __init__(self) -> None:
        self.closed = False


class StepScope(NamedTuple):
    """Where the code of a step runs; durable calls are plain calls there."""

    run_id: str
    key: str
    attempt: int
    execution: Execution
    outbox: list[NewEvent]  # what its code emits
    gate: Gate


scope: contextvars.ContextVar[Lane | StepScope | None] = contextvars.ContextVar(
    "aura_scope", default=None
)


async def settle_dependencies() -> None:
    """Return when all that the calling run has recorded is durable; whatever leaves a run by
    itself (a start, a signal) waits for this first. Outside a run it returns at once."""
    current = scope.get()
    if current is not None:
        await current.execution.recorder.durable()


Factory = Callable[..., Any]


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Give tasks created inside runs their own lane; other tasks are untouched."""
    previous = loop.get_task_factory()
    if getattr(previous, "opens_lanes", False):
        return
    make: Factory = previous or _default_factory

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> Any:
        given = kwargs.get("context")
        parent = scope.get() if given is None else given.get(scope)
        if type(parent) is not Lane:
            return make(loop, coro, **kwargs)
        if _in_random_order():
            coro.close()
            raise RegistrationError(
                "asyncio.as_completed begins coroutines in random order, so a replay would "
                "confuse them",
                hint="Give it tasks: as_completed([asyncio.create_task(one) for one in ...])",
            )
        context = kwargs.pop("context", None) or contextvars.copy_context()
        lane = parent.child()
        context.run(scope.set, lane)
        task = make(loop, coro, context=context, **kwargs)
        parent.execution.track(task, lane.depth)
        return task

    factory.opens_lanes = True  # type: ignore[attr-defined]  # a mark on our own function
    loop.set_task_factory(factory)  # type: ignore[arg-type]  # typeshed fixes the keyword set


def _in_random_order() -> bool:
    """Whether a task is being created by `as_completed`, which makes a set of coroutines first."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("asyncio."):
        if frame.f_code is asyncio.as_completed.__code__:
            return True
        frame = frame.f_back
    return False


def _default_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **kwargs)
