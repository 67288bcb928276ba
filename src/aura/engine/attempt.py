"""One try of a step: its own code, in its own scope, in its time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NamedTuple

from aura.codec import pack
from aura.engine.lanes import StepScope, scope
from aura.errors import AuraError

if TYPE_CHECKING:
    from aura.engine.execution import Execution
    from aura.engine.step import Step


class Try(NamedTuple):
    """Which try of which call; `number` starts at 1."""

    key: str
    number: int


class TimedOut(AuraError):
    """The step's own time is over (not a TimeoutError that its code raised)."""


async def run_once(
    execution: Execution,
    step: Step[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    which: Try,
) -> tuple[Any, bytes]:
    """Run the step's own code; its result as a replay will see it, and as it is stored."""
    outer = scope.set(StepScope(execution.id, which.key, which.number, execution))
    try:
        if step.timeout is None:
            value = await _start(step, args, kwargs, execution.threads)
        else:
            value = await _in_time(step, args, kwargs, execution.threads)
    finally:
        scope.reset(outer)
    slot = step.signature.result
    data, value = slot.round_trip(value)
    return value, pack(data, execution.limits, slot.what)


async def _in_time(
    step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], threads: Executor
) -> Any:
    guard = asyncio.timeout(step.timeout)
    try:
        async with guard:
            return await _start(step, args, kwargs, threads)
    except TimeoutError as error:
        if not guard.expired():
            raise
        raise TimedOut(f"no answer within {step.timeout:g} s") from error


def _start(
    step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], threads: Executor
) -> Any:
    if step.is_async:
        return step.function(*args, **kwargs)
    context = contextvars.copy_context()
    work = functools.partial(context.run, step.function, *args, **kwargs)
    return asyncio.get_running_loop().run_in_executor(threads, work)
