"""The moment at which the baseline must be started."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.resilience import RecentQuantile, patience, start_after


def test_only_the_usual_time_of_the_second_attempt_is_left() -> None:
    assert start_after(1.0, 0.3) == pytest.approx(0.65)


def test_half_of_the_limit_is_kept_when_nothing_is_known() -> None:
    assert start_after(1.0, None) == 0.5


def test_the_first_attempt_keeps_a_fifth_even_when_the_second_cannot_make_it() -> None:
    assert start_after(1.0, 5.0) == pytest.approx(0.2)


@given(limit=st.floats(0.001, 100), usual=st.none() | st.floats(0, 1000))
def test_the_second_attempt_never_starts_at_the_limit_or_after_its_last_chance(
    limit: float, usual: float | None
) -> None:
    after = start_after(limit, usual)
    assert 0 < after <= limit
    if usual is not None and usual <= 0.75 * limit:
        assert after + usual <= limit * (1 + 1e-9)


def test_patience_ends_at_twice_the_limit() -> None:
    assert patience(0.8, 0.5) == pytest.approx(1.1)
    assert patience(0.8, 3.0) == 0.0


@given(
    values=st.lists(st.floats(0, 10), min_size=1, max_size=60),
    size=st.integers(1, 20),
    q=st.floats(0.01, 0.99),
)
def test_the_quantile_is_the_exact_one_of_the_last_values(
    values: list[float], size: int, q: float
) -> None:
    recent = RecentQuantile(q, size)
    for value in values:
        recent.add(value)
    window = sorted(values[-size:])
    assert recent.value == window[min(int(q * len(window)), len(window) - 1)]
    assert len(recent) == len(window)


def test_no_values_no_quantile() -> None:
    assert RecentQuantile().value is None


@pytest.mark.parametrize(("q", "size"), [(0.0, 5), (1.0, 5), (0.5, 0)])
def test_a_window_that_cannot_work_is_refused(q: float, size: int) -> None:
    with pytest.raises(ValueError, match=r"q must|size must"):
        RecentQuantile(q, size)
