"""Several metrics or arms at once: what may be claimed of which of them.

All of it holds under any dependence between the metrics (they come from the same units) and at
every look, because it only adds and averages e-values.

    several confidence sequences     `split_alpha`: Bonferroni, with weights
    family-wise error                `adjusted`: no true null is ever rejected, but with probability
                                     alpha at most (Vovk and Wang, "E-values: calibration,
                                     combination and applications", Annals of Statistics 49(3),
                                     2021: the closure of the arithmetic mean)
    false discoveries                `discoveries`: of those rejected, alpha are false on average
                                     (e-BH: Wang and Ramdas, JRSS B 84(3), 2022)
    intervals for the discoveries    `coverage_alpha` (e-BY: Xu, Wang and Ramdas, arXiv:2203.12572)

The closure of means is never weaker than Holm's or Bonferroni's rule on the p-values 1/E.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aura.stats.eprocess import log_sum


def split_alpha(alpha: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Each name's part of alpha, in proportion to its weight.

    Raises ValueError for no names, and for weights that are not positive and finite.
    """
    _check_alpha(alpha)
    if not weights:
        raise ValueError("there is nothing to divide alpha among")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {name} is positive, not {weight}")
    total = math.fsum(weights.values())
    return {name: alpha * weight / total for name, weight in weights.items()}


def adjusted(logs: Sequence[float]) -> list[float]:
    """Each hypothesis' ln E after correction for all of them, from their ln E.

    Rejecting all whose adjusted E is at least 1/alpha errs with a probability of at most alpha.
    The adjusted E is the least mean over all sets that it belongs to: the other members are the
    smallest. Raises ValueError for NaN.
    """
    _check_logs(logs)
    order = sorted(range(len(logs)), key=lambda i: logs[i])
    corrected = [0.0] * len(logs)
    for place, i in enumerate(order):
        least = logs[i]
        for size in range(1, place + 1):
            others = [logs[j] for j in order[:size]]
            least = min(least, log_sum([logs[i], *others]) - math.log(size + 1))
        corrected[i] = least
    return corrected


def discoveries(logs: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses e-BH rejects at the false discovery rate alpha, from their ln E.

    The k largest, for the largest k whose smallest E is at least K/(k alpha). Raises ValueError
    for NaN and unless 0 < alpha < 1.
    """
    _check_alpha(alpha)
    _check_logs(logs)
    order = sorted(range(len(logs)), key=lambda i: -logs[i])
    rejected = [False] * len(logs)
    for k in range(len(logs), 0, -1):
        if logs[order[k - 1]] >= math.log(len(logs) / (k * alpha)):
            for i in order[:k]:
                rejected[i] = True
            break
    return rejected


def coverage_alpha(alpha: float, found: int, tested: int) -> float:
    """The alpha of the confidence sequences of `found` discoveries among `tested` metrics.

    On average at most alpha of those intervals leave out the truth. Raises ValueError unless
    1 <= found <= tested.
    """
    _check_alpha(alpha)
    if not 1 <= found <= tested:
        raise ValueError(f"{found} discoveries of {tested} metrics cannot be")
    return alpha * found / tested


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, not {alpha}")


def _check_logs(logs: Sequence[float]) -> None:
    for value in logs:
        if math.isnan(value):
            raise ValueError("evidence is a number, not NaN")
