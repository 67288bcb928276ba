"""Requests as spans, for who traces: `POST /api/v1/runs`, `GET /orders/*`, below the caller's span.

The name is the route, never the path, whose parts are people's ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from aura.engine.traces import Trace, carried_in, current
from aura.engine.watch import Watch, doing
from aura.gateway.client import Message, Scope, Send

_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"}
)


def method_of(scope: Scope) -> str:
    """As the HTTP conventions of OpenTelemetry name it: what is none of the known ones is
    `_OTHER`."""
    method = str(scope["method"])
    return method if method in _METHODS else "_OTHER"


@contextmanager
def served(watch: Watch | None, scope: Scope, send: Send, route: str | None) -> Iterator[Send]:
    """A request is answered inside, by what this gives in the place of `send`; it belongs to the
    trace that it came with. `route` is None for what nobody wants to see in a trace, and "" when
    it is found out later."""
    parent, state = _headers(scope, b"traceparent"), _headers(scope, b"tracestate")
    with carried_in(parent[0] if len(parent) == 1 else None, ",".join(state)):
        if watch is None or route is None or scope["type"] != "http":
            yield send
            return
        more = {"method": method_of(scope), "scheme": str(scope.get("scheme") or "http")}
        if route:
            more["route"] = route
        with doing(watch, "serve", named(more["method"], route), **more):
            here = current.get()
            yield send if here is None else partial(_answered, here, send)


def routed(scope: Scope, route: str) -> None:
    """The request that is answered here is for that route of the API: of its own path the part that
    its router knows, or all of it, as the version of FastAPI has it."""
    here = current.get()
    if here is not None:
        parts = str(scope["path"]).split("/")
        whole = "/".join(parts[: len(parts) - route.count("/")]) + route
        here.routed(named(method_of(scope), whole), whole)


def named(method: str, route: str) -> str:
    """The name of a request's span."""
    word = "HTTP" if method == "_OTHER" else method
    return f"{word} {route}".rstrip()


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope.get("headers", ()) if key == name]


async def _answered(here: Trace, send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        here.answered(message["status"])
    await send(message)
