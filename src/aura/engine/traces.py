"""Which trace some work belongs to, and how it travels: in a run's origin, in an event's frame.

A trace context is the `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/):
`00-<trace id, 32 hex digits>-<span id, 16>-<flags, 2>`; flag 01 says that the trace is recorded.
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
_CARRIED = re.compile(r" (00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})\Z")
_HEX = re.compile(r"[0-9a-f]{2}\Z")


class Trace(Protocol):
    """Where in a trace the code that runs now is."""

    @property
    def traceparent(self) -> str:
        """The context for what begins from here."""
        ...

    def publishing(self, topic: str, event_id: str) -> str:
        """An event is emitted here; the context that it takes along."""
        ...

    def note(self, name: str, value: str | int) -> None:
        """What is known of it by now."""
        ...


@dataclass(frozen=True, slots=True)
class Carried:
    """A context that came from elsewhere, and is only passed on."""

    traceparent: str

    def publishing(self, topic: str, event_id: str) -> str:  # noqa: ARG002
        return self.traceparent

    def note(self, name: str, value: str | int) -> None:
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


@contextmanager
def carried_in(text: str | None) -> Iterator[None]:
    """What goes on inside belongs to the trace that a request came with, if it came with one."""
    found = parsed(text)
    token = current.set(current.get() if found is None else Carried(found))
    try:
        yield
    finally:
        current.reset(token)


def carrying(origin: str) -> str:
    """The origin of a run that is started here: the process, and the trace if there is one."""
    here = current.get()
    return origin if here is None else f"{origin} {here.traceparent}"


def begin_in_trace(run: RunRecord) -> None:
    """What a run does belongs to the trace that it was started in, also where nothing makes spans
    of it. For the task of the run."""
    if run.origin[-LENGTH - 1 : -LENGTH] == " " and _CARRIED.search(run.origin):
        current.set(Carried(run.origin[-LENGTH:]))


def process_of(origin: str) -> str:
    """The process that has started a run."""
    return origin[: -LENGTH - 1] if _CARRIED.search(origin) else origin


def trace_of(run: RunRecord) -> str:
    """The context that a run was started in. One that was started in no trace begins its own, the
    same in every process, with `NO_PARENT`."""
    found = _CARRIED.search(run.origin)
    if found is not None:
        return found[1]
    mark = f"{run.id}\0{run.created_at!r}".encode(errors="surrogatepass")
    return f"00-{hashlib.blake2b(mark, digest_size=16).hexdigest()}-{NO_PARENT}-01"
