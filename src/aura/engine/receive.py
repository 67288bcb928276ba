"""Waiting for signals in workflow code, and answering updates.

A signal that was received is an entry of the journal, with its payload, so that a replay needs
nothing else. A branch that is cancelled between the two hands it back, in the journal too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar, overload

from aura.codec import Slot, pack, plain, to_json, unpack
from aura.engine.calls import Call
from aura.engine.definition import check_signal_name
from aura.engine.execution import Execution
from aura.engine.handle import UPDATE
from aura.engine.lanes import Lane, scope
from aura.engine.replay import BACK
from aura.engine.storeclock import end_wait
from aura.engine.waits import Wait, begun
from aura.errors import CodecError, ConfigError, InvalidInput, RegistrationError, SignalTimeout
from aura.store.base import Announce, Entry, Signal

T = TypeVar("T")
R = TypeVar("R")


_ANSWER = Slot(Any, "an answer to an update")
_HEAD = [name for name in Signal._fields if name not in ("run_id", "payload")]


@lru_cache(maxsize=1_000)
def _slot(type: object, what: str) -> Slot:
    return Slot(type, what)


class Received(NamedTuple, Generic[T]):
    """A signal that was received by one of several names."""

    name: str
    value: T


@overload
def receive(
    name: str, *, type: type[T], timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, T]: ...


@overload
def receive(
    name: str, *, type: object = Any, timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Any]: ...


@overload
def receive(
    name: tuple[str, ...], *, type: type[T], timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Received[T]]: ...


@overload
def receive(
    name: tuple[str, ...], *, type: object = Any, timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Received[Any]]: ...


def receive(
    name: str | tuple[str, ...], *, type: object = Any, timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Any]:
    """Wait for a signal of that name and give its value, as `type`.

    With a tuple of names the first signal of any of them, as `Received(name, value)`. Signals that
    came early are kept for their receiver. Of several, the one of the highest priority comes first,
    then the one with the earliest deadline, then the one that was sent first; several receivers of
    one name get one signal each, in the order in which they began to wait.

    `timeout` (seconds or a timedelta) counts from the first call, over crashes and restarts. A run
    that only waits leaves memory. Use `timeout`, or `aura.timeout` around it, and not
    `asyncio.timeout`, which is forgotten then.

    Raises SignalTimeout; CodecError when the payload does not fit `type` (it stays in the journal);
    InvalidInput for a timeout that is no time.
    """
    names, limit = _checked(name), _seconds(timeout)
    lane = _lane("aura.receive")
    label = "signal:" + "|".join(names)

    async def wait(call: int) -> Any:
        taken = await _receive(call, label, names, limit)
        what = f"signal {taken.name}"
        value = _slot(type, what).load(unpack(taken.payload))
        return value if isinstance(name, str) else Received(taken.name, value)

    return lane.execution.called("receive", wait)


class Update(Generic[T]):
    """A call from outside that waits for its answer. Answer or reject it, once."""

    def __init__(self, name: str, value: T, seq: int) -> None:
        self.name = name
        self.value = value
        self._seq = seq
        self._open = True

    def answer(self, value: Any = None) -> None:
        """Accept the update and give its caller the value."""
        data = _ANSWER.dump(value)
        self._close(lambda execution: {"output": pack(data, execution.limits, "an answer")})

    def reject(self, reason: str) -> None:
        """Refuse the update: its caller gets UpdateRejected with the reason."""
        self._close(lambda _: {"error": to_json({"message": reason})})

    def _close(self, make: Callable[[Execution], dict[str, bytes]]) -> None:
        if not self._open:
            raise RegistrationError(
                f"update {self.name} was answered twice", hint="Answer or reject it once"
            )
        lane = _lane("an update's answer")
        _answer(lane, f"answer:{self.name}", self._seq, **make(lane.execution))
        self._open = False


@overload
def receive_update(
    name: str, *, type: type[T], timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Update[T]]: ...


@overload
def receive_update(
    name: str, *, type: object = Any, timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Update[Any]]: ...


def receive_update(
    name: str, *, type: object = Any, timeout: float | timedelta | None = None
) -> Coroutine[Any, Any, Update[Any]]:
    """Wait for an update (`run.update(name, value)`): check its `value`, then `answer` or `reject`.

    A value that does not fit `type` is rejected by itself, and the wait goes on. Otherwise as
    `receive`. Raises SignalTimeout.
    """
    names, limit = _checked(name), _seconds(timeout)
    lane = _lane("aura.receive_update")

    async def wait(call: int) -> Update[Any]:
        slot = _slot(type, f"update {name}")
        started: int | None = call
        while True:
            taken = await _receive(started, f"update:{name}", names, limit, UPDATE)
            started = None
            try:
                return Update(name, slot.accept(unpack(taken.payload)), taken.seq)
            except CodecError as error:
                refusal = to_json({"message": error.message})
                _answer(_lane("an update"), f"answer:{name}", taken.seq, error=refusal)

    return lane.execution.called("receive_update", wait)


def receive_raw(
    label: str, names: tuple[str, ...], timeout: float | None
) -> Coroutine[Any, Any, Signal | None]:
    """For workflows of Aura's own: the next signal with one of these names as they are stored, also
    updates (`update/<name>`) and what the store sends; None when none came in that time."""
    lane = _lane("a workflow")

    async def wait(call: int) -> Signal | None:
        try:
            return await _receive(call, label, names, timeout)
        except SignalTimeout:
            return None

    return lane.execution.called("receive", wait)


def _answer(
    lane: Lane, label: str, seq: int, *, output: bytes | None = None, error: bytes | None = None
) -> None:
    """Journal an answer, and tell who waits for it once that is durable."""
    execution = lane.execution
    key = lane.key(label)
    if execution.recorded(key, "answer") is None:
        call = Call(key, "", b"%d" % seq)
        execution.recorder.record(call, "answer", output=output, error=error)
        execution.tell(Announce(f"answer:{execution.id}"))


async def _receive(
    call: int | None,
    label: str,
    names: tuple[str, ...],
    timeout: float | None,
    prefix: str = "",
) -> Signal:
    """The next signal for the lane of this task. Raises SignalTimeout."""
    lane = _lane("aura.receive")
    execution = lane.execution
    if call is not None:
        execution.began(call)
    names = tuple(prefix + name for name in names)
    key = lane.key(label)
    wait = execution.recorded(key, "wait")
    got = execution.recorded(key + "/got", "signal")
    if got is not None:
        taken = await _again(execution, got)
    else:
        await execution.ready_for_new(lane)
        asked = Call(key, "", to_json({"names": names}))
        taken = await _first(execution, key + "/got", names, begun(execution, asked, timeout, wait))
    if taken is None:
        what = " or ".join(names)
        raise SignalTimeout(f"no signal {what} came within {timeout:g} s")
    return taken._replace(name=taken.name.removeprefix(prefix))


async def _again(execution: Execution, got: Entry) -> Signal | None:
    """What the journal says that this call received."""
    if execution.recorded(got.key + BACK, "back") is not None:
        await asyncio.get_running_loop().create_future()  # its branch was cancelled here
    signal = None if got.output is None else _recorded_signal(got.run_id, got.input, got.output)
    with _handed_back(execution, got.key, signal):
        await execution.turn_of(got)
    return signal


async def _first(
    execution: Execution, key: str, names: tuple[str, ...], wait: Wait
) -> Signal | None:
    """Wait for a signal, and journal it or that none came."""
    signal = await _next(execution, names, wait)
    if signal is None:
        await execution.answer(Call(key, "", None), "signal", None, started=wait.began)
        return None
    execution.pressing = signal.priority == "critical"
    head = to_json({name: getattr(signal, name) for name in _HEAD})
    with _handed_back(execution, key, signal):
        await execution.answer(Call(key, "", head), "signal", signal.payload, started=wait.began)
    return signal


def _recorded_signal(run_id: str, head: bytes | None, payload: bytes) -> Signal:
    return Signal(**(plain(head) | {"run_id": run_id, "payload": payload}))


@contextlib.contextmanager
def _handed_back(execution: Execution, key: str, signal: Signal | None) -> Iterator[None]:
    """A branch that is cancelled before it has seen its signal leaves it to the next receiver."""
    try:
        yield
    except asyncio.CancelledError:
        if signal is not None and not execution.stopped:
            execution.recorder.record(Call(key + BACK, "", None), "back")
            execution.mailbox.give_back(signal)
        raise


async def _next(execution: Execution, names: tuple[str, ...], wait: Wait) -> Signal | None:
    """The best signal that is there, or the next one; None when the time is over."""
    mailbox, until = execution.mailbox, wait.until
    over = until <= execution.clock.now()
    signal = mailbox.take(names) if over else mailbox.take_in_turn(names)
    if signal is not None or over:
        return signal
    waiter = mailbox.wait(names)
    alarm = None if until == math.inf else end_wait(execution.clock, until, waiter.future)
    try:
        with execution.idleness.waiting(until, wait.say):
            signal = await waiter.future
    except asyncio.CancelledError:
        mailbox.leave(waiter)
        raise
    finally:
        if alarm is not None:
            alarm.cancel()
    if signal is None:
        mailbox.leave(waiter)
        return mailbox.take(names)  # one whose turn had not come
    return signal


def _checked(name: str | tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name) if isinstance(name, list | tuple) else (name,)
    if not names:
        raise RegistrationError("a receiver names no signal", hint="Give at least one name")
    for one in names:
        check_signal_name(one)
    return names


def _seconds(timeout: float | timedelta | None) -> float | None:
    seconds: object = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is None:
        return None
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise InvalidInput(
            f"a wait for a signal has the timeout {timeout!r:.80}",
            hint="Give seconds or a timedelta, or None to wait for ever",
        )
    return seconds


def _lane(what: str) -> Lane:
    lane = scope.get()
    if type(lane) is not Lane:
        raise ConfigError(
            f"{what} was called outside a workflow's own code",
            hint="Call it in a workflow that runs, and not in a step",
        )
    return lane
