"""An experiment's report: one HTML file without anything from outside. Pure.

It has the result, the arms, the sample-ratio check, a table of all comparisons, and for each metric
and candidate the confidence sequence over time, drawn as SVG. It follows the reader's light or dark
mode, needs no script, and escapes whatever comes from a database.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from aura.delivery.analysis import Comparison, Point
from aura.delivery.experiment_status import ExperimentStatus
from aura.stats.hashing import BUCKETS

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 12, 36

STYLE = """
:root { color-scheme: light dark; --ink: #1a1c1e; --dim: #5d6470; --line: #d5d9df; --page: #ffffff;
  --band: #2f6fde; --good: #14793c; --bad: #b3261e; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --dim: #9aa3ad; --line: #3a4048;
  --page: #15181b; --band: #7aa7ff; --good: #5fd08a; --bad: #ff8a80; --card: #1e2226; } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1rem 0 .25rem; font-weight: 600; }
p.reason { margin: .25rem 0 1rem; } .dim { color: var(--dim); }
.state { border: 1px solid currentColor; border-radius: 1em; padding: 0 .6em; font-size: .85rem; }
.better, .won { color: var(--good); } .worse, .harmed, .invalid { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; color: var(--dim); } td.text, th.text { text-align: left; }
.alarm { background: var(--card); border-left: 4px solid var(--bad); padding: .5rem .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); padding: .75rem; border-radius: 8px; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--dim); font-size: 12px; }
.band { fill: var(--band); opacity: .22; }
.mid { stroke: var(--band); stroke-width: 2; fill: none; }
.zero { stroke: var(--ink); stroke-width: 1.2; } .grid { stroke: var(--line); stroke-width: 1; }
"""


def html(status: ExperimentStatus) -> str:
    """The report of an experiment, as the text of a page."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Experiment {escape(status.name)}</title><style>{STYLE}</style></head><body>",
        *_head(status),
        *_arms(status),
        *_table(status),
        *_plots(status),
        *_guards(status),
        *_counters(status),
        *_history(status),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def moment(at: float) -> str:
    """A time in UTC, to the second; – for none."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at > 0 else "–"


def shown(value: float | None, *, signed: bool = False) -> str:
    """A number with four digits; – for none."""
    if value is None:
        return "–"
    return f"{value:+.4g}" if signed else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A relative difference; – for none."""
    return "–" if value is None else f"{value * 100:+.3g} %"


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval; – while there is none."""
    return "–" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"


def _head(status: ExperimentStatus) -> Iterator[str]:
    experiment = status.experiment
    yield (
        f"<h1>{escape(status.name)} "
        f'<span class="state {status.state}">{escape(status.state)}</span></h1>'
    )
    yield f'<p class="reason">{escape(status.reason)}</p>'
    if status.ratio is not None and status.ratio.tripped:
        yield (
            '<p class="alarm">The sample-ratio check has failed: units get lost on the way, so '
            "nothing below can be believed.</p>"
        )
    where = f"layer {escape(experiment.layer)}, " if experiment.layer else ""
    places = sum(high - low for low, high in status.ranges) or BUCKETS
    yield (
        f'<p class="dim">split {escape(status.split)}, {where}{places / BUCKETS:.2%} of units, '
        f"hold-out {status.holdout / BUCKETS:.2%}; began {moment(status.began)} UTC, "
        f"seen {moment(status.looked)} UTC; unit: {escape(experiment.unit)}; "
        f"alpha {experiment.alpha:g}</p>"
    )


def _arms(status: ExperimentStatus) -> Iterator[str]:
    ratio = status.ratio
    yield "<h2>Arms</h2>"
    rows = []
    for index, (name, weight) in enumerate(status.experiment.arms):
        note = "baseline" if index == 0 else ""
        note = "winner" if name == status.winner else "dropped" if name in status.dropped else note
        rows.append(
            (
                name, note, f"{weight:.2%}", f"{status.weights.get(name, 0.0):.2%}",
                f"{ratio.units.get(name, 0):,}" if ratio else "–",
                f"{ratio.expected.get(name, 0.0):,.1f}" if ratio else "–",
            )
        )  # fmt: skip
    yield from _rows(("!arm", "!", "weight", "share now", "units", "expected"), rows)
    if ratio is not None:
        verdict = "wrong" if ratio.tripped else "as it should be"
        yield (
            f'<p class="dim">Sample ratio: {verdict} (evidence {ratio.evidence:.3g}, trips at '
            f"{ratio.limit:g}).</p>"
        )


def _table(status: ExperimentStatus) -> Iterator[str]:
    yield "<h2>Metrics</h2>"
    rows = [
        (
            one.metric + ("" if index else " (primary)"), one.arm,
            f"{one.units:,} / {one.baseline_units:,}", shown(one.mean), shown(one.baseline_mean),
            shown(one.difference, signed=True), interval(one.low, one.high), percent(one.relative),
            f"{one.p:.3g}", f"{one.reduction:.0%}", one.verdict,
        )
        for index, one in enumerate(status.comparisons)
    ]  # fmt: skip
    columns = (
        *("!metric", "!arm", "units / baseline", "mean", "baseline", "difference", "interval"),
        *("relative", "p", "variance removed", "!verdict"),
    )
    yield from _rows(columns, rows)
    yield (
        '<p class="dim">Intervals hold at all times at once; those of the primary metric have '
        "together the error probability alpha, and so have those of the secondary metrics. p is "
        "corrected the same way. Means are of units, corrected by what they did before.</p>"
    )


def _plots(status: ExperimentStatus) -> Iterator[str]:
    metrics = {metric.name: metric for metric in status.experiment.metrics}
    yield '<h2>Confidence sequences over time</h2><div class="plots">'
    for number, one in enumerate(status.comparisons):
        metric = metrics[one.metric]
        better = "higher is better" if metric.sign > 0 else "lower is better"
        yield (
            f"<figure><h3>{escape(one.metric)}: {escape(one.arm)} − "
            f'{escape(status.experiment.baseline)} <span class="dim">({better})</span></h3>'
            f"{plot(one, status.began, number)}</figure>"
        )
    yield "</div>"


def plot(one: Comparison, began: float, number: int = 0) -> str:
    """The confidence sequence of one comparison as SVG, the page's drawing of that `number`; the
    horizontal line is no difference, `began` is in epoch seconds."""
    points = [point for point in one.points if point.low is not None and point.high is not None]
    if len(points) < 2:
        return '<p class="dim">Not enough units with a final value yet.</p>'
    frame = _Frame(points, began)
    upper = [frame.at(point.at, point.high or 0.0) for point in points]
    lower = [frame.at(point.at, point.low or 0.0) for point in reversed(points)]
    middle = [frame.at(point.at, point.difference) for point in points]
    name = f"{one.metric}: {one.arm}, difference {interval(one.low, one.high)}"
    mark = f"clip-{number}"
    inner = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">',
            f"<title>{escape(name)}</title>",
            f'<clipPath id="{mark}"><rect {inner}/></clipPath>',
            *frame.axes(),
            f'<g clip-path="url(#{mark})">',
            f'<polygon class="band" points="{" ".join((*upper, *lower))}"/>',
            f'<polyline class="mid" points="{" ".join(middle)}"/></g>',
            frame.zero(),
            "</svg>",
        ]
    )


class _Frame:
    """Where times and differences are on the drawing, from the first look on. Early, wide bounds do
    not set its scale."""

    def __init__(self, points: Sequence[Point], began: float) -> None:
        self._first = points[0].at
        self._before = max(0.0, self._first - began)
        self._last = max(points[-1].at, self._first + 0.001)
        late = points[len(points) // 3 :]
        low = min(0.0, *(point.low or 0.0 for point in late))
        high = max(0.0, *(point.high or 0.0 for point in late))
        pad = (high - low) * 0.08 or 1.0
        self.low, self.high = low - pad, high + pad

    def at(self, at: float, value: float) -> str:
        """Both coordinates of a point."""
        part = (at - self._first) / (self._last - self._first)
        x = LEFT + part * (WIDTH - LEFT - RIGHT)
        far = 3 * (self.high - self.low)
        return f"{x:.1f},{self._y(max(self.low - far, min(self.high + far, value))):.1f}"

    def _y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> Iterator[str]:
        """Lines at round differences, and how much time had gone by."""
        step = _round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step)
        for number in range(first, math.floor(self.high / step) + 1):
            y = self._y(number * step)
            yield (
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:.4g}</text>'
            )
        for part, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            x = LEFT + part * (WIDTH - LEFT - RIGHT)
            text = elapsed(self._before + part * (self._last - self._first))
            yield f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{text}</text>'

    def zero(self) -> str:
        """The line of no difference."""
        y = self._y(0.0)
        return (
            f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke-dasharray="4 3"/>'
        )


def elapsed(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _round_step(rough: float) -> float:
    """The next larger one of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _guards(status: ExperimentStatus) -> Iterator[str]:
    rows = [
        (arm, one.guard, one.verdict, f"{one.evidence:.3g}", f"{one.limit:g}", one.reason)
        for arm, found in (status.guards or {}).items()
        for one in found
    ]
    if rows:
        yield "<h2>Guards</h2>"
        columns = ("!arm", "!guard", "!verdict", "evidence", "trips at", "!reason")
        yield from _rows(columns, rows)


def _counters(status: ExperimentStatus) -> Iterator[str]:
    yield f'<h2>Counts</h2><p class="dim">{escape("; ".join(counted(status)))}</p>'


def counted(status: ExperimentStatus) -> list[str]:
    """What was counted and what was left out, in words; what has not happened is not said."""
    found = status.counters
    if found is None:
        return ["nothing was seen yet"]
    said = [
        (found.requests, "requests of units that take part"),
        (found.outside, "requests of others"),
        (found.keyless, "requests without a key for the unit"),
        (found.strays, "requests served by another arm than the unit's"),
        (found.rewards, "rewards counted"),
        (found.late_rewards, "rewards after the horizon"),
        (found.unmatched, "rewards of units that have made no request"),
        (found.unknown_rewards, "rewards of metrics that it does not have"),
        (found.refused, "observations and rewards refused"),
    ]
    lines = [f"{count:,} {what}" for count, what in said if count]
    never = [name for name, count in (found.arrived or {}).items() if not count]
    return [*(lines or ["nothing was seen yet"]), *(f"{name} has never arrived" for name in never)]


def _history(status: ExperimentStatus) -> Iterator[str]:
    yield "<h2>History</h2>"
    rows = [(moment(one.at), one.what, one.by, one.reason) for one in status.history]
    yield from _rows(("!when (UTC)", "!what", "!by", "!why"), rows)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table; a column whose name begins with ! is text."""
    kinds = [' class="text"' if name.startswith("!") else "" for name in columns]
    heads = "".join(
        f"<th{kind}>{escape(name.lstrip('!'))}</th>"
        for kind, name in zip(kinds, columns, strict=True)
    )
    yield f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>'
    for row in rows:
        cells = "".join(
            f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)
        )
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table></div>"
