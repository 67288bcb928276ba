"""How a rollout went over time: bounded, in order, and never without the turns."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from aura.delivery import curves
from aura.delivery.curve import (
    MOST_POINTS,
    Curve,
    Point,
    added,
    is_due,
    latencies_of,
    point_of,
)
from aura.delivery.decide import start
from aura.delivery.evidence import Tally
from aura.delivery.status import Seen, status_of
from aura.errors import CodecError
from aura.stats.quantiles import Histogram
from tests.delivery.rollout_kit import PLAN, app_on, forever, observed, traffic, wait_for


def point(at: float, stage: str = "30%", weight: float = 0.3) -> Point:
    return Point(at, "running", stage, weight, ())


def grown(curve: Curve, times: list[float], stage: str = "30%") -> Curve:
    for at in times:
        if is_due(curve, one := point(at, stage)):
            curve = added(curve, one)
    return curve


def test_a_week_fits_and_its_stages_are_in_it() -> None:
    curve = Curve("r", {})
    day = 86_400
    for number in range(7):
        times = [float(number * day + at) for at in range(0, day, 20)]
        curve = grown(curve, times, f"s{number}")
        assert len(curve.points) <= MOST_POINTS
    times = [one.at for one in curve.points]
    assert times == sorted(times)
    first = {one.stage: one.at for one in reversed(curve.points)}
    assert first == {f"s{number}": number * day for number in range(7)}
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert max(gaps) < 7 * day / 25, "no part of it is left without points"


def test_points_become_rarer_and_turns_are_always_due() -> None:
    curve = grown(Curve("r", {}), [0.0, 0.4, 0.9])
    assert [one.at for one in curve.points] == [0.0]
    curve = grown(curve, [1.0, 10_000.0])
    assert not is_due(curve, point(10_020.0))
    assert is_due(curve, point(10_000.1, "60%"))
    assert is_due(curve, point(10_000.1, weight=0.2))
    assert is_due(curve, point(3_000.0)), "a clock that was put back does not end the curve"
    assert added(curve, point(3_000.0)).points[-1].at == 10_000.0


@pytest.mark.parametrize("seed", range(5))
def test_it_is_bounded_whatever_comes(seed: int) -> None:
    dice = random.Random(seed)
    curve = Curve("r", {})
    at = 0.0
    for _ in range(2_000):
        at += dice.choice((0.0, 0.5, 5.0, 500.0, -100.0))
        one = point(at, dice.choice("ab"), dice.choice((0.1, 0.2)))
        if is_due(curve, one):
            curve = added(curve, one)
    assert len(curve.points) <= MOST_POINTS
    times = [one.at for one in curve.points]
    assert times == sorted(times)


def test_a_point_and_the_latencies_are_those_of_the_status() -> None:
    tally = Tally(PLAN)
    for number in range(10):
        tally.fold(observed(unit=f"u{number}", ok=number > 0, latency=0.25))
        tally.fold(observed(unit=f"v{number}", arm="a", latency=0.01))
    state = replace(start(0.0), stage=1)
    status = status_of(PLAN, "r", state, (Seen(tally, tally, 1),), "", ())
    [told] = point_of(status, 5.0).splits
    assert (told.candidate_requests, told.candidate_errors) == (10, 1)
    assert (told.baseline_requests, told.baseline_errors) == (10, 0)
    assert told.candidate_p95_ms == pytest.approx(250, rel=0.02)
    assert set(told.evidence) == {"errors", "latency"}
    found = {one.arm: one.buckets for one in latencies_of(PLAN, status, [tally])}
    [(low, high, count)] = found["b"]
    assert low < 250 <= high
    assert count == 10
    assert len(found["a"]) == 1


def test_a_coarse_histogram_loses_nothing() -> None:
    histogram = Histogram()
    values = [10 ** random.Random(seed).uniform(-7, 4) for seed in range(500)]
    for one in [*values, 0.0]:
        histogram.add(one)
    coarse = histogram.coarse()
    assert sum(count for _, _, count in coarse) == 501
    assert all(low < high for low, high, _ in coarse)
    assert [low for low, _, _ in coarse] == sorted(low for low, _, _ in coarse)
    middle = sum(count for _, high, count in coarse if high <= 1.2)
    assert math.isclose(middle, sum(one <= 1 for one in [*values, 0.0]), abs_tol=25)


def test_what_is_no_curve_is_refused() -> None:
    curve = added(Curve("r", {"errors": 200.0}), point(1.0))
    assert Curve.from_json(curve.to_json()) == curve
    for wrong in (b"", b"{}", b"[1]", b'{"run": "r", "limits": {}, "points": [1]}'):
        with pytest.raises(CodecError, match="cannot be read"):
            Curve.from_json(wrong)


async def test_whoever_takes_a_rollout_over_goes_on_with_its_curve(database: str) -> None:
    async with app_on(database) as app, traffic(app, per_second=300):
        await app.rollouts.start(forever())
        await wait_for(app, lambda one: one.stages[0].candidate.requests > 50)
        first = await curves.read(app.store, "rollout-t-1")
        assert first is not None
        assert first.limits == {"errors": 200.0, "latency": 200.0}
    async with app_on(database) as app, traffic(app, per_second=300):
        give_up = time.monotonic() + 60
        second = first
        while len(second.points) < len(first.points) + 2:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
            second = await curves.read(app.store, "rollout-t-1") or first
        assert second.points[: len(first.points)] == first.points
        await app.rollouts.order("t", "rollback")
        await wait_for(app, lambda one: one.ended)
