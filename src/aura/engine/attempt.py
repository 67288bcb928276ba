"""Trying a step until it succeeds or gives up: its own code, in its own scope, in its time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aura.codec import pack, plain, to_json
from aura.engine.calls import Call, is_being_cancelled
from aura.engine.faults import dump_step_failure, message, step_failure
from aura.engine.lanes import Gate, StepScope, scope
from aura.engine.middleware import Invocation, wrapped
from aura.engine.step import Step, TransactionStep
from aura.engine.transacted import transacted
from aura.errors import AuraError, StepFailed
from aura.store.events import NewEvent

if TYPE_CHECKING:
    from aura.engine.execution import Execution

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class Try(NamedTuple):
    """Which try of which call; `number` starts at 1, `started` is epoch seconds. `outbox` is what
    it emits, which is written with its result."""

    call: Call
    number: int
    started: float
    outbox: list[NewEvent]


class TimedOut(AuraError):
    """The step's own time is over (not a TimeoutError that its code raised)."""


async def attempt_until_done(
    execution: Execution, step: Step[..., Any], arguments: Arguments, call: Call
) -> Any:
    """Try a step until it succeeds or gives up, and journal which. Raises StepFailed."""
    number = 1
    before = execution.last_attempt(call.key)
    if before is not None:
        number = before.attempt + 1
        await _wait_for_retry(execution, float(plain(before.error)["retry_at"]))
    while True:
        if not step.idempotent:
            await execution.hold_lease()
        one = Try(call, number, execution.clock.now(), [])
        timed_out = False
        try:
            if isinstance(step, TransactionStep):
                body = functools.partial(_run_once, execution, step, arguments, one)
                return await transacted(execution, step, one, body)
            value, output = await _run_once(execution, step, arguments, one)
        except TimedOut as error:
            failure: BaseException = TimeoutError(str(error))
            timed_out = True
        except (Exception, SystemExit) as error:  # noqa: BLE001  (raised as StepFailed)
            failure = error
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            failure = error  # of something else, inside the step
        else:
            if execution.shadow is not None:
                execution.shadow.held(call, one.outbox)
                one.outbox.clear()
            await execution.answer(
                call, "step", output, attempt=number, started=one.started,
                events=tuple(one.outbox), later=step.idempotent,
            )  # fmt: skip
            return value
        if not step.retry.again(number, failure):
            raise await _give_up(execution, step, one, failure, timed_out)
        await _back_off(execution, step, one, failure)
        number += 1


async def _give_up(
    execution: Execution, step: Step[..., Any], one: Try, error: BaseException, timed_out: bool
) -> StepFailed:
    failure = step_failure(step.name, error, one.number, timed_out)
    text = dump_step_failure(failure)
    await execution.answer(
        one.call, "step", error=text, attempt=one.number, started=one.started
    )  # fmt: skip
    failure.__cause__ = error
    return failure


async def _back_off(
    execution: Execution, step: Step[..., Any], one: Try, error: BaseException
) -> None:
    """Journal the failed attempt with the time of the next one, and wait for it."""
    retry_at = execution.clock.now() + step.retry.delay(one.number, random.random())  # noqa: S311
    failed = {"type": type(error).__name__, "message": message(error), "retry_at": retry_at}
    execution.recorder.record(
        one.call, "attempt", error=to_json(failed), attempt=one.number, started=one.started
    )
    await execution.recorder.durable()
    await _wait_for_retry(execution, retry_at)


async def _wait_for_retry(execution: Execution, at: float) -> None:
    execution.steps_in_flight -= 1  # a step that waits for its next try may leave memory
    try:
        await execution.wait_until(at)
    finally:
        execution.steps_in_flight += 1


async def _run_once(
    execution: Execution, step: Step[..., Any], arguments: Arguments, one: Try
) -> tuple[Any, bytes]:
    """Run the step's own code; its result as a replay will see it, and as it is stored."""
    gate = Gate()
    at = StepScope(execution.id, one.call.key, one.number, execution, one.outbox, gate)
    outer = scope.set(at)
    try:
        if step.timeout is None:
            value = await _start(execution, step, arguments, one)
        else:
            value = await _in_time(execution, step, arguments, one)
    except BaseException:
        gate.closed = True  # for a thread that goes on
        raise
    finally:
        scope.reset(outer)
        execution.streams.step_over(one.call.key)
    slot = step.slot
    data, value = slot.round_trip(value)
    return value, pack(data, execution.limits, slot.what)


async def _in_time(
    execution: Execution, step: Step[..., Any], arguments: Arguments, one: Try
) -> Any:
    guard = asyncio.timeout(step.timeout)
    try:
        async with guard:
            return await _start(execution, step, arguments, one)
    except TimeoutError as error:
        if not guard.expired():
            raise
        raise TimedOut(f"no answer within {step.timeout:g} s") from error


def _start(
    execution: Execution, step: Step[..., Any], arguments: Arguments, one: Try
) -> Awaitable[Any]:
    begin = functools.partial(_begin, execution, step, arguments)
    if not execution.around:
        return begin()
    run = execution.record
    what = Invocation(
        "step", step.name, run.id, run.workflow, run.version, one.call.key, one.number
    )  # fmt: skip
    return wrapped(execution.around, what, begin)


def _begin(execution: Execution, step: Step[..., Any], arguments: Arguments) -> Awaitable[Any]:
    args, kwargs = arguments
    if step.is_async:
        begun: Awaitable[Any] = step.function(*args, **kwargs)
        return begun
    context = contextvars.copy_context()
    work = functools.partial(context.run, step.function, *args, **kwargs)
    return asyncio.get_running_loop().run_in_executor(execution.threads, work)
