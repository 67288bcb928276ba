"""Writing a run's journal: entries get their numbers here, and are durable when `durable` returns.

Nothing waits for an entry but what becomes visible outside: an effect, a signal or a start that
leaves the run, its result. The committer keeps the order of what is submitted, so when the last
entry is durable, all are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from aura.engine.calls import Call, Services
from aura.store.base import Append, Entry, Outcome

if TYPE_CHECKING:
    from aura.engine.execution import Execution


class Recorder:
    """`seq` is the number of the last entry that the run has already."""

    def __init__(self, execution: Execution, services: Services, seq: int) -> None:
        self._execution = execution
        self._post = services.writer.post
        self._now = services.clock.now
        self._run_id = execution.id
        self._epoch = execution.record.epoch
        self._seq = seq
        self._durable = seq
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
    ) -> int:
        """Submit the next entry; its seq. Raises what has stopped the run."""
        execution = self._execution
        execution.raise_if_stopped()
        execution.activity += 1
        self._seq += 1
        now = self._now()
        entry = Entry(
            self._run_id, self._seq, call.key, kind, call.fingerprint, call.input, output, error,
            attempt, now if started is None else started, now,
        )  # fmt: skip
        self._post(Append(self._epoch, entry), self._landed)
        return self._seq

    async def durable(self) -> None:
        """Return when all that was recorded is durable. Raises what has stopped the run."""
        if self._durable < self._seq:
            landed = asyncio.get_running_loop().create_future()
            self._waiting.append((self._seq, landed))
            await landed
        self._execution.raise_if_stopped()

    def _landed(self, outcome: Outcome | BaseException) -> None:
        """The next entry is durable, or refused, which ends the run here."""
        self._durable += 1
        if isinstance(outcome, BaseException):
            self._execution.lose(outcome)
        while self._waiting and self._waiting[0][0] <= self._durable:
            landed = self._waiting.popleft()[1]
            if not landed.done():
                landed.set_result(None)
