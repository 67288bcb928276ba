"""Waking other processes at one SQLite file is a courtesy: nothing depends on it."""

from __future__ import annotations

import shutil
from pathlib import Path

from aura.store.base import Announce
from aura.store.sqlite import SqliteStore
from tests.store.kit import start, the_run


async def test_a_commit_succeeds_though_nobody_can_be_told(tmp_path: Path) -> None:
    """Somebody has emptied the folder for temporary files."""
    store = SqliteStore(str(tmp_path / "aura.db"))
    await store.open()
    try:
        shutil.rmtree(store._wake._folder)
        (created, _) = await store.commit([start("a"), Announce("ready")])
        assert not isinstance(created, BaseException)
        assert (await the_run(store, "a")).state == "pending"
    finally:
        await store.close()


async def test_what_lies_in_the_folder_does_not_matter(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "aura.db"))
    await store.open()
    try:
        (store._wake._folder / "sub").mkdir()
        (store._wake._folder / "file").write_text("no socket")
        await store.commit([start("a"), Announce("ready")])
        assert (await the_run(store, "a")).state == "pending"
    finally:
        shutil.rmtree(store._wake._folder / "sub", ignore_errors=True)
        await store.close()
