"""The usage ledger: an effect outside of Aura. One row for each attempt, so repeats are visible."""

from __future__ import annotations

import atexit
import functools
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    idempotency_key TEXT NOT NULL,
    run TEXT NOT NULL,
    user TEXT NOT NULL,
    query TEXT NOT NULL,
    results INTEGER NOT NULL,
    at REAL NOT NULL
)
"""


class Ledger:
    """A SQLite file that many processes and threads append to."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=10, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._db:
            self._db.execute(_SCHEMA)

    def record(self, key: str, user: str, query: str, results: int) -> None:
        """Append one attempt. `key` is `<run>:<step>`; `at` is in epoch seconds."""
        row = (key, key.partition(":")[0], user, query, results, time.time())
        with self._lock, self._db:
            self._db.execute("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)", row)

    def rows(self) -> list[tuple[str, float]]:
        """All attempts in their order: the idempotency key and the time in epoch seconds."""
        with self._lock:
            return self._db.execute(
                "SELECT idempotency_key, at FROM usage ORDER BY rowid"
            ).fetchall()

    def attempts(self) -> dict[str, int]:
        """How often the effect of each idempotency key has happened."""
        return dict(Counter(key for key, _ in self.rows()))

    def close(self) -> None:
        with self._lock:
            self._db.close()


@functools.lru_cache(maxsize=8)
def shared_ledger(path: Path) -> Ledger:
    """This process's ledger at a path."""
    ledger = Ledger(path)
    atexit.register(ledger.close)
    return ledger
