"""Sagas: scopes in which finished steps have compensations.

    open ───▶ completed                       the scope was left without an error
     │ └────▶ forward ──▶ completed           a pivot has finished; cancelling waits for the end
     │           └──────▶ parked              ... and what failed cannot be tried again
     └──────▶ compensating ──▶ compensated    the scope failed or was cancelled; its error goes on
                   └─────────▶ parked         a compensation gave up; a requeue tries it again

Invariants: (1) how a scope ended is in the journal before its first compensation begins, and a
replay does what the journal says; (2) the compensation of the step `0.1/charge#1` is the step
`0.1/~charge#1`, however lanes are numbered while it runs, so there is one at most; (3) it begins
when the compensations of all steps that depended on its step (`needs`) have finished; (4) leaving
memory, losing the lease and stopping the process compensate nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar, overload

from aura.codec import unpack
from aura.engine.calls import loop_is_closing
from aura.engine.compensation import (
    ENDLESS,
    GENEROUS,
    Done,
    Undo,
    as_step,
    compensation,
    given_arguments,
    needs,
    patient,
    round_key,
    undo_key,
)
from aura.engine.definition import check_name
from aura.engine.execution import Execution
from aura.engine.lanes import FixedLane, Lane, scope, tick
from aura.engine.receive import receive
from aura.engine.retry import Retry
from aura.engine.step import Step
from aura.errors import (
    AuraError,
    CompensationFailed,
    ControlFlow,
    NonDeterminism,
    RegistrationError,
    SagaError,
    StepFailed,
)

R = TypeVar("R")

_open: contextvars.ContextVar[Saga | None] = contextvars.ContextVar("aura_saga", default=None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call of `Saga.step`."""

    step: Step[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    undo: Callable[..., Any] | None
    alternative: Step[..., Any] | None
    policy: Retry | None
    skip: bool
    manual: bool
    default: Any
    pivot: bool

    @property
    def has_way_out(self) -> bool:
        return self.skip or self.manual or self.alternative is not None


class Saga:
    """A scope in which finished steps have compensations; `aura.saga()` makes it.

    When the scope fails or is cancelled, they run durably, each once, in reverse order of
    dependency and in parallel where there is none; then the error goes on. Outside a run it does
    the same in memory, without journal and retries.
    """

    def __init__(self, name: str) -> None:
        check_name(name, "a saga")
        if "/" in name or "#" in name:
            raise RegistrationError(f"saga name {name!r} contains / or #", hint="Use other signs")
        self.name = name
        self._outer: Saga | None = None
        self._lane: Lane | None = None
        self._finished: list[Done] = []
        self._results: dict[Done, Any] = {}
        self._under_way: dict[asyncio.Future[None], asyncio.Task[Any] | None] = {}
        self._failures: dict[Done, BaseException] = {}
        self._forward = False
        self._closing = False

    # The scope.

    async def __aenter__(self) -> Self:
        lane = scope.get()
        self._lane = lane if type(lane) is Lane else None
        outer = _open.get()
        if outer is not None and outer._execution is self._execution:
            self._outer = outer
            self._mark = outer._begin()
        self._token = _open.set(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _open.reset(self._token)
        self._closing = True
        try:
            if not self._taken_away(error):
                await self._end(error)
        finally:
            if self._forward and self._execution is not None:
                self._execution.hold_cancel(-1)
            if self._outer is not None:
                self._outer._ended(self._mark)

    @overload
    def step(
        self,
        function: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        compensate: Callable[..., Any] | None = None,
        recover: Retry | Literal["retry", "skip", "manual"] | None = None,
        alternative: Callable[..., Any] | None = None,
        default: Any = None,
        pivot: bool = False,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def step(
        self,
        function: Callable[..., R],
        /,
        *args: Any,
        compensate: Callable[..., Any] | None = None,
        recover: Retry | Literal["retry", "skip", "manual"] | None = None,
        alternative: Callable[..., Any] | None = None,
        default: Any = None,
        pivot: bool = False,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, R]: ...

    def step(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        compensate: Callable[..., Any] | None = None,
        recover: Retry | Literal["retry", "skip", "manual"] | None = None,
        alternative: Callable[..., Any] | None = None,
        default: Any = None,
        pivot: bool = False,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Call a step; `compensate` takes it back if the scope fails after it.

        `compensate` is a step or a plain function. Its first parameter gets the step's result, the
        others get the step's arguments of the same names. When its tries are used up the run is
        parked; a requeue tries it again.

        What happens when the step gives up: by default the scope fails; `recover="retry"` or a
        `Retry` tries again by that policy first; `recover="skip"` gives `default` and goes on;
        `alternative` is called with the same arguments instead; with `recover="manual"` the run
        waits for a signal `saga:<name>` that says "retry", "skip" or "compensate". After a `pivot`
        has finished there is no way back: steps are tried until they succeed, and cancelling waits
        for the end.

        Raises StepFailed, RegistrationError, SagaError when the scope has ended.
        """
        if isinstance(recover, str) and recover not in ("retry", "skip", "manual"):
            raise RegistrationError(
                f"saga {self.name} has a step with recover={recover!r}",
                hint='Use "retry", a Retry, "skip", "manual", alternative=… or pivot=True',
            )
        step = as_step(function)
        asked = _Asked(
            step, args, kwargs, compensate, None if alternative is None else as_step(alternative),
            GENEROUS if recover == "retry" else recover if isinstance(recover, Retry) else None,
            recover == "skip", recover == "manual", default, pivot,
        )  # fmt: skip
        for one in (step, asked.alternative):
            if one is not None:
                self._undo(asked, one)  # complains before there is anything to take back
        if self._execution is None:
            return self._asked(asked)
        name = f"saga.step({step.name})"
        return self._execution.called(name, lambda call: self._asked(asked, call))

    # One step.

    async def _asked(self, asked: _Asked, call: int | None = None) -> Any:
        lane = scope.get()
        if type(lane) is Lane and call is not None:
            lane.execution.began(call)
        mark = self._begin()
        try:
            return await self._recovering(lane if type(lane) is Lane else None, asked)
        finally:
            self._ended(mark)

    async def _recovering(self, lane: Lane | None, asked: _Asked) -> Any:
        try:
            return await self._tried(lane, asked, asked.step)
        except Exception as failure:
            if lane is not None and not isinstance(failure, StepFailed):
                raise  # not the step has failed but the call of it
            if asked.alternative is not None:
                return await self._tried(lane, asked, asked.alternative)
            if asked.skip:
                return asked.default
            raise

    async def _tried(self, lane: Lane | None, asked: _Asked, step: Step[..., Any]) -> Any:
        """Call a step, again and again after a pivot, and remember that it has finished."""
        began = tick()
        if lane is None:
            value = await _plainly(step, asked.args, asked.kwargs)
            self._finish(asked, step, began, value)
            return value
        key = lane.key(step.name)
        chosen = step if asked.policy is None else patient(step, asked.policy)
        for number in itertools.count(1):
            endless = self._forward and not asked.has_way_out
            if endless:
                chosen = patient(step, ENDLESS)
            known = lane.execution.peek(round_key(key, number))
            try:
                value = await self._witnessed(lane, key, number, asked, chosen, began)
            except StepFailed as failure:
                if asked.manual:
                    decision = await self._decision()
                    if decision == "retry":
                        continue
                    if decision == "skip":
                        return asked.default
                if not self._forward or asked.has_way_out:
                    raise
                if endless and known is None:  # else somebody has requeued the run since
                    self._park(self._stuck(failure), failure)
            else:
                return value
        raise AssertionError  # the loop ends by returning or raising

    async def _decision(self) -> str:
        """What a person says about a step that gave up; what is no decision is passed over."""
        while True:
            said = await receive(f"saga:{self.name}")
            if said in ("retry", "skip", "compensate"):
                return str(said)

    async def _witnessed(
        self, lane: Lane, key: str, number: int, asked: _Asked, step: Step[..., Any], began: int
    ) -> Any:
        """Call a step durably. One that was cancelled when its result was journalled already has
        finished, now as on replay."""
        call_key = round_key(key, number)
        known = lane.execution.peek(call_key)
        witness = _Witness(step)
        try:
            value = await lane.execution.step(
                FixedLane(lane, call_key), witness.step, asked.args, asked.kwargs
            )
        except asyncio.CancelledError:
            if known is not None and known.output is not None:
                witness.see(step.signature.result.load(unpack(known.output)))
            if witness.seen:
                self._finish(asked, step, began, witness.value, lane, key)
            raise
        self._finish(asked, step, began, value, lane, key)
        return value

    def _finish(
        self,
        asked: _Asked,
        step: Step[..., Any],
        began: int,
        value: Any,
        lane: Lane | None = None,
        key: str = "",
    ) -> None:
        undo = self._undo(asked, step)
        given = given_arguments(step, asked.args, asked.kwargs) if undo else {}
        where = ("0", (0,)) if lane is None else (lane.id, lane.opened)
        done = Done(key or f"0/{step.name}#1", *where, began, tick(), undo, given)
        self._finished.append(done)
        self._results[done] = value
        if asked.pivot:
            self._go_forward()

    def _undo(self, asked: _Asked, step: Step[..., Any]) -> Undo | None:
        return None if asked.undo is None else compensation(asked.undo, step)

    def _go_forward(self) -> None:
        """From now on this scope and those around it can only be finished."""
        saga: Saga | None = self
        while saga is not None:
            if not saga._forward and saga._execution is not None:
                saga._execution.hold_cancel(1)
            saga._forward = True
            saga = saga._outer

    # The end of the scope.

    async def _end(self, error: BaseException | None) -> None:
        """Make sure that nothing is half done. Raises what interrupted that, or parks the run."""
        if isinstance(error, asyncio.CancelledError):
            for task in self._under_way.values():
                if task is not None and task is not asyncio.current_task():
                    task.cancel()
        interrupted = await self._all(list(self._under_way))
        error = error or interrupted
        if self._lane is None or self._execution is None:
            await self._end_in_memory(error)
            if interrupted is not None:
                raise interrupted
            return
        self._execution.raise_if_stopped()
        if error is not None and self._forward:
            self._park(self._stuck(error), error)
        verdict = self._execution.value(self._lane, f"~~{self.name}", lambda: self._verdict(error))
        if verdict["end"] == "completed":
            self._complete(error)
            if interrupted is not None:
                raise interrupted
            return
        found = error or await self._cancelled_again(verdict)
        interrupted = await self._compensate() or interrupted
        if self._failures:
            self._park(self._half_done(), found)
        if error is None or interrupted is not None:
            raise interrupted or found

    def _verdict(self, error: BaseException | None) -> dict[str, Any]:
        return {
            "end": "completed" if error is None else "compensated",
            "cancelled": isinstance(error, asyncio.CancelledError),
            "steps": {one.key: one.undo and one.undo.step.name for one in self._finished},
        }

    def _complete(self, error: BaseException | None) -> None:
        """Nothing is to be taken back, unless a scope around this one fails."""
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self._diverged("completed", f"fails with {type(error).__name__}: {error}", error)
        if self._outer is not None:
            self._outer._finished += self._finished
            self._outer._results |= self._results

    async def _cancelled_again(self, verdict: Mapping[str, Any]) -> BaseException:
        """The scope was cancelled when its last step was in the journal already: cancel it here."""
        assert self._lane is not None  # noqa: S101  (there is a verdict)
        if not verdict["cancelled"]:
            self._diverged("was compensated", "ends without an error", None)
        try:
            await self._lane.execution.ready_for_new(self._lane)
        except asyncio.CancelledError as error:
            return error
        return asyncio.CancelledError(f"saga {self.name} was cancelled here")

    async def _compensate(self) -> asyncio.CancelledError | None:
        """Run the compensations. Gives the cancellation of this branch that had to wait for it."""
        assert self._execution is not None  # noqa: S101  (there is a verdict)
        self._execution.hold_cancel(1)
        tasks: dict[Done, asyncio.Task[bool]] = {}
        try:
            for done in reversed([one for one in self._finished if one.undo is not None]):
                after = [task for later, task in tasks.items() if needs(later, done)]
                tasks[done] = asyncio.create_task(self._take_back(done, after))
            interrupted = await self._all(tasks.values())
            self._execution.raise_if_stopped()
            for task in tasks.values():
                task.result()
        finally:
            self._execution.hold_cancel(-1)
        return interrupted

    async def _take_back(self, done: Done, after: list[asyncio.Task[bool]]) -> bool:
        """Compensate one step, after those that depended on it. Whether that succeeded."""
        if after:
            await asyncio.wait(after)
        if not all(task.result() for task in after):
            return False
        lane = scope.get()
        assert type(lane) is Lane and done.undo is not None  # noqa: S101, PT018
        step, execution = done.undo.step, lane.execution
        kwargs = done.undo.arguments(self._results[done], done.arguments)
        for number in itertools.count(1):
            key = round_key(undo_key(done.key), number)
            known = execution.peek(key)

            async def durable(call: int, key: str = key) -> None:
                execution.began(call)
                await execution.step(FixedLane(lane, key), step, (), kwargs)

            try:
                await execution.called(step.name, durable)
            except Exception as failure:  # noqa: BLE001  (it parks the run)
                execution.raise_if_stopped()
                if known is None:  # else somebody has requeued the run since
                    self._failures[done] = failure
                    return False
            else:
                return True
        raise AssertionError  # the loop ends by returning or raising

    async def _end_in_memory(self, error: BaseException | None) -> None:
        """Outside a run: one after the other, the last one first."""
        if error is None:
            if self._outer is not None:
                self._complete(None)
            return
        for done in reversed([one for one in self._finished if one.undo is not None]):
            assert done.undo is not None  # noqa: S101  (looked at above)
            kwargs = done.undo.arguments(self._results[done], done.arguments)
            try:
                await _plainly(done.undo.step, (), kwargs)
            except Exception as failure:
                self._failures[done] = failure
                raise self._half_done() from failure

    # What goes wrong.

    def _taken_away(self, error: BaseException | None) -> bool:
        """Whether this is not the scope's end, but the end of the process or of the run's time in
        it; the next worker goes on."""
        if isinstance(error, (ControlFlow, KeyboardInterrupt, GeneratorExit)):
            return True
        if self._execution is not None and self._execution.stopped:
            return True
        cancelled = isinstance(error, asyncio.CancelledError)
        return cancelled and self._execution is not None and loop_is_closing()

    def _stuck(self, error: BaseException) -> SagaError:
        return SagaError(
            f"saga {self.name} cannot go on after its pivot: {type(error).__name__}: {error}",
            hint="Mend what is wrong and requeue the run",
        )

    def _half_done(self) -> CompensationFailed:
        wanted = [one for one in self._finished if one.undo is not None]
        failed = [f"{one.key} ({error})" for one, error in self._failures.items()]
        waits = [
            one.key
            for one in wanted
            if one not in self._failures and any(needs(bad, one) for bad in self._failures)
        ]
        done = [one.key for one in wanted if one not in self._failures and one.key not in waits]
        return CompensationFailed(
            f"saga {self.name} is half compensated: done {', '.join(done) or 'none'}; failed "
            f"{', '.join(failed)}; not begun {', '.join(waits) or 'none'}",
            hint="Mend what is wrong and requeue the run: it goes on with those that are missing",
        )

    def _diverged(self, was: str, now: str, cause: BaseException | None) -> NoReturn:
        reason = NonDeterminism(
            f"in the journal saga {self.name} {was}, but now its scope {now}",
            hint="Restore the code that began this run",
        )
        self._park(reason, cause)

    def _park(self, reason: AuraError, cause: BaseException | None) -> NoReturn:
        assert self._execution is not None  # noqa: S101  (only runs are parked)
        self._execution.park(reason)
        raise reason from cause

    # What is going on in the scope.

    @property
    def _execution(self) -> Execution | None:
        return None if self._lane is None else self._lane.execution

    def _begin(self) -> asyncio.Future[None]:
        """Something begins that the end of the scope waits for. Raises SagaError."""
        saga: Saga | None = self
        while saga is not None:
            if saga._closing:
                raise SagaError(
                    f"saga {saga.name} has ended and takes no more steps",
                    hint="Call them inside `async with`, and wait for branches there",
                )
            saga = saga._outer
        mark: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way[mark] = asyncio.current_task()
        return mark

    def _ended(self, mark: asyncio.Future[None]) -> None:
        del self._under_way[mark]
        if not mark.done():
            mark.set_result(None)

    async def _all(self, waiting: Iterable[asyncio.Future[Any]]) -> asyncio.CancelledError | None:
        """Wait for all of them, whoever cancels this branch meanwhile; gives that cancellation."""
        interrupted = None
        while pending := [one for one in waiting if not one.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as error:
                if self._taken_away(error):
                    for one in pending:
                        one.cancel()
                    raise
                interrupted = error
        return interrupted


class _Witness:
    """Stands for a step's signature, and sees the result when it is about to be journalled: between
    that and the entry nothing can be cancelled."""

    def __init__(self, step: Step[..., Any]) -> None:
        self._slot = step.signature.result
        self.dump = step.signature.dump
        self.fingerprint = step.signature.fingerprint
        self.result = self
        self.load = self._slot.load
        self.what = self._slot.what
        self.seen = False
        self.value: Any = None
        made: Any = copy.copy(step)
        made.signature = self
        self.step: Step[..., Any] = made

    def see(self, value: Any) -> None:
        self.seen, self.value = True, value

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        data, value = self._slot.round_trip(value)
        self.see(value)
        return data, value


async def _plainly(step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    value = step.function(*args, **kwargs)
    return await value if step.is_async else value


def in_saga() -> bool:
    """Whether the caller is inside the scope of a saga of its run."""
    lane, found = scope.get(), _open.get()
    mine = lane.execution if type(lane) is Lane else None
    return found is not None and found._execution is mine


def saga(name: str = "saga") -> Saga:
    """A scope whose steps are compensated when it fails or is cancelled:
    `async with aura.saga() as saga: await saga.step(charge, 500, compensate=refund)`.

    `name` is shown in the journal and in messages. Raises RegistrationError.
    """
    return Saga(name)
