"""An app in memory, whose time is the test's and whose process can die.

Time stands still until somebody waits for a result (or an update's answer, or a stream), and
then only when everything has come to rest: no step is under way, nothing is being written. Then the
clock goes on to the next moment at which something is due. `skip` does the same up to a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from aura.app import Aura, new_run_id
from aura.clock import SystemClock
from aura.engine.definition import Workflow
from aura.engine.handle import Run
from aura.engine.moving import Export, export
from aura.errors import ConfigError, LeaseLost, SandboxError, StoreUnavailable
from aura.store.base import Claimed, Heartbeat, Store
from aura.testing.clock import START, ManualClock
from aura.testing.faults import Disk, Fault, LentStore

R = TypeVar("R")

_REST = 8  # rounds of the event loop in which nothing moves until all is at rest
_NAP = 0.001  # seconds between looks while steps are under way
_PATIENCE = 30.0  # seconds of real time for `skip` and `settle` to come to rest


class Sandbox:
    """`async with Sandbox(app) as sandbox:` opens the app on a database in memory, with a worker.

    The app itself is used, so code that calls `app.start` is tested as it is. `clock` is the time
    that it lives in; it begins at `start` (a datetime with a time zone). With `skipping=False` time
    moves by `skip` alone. `settings` replace those of the app's Config.

    Raises SandboxError when the app is open, or when it is used outside of the `with`.
    """

    def __init__(
        self, app: Aura, *, start: datetime = START, skipping: bool = True, **settings: Any
    ) -> None:
        self.app = app
        self.clock = ManualClock(start)
        self._skipping = skipping
        self._settings = settings
        self._before: tuple[Any, Any] | None = None
        self._inside = False
        self._deaths = 0
        self._open = asyncio.Event()
        self._busy = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handles: weakref.WeakSet[SandboxRun[Any]] = weakref.WeakSet()

    # Opening and closing.

    async def __aenter__(self) -> Self:
        if self.app._opened:
            raise SandboxError(f"app {self.app.name} is open", hint="Give the sandbox a closed one")
        if self._before is not None:
            raise SandboxError("a sandbox was entered twice", hint="Make another one")
        self._before = (self.app.config, self.app.clock)
        settings = {"retention": None, "grace": 1.0, "encryption_keys": (), **self._settings}
        self.app.config = replace(self.app.config, database=":memory:", **settings)
        self.app.clock = self.clock
        self.app._open_store = self._lend  # type: ignore[method-assign]  # our own seam
        self._disk = Disk(self.clock)
        try:
            await self._disk.store.open()
            await self._begin()
        except BaseException:
            await self._end()
            raise
        self._inside = True
        if self._skipping:
            self._spawn(self._skip_while_awaited())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        self._inside = False
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._open.clear()
        with contextlib.suppress(StoreUnavailable):
            await self.app.close()
        await self._disk.store.close()
        del self.app._open_store  # the class's own again
        assert self._before is not None  # noqa: S101  (it was entered)
        self.app.config, self.app.clock = self._before

    async def _lend(self, *, worker: bool) -> Store:  # noqa: ARG002  (as Aura's own)
        self._lent = LentStore(self._disk, self.clock, self._crash_soon)
        return self._lent

    async def _begin(self) -> None:
        await self.app.open()
        for handle in self._handles:
            parts = vars(self.app.run(handle.id))
            vars(handle).update({name: parts[name] for name in ("_store", "_writer", "_results")})
        self._open.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Runs.

    @overload
    async def start(
        self, workflow: Workflow[..., R], *args: Any, id: str | None = None, **kwargs: Any
    ) -> Run[R]: ...

    @overload
    async def start(
        self, workflow: str, *args: Any, id: str | None = None, **kwargs: Any
    ) -> Run[Any]: ...

    async def start(
        self, workflow: Any, *args: Any, id: str | None = None, **kwargs: Any
    ) -> Run[Any]:
        """`app.start`, with a handle that outlives crashes of the sandbox; one that comes at the
        moment of a crash is made again."""
        run_id = new_run_id(self.clock.now()) if id is None else id
        while True:
            await self._opened()
            deaths = self.crashes
            try:
                run = await self.app.start(workflow, *args, id=run_id, **kwargs)
            except (ConfigError, StoreUnavailable):
                if not await self.died_since(deaths):
                    raise
            else:
                return self._followed(run)

    def run(self, run_id: str, workflow: Workflow[..., R] | None = None) -> Run[R]:
        """`app.run`, with a handle that outlives crashes of the sandbox."""
        return self._followed(self.app.run(run_id, workflow))

    def _followed(self, run: Run[R]) -> Run[R]:
        """The handle, which from now on goes to the process that is alive."""
        handle: SandboxRun[R] = SandboxRun.__new__(SandboxRun)
        vars(handle).update(vars(run))
        handle._sandbox = self
        self._handles.add(handle)
        return handle

    async def history(self, run_id: str) -> Claimed:
        """A run as it stands, with its journal and signals: what `replay` takes."""
        await self._opened()
        store = self.app.store
        record = await self.app.run(run_id).record()
        signals = await store.signals([(run_id, 0)])
        return Claimed(record, await store.journal(run_id), signals)

    async def export(self, path: str | Path, *run_ids: str) -> None:
        """Write runs (all of them, if none is named) to a bundle, which `load_histories` reads.

        Raises BundleError when the file is there, RunNotFound.
        """
        await self._opened()
        what = Export(runs=run_ids or None)
        await export(self.app.store, self.clock, what, Path(path))

    async def _opened(self) -> None:
        if not self._inside:
            raise SandboxError("the sandbox is not open", hint="Use `async with Sandbox(app):`")
        await self._open.wait()

    # Time.

    async def settle(self) -> None:
        """Return when everything has come to rest at this moment: nothing happens any more until
        time goes on, or somebody does something. Raises SandboxError when it does not."""
        await self._opened()
        give_up = self.clock.monotonic() + _PATIENCE
        while not await self._at_rest():
            if self.clock.monotonic() > give_up:
                raise SandboxError(
                    f"the sandbox did not come to rest within {_PATIENCE:g} s",
                    hint="A step is still under way: mock it, or wait for it",
                )
            await SystemClock().sleep(_NAP)

    async def skip(self, by: float | timedelta) -> None:
        """Let time go on by seconds or a timedelta, from one thing that is due to the next, each
        of which may do what it does. Raises SandboxError for going back."""
        await self._opened()
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        until = self.clock.now() + seconds
        if not seconds >= 0:
            raise SandboxError(f"time cannot go on by {by}", hint="Give 0 or more")
        async with self._busy:
            await self.settle()
            while (due := await self._next_due()) is not None and due <= until:
                await self._go_to(due)
                await self.settle()
            await self._go_to(until)
            await self.settle()

    async def skip_to(self, moment: datetime) -> None:
        """`skip` up to a moment (with a time zone). Raises SandboxError for one that is over."""
        if moment.tzinfo is None:
            raise SandboxError(f"{moment} has no time zone", hint="Give it one, say UTC")
        await self.skip(moment.timestamp() - self.clock.now())

    async def _skip_while_awaited(self) -> None:
        while True:
            await SystemClock().sleep(0 if self._awaited() else _NAP)
            if not self._awaited() or self._busy.locked():
                continue
            async with self._busy:
                if await self._at_rest() and self._awaited():
                    due = await self._next_due()
                    if due is not None:
                        await self._go_to(due)
                        continue
            await SystemClock().sleep(_NAP)

    def _awaited(self) -> bool:
        return self._open.is_set() and self.app.results.awaited

    async def _go_to(self, moment: float) -> None:
        """Set the clock, without anybody's lease being over by that."""
        by = moment - self.clock.now()
        worker = self.app._worker
        if by > 0 and worker is not None and self._open.is_set():
            lease = Heartbeat(worker.id, by + self.app.config.lease)
            await self._disk.store.commit([lease])
        self.clock.move(max(0.0, by))
        self._lent.tell_all("ready")  # waiting runs may be due

    async def _at_rest(self) -> bool:
        """Whether nothing has moved for some rounds of the event loop, nor after a look at what
        the database has."""
        for look in (False, True):
            if look:
                await self._lent.looked()
            seen = self._moved()
            for _ in range(_REST):
                await asyncio.sleep(0)
                now = self._moved()
                if now is None or now != seen:
                    return False
        return True

    def _moved(self) -> tuple[int, ...] | None:
        """A fingerprint of all that has happened; None while something is under way."""
        worker = self.app._worker
        lent = self._lent
        if not self._open.is_set() or worker is None or lent.under_way:
            return None
        executions = worker.under_way
        if any(one.steps_in_flight for one in executions) or worker.expecting:
            return None
        if any(one.idleness.until is None for one in executions):
            return None
        activity = sum(one.activity for one in executions)
        return activity, len(executions), lent.calls, self._disk.commits, self._deaths

    async def _next_due(self) -> float | None:
        """The next moment at which something happens (epoch seconds); None when nothing will."""
        worker = self.app._worker
        executions = worker.under_way if worker is not None else ()
        worker_id = worker.id if worker is not None else ""
        moments = [self._lent.next_wake, *(one.idleness.until for one in executions)]
        moments += [alarm.at for one in executions for alarm in one.alarms if not alarm.due]
        gone = [one for one in await self._disk.store.workers() if one.id != worker_id]
        moments += [one.lease_until for one in gone if one.lease_until > self.clock.now()]
        due = [one for one in moments if one is not None and one != math.inf]
        return max(min(due), self.clock.now()) if due else None

    # Faults.

    def crash_at(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        run: str | None = None,
        commit: int | None = None,
        written: bool = False,
    ) -> None:
        """Let the process die at a commit, once, and begin anew at once.

        `before="0/charge#1"`: when the journal entry with that key is about to be written, so its
        step has run and is forgotten; `after=`: when it has just been written. `run` narrows that
        to one run. Or `commit=3`: the third commit from now, which is made if `written`.
        Raises SandboxError when it is not clear which.
        """
        if [before, after, commit].count(None) != 2:
            raise SandboxError(
                "it is not clear where to crash", hint="Give one of before=, after= and commit="
            )
        if commit is not None and commit < 1:
            raise SandboxError(f"there is no commit {commit}", hint="The next one is 1")
        key = after if before is None else before
        skip = 0 if commit is None else commit - 1
        self._disk.faults.append(Fault(True, written or after is not None, key, run, skip))

    def fail_commits(self, times: int = 1, *, when: Literal["before", "after"] = "before") -> None:
        """Let the next commits fail: the database is away `before` they are made, or the connection
        is lost `after` that, so that nobody knows."""
        if times < 1:
            raise SandboxError(f"commits cannot fail {times} times", hint="Give 1 or more")
        self._disk.faults += [Fault(False, when == "after") for _ in range(times)]

    async def crash(self) -> None:
        """Let the process die now, and begin anew: what was not committed is lost."""
        await self._opened()
        self._lent.gone = True
        self._die()
        await self._reborn()

    @property
    def crashes(self) -> int:
        """How often the process has died."""
        return self._deaths

    def _crash_soon(self) -> None:
        self._die()
        self._spawn(self._reborn())

    def _die(self) -> None:
        """From now on no code of a run does anything, and nothing is written."""
        self._open.clear()
        self._deaths += 1
        worker = self.app._worker
        for execution in worker.under_way if worker is not None else ():
            execution.lose(LeaseLost(f"run {execution.id}: the process has crashed"))

    async def _reborn(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.app.close()
        store = self._disk.store
        await store.commit([Heartbeat(worker.id, 0.0) for worker in await store.workers()])
        await self._begin()

    async def died_since(self, deaths: int) -> bool:
        """Whether the process has died since it had died so often; returns when it is back."""
        if self._open.is_set() and self.crashes == deaths:
            return False
        await self._opened()
        return True


class SandboxRun(Run[R]):
    """A handle to a run of a sandbox. It outlives crashes, and so does waiting for the result."""

    _sandbox: Sandbox

    async def result(self, timeout: float | None = None) -> R:
        """As `Run.result`. Time is skipped while this waits, unless the sandbox does not skip;
        `timeout` is real seconds."""
        while True:
            deaths = self._sandbox.crashes
            try:
                return await super().result(timeout)
            except (ConfigError, StoreUnavailable):
                if not await self._sandbox.died_since(deaths):
                    raise
