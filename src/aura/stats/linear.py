"""A reward that depends on a context: Bayesian linear regression, one row at a time.

With the prior N(0, I/ridge) on the coefficients and noise of variance `noise`^2, the belief after
rows x with rewards r is normal with

    A = ridge I + sum x x',   coefficients = A^-1 sum x r,   variance of x' c = noise^2 x' A^-1 x

(Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs", ICML 2013).
A^-1 is kept up to date by the formula of Sherman and Morrison (Annals of Mathematical Statistics
21(1), 1950), so a row costs O(d^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aura.stats.bandit import Normal

MOST_FEATURES = 64
NOISE = 0.5
"""The largest standard deviation that a reward between 0 and 1 can have."""

BIAS = ""
"""The feature that is 1 in every row."""


class Regression:
    """Rows are mappings of feature names to numbers of about -1 to 1; what is not named is 0, and
    features that were never seen before are added. Raises ValueError beyond `MOST_FEATURES`."""

    def __init__(self, *, ridge: float = 1.0, noise: float = NOISE) -> None:
        self.ridge = ridge
        self.noise = noise
        self.rows = 0
        self._places: dict[str, int] = {}
        self._inverse: list[list[float]] = []
        self._sums: list[float] = []
        self._place(BIAS)

    def add(self, context: Mapping[str, float], reward: float) -> None:
        """Take in one row. Raises ValueError for what is not finite."""
        if not math.isfinite(reward):
            raise ValueError(f"a reward is finite, not {reward}")
        row = self._row(context, learn=True)
        product = self._times(row)
        scale = 1 + sum(x * y for x, y in zip(row, product, strict=True))
        for line, left in zip(self._inverse, product, strict=True):
            if left:
                factor = left / scale
                line[:] = [
                    value - factor * right for value, right in zip(line, product, strict=True)
                ]
        self._sums = [total + x * reward for total, x in zip(self._sums, row, strict=True)]
        self.rows += 1

    def belief(self, context: Mapping[str, float]) -> Normal:
        """What is believed of the mean reward in this context. Raises ValueError."""
        row = self._row(context, learn=False)
        product = self._times(row)
        mean = sum(x * y for x, y in zip(product, self._sums, strict=True))
        variance = sum(x * y for x, y in zip(row, product, strict=True))
        strange = sum(value**2 for name, value in context.items() if name not in self._places)
        variance += strange / self.ridge
        return Normal(mean, self.noise * math.sqrt(max(variance, 1e-12)))

    def to_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {
            "features": list(self._places), "inverse": self._inverse, "sums": self._sums,
            "rows": self.rows, "ridge": self.ridge, "noise": self.noise,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Regression:
        """Read what `to_dict` gave. Raises ValueError, KeyError or TypeError for anything else."""
        new = cls(ridge=float(data["ridge"]), noise=float(data["noise"]))
        new._places = {str(name): at for at, name in enumerate(data["features"])}
        new._inverse = [[float(value) for value in line] for line in data["inverse"]]
        new._sums = [float(value) for value in data["sums"]]
        new.rows = int(data["rows"])
        if {len(new._inverse), *map(len, new._inverse)} != {len(new._places)} != {len(new._sums)}:
            raise ValueError("not a regression: its sizes do not fit")
        return new

    def _times(self, row: list[float]) -> list[float]:
        places = [(at, x) for at, x in enumerate(row) if x]
        return [sum(line[at] * x for at, x in places) for line in self._inverse]

    def _row(self, context: Mapping[str, float], *, learn: bool) -> list[float]:
        for name, value in context.items():
            if not math.isfinite(value):
                raise ValueError(f"the feature {name} is {value}, not a finite number")
            if learn:
                self._place(name)
        row = [0.0] * len(self._sums)
        row[0] = 1.0
        for name, value in context.items():
            if name in self._places:
                row[self._places[name]] = value
        return row

    def _place(self, name: str) -> None:
        if name in self._places:
            return
        if len(self._places) >= MOST_FEATURES:
            raise ValueError(f"more than {MOST_FEATURES} features: {name} is one too many")
        self._places[name] = len(self._places)
        for line in self._inverse:
            line.append(0.0)
        self._inverse.append([0.0] * (len(self._places) - 1) + [1 / self.ridge])
        self._sums.append(0.0)
