"""One SQLite file and several processes: what one has written, all others see."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from aura.store.base import AppendFeed
from aura.store.sqlite import SqliteStore

_VISIT = """
import asyncio, sys
from aura.store.sqlite import SqliteStore

async def visit():
    store = SqliteStore(sys.argv[1])
    await store.open()
    print(len(await store.feed("news")))
    await store.close()

asyncio.run(visit())
"""


def visit(path: Path) -> int:
    """Another process opens the file, counts the news and closes it again."""
    done = subprocess.run(
        [sys.executable, "-c", _VISIT, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(done.stdout)


async def test_a_visitor_that_leaves_does_not_cut_off_who_stays(tmp_path: Path) -> None:
    path = tmp_path / "aura.db"
    for _ in range(2):  # with a file that is new, and with one that is there
        store = SqliteStore(str(path))
        await store.open()
        before = len(await store.feed("news"))  # opens the second connection
        for number in range(1, 4):
            await store.commit([AppendFeed("news", (b"said",))])
            assert visit(path) == before + number
        await store.close()
    assert visit(path) == 6


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "aura.db"))
    await store.open()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}
    await store.close()
