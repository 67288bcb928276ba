"""Probabilities of being best, the regression behind contexts, and what other policies earn."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.stats.bandit import Beta, Normal, best_probabilities, upper_bounds, with_floor
from aura.stats.linear import MOST_FEATURES, Regression
from aura.stats.offpolicy import Logged, evaluate

sizes = st.floats(1, 5_000)


@given(st.lists(st.tuples(sizes, sizes), min_size=2, max_size=5))
def test_probabilities_are_probabilities(shapes: list[tuple[float, float]]) -> None:
    found = best_probabilities([Beta(a, b) for a, b in shapes])
    assert math.isclose(sum(found), 1)
    assert all(0 <= one <= 1 for one in found)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1), (1, 1)],
        [(3, 9), (5, 7), (1, 1)],
        [(501, 501), (2, 1)],  # a narrow one beside a wide one
        [(40_001, 60_001), (40_201, 59_801), (1, 30)],
    ],
)
def test_they_are_those_of_drawing(shapes: list[tuple[float, float]]) -> None:
    """Against a million draws from NumPy's Beta distributions."""
    a, b = (np.array(one, float) for one in zip(*shapes, strict=True))
    draws = np.random.default_rng(7).beta(a, b, size=(1_000_000, len(shapes)))
    drawn = np.bincount(draws.argmax(axis=1), minlength=len(shapes)) / len(draws)
    found = best_probabilities([Beta(a, b) for a, b in shapes])
    assert found == pytest.approx(list(drawn), abs=0.003)


def test_two_normal_beliefs_have_a_closed_form() -> None:
    """P(X > Y) = Phi((mx - my) / sqrt(sx^2 + sy^2))."""
    found = best_probabilities([Normal(0.6, 0.05), Normal(0.5, 0.12)])
    z = 0.1 / math.hypot(0.05, 0.12)
    assert found[0] == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), abs=1e-4)


def test_no_arm_and_one_arm() -> None:
    assert best_probabilities([]) == []
    assert best_probabilities([Beta()]) == [1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 0.16))
def test_a_floor_is_kept(raw: list[float], floor: float) -> None:
    total = sum(raw)
    found = with_floor([one / total for one in raw] if total else raw, floor)
    assert math.isclose(sum(found), 1)
    assert min(found) >= floor - 1e-12


def test_floors_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 arms"):
        with_floor([0.2, 0.3, 0.5], 0.4)


def test_upper_bounds_are_those_of_ucb1() -> None:
    assert upper_bounds([0.5, 0.0], [10, 0]) == [0.5 + math.sqrt(2 * math.log(10) / 10), math.inf]


def test_the_regression_is_the_one_of_linear_algebra() -> None:
    rng = np.random.default_rng(3)
    rows, rewards = rng.uniform(-1, 1, (200, 3)), rng.uniform(0, 1, 200)
    one = Regression()
    for row, reward in zip(rows, rewards, strict=True):
        one.add(dict(zip("abc", map(float, row), strict=True)), float(reward))
    design = np.column_stack([np.ones(200), rows])
    precision = np.eye(4) + design.T @ design
    x = np.array([1.0, 0.2, -0.4, 0.9])
    belief = one.belief({"a": 0.2, "b": -0.4, "c": 0.9})
    assert belief.mean == pytest.approx(float(x @ np.linalg.solve(precision, design.T @ rewards)))
    assert belief.deviation == pytest.approx(
        0.5 * math.sqrt(float(x @ np.linalg.solve(precision, x)))
    )
    again = Regression.from_dict(one.to_dict())
    assert again.belief({"a": 0.2, "b": -0.4, "c": 0.9}) == belief


def test_a_feature_that_was_never_seen_is_uncertain() -> None:
    one = Regression()
    for _ in range(100):
        one.add({}, 0.5)
    assert one.belief({"new": 1.0}).deviation > 5 * one.belief({}).deviation


def test_what_a_regression_refuses() -> None:
    one = Regression()
    with pytest.raises(ValueError, match="finite"):
        one.add({"a": math.nan}, 0.5)
    with pytest.raises(ValueError, match="finite"):
        one.add({}, math.inf)
    with pytest.raises(ValueError, match="one too many"):
        one.add({f"f{number}": 1.0 for number in range(MOST_FEATURES)}, 0.5)


TRUTH = {"a": 0.3, "b": 0.6}


def logged(seed: int, n: int) -> list[Logged]:
    """Arm b is better where the context says so; the logging policy prefers a."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        good = float(rng.random() < 0.5)
        arm = "a" if rng.random() < 0.8 else "b"
        rate = TRUTH[arm] + (0.3 * good if arm == "b" else 0.0)
        found.append(
            Logged(arm, 0.8 if arm == "a" else 0.2, float(rng.random() < rate), {"good": good})
        )
    return found


def test_estimates_cover_the_truth() -> None:
    """The policy that takes b always is worth 0.75; 95 % sequences miss it in no more than 5 %."""
    missed = {"ips": 0, "dr": 0}
    widths = []
    for seed in range(60):
        worth = evaluate(logged(seed, 1_000), lambda _: {"b": 1.0})
        missed["ips"] += not worth.ips.contains(0.75)
        missed["dr"] += not worth.doubly_robust.contains(0.75)
        widths.append(worth.doubly_robust.width / worth.ips.width)
    assert missed["ips"] <= 3
    assert missed["dr"] <= 3
    assert sum(widths) / len(widths) < 0.8  # the model helps


def test_a_policy_by_context() -> None:
    worth = evaluate(
        logged(5, 20_000), lambda context: {"b": 1.0} if context["good"] else {"a": 1.0}
    )
    assert worth.doubly_robust.contains(0.6)  # half of the time 0.9, half 0.3
    assert 0.1 * worth.n < worth.effective < worth.n


def test_what_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="no choice"):
        evaluate([], lambda _: {"a": 1.0})
    with pytest.raises(ValueError, match="add up to 1"):
        evaluate(logged(1, 10), lambda _: {"a": 0.4})
    with pytest.raises(ValueError, match="probability 0"):
        Logged("a", 0.0, 1.0, {})
