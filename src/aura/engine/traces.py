"""Which trace some work belongs to, and how it travels: in a run's origin, in an event's frame.

A trace context is the `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/):
`00-<trace id, 32 hex digits>-<span id, 16>-<flags, 2>`; flag 01 says that the trace is recorded.
Behind it, after a slash, stands what came as its `tracestate`, if anything did.
The engine only carries it. Who makes spans of it (`aura.telemetry`) is told by `Watch` and by
middleware; with nobody there, what came in with a request is passed on all the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from aura.store.base import RunRecord

LENGTH = 55
NO_PARENT = "0" * 16
"""The span id in the context of a run that nobody has started in a trace."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-(..)")
_CARRIED = re.compile(r" (00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:/[ -~]{1,512})?)\Z")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\x2d-<>-~]{0,255}[!-+\x2d-<>-~]")
_MOST_MEMBERS, _LONGEST_STATE = 32, 512
_HEX = re.compile(r"[0-9a-f]{2}\Z")


class Trace(Protocol):
    """Where in a trace the code that runs now is."""

    @property
    def traceparent(self) -> str:
        """The context for what begins from here."""
        ...

    @property
    def tracestate(self) -> str:
        """What tracing systems have written down beside it; "" when none has."""
        ...

    def publishing(self, topic: str, event_id: str) -> str:
        """An event is emitted here; the context that it takes along."""
        ...

    def routed(self, name: str, route: str) -> None:
        """The request that is answered here is for that route, and its span is called so."""
        ...

    def answered(self, status: int) -> None:
        """The request that is answered or made here got an answer."""
        ...


@dataclass(frozen=True, slots=True)
class Carried:
    """A context that came from elsewhere, and is only passed on."""

    context: str

    @property
    def traceparent(self) -> str:
        return self.context[:LENGTH]

    @property
    def tracestate(self) -> str:
        return self.context[LENGTH + 1 :]

    def publishing(self, topic: str, event_id: str) -> str:  # noqa: ARG002
        return self.context

    def routed(self, name: str, route: str) -> None:
        """Nobody records it."""

    def answered(self, status: int) -> None:
        """Nobody records it."""


current: ContextVar[Trace | None] = ContextVar("aura_trace", default=None)


def parsed(text: str | None) -> str | None:
    """The `traceparent` of a request as this version writes it; None for what is none."""
    if text is None or len(text) < LENGTH or not text.isascii():
        return None
    found = _TRACEPARENT.match(text)
    known = len(text) == LENGTH or (text[:2] != "00" and text[LENGTH] == "-")
    if found is None or not known or _HEX.match(found[3]) is None:
        return None
    return f"00-{found[1]}-{found[2]}-{int(found[3], 16) & 1:02x}"


def stated(text: str) -> str:
    """The `tracestate` of a request as this version writes it; "" for what is none, as the
    standard asks."""
    members = [one.strip(" \t") for one in text.split(",")]
    members = [one for one in members if one]
    fits = len(members) <= _MOST_MEMBERS and all(_MEMBER.fullmatch(one) for one in members)
    state = ",".join(members)
    return state if fits and len(state) <= _LONGEST_STATE else ""


def context_of(here: Trace) -> str:
    """What begins here is to carry that."""
    state = here.tracestate
    return f"{here.traceparent}/{state}" if state else here.traceparent


def is_recorded(context: str) -> bool:
    """Whether the trace of a context is recorded."""
    return context[LENGTH - 1 : LENGTH] == "1"


def recorded_here() -> str | None:
    """The `traceparent` of the code that runs now; None when nobody records it."""
    here = current.get()
    text = None if here is None else here.traceparent
    return text if text and is_recorded(text) else None


def recorded_in(run: RunRecord) -> str | None:
    """The `traceparent` that a run was started in; None for one whose trace began with it, or that
    nobody records."""
    found = _CARRIED.search(run.origin)
    return found[1][:LENGTH] if found is not None and is_recorded(found[1]) else None


@contextmanager
def carried_in(text: str | None, state: str = "") -> Iterator[None]:
    """What goes on inside belongs to the trace that a request came with, if it came with one: its
    `traceparent` and `tracestate`."""
    found = parsed(text)
    if found is not None and (kept := stated(state)):
        found = f"{found}/{kept}"
    with going_on(found):
        yield


@contextmanager
def going_on(context: str | None) -> Iterator[None]:
    """The same for a context that was carried; None changes nothing."""
    token = current.set(current.get() if context is None else Carried(context))
    try:
        yield
    finally:
        current.reset(token)


def carrying(origin: str) -> str:
    """The origin of a run that is started here: the process, and the trace if there is one."""
    here = current.get()
    return origin if here is None else f"{origin} {context_of(here)}"


def begin_in_trace(run: RunRecord) -> None:
    """What a run does belongs to the trace that it was started in, also where nothing makes spans
    of it. For the task of the run."""
    found = _CARRIED.search(run.origin)
    if found is not None:
        current.set(Carried(found[1]))


def process_of(origin: str) -> str:
    """The process that has started a run."""
    found = _CARRIED.search(origin)
    return origin if found is None else origin[: found.start()]


def trace_of(run: RunRecord) -> str:
    """The context that a run was started in. One that was started in no trace begins its own, the
    same in every process, with `NO_PARENT`."""
    found = _CARRIED.search(run.origin)
    if found is not None:
        return found[1]
    mark = f"{run.id}\0{run.created_at!r}".encode(errors="surrogatepass")
    return f"00-{hashlib.blake2b(mark, digest_size=16).hexdigest()}-{NO_PARENT}-01"
