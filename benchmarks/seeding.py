"""A PostgreSQL database with as many runs as an installation has after months: `seed.sql`.

Rows are made inside the database, so a million runs with their journals take a few minutes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from aura.store.postgres import PostgresStore

PIECE = 20_000  # runs that are made in one transaction
LONG = 10  # runs with a long journal, ...
STEPS = 10_000  # ... of so many steps

_NAME = re.compile(r"^-- :name: (\w+)$", re.MULTILINE)


def statements() -> Mapping[str, str]:
    """The named statements of `seed.sql`."""
    parts = _NAME.split((Path(__file__).parent / "seed.sql").read_text("utf-8"))
    return dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))


def long_runs(runs: int) -> list[str]:
    """The ids of the runs that have a long journal."""
    return [f"seed-{at:09}" for at in _long(runs)]


def _long(runs: int) -> list[int]:
    return [runs * (at + 1) // (LONG + 1) for at in range(LONG)]


async def seed(
    url: str, runs: int, *, steps: int = STEPS, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Fill a database, which may be empty. `tell` hears how far it is."""
    store = PostgresStore(url)
    await store.open()
    await store.close()
    sql = statements()
    connection: Any = await asyncpg.connect(url)
    began = time.perf_counter()
    try:
        await connection.execute(sql["settings"])
        now = time.time()
        await connection.execute(sql["worker"], now)
        for first in range(1, runs + 1, PIECE):
            last = min(first + PIECE - 1, runs)
            async with connection.transaction():
                await connection.execute(sql["runs"], first, last, runs, now, timeout=600)
                for what in ("journal", "attributes"):
                    await connection.execute(sql[what], first, last, timeout=600)
            tell(f"{last:,} of {runs:,} runs, {time.perf_counter() - began:.0f} s")
        for number in _long(runs):
            await connection.execute(sql["long_journal"], number, steps, timeout=600)
        await connection.execute(sql["vacuum"], timeout=1_800)
        tell(f"vacuumed and analysed, {time.perf_counter() - began:.0f} s")
    finally:
        await connection.close()
