"""Lengths of time and counts for people: one way to write them, in texts, tables and on pages."""

from __future__ import annotations

import math

_LARGER = ((60, "s"), (60, "min"), (24, "h"))


def span(seconds: float | None) -> str:
    """A length of time in its two largest units: 0.4 ms, 12 ms, 1.24 s, 59 min 56 s, 23 h 59 min,
    28 d; – for none. What is not finite is said as it is."""
    if seconds is None:
        return "–"
    if not math.isfinite(seconds) or seconds < 0:
        return f"{seconds:g} s"
    if 0 < seconds < 1e-4:
        return f"{_short(seconds * 1e6)} µs"
    if seconds > 0 and round(seconds * 1e3) < 1000:
        return f"{_short(seconds * 1e3)} ms"
    if round(seconds, 1) < 60:
        return f"{_short(seconds)} s"
    return _in_two(seconds)


def counted(count: int, what: str) -> str:
    """A count with its noun, which takes an s: 1 request, 999,635 requests."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _short(value: float) -> str:
    """At most three digits, none of them for nothing: 30, 1.5, 0.25, 123."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _in_two(seconds: float) -> str:
    left = round(seconds)
    found: list[tuple[int, str]] = []
    for size, unit in _LARGER:
        left, rest = divmod(left, size)
        found.append((rest, unit))
    found.append((left, "d"))
    largest = max(at for at, (count, _) in enumerate(found) if count)
    shown = reversed(found[max(0, largest - 1) : largest + 1])
    return " ".join(f"{count:,} {unit}" for count, unit in shown if count)
