"""Charts as SVG text. Pure.

Colours are CSS variables and sizes of text follow the width of the box that a chart stands in
(static/delivery.css), so a chart is light or dark, wide or narrow with the page and is drawn once.
Whatever comes from a database is escaped. Each chart says in its title and description what it
shows, for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from aura.delivery.report import elapsed
from aura.spans import span

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 26, 40
LEAST_EVIDENCE = 1e-3
"""Evidence below this is drawn there: it only says that nothing speaks against the candidate."""

MOST_EVIDENCE = 1e9


@dataclass(frozen=True, slots=True)
class Bucket:
    """So many requests took that long, in seconds: more than `low`, at most `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Hill:
    """The latencies of one arm, shortest first."""

    arm: str
    buckets: Sequence[Bucket]

    @property
    def count(self) -> int:
        """How many requests these are."""
        return sum(one.count for one in self.buckets)

    def quantile(self, part: float) -> float:
        """The latency that this part of the requests does not exceed, as far as the buckets tell.
        There must be some."""
        rank = part * self.count
        for one in self.buckets:
            if one.count >= rank:
                way = rank / one.count
                return float(one.low * (one.high / one.low) ** way) if one.low > 0 else one.high
            rank -= one.count
        return self.buckets[-1].high


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places on the drawing."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value, held inside the drawing."""
        part = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.begin + min(1.0, max(0.0, part)) * (self.end - self.begin)


def evidence(
    name: str,
    points: Sequence[tuple[float, float]],
    limit: float,
    marks: Sequence[tuple[float, str]] = (),
    *,
    end: str = "now",
) -> str:
    """An e-process over time against the limit at which it trips, on a logarithmic axis.

    `points` are (epoch seconds, e-value) in order of time, `marks` the times at which a stage
    began, with its name; `end` is what the last point's time is called.
    """
    if len(points) < 2:
        return nothing("No evidence yet: it is drawn from the first requests on.")
    low, high = _decades([value for _, value in points], limit)
    x = _Axis(points[0][0], points[-1][0], LEFT, WIDTH - RIGHT)
    y = _Axis(low, high, HEIGHT - BOTTOM, TOP)
    last = points[-1][1]
    tripped = any(value >= limit for _, value in points)
    said = f"Evidence now {number(last)}, trips at {number(limit)}" + (
        "; it has tripped" if tripped else ""
    )
    at_limit = y.at(math.log10(limit))
    places = [(x.at(at), y.at(_log(value))) for at, value in points]
    parts = [
        *_decade_lines(y, low, high),
        _rect("danger", LEFT, TOP, WIDTH - LEFT - RIGHT, at_limit - TOP),
        *_stage_marks(x, marks),
        *_time_labels(points[-1][0] - points[0][0], end),
        _area("under", places, HEIGHT - BOTTOM),
        _line("line", places),
        f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_limit:.1f}" '
        f'y2="{at_limit:.1f}"/>',
        _text(WIDTH - RIGHT, at_limit - 6, f"trips at {number(limit)}", "end", "limit-text"),
        f'<circle class="dot" cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="4"/>',
    ]
    kind = "evidence tripped" if tripped else "evidence"
    return _svg(kind, f"Guard {name}: evidence over time", said, parts)


def latencies(hills: Sequence[Hill], sla: float | None = None) -> str:
    """How long the requests of two arms took, on a logarithmic axis: the baseline first. Heights
    are parts of each arm's own requests, so that a small share can be compared with a large one;
    `sla` is in seconds."""
    hills = [hill for hill in hills if hill.count]
    if not hills:
        return nothing("No requests yet: latencies are drawn from the first ones on.")
    x = _latency_axis(hills, sla)
    most = max(one.count / hill.count for hill in hills for one in hill.buckets)
    y = _Axis(0.0, most * 1.08, HEIGHT - BOTTOM, TOP)
    parts = [*_latency_lines(x), _line("axis", _ends(y.at(0.0)))]
    for index, hill in enumerate(hills):
        parts += _hill(index, hill, x, y)
    if sla is not None:
        parts += _sla(sla, x)
    said = "; ".join(
        f"{hill.arm}: half within {span(hill.quantile(0.5))}, 95 % within "
        f"{span(hill.quantile(0.95))}, {hill.count:,} requests"
        for hill in hills
    )
    return _svg("latencies", "Latencies of both arms", said, parts)


def sparkline(name: str, values: Sequence[float]) -> str:
    """A few numbers as a small line, the newest on the right, from 0 up."""
    if len(values) < 2:
        values = [*(values or [0.0]), *(values or [0.0])]
    x = _Axis(0, len(values) - 1, 0, 100)
    y = _Axis(0.0, max(values) or 1.0, 26, 2)
    places = [(x.at(index), y.at(value)) for index, value in enumerate(values)]
    told = escape(f"{name}: now {number(values[-1])}, at most {number(max(values))}")
    return (
        f'<svg class="spark" viewBox="0 0 100 28" preserveAspectRatio="none" role="img" '
        f'aria-label="{told}"><title>{told}</title>{_area("under", places, 28)}'
        f"{_line('line', places)}</svg>"
    )


def nothing(sentence: str) -> str:
    """In the place of a chart that has nothing to show."""
    return f'<p class="aura-empty-chart">{escape(sentence)}</p>'


def number(value: float) -> str:
    """A number with at most three digits, or a power of ten."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    if value and not 1e-3 <= abs(value) < 1e6:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10.0**exponent:.1f}·10{str(exponent).translate(_RAISED)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# -- evidence ------------------------------------------------------------------------------------


def _log(value: float) -> float:
    return math.log10(min(MOST_EVIDENCE, max(LEAST_EVIDENCE, value)))  # NaN is the least


def _decades(values: Sequence[float], limit: float) -> tuple[float, float]:
    """The powers of ten between which everything lies, the limit well inside."""
    low = math.floor(min(-1.0, *map(_log, values)))
    high = math.ceil(max(math.log10(limit) + 0.4, *(_log(value) + 0.1 for value in values)))
    return low, high


def _decade_lines(y: _Axis, low: float, high: float) -> Iterator[str]:
    step = max(1, math.ceil((high - low) / 6))
    for power in range(int(low), int(high) + 1, step):
        place = y.at(power)
        yield _line("grid", _ends(place))
        told = str(10**power) if 0 <= power <= 3 else f"10{str(power).translate(_RAISED)}"
        told = f"{10.0**power:g}" if -2 <= power < 0 else told
        yield _text(LEFT - 8, place + 4, told, "end")


def _rough(seconds: float) -> str:
    """A time in two digits: `elapsed` of it has three."""
    if seconds <= 0:
        return "0 s"
    digits = math.floor(math.log10(seconds)) - 1
    return elapsed(round(seconds, -digits)) if seconds < 60 else elapsed(_whole(seconds))


def _whole(seconds: float) -> float:
    """In whole minutes, hours or days, with a half where there are few."""
    unit = next(size for size in (86400.0, 3600.0, 60.0) if seconds >= size)
    count = seconds / unit
    return unit * (round(count * 2) / 2 if count < 5 else round(count))


def _stage_marks(x: _Axis, marks: Sequence[tuple[float, str]]) -> Iterator[str]:
    shown = [mark for mark in marks if x.low <= mark[0] <= x.high]
    after = -math.inf
    for at, name in shown:
        place = x.at(at)
        yield (
            f'<line class="stage-mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/>'
        )
        short = name if len(name) <= 12 else name[:11] + "…"
        if place - after >= 10 * len(short) and place + 8 * len(short) < WIDTH:
            yield _text(place + 3, TOP - 8, short, "start")
            after = place


def _time_labels(length: float, end: str) -> Iterator[str]:
    for part, anchor, kind in ((0.0, "start", ""), (0.5, "middle", "many"), (1.0, "end", "")):
        place = LEFT + part * (WIDTH - LEFT - RIGHT)
        told = end if part == 1 else f"{_rough((1 - part) * length)} before"
        told = told.replace("before", "ago") if end == "now" else told
        yield _text(place, HEIGHT - 12, told, anchor, kind)


# -- latencies -----------------------------------------------------------------------------------


def _latency_axis(hills: Sequence[Hill], sla: float | None) -> _Axis:
    """Where all requests lie, and the SLA."""
    low = min(hill.buckets[0].low for hill in hills)
    high = max(hill.buckets[-1].high for hill in hills)
    if sla is not None:
        low, high = min(low, sla / 1.3), max(high, sla * 1.3)
    begin, end = math.log10(max(low, 1e-6)), math.log10(max(high, low * 2, 2e-6))
    pad = (end - begin) * 0.04
    return _Axis(begin - pad, end + pad, LEFT, WIDTH - RIGHT)


def _hill(index: int, hill: Hill, x: _Axis, y: _Axis) -> Iterator[str]:
    """Its buckets as steps, and its 95th percentile."""
    places: list[tuple[float, float]] = []
    for one in hill.buckets:
        begin, end = _log_place(x, one.low), _log_place(x, one.high)
        top = y.at(one.count / hill.count)
        if places and begin - places[-1][0] > 0.5:  # empty buckets are left out
            places += [(places[-1][0], y.at(0.0)), (begin, y.at(0.0))]
        places += [(begin, top), (end, top)]
    yield _area(f"hill arm-{index}", places, y.at(0.0))
    found = hill.quantile(0.95)
    place, top = _log_place(x, found), TOP + 24 * index
    yield (
        f'<line class="quantile arm-{index}" x1="{place:.1f}" x2="{place:.1f}" '
        f'y1="{top:.1f}" y2="{y.at(0.0):.1f}"/>'
    )
    anchor, shift = ("end", -4) if place > WIDTH - 140 else ("start", 4)
    yield _text(place + shift, top - 4, f"p95 {span(found)}", anchor, f"arm-{index}")


def _sla(sla: float, x: _Axis) -> Iterator[str]:
    place = _log_place(x, sla)
    yield (
        f'<line class="limit" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    )
    anchor, shift = ("end", -6) if place > WIDTH - 120 else ("start", 6)
    yield _text(place + shift, TOP + 58, f"SLA {span(sla)}", anchor, "limit-text")


def _log_place(x: _Axis, seconds: float) -> float:
    return x.at(math.log10(max(seconds, 1e-6)))


def _latency_lines(x: _Axis) -> Iterator[str]:
    """Lines at 1, 2, 5 times a power of ten, or at the powers only when these are many."""
    wide = x.high - x.low > 2.2
    after = -math.inf
    for power in range(math.floor(x.low), math.ceil(x.high) + 1):
        for factor in (1,) if wide else (1, 2, 5):
            value = power + math.log10(factor)
            if not x.low < value < x.high:
                continue
            place = x.at(value)
            yield (
                f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" '
                f'y2="{HEIGHT - BOTTOM}"/>'
            )
            if place - after >= 62:
                kind = "" if factor == 1 else "many"
                yield _text(place, HEIGHT - 12, span(10**value), "middle", kind)
                after = place


# -- parts ---------------------------------------------------------------------------------------


def _svg(kind: str, title: str, said: str, parts: Sequence[str]) -> str:
    told, described = escape(title), escape(said)
    return (
        f'<div class="chart {kind}"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{told}. {described}"><title>{told}</title><desc>{described}</desc>'
        f"{''.join(parts)}</svg></div>"
    )


def _ends(place: float) -> list[tuple[float, float]]:
    return [(LEFT, place), (WIDTH - RIGHT, place)]


def _line(kind: str, places: Sequence[tuple[float, float]]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{kind}" points="{points}"/>'


def _area(kind: str, places: Sequence[tuple[float, float]], ground: float) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    first, last = places[0][0], places[-1][0]
    return (
        f'<polygon class="{kind}" points="{first:.1f},{ground:.1f} {points} '
        f'{last:.1f},{ground:.1f}"/>'
    )


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{max(0.0, height):.1f}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
