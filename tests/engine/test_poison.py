"""When a takeover is noted in a run's journal. Found by the simulation (seed 517)."""

from __future__ import annotations

import pytest

from aura.engine.poison import RECOVERED, mark, poisoned
from aura.store.base import Claimed, Entry, RunRecord

RUN = RunRecord(
    "r", "flow", "1.0.0", "running", 3, "me", "o", b"{}", "f", None, None, None, False, 0, 0.0,
    0.0, None,
)  # fmt: skip


def claimed(recoveries: int, *kinds: str) -> Claimed:
    """A run that was taken over so often; "recovered 2" in its journal is the line of the second
    time."""
    journal = []
    for seq, kind in enumerate(kinds, 1):
        name, _, count = kind.partition(" ")
        output = count.encode() or b"null"
        journal.append(Entry("r", seq, kind, name, "", None, output, None, 1, 0.0, 0.0))
    return Claimed(RUN._replace(recoveries=recoveries), journal)


@pytest.mark.parametrize(
    ("found", "noted"),
    [
        (claimed(0), False),
        (claimed(1, "step"), False),  # the first one has no line
        (claimed(2, "step"), True),
        (claimed(2, "step", f"{RECOVERED} 2"), False),
        (claimed(2, "step", f"{RECOVERED} 2", "step"), False),  # it has slept since
        (claimed(3, "step", f"{RECOVERED} 2", "step"), True),
        (claimed(3, "step", f"{RECOVERED} 2"), True),
    ],
)
def test_each_takeover_is_noted_once(found: Claimed, noted: bool) -> None:
    assert (mark(found) is not None) is noted


def test_only_takeovers_without_progress_count() -> None:
    ends = [f"{RECOVERED} {number}" for number in range(2, 5)]
    assert poisoned(claimed(5, "step", *ends), 4) is not None
    assert poisoned(claimed(5, "step", *ends, "step"), 4) is None
    assert poisoned(claimed(4, "step", *ends), 4) is None  # it only woke
