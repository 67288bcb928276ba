"""Time limits of scopes and runs, kept over crashes.

    open ──▶ over ──▶ rung ──▶ closed        the scope's task is cancelled where it waits
      │        └─(held: a saga can only go forward)─┐
      └────────────────────────────────────────────┴──▶ closed     the scope ended before

The deadline of a scope is fixed in the journal when it is entered for the first time (`timeout`).
That its time is over is an answer like that of a step (`over`): it takes its turn among the others,
live as on replay, so it is the same call that is interrupted. When the time was over while the run
was nowhere in memory, the first call that the journal cannot answer is interrupted before it
begins.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aura.codec import plain, to_json
from aura.engine.calls import Call
from aura.engine.lanes import Lane, scope
from aura.engine.storeclock import sleep_till
from aura.errors import ConfigError, DeadlineExceeded, InvalidInput

if TYPE_CHECKING:
    from aura.engine.execution import Execution

_OVER = "/over"
_DEADLINE = "0/~deadline#1"


class Alarm:
    """Cancels the task that made it, at a time (epoch seconds), until it is closed."""

    def __init__(self, execution: Execution, key: str, at: float) -> None:
        self.at = at
        self._execution = execution
        self._key = key
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (workflow code runs in tasks)
        self._task = task
        self._cancelling = task.cancelling()
        self._over = execution.recorded(key + _OVER, "over")
        self._held = execution.held
        self.due = False
        self._closed = False
        self.expired = False
        self.rung = asyncio.get_running_loop().create_future()
        execution.alarms.add(self)
        context = contextvars.copy_context()
        context.run(scope.set, None)  # a task of the engine, not a branch of the run
        self._watch = context.run(asyncio.get_running_loop().create_task, self._ring())

    @property
    def overdue(self) -> bool:
        """Whether its time is over and nothing but its turn keeps it from ringing."""
        free = self._execution.held <= self._held
        return not self.expired and free and self.at <= self._execution.clock.now()

    def freed(self, held: int) -> None:
        """Ring if it is due; so many scopes are left that must not be interrupted."""
        if self.due and held <= self._held and not self.rung.done():
            self.expired = True
            self.rung.set_result(None)
            self._task.cancel()

    def close(self) -> bool:
        """The scope has ended; whether it was interrupted by this alarm and by nothing else."""
        if self._closed:
            return False
        self._closed = True
        self._execution.alarms.discard(self)
        self._watch.cancel()
        if self.expired:
            return self._task.uncancel() <= self._cancelling
        self.rung.set_result(None)  # nobody waits for it any more
        if self._over is not None and not self.due:
            self._execution.drop_turn(self._over)
        return False

    async def _ring(self) -> None:
        execution = self._execution
        if self._over is not None:
            await execution.turn_of(self._over)
        else:
            await execution.caught_up()
            await sleep_till(execution.clock, self.at)
            if execution.stopped:
                return  # the next worker will see that the time is over
            await execution.answer(Call(self._key + _OVER, "", None), "over")
        self.due = True
        self.freed(execution.held)


class Timeout:
    """A scope with a time limit: see `timeout`."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._plain: asyncio.Timeout | None = None
        self._alarm: Alarm | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConfigError("a time limit was entered twice", hint="Call aura.timeout again")
        self._entered = True
        lane = scope.get()
        if type(lane) is not Lane:
            self._plain = asyncio.timeout(self._seconds)
            await self._plain.__aenter__()
        elif self._seconds is not None:
            self._alarm = _alarm(lane, self._seconds)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._plain is not None:
            await self._plain.__aexit__(kind, error, trace)
            return
        if self._alarm is None:
            return
        if kind is None and self._alarm.expired:
            kind, error = await _pending_cancellation()
        alone = self._alarm.close()
        if alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError(f"not done within {self._seconds:g} s") from error

    def expired(self) -> bool:
        """Whether the time was over before the scope had ended."""
        if self._plain is not None:
            return self._plain.expired()
        return self._alarm is not None and self._alarm.expired

    def when(self) -> datetime | None:
        """When the time is over (UTC); None without a limit, outside a run or before the scope."""
        return None if self._alarm is None else datetime.fromtimestamp(self._alarm.at, UTC)


def timeout(limit: float | timedelta | None) -> Timeout:
    """`async with aura.timeout(30):` gives everything inside so many seconds, or a timedelta.

    When they are over, what is awaited inside is cancelled (steps, sleeps, receives, children,
    branches) and the scope raises TimeoutError, as with `asyncio.timeout`. In a run the deadline is
    fixed when the scope is entered first, counts over crashes and restarts, and a replay is
    interrupted at the same call. A run that waits in it leaves memory all the same. None is no
    limit. Outside a run, and in a step, it is `asyncio.timeout`.

    Raises InvalidInput for what is no time.
    """
    given: object = limit.total_seconds() if isinstance(limit, timedelta) else limit
    if given is None:
        return Timeout(None)
    if not isinstance(given, int | float) or not math.isfinite(given):
        raise InvalidInput(
            f"aura.timeout({limit!r:.80}) has no end", hint="Give seconds, a timedelta, or None"
        )
    return Timeout(given)


async def in_time(execution: Execution, work: Awaitable[Any]) -> Any:
    """Await the work of a whole run, within its deadline if it has one. Raises DeadlineExceeded."""
    at = execution.record.deadline
    if at is None:
        return await work
    alarm = Alarm(execution, _DEADLINE, at)
    try:
        value = await work
        if alarm.expired:
            await asyncio.sleep(0)  # raises a cancellation that was asked for meanwhile
    except asyncio.CancelledError as error:
        if not alarm.close():
            raise
        moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
        raise DeadlineExceeded(f"the run was not done at its deadline, {moment}") from error
    else:
        return value
    finally:
        alarm.close()


def _alarm(lane: Lane, seconds: float) -> Alarm:
    """The alarm of a scope, whose deadline is in the journal or is put there."""
    execution = lane.execution
    execution.raise_if_stopped()
    key = lane.key("timeout")
    entry = execution.recorded(key, "timeout")
    if entry is not None:
        return Alarm(execution, key, float(plain(entry.output)))
    at = execution.clock.now() + seconds
    execution.recorder.record(Call(key, "", None), "timeout", output=to_json(at))
    return Alarm(execution, key, at)


async def _pending_cancellation() -> tuple[type[BaseException] | None, BaseException | None]:
    """Take a cancellation that has been asked for while the task itself was running."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        return type(error), error
    return None, None
