"""Runs that runs start, and the durable wait for how they end.

A call of a workflow inside a run (`await report(text)`) makes two entries of the parent's journal:

    0/report#1         kind "child"    it was started; its id, version and arguments
    0/report#1/ended   kind "ended"    its result, or how it failed

`app.start(...)` makes one entry (kind "start"), and each `await run.result()` one more (kind
"ended"). The id of a child is `<execution>/<key>`, so to start it again finds it; the store starts
nothing for a worker that does not own the parent any more. When a child ends, its parent is told by
a signal in the same transaction, and leaves memory meanwhile; when both are in one process, the
child's record is handed over there. A run that is nobody's child, or is detached, tells nobody: who
waits for one looks now and then, and gives up with RunMoved when it goes on elsewhere. A child
that is moved takes its parent along, which waits on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aura.codec import Slot, digest, is_encrypted, pack, plain, same_json, to_json, unpack
from aura.engine.calls import Call, execution_id, loop_is_closing
from aura.engine.elsewhere import has_left
from aura.engine.faults import run_error
from aura.engine.lanes import Lane, scope
from aura.engine.storeclock import end_wait
from aura.engine.traces import carrying
from aura.engine.waits import Wait, begun
from aura.errors import (
    AuraError,
    LeaseLost,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunMoved,
    RunNotFound,
    StoreUnavailable,
)
from aura.store.base import (
    CHILD_ENDED,
    TERMINAL,
    Outcome,
    RequestCancel,
    RunRecord,
    Signal,
    Started,
    StartRun,
    Store,
)
from aura.store.queues import Placement
from aura.store.search import Attributes

if TYPE_CHECKING:
    from aura.engine.definition import Registry, Workflow
    from aura.engine.execution import Execution
    from aura.store.base import Entry

log = logging.getLogger("aura.worker")

LONGEST_ID = 500
ENDED = "/ended"
_INLINE_INPUT = 2_048
_FIRST_LOOK, _LONGEST_LOOK = 15.0, 300.0  # seconds between looks at a run that tells nobody
_AGE_SHARE = 0.25  # ... or this part of its age
_NAP = 0.2  # seconds until a read that failed is tried again
_KEY_PATIENCE = 60.0  # seconds until a result whose key is missing is looked at again


def child_id(execution: str, key: str) -> str:
    """The id of the child that is started at that key; what would be too long is cut and hashed."""
    whole = f"{execution}/{key}"
    if len(whole) <= LONGEST_ID:
        return whole
    mark = digest(whole.encode())
    return f"{whole[: LONGEST_ID - len(mark) - 1]}~{mark}"


class Terms(NamedTuple):
    """How a child is started. A `detached` one outlives its parent and tells it nothing; `place` is
    where it waits, `deadline` (epoch seconds) until when it must be done, `attributes` are those
    by which it is found."""

    id: str | None = None
    detached: bool = False
    place: Placement | None = None
    deadline: float | None = None
    attributes: Attributes = ()


class Family:
    """What the runs of one worker need to have children."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        origin: str,
        start: Callable[[StartRun], asyncio.Future[Outcome]],
    ) -> None:
        self.registry = registry
        self.origin = origin
        self.start = start
        self.store = store
        self._wanted: dict[str, list[asyncio.Future[RunRecord | None]]] = {}
        self._stir = asyncio.Event()
        self._visitors: dict[str, list[Children]] = {}
        self.started: set[str] = set()  # the children of all that have not ended, as far as known

    def ended(self, run_id: str, record: RunRecord | None = None) -> None:
        """A run has ended, here (its record) or elsewhere: who waits for it though it is not its
        child looks at it. One that has only left memory, or is parked, has not."""
        if record is not None and record.state not in TERMINAL:
            return
        self.started.discard(run_id)
        for children in tuple(self._visitors.get(run_id, ())):
            children.wake(run_id, record)

    @contextlib.contextmanager
    def visiting(self, run_id: str, children: Children) -> Iterator[None]:
        """Somebody waits for a run that is not its child."""
        self._visitors.setdefault(run_id, []).append(children)
        try:
            yield
        finally:
            self._visitors[run_id].remove(children)
            if not self._visitors[run_id]:
                del self._visitors[run_id]

    async def record(self, run_id: str) -> RunRecord | None:
        """What the store has; all that is asked for at once is read by one query."""
        future: asyncio.Future[RunRecord | None] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(run_id, []).append(future)
        self._stir.set()
        return await future

    async def fetch(self, nap: Callable[[float], Any]) -> None:
        """For ever: what is asked for is read; `nap` waits for seconds."""
        while True:
            await self._stir.wait()
            await asyncio.sleep(0)  # for those that ask in the same round
            self._stir.clear()
            wanted, self._wanted = self._wanted, {}
            query = asyncio.ensure_future(self.store.runs_by_id(list(wanted)))
            try:
                found = await asyncio.shield(query)
            except asyncio.CancelledError:
                # The store closes next, and nothing may be left in it.
                await asyncio.gather(query, return_exceptions=True)
                raise
            except Exception as error:
                if not isinstance(error, StoreUnavailable):
                    log.exception("cannot read the records of children, trying again")
                for run_id, futures in wanted.items():
                    self._wanted.setdefault(run_id, []).extend(futures)
                self._stir.set()
                await nap(_NAP)
                continue
            records = {one.id: one for one in found}
            for run_id, futures in wanted.items():
                for future in futures:
                    if not future.done():
                        future.set_result(records.get(run_id))


class Children:
    """The children of one execution: which it has started, and who waits for which."""

    def __init__(self, execution: Execution, family: Family | None) -> None:
        self._execution = execution
        self._family = family
        self.own: set[str] = set()
        self._told: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[RunRecord | None]]] = {}

    @property
    def family(self) -> Family:
        assert self._family is not None  # noqa: S101  (who runs no worker executes nothing new)
        return self._family

    def add(self, child: str) -> None:
        """The run has started it, now or before, and is told of its end."""
        self.own.add(child)
        if self._family is not None:
            self._family.started.add(child)

    def over(self, child: str) -> None:
        """It has ended, as far as the journal or a signal says."""
        if self._family is not None:
            self._family.started.discard(child)

    @property
    def store(self) -> Store | None:
        """The store in which this run is; None in a rehearsal."""
        return None if self._family is None else self._family.store

    def are_in(self, store: Store | None) -> bool:
        """Whether that is the store in which this run and its children are. A rehearsal has none:
        the journal answers."""
        return self._family is None or self._family.store is store

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for one."""
        return bool(self._waiting)

    def hear(self, signals: Iterable[Signal]) -> bool:
        """Signals have come, of which some say that a child has ended; whether that woke
        somebody."""
        woken = False
        for signal in signals:
            if signal.name == CHILD_ENDED:
                child = signal.id.removeprefix(CHILD_ENDED + ":")
                self._told.add(child)
                self.over(child)
                woken |= self.wake(child, None)
        return woken

    def ended(self, record: RunRecord) -> None:
        """One of them has ended in this process."""
        if record.state in TERMINAL and not self.wake(record.id, record):
            self._told.add(record.id)

    def wake(self, child: str, record: RunRecord | None) -> bool:
        """Let those who wait for that run go on, with its record if it is known."""
        waiting = [one for one in self._waiting.get(child, ()) if not one.done()]
        for future in waiting:
            future.set_result(record)
        return bool(waiting)

    async def end_of(self, child: str, wait: Wait) -> RunRecord | None:
        """The record of the run when it has ended; None when the time is over before. Raises
        RunNotFound."""
        if child not in self.own:
            return await self._end_of_stranger(child, wait)
        while True:
            if child in self._told:
                record = await self._look(child)
                if record.state in TERMINAL:
                    return record
                self._told.discard(child)
            told = await self._wait(child, wait.until, wait.say)
            if told is not None:
                return told
            if child not in self._told:
                return None

    async def _end_of_stranger(self, run_id: str, wait: Wait) -> RunRecord | None:
        clock = self._execution.clock
        while True:
            record = await self._look(run_id)
            if record.state in TERMINAL:
                return record
            if record.state == "moved" and await has_left(self.family.store, run_id):
                return record
            now = clock.now()
            if now >= wait.until:
                return None
            age = _AGE_SHARE * (now - record.created_at)
            pause = min(_LONGEST_LOOK, max(_FIRST_LOOK, age))
            with self.family.visiting(run_id, self):
                told = await self._wait(run_id, min(wait.until, now + pause), wait.say)
            if told is not None:
                return told

    async def _look(self, run_id: str) -> RunRecord:
        record = await self.family.record(run_id)
        if record is None:
            raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
        return record

    async def _wait(
        self, child: str, until: float, say: Callable[[], None] | None
    ) -> RunRecord | None:
        """The record, when it was handed over; None when there is something to look at, or when
        the time is over."""
        execution = self._execution
        future: asyncio.Future[RunRecord | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(child, []).append(future)
        alarm = None if until == math.inf else end_wait(execution.clock, until, future)
        try:
            with execution.idleness.waiting(until, say):
                return await future
        finally:
            if alarm is not None:
                alarm.cancel()
            self._waiting[child].remove(future)
            if not self._waiting[child]:
                del self._waiting[child]

    def stop(self, child: str) -> None:
        """Ask a child to stop. A request that is lost is made again when this run ends."""
        self._execution.recorder.post(RequestCancel(child), _look_away)


def _look_away(_: Outcome | BaseException) -> None:
    """Nobody waits for it."""


# Starting.


async def call(
    workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], number: int
) -> Any:
    """Start a child and give its result; `number` is that of the durable call. When the caller is
    cancelled the child is asked to stop. Raises RunFailed, RunCancelled, InvalidInput."""
    lane = _lane()
    lane.execution.began(number)
    key = lane.key(workflow.name)
    place = None if workflow.queue is None else Placement(workflow.queue)
    child = await _started(lane, key, "child", workflow, (args, kwargs), Terms(place=place))
    try:
        slot = workflow.signature.result
        return await _ended(lane, key + ENDED, child, slot, None, said=True)
    except asyncio.CancelledError:
        if not _leaving(lane.execution) and child in lane.execution.children.own:
            lane.execution.children.stop(child)
        raise


async def start(
    number: int,
    workflow: Workflow[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    terms: Terms,
) -> str:
    """Start a child; its id. Raises RunConflict, InvalidInput, PayloadTooLarge."""
    lane = _lane()
    lane.execution.began(number)
    key = lane.key(f"start:{workflow.name}")
    return await _started(lane, key, "start", workflow, (args, kwargs), terms)


async def _started(
    lane: Lane,
    key: str,
    kind: str,
    workflow: Workflow[..., Any],
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    terms: Terms,
) -> str:
    execution = lane.execution
    data = workflow.signature.dump_checked(*arguments, execution.limits)
    fingerprint = workflow.signature.fingerprint(data)
    entry = execution.recorded(key, kind, fingerprint)
    if entry is not None:
        return await _again(execution, entry)
    await execution.ready_for_new(lane)
    await execution.recorder.durable()
    if execution.shadow is not None:
        baseline = execution.shadow.baseline
        baseline = terms.id or (child_id(baseline, key) if baseline else "")
        terms = terms._replace(id=None, place=execution.shadow.place(terms.place, baseline))
    chosen = terms.id or child_id(execution_id(execution.record), key)
    op = _op(execution, chosen, workflow, data, fingerprint, terms)
    call = Call(key, fingerprint, data if len(data) <= _INLINE_INPUT else None)
    try:
        found = await _submitted(execution, op)
        check_same(op, found)
    except RunConflict as conflict:
        await _answer(execution, call, kind, error=_dump_error(conflict))
        raise
    # One that has ended already (its start is repeated) will tell nothing any more.
    own = found.parent == execution.id and not found.detached and found.state not in TERMINAL
    if own:
        execution.children.add(found.id)
    said = {"id": found.id, "workflow": found.workflow, "version": found.version}
    parent = execution.id if own else None  # a copy of this journal is not its parent
    await _answer(execution, call, kind, output=to_json(said | {"parent": parent}))
    return found.id


def _op(
    execution: Execution,
    chosen: str,
    workflow: Workflow[..., Any],
    data: bytes,
    fingerprint: str,
    terms: Terms,
) -> StartRun:
    family = execution.children.family
    family.registry.add(workflow)
    packed = pack(data, execution.limits, f"the input of workflow {workflow.name}")
    return StartRun(
        chosen, workflow.name, workflow.version, packed, fingerprint, carrying(family.origin),
        parent=execution.id, parent_epoch=execution.record.epoch, detached=terms.detached,
        place=terms.place, deadline=terms.deadline, attributes=terms.attributes,
    )  # fmt: skip


async def _again(execution: Execution, entry: Entry) -> str:
    """What the journal says of a start."""
    if entry.kind == "start":
        await execution.turn_of(entry)
    if entry.error is not None:
        raise _load_error(entry.error)
    said = plain(entry.output)
    if said["parent"] == execution.id:
        execution.children.add(said["id"])
    return str(said["id"])


async def _answer(
    execution: Execution,
    call: Call,
    kind: str,
    *,
    output: bytes | None = None,
    error: bytes | None = None,
) -> None:
    """Journal a start. That of a call is seen by nobody before its end, so it takes no turn."""
    if kind == "start":
        await execution.answer(call, kind, output, error=error)
    else:
        execution.recorder.record(call, kind, output=output, error=error)


async def _submitted(execution: Execution, op: StartRun) -> RunRecord:
    """The run, once it is durable. Whoever is cancelled meanwhile leaves a child that the end of
    this run stops."""
    try:
        started = await asyncio.shield(execution.children.family.start(op))
    except asyncio.CancelledError:
        if not _leaving(execution) and not op.detached:
            execution.children.stop(op.id)
        raise
    except (LeaseLost, StoreUnavailable) as error:
        execution.lose(error)
        execution.raise_if_stopped()
        raise
    return cast("Started", started).run


def check_same(op: StartRun, found: RunRecord) -> None:
    """Raises RunConflict when the id belongs to a run of another workflow or input."""
    if found.id != op.id:
        return  # another start with the same dedup was first
    same = found.fingerprint == op.fingerprint or same_json(found.input, op.input)
    if found.workflow != op.workflow or not same:
        raise RunConflict(
            f"run {op.id} exists with another input or workflow "
            f"({found.workflow} {found.version}, {found.state})",
            hint="Choose another id, or start it with the same input",
        )


# Waiting.


async def result(number: int, run_id: str, slot: Slot | None, timeout: float | None) -> Any:
    """The result of any run, durably. Raises RunFailed, RunCancelled, RunMoved, ResultTimeout,
    RunNotFound."""
    lane = _lane()
    lane.execution.began(number)
    return await _ended(lane, lane.key("result") + ENDED, run_id, slot, timeout)


async def _ended(
    lane: Lane,
    key: str,
    run_id: str,
    slot: Slot | None,
    timeout: float | None,
    *,
    said: bool = False,
) -> Any:
    """How the run has ended; `said`: the journal tells anyway that it is waited for."""
    execution = lane.execution
    mark = digest(run_id.encode())
    waited = None if said else execution.recorded(key + "/wait", "wait", mark)
    entry = execution.recorded(key, "ended", mark)
    if entry is not None:
        await execution.turn_of(entry)
        output, error = entry.output, entry.error
    else:
        await execution.ready_for_new(lane)
        asked = Call(key + "/wait", mark, to_json({"run": run_id}))
        wait = begun(execution, asked, timeout, waited)
        if said:
            wait = wait._replace(say=None)
        try:
            record: RunRecord | AuraError | None = await execution.children.end_of(run_id, wait)
        except RunNotFound as missing:
            record = missing
        await _require_keys(execution, record)
        if execution.shadow is not None and isinstance(record, RunRecord):
            execution.shadow.ended(run_id, record.error)
        output = record.output if isinstance(record, RunRecord) else None
        error = _dump_error(_failure(record, run_id, timeout)) if output is None else None
        await execution.answer(
            Call(key, mark, None), "ended", output, error=error, started=wait.began
        )
    if error is None or timeout is None:
        execution.children.over(run_id)
    if error is not None:
        raise _load_error(error)
    assert output is not None  # noqa: S101  (one of the two is always there)
    return plain(output) if slot is None else slot.load(unpack(output))


def _failure(record: RunRecord | AuraError | None, run_id: str, timeout: float | None) -> AuraError:
    if isinstance(record, AuraError):
        return record
    if record is not None:
        return run_error(record)
    return ResultTimeout(
        f"run {run_id} has no result after {timeout:g} s", hint="It goes on; ask again"
    )


def _dump_error(error: AuraError) -> bytes:
    kind = type(error).__name__
    said = {"kind": kind, "type": kind, "message": error.message, "hint": error.hint}
    for name in ("run_id", "type", "traceback"):
        if hasattr(error, name):
            said[name] = getattr(error, name)
    return to_json(said)


def _load_error(data: bytes) -> AuraError:
    said = plain(data)
    kind, text, hint = said["kind"], said["message"], said["hint"]
    if kind == "RunFailed":
        where = {"run_id": said["run_id"], "type": said["type"], "traceback": said["traceback"]}
        return RunFailed(text, **where)
    if kind == "RunCancelled":
        return RunCancelled(text, run_id=said["run_id"], hint=hint)
    if kind == "RunMoved":
        return RunMoved(text, run_id=said["run_id"], hint=hint)
    plain_kinds = {one.__name__: one for one in (ResultTimeout, RunConflict, RunNotFound)}
    return plain_kinds.get(kind, AuraError)(text, hint=hint)


async def _require_keys(execution: Execution, record: RunRecord | AuraError | None) -> None:
    """A run that cannot read how another one ended waits for a worker that can."""
    if not isinstance(record, RunRecord):
        return
    if is_encrypted(record.output) or is_encrypted(record.error):
        log.warning("run %s waits for a worker with the key of %s", execution.id, record.id)
        execution.suspend(execution.clock.now() + _KEY_PATIENCE)
        await asyncio.get_running_loop().create_future()


def _leaving(execution: Execution) -> bool:
    """Whether nobody has cancelled anything: the run leaves this process, or the process ends."""
    return execution.stopped or loop_is_closing()


def _lane() -> Lane:
    lane = scope.get()
    assert type(lane) is Lane  # noqa: S101  (set for every task of a run)
    return lane
