"""Which store an app's database is."""

from __future__ import annotations

from urllib.parse import urlsplit

from aura.clock import Clock
from aura.errors import ConfigError
from aura.store.base import Store


def open_store(database: str, clock: Clock) -> Store:
    """The store for a path, ":memory:", sqlite:///path or postgresql:// URL.

    Raises ConfigError for a URL that cannot be one.
    """
    if database.startswith(("postgresql://", "postgres://")):
        from aura.store.postgres import PostgresStore

        try:
            urlsplit(database)
        except ValueError:  # whose text may have the password in it
            raise ConfigError(
                "the database's URL cannot be read",
                hint="Write postgresql://user@host:5432/name, and %XX for odd characters in it",
            ) from None
        return PostgresStore(database)
    from aura.store.sqlite import SqliteStore

    path = database.removeprefix("sqlite:///")
    if "://" in path:
        raise ConfigError(
            f"the database {path.split('://')[0]}://… is of an unknown kind",
            hint="Give a path for SQLite or a postgresql:// URL",
        )
    return SqliteStore(path, clock=clock)
