"""One suite, every store: `backend` and `store` come in all kinds, `shared` in those that several
processes can open at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aura.store.base import Store
from tests.store.kit import Backend, backend_of


async def _backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    def postgres_url() -> str:
        return str(request.getfixturevalue("postgres_url"))

    backend = backend_of(request.param, tmp_path, postgres_url)
    yield backend
    await backend.close()


@pytest.fixture(params=["sqlite-memory", "sqlite-file", "postgres"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async for one in _backend(request, tmp_path):
        yield one


@pytest.fixture(params=["sqlite-file", "postgres"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async for one in _backend(request, tmp_path):
        yield one


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()
