"""What a run writes, one after the other, also when one of its transactions writes for itself.

A transactional step's entry is committed on a connection of its own, and the journal has no gaps:
so while that commit is under way, what else the run writes is held back. Entries that were held
back before the step's own are committed together with it; later ones follow when it is durable.
"""

from __future__ import annotations

import asyncio

from aura.engine.recorder import Recorder
from aura.store.base import Append, Done, Op
from aura.store.events import Emit
from aura.store.session import Written


class Pen:
    """Belongs to one run; one of its transactions at a time can `take` it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._post, self._post_later = recorder.post, recorder.post_later
        self._held: list[tuple[Op, Done]] = []
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Hold back what is recorded from now on. Returns when all before it is durable. Raises
        what has stopped the run."""
        await self._turn.acquire()
        self._recorder.post = self._recorder.post_later = self._hold
        try:
            await self._recorder.durable()
        except BaseException:
            self.let_go()
            raise

    def _hold(self, op: Op, done: Done) -> None:
        self._held.append((op, done))

    def entries(self) -> list[Written]:
        """The entries that are held back, some of them with events."""
        return [op for op, _ in self._held if isinstance(op, Append | Emit)]

    def amend(self, entry: Written, by: Append) -> None:
        """Put another entry in the place of one that is held back."""
        self._held = [(by if op is entry else op, done) for op, done in self._held]

    def let_go(self, written: int = 0) -> None:
        """Write what was held back, but for the first so many entries, which are durable."""
        for op, done in self._release():
            if written and isinstance(op, Append | Emit):
                written -= 1
                done(None)
            else:
                self._post(op, done)

    def refuse(self, error: BaseException) -> None:
        """Write nothing of what was held back: the run is lost."""
        for _, done in self._release():
            done(error)

    def _release(self) -> list[tuple[Op, Done]]:
        held, self._held = self._held, []
        self._recorder.post, self._recorder.post_later = self._post, self._post_later
        self._turn.release()
        return held
