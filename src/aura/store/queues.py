"""Queues: where runs wait, how many may be under way at once, and whose turn it is.

What is under way is counted from the rows of the database, inside the transaction that takes runs,
while no other process can take one of the same queue. So the limits need no memory and no
coordinator, and they hold over crashes: a run of a dead worker keeps its place until another
worker takes it over, in that place.

    in a queue    the key with the fewest running runs goes next, then the one that waits longest
    in a key      runs that have begun go on first; then the smallest rank
    rank          the time since when a run may begin, less a minute per step of priority

A rank never changes, so a run of low priority is overtaken only by those that came less than the
difference of their priorities later: nothing starves. `choose` decides all this, without I/O.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol, get_args

PRIORITY_WORTH = 60.0
"""Seconds of waiting that one step of priority stands for."""

MOST_HEADS = 2_000
"""A claim looks at about so many waiting runs at most, at one of each key at least."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and when a new run waits, and what it stands for. Times in seconds.

    `queue` None is the default one, which has no limits; `delay` counts from the database's now,
    `at` is epoch seconds of it. While a run of the same workflow with the same `dedup` has not
    ended, a start finds that one. With `debounce` it finds it only before it has begun, gives it
    its own input, and puts it off by so much again, up to `debounce_limit` after its creation.
    """

    queue: str | None = None
    key: str = ""
    priority: int = 0
    delay: float | None = None
    at: float | None = None
    dedup: str | None = None
    debounce: float | None = None
    debounce_limit: float | None = None

    def due(self, now: float) -> float:
        """Since when the run may begin, in epoch seconds."""
        if self.at is not None:
            return self.at
        return now + (self.debounce or self.delay or 0.0)

    def rank(self, due: float) -> float:
        return due - PRIORITY_WORTH * self.priority


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many runs of a queue may be running at once: in all, on one worker, of one key (runs
    without a key have no such limit); at most `rate` may begin within any `per` seconds.

    Its runs are taken by workers that have all tags of `requires` and enough of `resources`, of
    which each running run uses so much.
    """

    concurrency: int | None = None
    per_worker: int | None = None
    per_key: int | None = None
    rate: int | None = None
    per: float = 0.0
    requires: frozenset[str] = frozenset()
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def exclusive(self) -> bool:
        """Whether only one process at a time may take runs, as it has to count them before."""
        return not (self.concurrency is self.per_key is self.rate is None)

    def dump(self) -> str:
        return json.dumps(
            {
                "concurrency": self.concurrency,
                "per_worker": self.per_worker,
                "per_key": self.per_key,
                "rate": self.rate,
                "per": self.per,
                "requires": sorted(self.requires),
                "resources": dict(sorted(self.resources.items())),
            }
        )

    @staticmethod
    def load(text: str | None) -> QueueLimits:
        """What `dump` wrote; no limits for a queue that nobody has defined."""
        if text is None:
            return QueueLimits()
        found = json.loads(text)
        return QueueLimits(**{**found, "requires": frozenset(found["requires"])})


class QueueRecord(NamedTuple):
    """A queue as the database has it; `epoch` counts its definitions from 1."""

    name: str
    epoch: int
    limits: QueueLimits
    updated_at: float


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker has: tags, and resources with their amounts."""

    tags: frozenset[str] = frozenset()
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What is under way in one queue, counted from its rows: running runs by key, how many of them
    the asking worker has, how many runs began within the rate's window, and when (epoch seconds)
    the first of those leaves it. Not `free`: another process is taking runs just now."""

    limits: QueueLimits
    running: Mapping[str, int] = field(default_factory=dict)
    mine: int = 0
    begun: int = 0
    leaves_at: float | None = None
    free: bool = True


class Head(NamedTuple):
    """A run that could be taken: a pending one, or a running one whose owner is gone."""

    id: str
    epoch: int
    state: str
    queue: str
    key: str
    begun: bool
    rank: float


CountBy = Literal["state", "workflow", "version", "queue", "key", "owner"]


class Queued(Protocol):
    """The verbs of a store that concern queues."""

    async def put_queue(self, name: str, limits: QueueLimits, *, replace: bool) -> QueueRecord:
        """Define a queue, or change it if `replace`. Gives the definition that counts from now."""
        ...

    async def queues(self) -> list[QueueRecord]:
        """All definitions, by name."""
        ...

    async def count_runs(
        self, by: Sequence[CountBy], queue: str | None = None
    ) -> dict[tuple[str | None, ...], int]:
        """How many runs there are for each combination of these columns, of all or of one queue; by
        `key` or `owner` only those that have not ended. Runs that ended are not read once more than
        a few thousand have: they are tallied then, which writes."""
        ...

    async def depths(self) -> dict[tuple[str | None, str], int]:
        """How many runs are "pending" and "running" in each queue (None: the default one). It reads
        these runs only, however many have ended."""
        ...


LEAST_TALLIED = 1_000
MOST_TALLIED = 50_000
"""So many runs that have ended are read by whoever counts; more are tallied first, so many in one
transaction."""
SETTLING = 60.0
"""Seconds after which a run that has ended is tallied: its commit is over by then."""


def only_open(by: Sequence[CountBy]) -> bool:
    """Whether only the runs are counted that have not ended."""
    return bool({"key", "owner"} & set(by))


def counted(by: Sequence[CountBy]) -> Sequence[str]:
    """The columns to count by, which are written into a statement. Raises ValueError."""
    known = get_args(CountBy)
    if not by or not set(by) <= set(known):
        raise ValueError(f"runs are counted by some of {', '.join(known)}, not by {by!r}")
    return by


# Who goes next.


def choose(loads: Mapping[str, Load], heads: Iterable[Head], room: int, offer: Offer) -> list[Head]:
    """Which of the runs a worker takes now, at most `room`; see the module's docstring. Pure.

    `heads` has the first runs of each queue and key in any order.
    """
    work = _Work(loads, offer)
    by_queue: dict[str, list[Head]] = {}
    chosen: list[Head] = []
    for head in sorted(heads, key=_turn):
        if head.state != "running":
            by_queue.setdefault(head.queue, []).append(head)
        elif len(chosen) < room and work.fits(head.queue):
            work.take(head.queue)
            chosen.append(head)
    lines = {name: _Line(loads[name], found) for name, found in by_queue.items()}
    turns = [(work.mine[name], name) for name in lines if loads[name].free]
    heapq.heapify(turns)
    while turns and len(chosen) < room:
        _, name = heapq.heappop(turns)
        found = lines[name].next() if work.fits(name) else None
        if found is not None:
            work.take(name)
            chosen.append(found)
            heapq.heappush(turns, (work.mine[name], name))
    return chosen


def open_queues(loads: Mapping[str, Load], offer: Offer) -> list[str]:
    """The queues from which a worker could take one run more, whichever it is. Pure."""
    work = _Work(loads, offer)
    return [
        name
        for name, load in loads.items()
        if load.free
        and work.fits(name)
        and (
            load.limits.concurrency is None
            or sum(load.running.values()) < load.limits.concurrency
        )
    ]  # fmt: skip


def next_look(
    loads: Mapping[str, Load], now: float, heads: Sequence[Head], chosen: Sequence[Head], room: int
) -> float | None:
    """In how many seconds there may be more to take for a reason that nobody tells. Pure."""
    times = [0.0] if len(chosen) < room and _cut_short(heads, chosen, room) else []
    for load in loads.values():
        if not load.free:
            times.append(0.02)  # another process takes runs of it: it is quick
        elif load.limits.rate is not None and load.begun >= load.limits.rate:
            assert load.leaves_at is not None  # noqa: S101  (one that began)
            times.append(max(0.0, load.leaves_at - now))
    return min(times, default=None)


def _cut_short(heads: Sequence[Head], chosen: Sequence[Head], room: int) -> bool:
    """Whether a key had more runs than were looked at, and all of those were taken."""
    found = Counter((head.queue, head.key) for head in heads)
    taken = Counter((head.queue, head.key) for head in chosen)
    seen = max(1, MOST_HEADS // max(1, len(found)))
    return seen < room and any(seen <= count <= taken[spot] for spot, count in found.items())


class _Work:
    """What a worker has and would have taken."""

    def __init__(self, loads: Mapping[str, Load], offer: Offer) -> None:
        self._loads = loads
        self._offer = offer
        self.mine = {name: load.mine for name, load in loads.items()}
        self._used: dict[str, float] = {}
        for load in loads.values():
            self._use(load.limits, load.mine)

    def fits(self, queue: str) -> bool:
        limits = self._loads[queue].limits
        return (
            limits.requires <= self._offer.tags
            and (limits.per_worker is None or self.mine[queue] < limits.per_worker)
            and all(
                self._used[name] + amount <= self._offer.resources.get(name, 0.0)
                for name, amount in limits.resources.items()
            )
        )

    def take(self, queue: str) -> None:
        self.mine[queue] += 1
        self._use(self._loads[queue].limits, 1)

    def _use(self, limits: QueueLimits, runs: int) -> None:
        for name, amount in limits.resources.items():
            self._used[name] = self._used.get(name, 0.0) + amount * runs


class _Line:
    """The runs that wait in one queue, key by key."""

    def __init__(self, load: Load, heads: Sequence[Head]) -> None:
        limits = load.limits
        self._per_key = limits.per_key
        self._room = _left(limits.concurrency, sum(load.running.values()))
        self._may_begin = _left(limits.rate, load.begun)
        in_order = sorted(heads, key=lambda head: (head.key, _turn(head)))
        self._keys = {key: list(of) for key, of in groupby(in_order, lambda head: head.key)}
        self._turns = [
            (load.running.get(key, 0), _turn(of[0]), key) for key, of in self._keys.items()
        ]
        heapq.heapify(self._turns)

    def next(self) -> Head | None:
        """The run whose turn it is, or None when none may be taken now."""
        while self._turns and self._room > 0:
            running, _, key = heapq.heappop(self._turns)
            waiting = self._keys[key]
            if key and self._per_key is not None and running >= self._per_key:
                continue
            if not waiting[0].begun and self._may_begin <= 0:
                continue
            head = waiting.pop(0)
            self._room -= 1
            self._may_begin -= not head.begun
            if waiting:
                heapq.heappush(self._turns, (running + 1, _turn(waiting[0]), key))
            return head
        return None


def _turn(head: Head) -> tuple[bool, float, str]:
    return (not head.begun, head.rank, head.id)


def _left(limit: int | None, used: int) -> float:
    return float("inf") if limit is None else limit - used


def loads_from(
    definitions: Mapping[str, tuple[str | None, bool]], rows: Iterable[Sequence[Any]]
) -> dict[str, Load]:
    """Loads from what a store has found: the definition of each queue and whether it is free to be
    taken from; rows (queue, key, running runs, this worker's of them) and, with None for the key,
    (queue, None, runs that began in the window, when the first of them leaves it)."""
    running: dict[str, dict[str, int]] = {name: {} for name in definitions}
    mine = dict.fromkeys(definitions, 0)
    begun: dict[str, tuple[int, float | None]] = {}
    for queue, key, count, other in rows:
        if key is None:
            begun[queue] = (count, other)
        else:
            running[queue][key] = count
            mine[queue] += int(other)
    return {
        name: Load(
            QueueLimits.load(text), running[name], mine[name], *begun.get(name, (0, None)), free
        )
        for name, (text, free) in definitions.items()
    }
