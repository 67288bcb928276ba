"""The demo's children: real processes, each with its log. None of them outlives the demo."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aura.clock import Clock
from aura.errors import DemoFailed

GRACE = 6.0
"""Seconds that children have to end by themselves."""

TAIL = 4
"""Lines of a log that an error shows."""


@dataclass(slots=True)
class Child:
    """One process. `expected` says that it was meant to end."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    expected: bool = False

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def freeze(self) -> None:
        """Stop it where it is (SIGSTOP)."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: it has no chance to put anything in order. Returns when it is gone."""
        self.expected = True
        self.popen.kill()
        self.popen.wait()

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL:])


class Children:
    """Starts processes in sessions of their own, so that Ctrl-C comes to the demo alone, and on a
    leash, so that they end with it, however it ends."""

    def __init__(self, root: Path, logs: Path, env: Mapping[str, str], clock: Clock) -> None:
        self._root = root
        self._logs = logs
        self._env = dict(os.environ) | {"PYTHONUNBUFFERED": "1"} | dict(env)
        self._clock = clock
        self._all: list[Child] = []

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start a process in the checkout; it may not be ready yet."""
        log = self._logs / f"{name}.log"
        command = [*leash(), str(os.getpid()), *argv]
        with log.open("wb") as out:
            popen = subprocess.Popen(  # noqa: S603 - commands of this program's own
                command,
                cwd=self._root,
                env=self._env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, popen, log)
        self._all.append(child)
        return child

    def check(self) -> None:
        """Raise DemoFailed when one has ended that should not have."""
        for child in self._all:
            if not child.expected and not child.alive:
                raise DemoFailed(
                    f"the process {child.name} ended with code {child.popen.returncode}; its log "
                    f"{child.log} ends with:\n{child.tail()}",
                    hint="Mend what it says and run the demo again",
                )

    async def close(self) -> None:
        """End all: first by asking, then by force. Those that were started first end last."""
        for child in reversed(self._all):
            child.expected = True
            if child.alive:
                child.popen.terminate()
        give_up = self._clock.monotonic() + GRACE
        while any(child.alive for child in self._all) and self._clock.monotonic() < give_up:
            await self._clock.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """End all at once."""
        for child in self._all:
            if child.alive:
                with contextlib.suppress(ProcessLookupError):
                    child.popen.kill()
                child.popen.wait()


def leash() -> list[str]:
    """The command that becomes another one; a PARENT and the COMMAND follow."""
    found = importlib.util.find_spec("aura.cli.demo.leash")
    assert found is not None  # noqa: S101  (a module of this package)
    assert found.origin is not None  # noqa: S101
    return [sys.executable, "-I", "-S", found.origin]


def aura_command() -> list[str]:
    """How `aura` is run with this interpreter."""
    return [sys.executable, "-m", "aura.cli.main"]


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
