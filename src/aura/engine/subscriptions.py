"""Who handles events: functions and workflows that subscribe, and one try of one event."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, get_type_hints

from aura.codec import Limits, Slot, trace_in, unpack
from aura.engine.attempt import TimedOut
from aura.engine.calls import is_being_cancelled
from aura.engine.definition import Registry, Resolver, Workflow
from aura.engine.events import Handling, check_topic, handling
from aura.engine.retry import Retry
from aura.engine.traces import going_on
from aura.engine.watch import Watch, doing
from aura.errors import InvalidInput, NonRetryable, RegistrationError
from aura.store.base import Writer
from aura.store.events import Emit
from aura.store.events import Event as Stored

AfterDead = Literal["continue", "hold"]
Begin = Literal["earliest", "latest"]
RETRIES = Retry(attempts=5, first=0.5, longest=60.0)


@dataclass(frozen=True, slots=True)
class Event:
    """What a handler may know of an event beside its payload: a parameter that is annotated with
    this class gets it. `seq` numbers the events of the topic without gaps, from 1."""

    topic: str
    seq: int
    id: str
    key: str | None
    at: datetime
    attempt: int
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """What handles the events of a topic for a group. See `Aura.subscribe`."""

    topic: str
    group: str
    handler: Callable[..., Any] | Workflow[..., Any]
    concurrency: int = 16
    retry: Retry = RETRIES
    timeout: float | None = None
    after_dead: AfterDead = "continue"
    begin: Begin = "earliest"

    def __post_init__(self) -> None:
        check_topic(self.topic)
        check_topic(self.group)
        wrong = None
        if self.concurrency < 1:
            wrong = f"concurrency={self.concurrency}"
        elif self.timeout is not None and not self.timeout > 0:
            wrong = f"timeout={self.timeout}"
        elif self.after_dead not in ("continue", "hold"):
            wrong = f"after_dead={self.after_dead!r}"
        elif self.begin not in ("earliest", "latest"):
            wrong = f"begin={self.begin!r}"
        if wrong is not None:
            raise RegistrationError(f"{self} has {wrong}", hint="See Aura.subscribe")
        if not callable(self.handler):
            raise RegistrationError(f"{self} needs a function, not {self.handler!r}")

    def __str__(self) -> str:
        return f"group {self.group} of topic {self.topic}"


class Subscriptions:
    """The subscriptions of this process."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Subscription] = {}

    def add(self, subscription: Subscription) -> None:
        """Raises RegistrationError when the group handles the topic already."""
        place = (subscription.topic, subscription.group)
        if place in self._found:
            raise RegistrationError(
                f"{subscription} is declared twice",
                hint="Give the second handler a group of its own: each group gets every event",
            )
        self._found[place] = subscription

    def check_version(self, topic: str, group: str, version: str) -> None:
        """Raises InvalidInput when the group is handled here, and by what has no versions."""
        known = self._found.get((topic, group))
        if known is not None and not isinstance(known.handler, Workflow):
            raise no_versions(known, version)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._found.values())

    def __bool__(self) -> bool:
        return bool(self._found)


class Start(Protocol):
    """Starts a run, as `Aura.start` does."""

    def __call__(self, workflow: str, *args: Any, id: str, version: str) -> Awaitable[object]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What handlers of one process share."""

    writer: Writer
    limits: Limits
    threads: Executor
    registry: Registry
    resolver: Resolver
    start: Start
    watch: Watch | None = None


Handle = Callable[[Stored, int, str, str | None], Awaitable[None]]


class Handler:
    """Calls what has subscribed, for one try of one event. Raises what that raises."""

    def __init__(self, subscription: Subscription, around: Surroundings) -> None:
        self._subscription = subscription
        self._around = around
        self._is_workflow = isinstance(subscription.handler, Workflow)
        self._is_async = inspect.iscoroutinefunction(subscription.handler)
        self._slot, self._payload, self._event = _parameters(subscription)

    async def __call__(self, event: Stored, attempt: int, key: str, version: str | None) -> None:
        """Handle the event once; `key` is its idempotency key, `version` was chosen by a person.

        What it emits is durable when this returns.
        """
        topic, group = self._subscription.topic, self._subscription.group
        trace = trace_in(event.payload)
        with going_on(trace), doing(self._around.watch, "handle", topic, trace, group=group):
            await self._handle(event, attempt, key, version)

    async def _handle(self, event: Stored, attempt: int, key: str, version: str | None) -> None:
        if self._is_workflow:
            await self._start_run(event, key, version)
            return
        if version is not None:
            error = no_versions(self._subscription, version)
            raise NonRetryable(error.message, hint=error.hint)
        scope = Handling(key, self._around.limits, [])
        outer = handling.set(scope)
        try:
            await self._in_time(self._arguments(event, attempt, key))
        finally:
            handling.reset(outer)
        if scope.outbox:
            await self._around.writer.submit(Emit(tuple(scope.outbox)))

    def _arguments(self, event: Stored, attempt: int, key: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._payload is not None:
            found[self._payload] = self._slot.load(unpack(event.payload))
        if self._event is not None:
            at = datetime.fromtimestamp(event.at, UTC)
            found[self._event] = Event(
                event.topic, event.seq, event.id, event.key, at, attempt, key
            )  # fmt: skip
        return found

    async def _in_time(self, arguments: dict[str, Any]) -> None:
        limit = self._subscription.timeout
        if limit is None:
            await self._call(arguments)
            return
        guard = asyncio.timeout(limit)
        try:
            async with guard:
                await self._call(arguments)
        except TimeoutError as error:
            if not guard.expired():
                raise
            raise TimedOut(f"not handled within {limit:g} s") from error

    async def _call(self, arguments: dict[str, Any]) -> None:
        function: Any = self._subscription.handler
        if self._is_async:
            await function(**arguments)
            return
        context = contextvars.copy_context()
        work = functools.partial(context.run, function, **arguments)
        result = await _to_its_end(
            asyncio.get_running_loop().run_in_executor(self._around.threads, work)
        )
        if inspect.isawaitable(result):
            await result

    async def _start_run(self, event: Stored, key: str, version: str | None) -> None:
        """Each event starts a run; its id is the event's key, so that it starts once."""
        workflow: Any = self._subscription.handler
        around = self._around
        chosen = around.registry.get(
            workflow.name, version or around.resolver.resolve(workflow.name, key)
        )
        names = list(inspect.signature(chosen.function).parameters)
        payload = b"{}" if not names else b'{"%b":%b}' % (names[0].encode(), unpack(event.payload))
        arguments = chosen.signature.load(payload)
        await around.start(chosen.name, *arguments.values(), id=key, version=chosen.version)


async def _to_its_end(thread: asyncio.Future[Any]) -> Any:
    """What a thread gives. It cannot be stopped, so who is cancelled meanwhile waits for its end:
    nothing else of its key is handled here before that. A second request does not wait."""
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        if not thread.done():
            await asyncio.wait([thread])
        raise


def no_versions(subscription: Subscription, version: str) -> InvalidInput:
    """A letter was to be handled by a version of what is a function."""
    return InvalidInput(
        f"version {version} was asked for, but what handles {subscription} is a function and no "
        "workflow: it has no versions",
        hint="Requeue the letter without a version (aura dlq requeue ID); the code that the "
        "workers have handles it",
    )


async def failure_of(trying: Awaitable[None]) -> BaseException | None:
    """What made a try fail; None when it did not. Raises CancelledError when it is called off."""
    try:
        await trying
    except TimedOut as error:
        return TimeoutError(error.message)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it becomes history)
        return error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        return error  # of something else, inside the handler
    return None


def _parameters(subscription: Subscription) -> tuple[Slot, str | None, str | None]:
    """How the payload is read, and which parameters get the payload and the `Event`."""
    what = f"the payload of an event for {subscription}"
    if isinstance(subscription.handler, Workflow):
        return Slot(Any, what), None, None
    given = _named(subscription.handler, subscription)
    payload: str | None = None
    event: str | None = None
    annotation: Any = Any
    for name, kind in given:
        if kind is Event:
            event = name
        elif payload is None:
            payload, annotation = name, kind
        else:
            raise RegistrationError(
                f"the handler of {subscription} takes {payload!r} and {name!r}",
                hint="It gets one payload, and an aura.engine.Event if a parameter is one",
            )
    return Slot(annotation, what), payload, event


def _named(function: Callable[..., Any], what: Subscription) -> Sequence[tuple[str, Any]]:
    """The parameters that must be given, or that are an `Event`, with their types."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise RegistrationError(
            f"the annotations of the handler of {what} cannot be resolved: {error}",
            hint="Import the type at the top of the module, outside `if TYPE_CHECKING`",
        ) from error
    found: list[tuple[str, Any]] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints.get(name, Any)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty or not found or kind is Event:
            found.append((name, kind))
    return found
