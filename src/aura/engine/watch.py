"""Who counts what runs do; nobody does unless the process has metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Literal, Protocol, cast

from aura.engine.traces import carrying, current
from aura.store.base import Entry, RunRecord, Started, StartRun

Doing = Literal["start", "emit", "handle", "call", "serve"]


class Watch(Protocol):
    """Told on the event loop, in the middle of a run's work: it must be quick, and never raise."""

    def recorded(self, workflow: str, entry: Entry) -> None:
        """A run of that workflow has submitted an entry to its journal."""

    def settled(self, run: RunRecord) -> None:
        """A run has left this process: it ended, or waits."""

    def emitted(self, topic: str, seconds: float) -> None:
        """An event has become durable, so long after it was emitted."""

    def doing(
        self, what: Doing, name: str, trace: str | None, more: dict[str, str]
    ) -> AbstractContextManager[object]:
        """What goes on outside of runs: a run of that workflow is started, an event of that topic
        is emitted or handled, a target is called, a request of that route is served. `trace` is
        the context that it came with."""


class Watches:
    """Several of them, told in this order."""

    def __init__(self, every: Sequence[Watch]) -> None:
        self.every = tuple(every)

    def recorded(self, workflow: str, entry: Entry) -> None:
        for one in self.every:
            one.recorded(workflow, entry)

    def settled(self, run: RunRecord) -> None:
        for one in self.every:
            one.settled(run)

    def emitted(self, topic: str, seconds: float) -> None:
        for one in self.every:
            one.emitted(topic, seconds)

    def doing(
        self, what: Doing, name: str, trace: str | None, more: dict[str, str]
    ) -> AbstractContextManager[object]:
        stack = ExitStack()
        for one in self.every:
            stack.enter_context(one.doing(what, name, trace, more))
        return stack


async def begun(
    submit: Callable[[StartRun], Awaitable[object]], op: StartRun, watch: Watch | None
) -> Started:
    """Start a run from outside of runs, in the trace that the caller is in. Also when nobody waits
    any more."""
    with doing(watch, "start", op.workflow):
        if current.get() is not None:
            op = replace(op, origin=carrying(op.origin))
        return cast("Started", await asyncio.shield(submit(op)))


def doing(
    watch: Watch | None, what: Doing, name: str, trace: str | None = None, **more: str
) -> AbstractContextManager[object]:
    """The same, for whoever may have none."""
    return nullcontext() if watch is None else watch.doing(what, name, trace, more)
