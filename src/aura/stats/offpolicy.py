"""What another policy would have earned, from a log of choices whose probabilities are known.

With choices a_i made with probability p_i in context x_i, rewards r_i, and a policy that would
have taken arm a with probability w(a, x):

    IPS   mean of  w(a_i, x_i) / p_i * r_i                        (Horvitz and Thompson, JASA 1952)
    DR    mean of  sum_a w(a, x_i) q(a, x_i) + w(a_i, x_i)/p_i (r_i - q(a_i, x_i))
          with a model q of the reward                      (Dudik, Langford and Li, ICML 2011)

Both are unbiased when every arm that the policy takes had some probability in the log; DR has less
variance the better q is. q is fitted on one half of the log and used on the other (cross-fitting,
Chernozhukov and others, Econometrics Journal 21, 2018), so that it knows nothing of r_i.

The intervals are confidence sequences of the mean (`aura.stats.means`): they may be looked at all
the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aura.stats.linear import Regression
from aura.stats.means import ConfidenceSequence, Moments, mean

TargetPolicy = Callable[[Mapping[str, float]], Mapping[str, float]]
"""From a context to the probability of each arm; arms that are not named have none."""

Rewards = Callable[[str, Mapping[str, float]], float]


@dataclass(frozen=True, slots=True)
class Logged:
    """One choice: the arm, its probability when it was made (0 < p <= 1), and the reward (0..1).

    Raises ValueError for anything else.
    """

    arm: str
    probability: float
    reward: float
    context: Mapping[str, float]

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"a choice was made with the probability {self.probability}")
        if not math.isfinite(self.reward):
            raise ValueError(f"a reward is finite, not {self.reward}")


@dataclass(frozen=True, slots=True)
class Worth:
    """What a policy is worth per choice, by both estimators. `effective` is Kish's effective number
    of choices, (sum w)^2 / sum w^2: when it is small, the log says little about this policy."""

    ips: ConfidenceSequence
    doubly_robust: ConfidenceSequence
    logged: float
    n: int
    effective: float


def evaluate(log: Sequence[Logged], policy: TargetPolicy, alpha: float = 0.05) -> Worth:
    """Estimate the mean reward of a policy. Raises ValueError for an empty log, an alpha outside
    (0, 1), and for a policy whose probabilities are none."""
    if not log:
        raise ValueError("there is no choice with a reward in the log")
    models = [_fitted(log[1::2] or log), _fitted(log[0::2])]  # each for the other half
    ips, robust = Moments(), Moments()
    total = squares = earned = 0.0
    for number, one in enumerate(log):
        wanted = _checked(policy(one.context))
        weight = wanted.get(one.arm, 0.0) / one.probability
        model = models[number % 2]
        direct = sum(share * model(arm, one.context) for arm, share in wanted.items() if share)
        ips.add(weight * one.reward)
        robust.add(direct + weight * (one.reward - model(one.arm, one.context)))
        total += weight
        squares += weight * weight
        earned += one.reward
    n = len(log)
    return Worth(
        mean(ips.estimate(), alpha, planned=n),
        mean(robust.estimate(), alpha, planned=n),
        earned / n,
        n,
        total * total / squares if squares else 0.0,
    )


def _checked(wanted: Mapping[str, float]) -> Mapping[str, float]:
    if not all(0 <= share <= 1 for share in wanted.values()) or not math.isclose(
        math.fsum(wanted.values()), 1, abs_tol=1e-6
    ):
        raise ValueError(f"a policy's probabilities add up to 1, not {dict(wanted)}")
    return wanted


def _fitted(log: Sequence[Logged]) -> Rewards:
    """A linear model per arm; without contexts that is the arm's mean, drawn a little to 0."""
    arms: dict[str, Regression] = {}
    for one in log:
        arms.setdefault(one.arm, Regression()).add(one.context, one.reward)

    def expected(arm: str, context: Mapping[str, float]) -> float:
        return arms[arm].belief(context).mean if arm in arms else 0.0

    return expected
