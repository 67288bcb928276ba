"""Lengths of time and counts, as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.spans import counted, span


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((None, "–"), (0.0, "0 s"), (5e-5, "50 µs"), (0.0004, "0.4 ms"), (0.012, "12 ms")),
        *((0.25, "250 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (1.239, "1.24 s"), (30.0, "30 s")),
        *((59.94, "59.9 s"), (59.96, "1 min"), (123.0, "2 min 3 s"), (600.0, "10 min")),
        *((3595.8, "59 min 56 s"), (3599.0, "59 min 59 s"), (3599.7, "1 h")),
        *((11_040.0, "3 h 4 min"), (86_391.8, "23 h 59 min"), (90_060.0, "1 d 1 h")),
        *((28 * 86_400.0, "28 d"), (1e9, "11,574 d 1 h")),
        *((math.inf, "inf s"), (math.nan, "nan s"), (-5.0, "-5 s")),
    ],
)
def test_lengths_of_time_are_readable(seconds: float | None, told: str) -> None:
    assert span(seconds) == told


@given(st.floats(1e-7, 1e8))
def test_no_length_of_time_has_more_than_two_parts_of_few_digits(seconds: float) -> None:
    words = span(seconds).split()
    assert len(words) in (2, 4)
    for number in words[::2]:
        assert sum(one.isdigit() for one in number) <= 4, words


def test_counts_have_their_noun() -> None:
    assert counted(1, "more request") == "1 more request"
    assert counted(0, "request") == "0 requests"
    assert counted(999_635, "request") == "999,635 requests"
