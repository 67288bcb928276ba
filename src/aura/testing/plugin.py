"""Fixtures for pytest: put `pytest_plugins = ["aura.testing.plugin"]` into the top conftest.py.

    @pytest.fixture
    def aura_app():             # which app is tested
        from shop.orders import app
        return app

    async def test_an_order_is_shipped(sandbox):
        run = await sandbox.start(order, "A-17")
        assert await run.result() == "shipped"

Async tests need pytest-asyncio or anyio's plugin; the fixture works with either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from aura.app import Aura
from aura.errors import SandboxError
from aura.testing.sandbox import Sandbox

_asynchronous: Any = (
    import_module("pytest_asyncio").fixture if find_spec("pytest_asyncio") else pytest.fixture
)


@pytest.fixture
def aura_app() -> Aura:
    """The app that `sandbox` opens. Override it in your conftest.py or test module."""
    raise SandboxError(
        "the fixture `sandbox` does not know which app to open",
        hint="Define a fixture `aura_app` that returns it",
    )


@_asynchronous  # type: ignore[untyped-decorator]  # one of two, known only at run time
async def sandbox(aura_app: Aura) -> AsyncIterator[Sandbox]:
    """The app of the fixture `aura_app`, open in a sandbox of this test's own."""
    async with Sandbox(aura_app) as opened:
        yield opened
