"""What changes while somebody looks: one hub per process, which any number of clients listen to.

    hub = changes_of(app)                          # the app must be open
    async for news in hub.follow(Wanted(frozenset({"runs"}))):
        match news:
            case Batch(): ...                      # news.changes["runs"]: what is different
            case Reset(): ...                      # read everything again
            case None: ...                         # nothing for 15 seconds

The hub hears what the store tells (`Store.listen`) and looks at runs and workers itself, because
not every end is told to every process. Each `GATHER` seconds at most it puts what has changed into
a batch; `KEPT` batches stay in memory. A listener has a position among them and nothing else, so
one that is slow costs nothing: when it has fallen behind it is told to begin anew (`Reset`), and
so is one that comes back with a position of another process or of long ago. Nobody listens: nothing
is done.

A change says that something is different now, and of runs what they are; the thing itself is asked
for. It may be told twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

from aura.app import Aura
from aura.errors import AuraError
from aura.server.views import worker_view
from aura.store.events import GROUPS
from aura.store.search import Pulse, RunChange

log = logging.getLogger("aura.server")

Kind = Literal[
    "runs", "run", "workers", "schedules", "topics", "letters", "rollouts", "experiments",
    "flows", "decommissions", "shadows", "catalog", "queues", "audit",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

GATHER = 0.25
"""Seconds for which changes are gathered."""
LOOK = 0.5
"""Seconds after which runs are looked at although nothing was told."""
WORKERS = 2.0
"""Seconds after which workers are looked at."""
LINGER = 60.0
"""Seconds for which the hub goes on without listeners, so that one can come back."""
KEPT = 256
"""Batches that are kept for those who come back."""
MOST = 200
"""Changes of a kind in a batch; when there were more it says so."""
MOST_RUNS = 100
"""Single runs that are looked at."""
_OVERLAP = 2.0  # seconds that a commit may take to be seen after the time that is in it
_MEMORY = 2_000  # changes of runs that are known to have been told

_DOCUMENTS: Mapping[str, Kind] = {
    "schedule": "schedules",
    "split": "rollouts",
    "rollout": "rollouts",
    "rollout-curve": "rollouts",
    "emergency": "rollouts",
    "alerts": "rollouts",
    "experiment": "experiments",
    "flow": "flows",
    "learning": "flows",
    "retirement": "decommissions",
    "shadow": "shadows",
    "catalog": "catalog",
    "compatibility": "catalog",
}
"""Documents by the kind of what they belong to. Tokens and keys are not among them."""


class Change(NamedTuple):
    """Something is different. `what` is what it is now, as far as that was looked at."""

    name: str
    what: Mapping[str, Any]
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What has changed, by kind. In the kinds `more` there was more than that."""

    number: int
    changes: Mapping[Kind, tuple[Change, ...]]
    more: frozenset[Kind] = frozenset()


@dataclass(frozen=True, slots=True)
class Here:
    """Where a listener stands who has just begun: what comes after that, it will hear."""

    number: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Changes were missed: whoever listens reads everything again and goes on at `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a listener wants to hear: these kinds (none: all), and of `runs` how they get on."""

    kinds: frozenset[Kind] = frozenset(KINDS)
    run: str | None = None


class Changes:
    """See the module's docstring."""

    def __init__(self, app: Aura) -> None:
        self.name = ""
        self._app = app
        self._batches: deque[Batch] = deque(maxlen=KEPT)
        self._last = 0
        self._published = asyncio.Event()
        self._heard: dict[tuple[Kind, str], None] = {}
        self._stirred = asyncio.Event()
        self._listeners: dict[int, Wanted] = {}
        self._task: asyncio.Task[None] | None = None
        self._since = 0.0
        self._told: dict[tuple[str, float], None] = {}
        self._workers: dict[str, tuple[bool, int]] = {}
        self._pulses: dict[str, Pulse] = {}
        self._workers_at = 0.0
        self._closed = False

    @property
    def position(self) -> str:
        """The present place, with which `follow` goes on."""
        return f"{self.name}-{self._last}"

    async def follow(
        self,
        wanted: Wanted,
        since: str | None = None,
        beat: Callable[[], float] = lambda: 15.0,
    ) -> AsyncGenerator[Here | Batch | Reset | None, None]:
        """Changes from now on, or since that position; None after `beat()` seconds without any.
        Ends when the hub is closed. Raises StoreUnavailable when it cannot begin."""
        number = next(_numbers)
        self._listeners[number] = wanted
        try:
            await self._begin()
            last = self._last if since is None else self._place(since)
            if last is not None:
                yield Here(last)
            while not self._closed:
                if last is None or (self._batches and last < self._batches[0].number - 1):
                    last = self._last
                    yield Reset(last)
                    continue
                batch = self._next(last)
                if batch is not None:
                    last = batch.number
                    yield batch
                elif not await self._news(beat()):
                    yield None
        finally:
            self._listeners.pop(number, None)

    async def close(self) -> None:
        """End it, and all who listen."""
        self._closed = True
        self._published.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    # Listeners.

    def _place(self, since: str) -> int | None:
        """The number of the last batch that a listener knows; None when that says nothing here."""
        name, _, number = since.partition("-")
        known = name == self.name and number.isascii() and number.isdigit() and len(number) < 16
        place = int(number) if known else None
        return None if place is None or place > self._last else place

    def _next(self, last: int) -> Batch | None:
        if last >= self._last or not self._batches:
            return None
        return self._batches[last + 1 - self._batches[0].number]

    async def _news(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._published.wait()
        except TimeoutError:
            return False
        return True

    # The work.

    async def _begin(self) -> None:
        if self._task is not None and not self._task.done():
            return
        self.name = uuid.uuid4().hex[:8]
        self._batches.clear()
        self._told.clear()
        self._since = await self._app.store.moment()
        self._workers = await self._seen_workers()
        self._workers_at = self._app.clock.monotonic()
        if self._task is None or self._task.done():  # another listener may have been faster
            self._task = asyncio.create_task(self._work(), name="aura-changes")

    async def _work(self) -> None:
        stop = self._app.store.listen(self._hear)
        deserted: float | None = None
        try:
            while True:
                now = self._app.clock.monotonic()
                deserted = None if self._listeners else deserted or now
                if deserted is not None and now - deserted > LINGER:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._stirred.wait()
                await self._app.clock.sleep(GATHER)
                self._stirred.clear()
                try:
                    await self._look()
                except Exception:  # whoever listens must not wait for a task that is no more
                    log.exception("what has changed cannot be looked at")
        finally:
            stop()

    def _hear(self, topic: str) -> None:
        """Called for each topic while the engine works: it notes and does nothing else."""
        self._stirred.set()
        place = _place_of(topic)
        if place is not None and len(self._heard) < MOST * len(KINDS):
            self._heard[place] = None

    async def _look(self) -> None:
        heard, self._heard = self._heard, {}
        found: dict[Kind, list[Change]] = {}
        for kind, name in heard:
            found.setdefault(kind, []).append(Change(name, {}))
        more: set[Kind] = set()
        try:
            runs, whole = await self._runs()
            found["runs"] = runs
            if not whole:
                more.add("runs")
            if any(one.what["state"] == "parked" for one in runs):
                found.setdefault("letters", []).append(Change("", {}))
            found["run"] = await self._followed()
            found["workers"] = await self._of_workers()
        except AuraError as error:
            log.warning("what has changed cannot be looked at: %s", error)
        more |= {kind for kind, changes in found.items() if len(changes) > MOST}
        self._publish({kind: tuple(each[:MOST]) for kind, each in found.items() if each}, more)

    def _publish(self, changes: Mapping[Kind, tuple[Change, ...]], more: Iterable[Kind]) -> None:
        if not changes:
            return
        self._last += 1
        self._batches.append(Batch(self._last, changes, frozenset(more)))
        self._published.set()
        self._published = asyncio.Event()

    async def _runs(self) -> tuple[list[Change], bool]:
        """The runs that began or ended, and whether these are all."""
        rows = await self._app.store.changed_runs(self._since - _OVERLAP, MOST)
        fresh = [row for row in rows if (row.id, row.at) not in self._told]
        self._told |= dict.fromkeys((row.id, row.at) for row in fresh)
        if len(self._told) > 2 * _MEMORY:
            self._told = dict.fromkeys(list(self._told)[-_MEMORY:])
        if rows:
            self._since = max(self._since, rows[0].at)
        return [_run_change(row) for row in reversed(fresh)], len(fresh) < MOST

    async def _followed(self) -> list[Change]:
        """Those of the single runs that have got on."""
        ids = list(dict.fromkeys(one.run for one in self._listeners.values() if one.run))
        if not ids:
            self._pulses.clear()
            return []
        pulses = {one.id: one for one in await self._app.store.pulses(ids[:MOST_RUNS])}
        fresh = [one for one in pulses.values() if self._pulses.get(one.id) != one]
        self._pulses = pulses
        return [Change(one.id, _pulse_of(one), one.workflow) for one in fresh]

    async def _of_workers(self) -> list[Change]:
        now = self._app.clock.monotonic()
        if now - self._workers_at < WORKERS:
            return []
        self._workers_at = now
        before, self._workers = self._workers, await self._seen_workers()
        return [
            Change(one, {"live": live, "runs": runs})
            for one in {**before, **self._workers}
            for live, runs in [self._workers.get(one, (False, 0))]
            if before.get(one) != (live, runs)
        ]

    async def _seen_workers(self) -> dict[str, tuple[bool, int]]:
        now = await self._app.store.moment()
        views = (worker_view(one, now) for one in await self._app.store.workers())
        return {view.id: (view.live, view.runs) for view in views}


_numbers = count()
_hubs: WeakKeyDictionary[Aura, Changes] = WeakKeyDictionary()


def changes_of(app: Aura) -> Changes:
    """The hub of an app."""
    found = _hubs.get(app)
    if found is None or found._closed:
        found = _hubs[app] = Changes(app)
    return found


async def close_changes(app: Aura) -> None:
    """End the app's hub, if it has one."""
    found = _hubs.pop(app, None)
    if found is not None:
        await found.close()


def for_caller(
    batch: Batch, wanted: Wanted, may_see: Callable[[str], bool] | None
) -> dict[Kind, tuple[Change, ...]]:
    """What a listener hears of a batch; with `may_see` only of those workflows."""
    found: dict[Kind, tuple[Change, ...]] = {}
    for kind, changes in batch.changes.items():
        if kind not in wanted.kinds:
            continue
        if kind == "run":
            changes = tuple(one for one in changes if one.name == wanted.run)
        if may_see is not None:
            changes = tuple(one for one in changes if one.workflow and may_see(one.workflow))
        if changes:
            found[kind] = changes
    return found


def _place_of(topic: str) -> tuple[Kind, str] | None:
    """What has changed, by what the store tells."""
    if topic == GROUPS:
        return "letters", ""
    head, _, rest = topic.partition(":")
    if head == "events":
        return "topics", rest
    if head == "feed":
        return ("audit", "") if rest == "audit" else None
    if head != "doc":
        return None
    kind, _, name = rest.partition("/")
    known = _DOCUMENTS.get(kind)
    return None if known is None else (known, name)


def _run_change(row: RunChange) -> Change:
    what = {"state": row.state, "workflow": row.workflow, "version": row.version}
    return Change(row.id, what, row.workflow)


def _pulse_of(one: Pulse) -> dict[str, Any]:
    return {"state": one.state, "entries": one.entries, "signals": one.signals}


def kinds_of(names: Sequence[Kind]) -> frozenset[Kind]:
    """The kinds that are named; all but those of one run, when none is."""
    return frozenset(names) if names else frozenset(KINDS) - {"run"}
