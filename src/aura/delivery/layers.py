"""Layers: which experiments a unit can be in. Pure.

Experiments of one layer share one hash space of 10,000 places and own disjoint ranges of it, so
no unit is in two of them. A hold-out is a share of all units, the same for all layers, that is in
no experiment.

    layer "checkout"   0                                                              9999
                       |  copy  |     prices      | free |  copy  |        free         |

A range belongs to its experiment until that has ended; nobody else's range is ever moved, so a
unit stays where it is when another experiment of the layer begins or ends. A place in a layer says
only whether a unit takes part; on which arm it is then is decided by the split's own hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from aura.errors import LayerError
from aura.stats.hashing import BUCKETS, growthbook_bucket

Range = tuple[int, int]
"""Places from the first number to before the second one, 0 to 10,000."""

HOLDOUT_SEED = "aura/holdout/"


@dataclass(frozen=True, slots=True)
class Gate:
    """Who takes part: units whose place under `seed` is in one of the ranges and who are not in
    the hold-out. `holdout` is in places."""

    seed: str
    ranges: tuple[Range, ...] = ((0, BUCKETS),)
    holdout: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.holdout <= BUCKETS:
            raise LayerError(f"a hold-out has {self.holdout} of {BUCKETS} places")
        end = 0
        for low, high in self.ranges:
            if not end <= low < high <= BUCKETS:
                raise LayerError(
                    f"the range {low} to {high} of {self.seed} overlaps or is out of order"
                )
            end = high

    def admits(self, unit: str) -> bool:
        """Whether the unit takes part; the same in every process."""
        if held_out(unit, self.holdout):
            return False
        place = growthbook_bucket(self.seed, unit)
        return any(low <= place < high for low, high in self.ranges)

    @property
    def share(self) -> float:
        """The share of units that take part, 0.0 to 1.0."""
        return size_of(self.ranges) / BUCKETS * (1 - self.holdout / BUCKETS)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "seed": self.seed,
            "ranges": [list(one) for one in self.ranges],
            "holdout": self.holdout,
        }

    @classmethod
    def read(cls, body: Any) -> Gate:
        """What `plain` gave. Raises ValueError, TypeError, KeyError or LayerError."""
        ranges = tuple((int(low), int(high)) for low, high in body["ranges"])
        return cls(str(body["seed"]), ranges, int(body["holdout"]))


def held_out(unit: str, places: int) -> bool:
    """Whether the unit is in a hold-out of so many places, of 10,000."""
    return places > 0 and growthbook_bucket(HOLDOUT_SEED, unit) < places


def size_of(ranges: Iterable[Range]) -> int:
    """How many places the ranges have."""
    return sum(high - low for low, high in ranges)


@dataclass(frozen=True, slots=True)
class Tenant:
    """An experiment in a layer: its run, its name and its ranges."""

    run: str
    experiment: str
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """Who owns which places of a layer. Raises LayerError when two own the same one."""

    name: str
    tenants: tuple[Tenant, ...] = ()

    def __post_init__(self) -> None:
        end, before = 0, ""
        for (low, high), who in sorted((r, t.experiment) for t in self.tenants for r in t.ranges):
            if low < end:
                raise LayerError(f"experiments {before} and {who} overlap in layer {self.name}")
            if not low < high <= BUCKETS:
                raise LayerError(f"the range {low} to {high} of layer {self.name} is none")
            end, before = high, who

    @property
    def seed(self) -> str:
        """What the layer's hash begins with; it never changes."""
        return f"aura/layer/{self.name}/"

    @property
    def free(self) -> tuple[Range, ...]:
        """The ranges that nobody owns, in order."""
        taken = sorted(one for tenant in self.tenants for one in tenant.ranges)
        edges = [(0, 0), *taken, (BUCKETS, BUCKETS)]
        return tuple((left[1], right[0]) for left, right in pairwise(edges) if left[1] < right[0])

    def of(self, run: str) -> Tenant | None:
        """What the run owns, None for nothing."""
        return next((tenant for tenant in self.tenants if tenant.run == run), None)

    def admit(self, run: str, experiment: str, share: float, start: float | None = None) -> Layer:
        """The layer in which the run owns a `share` (0.0 to 1.0) of the places: those that begin at
        `start`, or the first that are free. Once it has some it keeps them.

        Raises LayerError when there are not as many, or others own some of those asked for.
        """
        if self.of(run) is not None:
            return self
        wanted = round(share * BUCKETS)
        if wanted < 1:
            raise LayerError(
                f"experiment {experiment} wants no place of layer {self.name}",
                hint="Give it a share of 0.01% or more",
            )
        if start is not None:
            ranges = self._at(experiment, round(start * BUCKETS), wanted)
        else:
            ranges = self._first(experiment, wanted)
        return replace(self, tenants=(*self.tenants, Tenant(run, experiment, ranges)))

    def release(self, run: str) -> Layer:
        """The layer in which the run owns nothing any more."""
        return replace(self, tenants=tuple(t for t in self.tenants if t.run != run))

    def to_json(self) -> bytes:
        """Compact JSON; the same layer gives the same bytes."""
        tenants = [[t.run, t.experiment, [list(r) for r in t.ranges]] for t in self.tenants]
        body = {"name": self.name, "tenants": tenants}
        return json.dumps(body, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Layer:
        """Read what `to_json` wrote. Raises LayerError."""
        try:
            body: Any = json.loads(data)
            tenants = tuple(
                Tenant(str(run), str(name), tuple((int(low), int(high)) for low, high in ranges))
                for run, name, ranges in body["tenants"]
            )
            return cls(str(body["name"]), tenants)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LayerError(
                f"a stored layer cannot be read: {type(error).__name__}: {error}",
                hint="It was not written by this version of Aura",
            ) from error

    def _first(self, experiment: str, wanted: int) -> tuple[Range, ...]:
        left, found = wanted, []
        for low, high in self.free:
            taken = min(left, high - low)
            found.append((low, low + taken))
            left -= taken
            if not left:
                return tuple(found)
        raise LayerError(
            f"layer {self.name} is full: experiment {experiment} wants {_percent(wanted)}, "
            f"{_percent(wanted - left)} is free",
            hint=f"Lower its share, or end one of {self._names() or 'its experiments'} first",
        )

    def _at(self, experiment: str, low: int, wanted: int) -> tuple[Range, ...]:
        high = low + wanted
        if high > BUCKETS:
            raise LayerError(
                f"experiment {experiment} wants {_percent(wanted)} of layer {self.name} from "
                f"{_percent(low)} on, which is beyond its end",
                hint="Lower `from` or the share",
            )
        for tenant in self.tenants:
            if any(low < end and begin < high for begin, end in tenant.ranges):
                shown = " and ".join(
                    f"{_percent(begin)} to {_percent(end)}" for begin, end in tenant.ranges
                )
                raise LayerError(
                    f"experiment {experiment} wants {_percent(low)} to {_percent(high)} of layer "
                    f"{self.name}, of which experiment {tenant.experiment} has {shown}",
                    hint="Leave `from` out, and it gets places that are free",
                )
        return ((low, high),)

    def _names(self) -> str:
        return ", ".join(tenant.experiment for tenant in self.tenants)


def _percent(places: int) -> str:
    return f"{places / BUCKETS * 100:g} %"
