"""How long an experiment takes and what it can find, before it starts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from aura.delivery.analysis import number, unit_values
from aura.delivery.experiment import DAY, Experiment, Metric
from aura.delivery.observation import Observation
from aura.delivery.reward import Reward
from aura.errors import ConfigError
from aura.stats.means import Moments
from aura.stats.planning import Design, detectable_effect, duration

POWER = 0.8
"""The probability with which an effect is to be found."""

ENOUGH = 30
"""Units below which nothing is forecast from what they did."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is expected of the primary metric on the baseline: mean and standard deviation of a
    unit's value, and new units a day. Raises ConfigError for what makes no sense."""

    mean: float
    spread: float
    per_day: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ConfigError(f"the mean is {self.mean}", hint="give a finite number")
        for name in ("spread", "per_day"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}", hint="give a number above 0")


@dataclass(frozen=True, slots=True)
class ArmForecast:
    """One candidate against the baseline. `detectable` is the smallest difference (in the metric's
    unit) that is found within `max_time` with a probability of 80 %; `days` and `units` (of both
    arms) are what the declared effect takes, at most on average; None when none is declared, or it
    cannot be said."""

    arm: str
    detectable: float | None
    detectable_relative: float | None
    effect: float | None
    units: int | None
    days: float | None
    full_days: float | None
    in_time: bool | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What can be said before the start. `source` tells where the traffic is known from, `flaws`
    what should be changed; `seen` is how many units it was learnt from. Without `traffic` nothing
    can be said."""

    experiment: str
    metric: str
    traffic: Traffic | None
    arms: tuple[ArmForecast, ...]
    source: str
    seen: int
    flaws: tuple[str, ...]


def forecast(
    experiment: Experiment, before: Iterable[Observation | Reward], given: Traffic | None = None
) -> Forecast:
    """The forecast from what was observed and rewarded before, or from the traffic that is given.

    New units a day are the different units of the pre-period over its days: an upper bound when
    the same units come back day after day.
    """
    metric = experiment.primary
    items = list(before)
    values, days = _before(experiment, items)
    traffic, source = given, "given"
    if given is None:
        source = f"{len(values)} units of the last {days:.2g} days"
        traffic = _traffic(values, days) if len(values) >= ENOUGH else None
    arms = tuple(_arm(experiment, arm, traffic) for arm in experiment.candidates) if traffic else ()
    flaws = list(_flaws(experiment, traffic, arms, len(values)))
    return Forecast(experiment.name, metric.name, traffic, arms, source, len(values), tuple(flaws))


def _before(experiment: Experiment, items: list[Observation | Reward]) -> tuple[list[float], float]:
    """Each unit's value of the primary metric, and over how many days."""
    metric = experiment.primary
    seen = [one for one in items if isinstance(one, Observation) and not one.shadow]
    times = [one.at for one in seen]
    days = max((max(times) - min(times)) / DAY, 1 / 24) if times else 0.0
    if metric.source != "reward":
        found = [(one.unit, number(metric, one)) for one in seen]
        numbers = [(unit, value) for unit, value in found if value is not None]
        return unit_values(metric, numbers), days
    rewards = [
        (one.unit, one.value)
        for one in items
        if isinstance(one, Reward) and one.metric == metric.name
    ]
    values = unit_values(metric, rewards)
    if metric.missing == "zero":
        silent = {one.unit for one in seen} - {unit for unit, _ in rewards}
        values += [0.0] * len(silent)
    return values, days


def _traffic(values: list[float], days: float) -> Traffic | None:
    moments = Moments()
    for value in values:
        moments.add(value)
    spread = math.sqrt(moments.variance)
    return Traffic(moments.mean, spread, len(values) / days) if spread > 0 else None


def _arm(experiment: Experiment, arm: str, traffic: Traffic) -> ArmForecast:
    metric = experiment.primary
    own, baseline = experiment.weight(arm), experiment.weight(experiment.baseline)
    design = Design(
        share=own / (own + baseline),
        baseline=traffic.mean,
        spread=traffic.spread,
        per_day=traffic.per_day * _taking_part(experiment) * (own + baseline),
        alpha=experiment.alpha / len(experiment.candidates),
        power=POWER,
    )
    days = (experiment.max_time - metric.horizon) / DAY
    found = detectable_effect(design, days) if days > 0 else None
    relative = found / abs(traffic.mean) if found is not None and traffic.mean else None
    effect = _effect(metric, traffic)
    if not effect:
        return ArmForecast(arm, found, relative, None, None, None, None, None)
    takes = duration(design, effect)
    wait = metric.horizon / DAY
    return ArmForecast(
        arm, found, relative, effect, takes.units, takes.average_days + wait,
        takes.days + wait, takes.days + wait <= experiment.max_time / DAY,
    )  # fmt: skip


def _taking_part(experiment: Experiment) -> float:
    return experiment.share * (1 - (experiment.holdout or 0.0))


def _effect(metric: Metric, traffic: Traffic) -> float:
    return metric.effect * abs(traffic.mean) if metric.relative else metric.effect


def _flaws(
    experiment: Experiment, traffic: Traffic | None, arms: tuple[ArmForecast, ...], seen: int
) -> Iterable[str]:
    name = experiment.primary.name
    if traffic is None and seen < ENOUGH:
        yield (
            f"only {seen} units with {name} were seen before, so nothing can be forecast; say what "
            "you expect with --mean, --spread and --per-day"
        )
    elif traffic is None:
        yield f"{name} has been the same for all {seen} units: there is nothing to compare"
    if not experiment.primary.effect:
        yield f"{name} has no smallest effect that matters (`effect: 5%`), so no duration is said"
    for arm in arms:
        if arm.in_time is False:
            yield (
                f"arm {arm.arm} needs {arm.full_days:.1f} days to find the effect with a "
                f"probability of {POWER:.0%}, max_time is {experiment.max_time / DAY:g} days"
            )
