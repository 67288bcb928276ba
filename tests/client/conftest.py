"""An app that is served on a port."""

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


@pytest.fixture
def database(tmp_path: Path) -> str:
    """SQLite; `test_same_code` has its own, with PostgreSQL, too."""
    return str(tmp_path / "aura.db")


@dataclass(frozen=True, slots=True)
class Served:
    """An app and where it is served."""

    app: Aura
    url: str


@pytest.fixture
async def served(database: str, servers: Servers) -> Served:
    app = make_app(database)
    return Served(app, f"http://127.0.0.1:{await servers.asgi(build(app))}")
