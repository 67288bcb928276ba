"""A run's journal as it is drawn: all calls, without what was given and what came out.

Long journals are read once, and then only what is new; what is in a call is read when somebody
looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aura.app import Aura
from aura.codec import plain
from aura.errors import InvalidInput
from aura.masking import HIDDEN, current_mask
from aura.server.journal import LATER, Call, call_of
from aura.server.operations import no_run, storable
from aura.server.views import (
    MOST_CHILDREN,
    CallView,
    Payload,
    RunView,
    call_view,
    payload_view,
    run_view,
    time_of,
)
from aura.store.base import CHILD_ENDED, Entry, RunFilter, RunRecord
from aura.store.outline import Glance

MOST = 50_000
"""Entries that are drawn; what comes later is only counted by its absence."""

_PAGE = 10_000


@dataclass(slots=True)
class Outline:
    """What is known of a run's present execution: by the keys of its calls their entries, and the
    bytes of what they gave, as they are stored."""

    run_id: str
    execution: int = 1
    last: int = 0
    count: int = 0
    found: dict[str, list[Entry]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether there is more than is drawn."""
        return self.count >= MOST

    def add(self, glances: Iterable[Glance]) -> tuple[Call, ...]:
        """The calls that these entries have begun or changed."""
        changed: dict[str, None] = {}
        for one in glances:
            self.last = one.seq
            self.count += 1
            if one.kind == "suppressed":
                continue
            key = one.key.removesuffix(LATER.get(one.kind, ""))
            self.found.setdefault(key, []).append(_entry(self.run_id, one))
            changed[key] = None
            if one.gave is not None:
                self.sizes[key] = one.gave
        return tuple(call_of(key, tuple(self.found[key])) for key in changed)


async def go_on(app: Aura, outline: Outline, execution: int) -> tuple[Call, ...]:
    """What is new in the journal. A run that has begun anew has a new journal: then everything is
    new. Raises StoreUnavailable."""
    if execution != outline.execution:
        outline.execution, outline.last, outline.count = execution, 0, 0
        outline.found.clear()
        outline.sizes.clear()
    changed: dict[str, Call] = {}
    while not outline.full:
        room = min(_PAGE, MOST - outline.count)
        glances = await app.store.outline(outline.run_id, outline.last, room)
        changed |= {one.key: one for one in outline.add(glances)}
        if len(glances) < room:
            break
    return tuple(changed.values())


async def show_call(app: Aura, run_id: str, key: str, *, full: bool = False) -> CallView:
    """One call with what is in it. Raises RunNotFound, InvalidInput for a key that it has not."""
    if not storable(run_id):
        raise no_run(run_id)
    keys = [key, *(key + end for end in LATER.values())]
    entries = await app.store.entries_of(run_id, keys) if storable(key) else []
    if not entries:
        raise InvalidInput(f"run {run_id} has no entry {key!r:.200}", hint="Look at its journal")
    return call_view(call_of(key, tuple(entries)), full=full)


def _entry(run_id: str, one: Glance) -> Entry:
    """As much of the entry as is known; a failed one has an error that says nothing."""
    return Entry(
        run_id, one.seq, one.key, one.kind, one.fingerprint, None, None,
        b"" if one.failed else None, one.attempt, one.started_at, one.recorded_at,
    )  # fmt: skip


async def record_of(app: Aura, run_id: str) -> RunRecord:
    """The run itself. Raises RunNotFound."""
    record = await app.store.run(run_id) if storable(run_id) else None
    if record is None:
        raise no_run(run_id)
    return record


async def children_of(app: Aura, run_id: str) -> tuple[RunView, ...]:
    """The newest runs that it has started, at most `MOST_CHILDREN` and one more."""
    where = RunFilter(parent=run_id, limit=MOST_CHILDREN + 1)
    return tuple(run_view(one) for one in await app.store.runs(where))


@dataclass(frozen=True, slots=True)
class SignalView:
    """A message that was sent to a run; `deadline` is when it was to be there."""

    number: int
    name: str
    priority: str
    sent_at: datetime
    deadline: datetime | None
    late: bool
    payload: Payload | None


async def signals_of(app: Aura, run_id: str) -> tuple[SignalView, ...]:
    """The messages to a run, in order, without those of its children."""
    return tuple(
        SignalView(
            one.seq, one.name, one.priority, time_of(one.sent_at),
            None if one.deadline is None else time_of(one.deadline), one.late,
            payload_view(one.payload),
        )
        for one in await app.store.signals([(run_id, 0)])
        if one.name != CHILD_ENDED
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """An item that a run has written to a stream."""

    seq: int
    stream: str
    item: Any


async def said_by(app: Aura, run_id: str, after: int) -> tuple[Said, ...]:
    """What it has written to its streams in entries after that seq."""
    mask = current_mask()
    return tuple(
        Said(entry.seq, entry.fingerprint, HIDDEN if mask.hides(entry.fingerprint) else mask(item))
        for entry in await app.store.entries(run_id, "stream", after)
        for item in plain(entry.output)
    )


async def troubled(app: Aura, most: int = 8) -> tuple[RunView, ...]:
    """The runs that were parked last, and then those that failed of the newest ones."""
    parked = await app.store.runs(RunFilter(state="parked", limit=most, by="parked"))
    failed = await app.store.runs(RunFilter(state="failed", limit=most - len(parked)))
    return tuple(run_view(one) for one in [*parked, *failed][:most])
