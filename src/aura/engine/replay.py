"""What the journal answers: the recorded entry of each call, and in which order answers are given.

Which branch of a run wakes first can decide what it does next (`asyncio.wait`, `as_completed`).
So answers are given one at a time and in the order of their `seq`, the first time as well as on
replay, each when what the one before has set in motion has come to rest. The journal is
prefix-closed: an entry depends only on earlier ones, so the next one in turn is always asked for
sooner or later, unless its branch was cancelled or the code has changed. Then nothing moves, and
after a short while the earliest one that is asked for goes first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Iterable

from aura.codec import plain
from aura.engine.poison import RECOVERED
from aura.errors import NonDeterminism
from aura.store.base import Entry

SUPPRESSED = "suppressed"  # the kind of entries that say what a shadow run did not do
BACK = "/back"  # ends the key under which a signal that came to a cancelled branch is handed back
_STALL = 0.05  # seconds without progress after which a turn that nobody takes is passed over ...
_STALL_ROUNDS = 100  # ... if the event loop came round so often since
# Kinds of entries that wake a branch.
_ANSWERS = ("step", "woke", "signal", "over", "start", "ended")


class Replay:
    """The recorded entries of one run. `streams` are those that wrote to streams, which nobody asks
    for; `patches` the names of those that the run has; `received` the seqs of the signals that were
    taken."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._recorded: dict[str, Entry] = {}
        self._attempts: dict[str, Entry] = {}
        self.streams: list[Entry] = []
        self.patches: set[str] = set()
        self.length = 0
        for entry in entries:
            self.length = entry.seq
            if entry.kind == "stream":
                self.streams.append(entry)
            elif entry.kind == "patch":
                self.patches.add(entry.fingerprint)
            elif entry.kind in (RECOVERED, SUPPRESSED):
                continue  # nobody asks for it
            else:
                (self._attempts if entry.kind == "attempt" else self._recorded)[entry.key] = entry
        self.answers: list[int] = []
        self.received: set[int] = set()
        if self.length:
            self._understand()

    def _understand(self) -> None:
        """Sort out what was recorded: calls that have ended, answers, and signals taken."""
        for key in self._attempts.keys() & self._recorded.keys():
            del self._attempts[key]  # the call has ended
        returned = {e.key[: -len(BACK)] for e in self._recorded.values() if e.kind == "back"}
        given = [e for e in self._recorded.values() if e.kind in _ANSWERS]
        self.answers = [e.seq for e in given if e.key not in returned]
        self.received = {
            plain(e.input)["seq"]
            for e in given
            if e.kind == "signal" and e.input is not None and e.key not in returned
        }

    @property
    def exhausted(self) -> bool:
        """Whether everything recorded has been asked for."""
        return not self._recorded

    @property
    def behind(self) -> bool:
        """Whether there is something that nobody has asked for yet, be it a failed attempt."""
        return bool(self._recorded or self._attempts)

    def left(self) -> list[Entry]:
        """What nobody has asked for yet, in order of seq."""
        found = [*self._recorded.values(), *self._attempts.values()]
        return sorted(found, key=lambda one: one.seq)

    def take(self, key: str, kind: str, fingerprint: str, data: bytes | None) -> Entry | None:
        """The recorded entry of that call, or None if it is new.

        Raises NonDeterminism when the journal has something else under that key.
        """
        entry = self._recorded.pop(key, None) if self._recorded else None
        if entry is None or (entry.kind == kind and entry.fingerprint == fingerprint):
            return entry
        raise NonDeterminism(
            f"at {key} the journal has a {entry.kind} with {_show(entry.input, entry.fingerprint)},"
            f" but the code now asks for a {kind} with {_show(data, fingerprint)}",
            hint="Restore the code that began this run, or register the new code as a new version",
        )

    def peek(self, key: str) -> Entry | None:
        """The recorded entry under that key, if nobody has asked for it yet."""
        return self._recorded.get(key)

    def attempt(self, key: str) -> Entry | None:
        """The last failed attempt of that call, if its journal ends with one."""
        return self._attempts.pop(key, None) if self._attempts else None


class Turns:
    """Gives answers one at a time, in the order of their seq.

    `recorded` are the seqs of the journal's answers, ascending; new ones are announced by `expect`
    in the order of their seq.
    """

    def __init__(self, recorded: Iterable[int]) -> None:
        self._next = deque(recorded)
        self._end = self._next[-1] + 0.5 if self._next else 0.0
        self.replaying = bool(self._next)
        self._waiting: list[tuple[float, int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._dropped: set[float] = set()
        self._promised: set[float] = set()
        self._resting = 0
        self.given = 0  # how many answers
        self._stall: asyncio.TimerHandle | None = None

    def expect(self, seq: int, *, promised: bool = False) -> None:
        """An answer was made, and will be given after those before it. A `promised` one is waited
        for, however long it takes until it is asked for or dropped."""
        self._next.append(seq)
        if promised:
            self._promised.add(seq)

    def stir(self, rest: int) -> None:
        """Something went on in the run: no answer for so many rounds of the event loop."""
        if rest and not self._resting:
            asyncio.get_running_loop().call_soon(self._come_to_rest)
        self._resting = max(self._resting, rest)

    def drop(self, seq: float) -> None:
        """Nobody will ask for that answer any more."""
        self._dropped.add(seq)
        self._promised.discard(seq)
        self._advance()

    async def take(self, seq: float, rest: int) -> None:
        """Return when it is that answer's turn.

        `rest` is for how many rounds of the event loop its consequences may go on.
        """
        if not self._resting and not (self._next and self._next[0] < seq):
            self._give(seq, rest)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (seq, next(self._numbers), rest, future))
        self._advance()
        self._watch()
        try:
            await future
        except asyncio.CancelledError:
            if not future.done() or future.cancelled():
                self.drop(seq)
            raise

    async def caught_up(self) -> None:
        """Return when all recorded answers have been given: what is new comes after them.

        A branch that lost a race is thus cancelled before it begins its step once more.
        """
        if self.replaying:
            await self.take(self._end, 1)

    def _give(self, seq: float, rest: int) -> None:
        while self._next and self._next[0] <= seq:
            self._promised.discard(self._next.popleft())
        self.given += 1
        self.replaying = bool(self._next) and self._next[0] < self._end
        self.stir(rest)

    def _come_to_rest(self) -> None:
        self._resting -= 1
        if self._resting:
            asyncio.get_running_loop().call_soon(self._come_to_rest)
        else:
            self._advance()

    def _advance(self) -> None:
        """Let the next one in turn go, if it is here already."""
        while self._next and self._next[0] in self._dropped:
            self._dropped.discard(self._next.popleft())
        while self._waiting and not self._resting:
            seq, _, rest, future = self._waiting[0]
            if self._next and seq > self._next[0]:
                return
            heapq.heappop(self._waiting)
            if not future.done():
                self._give(seq, rest + 1)
                future.set_result(None)

    def _watch(self) -> None:
        if self._stall is None:
            loop = asyncio.get_running_loop()
            self._stall = loop.call_later(_STALL, self._look, self.given, _STALL_ROUNDS)

    def _look(self, given: int, rounds: int) -> None:
        """Whether nothing has moved; a busy event loop is not a stall."""
        if self.given == given and rounds:
            asyncio.get_running_loop().call_soon(self._look, given, rounds - 1)
            return
        self._stall = None
        if self.given == given and self._waiting and not self._resting:
            while self._next and self._next[0] < self._waiting[0][0]:
                if self._next[0] in self._promised:
                    break
                self._next.popleft()
            self._advance()
        if self._waiting:
            self._watch()


def _show(data: bytes | None, fingerprint: str) -> str:
    if data is None or len(data) > 200 or data[:1] == b"\x01":
        return f"fingerprint {fingerprint}" if fingerprint else "no input"
    return f"input {data.decode(errors='replace')}"
