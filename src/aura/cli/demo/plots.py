"""Plots as HTML: shapes in an SVG that stretches with the page, letters in HTML that do not. Pure.

Everything inside a plot lies in a square of 1000 by 1000, whatever its size on the screen; lines
keep their width (`non-scaling-stroke`). Labels are positioned in percent beside it, so that they
are as large on a telephone as on a desk.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SIDE = 1000.0
Point = tuple[float, float]


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element. `class_` stands for class; `_` in other names for a hyphen."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{text}>{''.join(inside)}</{name}>"


def escape(text: object) -> str:
    """Text that cannot become markup."""
    return html.escape(str(text))


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high` on a line of 0 to 1; logarithmic when `log` (then low > 0)."""

    low: float
    high: float
    log: bool = False
    unit: str = ""

    def at(self, value: float) -> float:
        """Where a value lies; values outside are at the ends."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        if high <= low:
            return 0.0
        inside = min(max(value, self.low), self.high)
        return (self._scaled(inside) - low) / (high - low)

    def ticks(self, about: int = 6) -> list[tuple[float, str]]:
        """Round values with their labels: (place of 0 to 1, label)."""
        values = self._powers(about) if self.log else self._steps(about)
        return [(self.at(value), f"{short(value)}{self.unit}") for value in values]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _steps(self, about: int) -> list[float]:
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _powers(self, about: int) -> list[float]:
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / about))
        return [10.0**power for power in range(first, last + 1, every)]


def short(value: float) -> str:
    """A number for an axis: 0.01, 5, 200, 10k, 1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 10 or (abs(value) >= size and size > 1e3):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


# -- shapes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes of one plot: from values to places in its square."""

    x: Axis
    y: Axis

    def place(self, point: Point) -> str:
        """A point as the SVG wants it; y grows upwards."""
        return f"{self.x.at(point[0]) * SIDE:.4g} {(1 - self.y.at(point[1])) * SIDE:.4g}"

    def line(self, points: Sequence[Point], class_: str, *, steps: bool = False) -> str:
        """Points joined by straight lines, or by stairs."""
        if not points:
            return ""
        corners = list(stairs(points)) if steps else list(points)
        way = "L".join(self.place(point) for point in corners)
        return _path(f"M{way}", f"line {class_}")

    def area(self, low: Sequence[Point], high: Sequence[Point], class_: str, title: str) -> str:
        """The surface between two lines."""
        if not low:
            return ""
        way = "L".join(self.place(point) for point in [*high, *reversed(low)])
        return _path(f"M{way}Z", f"area {class_}", title)

    def dots(self, points: Iterable[Point], class_: str) -> str:
        """A dot for each point, all in one path."""
        way = "".join(f"M{self.place(point)}h0" for point in points)
        return _path(way, f"dots {class_}") if way else ""

    def upright(self, x: float, class_: str) -> str:
        """A line from bottom to top."""
        return self.line([(x, self.y.low), (x, self.y.high)], class_)

    def level(self, y: float, class_: str) -> str:
        """A line from left to right."""
        return self.line([(self.x.low, y), (self.x.high, y)], class_)

    def label(self, point: Point, text: str, class_: str = "") -> str:
        """Letters at a point."""
        return _label(self.x.at(point[0]), self.y.at(point[1]), text, class_)


def stairs(points: Sequence[Point]) -> Iterable[Point]:
    """Each value holds until the next point."""
    last: float | None = None
    for x, y in points:
        if last is not None:
            yield x, last
        yield x, y
        last = y


def plot(frame: Frame, shapes: Iterable[str], labels: Iterable[str] = (), *, name: str) -> str:
    """A whole plot with its grid; `name` says to a screen reader what it shows."""
    x_ticks, y_ticks = frame.x.ticks(8), frame.y.ticks(5)
    grid = [_level(place) for place, _ in y_ticks]
    picture = tag(
        "svg",
        *grid,
        *shapes,
        viewBox=f"0 0 {SIDE:g} {SIDE:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=name,
    )
    y_labels = [_label(0.0, place, text, "tick y") for place, text in y_ticks]
    x_labels = [
        _label(place, 0.0, text, "tick x odd" if number % 2 else "tick x")
        for number, (place, text) in enumerate(x_ticks)
    ]
    return tag("div", picture, *y_labels, *x_labels, *labels, class_="plot")


def legend(items: Iterable[tuple[str, str]]) -> str:
    """Names with their colours: (class, text)."""
    parts = [tag("span", tag("i", class_=class_), escape(text)) for class_, text in items]
    return tag("p", *parts, class_="legend")


def stacked(
    frame: Frame, times: Sequence[float], layers: Sequence[tuple[str, str, Sequence[float]]]
) -> list[str]:
    """Surfaces on top of each other. A layer: (class, title, a height for each time)."""
    shapes = []
    floor = [0.0] * len(times)
    for class_, title, heights in layers:
        top = [below + height for below, height in zip(floor, heights, strict=True)]
        low = list(zip(times, floor, strict=True))
        high = list(zip(times, top, strict=True))
        shapes.append(frame.area(low, high, class_, title))
        floor = top
    return shapes


def _path(way: str, class_: str, title: str = "") -> str:
    inside = [tag("title", escape(title))] if title else []
    return tag("path", *inside, d=way, class_=class_, vector_effect="non-scaling-stroke")


def _level(place: float) -> str:
    y = f"{(1 - place) * SIDE:.4g}"
    return _path(f"M0 {y}H{SIDE:g}", "grid")


def _label(x: float, y: float, text: str, class_: str) -> str:
    style = f"left:{x * 100:.4g}%;bottom:{y * 100:.4g}%"
    return tag("span", escape(text), class_=f"label {class_}".strip(), style=style)
