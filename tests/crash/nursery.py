"""A process that has everything loaded and forks workers on command, because starting Python
anew for each of thousands of workers would take longer than the tests.

Commands on standard input: `fork POINT COUNT LEASE POLL CAPACITY` starts a worker that kills itself
when it comes to that fault point for the COUNT-th time (`fork none 0 ...`: never); `kill PID` kills
one. Answers
on standard output: `started PID` and `dead PID STATUS`.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from aura import Aura
from aura.store.session import Isolation, Written
from tests.crash import program


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultPoint:
    """Kills the process when it is passed for the n-th time."""

    def __init__(self, name: str, count: int) -> None:
        self.consumes = name.startswith("consume")
        self.name = name.removeprefix("consume:")
        self._left = count

    def passed(self, name: str) -> None:
        if name == self.name:
            self._left -= 1
            if self._left <= 0:
                die()


def guard(app: Aura, point: FaultPoint) -> None:
    """Fault points around everything that the worker writes and claims."""

    def around(verb: str) -> None:
        inner: Callable[[Any], Awaitable[Any]] = getattr(app.store, verb)

        async def guarded(argument: Any) -> Any:
            point.passed(f"before-{verb}")
            outcome = await inner(argument)
            point.passed(f"after-{verb}")
            return outcome

        setattr(app.store, verb, guarded)

    around("commit")
    around("claim")
    guard_transactions(app, point)


def guard_transactions(app: Aura, point: FaultPoint) -> None:
    """Fault points around the commits of transactional steps."""
    worker = app._worker
    assert worker is not None
    inner = worker._services.session

    def session(isolation: Isolation | None) -> Any:
        made: Any = inner(isolation)
        commit = made.commit

        async def guarded(entries: Sequence[Written]) -> None:
            point.passed("before-transaction")
            await commit(entries)
            point.passed("after-transaction")

        made.commit = guarded
        return made

    worker._services = replace(worker._services, session=session)


class Tempo(NamedTuple):
    """The settings of one worker, times in seconds."""

    lease: float
    poll: float
    capacity: int


async def work(database: str, point: FaultPoint, tempo: Tempo) -> None:
    app = program.Here.app = program.open_app(database, **tempo._asdict())
    if point.consumes:
        program.subscribe(app)
    await app.open()
    guard(app, point)
    await asyncio.Event().wait()


def child(database: str, folder: Path, point: FaultPoint, tempo: Tempo) -> None:
    log = os.open(folder / "workers.log", os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(0)
    program.Here.ledger = program.open_ledger(folder / "ledger")
    program.Here.events = program.open_ledger(folder / "events")
    try:
        asyncio.run(work(database, point, tempo))
    finally:
        sys.stderr.flush()
        os._exit(3)


def serve(database: str, folder: Path) -> None:
    children: set[int] = set()
    for workflow in program.WORKFLOWS:
        workflow.signature.compile()
    buffered = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        if ready:
            data = os.read(0, 4096)
            if not data:
                break
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                obey(line.decode().split(), database, folder, children)
        bury(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def obey(command: list[str], database: str, folder: Path, children: set[int]) -> None:
    if command[0] == "kill":
        if int(command[1]) in children:
            os.kill(int(command[1]), signal.SIGKILL)
        return
    _, name, count, lease, poll, capacity = command
    tempo = Tempo(float(lease), float(poll), int(capacity))
    pid = os.fork()
    if pid == 0:
        child(database, folder, FaultPoint(name, int(count)), tempo)
    children.add(pid)
    print("started", pid, flush=True)


def bury(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        print("dead", pid, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
