"""Durations and detectable effects, against textbook numbers and by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aura.stats.means import boundary, radius
from aura.stats.planning import (
    Design,
    detectable_effect,
    duration,
    fixed_detectable_effect,
    fixed_duration,
)

RATE = Design(share=0.5, baseline=0.10, per_day=1000)


def test_one_look_has_the_textbooks_number() -> None:
    """n per arm = 2 (1.959964 + 0.841621)^2 / 0.5^2 = 62.79 for half a standard deviation."""
    found = fixed_duration(Design(share=0.5, baseline=0.0, spread=1.0, per_day=10), 0.5)
    assert found.units == math.ceil(4 * 2.801585**2 / 0.25)
    assert found.days == pytest.approx(found.units / 10)
    # Fleiss, 0.10 against 0.12 with unpooled variances: 3,839 in each arm
    assert fixed_duration(RATE, 0.02).units / 2 == pytest.approx(3839, abs=2)


def test_a_sequential_test_needs_more_at_most_and_less_on_average() -> None:
    sequential, once = duration(RATE, 0.02), fixed_duration(RATE, 0.02)
    ratio = ((boundary(0.05) + 0.841621) / 2.801585) ** 2
    assert sequential.units / once.units == pytest.approx(ratio, rel=1e-3)
    assert sequential.average_units < 0.7 * sequential.units
    assert sequential.average_days == pytest.approx(sequential.average_units / 1000)


@pytest.mark.parametrize("design", [RATE, Design(0.1, 100.0, 5000, spread=30.0)])
def test_effect_and_duration_are_inverse(design: Design) -> None:
    for days in (3.0, 40.0):
        sequential, once = detectable_effect(design, days), fixed_detectable_effect(design, days)
        assert once < sequential
        assert duration(design, sequential).days == pytest.approx(days, rel=1e-3)
        assert fixed_duration(design, once).days == pytest.approx(days, rel=1e-3)


def test_an_effect_that_no_rate_can_have() -> None:
    assert detectable_effect(Design(share=0.01, baseline=0.5, per_day=10), 1.0) == math.inf


def test_the_promised_power_and_duration_hold_in_simulation() -> None:
    """Drifting Brownian motion at 500 looks: power at least 80 %, mean duration as promised."""
    design = Design(share=0.2, baseline=0.0, spread=1.0, per_day=100)
    effect = 0.1
    found = duration(design, effect)
    generator = np.random.default_rng(6)
    looks = np.linspace(0, found.units, 501)[1:]
    pull = effect / math.sqrt(design.variance(effect))
    steps = generator.normal(size=(2000, 500)) * math.sqrt(looks[0])
    motion = steps.cumsum(axis=1) + pull * looks
    limit = np.array([radius(n, design.alpha, found.units) * math.sqrt(n) for n in looks])
    out = motion >= limit
    ended = np.where(out.any(axis=1), looks[out.argmax(axis=1)], found.units)
    assert out.any(axis=1).mean() >= design.power
    assert 0.75 * found.average_units <= ended.mean() <= found.average_units


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share"),
        ({"share": math.nan}, "share"),
        ({"alpha": 1.0}, "alpha"),
        ({"power": 0.0}, "power"),
        ({"per_day": 0.0}, "per_day"),
        ({"per_day": math.inf}, "per_day"),
        ({"spread": -1.0}, "spread"),
        ({"baseline": math.nan}, "baseline"),
        ({"baseline": 1.5}, "a mean needs its spread"),
    ],
)
def test_designs_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"share": 0.5, "baseline": 0.1, "per_day": 100.0, **settings}
    with pytest.raises(ValueError, match=message):
        Design(**fields)


def test_questions_that_make_no_sense_are_refused() -> None:
    for effect in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="effect"):
            duration(RATE, effect)
    with pytest.raises(ValueError, match=r"would be 1\.1"):
        duration(RATE, 1.0)
    for days in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="duration"):
            detectable_effect(RATE, days)
