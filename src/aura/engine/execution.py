"""One run in memory: its function, its journal, and how it ends.

    replaying ──▶ live ──▶ settled         the function returned, raised, was cancelled or diverged
        │          │
        └──────────┴─────▶ suspended       `suspend`:  only timers are left, or the worker stops
        └──────────┴─────▶ lost            `lose`: another worker owns the run, nothing is written

Invariants: (1) entries are numbered and submitted in the order in which they come to be, and the
committer keeps that order, so what is durable is always a prefix; (2) an effectful step begins only
when everything before it is durable (`Recorder.durable`), and so does what a run sends out by
itself; (3) after `_stop` is set no durable call does anything but raise it, whatever user code
catches.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aura.clock import Clock
from aura.codec import Limits, pack, plain, to_json, unpack
from aura.engine.attempt import attempt_until_done
from aura.engine.calls import Call, Services
from aura.engine.children import Children
from aura.engine.definition import Workflow
from aura.engine.departed import Departed
from aura.engine.faults import dump_run_error, load_step_failure
from aura.engine.idleness import Idleness
from aura.engine.lanes import Lane, scope
from aura.engine.mailbox import Mailbox
from aura.engine.middleware import Invocation, concerning, wrapped
from aura.engine.patching import Patches
from aura.engine.pen import Pen
from aura.engine.precedence import Precedence
from aura.engine.recorder import Recorder
from aura.engine.replay import Replay, Turns
from aura.engine.shadow import Shadow, is_compensation, is_shadow
from aura.engine.storeclock import sleep_till
from aura.engine.streams import Streams
from aura.engine.succession import succession
from aura.engine.timeouts import Alarm, in_time
from aura.engine.traces import begin_in_trace, process_of, trace_of
from aura.errors import (
    AuraError,
    BeginAnew,
    EffectSuppressed,
    HistoryTooLong,
    LeaseLost,
    NonDeterminism,
    RegistrationError,
    StoreUnavailable,
    Suspended,
)
from aura.store.base import Announce, Claimed, Entry, Outcome, RunState, Settle, Signal
from aura.store.session import Isolation, Session

if TYPE_CHECKING:
    from aura.engine.step import Step

R = TypeVar("R")

_REST = 6  # rounds for what a workflow does between two durable calls (queues, events, cancelling)
_INLINE_INPUT = 2_048  # longer inputs of steps are kept as a fingerprint only


class Execution:
    """Runs one claimed run to its end, unless it is lost or suspended before."""

    def __init__(self, services: Services, workflow: Workflow[..., Any], claimed: Claimed) -> None:
        self.record = claimed.run
        self.id = claimed.run.id
        self.workflow = workflow
        self._epoch = claimed.run.epoch
        self._services = services
        self.around = concerning(services.around, claimed.run)
        self._replay = Replay(claimed.journal)
        self._turns = Turns(self._replay.answers)
        self.recorder = Recorder(self, services, max(self._replay.length, claimed.run.base))
        self.recorder.history.recorded(claimed.journal)
        self.pen = Pen(self.recorder)
        precedence = services.precedence or Precedence(services.clock)
        self.mailbox = Mailbox(claimed.signals, self._replay.received, precedence)
        self.mailbox.seen = max(self.mailbox.seen, claimed.run.signals)
        self.children = Children(self, services.family)
        self.children.hear(claimed.signals)
        self.streams = Streams(self, self._replay.streams)
        self.patches = Patches(self, self._replay.patches)
        self.idleness = Idleness(self, services)
        self.shadow = Shadow(self, claimed.journal) if is_shadow(claimed.run.queue) else None
        self._seen: int | None = None  # the last signal that was considered before leaving memory
        self._stop: BaseException | None = None
        self._wake_at: float | None = None
        self._root: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._called: dict[int, tuple[str, Coroutine[Any, Any, Any]]] = {}
        self._calls = 0
        self._deepest = 0
        self._cancel_due = claimed.run.cancel_requested
        self._cancelled = False
        self.pressing = False  # it handles a critical signal: what it writes goes before others'
        self.held = 0  # scopes whose end a cancel request waits for
        self.alarms: set[Alarm] = set()
        self._settling = False
        self.activity = 0
        self.steps_in_flight = 0
        self.effects_in_flight = 0
        self._releasing = False
        self._release_at: float | None = None
        self.ended = False
        self.cut_off: Exception | None = None  # after which what was written is not known
        self.lost = False  # it is another worker's
        self.settled = False
        self.asleep = False  # it waits out of memory, as far as this worker knows

    # Driven by the worker.

    async def run(self) -> None:
        """Run the workflow and write down how it ended. Returns also when it is lost."""
        self._root = asyncio.current_task()
        scope.set(Lane(self))
        begin_in_trace(self.record)
        if self._stop is not None and self._root is not None:
            self._root.cancel()  # stopped before it began
        if self._cancel_due:
            self._watch_for_cancel()
        ending = await self._ending()
        scope.set(None)
        self._settling = True
        if self._stop is not None or self._cancelled:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # where a second request to stop ends
        await self._end_tasks()
        if ending is None:
            return
        self.streams.flush()
        if isinstance(self._stop, HistoryTooLong):
            ending = self._settle("parked", error=dump_run_error(self._stop))
        op = succession(self, ending) if isinstance(ending, BeginAnew) else ending
        try:
            written = self._services.writer.submit(op)
            if self.pressing:
                self._services.writer.hurry(self.id)
            await written
        except (LeaseLost, StoreUnavailable) as error:
            self.lose(error)
            return
        self.ended = True
        self.settled = True
        if isinstance(ending, BeginAnew):
            return
        self.asleep = ending.state == "waiting"
        self._services.settled(
            self.record._replace(
                state=ending.state, output=ending.output, error=ending.error, owner=None
            )
        )

    @property
    def clock(self) -> Clock:
        return self._services.clock

    @property
    def limits(self) -> Limits:
        return self._services.limits

    @property
    def threads(self) -> Executor:
        return self._services.threads

    def session(self, isolation: Isolation | None) -> Session:
        """A transaction on the database that has the journal."""
        return self._services.session(isolation)

    @property
    def lent(self) -> Mapping[type, object]:
        """What the app lends to the code of its runs."""
        return self._services.lent

    @property
    def stopped(self) -> bool:
        """Whether the run is leaving this worker, so that nothing more is written."""
        return self._stop is not None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop: the store lets such a run not go to sleep."""
        return self._cancel_due or self._cancelled

    @property
    def behind(self) -> bool:
        """Whether the journal has something that the code has not asked for yet."""
        return self._replay.behind or self.streams.behind

    def tell(self, what: Announce) -> None:
        """Announce a topic once what was submitted is durable; a lost one costs a slow poll."""
        self.recorder.post(what, _look_away)
        if self.pressing:
            self._services.writer.hurry(self.id)

    def cancel(self) -> None:
        """Ask the workflow to stop: CancelledError is raised where it waits. Idempotent."""
        if self._cancelled or self._settling:
            return
        self._cancel_due = True
        if self._root is None:
            return  # `run` will look
        if self._replay.exhausted:
            self._deliver_cancel()
        else:
            self._watch_for_cancel()

    def lose(self, reason: BaseException) -> None:
        """Stop at once and write nothing more: the run is another worker's."""
        self.lost = True
        if isinstance(reason, Exception):
            self.cut_off = reason
        if not isinstance(self._stop, LeaseLost):
            self._stop = (
                reason if isinstance(reason, LeaseLost) else LeaseLost(f"run {self.id}: {reason}")
            )
        if self._root is not None and not self._settling:
            self._root.cancel()

    def park(self, reason: AuraError) -> None:
        """Stop, keep everything and wait for a person; `reason` is what they see."""
        self._stop = self._stop or reason
        if self._root is not None and not self._settling:
            self._root.cancel()

    def hold_cancel(self, by: int) -> None:
        """Let a cancel request wait (1) until everybody has let it go again (-1)."""
        self.held += by
        if self._cancel_due and not self.held:
            self.cancel()
        for alarm in tuple(self.alarms):
            alarm.freed(self.held)

    def deliver(self, signals: Iterable[Signal]) -> None:
        """Signals that were sent to the run, in order of seq; those that are known do no harm."""
        signals = tuple(signals)
        woken = self.children.hear(signals)
        if self.mailbox.deliver(signals) or woken:
            self.activity += 1

    def suspend(self, wake_at: float | None = None) -> None:
        """Stop and leave memory: until then (epoch seconds; infinite: until a signal comes), or
        claimable again at once, by this worker or another."""
        if self._stop is None and not self._settling:
            self._stop = Suspended(f"run {self.id} is waiting")
            self._wake_at = wake_at
            self._seen = self.mailbox.seen
            if self._root is not None:
                self._root.cancel()

    def release(self, wake_at: float | None = None) -> None:
        """Suspend until then, as soon as no effect is under way: none is begun, none made twice."""
        if self.effects_in_flight:
            self._releasing, self._release_at = True, wake_at
        else:
            self.suspend(wake_at)

    def leave(self) -> None:
        """It is over here: its parts and it let go of each other."""
        departed = cast("Execution", Departed(self.id))
        self.recorder._execution = self.streams._execution = departed
        self.children._execution = self.patches._execution = departed
        self.idleness._execution = departed
        self._root = None

    def track(self, task: asyncio.Task[Any], depth: int) -> None:
        """A branch was created, so many branches below the workflow function."""
        self._deepest = max(self._deepest, depth)
        self._tasks.add(task)
        self._turns.stir(self._rest)
        task.add_done_callback(self._tasks.discard)

    # What durable calls are made of.

    def called(
        self, name: str, make: Callable[[int], Coroutine[Any, Any, R]]
    ) -> Coroutine[Any, Any, R]:
        """A durable call was made; `make` gets its number, which `began` takes when awaited."""
        self._calls += 1
        made = make(self._calls)
        self._called[self._calls] = (name, made)
        return made

    def began(self, call: int) -> None:
        """A durable call is awaited. Raises what has stopped the run."""
        del self._called[call]
        self.activity += 1
        if self._tasks or self.alarms:
            self._turns.stir(self._rest)
        self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        if self._stop is not None:
            raise self._stop

    async def step(
        self, lane: Lane, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The result of a step: from the journal, or by running it."""
        key = lane.key(step.name)
        data = step.signature.dump(args, kwargs)
        fingerprint = step.signature.fingerprint(data)
        entry = self._take(key, "step", fingerprint, data)
        if entry is not None:
            await self._turns.take(entry.seq, self._rest)
            if entry.error is not None:
                raise load_step_failure(entry.error)
            if self.shadow is not None and is_compensation(key):
                return None
            assert entry.output is not None  # noqa: S101  (one of the two is always there)
            return step.signature.result.load(unpack(entry.output))
        await self.ready_for_new(lane)
        if self.shadow is not None and not step.idempotent:
            return await self.shadow.step(step, Call(key, fingerprint, data), (args, kwargs))
        if not step.idempotent:
            await self.recorder.durable()
            if self._releasing:
                await asyncio.get_running_loop().create_future()  # until the others have ended
        else:
            await self.recorder.durable(self.recorder.values)
        self.steps_in_flight += 1
        self.effects_in_flight += not step.idempotent
        try:
            call = Call(key, fingerprint, data if len(data) <= _INLINE_INPUT else None)
            return await attempt_until_done(self, step, (args, kwargs), call)
        finally:
            self.steps_in_flight -= 1
            self.effects_in_flight -= not step.idempotent
            if self._releasing and not self.effects_in_flight:
                self.suspend(self._release_at)

    def value(self, lane: Lane, name: str, make: Callable[[], Any]) -> Any:
        """A journalled value that is made once: the time, a random number, an id."""
        self.raise_if_stopped()
        key = lane.key(name)
        entry = self._take(key, "value", "")
        if entry is not None:
            return plain(entry.output)
        made = make() if self.shadow is None else self.shadow.value(key, name, make)
        seq = self.recorder.record(Call(key, "", None), "value", output=to_json(made), later=True)
        self.recorder.values = seq
        return made

    async def sleep_until(self, lane: Lane, name: str, when: Callable[[], float]) -> None:
        """Return at a time (epoch seconds) that is fixed by the first call."""
        key = lane.key(name)
        entry = self._take(key, "sleep", "")
        if entry is not None:
            at = float(plain(entry.output))
            woke = self._take(key + "/woke", "woke", "")
            if woke is not None:
                await self._turns.take(woke.seq, self._rest)
                return
        await self.ready_for_new(lane)
        if entry is None:
            at = when()
            self.recorder.record(Call(key, "", None), "sleep", output=to_json(at))
        await self.wait_until(at)
        await self.answer(Call(key + "/woke", "", None), "woke", later=True)

    async def hold_lease(self) -> None:
        """Return when nobody else can have the run. Raises what has stopped it meanwhile."""
        tenure = self._services.tenure
        while tenure is not None and tenure.over:
            await tenure.hold()
            self.raise_if_stopped()

    def peek(self, key: str) -> Entry | None:
        """What the journal has under a key that has not been asked for yet."""
        return self._replay.peek(key)

    def recorded(self, key: str, kind: str, fingerprint: str = "") -> Entry | None:
        """What the journal has under that key; None when it is new. Raises NonDeterminism."""
        return self._take(key, kind, fingerprint)

    async def turn_of(self, answer: Entry) -> None:
        """Return when it is a recorded answer's turn to be given."""
        await self._turns.take(answer.seq, self._rest)

    async def ready_for_new(self, lane: Lane) -> None:
        """Return when the journal's answers have been given, and raise what has stopped the run."""
        if self._turns.replaying:
            await self._turns.caught_up()
        if self._cancel_due:
            await self._cancel_here(lane)
        for alarm in tuple(self.alarms):
            if alarm.overdue:
                await asyncio.wait([alarm.rung])  # nothing new begins after its time

    async def caught_up(self) -> None:
        """Return when the journal's answers have been given."""
        if self._turns.replaying:
            await self._turns.caught_up()

    def drop_turn(self, answer: Entry) -> None:
        """Nobody asks for that recorded answer any more."""
        self._turns.drop(answer.seq)

    def last_attempt(self, key: str) -> Entry | None:
        """The last failed attempt of that call, if the journal ends with one."""
        return self._replay.attempt(key)

    async def answer(
        self,
        call: Call,
        kind: str,
        output: bytes | None = None,
        *,
        written: Callable[[], Awaitable[None]] | None = None,
        **more: Any,
    ) -> None:
        """Journal an answer, and return when it is its turn to be given. It need not be durable
        yet: what becomes visible outside waits for that. With `written` it is when that returns;
        when that raises, there is no such answer."""
        seq = self.recorder.record(call, kind, output=output, **more)
        in_turn = bool(self._tasks or self.alarms)
        if in_turn:
            self._turns.expect(seq, promised=written is not None)
        if written is not None:
            try:
                await written()
            except BaseException:
                if in_turn:
                    self._turns.drop(seq)
                raise
        if in_turn:
            await self._turns.take(seq, self._rest)

    async def wait_until(self, at: float) -> None:
        """Return at that time (epoch seconds). Raises what has stopped the run meanwhile."""
        if at > self.clock.now():
            with self.idleness.waiting(at):
                await sleep_till(self.clock, at)

    # Inside.

    async def _ending(self) -> Settle | BeginAnew | None:
        """Run the function; the settlement to write, or None when the run is lost."""
        try:
            if self.shadow is not None:
                await self.shadow.open()
            arguments = self.workflow.signature.load(unpack(self.record.input))
            value = await in_time(self, self._call(arguments))
            self._check_awaited()
            data, _ = self.workflow.signature.result.round_trip(value)
            output = pack(data, self._services.limits, self.workflow.signature.result.what)
        except asyncio.CancelledError as error:
            if self._stop is not None or self._cancelled:
                return self._end("cancelled", error=error)
            if self._root is not None and self._root.cancelling():
                raise  # the event loop is closing; the lease will run out
            return self._end("failed", error=error)  # a branch of its own was
        except BeginAnew as anew:
            return anew if self._stop is None else self._end("pending")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (it becomes the run's result)
            return self._end("failed", error=error)
        return self._end("completed", output=output)

    async def _call(self, arguments: Mapping[str, Any]) -> Any:
        function = self.workflow.function
        if not self.around:
            return await function(**arguments)
        run, lane = self.record, scope.get()

        async def proceed() -> Any:
            outer = scope.set(lane)
            try:
                return await function(**arguments)
            finally:
                scope.reset(outer)

        scope.set(None)  # what middleware awaits is none of the run's business
        what = Invocation(
            "run", run.workflow, run.id, run.workflow, run.version, "", run.epoch,
            trace_of(run), run.execution,
        )  # fmt: skip
        try:
            return await wrapped(self.around, what, proceed)
        finally:
            scope.set(lane)

    def _end(
        self, state: RunState, *, output: bytes | None = None, error: BaseException | None = None
    ) -> Settle | None:
        """How the run ends: as its function did, unless the engine stopped it meanwhile."""
        if self._stop is None:
            said = None if error is None else dump_run_error(error)
            return self._settle(state, output=output, error=said)
        if isinstance(self._stop, EffectSuppressed):
            return self._settle("cancelled", error=dump_run_error(self._stop))
        if isinstance(self._stop, AuraError):
            return self._settle("parked", error=dump_run_error(self._stop))
        if isinstance(self._stop, Suspended):
            waits: RunState = "pending" if self._wake_at is None else "waiting"
            return self._settle(waits, wake_at=self._wake_at if self._wake_at != math.inf else None)
        return None

    def _settle(
        self,
        state: RunState,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        wake_at: float | None = None,
    ) -> Settle:
        announce = process_of(self.record.origin) != self._services.origin
        return Settle(
            self.id, self._epoch, state, output, error, wake_at, announce, self._seen,
            frees=self.record.queue is not None,
        )  # fmt: skip

    def _check_awaited(self) -> None:
        forgotten: dict[str, None] = {}
        for name, call in self._called.values():
            if getcoroutinestate(call) == CORO_CREATED:  # else its branch was cancelled before it
                forgotten[name] = call.close()  # the error says it better than Python's warning
        if forgotten:
            raise RegistrationError(
                f"workflow {self.workflow.name} called {', '.join(forgotten)} without awaiting it",
                hint="Write `await` before the call, or gather it",
            )

    async def _end_tasks(self) -> None:
        """Branches that nobody waited for end with their run."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # looked at: it cannot matter any more

    def _take(
        self, key: str, kind: str, fingerprint: str, data: bytes | None = None
    ) -> Entry | None:
        try:
            return self._replay.take(key, kind, fingerprint, data)
        except NonDeterminism as error:
            self._stop = error
            raise

    @property
    def _rest(self) -> int:
        """For how many rounds of the event loop the consequences of an answer or a call may go on:
        each branch that ends wakes the one that waits for it two rounds later."""
        return 2 * self._deepest + _REST if self._tasks or self.alarms else 0

    async def _cancel_here(self, lane: Lane) -> None:
        """Deliver a cancel request that came while the run was not in memory."""
        self._deliver_cancel()
        for _ in range(3 * lane.depth + 1):  # the root passes it on to the branch that is here
            await asyncio.sleep(0)

    def _watch_for_cancel(self) -> None:
        asyncio.get_running_loop().call_later(
            self._services.suspend_after, self._cancel_if_idle, self.activity
        )

    def _cancel_if_idle(self, activity: int) -> None:
        """Deliver a request though no durable call took it: the code waits for something else, or
        what the journal still has is not asked for any more."""
        if not self._cancel_due or self._settling:
            return
        if self.activity == activity:
            self._deliver_cancel()
        else:
            self._watch_for_cancel()

    def _deliver_cancel(self) -> None:
        if self.held:
            return
        self._cancel_due = False
        self._cancelled = True
        if self._root is not None and not self._settling:
            self._root.cancel()


def _look_away(_: Outcome | BaseException) -> None:
    """Nobody waits for what becomes of it."""
