"""Where pages are. Names come from users, so each is one encoded part of a path."""

from __future__ import annotations

from urllib.parse import quote


def path(*parts: str) -> str:
    """The path with these parts: `path("rollouts", name)`."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)
