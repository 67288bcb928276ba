"""Runs that their workers die of. Pure.

Each time a run is taken over a second time and more, a line in its journal (kind "recovered") says
so. As many of them in a row as are allowed, with nothing else after them, and the run is parked: it
comes no further, and takes a worker with it each time.

A worker that dies has many runs, and one of them may be why. So after a few such deaths a run is a
suspect, and a worker executes one suspect at a time: the others wait, and do not die with it.
"""

from __future__ import annotations

from collections.abc import Callable

from aura.codec import plain, to_json
from aura.engine.calls import Call
from aura.errors import PoisonRun
from aura.store.base import Claimed, Entry

RECOVERED = "recovered"
MOST_RECOVERIES = 10
SUSPECT = 3
"""After so many deaths in a row without progress a run is a suspect."""
ASIDE, APART = 2.0, 0.1
"""Seconds for which a suspect waits at least, and between two of them."""
SURVIVED = 600.0
"""Seconds after which a suspect whose step still goes on keeps the others waiting no more."""


def poisoned(claimed: Claimed, most: int) -> PoisonRun | None:
    """Why a run that was taken over is to be parked; None when it may go on."""
    marks = _marks(claimed)
    if not _taken_over_again(claimed) or len(marks) + 1 < most:
        return None
    return PoisonRun(
        f"{len(marks) + 1} workers in a row died while they executed run {claimed.run.id}, and it "
        "came no further",
        hint="Find out what ends the process (memory, a crash in native code); then requeue it",
    )


def suspicious(claimed: Claimed, most: int) -> bool:
    """Whether it may be this run that workers die of."""
    return _taken_over_again(claimed) and len(_marks(claimed)) + 1 >= min(SUSPECT, most - 1)


class Suspects:
    """Which suspect a worker executes, and until when the others wait. Times in seconds of any
    clock. Pure."""

    def __init__(self) -> None:
        self._held: Callable[[], bool] = lambda: False
        self._next = 0.0

    def admit(self, held: Callable[[], bool]) -> None:
        """This one is executed now, for as long as `held` says so."""
        self._held = held

    def wait_until(self, now: float) -> float | None:
        """Until when another one has to wait, each a little longer than the one before; None: it
        may go on."""
        if not self._held():
            return None
        self._next = max(self._next + APART, now + ASIDE)
        return self._next


def mark(claimed: Claimed) -> tuple[Call, bytes] | None:
    """The line to be written into the journal before such a run goes on, or None."""
    if not _taken_over_again(claimed):
        return None
    count = claimed.run.recoveries
    return Call(f"0/~{RECOVERED}#{count}", "", None), to_json(count)


def _marks(claimed: Claimed) -> list[Entry]:
    """The lines with which the journal ends."""
    found: list[Entry] = []
    for entry in reversed(claimed.journal):
        if entry.kind != RECOVERED:
            break
        found.append(entry)
    return found


def _taken_over_again(claimed: Claimed) -> bool:
    """Whether there was another takeover since the last line, which may be anywhere; the first
    takeover has none. Waking from a sleep is no takeover."""
    recoveries = claimed.run.recoveries
    if recoveries <= 1:
        return False
    last = next((one for one in reversed(claimed.journal) if one.kind == RECOVERED), None)
    return last is None or bool(plain(last.output) != recoveries)
