"""When schedules tick and what becomes of each tick: pure rules."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given
from hypothesis import strategies as st

from aura.engine.schedule import (
    MOST,
    ON_TIME,
    Begun,
    Book,
    Missed,
    Order,
    Overlap,
    Schedule,
    Tick,
    begun,
    check,
    decide,
    due,
    next_tick,
    obey,
    run_id,
    ticks,
    wake_at,
)
from aura.errors import RegistrationError, ScheduleError

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
LORD_HOWE, SAMOA = "Australia/Lord_Howe", "Pacific/Apia"
ZONES = [BERLIN, NEW_YORK, LORD_HOWE, "Asia/Kathmandu", "Antarctica/Troll", "UTC"]
HOUR, DAY = 3_600.0, 86_400.0


def cron(text: str, zone: str = "UTC", **more: Any) -> Schedule:
    made = Schedule("s", "w", "1.0.0", cron=text, timezone=zone, **more)
    check(made)
    return made


def every(seconds: float, **more: Any) -> Schedule:
    made = Schedule("s", "w", "1.0.0", every=seconds, **more)
    check(made)
    return made


def at(text: str) -> float:
    """Epoch seconds of an ISO time with its offset."""
    return datetime.fromisoformat(text).timestamp()


def shown(schedule: Schedule, start: str, end: str) -> list[str]:
    zone = ZoneInfo(schedule.timezone)
    found = ticks(schedule, at(start), at(end))
    return [datetime.fromtimestamp(one, zone).isoformat(timespec="minutes") for one in found]


# -- time zones --------------------------------------------------------------------------------


def test_a_time_that_clocks_leap_over_is_the_first_minute_after_it() -> None:
    assert shown(
        cron("30 2 * * *", BERLIN), "2026-03-28T00:00+01:00", "2026-03-31T00:00+02:00"
    ) == ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_times_that_fall_together_in_a_leap_tick_once() -> None:
    assert shown(
        cron("0,30 2,3 * * *", BERLIN), "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"
    ) == ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"]


def test_a_time_that_comes_twice_ticks_once() -> None:
    schedule = cron("30 2 * * *", BERLIN)
    assert shown(schedule, "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00") == [
        "2026-10-25T02:30+02:00"
    ]
    second = at("2026-10-25T02:15+01:00")  # between the two: the first one has been
    assert next_tick(schedule, second) == at("2026-10-26T02:30+01:00")


def test_every_hour_follows_the_clock_on_the_wall() -> None:
    hourly = cron("0 * * * *", BERLIN)
    spring = shown(hourly, "2026-03-29T00:30+01:00", "2026-03-29T04:30+02:00")
    assert spring == ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"]
    autumn = shown(hourly, "2026-10-25T01:30+02:00", "2026-10-25T03:30+01:00")
    assert autumn == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"]


def test_the_other_half_of_the_world_changes_its_clocks_too() -> None:
    assert shown(
        cron("30 2 * * SUN", NEW_YORK), "2026-03-07T00:00-05:00", "2026-03-16T00:00-04:00"
    ) == ["2026-03-08T03:00-04:00", "2026-03-15T02:30-04:00"]


def test_half_an_hour_that_comes_twice() -> None:
    assert shown(
        cron("*/20 1 * * *", LORD_HOWE), "2026-04-05T00:30+11:00", "2026-04-05T03:00+10:30"
    ) == [
        "2026-04-05T01:00+11:00", "2026-04-05T01:20+11:00", "2026-04-05T01:40+11:00",
        "2026-04-05T01:40+10:30",
    ]  # fmt: skip


def test_a_day_that_never_was() -> None:
    assert shown(cron("0 3 * * *", SAMOA), "2011-12-29T00:00-10:00", "2012-01-01T00:00+14:00") == [
        "2011-12-29T03:00-10:00",
        "2011-12-31T00:00+14:00",
        "2011-12-31T03:00+14:00",
    ]


FIELDS = st.sampled_from(["*", "*/15", "*/7", "5", "0,30", "10-20"])
HOURS = st.sampled_from(["*", "*/2", "*/5", "1-4", "2", "0,23"])
CHANGES = [
    at(text)
    for text in (
        *("2026-03-29T01:00+00:00", "2026-10-25T01:00+00:00", "2026-03-08T07:00+00:00"),
        *("2026-11-01T06:00+00:00", "2026-04-04T15:00+00:00", "2026-10-03T15:30+00:00"),
    )
]


@given(FIELDS, HOURS, st.sampled_from(ZONES), st.sampled_from(CHANGES), st.integers(-90, 90))
def test_by_the_wall_means_each_minute_whose_wall_time_fits(
    minute: str, hour: str, zone: str, change: float, shift: int
) -> None:
    if not (minute.startswith("*") or hour.startswith("*")):
        hour = "*"
    schedule = cron(f"{minute} {hour} * * *", zone)
    fields = CronSim(schedule.cron, datetime(2026, 1, 1, tzinfo=UTC))
    start = change + shift * 60 - 8 * HOUR
    walls = {start + 60 * n: None for n in range(1, 16 * 60 + 1)}
    fits = [
        moment
        for moment in walls
        if (wall := datetime.fromtimestamp(moment, ZoneInfo(zone))).minute in fields.minutes
        and wall.hour in fields.hours
    ]
    assert ticks(schedule, start, start + 16 * HOUR, 10_000) == fits


@given(
    st.sampled_from(["30 2 * * *", "0 0 1 * *", "15 1-3 * * MON-FRI", "0,30 2,3 * * *"]),
    st.sampled_from(ZONES),
    st.integers(0, 400),
)
def test_a_fixed_time_ticks_once_on_each_of_its_days(text: str, zone: str, days: int) -> None:
    schedule = cron(text, zone)
    start = at("2026-01-01T12:00+00:00") + days * DAY
    found = ticks(schedule, start, start + 40 * DAY, 10_000)
    assert found == sorted(set(found))
    walls = [datetime.fromtimestamp(one, ZoneInfo(zone)) for one in found]
    assert len({wall.replace(tzinfo=None, fold=0) for wall in walls}) == len(found)
    if text == "30 2 * * *":
        gaps = [later - sooner for sooner, later in pairwise(found)]
        assert all(21 * HOUR <= gap <= 27 * HOUR for gap in gaps)
        assert len(found) in (39, 40, 41)


@given(
    st.sampled_from([cron("*/7 * * * *", BERLIN), cron("30 2 * * *", BERLIN), every(90.0)]),
    st.floats(1.77e9, 1.80e9),
    st.floats(0, 3 * DAY),
    st.integers(1, 50),
)
def test_ticks_are_those_that_come_one_after_the_other(
    schedule: Schedule, after: float, span: float, limit: int
) -> None:
    expected: list[float] = []
    tick = next_tick(schedule, after)
    while tick is not None and tick <= after + span:
        assert tick > (expected[-1] if expected else after)
        expected.append(tick)
        tick = next_tick(schedule, tick)
    assert ticks(schedule, after, after + span, limit) == expected[-limit:]


def test_intervals_are_counted_from_the_epoch() -> None:
    assert ticks(every(HOUR), 10.0, 3 * HOUR) == [HOUR, 2 * HOUR, 3 * HOUR]
    assert ticks(every(1.5), 0.0, 4.5) == [1.5, 3.0, 4.5]


@pytest.mark.parametrize(
    ("text", "days"),
    [("0 0 L * *", [31]), ("0 0 LW * *", [30]), ("0 0 * * MON#1", [5]), ("0 0 1,15 * FRI", [1, 2])],
)
def test_last_days_and_numbered_weekdays(text: str, days: list[int]) -> None:
    found = ticks(cron(text), at("2026-09-30T12:00Z"), at("2026-11-01T00:00Z") - 1)
    assert [datetime.fromtimestamp(one, UTC).day for one in found][: len(days)] == days


def test_a_leap_day_is_found() -> None:
    assert next_tick(cron("0 0 29 2 *"), at("2096-03-01T00:00+00:00")) == at("2104-02-29T00:00Z")


def test_years_of_missed_minutes_are_not_counted_one_by_one() -> None:
    found = ticks(cron("* * * * *"), 0.0, at("2026-01-01T00:00Z"))
    assert len(found) == MOST
    assert found[-1] == at("2026-01-01T00:00Z")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "either cron or every"),
        ({"cron": "0 3 * * *", "every": 5.0}, "either cron or every"),
        ({"cron": "0 3 * *"}, "Wrong number of fields"),
        ({"cron": "0 0 3 * * *"}, "6 fields"),
        ({"cron": "61 3 * * *"}, "Bad minute"),
        ({"cron": "0 0 30 2 *"}, "day"),
        ({"cron": "@daily"}, "Wrong number of fields"),
        ({"every": 0.5}, "every 0.5 s"),
        ({"every": -1.0}, "every -1 s"),
        ({"every": math.inf}, "every inf s"),
        ({"every": math.nan}, "every nan s"),
        ({"every": 5.0, "jitter": -1.0}, "jitter"),
        ({"every": 5.0, "window": math.nan}, "window"),
        ({"every": 5.0, "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"every": 5.0, "timezone": "../../etc/passwd"}, "time zone"),
        ({"every": 5.0, "timezone": ""}, "time zone"),
        ({"every": 5.0, "overlap": "both"}, "overlap"),
        ({"every": 5.0, "missed": "some"}, "missed"),
        ({"every": 5.0, "name": "a/b"}, "in its name"),
        ({"every": 5.0, "name": ""}, "name"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        check(replace(Schedule("s", "w", "1.0.0"), **changes))


# -- late ticks --------------------------------------------------------------------------------


def starts(turn: Any) -> list[float]:
    return [tick.at for tick in turn.starts]


@pytest.mark.parametrize(
    ("missed", "runs"),
    [("skip", []), ("latest", [4.0]), ("window", [3.0, 4.0]), ("all", [1.0, 2.0, 3.0, 4.0])],
)
def test_ticks_that_nobody_was_there_for(missed: Missed, runs: list[float]) -> None:
    schedule = every(HOUR, missed=missed, overlap="allow", window=2 * HOUR)
    turn = decide(schedule, Book(0.0), 4.5 * HOUR)
    assert starts(turn) == [hour * HOUR for hour in runs]
    assert turn.book.cursor == 4 * HOUR
    assert turn.book.missed == 4 - len(runs)
    assert starts(decide(schedule, turn.book, 4.6 * HOUR)) == []


@pytest.mark.parametrize("missed", ["skip", "latest"])
def test_a_tick_that_is_on_time_runs_whatever_was_missed(missed: Missed) -> None:
    schedule = every(HOUR, missed=missed, overlap="allow")
    assert starts(decide(schedule, Book(0.0), 4 * HOUR + ON_TIME)) == [4 * HOUR]


def test_a_short_absence_is_none() -> None:
    schedule = every(10.0, missed="skip", overlap="allow")
    assert starts(decide(schedule, Book(100.0), 135.0)) == [110.0, 120.0, 130.0]


# -- overlap -----------------------------------------------------------------------------------


def busy(overlap: Overlap, **more: Any) -> tuple[Schedule, Book]:
    """A schedule whose tick of hour one is running."""
    schedule = every(HOUR, overlap=overlap, **more)
    turn = decide(schedule, Book(0.0), HOUR)
    assert starts(turn) == [HOUR]
    return schedule, turn.book


ONE = "s@1970-01-01T01:00:00Z"


def test_skip_leaves_out_what_comes_while_one_runs() -> None:
    schedule, book = busy("skip")
    turn = decide(schedule, book, 2 * HOUR)
    assert (turn.starts, turn.cancels, turn.book.skipped) == ((), (), 1)
    assert [(one.kind, one.run) for one in turn.book.history] == [
        ("skipped", "s@1970-01-01T02:00:00Z")
    ]
    assert starts(decide(schedule, turn.book, 3 * HOUR, {ONE})) == [3 * HOUR]


def test_queue_starts_one_after_the_other() -> None:
    schedule, book = busy("queue")
    book = decide(schedule, book, 2 * HOUR).book
    book = decide(schedule, book, 3 * HOUR).book
    turn = decide(schedule, book, 3.1 * HOUR, {ONE})
    assert starts(turn) == [2 * HOUR]
    turn = decide(schedule, turn.book, 3.2 * HOUR, set(turn.book.running))
    assert starts(turn) == [3 * HOUR]
    assert turn.book.queued == ()


def test_cancel_starts_the_newest_when_the_one_before_has_ended() -> None:
    schedule, book = busy("cancel")
    turn = decide(schedule, book, 2 * HOUR)
    assert (turn.starts, turn.cancels) == ((), (ONE,))
    turn = decide(schedule, turn.book, 3 * HOUR)
    assert turn.book.skipped == 1
    turn = decide(schedule, turn.book, 3.1 * HOUR, {ONE})
    assert starts(turn) == [3 * HOUR]


def test_allow_starts_all() -> None:
    schedule, book = busy("allow")
    assert starts(decide(schedule, book, 2 * HOUR)) == [2 * HOUR]
    assert book.running == ()


@given(
    st.sampled_from(["skip", "queue", "cancel", "allow"]),
    st.sampled_from(["skip", "latest", "all", "window"]),
    st.lists(
        st.tuples(st.floats(0, 5_000), st.sampled_from(["tick", "end", "pause", "ask", "fill"])),
        max_size=30,
    ),
)
@example("cancel", "all", [(4_000.0, "tick"), (500.0, "ask"), (500.0, "end")])
def test_no_tick_starts_twice_and_none_is_lost(
    overlap: Overlap, missed: Missed, story: list[tuple[float, str]]
) -> None:
    schedule = every(600.0, overlap=overlap, missed=missed, window=1_200.0)
    book, now = Book(0.0), 0.0
    begun: list[str] = []
    alive: set[str] = set()
    for number, (passed, what) in enumerate(story):
        now += passed
        if what == "pause":
            kind: Any = "resume" if book.paused else "pause"
            schedule, book = obey(schedule, book, Order(kind, f"o{number}"), now)
        if what == "ask":
            schedule, book = obey(schedule, book, Order("trigger", f"o{number}"), now)
        if what == "fill" and now > 600:
            order = Order("backfill", f"o{number}", start=now - 600, end=now)
            schedule, book = obey(schedule, book, order, now)
        ended = set(alive) if what == "end" else set()
        alive -= ended
        turn = decide(schedule, book, now, ended)
        assert set(turn.cancels) <= set(book.running)
        alive -= set(turn.cancels) if number % 2 else set()
        new = [run_id(schedule, tick) for tick in turn.starts]
        if overlap != "allow":
            assert len(new) <= 1
            assert not (new and set(book.running) - ended), "two at once"
        begun += [one for one in new if one not in begun]  # a run has one id
        alive |= set(new)
        book = turn.book
        assert book.cursor <= now
        assert wake_at(schedule, book) > now
        if not book.paused:
            assert next_tick(schedule, book.cursor) > now  # type: ignore[operator]
        assert len(book.history) <= 20
    asked = [one for one in begun if "~" in one]
    assert len(asked) == len(set(asked))


def test_too_long_a_queue_is_cut_and_said() -> None:
    schedule = every(60.0, overlap="queue", missed="all")
    turn = decide(schedule, Book(0.0), 60.0)
    turn = decide(schedule, turn.book, 60.0 * 900)
    turn = decide(schedule, turn.book, 60.0 * 1_500)
    assert len(turn.book.queued) == MOST
    assert turn.book.skipped == 499
    assert turn.book.history[-1].kind == "skipped"


# -- jitter ------------------------------------------------------------------------------------


@given(st.integers(1, 10**6))
def test_jitter_is_bounded_and_always_the_same(number: int) -> None:
    schedule = every(HOUR, jitter=600.0)
    tick = number * HOUR
    assert tick <= due(schedule, tick) < tick + 600
    assert due(schedule, tick) == due(replace(schedule, input='{"a":1}'), tick)


def test_jitter_spreads() -> None:
    schedule = every(HOUR, jitter=600.0)
    delays = [due(schedule, n * HOUR) - n * HOUR for n in range(200)]
    assert min(delays) < 60
    assert max(delays) > 540
    tick = next(n * HOUR for n in range(1, 200) if due(schedule, n * HOUR) > n * HOUR + 5)
    book = Book(tick - HOUR)
    assert decide(schedule, book, tick + 1).starts == ()
    assert wake_at(schedule, book) == due(schedule, tick)
    assert starts(decide(schedule, book, due(schedule, tick))) == [tick]


# -- orders ------------------------------------------------------------------------------------


def test_ticks_of_a_pause_are_not_made_up_for() -> None:
    schedule = every(HOUR, missed="all", overlap="allow")
    _, book = obey(schedule, Book(0.0), Order("pause", "1", "ada", "holidays"), 10.0)
    assert wake_at(schedule, book) == math.inf
    assert decide(schedule, book, 5 * HOUR).starts == ()
    _, book = obey(schedule, book, Order("resume", "2"), 5.5 * HOUR)
    assert starts(decide(schedule, book, 6 * HOUR)) == [6 * HOUR]
    assert [(one.kind, one.reason) for one in book.history] == [
        ("paused", "ada: holidays"),
        ("resumed", ""),
    ]


def test_trigger_works_in_a_pause_and_waits_for_what_runs() -> None:
    schedule, book = busy("skip")
    _, book = obey(schedule, book, Order("pause", "1"), 1.1 * HOUR)
    _, book = obey(schedule, book, Order("trigger", "2"), 1.2 * HOUR)
    turn = decide(schedule, book, 1.2 * HOUR)
    assert turn.starts == ()
    turn = decide(schedule, turn.book, 1.3 * HOUR, {ONE})
    assert starts(turn) == [1.2 * HOUR]
    assert turn.book.running[0].startswith("s@1970-01-01T01:12:00Z~")


def test_what_waits_for_its_turn_waits_out_a_pause() -> None:
    schedule, book = busy("queue")
    book = decide(schedule, book, 2 * HOUR).book
    _, book = obey(schedule, book, Order("pause", "1"), 2.1 * HOUR)
    book = decide(schedule, book, 2.2 * HOUR, {ONE}).book
    assert book.queued == (Tick(2 * HOUR),)
    _, book = obey(schedule, book, Order("resume", "2"), 2.3 * HOUR)
    assert starts(decide(schedule, book, 2.3 * HOUR)) == [2 * HOUR]


def test_a_backfill_takes_both_ends_and_runs_in_order() -> None:
    schedule = every(HOUR, overlap="skip")
    order = Order("backfill", "1", start=HOUR, end=3 * HOUR)
    _, book = obey(schedule, Book(10 * HOUR), order, 10.5 * HOUR)
    found = []
    for _ in range(3):
        turn = decide(schedule, book, 10.5 * HOUR, set(book.running))
        found += starts(turn)
        book = turn.book
    assert found == [HOUR, 2 * HOUR, 3 * HOUR]
    assert book.running == ("s@1970-01-01T03:00:00Z",)  # as if it had run then


def test_a_backfill_with_overlap_allowed_starts_at_once() -> None:
    schedule = every(HOUR, overlap="allow")
    order = Order("backfill", "1", start=HOUR, end=3 * HOUR)
    _, book = obey(schedule, Book(10 * HOUR), order, 10.5 * HOUR)
    assert starts(decide(schedule, book, 10.5 * HOUR)) == [HOUR, 2 * HOUR, 3 * HOUR]


def test_starts_are_counted_when_they_are_known() -> None:
    _, book = busy("queue")
    found = begun(book, [Begun(ONE, tracked=False, reason="it has run")], HOUR)
    assert (found.running, found.started, found.history[-1].kind) == ((), 0, "refused")
    found = begun(book, [Begun(ONE)], HOUR)
    assert (found.running, found.started, found.history[-1].kind) == ((ONE,), 1, "started")


def test_what_is_deleted_starts_nothing_and_takes_no_orders() -> None:
    schedule, book = busy("queue")
    book = decide(schedule, book, 2 * HOUR).book
    _, book = obey(schedule, book, Order("delete", "1"), 2.1 * HOUR)
    turn = decide(schedule, book, 9 * HOUR, {ONE})
    assert (turn.starts, turn.book.running, turn.book.queued) == ((), (), ())
    assert wake_at(schedule, turn.book) == math.inf
    with pytest.raises(ScheduleError, match="deleted"):
        obey(schedule, turn.book, Order("resume", "2"), 9 * HOUR)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (Order("resume", "1"), "not paused"),
        (Order("backfill", "1", start=5.0, end=1.0), "before it ends"),
        (Order("backfill", "1", start=0.0, end=math.inf), "in the past"),
        (Order("backfill", "1", start=math.nan, end=HOUR), "before it ends"),
        (Order("backfill", "1", start=HOUR + 1, end=HOUR + 2), "no tick"),
        (Order("backfill", "1", start=0.0, end=1e7), "more than 1,000"),
        (Order("update", "1"), "names no schedule"),
    ],
)
def test_orders_that_make_no_sense_are_refused(order: Order, says: str) -> None:
    with pytest.raises(ScheduleError, match=says):
        obey(every(HOUR), Book(0.0), order, 2e7)


def test_two_backfills_that_do_not_fit() -> None:
    schedule, book = busy("queue")
    order = Order("backfill", "1", start=HOUR, end=900 * HOUR)
    _, book = obey(schedule, book, order, 2_000 * HOUR)
    with pytest.raises(ScheduleError, match="at most 1,000"):
        obey(schedule, book, order, 2_000 * HOUR)


def test_an_update_begins_its_own_ticks_now() -> None:
    schedule = every(HOUR, missed="all", overlap="allow")
    new = replace(schedule, every=600.0)
    made, book = obey(schedule, Book(0.0), Order("update", "1", schedule=new), 2.01 * HOUR)
    assert made == new
    assert starts(decide(made, book, 2.2 * HOUR)) == [2 * HOUR + 600]


def test_an_update_of_the_input_alone_forgets_no_tick() -> None:
    schedule = every(HOUR, missed="all", overlap="allow")
    new = replace(schedule, input='{"a":1}')
    made, book = obey(schedule, Book(0.0), Order("update", "1", schedule=new), 2.01 * HOUR)
    assert starts(decide(made, book, 2.01 * HOUR)) == [HOUR, 2 * HOUR]
