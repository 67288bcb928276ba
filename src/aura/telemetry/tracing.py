"""Spans of starts, runs, tries of steps, model calls, events and calls of targets.

    start research                    PRODUCER   where `app.start` was called
    └─ run research                   CONSUMER   from the start of the run to its end
       ├─ queue default               how long it waited for a worker
       ├─ step extract                one for each try
       │  └─ chat gpt-5               CLIENT     `telemetry.model`
       ├─ publish reports.ready       PRODUCER
       │  └─ process reports.ready    CONSUMER   where the event is handled
       ├─ resume research             each time that it was taken up again, here or elsewhere
       └─ run summary                 a child

A run outlives processes, and an open span dies with its own. So the span of a run is made when the
run has ended, by whoever ended it, under an id that follows from the run: every process knows it,
and what ended before a crash has a parent that comes later. Tracers that let nobody choose ids (all
but those of the OpenTelemetry SDK) hang what belongs to a run on the span of its start instead.

Which traces are recorded is decided where they begin, once, and carried along: see `Budget`.
"""

from __future__ import annotations

import atexit
import hashlib
import random
import weakref
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)

from aura.clock import Clock
from aura.engine.middleware import Invocation, Proceed
from aura.engine.traces import (
    LENGTH,
    NO_PARENT,
    Carried,
    context_of,
    current,
    is_recorded,
    trace_of,
)
from aura.engine.watch import Doing
from aura.masking import current_mask
from aura.store.base import Entry, RunRecord
from aura.telemetry import Telemetry
from aura.telemetry.export import provide
from aura.telemetry.later import Ids, Pending, ids_of

_ENDS = frozenset({"completed", "failed", "cancelled", "parked"})
_OURS = "aura."  # rollouts, schedules and the like go on for months: no trace is that long
_KINDS = {
    "start": SpanKind.PRODUCER,
    "emit": SpanKind.PRODUCER,
    "handle": SpanKind.CONSUMER,
    "call": SpanKind.CLIENT,
    "serve": SpanKind.SERVER,
}
_NAMES = {"start": "start", "emit": "publish", "handle": "process", "call": "call"}
_MESSAGING = {"emit": "send", "handle": "process"}
_DOTTED = {
    one.replace(".", "_"): one
    for one in (
        *("request.choice.count", "usage.cache_read.input_tokens", "data_source.id"),
        *("usage.cache_creation.input_tokens", "usage.reasoning.output_tokens"),
        *("embeddings.dimension.count", "tool.call.id", "openai.request.service_tier"),
        *("openai.response.service_tier", "openai.response.system_fingerprint"),
    )
}
"""Attributes of models with more than one dot, or one that is not behind their first word."""
_LONGEST = 200  # characters of what an error says
_WAITED = 0.001  # seconds in a queue that are worth a span
_MOST_UNSAMPLED = 100_000
_BURST = 0.25  # seconds whose spans a process may make at once


class Budget:
    """How many spans a second a process pays for: a bucket of what comes in a quarter of a second.
    New traces are recorded while there is something in it. What belongs to a trace that has begun
    may owe as much again; then tries of steps are left out of it. Pure but for its own level."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._room = _BURST * rate if rate else 0.0
        self._level = self._room
        self._at: float | None = None

    def allows(self, now: float) -> bool:
        """Whether a trace may begin; `now` in monotonic seconds."""
        return self._rate is None or self._filled(now) > 0

    def affords(self, now: float) -> bool:
        """Whether one that has begun may have another step."""
        return self._rate is None or self._level > 0 or self._filled(now) > -self._room

    def _filled(self, now: float) -> float:
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._level = min(self._room, self._level + passed * (self._rate or 0.0))
        return self._level

    def spend(self) -> None:
        """A span was made."""
        self._level -= 1


class Here:
    """Where in a trace code runs; see `aura.engine.traces.Trace`. `context` is OpenTelemetry's,
    with the span that new ones belong to."""

    __slots__ = ("_text", "_tracing", "context", "publisher", "sampled", "server", "span")

    def __init__(
        self, tracing: Tracing, span: Span, *, publisher: bool = False, server: bool = False
    ) -> None:
        self._tracing = tracing
        self.span = span
        self.context: Context = api.set_span_in_context(span)
        self.sampled = span.get_span_context().trace_flags.sampled
        self.publisher = publisher
        self.server = server
        self._text = ""

    @property
    def traceparent(self) -> str:
        """The context for what begins here: inside a span of the user's own, that one's."""
        found = self._innermost()
        if found is not self.span.get_span_context():
            return _text(found)
        self._text = self._text or _text(found)
        return self._text

    @property
    def tracestate(self) -> str:
        state = self._innermost().trace_state
        return state.to_header() if state else ""

    def _innermost(self) -> SpanContext:
        inner = api.get_current_span().get_span_context()
        own = self.span.get_span_context()
        if inner.is_valid and inner.trace_id == own.trace_id and inner.span_id != own.span_id:
            return inner
        return own

    def publishing(self, topic: str, event_id: str) -> str:
        """A span for an event that is emitted here; its context."""
        if self.publisher or not self.sampled:
            return context_of(self)
        span = self._tracing.inner(
            f"publish {topic}", self, SpanKind.PRODUCER,
            {**_message("emit", topic), "messaging.message.id": event_id},
        )  # fmt: skip
        span.end()
        made = span.get_span_context()
        return f"{_text(made)}/{made.trace_state.to_header()}" if made.trace_state else _text(made)

    def routed(self, name: str, route: str) -> None:
        """See `aura.engine.traces.Trace`."""
        if self.server:
            self.span.update_name(name)
            self.span.set_attribute("http.route", route)

    def answered(self, status: int) -> None:
        """See there. By the conventions a client's error is not one of the server's."""
        self.span.set_attribute("http.response.status_code", status)
        if status >= (500 if self.server else 400):
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(Status(StatusCode.ERROR))

    def model(
        self, name: str, provider: str | None, operation: str
    ) -> AbstractContextManager[_ModelSpan]:
        """See `aura.telemetry.model`."""
        return self._tracing.model(name, provider, operation)


class _ModelSpan:
    def __init__(self, span: Span) -> None:
        self._span = span

    def used(self, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        self._set("usage.input_tokens", input_tokens)
        self._set("usage.output_tokens", output_tokens)

    def answered(
        self, *, model: str | None = None, id: str | None = None, finish: str | None = None
    ) -> None:
        self._set("response.model", model)
        self._set("response.id", id)
        if finish is not None:
            self._span.set_attribute("gen_ai.response.finish_reasons", [finish])

    def note(self, **attributes: str | float | bool | Sequence[str]) -> None:
        for name, value in attributes.items():
            if name.startswith("server_"):
                self._span.set_attribute(name.replace("_", ".", 1), value)
            else:
                self._set(_DOTTED.get(name) or name.replace("_", ".", 1), value)

    def _set(self, name: str, value: str | float | bool | Sequence[str] | None) -> None:
        if value is not None:
            self._span.set_attribute(f"gen_ai.{name}", value)


class _Unrecorded:
    """A trace that is not recorded begins, or goes on: what follows is not recorded either."""

    __slots__ = ("_carried", "_token")

    def __init__(self, text: str | None) -> None:
        self._carried = Carried(text or f"00-{_random(128):032x}-{_random(64):016x}-00")

    def __enter__(self) -> None:
        self._token = current.set(self._carried)

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)


class Tracing:
    """Traces one app: a middleware around its runs and steps, and a `Watch` of what goes on."""

    def __init__(self, name: str, clock: Clock, settings: Telemetry) -> None:
        self._name = name
        self._clock = clock
        self._settings = settings
        self.budget = Budget(settings.rate)
        self._left_out: Counter[str] = Counter()  # tries without a span, by run
        self._unsampled: set[str] = set()  # runs that nobody started in a trace, over the budget

    @cached_property
    def _made(self) -> tuple[Tracer, Ids | None, Pending | None]:
        """The tracer and, if it lets anybody choose them, its ids, and what it has still to make:
        asked for when they are needed, because a program may set its provider after it has made its
        app."""
        tracer = (self._settings.provider or provide(self._name)).get_tracer("aura")
        ids = ids_of(tracer)
        if ids is None:
            return tracer, None, None
        pending = Pending(tracer, ids, self._clock)
        # A provider ends with the process by `atexit` as well, and what came last is called first.
        atexit.register(_make, weakref.ref(pending))
        return tracer, ids, pending

    def close(self) -> None:
        """The app is closed: what has ended is made."""
        made = self.__dict__.get("_made")
        if made is not None and made[2] is not None:
            made[2].make()

    # -- runs and steps: middleware ------------------------------------------------------------

    def concerns(self, run: RunRecord) -> bool:
        """Whether that run is recorded."""
        if run.workflow.startswith(_OURS):
            return False
        trace = trace_of(run)
        if trace[36:52] == NO_PARENT:
            return self._begins(run.id)
        return is_recorded(trace)

    def __call__(self, what: Invocation, proceed: Proceed) -> Awaitable[Any]:
        """The middleware."""
        if what.kind == "run":
            return self._run(what, proceed)
        here = current.get()
        if type(here) is not Here or not here.sampled:
            return proceed()
        if not self.budget.affords(self._clock.monotonic()):
            self._left_out[what.run_id] += 1
            return proceed()
        return self._step(here, what, proceed)

    async def _run(self, what: Invocation, proceed: Proceed) -> Any:
        own = self._context_of(what.trace, what.run_id, what.execution)
        here = Here(self, NonRecordingSpan(own))
        token, attached = current.set(here), contexts.attach(here.context)
        span = None
        if what.attempt > 1 and here.sampled:
            more = {"aura.run.id": what.run_id, "aura.epoch": what.attempt}
            span = self.span(f"resume {what.name}", here.context, SpanKind.INTERNAL, more)
        try:
            return await proceed()
        finally:
            if span is not None:
                span.end()
            contexts.detach(attached)
            current.reset(token)

    async def _step(self, above: Here, what: Invocation, proceed: Proceed) -> Any:
        more = {
            "aura.run.id": what.run_id,
            "aura.step.key": what.key,
            "aura.attempt": what.attempt,
        }
        span = self.inner(f"step {what.name}", above, SpanKind.INTERNAL, more)
        here = Here(self, span)
        token, attached = current.set(here), contexts.attach(here.context)
        try:
            return await proceed()
        except BaseException as error:
            _failed(span, error)
            raise
        finally:
            contexts.detach(attached)
            current.reset(token)
            span.end()

    @contextmanager
    def model(self, name: str, provider: str | None, operation: str) -> Iterator[_ModelSpan]:
        """A span for a call of a model, below whatever span there is."""
        more = {"gen_ai.operation.name": operation, "gen_ai.request.model": name}
        if provider is not None:
            more["gen_ai.provider.name"] = provider
        span = self.span(f"{operation} {name}", contexts.get_current(), SpanKind.CLIENT, more)
        attached = contexts.attach(api.set_span_in_context(span))
        try:
            yield _ModelSpan(span)
        except BaseException as error:
            _failed(span, error)
            raise
        finally:
            contexts.detach(attached)
            span.end()

    # -- told by the engine: Watch -------------------------------------------------------------

    def recorded(self, workflow: str, entry: Entry) -> None:
        """Steps are traced while they run."""

    def emitted(self, topic: str, seconds: float) -> None:
        """Events are traced where they are emitted."""

    def settled(self, run: RunRecord) -> None:
        """A run has left this process; when it has ended, its span is made."""
        left_out = self._left_out.pop(run.id, 0)
        if run.state not in _ENDS or run.workflow.startswith(_OURS):
            return
        trace = trace_of(run)
        if not is_recorded(trace):
            return
        own = self._context_of(trace, run.id, run.execution)
        self._unsampled.discard(run.id)
        if not own.trace_flags.sampled:
            return
        context = api.set_span_in_context(NonRecordingSpan(own))
        _, ids, pending = self._made
        if ids is not None and pending is not None:
            pending.make()
            ids.choose(own.trace_id, own.span_id)
        span = self.span(
            f"run {run.workflow}", _above(trace), SpanKind.CONSUMER, _of_run(run), run.created_at
        )
        if left_out:
            span.set_attribute("aura.spans_left_out", left_out)
        if run.state != "completed":
            span.set_status(Status(StatusCode.ERROR, run.state))
        if run.started_at is not None and run.started_at - run.created_at > _WAITED:
            more = {"aura.run.id": run.id, "aura.queue": run.queue or "default"}
            waited = self.span(
                f"queue {run.queue or 'default'}", context, SpanKind.INTERNAL, more, run.created_at
            )
            waited.end(_nanos(run.started_at))
        span.end(max(_nanos(run.created_at), _nanos(self._clock.now())))

    def doing(
        self, what: Doing, name: str, trace: str | None, more: dict[str, str]
    ) -> AbstractContextManager[object]:
        """A span around something outside of runs. Its parent is the span that is open, else the
        context that it came with; without either a trace begins, if the budget allows."""
        if what == "start" and name.startswith(_OURS):
            return nullcontext()
        carried = current.get()
        text = trace or (None if carried is None else context_of(carried))
        if api.get_current_span().get_span_context().is_valid:
            if what == "serve":  # a span of somebody who instruments the server
                return nullcontext()
            return self._doing(what, name, contexts.get_current(), more)
        if text is not None and is_recorded(text):
            return self._doing(what, name, _above(text), more)
        if text is None and self.budget.allows(self._clock.monotonic()):
            return self._doing(what, name, Context(), more)
        return _Unrecorded(text)

    @contextmanager
    def _doing(
        self, what: Doing, name: str, context: Context, more: dict[str, str]
    ) -> Iterator[None]:
        said = _message(what, name) if what in _MESSAGING else {f"aura.{what}": name}
        if what == "serve":
            said = {"url.scheme": more.pop("scheme")}
            if "route" in more:
                said["http.route"] = more.pop("route")
        if "group" in more:
            said["messaging.consumer.group.name"] = more.pop("group")
        if "method" in more:
            said["http.request.method"] = more.pop("method")
        said |= {f"aura.{key}": value for key, value in more.items()}
        shown = name if what == "serve" else f"{_NAMES[what]} {name}"
        span = self.span(shown, context, _KINDS[what], said)
        here = Here(self, span, publisher=what == "emit", server=what == "serve")
        token, attached = current.set(here), contexts.attach(here.context)
        try:
            yield
        except BaseException as error:
            _failed(span, error)
            raise
        finally:
            contexts.detach(attached)
            current.reset(token)
            span.end()

    def _context_of(self, trace: str, run_id: str, execution: int) -> SpanContext:
        """The context of the run's own span."""
        trace_id, parent, sampled = trace[3:35], trace[36:52], is_recorded(trace)
        if parent == NO_PARENT and sampled:
            sampled = run_id not in self._unsampled
        if self._made[1] is None and parent != NO_PARENT:
            span_id = int(parent, 16)
        else:
            mark = f"{run_id}\0{execution}\0{trace[:52]}".encode(errors="surrogatepass")
            span_id = int.from_bytes(hashlib.blake2b(mark, digest_size=8).digest()) or 1
        return SpanContext(
            int(trace_id, 16), span_id, False, TraceFlags(int(sampled)), _state(trace)
        )

    def _begins(self, run_id: str) -> bool:
        """Whether the trace of a run that nobody started in one is recorded here."""
        if self.budget.allows(self._clock.monotonic()):
            self._unsampled.discard(run_id)
            return True
        if len(self._unsampled) >= _MOST_UNSAMPLED:
            self._unsampled.clear()
        self._unsampled.add(run_id)
        return False

    def inner(self, name: str, above: Here, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        """A new span, from now on, below a recorded one of ours. The SDK is told when it is over,
        if it lets us choose ids."""
        pending = self._made[2]
        if pending is None:
            return self.span(name, above.context, kind, attributes)
        self.budget.spend()
        parent = above.span.get_span_context()
        return pending.begin(name, above.context, parent, kind, attributes)

    def span(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        attributes: dict[str, Any],
        began: float | None = None,
    ) -> Span:
        """A new span; `began` in epoch seconds, None for now."""
        self.budget.spend()
        start = None if began is None else _nanos(began)
        return self._made[0].start_span(
            name, context, kind, attributes, start_time=start, record_exception=False
        )


def _make(pending: weakref.ref[Pending]) -> None:
    found = pending()
    if found is not None:
        found.make()


def _above(trace: str) -> Context:
    """The context of a carried trace; an empty one when it has no parent."""
    if trace[36:52] == NO_PARENT or len(trace) < LENGTH:
        return Context()
    flags = TraceFlags(int(is_recorded(trace)))
    found = SpanContext(int(trace[3:35], 16), int(trace[36:52], 16), True, flags, _state(trace))
    return api.set_span_in_context(NonRecordingSpan(found), Context())


def _state(trace: str) -> TraceState | None:
    """The tracestate of a carried trace."""
    return TraceState.from_header([trace[LENGTH + 1 :]]) if len(trace) > LENGTH else None


def _text(found: SpanContext) -> str:
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & 1:02x}"


def _of_run(run: RunRecord) -> dict[str, Any]:
    return {
        "aura.run.id": run.id,
        "aura.workflow": run.workflow,
        "aura.workflow.version": run.version,
        "aura.state": run.state,
        "aura.epoch": run.epoch,
    }


def _message(what: str, topic: str) -> dict[str, Any]:
    """The attributes of messaging, by OpenTelemetry's semantic conventions."""
    name = _NAMES[what]
    return {
        "messaging.system": "aura",
        "messaging.destination.name": topic,
        "messaging.operation.name": name,
        "messaging.operation.type": _MESSAGING[what],
    }


def _failed(span: Span, error: BaseException) -> None:
    """Of an error its type and a few words, without what is secret."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR, current_mask().text(str(error))[:_LONGEST]))


def _random(bits: int) -> int:
    return random.getrandbits(bits) or 1  # an id, not a secret


def _nanos(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
