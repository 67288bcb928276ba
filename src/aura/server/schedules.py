"""What the faces of Aura show of schedules, and the orders that they give to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from aura.app import Aura
from aura.engine.schedule import Missed, Overlap, due, next_tick
from aura.engine.scheduler import State, Status
from aura.engine.schedules import ScheduleOptions, Schedules, declared
from aura.errors import InvalidInput, ResultTimeout, UnknownSchedule
from aura.server.drivers import is_driven
from aura.server.operations import storable
from aura.server.views import Payload, payload_view, time_of
from aura.store.base import RunState

MOST_TICKS = 20
"""So many of the next ticks are shown at most."""

OrderName = Literal["pause", "resume", "trigger", "backfill", "delete"]


@dataclass(frozen=True, slots=True)
class ScheduleCounts:
    """How many ticks were started, skipped because another one ran, and missed."""

    started: int
    skipped: int
    missed: int


@dataclass(frozen=True, slots=True)
class ScheduleEvent:
    """Something that a schedule did, `run` with which run."""

    at: datetime
    kind: str
    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule. Either `cron` or `every` (seconds); `words` says it for people. `next` is when
    its next tick is due (None: never, or it is paused), `run` the run that is the schedule.
    `running` are its runs under way, `waiting` the ticks that wait for them. Times in seconds;
    `window` is how old a missed tick may be, `deadline` 0 when there is none."""

    name: str
    state: State
    workflow: str
    version: str
    words: str
    cron: str
    every: float
    timezone: str
    overlap: Overlap
    missed: Missed
    window: float
    jitter: float
    deadline: float
    queue: str | None
    key: str
    priority: int
    input: Payload | None
    takes_tick: bool
    next: datetime | None
    run: str
    running: tuple[str, ...]
    waiting: tuple[datetime, ...]
    counts: ScheduleCounts
    history: tuple[ScheduleEvent, ...]


@dataclass(frozen=True, slots=True)
class ScheduleDetail:
    """A schedule with the times at which it starts next, and the states of its runs by their ids,
    the newest first."""

    schedule: ScheduleView
    ticks: tuple[datetime, ...]
    runs: dict[str, RunState]


@dataclass(frozen=True, slots=True)
class OrderView:
    """What became of an order. When it is not `done` it is kept until a worker carries it out,
    which is there when `driven`; `schedule` is the schedule as it was last published."""

    order: str
    done: bool
    driven: bool
    schedule: ScheduleView | None


@dataclass(frozen=True, slots=True)
class ScheduleOrder:
    """What a schedule is told. `id` makes a trigger count once; a backfill has `start` and `end`,
    both included (`end` None: now; without a zone they are in the schedule's)."""

    name: OrderName
    id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule that is wanted: `input` has the workflow's arguments by name as JSON values. See
    `aura.engine.schedules.ScheduleOptions` for `options`, without `queue`."""

    workflow: str
    version: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None


async def list_schedules(app: Aura, workflow: str | None = None) -> list[ScheduleView]:
    """The schedules that are not deleted, by name; those of one workflow, if one is named."""
    found = await app.schedules.list()
    return [schedule_view(one) for one in found if workflow in (None, one.schedule.workflow)]


async def workflow_of_schedule(app: Aura, name: str) -> str:
    """The workflow that it starts. Raises UnknownSchedule."""
    return (await _status(app, name)).schedule.workflow


async def show_schedule(app: Aura, name: str, next_ticks: int = 5) -> ScheduleDetail:
    """A schedule with its next ticks. Raises UnknownSchedule."""
    status = await _status(app, name)
    runs = await app.schedules.runs(name)
    states = {run.id: run.state for run in runs}
    return ScheduleDetail(schedule_view(status), _coming(app, status, next_ticks), states)


async def order_schedule(app: Aura, name: str, order: ScheduleOrder) -> OrderView:
    """Tell a schedule something. Raises UnknownSchedule, and
    ScheduleError for what makes no sense."""
    await _status(app, name)
    desk, driven = await _desk(app)
    try:
        status = await _give(app, desk, name, order)
    except ResultTimeout:
        known = await _status(app, name)
        return OrderView(order.name, False, driven, schedule_view(known))
    return OrderView(order.name, True, driven, schedule_view(status))


async def put_schedule(app: Aura, name: str, spec: ScheduleSpec) -> OrderView:
    """Create a schedule, or replace the one of that name. Raises RegistrationError, InvalidInput,
    UnknownWorkflow, UnknownQueue."""
    for text in (name, spec.workflow, spec.version or "", spec.queue or ""):
        if not storable(text):
            raise InvalidInput("a name cannot be stored", hint="Use other characters")
    desk, driven = await _desk(app)
    workflow = app.catalog.named(spec.workflow, spec.version)
    options = dict(spec.options)
    if spec.queue is not None:
        options["queue"] = spec.queue
    there = name in {one.schedule.name for one in await app.schedules.list()}
    wanted = declared(name, workflow, (), cast("ScheduleOptions", options))
    status, done = await desk.put(replace(wanted, given=spec.input))
    return OrderView("replace" if there else "create", done, driven, schedule_view(status))


def no_schedule(name: str) -> UnknownSchedule:
    """What to raise for a name that no schedule has."""
    shown = name[:200].encode("utf-8", "replace").decode()
    return UnknownSchedule(f"there is no schedule {shown}", hint="List: aura schedules list")


def schedule_view(status: Status) -> ScheduleView:
    """A schedule as it is shown."""
    schedule, book = status.schedule, status.book
    place = schedule.place
    return ScheduleView(
        name=schedule.name,
        state=status.state,
        workflow=schedule.workflow,
        version=schedule.version,
        words=schedule.words,
        cron=schedule.cron,
        every=schedule.every,
        timezone=schedule.timezone,
        overlap=schedule.overlap,
        missed=schedule.missed,
        window=schedule.window,
        jitter=schedule.jitter,
        deadline=schedule.deadline,
        queue=place.queue if place else None,
        key=place.key if place else "",
        priority=place.priority if place else 0,
        input=payload_view(schedule.input.encode()),
        takes_tick=schedule.takes_tick,
        next=None if status.next is None else time_of(status.next),
        run=status.run,
        running=book.running,
        waiting=tuple(time_of(tick.at) for tick in book.queued),
        counts=ScheduleCounts(book.started, book.skipped, book.missed),
        history=tuple(
            ScheduleEvent(time_of(one.at), one.kind, one.run, one.reason) for one in book.history
        ),
    )


async def _status(app: Aura, name: str) -> Status:
    if not storable(name):
        raise no_schedule(name)
    return await app.schedules.show(name)


async def _desk(app: Aura) -> tuple[Schedules, bool]:
    """The desk for an order, which does not wait when nobody is there to carry it out."""
    driven = await is_driven(app, app.schedules.engine.workflow)
    desk = copy.copy(app.schedules)
    desk.patience = app.schedules.patience if driven else 0.0
    return desk, driven


async def _give(app: Aura, desk: Schedules, name: str, order: ScheduleOrder) -> Status:
    why = {"reason": order.reason, "by": order.by}
    match order.name:
        case "pause":
            return await desk.pause(name, **why)
        case "resume":
            return await desk.resume(name, **why)
        case "trigger":
            return await desk.trigger(name, id=order.id, **why)
        case "delete":
            return await desk.delete(name, **why)
    if order.start is None:
        raise InvalidInput("a backfill has no beginning", hint="Give the time of the first tick")
    end = order.end or datetime.fromtimestamp(app.clock.now(), UTC)
    return await desk.backfill(name, order.start, end, **why)


def _coming(app: Aura, status: Status, count: int) -> tuple[datetime, ...]:
    """When the next ticks are started, if nothing is in their way."""
    if status.state != "active":
        return ()
    found: list[datetime] = []
    after = max(status.book.cursor, app.clock.now())
    while len(found) < min(count, MOST_TICKS):
        tick = next_tick(status.schedule, after)
        if tick is None:
            break
        found.append(time_of(due(status.schedule, tick)))
        after = tick
    return tuple(found)
