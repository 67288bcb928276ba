"""The controller's side: starting and killing workers, and reading what they left."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aura import Aura
from aura.codec import plain
from aura.store.base import Entry, RunRecord
from tests.crash.program import CAPACITY, LEASE, POLL, open_app
from tests.simulation import history

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """Forks workers from a process that is loaded already; see nursery.py."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.alive: set[int] = set()
        self.deaths = 0
        self._started: asyncio.Queue[int] = asyncio.Queue()

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.crash.nursery", self.database, str(self.folder),
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 60)
        await self._reader

    async def fork(
        self,
        point: str = "none",
        count: int = 0,
        lease: float = LEASE,
        poll: float = POLL,
        capacity: int = CAPACITY,
    ) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"fork {point} {count} {lease} {poll} {capacity}\n".encode())
        return await asyncio.wait_for(self._started.get(), 60)

    def kill(self, pid: int) -> None:
        """SIGKILL, by the parent: for it the number cannot be another process's already."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"kill {pid}\n".encode())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            what, pid, *rest = line.decode().split()
            if what == "started":
                self.alive.add(int(pid))
                self._started.put_nowait(int(pid))
            else:
                self.alive.discard(int(pid))
                self.deaths += 1
                assert rest == ["-9"], f"a worker ended by itself: {self.log()}"

    def log(self) -> str:
        path = self.folder / "workers.log"
        return path.read_text()[-5_000:] if path.exists() else ""

    def ledger(self) -> list[Line]:
        path = self.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Line(**json.loads(line)) for line in lines]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Aura]:
        app = open_app(self.database)
        async with app.client():
            yield app


@dataclass(frozen=True, slots=True)
class Line:
    """A step's code ran: `before` is what it was told of the steps before it."""

    what: str
    run: str
    key: str
    epoch: int | None
    pid: int
    at: float
    before: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What the database and the ledger say about one run."""

    record: RunRecord
    journal: list[Entry]
    lines: list[Line]

    def complaints(self) -> list[str]:
        """Which invariants do not hold."""
        said = [*self._ending(), *self._journal(), *self._repeated(), *self._owners()]
        said += history.journal_complaints(history.Found(self.record, self.journal))
        return [f"run {self.record.id}: {one}" for one in [*said, *self._forgotten()]]

    def _ending(self) -> list[str]:
        if self.record.state != "completed":
            return [f"is {self.record.state} at epoch {self.record.epoch}"]
        result: Any = plain(self.record.output)
        outputs = {plain(entry.output) for entry in self._answers()}
        return [] if set(result) == outputs and len(result) == 8 else [f"has result {result}"]

    def _journal(self) -> list[str]:
        seqs = [entry.seq for entry in self.journal]
        keys = [entry.key for entry in self.journal if entry.kind != "attempt"]
        gaps = [] if seqs == list(range(1, len(seqs) + 1)) else [f"has the seqs {seqs}"]
        return gaps if len(set(keys)) == len(keys) else [*gaps, f"has twice one of {keys}"]

    def _repeated(self) -> list[str]:
        """No step is executed at a later epoch than the one that journalled its result."""
        said = []
        for entry in self._answers():
            runs = [line for line in self.lines if line.key == entry.key]
            since = [line for line in runs if line.at >= entry.started_at]
            if not since:
                said.append(f"{entry.key} has a result that no execution gave")
                continue
            source = min(since, key=lambda line: line.at)
            later = [line for line in runs if (line.epoch or 0) > (source.epoch or 0)]
            said += [f"{entry.key} of epoch {source.epoch} ran again: {later}"] if later else []
        return said

    def _owners(self) -> list[str]:
        owners = defaultdict(set)
        for line in self.lines:
            owners[line.epoch].add(line.pid)
        return [f"epoch {at} had owners {who}" for at, who in owners.items() if len(who) > 1]

    def _forgotten(self) -> list[str]:
        """What an effect knew when it started was durable: it is in the journal at the end."""
        outputs = {plain(entry.output) for entry in self._answers()}
        return [
            f"{line.key} knew of results that are lost"
            for line in self.lines
            if line.what in ("effect", "flaky") and not set(line.before or ()) <= outputs
        ]

    def _answers(self) -> list[Entry]:
        return [entry for entry in self.journal if entry.kind == "step"]
