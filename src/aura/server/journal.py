"""A run's journal as calls: what belongs to one key is one call, whatever number of entries it has.

Pure. A step that was tried three times has two "attempt" entries and one "step" entry under one
key; a sleep has a "sleep" entry and, under its key with `/woke`, one that says it is over; the call
of a child has a "child" entry and, under its key with `/ended`, one that says how it ended. A wait
for a signal has a "wait" entry if it was long or has a time-out, and its end under `/got`; one for
the result of a run has it under `/ended/wait`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from aura.engine.replay import SUPPRESSED
from aura.store.base import Entry

CallState = Literal["done", "failed", "retrying", "waiting"]
LATER = {
    "woke": "/woke", "ended": "/ended", "over": "/over", "signal": "/got", "wait": "/ended/wait",
}  # fmt: skip
"""Kinds of entries that belong to a call, and how their keys may end."""


@dataclass(frozen=True, slots=True)
class Call:
    """One durable call of a run, in the order of its first entry.

    `lane`     the branch of the task tree in which it was made: `0`, `0.1`, `0.2.1`
    `name`     what was called, `number` the how manieth of that name in the lane
    `entries`  everything that the journal has about it, in order of seq; never empty
    """

    lane: str
    name: str
    number: int
    key: str
    entries: tuple[Entry, ...]

    @property
    def last(self) -> Entry:
        """The entry that says how the call stands now."""
        return self.entries[-1]

    @property
    def kind(self) -> str:
        """step, sleep, value, ... as it will be when it is over; a wait is "wait" until then."""
        first = self.entries[0].kind
        if first == "wait":
            return self.last.kind
        return "step" if first == "attempt" else first

    @property
    def state(self) -> CallState:
        """Where the call is: "retrying" between two attempts, "waiting" while it sleeps, its
        child runs or nothing has come."""
        if self.last.kind == "attempt":
            return "retrying"
        if self.last.kind in ("sleep", "child", "wait"):
            return "waiting"
        return "failed" if self.last.error is not None else "done"

    @property
    def started_at(self) -> float:
        """When it was first tried, in epoch seconds."""
        return self.entries[0].started_at

    @property
    def seconds(self) -> float | None:
        """From the first try to the last entry; None while it is not over."""
        if self.state in ("retrying", "waiting"):
            return None
        return max(0.0, self.last.recorded_at - self.started_at)


@dataclass(frozen=True, slots=True)
class LaneTree:
    """A lane with what happened in it, in order: its own calls and the lanes that it opened."""

    id: str
    items: tuple[Call | LaneTree, ...]


def calls(entries: Iterable[Entry]) -> tuple[Call, ...]:
    """The calls of a journal (its entries in order of seq)."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind == SUPPRESSED:
            continue  # it says of a call that it was not made
        found.setdefault(entry.key.removesuffix(LATER.get(entry.kind, "")), []).append(entry)
    return tuple(call_of(key, tuple(of)) for key, of in found.items())


def lane_tree(found: Sequence[Call]) -> LaneTree:
    """The calls as a tree of lanes. A lane stands where its first call, or that of a lane below
    it, was made; lanes without calls of their own appear when lanes below them have some."""
    return LaneTree("0", tuple(_items("0", list(found))))


def call_of(key: str, entries: tuple[Entry, ...]) -> Call:
    """The call of that key, which has these entries."""
    lane, _, rest = key.partition("/")
    name, _, number = rest.rpartition("#")
    return Call(lane, name or rest, int(number) if number.isdecimal() else 1, key, entries)


def _items(lane: str, found: list[Call]) -> Iterable[Call | LaneTree]:
    below: dict[str, list[Call]] = {}
    for call in found:
        if call.lane != lane:
            below.setdefault(_child(lane, call.lane), []).append(call)
    shown: set[str] = set()
    for call in found:
        if call.lane == lane:
            yield call
            continue
        child = _child(lane, call.lane)
        if child not in shown:
            shown.add(child)
            yield LaneTree(child, tuple(_items(child, below[child])))


def _child(lane: str, deeper: str) -> str:
    """The lane directly below `lane` in which `deeper` lies; an odd one stands by itself."""
    if not deeper.startswith(lane + "."):
        return deeper
    step = deeper[len(lane) + 1 :].partition(".")[0]
    return f"{lane}.{step}"
