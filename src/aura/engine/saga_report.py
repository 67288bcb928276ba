"""What the journal of a run says about its sagas. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aura.codec import plain
from aura.engine.compensation import round_key, undo_key
from aura.errors import CompensationFailed, SagaError
from aura.store.base import Entry, RunState

StepFate = Literal["kept", "compensated", "failed", "missing"]
_PARKED = re.compile(r"saga (.+?) (?:is half compensated|cannot go on)")
SagaEnd = Literal["completed", "compensated", "compensating", "parked"]


@dataclass(frozen=True, slots=True)
class SagaReport:
    """One saga of a run that has ended or begun to compensate.

    `key` is that of its entry, `0/~~order#1`. `steps` says what became of each finished step, by
    its key: "kept", "compensated", "failed" (its compensation gave up) or "missing" (it has not
    ended yet, or waits for others).
    """

    name: str
    key: str
    end: SagaEnd
    steps: Mapping[str, StepFate]


def report(journal: Sequence[Entry], state: RunState) -> list[SagaReport]:
    """The sagas of a run in the order in which they ended; `state` is the run's."""
    entries = {entry.key: entry for entry in journal if entry.kind == "step"}
    found = []
    for entry in journal:
        call = entry.key.rpartition("/")[2]
        if not call.startswith("~~"):
            continue
        said = plain(entry.output)
        undone = said["end"] == "compensated"
        steps = {
            key: _fate(key, entries) if undone and undo else _kept(key, entries)
            for key, undo in said["steps"].items()
        }
        end: SagaEnd = "completed"
        if undone:
            open_ends = {"failed", "missing"} & set(steps.values())
            unfinished: SagaEnd = "parked" if state == "parked" else "compensating"
            end = unfinished if open_ends else "compensated"
        found.append(SagaReport(call[2:].rpartition("#")[0], entry.key, end, steps))
    return found


Counts = Counter[tuple[str, str]]


def count(reports: Iterable[SagaReport]) -> tuple[Counts, Counts]:
    """How often each saga ended how, as (saga, end), and what became of each of its steps, as
    (`saga/step`, fate); of one run or of many. Steps of an inner saga count for the outer one, too,
    when that ends after it."""
    ends: Counts = Counter()
    fates: Counts = Counter()
    for one in reports:
        ends[one.name, one.end] += 1
        for key, fate in one.steps.items():
            step = key.rpartition("/")[2].partition("#")[0]
            fates[f"{one.name}/{step}", fate] += 1
    return ends, fates


def parked_by(error: Mapping[str, Any]) -> str | None:
    """The name of the saga that has parked a run, from the run's error; None: something else."""
    if error.get("type") not in (CompensationFailed.__name__, SagaError.__name__):
        return None
    found = _PARKED.match(str(error.get("message")))
    return None if found is None else found[1]


def _fate(key: str, entries: Mapping[str, Entry]) -> StepFate:
    fate: StepFate = "missing"
    number = 1
    while (entry := entries.get(round_key(undo_key(key), number))) is not None:
        if entry.error is None:
            return "compensated"
        number, fate = number + 1, "failed"
    return fate


def _kept(key: str, entries: Mapping[str, Entry]) -> StepFate:
    """A step without a compensation, or of a scope that went well; the outer may have failed."""
    return "compensated" if _fate(key, entries) == "compensated" else "kept"
