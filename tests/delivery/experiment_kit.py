"""Experiments over made units: the same seeds, the same units, the same values."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aura import Aura
from aura.delivery.analysis import Analysis
from aura.delivery.conclude import Decision, ExperimentState, Given, conclude
from aura.delivery.experiment import Experiment, Metric, parse_experiment
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.observation import Observation
from aura.delivery.split import Arm, Split

TEXT = """
experiment:
  name: copy
  split: shop
  arms: {a: 50%, b: 50%}
  primary: {metric: basket, from: observation, better: higher, horizon: 0s, effect: 10%}
  secondary: [{metric: latency, horizon: 0s}]
  guards: [errors: {min_sample: 10}]
  planned: 1000
  min_time: 0s
  max_time: 1h
"""
EXPERIMENT = parse_experiment(TEXT)
BASKET = EXPERIMENT.primary
MEAN, SPREAD = 10.0, 3.0


def made(**changes: Any) -> Experiment:
    return replace(EXPERIMENT, **changes)


def metric(**changes: Any) -> Metric:
    return replace(BASKET, **changes)


def split_of(experiment: Experiment, seed: str = "shop/x-1", **changes: Any) -> Split:
    arms = tuple(Arm(name, weight) for name, weight in experiment.arms)
    return replace(Split(experiment.split, 1, seed, arms), **changes)


def baskets(lift: dict[str, float], seed: int = 1) -> Callable[[str, str], dict[str, float]]:
    """What a unit has on an arm: the same number for the same unit, whatever the order."""

    def of(unit: str, arm: str) -> dict[str, float]:
        dice = random.Random(f"{seed}/{unit}")
        return {"basket": dice.gauss(MEAN, SPREAD) * (1 + lift.get(arm, 0.0))}

    return of


def observed(split: Split, unit: str, metrics: dict[str, float] | None = None, **changes: Any):  # type: ignore[no-untyped-def]
    arm = split.assign(unit)
    one = Observation(split.name, split.epoch, arm, unit, 100.0, True, 0.1, metrics=metrics or {})
    return replace(one, **changes)


def folded(
    experiment: Experiment,
    units: int,
    lift: dict[str, float] | None = None,
    *,
    seed: int = 1,
    failing: str = "",
) -> Analysis:
    """An analysis of so many units with one request each."""
    split = split_of(experiment)
    analysis = Analysis(experiment, split)
    of = baskets(lift or {}, seed)
    for number in range(units):
        unit = f"u{number}"
        arm = split.assign(unit)
        ok = arm != failing
        analysis.fold(float(number), observed(split, unit, of(unit, arm), ok=ok))
    return analysis


def decided(
    experiment: Experiment,
    analysis: Analysis,
    now: float = 10.0,
    given: Given | None = None,
    **state: Any,
) -> Decision:
    at = replace(ExperimentState("running", 0.0), **state)
    return conclude(experiment, at, analysis.findings(), now, given or Given(0))


async def visit(
    app: Aura, units: int, lift: dict[str, float] | None = None, *, first: int = 0, seed: int = 1
) -> None:
    """So many new units come by once each."""
    of = baskets(lift or {}, seed)
    for number in range(first, first + units):
        unit = f"u{number}"
        one = await app.experiments.assign("shop", unit)
        app.observe(one, latency=0.1, metrics=of(unit, one.arm))
        if number % 200 == 0:
            await asyncio.sleep(0.001)


async def wait_for(
    app: Aura,
    condition: Callable[[ExperimentStatus], bool],
    name: str = "copy",
    timeout: float = 60.0,
) -> ExperimentStatus:
    """The first status of the experiment for which the condition holds."""
    give_up = time.monotonic() + timeout
    while True:
        status = await app.experiments.status(name)
        if condition(status):
            return status
        assert time.monotonic() < give_up, f"it never came to hold; the last was {status}"
        await asyncio.sleep(0.01)


async def ended(app: Aura, name: str = "copy") -> ExperimentStatus:
    return await wait_for(app, lambda status: status.ended, name)


def story(status: ExperimentStatus) -> list[str]:
    return [event.what for event in status.history]
