"""Spans of a test, and both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.telemetry.kit import Spans


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))
