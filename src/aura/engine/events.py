"""Emitting events, and what the code of a handler can ask for.

In a workflow an event is written together with the journal's entry for it, in a step together with
the step's result, in a transaction together with its statements, in a handler before the event that
it handles counts as handled. So it is there exactly once, and not before all that it depends on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Generator
from contextvars import ContextVar
from typing import Any, NamedTuple

from aura.codec import Limits, Slot, digest, pack, traced
from aura.engine.calls import Call, execution_id
from aura.engine.definition import check_name
from aura.engine.lanes import Lane, StepScope, scope
from aura.engine.traces import current as current_trace
from aura.engine.transaction import current as open_transaction
from aura.errors import ConfigError, InvalidInput, RegistrationError
from aura.store.base import Outcome, Writer
from aura.store.events import Emit, NewEvent

_PAYLOAD = Slot(Any, "an event's payload")
_LONGEST = 500
_INLINE = 2_048  # longer payloads are not shown in the journal: the event has them


class Handling(NamedTuple):
    """What code runs in: the key of its work for other systems, and what it emits."""

    idempotency_key: str
    limits: Limits
    outbox: list[NewEvent]


handling: ContextVar[Handling | None] = ContextVar("aura_handling", default=None)


class Done:
    """Something that is over already, and may be awaited."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


def emit(topic: str, payload: Any = None, *, key: str | None = None) -> Awaitable[None]:
    """Add an event to a topic: `await aura.emit("orders.paid", {"id": 7}, key="customer-3")`.

    Events of one `key` are handled in order. In a workflow it is emitted exactly once, over crashes
    and replays, after all that the run did before; in a step, a handler or a transaction when that
    has succeeded, and not at all when it fails (in a plain `def` it needs no `await`).

    Raises CodecError, PayloadTooLarge, InvalidInput; ConfigError outside: use `app.emit` there;
    TransactionError after the end of the transaction that it was called in.
    """
    check_topic(topic)
    data = _PAYLOAD.dump(payload)
    _check(key, "key")
    current = scope.get()
    if isinstance(current, Lane):
        return current.execution.called("emit", lambda call: _emit(call, topic, data, key))
    source, limits, outbox = _outbox(current)
    packed = _packed(topic, data, limits)
    event_id = f"{source}:{len(outbox) + 1}"
    outbox.append(NewEvent(topic, event_id, key, _in_trace(topic, event_id, packed)))
    return Done()


def _outbox(current: StepScope | None) -> Handling:
    """Where the code that runs now leaves what it emits."""
    if (transaction := open_transaction.get()) is not None:
        return transaction.handling()
    if current is None:
        if (handler := handling.get()) is not None:
            return handler
        raise ConfigError(
            "aura.emit() was called outside a run and a handler",
            hint="Use `await app.emit(topic, payload)` there",
        )
    source = f"{execution_id(current.execution.record)}:{current.key}"
    return Handling(source, current.execution.limits, current.outbox)


async def _emit(number: int, topic: str, data: bytes, key: str | None) -> None:
    lane = scope.get()  # the lane of the task that awaits, not of the one that called
    assert type(lane) is Lane  # noqa: S101  (set for every task of a run)
    execution = lane.execution
    execution.began(number)
    packed = _packed(topic, data, execution.limits)
    shape = digest(data if key is None else data + b"\0" + key.encode())
    call = Call(lane.key(f"emit:{topic}"), shape, data if len(data) <= _INLINE else None)
    if execution.recorded(call.key, "event", shape) is not None:
        return
    await execution.ready_for_new(lane)
    if execution.shadow is not None:
        execution.shadow.emitted(call.key, topic, data)
        execution.recorder.record(call, "event")
        return
    event_id = f"{execution_id(execution.record)}:{call.key}"
    event = NewEvent(topic, event_id, key, _in_trace(topic, event_id, packed))
    execution.recorder.record(call, "event", events=(event,))


def publish(
    writer: Writer, limits: Limits, now: float, event: tuple[str, Any, str | None, str | None]
) -> asyncio.Future[Outcome]:
    """Emit an event (topic, payload, key, id) from outside; done when it is durable."""
    topic, payload, key, given = event
    check_topic(topic)
    _check(key, "key")
    _check(given, "id")
    packed = _packed(topic, _PAYLOAD.dump(payload), limits)
    event_id = new_id(now) if given is None else given
    packed = _in_trace(topic, event_id, packed)
    return writer.submit(Emit((NewEvent(topic, event_id, key, packed),)))


def new_id(now: float) -> str:
    """An id for an event, or for several; new ones are neighbours in the database."""
    return f"{int(now * 1000):012x}{secrets.token_hex(8)}"


def check_topic(name: Any) -> None:
    """Raises RegistrationError for what cannot be the name of a topic or a group."""
    check_name(name, "a topic or group")
    if "/" in name or "#" in name:
        raise RegistrationError(
            f"the name {name!r} contains / or #", hint="Use letters, digits, dots and dashes"
        )


def _packed(topic: str, data: bytes, limits: Limits) -> bytes:
    return pack(data, limits, f"the payload of an event of topic {topic}")


def _in_trace(topic: str, event_id: str, packed: bytes) -> bytes:
    """The payload with the trace that it is emitted in."""
    here = current_trace.get()
    return packed if here is None else traced(packed, here.publishing(topic, event_id))


def _check(text: Any, what: str) -> None:
    if text is None:
        return
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST or not text.isprintable():
        raise InvalidInput(
            f"an event cannot have the {what} {text!r:.80}",
            hint=f"Give 1 to {_LONGEST} printable characters, or none at all",
        )
