"""Who goes on next, of the runs here for which there is a signal.

An event loop serves whatever is ready in the order in which it came. So a worker that has read a
thousand signals would first run a thousand runs, whatever comes meanwhile. Here only a few of them
go on in each round of the event loop. The others wait in classes, which share the rounds by weight,
the earliest deadline first inside a class (`aura.store.routing`, as for what waits to be written).
Runs that have got a critical signal go on at once: before them are, at most, those few of the round
that has begun. While there are no more than those few, nobody waits for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aura.clock import Clock
from aura.store.base import Signal
from aura.store.routing import Router

AT_ONCE = 4  # receivers that go on in one round of the event loop

Turn = Callable[[], bool]
"""Lets a receiver go on. False: there was nothing to do any more, so it counts for nothing."""


class Precedence:
    """The receivers of one worker whose signals are here, and whose turn it is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: Router[Turn] = Router()
        self._room = AT_ONCE
        self._next: asyncio.Handle | None = None

    def admits(self, signal: Signal) -> bool:
        """Whether a receiver may have that signal now, which then counts as a turn."""
        if signal.priority == "critical":
            return True
        if self._room <= 0 or self._queue:
            return False
        self._room -= 1
        self._look_again()
        return True

    def queue(self, signal: Signal, turn: Turn) -> None:
        """Call `turn` when it is that signal's."""
        self._queue.push_signal(turn, signal.priority, signal.deadline, self._clock.now())
        self._look_again()

    def _look_again(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """A round of the event loop begins."""
        self._next = None
        self._room = AT_ONCE
        while self._queue and self._room > 0:
            for turn in self._queue.take(self._room):
                if turn():
                    self._room -= 1
        if self._room < AT_ONCE:
            self._look_again()
