"""How a choice is made: from what is known of the arms to the probability of each. Pure.

    thompson   the probability that the arm is the best one (`aura.stats.bandit`); with a context,
               by a linear model of the reward (`aura.stats.linear`)
    ucb        the arm with the highest upper bound of UCB1
    weights    fixed probabilities

Every arm that is not tripped keeps at least the `floor`, so that there is always something to learn
from, and so that other policies can be evaluated on the log. When all arms are tripped, the first
one, the baseline, is taken.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, get_args

from aura.delivery.ledger import Ledger
from aura.errors import FlowError
from aura.stats.bandit import best_probabilities, upper_bounds, with_floor

Rule = Literal["thompson", "ucb", "weights"]
Value = str | bool | int | float
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Raises FlowError for settings that make no sense.

    `weights`        by arm, for the rule `weights`; they add up to 1
    `floor`          the least probability of each arm
    `horizon`        seconds for which a choice waits for its reward
    `overdue`        the reward of a choice whose time is over; None: it counts for nothing
    `max_failures`   the allowed rate of failed paths; an arm that is over it is not taken any more
    `alpha`          the probability that an arm within `max_failures` is ever tripped
    """

    rule: Rule = "thompson"
    weights: Mapping[str, float] = field(default_factory=dict)
    floor: float = 0.02
    horizon: float = DAY
    overdue: float | None = 0.0
    max_failures: float | None = None
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise FlowError(
                f"there is no policy {self.rule!r}", hint=f"Use {', '.join(get_args(Rule))}"
            )
        if self.weights and not math.isclose(math.fsum(self.weights.values()), 1, abs_tol=1e-9):
            raise FlowError(
                f"the weights of a choice add up to {math.fsum(self.weights.values()):g}",
                hint="They must add up to 1",
            )
        if any(not 0 <= one <= 1 for one in self.weights.values()) or (
            (self.rule == "weights") != bool(self.weights)
        ):
            raise FlowError(
                f"the policy {self.rule} has the weights {dict(self.weights)}",
                hint='Give weights between 0 and 1, as in policy={"a": 0.3, "b": 0.7}',
            )
        _check_rate("floor", self.floor, 0.0, 0.5)
        _check_rate("alpha", self.alpha, 1e-12, 0.5)
        if self.max_failures is not None:
            _check_rate("max_failures", self.max_failures, 1e-6, 0.999)
        if self.overdue is not None:
            _check_rate("overdue", self.overdue, 0.0, 1.0)
        if not self.horizon > 0:
            raise FlowError(f"the horizon of a choice is {self.horizon} s", hint="Give seconds")


def _check_rate(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise FlowError(f"{name} of a policy is {value}", hint=f"Give {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """An arm and the probability that it had, with those of all arms."""

    arm: str
    probability: float
    probabilities: Mapping[str, float]


def probabilities(
    policy: Policy, ledger: Ledger, arms: Sequence[str], context: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The probability of each arm; they add up to 1. Raises FlowError when weights name others."""
    if set(policy.weights) - set(arms):
        raise FlowError(
            f"weights for {', '.join(sorted(set(policy.weights) - set(arms)))}, which is no arm",
            hint=f"The arms are {', '.join(arms)}",
        )
    known = [ledger.arm(name) for name in arms]
    healthy = [name for name, arm in zip(arms, known, strict=True) if not arm.tripped]
    if not healthy:
        return {name: float(number == 0) for number, name in enumerate(arms)}
    raw = _raw(policy, ledger, healthy, context)
    floor = 0.0 if policy.rule == "weights" else min(policy.floor, 1 / len(healthy))
    found = dict(zip(healthy, with_floor(raw, floor), strict=True))
    return {name: found.get(name, 0.0) for name in arms}


def _raw(
    policy: Policy, ledger: Ledger, arms: Sequence[str], context: Mapping[str, float] | None
) -> list[float]:
    known = [ledger.arm(name) for name in arms]
    if policy.rule == "weights":
        raw = [policy.weights.get(name, 0.0) for name in arms]
        total = math.fsum(raw)
        return [one / total for one in raw] if total else [1 / len(arms)] * len(arms)
    if policy.rule == "ucb":
        bounds = upper_bounds([arm.mean for arm in known], [arm.rewarded for arm in known])
        best = bounds.index(max(bounds))
        return [float(number == best) for number in range(len(arms))]
    return best_probabilities([arm.belief(context or None) for arm in known])


def draw(found: Mapping[str, float], number: float) -> Chosen:
    """The arm on which a number in [0, 1) falls."""
    names = [name for name, share in found.items() if share > 0]
    edges = list(accumulate(found[name] for name in names))
    at = min(bisect_right(edges, number * edges[-1]), len(names) - 1)
    return Chosen(names[at], found[names[at]], dict(found))


def tripping(policy: Policy, ledger: Ledger, arms: Sequence[str]) -> dict[str, float]:
    """The arms that fail too often now and are not tripped yet, with their evidence."""
    if policy.max_failures is None:
        return {}
    limit = len(arms) / policy.alpha  # the arms share alpha
    found = {name: ledger.arm(name).evidence(policy.max_failures) for name in arms}
    return {
        name: evidence
        for name, evidence in found.items()
        if evidence >= limit and not ledger.arm(name).tripped
    }


def features(context: Mapping[str, Value] | None) -> dict[str, float]:
    """A context as numbers: truth as 0 or 1, text as a feature of its own. Raises FlowError."""
    found: dict[str, float] = {}
    for name, value in (context or {}).items():
        given: object = value
        if isinstance(given, str):
            found[f"{name}={given}"] = 1.0
        elif isinstance(given, bool | int | float) and math.isfinite(given):
            found[str(name)] = float(given)
        else:
            raise FlowError(
                f"the context's {name} is {value!r:.60}",
                hint="Give text, truth, or finite numbers of about -1 to 1",
            )
    return found
