"""Handing runs over: a worker that is asked for a run lets it go between two effects.

The run then waits for a few seconds, in which whoever asked can take it. Nobody did: it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aura.clock import Clock
from aura.engine.execution import Execution

ASIDE = 10.0
"""Seconds for which a run that was let go waits to be taken."""

_LOOK = 0.01  # seconds between looks at what is under way


class Releases:
    """The runs of one worker that were asked for."""

    def __init__(self, executions: Mapping[str, Execution], clock: Clock) -> None:
        self._executions = executions
        self._clock = clock
        self._asked: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def heard(self, run_id: str) -> None:
        """Somebody asks for that run. One that is not here is passed over."""
        if run_id in self._executions:
            self._asked.add(run_id)
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(
                    self._let_go(), name="aura-release"
                )

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _let_go(self) -> None:
        """Suspend each of them as soon as no effect is under way."""
        while self._asked:
            for run_id in tuple(self._asked):
                execution = self._executions.get(run_id)
                if execution is not None and execution.effects_in_flight:
                    continue
                self._asked.discard(run_id)
                if execution is not None:
                    execution.suspend(self._clock.now() + ASIDE)
            await self._clock.sleep(_LOOK)
