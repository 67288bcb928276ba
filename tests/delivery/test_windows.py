"""Windows of promotion on the wall clock, also when that is changed."""

from __future__ import annotations

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.windows import DAYS, Window, waits_for
from aura.errors import PlanError

BERLIN = "Europe/Berlin"
WEEK = tuple(range(7))


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


OFFICE = Window((0, 1, 2, 3), 9 * 60, 16 * 60, BERLIN)  # Monday to Thursday


@pytest.mark.parametrize(
    ("when", "inside"),
    [
        ("2026-11-19T08:59:59", False),  # a Thursday
        ("2026-11-19T09:00:00", True),
        ("2026-11-19T15:59:59", True),
        ("2026-11-19T16:00:00", False),
        ("2026-11-20T12:00:00", False),  # a Friday
        ("2026-07-16T09:00:00", True),  # in summer time
    ],
)
def test_hours_are_those_of_its_place(when: str, inside: bool) -> None:
    assert OFFICE.is_open(at(when)) is inside


def test_what_opens_next_is_said() -> None:
    friday = at("2026-11-20T12:00:00")
    assert OFFICE.opens(friday) == at("2026-11-23T09:00:00")
    assert waits_for((OFFICE,), friday) == (
        "its window, which opens Mon 2026-11-23 09:00 Europe/Berlin"
    )
    weekend = Window((5,), 10 * 60, 12 * 60, "UTC")
    assert "Sat 2026-11-21 10:00 UTC" in waits_for((OFFICE, weekend), friday)
    assert waits_for((OFFICE, weekend), at("2026-11-23T09:30:00")) == ""
    assert waits_for((), math.nan) == ""


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    late = Window((4,), 22 * 60, 2 * 60, BERLIN)  # Friday night
    assert late.is_open(at("2026-11-20T23:00:00"))
    assert late.is_open(at("2026-11-21T01:59:00"))
    assert not late.is_open(at("2026-11-21T02:00:00"))
    assert not late.is_open(at("2026-11-20T01:00:00"))
    assert late.opens(at("2026-11-21T02:00:00")) == at("2026-11-27T22:00:00")
    whole = Window(WEEK, 0, 24 * 60, BERLIN)
    assert whole.is_open(at("2026-11-21T23:59:59"))


def test_what_the_clock_skips_in_spring() -> None:
    """In Berlin 02:00 becomes 03:00 on 2026-03-29; it opens when the clock has jumped."""
    night = Window(WEEK, 2 * 60 + 30, 4 * 60, BERLIN)
    before = at("2026-03-29T01:59:59")
    assert not night.is_open(before)
    assert night.opens(before) == before + 1
    assert night.is_open(at("2026-03-29T03:00:00"))
    assert night.shown(before + 1) == "Sun 2026-03-29 03:00 Europe/Berlin"
    gone = Window(WEEK, 2 * 60, 3 * 60, BERLIN)  # all of it is skipped on that day
    assert gone.opens(before) == at("2026-03-30T02:00:00")


def test_what_the_clock_passes_twice_in_autumn() -> None:
    """In Berlin 03:00 becomes 02:00 on 2026-10-25."""
    twice = Window(WEEK, 2 * 60, 2 * 60 + 30, BERLIN)
    first, second = (at("2026-10-25T02:00:00", fold=fold) for fold in (0, 1))
    assert second - first == 3600
    assert twice.is_open(first)
    assert not twice.is_open(first + 1800)
    assert twice.opens(first + 1800) == second
    assert twice.is_open(second)
    assert twice.opens(second + 1800) == at("2026-10-26T02:00:00")


def test_half_an_hour_on_lord_howe_island() -> None:
    """02:00 becomes 02:30 there on 2026-10-04."""
    island = Window(WEEK, 2 * 60 + 10, 3 * 60, "Australia/Lord_Howe")
    before = at("2026-10-04T01:59:00", "Australia/Lord_Howe")
    assert island.opens(before) == before + 60


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 1e300, -1e12])
def test_times_that_no_calendar_has(now: float) -> None:
    assert not OFFICE.is_open(now)
    assert OFFICE.opens(now) is None
    assert waits_for((OFFICE,), now) == "its window, which never opens"


@given(
    st.sets(st.integers(0, 6), min_size=1).map(tuple),
    st.integers(0, 1439),
    st.integers(0, 1440),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.integers(1_700_000_000, 1_900_000_000),
)
def test_it_opens_at_the_first_time_from_now_on(
    days: tuple[int, ...], begin: int, end: int, zone: str, now: int
) -> None:
    if begin == end:
        return
    window = Window(days, begin, end, zone)
    opens = window.opens(now)
    assert opens is not None
    assert opens >= now
    assert window.is_open(opens)
    if opens > now:
        step = max(60, (opens - now) / 200)
        looked = float(now)
        while looked < opens:
            assert not window.is_open(looked)
            looked += step
        assert not window.is_open(opens - 1)


@pytest.mark.parametrize(
    "settings",
    [((), 0, 1), ((7,), 0, 1), ((0,), -1, 5), ((0,), 0, 1441), ((0,), 5, 5), ((0,), 0, 1, "Mars")],
)
def test_windows_that_are_none(settings: tuple[tuple[int, ...], int, int]) -> None:
    with pytest.raises(PlanError):
        Window(*settings)
    assert len(DAYS) == 7
