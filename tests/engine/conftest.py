"""`world` is a database of the test's own, on both stores; `memory` the one inside a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.bank import Bank
from tests.engine.jumps import Jumps
from tests.engine.kit import Ledger, World


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    world = World(database)
    yield world
    await world.close()


@pytest.fixture
async def memory() -> AsyncIterator[World]:
    world = World(":memory:")
    yield world
    await world.close()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def bank(world: World) -> Bank:
    return Bank(world)


@pytest.fixture
def jumps(request: pytest.FixtureRequest) -> Jumps:
    """Moves the time of `world` on, or of `memory` in a test without it."""
    name = "world" if "world" in request.fixturenames else "memory"
    return Jumps(request.getfixturevalue(name))
