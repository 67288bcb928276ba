"""Durable values and waits that workflow code calls by name."""

from __future__ import annotations

import math
import random as _random
import uuid as _uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from aura.clock import SystemClock
from aura.codec import Slot, pack
from aura.engine.calls import Call, execution_id
from aura.engine.definition import check_signal_name
from aura.engine.events import handling
from aura.engine.lanes import Lane, StepScope, scope
from aura.engine.streams import ITEM
from aura.errors import ConfigError, InvalidInput, TryOver

_clock = SystemClock()
_STATE = Slot(Any, "a state")


def sleep(duration: float | timedelta) -> Coroutine[Any, Any, None]:
    """Wait for seconds or a timedelta. In a run the end is fixed when the sleep begins and is kept
    over crashes; a run that sleeps long leaves memory. Raises InvalidInput for what is no time."""
    given: object = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not isinstance(given, int | float) or not math.isfinite(given):
        raise InvalidInput(
            f"aura.sleep({duration!r}) has no end", hint="Give seconds, or a timedelta"
        )
    seconds = float(given)
    lane = scope.get()
    if type(lane) is not Lane:
        return _clock.sleep(seconds)
    clock = lane.execution.clock
    return lane.execution.called("sleep", lambda call: _sleep(call, lambda: clock.now() + seconds))


def sleep_until(moment: datetime) -> Coroutine[Any, Any, None]:
    """Wait until a time, which must know its time zone; one that has passed is no wait. In a run it
    is the database's time that counts, and the first moment that was asked for is kept. Raises
    InvalidInput."""
    if not _knows_its_zone(moment):
        raise InvalidInput(
            f"aura.sleep_until({moment!r}) is not a time that knows its zone",
            hint="Give a datetime with tzinfo, as in aura.now() + timedelta(hours=1)",
        )
    at = moment.timestamp()
    lane = scope.get()
    if type(lane) is not Lane:
        return _clock.sleep(at - _clock.now())
    return lane.execution.called("sleep_until", lambda call: _sleep(call, lambda: at))


def _knows_its_zone(moment: object) -> bool:
    return isinstance(moment, datetime) and moment.utcoffset() is not None


async def _sleep(call: int, when: Callable[[], float]) -> None:
    lane = scope.get()
    assert type(lane) is Lane  # noqa: S101  (set for every task of a run)
    lane.execution.began(call)
    await lane.execution.sleep_until(lane, "sleep", when)


def now() -> datetime:
    """The time (UTC). In a run it is journalled: a replay gets the same answer."""
    lane = scope.get()
    if type(lane) is not Lane:
        return datetime.fromtimestamp(_clock.now(), UTC)
    execution = lane.execution
    return datetime.fromtimestamp(execution.value(lane, "now", execution.clock.now), UTC)


def random() -> float:
    """A random number in [0, 1). In a run it is journalled."""
    lane = scope.get()
    if type(lane) is not Lane:
        return _random.random()  # noqa: S311
    return float(lane.execution.value(lane, "random", _random.random))


def uuid() -> _uuid.UUID:
    """A random UUID (version 4). In a run it is journalled."""
    lane = scope.get()
    if type(lane) is not Lane:
        return _uuid.uuid4()
    return _uuid.UUID(lane.execution.value(lane, "uuid", lambda: str(_uuid.uuid4())))


def set_state(key: str, value: Any) -> None:
    """Show a value to those outside, who read it with `await run.state()`.

    It is journalled, and is there before anything that the run does later has an effect. Outside a
    run nothing happens. Raises CodecError, ConfigError inside a step.
    """
    check_signal_name(key)
    data = _STATE.dump(value)
    current = scope.get()
    if current is None:
        return
    if type(current) is not Lane:
        raise ConfigError(
            "aura.set_state() was called inside a step",
            hint="Return the value from the step and set it in the workflow",
        )
    execution = current.execution
    call = Call(current.key(f"state:{key}"), key, None)
    if execution.recorded(call.key, "state", key) is None:
        what = f"state {key!r}"
        execution.recorder.record(call, "state", output=pack(data, execution.limits, what))


class Stream:
    """A stream of items that a run writes and anybody reads: `run.stream(name)`."""

    def __init__(self, name: str) -> None:
        check_signal_name(name)
        self.name = name

    def write(self, item: Any) -> None:
        """Add an item. Items are gathered for some milliseconds and written in batches.

        In a workflow's own code each is written exactly once, over crashes and replays. In a step
        (also in a thread) it is written again when the step runs again; in one that nobody waits
        for any more (`aura.engine.cancelled`) this raises and writes nothing. Outside a run nothing
        happens. Raises CodecError, PayloadTooLarge.
        """
        data = ITEM.dump(item)
        current = scope.get()
        if current is None:
            return
        if cancelled():
            raise TryOver("the step that writes to a stream was cancelled, or its time was over")
        pack(data, current.execution.limits, f"an item of stream {self.name}")
        place = current.id if isinstance(current, Lane) else current.key
        current.execution.streams.write(place, self.name, data)


def stream(name: str) -> Stream:
    """The stream of that name of this run: `aura.stream("tokens").write(token)`."""
    return Stream(name)


def cancelled() -> bool:
    """Whether nobody waits any more for the step that calls this: its run was cancelled or taken by
    another worker, or the step's time was over. Code of an `async def` step gets CancelledError;
    a thread cannot be stopped, so a long `def` step should look here now and then and return.
    Outside a step it is False."""
    current = scope.get()
    return isinstance(current, StepScope) and current.gate.closed


def idempotency_key() -> str:
    """A key that is the same for every try of the running step, and for no other step; in a handler
    of events the same for every delivery of the event to its group.

    Raises ConfigError outside a step of a run and a handler.
    """
    current = scope.get()
    if current is None and (handler := handling.get()) is not None:
        return handler.idempotency_key
    if not isinstance(current, StepScope):
        raise ConfigError(
            "aura.idempotency_key() was called outside a step",
            hint="Call it in the body of a @step function that a run has called, or in a handler",
        )
    step = "#".join(current.key.split("#")[:2])  # without the number of a saga's further round
    return f"{execution_id(current.execution.record)}:{step}"
