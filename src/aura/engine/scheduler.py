"""The schedule as a durable workflow: decide what is due, start it, wait for what comes next.

    show ──▶ wait ──▶ decide ──▶ end, start ──▶ show ──▶ wait ──▶ ...      (deleted, nothing runs)
               ▲  a tick is due, an order came, a run has ended               ──▶ completed
               └──────────── begins anew every so many turns, so that its journal stays short

All decisions are in `aura.engine.schedule`. The runs of a schedule are its children, so that the
store tells it of their ends; with overlap="allow" nobody asks for that, and they are detached.

What people see is the document `schedule/<name>`; orders are updates to the run `schedule/<name>`.

Invariants: (1) a tick has one run id, so that no crash and no second worker starts it twice;
(2) an order is answered when all that it led to is durable; (3) a status is replaced only by one of
a later turn, so a worker that wakes up late shows nothing old.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from typing import Any, Literal, NamedTuple, cast
from zoneinfo import ZoneInfo

from aura.codec import Limits, Slot, digest, pack, plain, to_json, unpack
from aura.engine.definition import Workflow
from aura.engine.durable import now
from aura.engine.handle import UPDATE
from aura.engine.lanes import StepScope, scope
from aura.engine.receive import Update, receive_raw
from aura.engine.retry import Retry
from aura.engine.schedule import (
    Begun,
    Book,
    Order,
    Schedule,
    Tick,
    begun,
    decide,
    obey,
    run_id,
    wake_at,
)
from aura.engine.step import Step, own_step
from aura.engine.succession import continue_as_new
from aura.errors import CodecError, EpochConflict, ScheduleError
from aura.store.base import (
    CHILD_ENDED,
    TERMINAL,
    Outcome,
    PutDocument,
    RequestCancel,
    RunRecord,
    Signal,
    Started,
    StartRun,
    Store,
    Writer,
)

WORKFLOW, VERSION = "aura.schedule", "1.0.0"
KIND = "schedule"
ORDER = "order"
TURNS = 200
"""After so many decisions a schedule begins anew, with an empty journal."""

_ORDER = UPDATE + ORDER
_RETRY = Retry(attempts=100, first=0.1, longest=30.0)
_SLACK = 1.0  # seconds by which a worker's idea of the time may differ from the database's
_LEAST = 0.001  # seconds; a clock that is a little early is asked again

State = Literal["starting", "active", "paused", "deleting", "deleted"]


@dataclass(frozen=True, slots=True)
class Status:
    """A schedule as it was last published, after `book.turns` decisions.

    `next` is when its next tick is due (epoch seconds; None: never, or it is paused). `generation`
    counts how often it was created.
    """

    schedule: Schedule
    run: str
    generation: int
    state: State
    book: Book
    next: float | None = None

    def to_json(self) -> bytes:
        return _STATUS.dump(self)

    @classmethod
    def from_json(cls, data: bytes) -> Status:
        """Raises CodecError."""
        return cast("Status", _STATUS.load(data))

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON, times in UTC; `waiting` are the ticks that wait."""
        schedule, book = asdict(self.schedule), self.book
        schedule["input"] = plain(self.schedule.input.encode())
        return {
            **schedule,
            "state": self.state,
            "next": None if self.next is None else _utc(self.next),
            "run": self.run,
            "running": list(book.running),
            "waiting": [_utc(tick.at) for tick in book.queued],
            "counts": {
                "started": book.started,
                "skipped": book.skipped,
                "missed": book.missed,
            },
            "history": [{**asdict(event), "at": _utc(event.at)} for event in book.history],
        }


_STATUS = Slot(Status, "the status of a schedule")
ORDERS = Slot(Order, "an order")


class Leg(NamedTuple):
    """Where the workflow is between two turns."""

    schedule: Schedule
    book: Book


class Scheduler:
    """The schedule workflow and its steps, over a store. One per app; it registers `workflow`."""

    def __init__(self) -> None:
        self.turns = TURNS
        self.workflow: Workflow[..., Any] = Workflow(WORKFLOW, VERSION, self._run)

    # Its steps, made when they are needed: most apps have no schedules.

    @cached_property
    def _start(self) -> Step[..., Any]:
        return own_step(self._start_ticks, name="start", retry=_RETRY)

    @cached_property
    def _end(self) -> Step[..., Any]:
        return own_step(self._end_runs, name="end", retry=_RETRY)

    @cached_property
    def _look(self) -> Step[..., Any]:
        return own_step(self._which_ended, name="look", retry=_RETRY, idempotent=True)

    @cached_property
    def _show(self) -> Step[..., Any]:
        return own_step(self._publish, name="show", retry=_RETRY, idempotent=True)

    def attach(
        self,
        store: Store,
        writer: Writer,
        limits: Limits,
        origin: str,
        submit: Callable[[StartRun], asyncio.Future[Outcome]],
    ) -> None:
        """Use this store from now on; `submit` begins new runs here if there is room."""
        self._store = store
        self._writer = writer
        self._limits = limits
        self._origin = origin
        self._submit = submit

    async def _run(self, schedule: Schedule, book: Book, generation: int) -> str:
        leg = await self._turn(Leg(schedule, book), (), generation)
        for number in count(1):
            if leg.book.deleted and not leg.book.running:
                break
            if number >= self.turns:
                continue_as_new(leg.schedule, leg.book, generation)
            signal = await self._news(leg)
            if signal is None:
                leg = await self._turn(leg, (), generation)
            elif signal.name == _ORDER:
                leg = await self._obey(leg, signal, generation)
            elif (ended := signal.id.partition(":")[2]) in leg.book.running:
                leg = await self._turn(leg, (ended,), generation)
        return "deleted"

    async def _news(self, leg: Leg) -> Signal | None:
        """Wait for an order, the end of a run, or (None) the next tick."""
        at = wake_at(leg.schedule, leg.book)
        wait = None if at == math.inf else max(_LEAST, at - now().timestamp())
        return await receive_raw("news", (_ORDER, CHILD_ENDED), wait)

    async def _obey(self, leg: Leg, signal: Signal, generation: int) -> Leg:
        """Carry out an order and answer it; what was due before it comes first."""
        moment = now().timestamp()
        if wake_at(leg.schedule, leg.book) <= moment:
            leg = await self._turn(leg, (), generation)
        update: Update[Any] = Update(ORDER, None, signal.seq)
        try:
            order = cast("Order", ORDERS.accept(unpack(signal.payload)))
            leg = Leg(*obey(leg.schedule, leg.book, order, moment))
        except (ScheduleError, CodecError) as error:
            update.reject(str(error))
            return leg
        leg = await self._turn(leg, (), generation)
        update.answer(status_of(leg, generation).plain())
        return leg

    async def _turn(self, leg: Leg, ended: Sequence[str], generation: int) -> Leg:
        """Decide, and do what is decided."""
        moment = now().timestamp()
        if leg.book.running and not ended:
            ended = await self._look(leg.book.running)  # their signals may be on their way
        turn = decide(leg.schedule, leg.book, moment, ended)
        book = turn.book
        if turn.cancels:
            await self._end(turn.cancels)
        if turn.starts:
            results = await self._start(leg.schedule, turn.starts, moment)
            book = begun(book, results, moment)
        leg = leg._replace(book=book)
        await self._show(leg.schedule, leg.book, generation)
        return leg

    # The steps.

    async def _start_ticks(
        self, schedule: Schedule, ticks: tuple[Tick, ...], moment: float
    ) -> tuple[Begun, ...]:
        """Start the runs of these ticks; those that are there already are not started again, and
        those that are newer than `moment` are of a try before this one."""
        ops = [self._op(schedule, tick, moment) for tick in ticks]
        outcomes = await asyncio.gather(*(self._submit(op) for op in ops))
        return tuple(
            _became(op, cast("Started", outcome), moment)
            for op, outcome in zip(ops, outcomes, strict=True)
        )

    async def _end_runs(self, runs: tuple[str, ...]) -> None:
        await asyncio.gather(*(self._writer.submit(RequestCancel(run)) for run in runs))

    async def _which_ended(self, runs: tuple[str, ...]) -> tuple[str, ...]:
        found = await self._store.runs_by_id(runs)
        going_on = {run.id for run in found if run.state not in TERMINAL}
        return tuple(run for run in runs if run not in going_on)

    async def _publish(self, schedule: Schedule, book: Book, generation: int) -> None:
        """Replace the status, unless it is one of a later turn already."""
        status = status_of(Leg(schedule, book), generation)
        while True:
            known = await self._store.document(KIND, schedule.name)
            if known is not None and _is_later(Status.from_json(known.body), status):
                return
            epoch = 0 if known is None else known.epoch
            put = PutDocument(KIND, schedule.name, status.to_json(), epoch)
            try:
                await self._writer.submit(put)
            except EpochConflict:
                continue
            return

    def _op(self, schedule: Schedule, tick: Tick, moment: float) -> StartRun:
        data = input_of(schedule, tick)
        me = _me()
        return StartRun(
            run_id(schedule, tick),
            schedule.workflow,
            schedule.version,
            pack(data, self._limits, f"the input of schedule {schedule.name}"),
            digest(data),
            self._origin,
            parent=me.run_id,
            parent_epoch=me.execution.record.epoch,
            detached=schedule.overlap == "allow",
            place=schedule.place,
            deadline=moment + schedule.deadline if schedule.deadline else None,
        )


def input_of(schedule: Schedule, tick: Tick) -> bytes:
    """The input of a tick's run, as JSON text."""
    if not schedule.takes_tick:
        return schedule.input.encode()
    at = datetime.fromtimestamp(tick.at, ZoneInfo(schedule.timezone))
    return to_json({**plain(schedule.input.encode()), "tick": at.isoformat()})


def _became(op: StartRun, started: Started, moment: float) -> Begun:
    found: RunRecord = started.run
    going_on = found.state not in TERMINAL and not op.detached
    if started.created:
        return Begun(op.id, tracked=not op.detached)  # if it has ended, that is still to be told
    if found.parent == op.parent and (going_on or found.created_at >= moment - _SLACK):
        return Begun(op.id, tracked=going_on)
    what = "it has run" if found.workflow == op.workflow else "its id is another workflow's"
    return Begun(op.id, tracked=False, reason=f"{what} ({found.workflow}, {found.state})")


def run_of(name: str, generation: int) -> str:
    """The id of the run that is a schedule."""
    return f"{KIND}/{name}" if generation == 1 else f"{KIND}/{name}/{generation}"


def status_of(leg: Leg, generation: int) -> Status:
    book, at = leg.book, wake_at(leg.schedule, leg.book)
    state: State = "paused" if book.paused else "active"
    if book.deleted:
        state = "deleting" if book.running else "deleted"
    run = run_of(leg.schedule.name, generation)
    return Status(leg.schedule, run, generation, state, book, None if at == math.inf else at)


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _is_later(known: Status, mine: Status) -> bool:
    one, other = (known.generation, known.book.turns), (mine.generation, mine.book.turns)
    return one > other


def _me() -> StepScope:
    found = scope.get()
    assert isinstance(found, StepScope)  # noqa: S101  (called in steps only)
    return found
