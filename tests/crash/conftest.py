"""A database that several processes share, of both kinds, and a nursery of workers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.crash.kit import Nursery


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def nursery(database: str, tmp_path: Path) -> AsyncIterator[Nursery]:
    nursery = Nursery(database, tmp_path)
    await nursery.open()
    yield nursery
    await nursery.close()
