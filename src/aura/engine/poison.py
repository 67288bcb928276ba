"""Runs that their workers die of. Pure.

Each time a run is taken over a second time and more, a line in its journal (kind "recovered") says
so. As many of them in a row as are allowed, with nothing else after them, and the run is parked: it
comes no further, and takes a worker with it each time.
"""

from __future__ import annotations

from aura.codec import plain, to_json
from aura.engine.calls import Call
from aura.errors import PoisonRun
from aura.store.base import Claimed, Entry

RECOVERED = "recovered"
MOST_RECOVERIES = 10


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
