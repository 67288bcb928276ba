"""Replaying a recorded history against the code at hand, without effects and without a database.

The workflow's function runs as after a crash, answered by the journal. Where a worker would begin
something new, the rehearsal lets it wait for ever instead; what is made up on the way (a time, a
random number) goes nowhere: there is no store behind the writer, time stands still, and no step's
code is reached. It ends when all that is recorded has been asked for, when the function has ended,
or when nothing moves any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterable
from concurrent.futures import Executor, Future
from typing import Any, NoReturn

from aura.codec import Limits, same_json
from aura.engine.calls import Services
from aura.engine.definition import Registry, Workflow
from aura.engine.execution import Execution
from aura.engine.faults import unreadable
from aura.engine.lanes import Lane, install, scope
from aura.engine.replaying import Ending, ReplayReport, RunReplay, Side, Tally, judge, shown, side
from aura.errors import AuraError, NonDeterminism, Suspended, UnknownWorkflow
from aura.store.base import Claimed, Entry, Op, Outcome, Settle

_LOOK, _ROUNDS = 0.02, 40  # seconds, and rounds of the event loop, between looks for movement ...
_QUIET = 15  # ... and after so many without any nothing moves any more
_PATIENCE = 1.0  # seconds for the code to end when it is cancelled
_MOST_LEFT = 20  # entries that nobody asked for, in a report


async def rehearse_all(
    registry: Registry,
    histories: AsyncIterable[Claimed],
    *,
    version: str | None = None,
    at_once: int = 50,
) -> ReplayReport:
    """Replay histories, so many at once, and report what would diverge.

    Each meets the code of the version that wrote it, or of `version`. What is not registered here,
    or does not open, is reported as skipped.
    """
    tally = Tally()
    running: set[asyncio.Task[RunReplay]] = set()
    install(asyncio.get_running_loop())
    async for history in histories:
        running.add(asyncio.create_task(_one(registry, history, version)))
        if len(running) >= at_once:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                tally.add(task.result())
    for one in await asyncio.gather(*running):
        tally.add(one)
    return tally.report()


async def _one(registry: Registry, history: Claimed, version: str | None) -> RunReplay:
    run = history.run
    reason: AuraError | None = unreadable(history)
    try:
        workflow = registry.get(run.workflow, version or run.version)
    except UnknownWorkflow as error:
        reason = error
    if reason is not None:
        return RunReplay(
            run.id, run.workflow, run.version, version or run.version, run.state,
            len(history.journal), reason=str(reason),
        )  # fmt: skip
    return await rehearse(workflow, history)


async def rehearse(workflow: Workflow[..., Any], history: Claimed) -> RunReplay:
    """Replay one history against a version of its workflow. Nothing outside is touched."""
    install(asyncio.get_running_loop())
    run = history.run
    rehearsal = Rehearsal(workflow, history)
    ending, settled = await rehearsal.rest()
    return RunReplay(
        run.id, run.workflow, run.version, workflow.version, run.state, len(history.journal),
        judge(ending, run.state),
        "" if ending.left or not ending.held else str(ending.held[0]),
        _differs(history, settled),
    )  # fmt: skip


def _differs(history: Claimed, settled: Settle | None) -> bool:
    """Whether an ended run would end otherwise now."""
    if settled is None or history.run.state not in ("completed", "failed"):
        return False
    if settled.state != history.run.state:
        return True
    mine, theirs = history.run.output, settled.output
    return mine is not None and theirs is not None and not same_json(mine, theirs)


class Rehearsal(Execution):
    """An execution that begins nothing new."""

    def __init__(self, workflow: Workflow[..., Any], history: Claimed) -> None:
        moment = max([one.recorded_at for one in history.journal] or [history.run.created_at])
        services = Services(
            _Nowhere(), _Frozen(moment), Limits(), _NoThreads(), history.run.origin, lambda _: None
        )
        super().__init__(services, workflow, history)
        self._moved = asyncio.Event()
        self._new: Side | None = None
        self._held: list[Side] = []
        self._mismatch: tuple[Side, Side] | None = None
        self._ended: Settle | None = None

    async def rest(self) -> tuple[Ending, Settle | None]:
        """Run until nothing is left to be replayed; where that is, and how the run ended, if so."""
        context = contextvars.copy_context()
        context.run(scope.set, None)
        root = context.run(asyncio.get_running_loop().create_task, self._rehearse())
        self._root = root
        await self._until_quiet(root)
        returned = root.done()
        left = self._replay.left()
        held = tuple(self._held)
        await self._dismiss(root)
        settled = self._ended if returned else None
        error = ""
        if settled is not None and settled.state == "failed":
            error = shown(settled.error) or "an error"
        ending = Ending(left[:_MOST_LEFT], held, returned, error, self._mismatch)
        return ending, settled

    async def _rehearse(self) -> None:
        scope.set(Lane(self))
        if self._cancel_due:
            self._watch_for_cancel()
        ending = await self._ending()
        self._ended = ending if isinstance(ending, Settle) else None
        scope.set(None)
        self._settling = True

    async def _until_quiet(self, root: asyncio.Task[None]) -> None:
        looked, quiet = -1, 0
        while quiet < _QUIET and not root.done():
            self._moved.clear()
            if self._held and not self.behind:
                return
            moved = asyncio.ensure_future(self._moved.wait())
            await asyncio.wait({root, moved}, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
            for _ in range(_ROUNDS):  # a busy machine is no rest
                await asyncio.sleep(0)
            progress = self.activity + self._turns.given
            quiet = quiet + 1 if progress == looked else 0
            looked = progress

    async def _dismiss(self, root: asyncio.Task[None]) -> None:
        """End the code, whatever it tries to do on its way out: no durable call does anything."""
        self._stop = self._stop or Suspended(f"the rehearsal of run {self.id} is over")
        for alarm in tuple(self.alarms):
            alarm.close()
        tasks = {root, *self._tasks}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_PATIENCE)
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # looked at: it cannot matter any more

    # Where a worker would begin something.

    async def ready_for_new(self, lane: Lane) -> None:
        if self._cancel_due:
            await super().ready_for_new(lane)
        asked = self._new or Side(f"{lane.id}/?", "call")
        self._held.append(asked)
        self._replay.attempt(asked.key)  # it would be tried again
        self._moved.set()
        try:
            await asyncio.get_running_loop().create_future()  # for ever
        finally:
            with contextlib.suppress(ValueError):
                self._held.remove(asked)

    def _take(
        self, key: str, kind: str, fingerprint: str, data: bytes | None = None
    ) -> Entry | None:
        recorded = self._replay.peek(key)
        try:
            found = super()._take(key, kind, fingerprint, data)
        except NonDeterminism:
            assert recorded is not None  # noqa: S101  (what is not recorded cannot differ)
            asked = Side(key, kind, fingerprint, shown(data))
            self._mismatch = self._mismatch or (side(recorded), asked)
            raise
        if found is None:
            self._new = Side(key, kind, fingerprint, shown(data))
        return found


class _Nowhere:
    """A writer without a store: what is submitted is never durable."""

    def submit(self, op: Op) -> asyncio.Future[Outcome]:  # noqa: ARG002  (a Writer)
        return asyncio.get_running_loop().create_future()

    def post(self, op: Op, done: object) -> None:
        """Nobody is ever told."""

    def post_later(self, op: Op, done: object) -> None:
        """Nor here."""

    def hurry(self, run_id: str | None = None) -> None:
        """There is nothing to hurry."""

    def written(self) -> dict[str, int]:
        return {}


class _Frozen:
    """A clock that stands still; who sleeps does so for ever."""

    def __init__(self, at: float) -> None:
        self._at = at

    def now(self) -> float:
        return self._at

    def monotonic(self) -> float:
        return self._at

    async def sleep(self, seconds: float) -> None:  # noqa: ARG002  (a Clock)
        await asyncio.get_running_loop().create_future()


class _NoThreads(Executor):
    """Nothing runs in threads."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        _refuse()


def _refuse() -> NoReturn:
    raise AssertionError("a rehearsal runs no step")
