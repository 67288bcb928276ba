"""The desk of an app for its schedules: declare, list, and give orders to them.

A schedule is a run (`aura.engine.scheduler`); this is how it begins and how it is spoken to. All of
it may be done by several processes at once: a schedule is created by compare-and-set of its
document, and begun with what the document says.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypedDict, cast
from zoneinfo import ZoneInfo

from aura.clock import Clock
from aura.codec import Limits, digest, pack, plain, to_json
from aura.engine.definition import Registry, Resolver, Workflow
from aura.engine.handle import UPDATE, Run
from aura.engine.queues import Queue, named, placed
from aura.engine.schedule import Book, Missed, Order, OrderKind, Overlap, Schedule, check
from aura.engine.scheduler import KIND, ORDER, ORDERS, Leg, Scheduler, Status, run_of, status_of
from aura.engine.shadow import no_order_of_a_shadow
from aura.errors import (
    EpochConflict,
    InvalidInput,
    RegistrationError,
    RunEnded,
    ScheduleError,
    UnknownSchedule,
    UnknownWorkflow,
    UpdateRejected,
)
from aura.store.base import SETTLED, PutDocument, RunRecord, SendSignal, Store, Writer
from aura.store.queues import Placement

_LOOK = 1.0  # seconds after which a change is looked for that nobody has told of
_ANY = "2026-01-01T00:00:00+00:00"  # the time with which the other arguments are checked


class ScheduleOptions(TypedDict, total=False):
    """When a schedule ticks and what becomes of its ticks. Times in seconds or as timedeltas.

    Either `cron` (minute, hour, day, month, weekday, in `timezone`) or `every`. `overlap`: "skip",
    "queue", "cancel" or "allow". `missed`: "skip", "latest", "all", or how old a tick may be.
    `jitter` delays each start by up to so much. `queue` and `deadline` are those of each run, as in
    `app.start`; the deadline counts from its start.
    """

    cron: str
    every: float | timedelta
    timezone: str
    overlap: Overlap
    missed: Missed | float | timedelta
    jitter: float | timedelta
    queue: Queue | Placement | str
    deadline: float | timedelta


@dataclass(frozen=True, slots=True)
class Declared:
    """A schedule as the code has it; `input` follows when the app opens: from `args`, or else from
    `given`, the arguments by name as JSON values."""

    schedule: Schedule
    workflow: Workflow[..., Any] | str
    args: tuple[Any, ...]
    given: Mapping[str, Any] | None = None


class Schedules:
    """The schedules of an app. What changes something waits until a worker has done it, but for no
    longer than `patience` (seconds)."""

    def __init__(self, registry: Registry, resolver: Resolver, limits: Limits) -> None:
        self.engine = Scheduler()
        self.patience = 10.0
        self._registry = registry
        self._resolver = resolver
        self._limits = limits
        self._declared: dict[str, Declared] = {}

    def open(
        self,
        store: Store,
        writer: Writer,
        clock: Clock,
        start: Callable[..., Awaitable[Run[Any]]],
        run: Callable[[str], Run[Any]],
        require: Callable[[Placement | None], Awaitable[None]],
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._start = start
        self._run = run
        self._require = require

    def declare(
        self,
        name: str,
        workflow: Workflow[..., Any] | str,
        args: tuple[Any, ...],
        options: ScheduleOptions,
    ) -> None:
        """Remember a schedule for `apply`. Raises RegistrationError."""
        if name in self._declared:
            raise RegistrationError(f"schedule {name} is declared twice", hint="Rename one of them")
        self._declared[name] = declared(name, workflow, args, options)

    async def apply(self) -> None:
        """Create what is declared and not there, and update what is declared otherwise.

        Any number of workers may do that at once. Raises InvalidInput, UnknownWorkflow,
        UnknownQueue.
        """
        for one in self._declared.values():
            await self._apply(self._complete(one))

    async def create(
        self,
        name: str,
        workflow: Workflow[..., Any] | str,
        args: Sequence[Any] = (),
        *,
        given: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Status:
        """Create a schedule, or change the one of that name, while the app is open.

        Options as for `app.schedule`; `given` are the arguments by name as JSON values, in place of
        `args`. Raises RegistrationError, InvalidInput, UnknownWorkflow, UnknownQueue.
        """
        wanted = cast("ScheduleOptions", options)
        one = replace(declared(name, workflow, tuple(args), wanted), given=given)
        no_order_of_a_shadow(f"create schedule {name}")
        await self._apply(self._complete(one))
        return await self.show(name)

    async def put(self, one: Declared) -> tuple[Status, bool]:
        """Create or change it, and wait until a worker has done so; its status, and whether that is
        what was declared by now. Raises what `create` raises."""
        no_order_of_a_shadow(f"create schedule {one.schedule.name}")
        wanted = self._complete(one)
        await self._apply(wanted)
        return await self._shown(wanted)

    async def _shown(self, wanted: Schedule) -> tuple[Status, bool]:
        """Its status, once that says what is wanted or after `patience`, and whether it does."""
        news = asyncio.Event()
        place = f"doc:{KIND}/{wanted.name}"
        stop = self._store.listen(lambda topic: news.set() if topic == place else None)
        until = self._clock.monotonic() + self.patience
        try:
            while True:
                status = await self.show(wanted.name)
                left = until - self._clock.monotonic()
                done = status.schedule == wanted and status.state != "starting"
                if done or left <= 0:
                    return status, done
                with contextlib.suppress(TimeoutError):  # a notification may be missed
                    async with asyncio.timeout(min(left, _LOOK)):
                        await news.wait()
                news.clear()
        finally:
            stop()

    async def list(self) -> list[Status]:
        """The schedules that are not deleted, by name."""
        found = [Status.from_json(one.body) for one in await self._store.documents(KIND)]
        return [status for status in found if status.state != "deleted"]

    async def show(self, name: str) -> Status:
        """The schedule as it was last published. Raises ScheduleError when there is none."""
        document = await self._store.document(KIND, name)
        status = None if document is None else Status.from_json(document.body)
        if status is None or status.state == "deleted":
            raise UnknownSchedule(
                f"there is no schedule {name}", hint="List them with: aura schedules list"
            )
        return status

    async def runs(self, name: str) -> Sequence[RunRecord]:
        """The runs that its history and its present name, newest first."""
        book = (await self.show(name)).book
        ids = dict.fromkeys([*book.running, *(one.run for one in book.history if one.run)])
        found = [await self._store.run(one) for one in ids]
        return sorted((one for one in found if one), key=lambda one: one.created_at, reverse=True)

    async def pause(self, name: str, *, reason: str = "", by: str = "") -> Status:
        """Start nothing until it is resumed; ticks of that time are not made up for."""
        return await self._order(name, _new("pause", by, reason))

    async def resume(self, name: str, *, reason: str = "", by: str = "") -> Status:
        """Go on with the next tick."""
        return await self._order(name, _new("resume", by, reason))

    async def trigger(
        self, name: str, *, id: str | None = None, reason: str = "", by: str = ""
    ) -> Status:
        """Start its workflow now, also while it is paused; once per `id`. If one is running and the
        schedule does not allow several, it waits for its end."""
        return await self._order(name, replace(_new("trigger", by, reason), id=id or _id()))

    async def backfill(
        self, name: str, start: datetime, end: datetime, *, reason: str = "", by: str = ""
    ) -> Status:
        """Start the ticks from `start` to `end`, both included, that have no run; one after the
        other, unless the schedule allows several at once. Times without a zone are in the
        schedule's. Raises ScheduleError when `end` is before `start`, or in the future, and
        InvalidInput for what is no time."""
        given: tuple[object, ...] = (start, end)
        for one in given:
            if not isinstance(one, datetime):
                raise InvalidInput(
                    f"a backfill of {name} has a time of {one!r:.60}", hint="Give datetimes"
                )
        zone = ZoneInfo((await self.show(name)).schedule.timezone)
        start, end = (
            one if one.utcoffset() is not None else one.replace(tzinfo=zone) for one in (start, end)
        )
        if start > end:  # the schedule would refuse it too, but only when a worker is there
            raise ScheduleError(
                "a backfill begins before it ends, and ends in the past: not from "
                f"{start.isoformat()} to {end.isoformat()}",
                hint="Give the earlier time first",
            )
        order = _new("backfill", by, reason)
        order = replace(order, start=start.timestamp(), end=end.timestamp())
        return await self._order(name, order)

    async def delete(self, name: str, *, reason: str = "", by: str = "") -> Status:
        """Start nothing any more. What runs goes on. One that is declared in the code is created
        again when a worker starts."""
        return await self._order(name, _new("delete", by, reason))

    # Orders.

    async def _order(self, name: str, order: Order) -> Status:
        """Raises ScheduleError; ResultTimeout while no worker carries it out (it stays given)."""
        status = await self.show(name)
        try:
            await self._run(status.run).update(ORDER, order, timeout=self.patience, id=order.id)
        except UpdateRejected as error:
            raise ScheduleError(_reason(error)) from error
        except RunEnded as error:
            raise ScheduleError(
                f"schedule {name} is at its end: {error.message}",
                hint=f"See why with: aura runs show {status.run}",
            ) from error
        document = await self._store.document(KIND, name)
        assert document is not None  # noqa: S101  (documents are never deleted)
        return Status.from_json(document.body)

    # Creating.

    async def _apply(self, schedule: Schedule) -> None:
        await self._require(schedule.place)
        while True:
            document = await self._store.document(KIND, schedule.name)
            known = None if document is None else Status.from_json(document.body)
            epoch = 0 if document is None else document.epoch
            if known is None or await self._is_over(known):
                try:
                    await self._create(schedule, known, epoch)
                except EpochConflict:
                    continue  # another worker was faster
                return
            if known.state == "starting":
                await self._begin(known)
            if known.schedule != schedule:
                await self._update(known, schedule, epoch)
            return

    async def _is_over(self, status: Status) -> bool:
        if status.state == "deleted":
            return True
        record = await self._store.run(status.run)
        if record is None:
            return status.state != "starting"
        return record.state in SETTLED and record.state != "parked"

    async def _create(self, schedule: Schedule, before: Status | None, epoch: int) -> None:
        """One that ended in another way than by an order goes on where it was."""
        book = Book(self._clock.now())
        generation = 1 if before is None else before.generation + 1
        if before is not None and before.state != "deleted":
            book = replace(before.book, running=())
        status = status_of(Leg(schedule, book), generation)
        status = replace(status, state="starting")
        await self._writer.submit(PutDocument(KIND, schedule.name, status.to_json(), epoch))
        await self._begin(status)

    async def _begin(self, status: Status) -> None:
        run = run_of(status.schedule.name, status.generation)
        given = (status.schedule, status.book, status.generation)
        await self._start(self.engine.workflow, *given, id=run)

    async def _update(self, known: Status, schedule: Schedule, epoch: int) -> None:
        """Tell it what the code says now; of several workers that saw the same, one is heard."""
        key = f"declared:{digest(to_json([epoch, schedule]))}"
        data = ORDERS.dump(Order("update", key, schedule=schedule))
        packed = pack(data, self._limits, f"the order to update schedule {schedule.name}")
        await self._writer.submit(SendSignal(known.run, UPDATE + ORDER, packed, key))

    def _version(self, workflow: str, schedule: str) -> str:
        try:
            return self._resolver.resolve(workflow, schedule)
        except UnknownWorkflow as error:
            raise UnknownWorkflow(
                f"schedule {schedule}: {error.message}", hint=error.hint
            ) from None

    def _complete(self, one: Declared) -> Schedule:
        """With version and input. Raises InvalidInput, UnknownWorkflow."""
        workflow = one.workflow
        if isinstance(workflow, str):
            version = self._version(workflow, one.schedule.name)
            workflow = self._registry.get(workflow, version)
        else:
            self._registry.add(workflow)
        parameters = inspect.signature(workflow.function)
        try:
            bound = parameters.bind_partial(*one.args).arguments
        except TypeError:
            bound = {}  # the check of the arguments says it better
        takes_tick = "tick" in parameters.parameters and "tick" not in bound
        if one.given is not None:
            takes_tick = "tick" in parameters.parameters and "tick" not in one.given
        more: dict[str, Any] = {"tick": datetime.fromisoformat(_ANY)} if takes_tick else {}
        if one.given is not None:
            more = {**workflow.signature.load(to_json({**one.given, **more})), **more}
        data = workflow.signature.dump_checked(one.args, more, self._limits)
        values = plain(data)
        if takes_tick:
            del values["tick"]
        text = to_json(values).decode() if takes_tick else data.decode()
        pack(text.encode(), self._limits, f"the input of schedule {one.schedule.name}")
        return replace(
            one.schedule,
            workflow=workflow.name,
            version=workflow.version,
            input=text,
            takes_tick=takes_tick,
            place=placed(one.schedule.place, workflow.queue),
        )


def declared(
    name: str,
    workflow: Workflow[..., Any] | str,
    args: tuple[Any, ...],
    options: ScheduleOptions,
) -> Declared:
    """A schedule, without the version and the input that it is completed with. Raises
    RegistrationError."""
    unknown = set(options) - set(ScheduleOptions.__annotations__)
    if unknown:
        raise RegistrationError(
            f"schedule {name} has options {', '.join(sorted(unknown))}",
            hint=f"Use {', '.join(ScheduleOptions.__annotations__)}; arguments go by position",
        )
    if not isinstance(workflow, Workflow | str):
        raise RegistrationError(
            f"schedule {name} is for {workflow!r}, which is no workflow",
            hint="Give a declared workflow, or the name of one",
        )
    for option in ("cron", "timezone"):
        text: object = options.get(option, "")
        if not isinstance(text, str):
            raise RegistrationError(
                f"schedule {name} has {option}={text!r:.60}", hint="Give a text"
            )
    missed = options.get("missed", "latest")
    windowed = not isinstance(missed, str)
    schedule = Schedule(
        name,
        workflow if isinstance(workflow, str) else workflow.name,
        "" if isinstance(workflow, str) else workflow.version,
        cron=options.get("cron", ""),
        every=_seconds(name, options.get("every", 0.0)),
        timezone=options.get("timezone", "UTC"),
        jitter=_seconds(name, options.get("jitter", 0.0)),
        overlap=options.get("overlap", "skip"),
        missed="window" if windowed else cast("Missed", missed),
        window=_seconds(name, cast("float", missed)) if windowed else 0.0,
        place=named(options.get("queue")),
        deadline=_seconds(name, options.get("deadline", 0.0)),
    )
    check(schedule)
    return Declared(schedule, workflow, args)


def _seconds(name: str, given: object) -> float:
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    raise RegistrationError(f"schedule {name} has a time of {given!r}", hint="Give seconds")


def _new(kind: OrderKind, by: str, reason: str) -> Order:
    return Order(kind, _id(), by, reason)


def _id() -> str:
    return uuid.uuid4().hex


def _reason(error: UpdateRejected) -> str:
    return error.message.partition(" was refused: ")[2] or error.message
