"""Spans that are made when there is time: what happened is noted, and the SDK told afterwards.

    step ──begin──▶ Noted ──end──▶ Pending ──(MOST of them, SOON, or a run has left)──▶ tracer

A span of the SDK takes three times as long between two steps as in a row of spans, whose code and
data are at hand. So a step only notes its times and names here, under an id that is its own at
once, and whoever asks for the current span gets this one, which keeps what it is told.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import Attributes, AttributeValue

from aura.clock import Clock

MOST = 64
SOON = 0.05
"""Seconds after which what has ended is made at the latest."""


class Ids:
    """A generator of ids that can be told the next ones, of the thread that asks."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._next = threading.local()

    def choose(self, trace_id: int, span_id: int) -> None:
        """Those of the span that this thread makes next."""
        self._next.ids = (trace_id, span_id)

    def new(self) -> int:
        """An id for a span."""
        return self._inner.generate_span_id()  # type: ignore[no-any-return]

    def generate_trace_id(self) -> int:
        ids = getattr(self._next, "ids", None)
        return ids[0] if ids else self._inner.generate_trace_id()  # type: ignore[no-any-return]

    def generate_span_id(self) -> int:
        ids = self._next.__dict__.pop("ids", None)
        return ids[1] if ids else self._inner.generate_span_id()  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def ids_of(tracer: Any) -> Ids | None:
    """The ids of a tracer of the SDK, which can be chosen from now on; None for another one. The
    SDK gives all apps of a process the same tracer."""
    inner = getattr(tracer, "id_generator", None)
    if inner is None or isinstance(inner, Ids):
        return inner
    tracer.id_generator = Ids(inner)
    return tracer.id_generator  # type: ignore[no-any-return]


class Noted(Span):
    """What is known of a span that is made later. See `opentelemetry.trace.Span`."""

    __slots__ = (
        "_above", "_pending", "attributes", "context", "end_time", "events", "kind", "links",
        "name", "start_time", "status",
    )  # fmt: skip

    def __init__(
        self,
        pending: Pending,
        name: str,
        above: Context,
        context: SpanContext,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
    ) -> None:
        self._pending = pending
        self._above = above
        self.name = name
        self.context = context
        self.kind = kind
        self.attributes = attributes
        self.status: Status | None = None
        self.events: Sequence[tuple[str, Attributes, int]] = ()
        self.links: Sequence[tuple[SpanContext, Attributes]] = ()
        self.end_time: int | None = None
        self.start_time = pending.now()

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self.end_time is None

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if self.end_time is None:
            self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if self.end_time is None:
            self.attributes.update(attributes)

    def add_event(
        self, name: str, attributes: Attributes = None, timestamp: int | None = None
    ) -> None:
        if self.end_time is None:
            kept = dict(attributes) if attributes else None
            self.events = (*self.events, (name, kept, timestamp or self._pending.now()))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if self.end_time is None:
            self.links = (*self.links, (context, attributes))

    def update_name(self, name: str) -> None:
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        wanted = status if isinstance(status, Status) else Status(status, description)
        final = self.status is not None and self.status.status_code is StatusCode.OK
        if self.end_time is None and not final and not wanted.is_unset:
            self.status = wanted

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        kind = type(exception)
        said: dict[str, AttributeValue] = {
            "exception.type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**said, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_time is None:
            self.end_time = end_time or self._pending.now()
            self._pending.add(self)

    def make(self, tracer: Tracer, ids: Ids) -> None:
        """Tell the SDK all of it."""
        ids.choose(self.context.trace_id, self.context.span_id)
        span = tracer.start_span(
            self.name, self._above, self.kind, self.attributes,
            start_time=self.start_time, record_exception=False,
        )  # fmt: skip
        for context, attributes in self.links:
            span.add_link(context, attributes)
        for name, attributes, timestamp in self.events:
            span.add_event(name, attributes, timestamp)
        if self.status is not None:
            span.set_status(self.status)
        span.end(self.end_time)


class Pending:
    """What has ended and is not made yet. Anything may be called in any thread."""

    def __init__(self, tracer: Tracer, ids: Ids, clock: Clock) -> None:
        self._clock = clock
        self._tracer = tracer
        self._ids = ids
        self._ended: deque[Noted] = deque()
        self._due = False

    def begin(
        self,
        name: str,
        above: Context,
        parent: SpanContext,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
    ) -> Noted:
        """A span from now on, below one that is recorded and in the same trace."""
        own = SpanContext(
            parent.trace_id, self._ids.new(), False, parent.trace_flags, parent.trace_state
        )
        return Noted(self, name, above, own, kind, attributes)

    def now(self) -> int:
        """The time, in nanoseconds since 1970."""
        return int(self._clock.now() * 1_000_000_000)

    def add(self, span: Noted) -> None:
        """It has ended."""
        self._ended.append(span)
        if len(self._ended) >= MOST:
            self.make()
        elif not self._due:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # a thread, or a program of which we know no loop
                self.make()
            else:
                self._due = True
                loop.call_later(SOON, self.make)

    def make(self) -> None:
        """Make all of them, those that ended first first."""
        self._due = False
        while self._ended:
            try:
                span = self._ended.popleft()
            except IndexError:  # another thread took the last one
                return
            span.make(self._tracer, self._ids)
