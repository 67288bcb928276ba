"""The database of a sandbox, and the faults that a test arranges in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aura.clock import Clock
from aura.errors import StoreUnavailable
from aura.store.base import Append, Claim, ClaimResult, Op, Outcome
from aura.store.sqlite import SqliteStore

_LOOK = 1.0  # seconds for a look at the database


@dataclass(slots=True)
class Fault:
    """Something that goes wrong once, at a commit: the next one that has an entry with that `key`
    (of that `run`, if it is given), or the next one but `skip`.

    `written`: the transaction is made, but its process does not hear of it. `deadly`: the process
    ends there; otherwise it gets StoreUnavailable.
    """

    deadly: bool
    written: bool
    key: str | None = None
    run: str | None = None
    skip: int = 0

    def meets(self, ops: Sequence[Op]) -> bool:
        """Whether this commit is the one."""
        if self.key is not None or self.run is not None:
            hit = any(
                isinstance(op, Append)
                and self.key in (None, op.entry.key)
                and self.run in (None, op.entry.run_id)
                for op in ops
            )
            if not hit:
                return False
        self.skip -= 1
        return self.skip < 0


class Disk:
    """What outlives the processes of a sandbox: one database in memory, and the faults to come."""

    def __init__(self, clock: Clock) -> None:
        self.store = SqliteStore(":memory:", clock=clock)
        self.faults: list[Fault] = []
        self.commits = 0

    def next_fault(self, ops: Sequence[Op]) -> Fault | None:
        self.commits += 1
        for fault in self.faults:
            if fault.meets(ops):
                self.faults.remove(fault)
                return fault
        return None


class LentStore(SqliteStore):
    """The database as one process of the sandbox sees it, until that process ends."""

    def __init__(self, disk: Disk, clock: Clock, died: Callable[[], None]) -> None:
        super().__init__(":memory:", clock=clock)
        self._disk = disk
        self._died = died
        self._writer = self._reader = disk.store._writer
        self.gone = False
        self.under_way = 0
        self.calls = 0
        self._looked = asyncio.Event()
        self.next_wake: float | None = None
        """When the first run that is not in memory is due (epoch seconds), as of the last look."""

    async def close(self) -> None:
        """The database goes on without this process."""
        self.gone = True
        self._listeners.clear()

    def tell_all(self, topic: str) -> None:
        """Let the process hear a topic."""
        self._hear(topic)

    async def looked(self) -> None:
        """Let the process look for runs, and return when it has (or is too busy to)."""
        self._looked.clear()
        self._hear("ready")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await self._looked.wait()

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        if self.gone:
            return _unheard(ops)
        fault = self._disk.next_fault(ops)
        if fault is not None and not fault.written:
            return self._strike(fault, ops)
        self.under_way += 1
        try:
            outcomes = await super().commit(ops)
        finally:
            self.under_way -= 1
            self.calls += 1
        return outcomes if fault is None else self._strike(fault, ops)

    async def claim(self, claim: Claim) -> ClaimResult:
        if self.gone:
            raise _crashed()
        self.under_way += 1
        try:
            found = await super().claim(claim)
        finally:
            self.under_way -= 1
            self.calls += 1
        if self.gone:
            raise _crashed()
        wake = found.next_wake
        self._looked.set()
        self.next_wake = None if wake is None else self._clock.now() + wake
        return found

    def _strike(self, fault: Fault, ops: Sequence[Op]) -> list[Outcome]:
        if fault.deadly:
            self.gone = True
            self._died()
            return _unheard(ops)
        raise StoreUnavailable(
            "the sandbox lets the commit fail" + (" after it was made" if fault.written else "")
        )


def _crashed() -> StoreUnavailable:
    return StoreUnavailable("this process of the sandbox has crashed")


def _unheard(ops: Sequence[Op]) -> list[Any]:
    """What a dead process hears of its writes: each is refused, so that nothing is tried again."""
    return [_crashed() for _ in ops]
