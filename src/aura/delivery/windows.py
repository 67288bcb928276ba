"""Windows: the hours of a week in which a rollout may be promoted, in a place's own time.

    windows:
      - {days: mon-thu, hours: 09:00-16:30, timezone: Europe/Berlin}
      - {days: "fri, sun", hours: 22:00-02:00}       # over midnight; UTC when nothing is said

A window is read on the wall clock of its time zone, so it keeps its hours when clocks change. What
the clock skips in spring is not in it, and a window that the clock passes twice in autumn is open
twice. One that goes over midnight belongs to the day on which it opens. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from aura.errors import PlanError
from aura.yamlnodes import Node, meant

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MIDNIGHT = 24 * 60

_HOURS = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")
_AHEAD = 15  # days: a week, and another one should all of its windows be skipped by the clock


@dataclass(frozen=True, slots=True)
class Window:
    """`days` (0 is Monday) on which it opens; `begin` and `end` in minutes since midnight, the end
    not in it. Raises PlanError for anything that is no such time or time zone."""

    days: tuple[int, ...]
    begin: int
    end: int
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not self.days or not all(0 <= day < len(DAYS) for day in self.days):
            raise PlanError("a window has no days", hint="write days such as mon-fri")
        if not (0 <= self.begin < MIDNIGHT and 0 <= self.end <= MIDNIGHT):
            raise PlanError("a window's hours are none of a day", hint="write hours: 09:00-17:00")
        if self.begin == self.end:
            raise PlanError(
                "a window ends when it begins", hint="write hours: 00:00-24:00 for a whole day"
            )
        try:
            ZoneInfo(self.timezone)
        except (ValueError, OSError, KeyError) as error:  # not found is a KeyError
            raise PlanError(
                f"there is no time zone {self.timezone!r}", hint="write one such as Europe/Berlin"
            ) from error

    def is_open(self, now: float) -> bool:
        """Whether that time (epoch seconds) is in it; one that no calendar has is not."""
        local = _local(now, self.timezone)
        if local is None:
            return False
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        yesterday = (day - 1) % len(DAYS)
        return (day in self.days and minute >= self.begin) or (
            yesterday in self.days and minute < self.end
        )

    def opens(self, now: float) -> float | None:
        """The first time from `now` on at which it is open; None when the calendar ends before."""
        if self.is_open(now):
            return now
        local = _local(now, self.timezone)
        if local is None:
            return None
        found = [
            at
            for days in range(-1, _AHEAD)
            for at in self._openings(local.date(), days)
            if at >= now and self.is_open(at)
        ]
        return min(found, default=None)

    def shown(self, at: float) -> str:
        """That time for people, on the window's wall clock."""
        local = _local(at, self.timezone)
        return f"{local:%a %Y-%m-%d %H:%M} {self.timezone}" if local else "an unknown time"

    def _openings(self, today: date, days: int) -> Iterator[float]:
        """When it opens so many days after `today`: twice where the clock passes that time twice,
        and where it skips that time, as soon as it goes on."""
        try:
            day = today + timedelta(days=days)
        except OverflowError:
            return
        if day.weekday() not in self.days:
            return
        wall = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(self.timezone))
        wall = wall.replace(hour=self.begin // 60, minute=self.begin % 60)
        try:
            first, second = (wall.replace(fold=fold).timestamp() for fold in (0, 1))
        except (OverflowError, ValueError):  # beyond the calendar
            return
        if first > second:
            yield self._after_gap(second, first)
        else:
            yield from (first, second)

    def _after_gap(self, low: float, high: float) -> float:
        """When the clock jumps, to the second, between these two times."""
        zone = ZoneInfo(self.timezone)
        before = datetime.fromtimestamp(low, zone).utcoffset()
        while high - low > 1:
            middle = (low + high) // 2
            jumped = datetime.fromtimestamp(middle, zone).utcoffset() != before
            low, high = (low, middle) if jumped else (middle, high)
        return high


def waits_for(windows: tuple[Window, ...], now: float) -> str:
    """ "" while one of them is open (or there are none), else which opens next, in words."""
    if not windows or any(window.is_open(now) for window in windows):
        return ""
    openings = [(at, window) for window in windows if (at := window.opens(now)) is not None]
    if not openings:
        return "its window, which never opens"
    at, window = min(openings, key=lambda pair: pair[0])
    return f"its window, which opens {window.shown(at)}"


def window_of(node: Node) -> Window:
    """One line of `windows:`. Raises PlanError with file and line."""
    found = node.fields({"days", "timezone"}, required=("hours",))
    hours = _HOURS.fullmatch(found["hours"].scalar)
    if hours is None or int(hours[2]) > 59 or int(hours[4]) > 59:
        found["hours"].fail(f"hours is {found['hours'].shown}", "write them as 09:00-17:00")
    begin, end = (int(hours[n]) * 60 + int(hours[n + 1]) for n in (1, 3))
    days = _days(found["days"]) if "days" in found else tuple(range(len(DAYS)))
    zone = found["timezone"].text() if "timezone" in found else "UTC"
    try:
        return Window(days, begin, end, zone)
    except PlanError as error:
        node.fail(error.message, error.hint)


def _days(node: Node) -> tuple[int, ...]:
    """`mon-fri`, `mon, wed`, `[sat, sun]`; `fri-mon` goes over the week's end."""
    parts = [part.strip() for part in node.scalar.split(",")]
    if not node.scalar:
        parts = [each.scalar for each in node.items("a day")]
    found: set[int] = set()
    for part in parts:
        first, dash, last = (text.strip().lower() for text in part.partition("-"))
        for name in (first, last) if dash else (first,):
            if name not in DAYS:
                node.fail(f"there is no day {name[:20]!r}", meant(name, DAYS))
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % len(DAYS) if dash else 0
        found.update((begin + days) % len(DAYS) for days in range(length + 1))
    return tuple(sorted(found))


def _local(now: float, timezone: str) -> datetime | None:
    """That time on the wall clock of the time zone; None for what the calendar does not have."""
    try:
        return datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(timezone))
    except (ValueError, OverflowError, OSError):
        return None
