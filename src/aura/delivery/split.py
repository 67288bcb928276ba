"""A split: the sticky weighted choice among arms.

A unit's bucket (0 to 9999; GrowthBook's hash, version 2, unless `Hashing` says otherwise) never
changes while the seed stays the same. The arms own ranges of buckets:

    0                                                                  9999
    | first candidate  ->            baseline             <-  the others |

The first candidate grows upwards from 0. The second one, and what more there are, grow downwards
from the top, one below the other. Raising weights therefore moves units only away from the
baseline: nobody goes back to it. With one or two candidates nobody moves between these either;
with more, those that lie below a raised one shift.

Weights are rounded down to a whole bucket (0.01 %), so `share` is the exact probability.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from aura.delivery.layers import Gate
from aura.errors import LayerError, SplitError
from aura.stats.hashing import BUCKETS, HASHES, STEP, Hash, bucket, growthbook_bucket

T = TypeVar("T")

_UNREADABLE = (AttributeError, ArithmeticError, RecursionError)

ROUNDING = 1e-6
"""In buckets: what binary fractions may lose, so that 0.29 is 2900 buckets and not 2899."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One alternative and its weight, 0.0 to 1.0. Raises SplitError for anything else."""

    name: str
    weight: float

    def __post_init__(self) -> None:
        if not self.name:
            raise SplitError("an arm has an empty name", hint="name the target that it stands for")
        if not 0 <= self.weight <= 1:  # also refuses NaN
            raise SplitError(
                f"the weight of arm {self.name} is {self.weight!r}",
                hint="weights lie between 0 and 1 (0.05 is 5 %)",
            )
        if self.weight > 0 and self.buckets == 0:
            raise SplitError(
                f"the weight of arm {self.name} is {self.weight!r}, below the resolution",
                hint=f"use 0 or at least {1 / BUCKETS:g} (0.01 %)",
            )

    @property
    def buckets(self) -> int:
        """How many of the 10,000 buckets the weight stands for."""
        return math.floor(self.weight * BUCKETS + ROUNDING)


@dataclass(frozen=True, slots=True)
class Hashing:
    """Another system's hash, so that who comes from there keeps its users' places.

    `algorithm` is growthbook, unleash or flagd; `seed` is what that system hashes with the unit
    (GrowthBook's seed, Unleash's group id, flagd's flag key), "" for the split's own seed. The
    system's first variation is to be the first candidate here: both begin at 0. Raises SplitError.
    """

    algorithm: Hash = "growthbook"
    seed: str = ""

    def __post_init__(self) -> None:
        if self.algorithm not in HASHES:
            raise SplitError(f"no hash {self.algorithm!r}", hint=f"use {', '.join(HASHES)}")

    def check(self, arm: Arm) -> None:
        """Raise SplitError when the hash cannot tell the arm's weight exactly."""
        step = STEP[self.algorithm]
        if arm.buckets % step:
            raise SplitError(
                f"the weight of arm {arm.name} is {arm.weight!r}, between two places of "
                f"{self.algorithm}'s hash",
                hint=f"use multiples of {step / BUCKETS:g} ({step / BUCKETS:.0%})",
            )


@dataclass(frozen=True, slots=True)
class Split:
    """Who is sent where. Raises SplitError when the arms cannot be laid out.

    `epoch` grows with each change, and a process obeys the newest epoch it has heard of. `seed`
    stays the same over a plan. The first arm is the baseline and takes what the others leave.
    `mirror` is the arm that gets a copy of requests (shadow), or "", and `sample` the share of
    units, 0.0 to 1.0, whose requests are copied. Units that the `gate` does not admit are on the
    baseline and take no part in what the split is for; shares are those of the others.

    `moving`: a rollout that has not ended moves it, so a process obeys it only as long as it knows
    it to be the newest, and else sends everybody to the baseline. `forced` is the reason for which
    everybody was sent to the baseline until that is released, "" when nobody was.
    """

    name: str
    epoch: int
    seed: str
    arms: tuple[Arm, ...]
    mirror: str = ""
    sample: float = 1.0
    gate: Gate | None = None
    moving: bool = False
    forced: str = ""
    hashing: Hashing = Hashing()

    def __post_init__(self) -> None:
        if not self.arms:
            raise SplitError(f"split {self.name} has no arms", hint="give at least a baseline")
        for arm in self.arms[1:]:
            self.hashing.check(arm)
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SplitError(
                f"split {self.name} has two arms of the name {twice[0]}", hint="rename one"
            )
        total = math.fsum(arm.weight for arm in self.arms)
        if total > 1 + ROUNDING / BUCKETS:
            raise SplitError(
                f"the weights of split {self.name} add up to {total:g}",
                hint="they must not exceed 1; the baseline takes what the others leave",
            )
        if self.mirror and self.mirror not in names[1:]:
            raise SplitError(
                f"split {self.name} mirrors to {self.mirror}",
                hint=f"the mirror is one of its candidates ({', '.join(names[1:]) or 'none'})",
            )
        if not 0 <= self.sample <= 1:
            raise SplitError(
                f"split {self.name} mirrors a share of {self.sample!r}", hint="give 0 to 1"
            )

    @property
    def baseline(self) -> str:
        """The name of the first arm."""
        return self.arms[0].name

    @property
    def mover(self) -> str:
        """The id of the run that moves it, or was the last to; its seed has it."""
        return self.seed.removeprefix(f"{self.name}/")

    def assign(self, unit: str) -> str:
        """The name of the arm that serves this unit."""
        if self.gate is not None and not self.gate.admits(unit):
            return self.baseline
        place = bucket(self.hashing.algorithm, self.hashing.seed or self.seed, unit)
        candidates = self.arms[1:]
        if candidates and place < candidates[0].buckets:
            return candidates[0].name
        lowest = BUCKETS
        for arm in candidates[1:]:
            lowest -= arm.buckets
            if place >= lowest:
                return arm.name
        return self.baseline

    def mirror_for(self, unit: str) -> str:
        """The arm that gets a copy of this unit's requests, or "" for none."""
        if not self.mirror or self.sample >= 1:
            return self.mirror
        inside = growthbook_bucket(f"{self.seed}/mirror/", unit) < self.sample * BUCKETS
        return self.mirror if inside else ""

    def share(self, arm: str) -> float:
        """The exact probability, 0.0 to 1.0, with which a unit is on that arm."""
        taken = 0
        for candidate in self.arms[1:]:
            if candidate.name == arm:
                return candidate.buckets / BUCKETS
            taken += candidate.buckets
        if arm == self.baseline:
            return (BUCKETS - taken) / BUCKETS
        raise self._unknown(arm)

    def at_baseline(self) -> Split:
        """The same epoch with everybody on the baseline and no copies."""
        arms = tuple(Arm(arm.name, float(not at)) for at, arm in enumerate(self.arms))
        return replace(self, arms=arms, mirror="", sample=1.0)

    def with_weights(
        self,
        weights: Mapping[str, float],
        *,
        mirror: str = "",
        sample: float = 1.0,
        moving: bool | None = None,
    ) -> Split:
        """The next epoch: the same arms and seed with these weights.

        Arms that are not named keep theirs; the baseline's is always what the others leave.
        Mirroring ends unless `mirror` is named again. Raises SplitError while it is forced.
        """
        if self.forced:
            raise SplitError(
                f"split {self.name} is forced to its baseline: {self.forced}",
                hint=f"release it first: aura rollback {self.name} --release",
            )
        names = {arm.name for arm in self.arms}
        for name in weights:
            if name not in names:
                raise self._unknown(name)
        if math.fsum(weights.values()) > 1 + ROUNDING / BUCKETS:
            raise SplitError(
                f"the new weights of split {self.name} add up to more than 1: {dict(weights)}",
                hint="the baseline takes what the others leave",
            )
        candidates = tuple(Arm(a.name, weights.get(a.name, a.weight)) for a in self.arms[1:])
        rest = max(0.0, 1 - math.fsum(arm.weight for arm in candidates))
        baseline = Arm(self.baseline, rest if rest * BUCKETS >= 1 - ROUNDING else 0.0)
        arms = (baseline, *candidates)
        moving = self.moving if moving is None else moving
        return replace(
            self, epoch=self.epoch + 1, arms=arms, mirror=mirror, sample=sample, moving=moving
        )

    def to_json(self) -> bytes:
        """Compact JSON; the same split gives the same bytes."""
        body: dict[str, Any] = {
            "name": self.name,
            "epoch": self.epoch,
            "seed": self.seed,
            "arms": [[arm.name, arm.weight] for arm in self.arms],
            "mirror": self.mirror,
            "sample": self.sample,
            **({"moving": True} if self.moving else {}),
            **({"forced": self.forced} if self.forced else {}),
        }
        if self.gate is not None:
            body["gate"] = self.gate.plain()
        if self.hashing != Hashing():
            body["hashing"] = [self.hashing.algorithm, self.hashing.seed]
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Split:
        """Read what `to_json` wrote; unknown keys are ignored. Raises SplitError."""
        try:
            body: Any = json.loads(data)
            return cls(
                name=_typed(body["name"], str),
                epoch=_typed(body["epoch"], int),
                seed=_typed(body["seed"], str),
                arms=tuple(Arm(_typed(n, str), _number(w)) for n, w in body["arms"]),
                mirror=_typed(body.get("mirror", ""), str),
                sample=_number(body.get("sample", 1.0)),
                moving=_typed(body.get("moving", False), bool),
                forced=_typed(body.get("forced", ""), str),
                gate=Gate.read(body["gate"]) if "gate" in body else None,
                hashing=Hashing(*body.get("hashing", ())),
            )
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            LayerError,
        ) as error:
            raise SplitError(
                f"a stored split cannot be read: {type(error).__name__}: {error}",
                hint="it was not written by Split.to_json",
            ) from error

    def _unknown(self, arm: str) -> SplitError:
        known = ", ".join(known.name for known in self.arms)
        return SplitError(f"split {self.name} has no arm {arm!r}", hint=f"its arms are {known}")


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value


def _number(value: Any) -> float:
    return float(value) if type(value) is int else _typed(value, float)
