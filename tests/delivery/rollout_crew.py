"""Starting, killing and listening to the processes of `rollout_process`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Member:
    """A process that is ready to begin."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self, *end: str) -> None:
        """Let it open the database, as soon as it is ready; `end` tells a worker when to die."""
        assert await self.line() == "ready"
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(("go", *end)).encode() + b"\n")
        await self._process.stdin.drain()

    async def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode().strip()

    async def end(self, timeout: float = 60.0) -> int:
        """Its exit code; negative: the signal that ended it."""
        return await asyncio.wait_for(self._process.wait(), timeout)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def frozen(self) -> bool:
        """Whether it was stopped by SIGSTOP."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def leave(self) -> int:
        """Ask it to close the app and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self.end()


class Crew:
    """The processes of a test; none outlives it."""

    def __init__(self) -> None:
        self._members: list[Member] = []

    async def hire(self, *arguments: str) -> Member:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.delivery.rollout_process", *arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        member = Member(process)
        self._members.append(member)
        return member

    async def dismiss(self) -> None:
        for member in self._members:
            if member.running:
                member.signal(signal.SIGKILL)
        for member in self._members:
            await member.end()


@asynccontextmanager
async def crew() -> AsyncIterator[Crew]:
    made = Crew()
    try:
        yield made
    finally:
        await made.dismiss()
