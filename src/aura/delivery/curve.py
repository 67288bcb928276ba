"""How a rollout went over time, for people to look at; nothing is decided by it.

A point is made of a status when it is published: at once at each turn, else the rarer the longer
the rollout lasts. There are at most `MOST_POINTS` of them: when there would be more, every second
one goes, but not those on both sides of a turn. Between two points a value stays what it was at
the first one. Pure; `aura.delivery.curves` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from pydantic import TypeAdapter, ValidationError

from aura.delivery.decide import Status
from aura.delivery.evidence import Tally
from aura.delivery.plan import Plan
from aura.delivery.status import ArmStatus, PairStatus, RolloutStatus
from aura.errors import CodecError

MOST_POINTS = 300
"""A curve has no more points than this."""

LEAST_GAP, GAP_PART = 1.0, 200
"""Between two points without a turn lie so many seconds, or this part of the rollout's time."""

MOST_HISTOGRAMS = 40
"""Of stages and arms; those of the latest stages."""


@dataclass(frozen=True, slots=True)
class Tell:
    """One split at a moment. `evidence` is by guard (e-values); requests and errors count from the
    beginning, of all stages; p95 (milliseconds, None: no data) is that of the present stage."""

    split: str
    evidence: Mapping[str, float]
    candidate_requests: int
    candidate_errors: int
    candidate_p95_ms: float | None
    baseline_requests: int
    baseline_errors: int
    baseline_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """A rollout at a moment (epoch seconds): `weight` is the candidate's share, 0.0 to 1.0."""

    at: float
    state: Status
    stage: str
    weight: float
    splits: tuple[Tell, ...]


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long the requests of one arm took in one stage: (from, to, requests), in milliseconds,
    each bucket about a fifth wider than the one before; empty ones are left out."""

    split: str
    stage: str
    arm: str
    buckets: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A rollout over time, the oldest point first, and the latencies of both arms by stage.
    `limits` are the e-values at which guards trip."""

    run: str
    limits: Mapping[str, float]
    points: tuple[Point, ...] = ()
    latencies: tuple[Latencies, ...] = ()

    def to_json(self) -> bytes:
        """Compact JSON."""
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Curve:
        """Read what `to_json` wrote. Raises CodecError."""
        try:
            return _adapter().validate_json(data)
        except ValidationError as error:
            raise CodecError(
                f"a stored curve cannot be read: {error}",
                hint="It was not written by this version of Aura",
            ) from error


@cache
def _adapter() -> TypeAdapter[Curve]:
    return TypeAdapter(Curve)


def point_of(status: RolloutStatus, at: float) -> Point:
    """A status as a point."""
    told = tuple(_tell(pair, status.stage_index) for pair in status.pairs)
    return Point(round(at, 3), status.state, status.stage, status.weight, told)


def _tell(pair: PairStatus, index: int) -> Tell:
    here = pair.stages[index]
    return Tell(
        pair.split,
        {one.guard: float(f"{one.evidence:.6g}") for one in pair.evidence},
        *_counts([stage.candidate for stage in pair.stages], here.candidate),
        *_counts([stage.baseline for stage in pair.stages], here.baseline),
    )


def _counts(stages: list[ArmStatus], here: ArmStatus) -> tuple[int, int, float | None]:
    return sum(one.requests for one in stages), sum(one.errors for one in stages), here.p95_ms


def is_due(curve: Curve, point: Point) -> bool:
    """Whether the point is to be added: always at a turn, which a clock may put back."""
    if not curve.points:
        return True
    first, last = curve.points[0], curve.points[-1]
    gap = point.at - last.at
    return _turned(last, point) or gap < 0 or gap >= max(LEAST_GAP, (last.at - first.at) / GAP_PART)


def added(curve: Curve, point: Point) -> Curve:
    """The curve with one more point, in order of time."""
    last = curve.points[-1].at if curve.points else point.at
    return replace(curve, points=thinned((*curve.points, replace(point, at=max(point.at, last)))))


def thinned(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """At most `MOST_POINTS` of them: the first, the last, both sides of each turn, and of the
    others as many as there is room for."""
    while len(points) > MOST_POINTS:
        turns = {
            at
            for index, (one, other) in enumerate(pairwise(points))
            if _turned(one, other)
            for at in (index, index + 1)
        }
        if len(turns) > MOST_POINTS // 2:
            turns = set()
        ends = {0, len(points) - 1}
        points = tuple(
            one
            for index, one in enumerate(points)
            if index % 2 == 0 or index in turns or index in ends
        )
    return points


def _turned(one: Point, other: Point) -> bool:
    return (one.state, one.stage, one.weight) != (other.state, other.stage, other.weight)


def latencies_of(
    plan: Plan, status: RolloutStatus, tallies: Sequence[Tally]
) -> tuple[Latencies, ...]:
    """The latencies of both arms in the stages so far, the present one last; `tallies` are those of
    all counts, one for each split."""
    found = []
    for index, tally in ((i, t) for i in range(status.stage_index + 1) for t in tallies):
        stage = plan.stages[index]
        for arm in (tally.pair.baseline, tally.pair.candidate):
            histogram = tally.arm(stage.weight, arm).latencies
            buckets = tuple(
                (float(f"{low * 1000:.4g}"), float(f"{high * 1000:.4g}"), count)
                for low, high, count in histogram.coarse()
            )
            if buckets:
                found.append(Latencies(tally.pair.split, stage.name, arm, buckets))
    return tuple(found[-MOST_HISTOGRAMS:])
