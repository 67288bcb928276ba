"""Writing a run's journal: entries get their numbers here, and are durable when `durable` returns.

Nothing waits for an entry but what becomes visible outside: an effect, a signal or a start that
leaves the run, its result. The committer keeps the order of what is submitted, so when the last
entry is durable, all are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from aura.engine.calls import Call, Services
from aura.engine.history import History
from aura.errors import HistoryTooLong
from aura.store.base import Append, Entry, Outcome
from aura.store.events import Emit, NewEvent

if TYPE_CHECKING:
    from aura.engine.execution import Execution


class Recorder:
    """`seq` is the number of the last entry that the run has already, `values` that of the last
    value that was made (a time, a random number, an id): with another one each step is another."""

    def __init__(self, execution: Execution, services: Services, seq: int) -> None:
        self._execution = execution
        self.post = services.writer.post  # a transaction of the run holds it back for a while,
        self.post_later = services.writer.post_later  # and this
        self._hurry = services.writer.hurry
        self._lazy = (execution.workflow.durability or services.durability) == "adaptive"
        self._now = services.clock.now
        self._run_id = execution.id
        self._epoch = execution.record.epoch
        self.seq = seq
        self._durable = self.values = seq
        self._workflow = execution.workflow.name
        self._watch = services.watch
        self.history = History(self._run_id, services.history)
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def record(
        self,
        call: Call,
        kind: str,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        attempt: int = 1,
        started: float | None = None,
        events: tuple[NewEvent, ...] = (),
        later: bool = False,
    ) -> int:
        """Submit the next entry, together with events; its seq. Raises what has stopped the run.

        `later`: nothing outside depends on it, so with adaptive durability it may wait for others.
        """
        execution = self._execution
        execution.raise_if_stopped()
        execution.activity += 1
        seq = self.seq + 1
        now = self._now()
        entry = Entry(
            self._run_id, seq, call.key, kind, call.fingerprint, call.input, output, error,
            attempt, now if started is None else started, now,
        )  # fmt: skip
        try:
            self.history.add(entry)
        except HistoryTooLong as full:
            execution.park(full)
            raise
        self.seq = seq
        op = Append(self._epoch, entry)
        if self._watch is not None:
            self._watch.recorded(self._workflow, entry)
        if events:
            landed = self._landed if self._watch is None else partial(self._emitted, now, events)
            self.post(Emit(events, op), landed)
        elif later and self._lazy:
            self.post_later(op, self._landed)
        else:
            self.post(op, self._landed)
        return seq

    async def durable(self, seq: int | None = None) -> None:
        """Return when all that was recorded is durable, or what was up to that seq. Raises what has
        stopped the run."""
        if self._durable < (self.seq if seq is None else seq):
            if self._execution.pressing:
                self._hurry(self._run_id)
            elif self._lazy:
                self._hurry()
            landed = asyncio.get_running_loop().create_future()
            self._waiting.append((self.seq, landed))
            await landed
        self._execution.raise_if_stopped()

    def _emitted(
        self, began: float, events: tuple[NewEvent, ...], outcome: Outcome | BaseException
    ) -> None:
        """An entry with events has landed, and somebody counts them."""
        if self._watch is not None and not isinstance(outcome, BaseException):
            for event in events:
                self._watch.emitted(event.topic, self._now() - began)
        self._landed(outcome)

    def _landed(self, outcome: Outcome | BaseException) -> None:
        """The next entry is durable, or refused, which ends the run here."""
        self._durable += 1
        if isinstance(outcome, BaseException):
            self._execution.lose(outcome)
        while self._waiting and self._waiting[0][0] <= self._durable:
            landed = self._waiting.popleft()[1]
            if not landed.done():
                landed.set_result(None)
