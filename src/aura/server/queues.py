"""What the faces of Aura show of queues."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from aura.app import Aura
from aura.errors import UnknownQueue
from aura.server.operations import live_workers, storable
from aura.server.views import time_of
from aura.store.queues import QueueLimits, QueueRecord

MOST_KEYS = 20
"""The keys with the most waiting runs are shown, so many."""


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue as it stands in a list: its limits (None: no such limit; `per` in seconds), and its
    runs that have not ended. Without `changed_at` nobody has defined it, so it has no limits."""

    name: str
    pending: int
    running: int
    waiting: int
    parked: int
    concurrency: int | None
    per_worker: int | None
    per_key: int | None
    rate: int | None
    per: float | None
    requires: tuple[str, ...]
    resources: dict[str, float]
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeyView:
    """The runs of one key in a queue; the empty one stands for runs without a key."""

    key: str
    pending: int
    running: int


@dataclass(frozen=True, slots=True)
class QueueDetail:
    """A queue with its keys, how many of its runs each worker has, and the live workers whose tags
    and resources are enough for it."""

    queue: QueueView
    keys: tuple[KeyView, ...]
    running_on: dict[str, int]
    served_by: tuple[str, ...]


async def list_queues(app: Aura) -> list[QueueView]:
    """All queues that are defined or have runs, by name."""
    defined = {one.name: one for one in await app.store.queues()}
    counts: dict[str, Counter[str]] = {name: Counter() for name in defined}
    for (queue, state), count in (await app.store.count_runs(("queue", "state"))).items():
        if queue is not None:
            counts.setdefault(queue, Counter())[str(state)] += count
    return [_view(name, defined.get(name), counts[name]) for name in sorted(counts)]


async def show_queue(app: Aura, name: str) -> QueueDetail:
    """One queue. Raises UnknownQueue."""
    ever = await app.store.count_runs(("state",), name) if storable(name) else {}
    defined = next((one for one in await app.store.queues() if one.name == name), None)
    if defined is None and not ever:
        raise UnknownQueue(f"there is no queue {name:.200}", hint="List queues: aura queues list")
    counted = await app.store.count_runs(("state", "key", "owner"), name)
    states: Counter[str] = Counter()
    keys: dict[str, Counter[str]] = {}
    owners: Counter[str] = Counter()
    for (state, key, owner), count in counted.items():
        states[str(state)] += count
        keys.setdefault(str(key), Counter())[str(state)] += count
        if owner is not None:
            owners[owner] += count
    views = (KeyView(key, of["pending"], of["running"]) for key, of in keys.items())
    busy = sorted(
        (one for one in views if one.pending or one.running),
        key=lambda one: (-one.pending, -one.running, one.key),
    )
    served = await _served_by(app, defined.limits if defined else QueueLimits())
    view = _view(name, defined, states)
    return QueueDetail(view, tuple(busy[:MOST_KEYS]), dict(owners.most_common()), served)


async def _served_by(app: Aura, limits: QueueLimits) -> tuple[str, ...]:
    return tuple(
        worker.id
        for worker in await live_workers(app)
        if limits.requires <= set(worker.tags)
        and all(
            worker.resources.get(name, 0.0) >= amount for name, amount in limits.resources.items()
        )
    )


def _view(name: str, defined: QueueRecord | None, states: Counter[str]) -> QueueView:
    limits = defined.limits if defined else QueueLimits()
    return QueueView(
        name=name,
        pending=states["pending"],
        running=states["running"],
        waiting=states["waiting"],
        parked=states["parked"],
        concurrency=limits.concurrency,
        per_worker=limits.per_worker,
        per_key=limits.per_key,
        rate=limits.rate,
        per=limits.per if limits.rate is not None else None,
        requires=tuple(sorted(limits.requires)),
        resources=dict(limits.resources),
        changed_at=time_of(defined.updated_at) if defined else None,
    )
