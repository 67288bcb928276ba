"""What an app has for events: `emit`, `subscribe`, and the consumers while it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from aura.clock import Clock
from aura.codec import Limits
from aura.engine.definition import Registry, Resolver, Workflow
from aura.engine.eventbus import EventBus
from aura.engine.events import publish
from aura.engine.lanes import settle_dependencies
from aura.engine.middleware import Invocation, Middleware, Proceed
from aura.engine.retry import Retry
from aura.engine.shadow import held_event
from aura.engine.subscriptions import (
    RETRIES,
    AfterDead,
    Begin,
    Start,
    Subscription,
    Subscriptions,
    Surroundings,
)
from aura.engine.watch import Watch, Watches, doing
from aura.engine.worker import Worker
from aura.errors import RegistrationError
from aura.store.base import Store, Writer

H = TypeVar("H", bound=Callable[..., Any])


class Traces(Watch, Protocol):
    """What traces an app: a watch that is also a middleware."""

    def __call__(self, what: Invocation, proceed: Proceed) -> Awaitable[Any]: ...

    def close(self) -> None:
        """The app is closed."""
        ...


class Events:
    """The part of an app that is about events."""

    registry: Registry
    clock: Clock
    time: Clock
    store: Store
    committer: Writer
    _limits: Limits

    def __init__(self) -> None:
        self.subscriptions = Subscriptions()
        self._bus: EventBus | None = None
        self._counts: Watch | None = None
        self._traces: Traces | None = None
        self._told: Watch | None = None

    @property
    def watch(self) -> Watch | None:
        """Who counts, or traces, what runs do; set before the app is opened."""
        return self._told

    @watch.setter
    def watch(self, counts: Watch | None) -> None:
        self._counts = counts
        every = [one for one in (self._counts, self._traces) if one is not None]
        self._told = Watches(every) if len(every) > 1 else every[0] if every else None

    @property
    def traced(self) -> bool:
        """Whether spans are made of what runs do."""
        return self._traces is not None

    def _traced_by(self, traces: Traces | None) -> list[Middleware]:
        """The middleware that makes spans of runs and steps, if there is something that does."""
        self._traces = traces
        self.watch = self._counts
        return [] if traces is None else [traces]

    def _require_open(self) -> None:
        raise NotImplementedError

    def _require_home(self) -> None:
        """Raises DatabaseMoved when the app has left its database."""
        raise NotImplementedError

    def subscribe(
        self,
        topic: str,
        *,
        group: str,
        concurrency: int = 16,
        retries: int | Retry = RETRIES,
        timeout: float | None = None,
        after_dead: AfterDead = "continue",
        begin: Begin = "earliest",
    ) -> Callable[[H], H]:
        """Let a function, or a workflow, handle the events of a topic for a group.

        Each group gets every event, at least once, in whatever process of the group; events of one
        key in order, at most `concurrency` at once in each process. A function gets the payload as
        its parameter is annotated, and the `aura.engine.Event` in a parameter of that type; a
        workflow gets a run for each event. A try may take `timeout` seconds. What fails is tried
        again (`retries`, 5 by default), then it is a dead letter: later events of its key go on, or
        wait for a person (`after_dead="hold"`). A new group begins with the oldest event that is
        there, or with those that come from now on (`begin="latest"`).

        Raises RegistrationError.
        """
        if isinstance(retries, int) and retries < 0:
            raise RegistrationError(f"retries={retries}", hint="Give 0 or more")
        retry = retries if isinstance(retries, Retry) else replace(RETRIES, attempts=retries)

        def decorate(handler: H) -> H:
            if isinstance(handler, Workflow):
                self.registry.add(handler)
            self.subscriptions.add(
                Subscription(topic, group, handler, concurrency, retry, timeout, after_dead, begin)
            )
            return handler

        return decorate

    async def emit(
        self, topic: str, payload: Any = None, *, key: str | None = None, id: str | None = None
    ) -> None:
        """Add an event to a topic, from outside of runs; it is durable when this returns.

        Events of one `key` are handled in order. The same `id` is one event of its topic, however
        often it is emitted. Raises CodecError, PayloadTooLarge, InvalidInput, RegistrationError,
        DatabaseMoved.
        """
        self._require_open()
        self._require_home()
        event = (topic, payload, key, id)
        if held_event(topic, payload):
            return
        await settle_dependencies()
        began = self.clock.monotonic()
        watch = self.watch
        with doing(watch, "emit", topic):
            await asyncio.shield(publish(self.committer, self._limits, self.clock.now(), event))
        if watch is not None:
            watch.emitted(topic, self.clock.monotonic() - began)

    async def _open_bus(
        self, worker: Worker, resolver: Resolver, start: Start, threads: int, lease: float
    ) -> None:
        """Begin to handle events in this process; `threads` are for plain functions, `lease` is
        the worker's, in seconds."""
        if self.subscriptions:
            pool = ThreadPoolExecutor(threads, thread_name_prefix="aura-handler")
            around = Surroundings(
                self.committer, self._limits, pool, self.registry, resolver, start, self.watch
            )  # fmt: skip
            self._bus = EventBus(
                self.store, self.time, self.subscriptions, around,
                lambda: worker.id if worker.joined else None, lease,
            )  # fmt: skip
            await self._bus.open()

    async def _close_bus(self, grace: float) -> None:
        """Hand the partitions back, after as many seconds as handlers need, at most `grace`."""
        if self._bus is not None:
            await self._bus.close(grace)
            self._bus = None
