"""A reduced `python -m benchmarks.statistics`: false alarms and detection, with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aura.delivery.guard import Guard, GuardState
from aura.delivery.observation import Observation
from benchmarks.statistics import (
    CASES,
    STAGES,
    detection,
    false_alarms,
    false_alarms_of_sticky_units,
    false_alarms_over_stages,
    log_excess,
    log_mixture,
)


def test_the_copy_for_arrays_is_the_guard() -> None:
    """The same evidence after every event of plans with four stages."""
    generator = np.random.default_rng(1)
    for _ in range(10):
        state = GuardState(Guard(kind="errors", segments=len(STAGES)), "base", "cand")
        done: list[float] = []
        for share in STAGES:
            s1 = s0 = 0
            for _ in range(25):
                on = bool(generator.random() < share)
                s1, s0 = s1 + on, s0 + (not on)
                arm = "cand" if on else "base"
                state.fold(Observation("s", 1, arm, "u", 0.0, False, 0.1, share=share))
                here = log_excess(np.array([float(s1)]), np.array([float(s0)]), share)
                before = [np.array([each]) for each in done]
                expected = float(log_mixture([*before, here], len(STAGES))[0])
                assert state.log_evidence == pytest.approx(expected, abs=1e-9)
            done.append(float(here[0]))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.10, 0.50])
@pytest.mark.parametrize("pattern", ["constant", "bursts"])
def test_false_alarms_stay_below_alpha(share: float, pattern: str) -> None:
    part = false_alarms(share, pattern, 2000, requests=3000, alpha=0.05)
    assert part <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)  # sampling: three standard errors


def test_false_alarms_while_weights_change() -> None:
    assert false_alarms_over_stages(1000, failures=150, alpha=0.05) <= 0.05


def test_false_alarms_with_sticky_units() -> None:
    assert false_alarms_of_sticky_units("unit", 200, alpha=0.05) <= 0.05
    assert false_alarms_of_sticky_units("request", 50, alpha=0.05) > 0.05


def test_5_to_10_percent_at_a_share_of_10_is_found_with_fewer_bad_requests() -> None:
    """Fewer than Welch's t, Mann-Whitney and thresholds with as few false alarms."""
    rows = {row.judge: row for row in detection(CASES[0], 1000, horizon=50_000, alpha=0.05)}
    ours = rows.pop("guard")
    assert ours.alarms <= 0.05
    assert ours.power == 1.0
    for name, row in rows.items():
        assert row.alarms <= ours.alarms
        if name.startswith(("Welch", "Mann-Whitney", "threshold")):
            assert ours.requests < row.requests
            assert ours.events < row.events
