"""Settings are looked at where they are given. All raise ConfigError."""

from __future__ import annotations

import math

from aura.errors import ConfigError


def check_app(name: object) -> str:
    """The name of an app, which logs and commands show."""
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"an app has the name {name!r}", hint='Give it one, as in Aura("shop")')
    return name


def check_database(database: object) -> None:
    """SQLite would take an empty name for a database that vanishes when it is closed."""
    if not isinstance(database, str) or not database.strip():
        raise ConfigError(
            f"database is {database!r}",
            hint="Give a path or a postgresql:// URL as text, and do not set AURA_DATABASE_URL "
            "to nothing: unset it",
        )


def check_number(name: str, value: object, hint: str, least: float = 0.0) -> None:
    """Above 0, no less than `least`, and finite."""
    if not isinstance(value, int | float) or not 0 < value < math.inf or value < least:
        raise ConfigError(f"{name} is {value!r}", hint=hint)
