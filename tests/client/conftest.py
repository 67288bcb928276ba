"""An app that is served on a port, over both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aura import Aura
from aura.server.serving import build
from tests.client.kit import make_app
from tests.gateway.conftest import Servers


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


@dataclass(frozen=True, slots=True)
class Served:
    """An app and where it is served."""

    app: Aura
    url: str


@pytest.fixture
async def served(database: str, servers: Servers) -> Served:
    app = make_app(database)
    return Served(app, f"http://127.0.0.1:{await servers.asgi(build(app))}")
