"""The signals of one run that nobody has taken yet, and the receivers that wait. Pure but for the
futures that it resolves, and for the other runs whose turn it may be before (`Precedence`).

A receiver takes, of what it waits for, the signal of the highest class, in it the one with the
earliest deadline, and then the one that was sent first. Receivers are served in the order in which
they began to wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable
from functools import partial

from aura.engine.precedence import Precedence
from aura.store.base import PRIORITIES, Signal

_RANKS = {name: rank for rank, name in enumerate(PRIORITIES)}


class Waiter:
    """One receiver: the names that it takes, and its answer (None: its time is over)."""

    __slots__ = ("future", "names")

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self.future: asyncio.Future[Signal | None] = asyncio.get_running_loop().create_future()


class Mailbox:
    """`seen` is the seq of the last signal that was delivered here; `taken` are the seqs of those
    that the journal has."""

    def __init__(
        self, signals: Iterable[Signal], taken: Collection[int], precedence: Precedence
    ) -> None:
        self.seen = 0
        self._taken = taken
        self._precedence = precedence
        self._waiting: dict[str, list[Signal]] = {}
        self._receivers: list[Waiter] = []
        self._queued: Signal | None = None  # in whose name the next receiver waits for its turn
        self.deliver(signals)

    @property
    def awaited(self) -> bool:
        """Whether a receiver waits."""
        return bool(self._receivers)

    @property
    def due(self) -> bool:
        """Whether a receiver waits for nothing but its turn."""
        return self._queued is not None

    def deliver(self, signals: Iterable[Signal]) -> bool:
        """New signals, in order of seq; whether a receiver has, or will have, one of them."""
        for signal in signals:
            if signal.seq <= self.seen:
                continue
            self.seen = signal.seq
            if signal.seq not in self._taken:
                self._waiting.setdefault(signal.name, []).append(signal)
        return self._serve()

    def unread(self) -> list[Signal]:
        """Those that nobody has taken, in order of seq."""
        waiting = [one for named in self._waiting.values() for one in named]
        return sorted(waiting, key=lambda one: one.seq)

    def take(self, names: Collection[str]) -> Signal | None:
        """The best signal of these names that is here, which then is nobody else's."""
        best = self._best(names)
        if best is not None:
            self._waiting[best.name].remove(best)
        return best

    def take_in_turn(self, names: Collection[str]) -> Signal | None:
        """The same, if it is this run's turn; None: `wait` for it."""
        best = self._best(names)
        if best is None or not self._precedence.admits(best):
            return None
        self._waiting[best.name].remove(best)
        return best

    def _best(self, names: Collection[str]) -> Signal | None:
        here = [one for name in names for one in self._waiting.get(name, ())]
        return min(here, key=urgency, default=None)

    def give_back(self, signal: Signal) -> None:
        """It was taken by a receiver that is gone: the next one gets it."""
        self._waiting.setdefault(signal.name, []).append(signal)
        self._serve()

    def wait(self, names: Collection[str]) -> Waiter:
        waiter = Waiter(names)
        self._receivers.append(waiter)
        self._serve()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """The receiver does not wait any more; what it had been given goes to the next one."""
        if waiter in self._receivers:
            self._receivers.remove(waiter)
        if waiter.future.done() and not waiter.future.cancelled():
            signal = waiter.future.result()
            if signal is not None:
                self.give_back(signal)

    def _serve(self) -> bool:
        """Give those who wait what is here for them, or let them wait for their turn."""
        served = False
        for waiter in tuple(self._receivers):
            best = None if waiter.future.done() else self._best(waiter.names)
            if best is None:
                continue
            served = True
            if self._precedence.admits(best):
                self._give(waiter, best)
            else:
                self._enqueue(best)
        return served

    def _enqueue(self, best: Signal) -> None:
        """Wait for a turn in the name of that signal, unless a better one is queued."""
        if self._queued is None or urgency(best)[0] < urgency(self._queued)[0]:
            self._queued = best
            self._precedence.queue(best, partial(self._turn, best))

    def _turn(self, name: Signal) -> bool:
        """It is the turn of the receiver that waits longest and has a signal."""
        if self._queued is not name:
            return False
        self._queued = None
        for waiter in tuple(self._receivers):
            best = None if waiter.future.done() else self._best(waiter.names)
            if best is not None:
                self._give(waiter, best)
                self._serve()
                return True
        return False

    def _give(self, waiter: Waiter, signal: Signal) -> None:
        self._waiting[signal.name].remove(signal)
        self._receivers.remove(waiter)
        waiter.future.set_result(signal)


def urgency(signal: Signal) -> tuple[int, float, int]:
    """What sorts signals: class, deadline, order of sending."""
    deadline = math.inf if signal.deadline is None else signal.deadline
    return (_RANKS[signal.priority], deadline, signal.seq)
