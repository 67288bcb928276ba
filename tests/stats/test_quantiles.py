from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.stats.quantiles import ERROR, Histogram, Window

latencies = st.floats(min_value=1e-6, max_value=1e5)


def nearest_rank(values: list[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.lists(latencies, min_size=1), st.floats(0, 1))
def test_a_quantile_is_off_by_one_percent_at_most(values: list[float], q: float) -> None:
    found = filled(values).quantile(q)
    assert found == pytest.approx(nearest_rank(values, q), rel=ERROR + 1e-9)


@given(st.lists(latencies), st.lists(latencies))
def test_merging_equals_adding_everything(one: list[float], two: list[float]) -> None:
    merged = filled(one).merge(filled(two))
    assert merged.to_dict() == filled(one + two).to_dict()
    assert merged.count == len(one) + len(two)


@given(st.lists(latencies))
def test_json_round_trip(values: list[float]) -> None:
    histogram = filled(values)
    again = Histogram.from_dict(json.loads(json.dumps(histogram.to_dict())))
    assert again.to_dict() == histogram.to_dict()
    assert (again.count, again.mean) == (histogram.count, histogram.mean)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"ns": 1},
        {"ns": 1, "buckets": []},
        {"ns": 1, "buckets": {"0": 0}},
        {"ns": 1, "buckets": {"99999": 1}},
        {"ns": 1, "buckets": {"x": 1}},
    ],
)
def test_what_is_no_histogram_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Histogram.from_dict(data)


@given(st.lists(latencies, min_size=1))
def test_removing_everything_leaves_an_empty_histogram(values: list[float]) -> None:
    histogram = filled(values)
    for value in values:
        histogram.remove(value)
    assert histogram.to_dict() == Histogram().to_dict()
    assert histogram.mean is None
    assert histogram.quantile(0.5) is None


def test_the_mean_is_exact() -> None:
    assert filled([0.1, 0.2, 0.6]).mean == pytest.approx(0.3, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_impossible_latencies_are_refused(bad: float) -> None:
    histogram = Histogram()
    with pytest.raises(ValueError):
        histogram.add(bad)
    with pytest.raises(ValueError, match="was added"):
        histogram.remove(1.0)
    with pytest.raises(ValueError):
        histogram.quantile(1.5)
    assert histogram.count == 0


def test_its_size_is_fixed() -> None:
    generator = random.Random(1)
    values = [10 ** generator.uniform(-9, 9) for _ in range(50_000)]
    assert len(filled(values).to_dict()["buckets"]) <= 1384


def test_a_window_forgets_by_time_and_by_size() -> None:
    window = Window(10, size=3, over=1.0)
    for at in range(4):
        window.add(float(at), ok=at != 0, latency=2.0 if at == 3 else 0.5)
    assert (len(window), window.failed, window.late) == (3, 0, 1)
    window.add(12.5, ok=False, latency=0.1)
    assert [at for at, _, _ in window] == [3.0, 12.5]
    assert window.error_rate == 0.5


def test_a_window_is_emptied_by_time_alone() -> None:
    window = Window(10, over=1.0)
    window.add(0.0, ok=False, latency=2.0)
    window.forget(100.0)
    assert (len(window), window.failed, window.late) == (0, 0, 0)
    assert window.error_rate is None
    assert window.quantile(0.5) is None
    assert not window.exceeds(0.5)


def test_a_clock_that_is_ahead_does_not_keep_others_out() -> None:
    window = Window(10)
    window.add(5000.0, ok=False, latency=0.1)
    for at in range(5):
        window.add(float(at), ok=True, latency=0.1)
    assert len(window) == 6


@given(st.lists(latencies, max_size=60), st.floats(0.01, 0.99))
def test_exceeding_is_exact(values: list[float], q: float) -> None:
    window = Window(10, over=1.0)
    for value in values:
        window.add(0.0, ok=True, latency=value)
    assert window.exceeds(q) == (bool(values) and nearest_rank(values, q) > 1.0)
    assert window.quantile(q) == (nearest_rank(values, q) if values else None)


@pytest.mark.parametrize(("seconds", "size"), [(0.0, 5), (-1.0, 5), (math.nan, 5), (1.0, 0)])
def test_impossible_windows_are_refused(seconds: float, size: int) -> None:
    with pytest.raises(ValueError):
        Window(seconds, size=size)
