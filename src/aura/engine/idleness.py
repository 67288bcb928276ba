"""Taking a run out of memory when nothing happens but waiting, and that for long. What is waited
for is in the journal by then, for those who look."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aura.engine.calls import Services
from aura.errors import HistoryTooLong

if TYPE_CHECKING:
    from aura.engine.execution import Execution


class Idleness:
    """The waits of one run. It looks at them only while there is a long one."""

    def __init__(self, execution: Execution, services: Services) -> None:
        self._execution = execution
        self._services = services
        self._waits: dict[object, float] = {}
        self._unsaid: dict[object, Callable[[], None]] = {}
        self._watching = False

    @contextlib.contextmanager
    def waiting(self, until: float, say: Callable[[], None] | None = None) -> Iterator[None]:
        """The caller does nothing but wait until then (epoch seconds; infinite: for a signal).
        `say` journals for what, if the journal does not tell; it is called when the wait is long.

        Raises what has stopped the run meanwhile.
        """
        mark = object()
        self._waits[mark] = until
        if say is not None:
            self._unsaid[mark] = say
        self._execution.pressing = False  # what was, is done
        if until > self._soon():
            self._watch()
        try:
            yield
        finally:
            del self._waits[mark]
            self._unsaid.pop(mark, None)
        self._execution.raise_if_stopped()

    @property
    def until(self) -> float | None:
        """When the first of the waits is over (epoch seconds; infinite: when a signal comes); None
        when there is none."""
        return min(self._waits.values(), default=None)

    def _soon(self) -> float:
        return self._services.clock.now() + self._services.keep_in_memory

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            execution, services = self._execution, self._services
            others = execution.mailbox.awaited or execution.children.awaited
            after = services.linger if others else services.suspend_after
            unsaid = tuple(self._unsaid)
            loop = asyncio.get_running_loop()
            loop.call_later(after, self._look, execution.activity, unsaid)

    def _look(self, activity: int, unsaid: tuple[object, ...] = ()) -> None:
        self._watching = False
        execution = self._execution
        if not self._waits or execution.ended or execution.stopped or execution.stopping:
            return
        soon, wake_at = self._soon(), min(self._waits.values())
        wake_at = min((wake_at, *(one.at for one in execution.alarms if not one.due)))
        busy = execution.steps_in_flight or execution.mailbox.due
        quiet = execution.activity == activity
        if not self._say(unsaid):
            return
        if quiet and wake_at > soon and not busy:
            execution.suspend(wake_at)
        elif max(self._waits.values()) > soon:
            self._watch()  # other branches are busy, for now

    def _say(self, unsaid: tuple[object, ...]) -> bool:
        """Journal what has been waited for since the last look; False when that parks the run."""
        for mark in unsaid:
            say = self._unsaid.pop(mark, None)
            if say is None:
                continue  # it is over
            try:
                say()
            except HistoryTooLong:
                return False
        return True
