"""Worlds in which almost all payloads are stored apart, and what is wrong with these at the end."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from aura.store import payloads
from aura.store.sqlite_payloads import sweep_payloads

_MARKS = (
    "SELECT input AS mark FROM runs UNION SELECT output FROM runs UNION SELECT input FROM journal "
    "UNION SELECT output FROM journal UNION SELECT payload FROM signals"
)
_MISSING = (
    f"SELECT count(*) FROM ({_MARKS}) WHERE length(mark) = 33 AND substr(mark, 1, 1) = x'05' "  # noqa: S608
    "AND mark NOT IN (SELECT mark FROM payloads)"
)
_LEFT = (
    "SELECT count(*) FROM payloads "  # noqa: S608
    f"WHERE mark NOT IN (SELECT mark FROM ({_MARKS}) WHERE mark IS NOT NULL)"
)
_LARGE = 40  # bytes, where many payloads are stored apart; a mark has 33


@contextlib.contextmanager
def smaller_apart() -> Iterator[None]:
    """Payloads are stored apart that are far smaller than usually."""
    usual, payloads.LARGE = payloads.LARGE, _LARGE
    try:
        yield
    finally:
        payloads.LARGE = usual


def complaints_of_payloads(db: sqlite3.Connection) -> Iterator[str]:
    """One may be missing that a row has, or be left that no row has."""
    if db.execute(_MISSING).fetchone()[0]:
        yield "a payload is missing that is stored apart"
    sweep_payloads(db, 10_000)
    left = db.execute(_LEFT).fetchone()[0]
    if left:
        yield f"{left} payloads are left that no row has"
