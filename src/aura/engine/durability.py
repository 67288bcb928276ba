"""When journal entries are written on which nothing outside depends yet."""

from __future__ import annotations

from typing import Any, Literal, get_args

from aura.errors import ConfigError

Durability = Literal["sync", "adaptive"]
"""At once, or together with others; see `aura.store.checkpoints`."""


def check_durability(durability: Any) -> None:
    """Raises ConfigError."""
    if durability not in get_args(Durability):
        raise ConfigError(
            f"there is no durability {durability!r}", hint='Choose "sync" or "adaptive"'
        )
