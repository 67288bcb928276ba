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
    if not _taken_over_since(claimed, marks) or len(marks) + 1 < most:
        return None
    return PoisonRun(
        f"{len(marks) + 1} workers in a row died while they executed run {claimed.run.id}, and it "
        "came no further",
        hint="Find out what ends the process (memory, a crash in native code); then requeue it",
    )


def mark(claimed: Claimed) -> tuple[Call, bytes] | None:
    """The line to be written into the journal before such a run goes on, or None."""
    if not _taken_over_since(claimed, _marks(claimed)):
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


def _taken_over_since(claimed: Claimed, marks: list[Entry]) -> bool:
    """Whether there was another takeover since the last line; the first one has none."""
    recoveries = claimed.run.recoveries
    return recoveries > 1 and not (marks and plain(marks[0].output) == recoveries)
