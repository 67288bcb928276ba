"""Lengths of time for people: in seconds up to an hour, then in hours and days."""

from __future__ import annotations


def span(seconds: float, digits: str = "g") -> str:
    """Such as 0.3 s, 600 s, 23 h 59 min, 28 d; `digits` is how seconds are formatted."""
    if not 3600 <= seconds < 1e9:
        return f"{seconds:{digits}} s"
    minutes = round(seconds / 60)
    parts = (minutes // 1440, "d"), (minutes % 1440 // 60, "h"), (minutes % 60, "min")
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
