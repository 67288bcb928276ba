"""What a schedule does: when it ticks, what becomes of late ticks and of those that overlap. Pure.

    ticks   ── what is due ──▶  `missed`  ── what is to run ──▶  `overlap`  ──▶ start | wait | skip

A tick is a moment that the schedule names, in epoch seconds. Cron times are of the schedule's time
zone. A job at a fixed time of day runs once a day whatever the clocks do: a time that they leap
over is the first minute after it, one that comes twice is the first of the two. A job whose minutes
or hours begin with `*` follows the clock on the wall: it does not run in hours that are left out
and runs twice in those that come twice.

Late is a tick that is decided more than a minute after it was due (nothing was there to do it).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from aura.codec import digest
from aura.engine.definition import check_name
from aura.errors import RegistrationError, ScheduleError
from aura.store.queues import Placement

Overlap = Literal["skip", "queue", "cancel", "allow"]
Missed = Literal["skip", "latest", "all", "window"]

ON_TIME = 60.0
"""Seconds after which a tick that was not decided is late."""
MOST = 1_000
"""So many ticks are made up for at once, and wait behind each other; older ones are left out."""
HISTORY = 20
"""So many of its last events a schedule shows."""
_YEARS = 12  # a cron that names no date within so many years (29 February takes 8) names none
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When which workflow is started. Times in seconds.

    Either `cron` (five fields) or `every` (counted from 1970-01-01T00:00Z, so that an hour is a
    full one). `input` is JSON text of the workflow's arguments by name; with `takes_tick` it gets
    the tick's time as `tick` besides. Each start is delayed by up to `jitter`, the same for the
    same tick. `window` is for missed="window": how old a tick may be. `place` is where its runs
    wait, `deadline` within what time after their start they must be done (0: any).
    """

    name: str
    workflow: str
    version: str
    input: str = "{}"
    takes_tick: bool = False
    cron: str = ""
    every: float = 0.0
    timezone: str = "UTC"
    jitter: float = 0.0
    overlap: Overlap = "skip"
    missed: Missed = "latest"
    window: float = 0.0
    place: Placement | None = None
    deadline: float = 0.0

    @property
    def words(self) -> str:
        """When it ticks, for people."""
        return f"{self.cron} {self.timezone}" if self.cron else f"every {self.every:g} s"


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment to start at. `asked`: a person wants it, so it is neither skipped nor held up;
    `order` is the id of the order when that alone is the reason for it."""

    at: float
    asked: bool = False
    order: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a schedule did, `run` with which run."""

    at: float
    kind: str
    run: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Book:
    """Where a schedule is. Ticks up to `cursor` have been decided.

    `turns` counts its decisions. `running` are the runs that are not known to have ended (none are
    kept for overlap="allow"), `queued` the ticks that wait for them, oldest first. `started`,
    `skipped` (for an overlap) and `missed` (too late) are counts.
    """

    cursor: float
    turns: int = 0
    paused: bool = False
    deleted: bool = False
    running: tuple[str, ...] = ()
    queued: tuple[Tick, ...] = ()
    started: int = 0
    skipped: int = 0
    missed: int = 0
    history: tuple[Event, ...] = ()

    def told(self, *events: Event) -> Book:
        return replace(self, history=(*self.history, *events)[-HISTORY:])


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be done now: end these runs, start these ticks; then stand at `book`."""

    book: Book
    starts: tuple[Tick, ...] = ()
    cancels: tuple[str, ...] = ()


# -- when it ticks -----------------------------------------------------------------------------


def check(schedule: Schedule) -> None:
    """Raises RegistrationError for a schedule that cannot be followed."""
    check_name(schedule.name, "a schedule")
    what = f"schedule {schedule.name}"
    if set("/#@") & set(schedule.name):
        raise RegistrationError(
            f"{what} has / # or @ in its name", hint="Its runs are called <schedule>@<tick>"
        )
    if bool(schedule.cron) == bool(schedule.every):
        raise RegistrationError(
            f"{what} needs either cron or every", hint='Give cron="0 3 * * *", or every=3600'
        )
    if schedule.every and not 1 <= schedule.every < math.inf:
        raise RegistrationError(f"{what} ticks every {schedule.every:g} s", hint="Give 1 or more")
    for name in ("jitter", "window", "deadline"):
        if not 0 <= getattr(schedule, name) < math.inf:
            raise RegistrationError(
                f"{what} has a {name} of {getattr(schedule, name)}", hint="Give seconds"
            )
    for name, known in (("overlap", Overlap), ("missed", Missed)):
        if getattr(schedule, name) not in get_args(known):
            raise RegistrationError(
                f"{what} cannot have {name}={getattr(schedule, name)!r}",
                hint=f"Use {', '.join(get_args(known))}",
            )
    place = schedule.place
    if place is not None and (place.dedup or place.at is not None):
        raise RegistrationError(
            f"{what} has a place with a time or deduplication of its own",
            hint="Which runs there are is the schedule's business: see `overlap`",
        )
    _check_zone(schedule.timezone, what)
    if schedule.cron:
        _check_cron(schedule, what)


def _check_zone(name: str, what: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise RegistrationError(
            f"{what} has the time zone {name!r}, which is not known",
            hint="Write it as in Europe/Berlin",
        ) from error


def _check_cron(schedule: Schedule, what: str) -> None:
    hint = 'Write minute, hour, day, month and weekday, as in "30 3 * * MON-FRI"'
    try:
        fields = _fields(schedule.cron)
    except CronSimError as error:
        raise RegistrationError(
            f"{what} has the cron {schedule.cron!r}: {error}", hint=hint
        ) from error
    if len(schedule.cron.split()) != 5:
        raise RegistrationError(
            f"{what} has the cron {schedule.cron!r} with {len(fields.parts)} fields", hint=hint
        )
    if next_tick(schedule, 0.0) is None:
        raise RegistrationError(f"{what} has the cron {schedule.cron!r}: no such day", hint=hint)


def next_tick(schedule: Schedule, after: float) -> float | None:
    """The first tick after that time; None when there is none within twelve years."""
    return next(_ticks(schedule, after), None)


def ticks(schedule: Schedule, after: float, until: float, limit: int = MOST) -> list[float]:
    """The ticks later than `after` up to and with `until`; the newest, when they are too many."""
    span = 3_600.0
    while True:
        start = max(after, until - span)
        found = list(takewhile(lambda tick: tick <= until, _ticks(schedule, start)))
        if start == after or len(found) >= limit:
            return found[-limit:]
        span *= 4


def due(schedule: Schedule, tick: float) -> float:
    """When a tick is to be started."""
    if not schedule.jitter:
        return tick
    share = int(digest(f"{schedule.name}@{tick}".encode()), 16) / 2**64
    return tick + share * schedule.jitter


def _ticks(schedule: Schedule, after: float) -> Iterator[float]:
    if schedule.every:
        number = math.floor(after / schedule.every)
        while True:
            tick = number * schedule.every
            if tick > after:
                yield tick
            number += 1
    zone = ZoneInfo(schedule.timezone)
    day = datetime.fromtimestamp(after, zone).date() - timedelta(days=1)
    last, end = after, day.year + _YEARS
    while day.year <= end:
        for tick in _ticks_of_day(schedule.cron, zone, day):
            if tick > last:
                yield tick
                last = tick
        day += timedelta(days=1)


@lru_cache(maxsize=256)
def _fields(cron: str) -> CronSim:
    return CronSim(cron, datetime(1970, 1, 1, tzinfo=UTC))


@lru_cache(maxsize=1_024)
def _ticks_of_day(cron: str, zone: ZoneInfo, day: date) -> tuple[float, ...]:
    """The ticks that the calendar day in that zone names, in order."""
    fields = _fields(cron)
    if day.month not in fields.months or not fields.match_day(day):
        return ()
    by_the_wall = fields.parts[1].startswith("*") or fields.parts[2].startswith("*")
    found = set()
    for hour in fields.hours:
        for minute in fields.minutes:
            wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            if not by_the_wall:
                found.add(_real(wall).timestamp())
            elif _is_real(wall):
                found |= {wall.timestamp(), wall.replace(fold=1).timestamp()}
    return tuple(sorted(found))


def _is_real(wall: datetime) -> bool:
    """Whether clocks show that time at all."""
    shown = wall.astimezone(UTC).astimezone(wall.tzinfo)
    return shown.replace(tzinfo=None, fold=0) == wall.replace(tzinfo=None, fold=0)


def _real(wall: datetime) -> datetime:
    """That time, or the first minute after it that clocks show."""
    while not _is_real(wall):
        wall += _MINUTE
    return wall


# -- what is done about it ---------------------------------------------------------------------


def run_id(schedule: Schedule, tick: Tick) -> str:
    """The id of a tick's run: the same tick never starts twice."""
    at = datetime.fromtimestamp(tick.at, UTC).replace(tzinfo=None)
    spec = "seconds" if at.microsecond == 0 else "milliseconds"
    by = f"~{digest(tick.order.encode())[:8]}" if tick.order else ""
    return f"{schedule.name}@{at.isoformat(timespec=spec)}Z{by}"


def wake_at(schedule: Schedule, book: Book) -> float:
    """When there is something to decide next, if nobody gives an order (infinite: never)."""
    tick = None if book.paused else next_tick(schedule, book.cursor)
    return math.inf if tick is None else due(schedule, tick)


def decide(schedule: Schedule, book: Book, now: float, ended: Collection[str] = ()) -> Turn:
    """What is to be done at a moment; `ended` are runs that are known to have ended by now."""
    book = replace(book, running=tuple(one for one in book.running if one not in ended))
    book = replace(book, turns=book.turns + 1)
    if book.paused:
        turn = Turn(replace(book, cursor=max(book.cursor, now)))
    else:
        turn = _due_now(schedule, book, now)
    return _next_in_line(schedule, turn)


def _due_now(schedule: Schedule, book: Book, now: float) -> Turn:
    found = ticks(schedule, book.cursor, now)
    found = list(takewhile(lambda tick: due(schedule, tick) <= now, found))
    if not found:
        return Turn(book)
    chosen = _not_too_late(schedule, found, now)
    lost = len(found) - len(chosen)
    book = replace(book, cursor=found[-1], missed=book.missed + lost)
    if lost:
        book = book.told(Event(now, "missed", reason=f"{lost} came too late"))
    if schedule.overlap == "cancel":  # each would end the one before
        book = _skipped(schedule, book, tuple(map(Tick, chosen[:-1])), now)
        chosen = chosen[-1:]
    turn = Turn(book)
    for tick in chosen:
        turn = _overlap(schedule, turn, Tick(tick), now)
    return turn


def _not_too_late(schedule: Schedule, found: list[float], now: float) -> list[float]:
    """Which of the ticks that are due are run all the same."""
    fresh = [tick for tick in found if now - due(schedule, tick) <= ON_TIME]
    late = found[: len(found) - len(fresh)]
    match schedule.missed:
        case "all":
            return found
        case "window":
            return [tick for tick in late if now - tick <= schedule.window] + fresh
        case "latest":
            return fresh or late[-1:]
    return fresh


def _overlap(schedule: Schedule, turn: Turn, tick: Tick, now: float) -> Turn:
    """What becomes of a tick that is to run, by whether another one does."""
    book = turn.book
    if schedule.overlap == "allow":
        return _start(schedule, turn, tick)
    if not book.running and not book.queued:
        return _start(schedule, turn, tick)
    if schedule.overlap == "skip":
        return replace(turn, book=_skipped(schedule, book, (tick,), now))
    if schedule.overlap == "queue":
        return replace(turn, book=line_up(schedule, book, (tick,), now))
    asked = tuple(one for one in book.queued if one.asked)
    gone = tuple(one for one in book.queued if not one.asked)
    book = _skipped(schedule, book, gone, now)
    cancels = tuple(one for one in book.running if one not in turn.cancels)
    return replace(
        turn, book=replace(book, queued=(*asked, tick)), cancels=(*turn.cancels, *cancels)
    )  # fmt: skip


def line_up(schedule: Schedule, book: Book, more: tuple[Tick, ...], now: float) -> Book:
    """Ticks that wait for their turn; too many are skipped."""
    queued = (*book.queued, *more)
    return _skipped(schedule, replace(book, queued=queued[:MOST]), queued[MOST:], now)


def _skipped(schedule: Schedule, book: Book, gone: tuple[Tick, ...], now: float) -> Book:
    events = [
        Event(now, "skipped", run_id(schedule, one), "another one is running") for one in gone
    ]
    return replace(book, skipped=book.skipped + len(gone)).told(*events)


def _start(schedule: Schedule, turn: Turn, tick: Tick) -> Turn:
    book = turn.book
    if schedule.overlap != "allow":
        book = replace(book, running=(*book.running, run_id(schedule, tick)))
    return replace(turn, book=book, starts=(*turn.starts, tick))


def _next_in_line(schedule: Schedule, turn: Turn) -> Turn:
    """What waits is started, one after the other, or all at once."""
    waiting: list[Tick] = []
    for tick in turn.book.queued:
        free = schedule.overlap == "allow" or not turn.book.running
        if free and (tick.asked or not turn.book.paused):
            turn = _start(schedule, turn, tick)
        else:
            waiting.append(tick)
    return replace(turn, book=replace(turn.book, queued=tuple(waiting)))


@dataclass(frozen=True, slots=True)
class Begun:
    """What became of a start. `tracked`: its end will be told. `reason`: why no new run began."""

    run: str
    tracked: bool = True
    reason: str = ""


def begun(book: Book, results: Collection[Begun], now: float) -> Book:
    """Where the schedule is once its ticks have been started."""
    lost = {one.run for one in results if not one.tracked}
    book = replace(book, running=tuple(one for one in book.running if one not in lost))
    kinds = {one.run: "refused" if one.reason else "started" for one in results}
    new = sum(kind == "started" for kind in kinds.values())
    book = replace(book, started=book.started + new)
    return book.told(*(Event(now, kinds[one.run], one.run, one.reason) for one in results))


# -- what people ask for -----------------------------------------------------------------------

OrderKind = Literal["pause", "resume", "trigger", "backfill", "update", "delete"]
_DONE: dict[OrderKind, str] = {
    "pause": "paused",
    "resume": "resumed",
    "trigger": "triggered",
    "backfill": "backfilled",
    "delete": "deleted",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What a schedule is told; `id` makes it count once. `start` and `end` (epoch seconds, both
    included) are for "backfill", `schedule` for "update"."""

    kind: OrderKind
    id: str
    by: str = ""
    reason: str = ""
    start: float = 0.0
    end: float = 0.0
    schedule: Schedule | None = None


def obey(schedule: Schedule, book: Book, order: Order, now: float) -> tuple[Schedule, Book]:
    """The schedule and where it is, after an order. Raises ScheduleError for one that makes no
    sense; nothing has changed then."""
    _require(not book.deleted, f"schedule {schedule.name} is deleted")
    match order.kind:
        case "pause":
            _require(not book.paused, f"schedule {schedule.name} is paused already")
            book = replace(book, paused=True)
        case "resume":
            _require(book.paused, f"schedule {schedule.name} is not paused")
            book = replace(book, paused=False, cursor=max(book.cursor, now))
        case "trigger":
            book = _ask(schedule, book, (Tick(now, True, order.id),), now)
        case "backfill":
            book = _ask(schedule, book, _backfilled(schedule, order, now), now)
        case "update":
            return _updated(schedule, book, order, now)
        case "delete":
            book = replace(book, paused=True, deleted=True, queued=())
    return schedule, book.told(Event(now, _DONE[order.kind], reason=_why(order)))


def _ask(schedule: Schedule, book: Book, wanted: tuple[Tick, ...], now: float) -> Book:
    room = MOST - len(book.queued)
    _require(
        len(wanted) <= room,
        f"{len(wanted):,} more ticks do not fit: at most {MOST:,} may wait",
        "Take a shorter time, or let those that wait end first",
    )
    return line_up(schedule, book, wanted, now)


def _backfilled(schedule: Schedule, order: Order, now: float) -> tuple[Tick, ...]:
    _require(
        order.start <= order.end <= now,
        "a backfill begins before it ends, and ends in the past",
        "Ticks to come are started when they are due",
    )
    before = math.nextafter(order.start, -math.inf)  # a tick at `start` itself counts
    found = ticks(schedule, before, order.end, MOST + 1)
    _require(bool(found), f"schedule {schedule.name} has no tick in that time")
    _require(len(found) <= MOST, f"that time has more than {MOST:,} ticks", "Take a shorter one")
    return tuple(Tick(tick, True) for tick in found)


def _updated(schedule: Schedule, book: Book, order: Order, now: float) -> tuple[Schedule, Book]:
    new = order.schedule
    if new is None or new.name != schedule.name:
        raise ScheduleError(f"the order to update schedule {schedule.name} names no schedule")
    if new == schedule:
        return schedule, book  # another process has said so before
    same = (new.cron, new.every, new.timezone) == (schedule.cron, schedule.every, schedule.timezone)
    if not same:
        book = replace(book, cursor=max(book.cursor, now))
    if new.overlap == "allow":
        book = replace(book, running=())
    return new, book.told(Event(now, "updated", reason=_why(order) or new.words))


def _why(order: Order) -> str:
    return ": ".join(part for part in (order.by, order.reason) if part)


def _require(holds: bool, message: str, hint: str = "") -> None:
    if not holds:
        raise ScheduleError(message, hint=hint)
