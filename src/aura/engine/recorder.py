"""Writing a run's journal: entries get their numbers here, and are durable when `durable` returns.

Nothing waits for an entry but what becomes visible outside: an effect, a signal or a start that
leaves the run, its result. The committer keeps the order of what is submitted, so when the last
entry is durable, all are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aura.engine.calls import Call, Services
from aura.store.base import Append, Entry, Outcome

if TYPE_CHECKING:
    from aura.engine.execution import Execution


class Recorder:
    """`seq` is the number of the last entry that the run has already."""

    def __init__(self, execution: Execution, services: Services, seq: int) -> None:
        self._execution = execution
        self._submit = services.writer.submit
        self._now = services.clock.now
        self._run_id = execution.id
        self._epoch = execution.record.epoch
        self._seq = seq
        self._last: asyncio.Future[Outcome] | None = None
        self._waiting: list[asyncio.Future[None]] = []

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
        self._last = self._submit(Append(self._epoch, entry))
        self._last.add_done_callback(self._landed)
        return self._seq

    async def durable(self) -> None:
        """Return when all that was recorded is durable. Raises what has stopped the run."""
        if self._last is not None:
            landed = asyncio.get_running_loop().create_future()
            self._waiting.append(landed)
            await landed
        self._execution.raise_if_stopped()

    def _landed(self, future: asyncio.Future[Outcome]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._execution.lose(error)
        if self._last is not future:
            return
        self._last = None
        waiting, self._waiting = self._waiting, []
        for landed in waiting:
            if not landed.done():
                landed.set_result(None)
