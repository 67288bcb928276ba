"""Several metrics at once, against brute force and published rules."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.stats.multiple import adjusted, coverage_alpha, discoveries, split_alpha

LOGS = st.lists(st.floats(-20, 20), min_size=1, max_size=6)


@given(LOGS)
def test_adjusted_evidence_is_the_least_mean_over_all_sets(logs: list[float]) -> None:
    """The definition (Vovk and Wang 2021, section 5), by brute force."""
    for i, found in enumerate(adjusted(logs)):
        sets = (
            each
            for size in range(1, len(logs) + 1)
            for each in itertools.combinations(range(len(logs)), size)
            if i in each
        )
        least = min(math.fsum(math.exp(logs[j]) for j in each) / len(each) for each in sets)
        assert math.exp(found) == pytest.approx(least)


@given(LOGS, st.sampled_from([0.2, 0.05, 0.01]))
def test_closure_rejects_whatever_holm_does(logs: list[float], alpha: float) -> None:
    order = sorted(range(len(logs)), key=lambda i: -logs[i])
    corrected = adjusted(logs)
    for place, i in enumerate(order):
        if logs[i] < math.log((len(logs) - place) / alpha):
            break
        assert corrected[i] >= -math.log(alpha) - 1e-12


def test_adjusted_evidence_by_hand() -> None:
    found = [math.exp(value) for value in adjusted([math.log(e) for e in (100, 60, 2)])]
    assert found == pytest.approx([51, 31, 2])
    assert adjusted([]) == []


def test_discoveries_by_hand() -> None:
    """K = 4, alpha = 0.1: the k largest need at least 40/k: 40, 20, 13.3, 10."""
    logs = [math.log(e) for e in (9, 21, 22, 30)]
    assert discoveries(logs, 0.1) == [False, True, True, True]
    assert discoveries([math.log(e) for e in (1, 2, 3, 39)], 0.1) == [False] * 4
    assert discoveries([math.log(e) for e in (10, 11, 12, 13)], 0.1) == [True] * 4


def test_errors_hold_under_dependence_at_every_look() -> None:
    """Five metrics with one common cause and no effect; the best moment of each stream counts."""
    generator = np.random.default_rng(5)
    alpha, streams, looks = 0.1, 1000, 200
    x = np.arange(1, looks + 1) / 100
    wrong = 0
    for _ in range(streams):
        steps = generator.normal(size=(5, looks)) + 2 * generator.normal(size=looks)
        z = steps.cumsum(axis=1) / np.sqrt(5 * np.arange(1, looks + 1))
        logs = z**2 * x / (2 * (1 + x)) - np.log1p(x) / 2
        best = logs[:, logs.max(axis=0).argmax()]
        wrong += max(adjusted(list(best))) >= -math.log(alpha)
    assert wrong <= alpha * streams


def test_alpha_is_divided_by_weight() -> None:
    parts = split_alpha(0.05, {"primary": 3, "cost": 1, "latency": 1})
    assert parts == pytest.approx({"primary": 0.03, "cost": 0.01, "latency": 0.01})
    assert coverage_alpha(0.05, 2, 10) == pytest.approx(0.01)


def test_what_makes_no_sense_is_refused() -> None:
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight of cost"):
            split_alpha(0.05, {"cost": weight})
    with pytest.raises(ValueError, match="nothing"):
        split_alpha(0.05, {})
    with pytest.raises(ValueError, match="alpha"):
        split_alpha(1.0, {"cost": 1})
    with pytest.raises(ValueError, match="NaN"):
        adjusted([math.nan])
    with pytest.raises(ValueError, match="NaN"):
        discoveries([1.0, math.nan], 0.05)
    for found, tested in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="cannot be"):
            coverage_alpha(0.05, found, tested)


def test_infinite_evidence_is_fine() -> None:
    assert adjusted([math.inf, 0.0])[0] == math.inf
    assert discoveries([math.inf, -math.inf], 0.05) == [True, False]
