"""The whole at a glance, from an app or from another server: what `aura top` shows.

How much was done and how long it took is counted from the newest runs that have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pydantic_core import to_jsonable_python

from aura.app import Aura
from aura.server import operations
from aura.server.queues import list_queues

NEWEST = 200
"""Runs that are looked at."""

LATELY = 60.0
"""Seconds that count as lately."""


class Source(Protocol):
    """Who can be asked: `aura.client.Client`, and `of_app(app)`. All of it is JSON values."""

    async def overview(self) -> dict[str, Any]: ...
    async def queue_list(self) -> list[dict[str, Any]]: ...
    async def ended_lately(self, limit: int) -> list[tuple[float, float, bool]]:
        """Of the newest runs that have ended: when (epoch seconds), after how many seconds, and
        whether well."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """What was done lately. `per_second` runs ended, `failed` of `ended` not well; half of them,
    and 95 %, took at most so many seconds (None: none ended)."""

    ended: int
    failed: int
    per_second: float
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Glance:
    """The whole at a moment (epoch seconds). `writes_per_second` are the journal entries of all
    live workers since the look before (None: there was none)."""

    at: float
    app: str
    database: Mapping[str, Any]
    runs: Mapping[str, int]
    pace: Pace
    writes_per_second: float | None
    queues: Sequence[Mapping[str, Any]]
    workers: Sequence[Mapping[str, Any]]
    rollouts: Sequence[Mapping[str, Any]]


async def glance(source: Source, now: float, before: Glance | None = None) -> Glance:
    """Look once. Raises AuraError."""
    found = await source.overview()
    return Glance(
        at=now,
        app=found["app"],
        database=found["database"],
        runs=found["runs"],
        pace=pace_of(await source.ended_lately(NEWEST), now),
        writes_per_second=_writes(found["workers"], now, before),
        queues=await source.queue_list(),
        workers=found["workers"],
        rollouts=found["rollouts"],
    )


def pace_of(ended: Sequence[tuple[float, float, bool]], now: float) -> Pace:
    """What was done lately: within a minute, or, when there is more than was looked at, since the
    oldest of that. Pure."""
    lately = [one for one in ended if now - one[0] <= LATELY]
    if not lately:
        return Pace(0, 0, 0.0, None, None)
    full = len(lately) == len(ended) >= NEWEST
    span = max(now - min(at for at, _, _ in lately), 1.0) if full else LATELY
    took = sorted(seconds for _, seconds, _ in lately)
    failed = sum(not well for _, _, well in lately)
    return Pace(len(took), failed, len(took) / span, _quantile(took, 0.5), _quantile(took, 0.95))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _writes(
    workers: Sequence[Mapping[str, Any]], now: float, before: Glance | None
) -> float | None:
    """Of workers that were there before, too: one that is new, or began anew, has no rate yet."""
    if before is None or now <= before.at:
        return None
    then: dict[str, int] = {one["id"]: one["written"].get("entries", 0) for one in before.workers}
    more = (
        int(one["written"].get("entries", 0)) - then[one["id"]]
        for one in workers
        if one["id"] in then
    )
    return sum(max(0, each) for each in more) / (now - before.at)


@dataclass(frozen=True, slots=True)
class _AppSource:
    app: Aura

    async def overview(self) -> dict[str, Any]:
        found: dict[str, Any] = to_jsonable_python(asdict(await operations.overview(self.app)))
        return found

    async def queue_list(self) -> list[dict[str, Any]]:
        return [to_jsonable_python(asdict(one)) for one in await list_queues(self.app)]

    async def ended_lately(self, limit: int) -> list[tuple[float, float, bool]]:
        page = await operations.list_runs(self.app, limit=limit)
        return [
            (run.finished_at.timestamp(), run.seconds or 0.0, run.state == "completed")
            for run in page.runs
            if run.finished_at is not None
        ]


def of_app(app: Aura) -> Source:
    """An open app as a source."""
    return _AppSource(app)
