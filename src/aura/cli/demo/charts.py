"""The report's plots, each from what was recorded. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aura.cli.demo.figures import (
    Curve,
    Release,
    Story,
    during_main,
    evidence_curves,
    latencies,
    quantile,
)
from aura.cli.demo.model import GOOD, LEGACY
from aura.cli.demo.plots import Axis, Frame, Point, legend, plot, stacked

ARMS = (
    ("legacy", LEGACY, "legacy service"),
    ("v200", GOOD, "2.0.0"),
    ("v210", "research@2.1.0", "2.1.0"),
    ("v220", "research@2.2.0", "2.2.0"),
)
"""(class, arm, name) in the order in which they are stacked."""

WINDOW = 2.0
"""Seconds over which shares are counted."""

EVERY = 0.5
EDGE = 0.8
"""From this part of the width on, labels stand on the left of what they name."""

LOWEST_MS, HIGHEST_MS = 4.0, 4_000.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the axis (seconds since the beginning) that is marked, with its class, and in
    which row above the plot: neighbours must not cover each other."""

    at: float
    text: str
    class_: str = ""
    row: str = "top high"


def arms_seen(story: Story) -> list[tuple[str, str, str]]:
    """The arms that had requests."""
    seen = {one.arm for one in story.observations if not one.shadow}
    return [arm for arm in ARMS if arm[1] in seen]


def arm_legend(story: Story) -> str:
    """The colours of the arms."""
    return legend((class_, name) for class_, _, name in arms_seen(story))


# -- traffic over time ---------------------------------------------------------------------------


def traffic(story: Story) -> str:
    """Which share of the requests went to which arm, as stacked surfaces over time."""
    frame = Frame(_time_axis(story), Axis(0, 100, unit=" %"))
    times, shares = shares_over_time(story)
    layers = [
        (class_, f"{name}: share of the requests", shares[arm])
        for class_, arm, name in arms_seen(story)
    ]
    shapes = stacked(frame, times, layers)
    labels = []
    for moment in stage_moments(story):
        shapes.append(frame.upright(moment.at, "stage"))
    for middle, name in stage_names(story):
        labels.append(frame.label((middle, 100), name, "top narrow"))
    for moment in marks(story):
        shapes.append(frame.upright(moment.at, f"mark {moment.class_}"))
        labels.append(frame.label((moment.at, 100), moment.text, _mark(frame, moment)))
    return plot(frame, shapes, labels, name="Shares of the requests by arm over time")


def shares_over_time(story: Story) -> tuple[list[float], dict[str, list[float]]]:
    """Times (seconds since the beginning) and for each arm its share in percent then."""
    sent = [
        (one.at - one.latency - story.began, one.arm)
        for one in story.observations
        if not one.shadow
    ]
    if not sent:
        return [], {}
    first, last = min(sent)[0], max(sent)[0]
    times, counts = [], []
    for number in range(math.ceil((last - first) / EVERY) + 1):
        at = first + number * EVERY
        near = [arm for time, arm in sent if abs(time - at) <= WINDOW / 2]
        if near:
            times.append(at)
            counts.append(near)
    arms = {arm for _, arm in sent}
    return times, {arm: [100 * near.count(arm) / len(near) for near in counts] for arm in arms}


def stage_moments(story: Story) -> list[Moment]:
    """When stages of the first rollout ended."""
    if story.main is None:
        return []
    return [Moment(at, name) for at, _, name in _stages(story.main, story.began)]


def stage_names(story: Story) -> list[tuple[float, str]]:
    """The middle of each stage of the first rollout, and its name; the shortest go without."""
    if story.main is None:
        return []
    whole = story.ended - story.began
    return [
        ((began + at) / 2, name)
        for at, began, name in _stages(story.main, story.began)
        if at - began > whole / 30
    ]


def _stages(release: Release, zero: float) -> list[tuple[float, float, str]]:
    """(end, beginning, name) of each stage that was passed, in seconds since `zero`."""
    found = []
    began = release.status.history[0].at
    ends = [e for e in release.status.history[1:] if e.what in ("advance", "complete", "rollback")]
    for stage, event in zip(release.status.stages, ends, strict=False):
        found.append((event.at - zero, began - zero, stage.name))
        began = event.at
    return found


def marks(story: Story) -> list[Moment]:
    """The kill and the trips."""
    found = []
    if story.killed_at is not None:
        found.append(Moment(story.killed_at - story.began, "SIGKILL", "crash"))
    ways = (("v210", "top"), ("v220", "top high"))
    for (class_, row), release in zip(ways, story.canaries, strict=False):
        last = release.status.history[-1]
        if last.since:
            version = release.status.candidate.partition("@")[2]
            found.append(Moment(last.since - story.began, f"{version} trips", class_, row))
    return found


# -- latencies -------------------------------------------------------------------------------------


def every_request(story: Story) -> str:
    """Each request as its user felt it: a dot at its time and latency, coloured by who answered."""
    frame = Frame(_time_axis(story), Axis(LOWEST_MS, HIGHEST_MS, log=True, unit=" ms"))
    shapes = []
    for class_, arm, _ in ARMS:
        points = [
            (one.at - story.began, max(LOWEST_MS, one.seconds * 1000))
            for one in story.exchanges
            if one.arm == arm
        ]
        shapes.append(frame.dots(points, class_))
    labels = []
    for moment in marks(story):
        shapes.append(frame.upright(moment.at, f"mark {moment.class_}"))
        labels.append(frame.label((moment.at, HIGHEST_MS), moment.text, _mark(frame, moment)))
    return plot(frame, shapes, labels, name="Latency of every request over time")


def quantiles(story: Story) -> str:
    """Latency of legacy and new over the share of requests that were no slower."""
    observations = during_main(story)
    frame = Frame(Axis(0, 100, unit=" %"), Axis(LOWEST_MS, HIGHEST_MS, log=True, unit=" ms"))
    shapes, labels = [], []
    for class_, arm in (("legacy", LEGACY), ("v200", GOOD)):
        values = latencies(observations, arm)
        if not values:
            continue
        points: list[Point] = [
            (float(percent), _ms(values, percent / 100)) for percent in range(100)
        ]
        shapes.append(frame.line(points, class_))
        for percent in (50, 95):
            value = _ms(values, percent / 100)
            side = " before" if percent > 100 * EDGE else ""
            shapes.append(frame.dots([(percent, value)], class_))
            labels.append(
                frame.label((percent, value), f"p{percent} {value:.0f} ms", f"value {class_}{side}")
            )
    return plot(frame, shapes, labels, name="Latency quantiles of the legacy service and of 2.0.0")


def _ms(values: Sequence[float], q: float) -> float:
    return max(LOWEST_MS, (quantile(values, q) or 0.0) * 1000)


# -- evidence --------------------------------------------------------------------------------------


def evidence(story: Story, release: Release) -> str:
    """The guards' evidence against a release over its time on the air, up to the trip."""
    curves = evidence_curves(release, story.observations)
    began = release.status.history[0].at
    last = release.status.history[-1]
    peak = max((value for curve in curves for _, value in curve.points), default=1.0)
    limit = max((curve.limit for curve in curves), default=1.0)
    high = 10.0 ** math.ceil(math.log10(max(peak, limit * 5)))
    end = max(0.1, (last.since or last.at) - began) * 1.06
    frame = Frame(Axis(0, end, unit=" s"), Axis(0.1, min(high, 1e8), log=True))
    lines = [frame.line(_since(curve, began, end), curve.guard, steps=True) for curve in curves]
    shapes = [frame.level(limit, "limit"), *lines]
    labels = [frame.label((0, limit), f"trips at {limit:.0f}", "limit over")]
    if last.since:
        shapes.append(frame.upright(last.since - began, "mark crash"))
        labels.append(frame.label((last.since - began, frame.y.high), "trip", "top strong crash"))
    name = f"Evidence against {release.status.candidate} over time, on a logarithmic scale"
    return plot(frame, shapes, labels, name=name) + legend(
        (curve.guard, f"guard {curve.guard}") for curve in curves
    )


def _since(curve: Curve, began: float, end: float) -> list[Point]:
    """The curve from 1 at the beginning up to `end`, in seconds since the beginning."""
    inside = [(at - began, value) for at, value in curve.points if at - began <= end]
    return [(0.0, 1.0), *inside, (end, inside[-1][1] if inside else 1.0)]


def _mark(frame: Frame, moment: Moment) -> str:
    """The classes of a mark's label; at the right end it stands before its line."""
    side = " before" if frame.x.at(moment.at) > EDGE else ""
    return f"{moment.row} strong {moment.class_}{side}"


def _time_axis(story: Story) -> Axis:
    last = max((one.at for one in story.exchanges), default=story.ended)
    return Axis(0, max(1.0, last - story.began), unit=" s")
