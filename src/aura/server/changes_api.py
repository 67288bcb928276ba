"""The HTTP API's route for what changes, as server-sent events: see `aura.server.changes`."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from aura.app import Aura
from aura.errors import AuraError
from aura.gateway.problems import Problem
from aura.server.access import Caller, Door, GuardedRoute, caller_of, needs
from aura.server.changes import (
    KINDS,
    Batch,
    Change,
    Here,
    Kind,
    Reset,
    Wanted,
    changes_of,
    for_caller,
    kinds_of,
)
from aura.server.operations import show_run
from aura.server.problems import Refused
from aura.server.runs_api import READS
from aura.server.tokens import ranks

LONGEST = 3_600.0
"""Seconds after which a stream ends; browsers come back by themselves."""
BEAT = 15.0
"""Seconds after which a silent stream says that it lives, and its token is looked at again."""

_PLACE = re.compile(r"[0-9a-f]{8}-[0-9]{1,15}")
_LIMITED: frozenset[Kind] = frozenset({"runs", "run"})

Kinds = Annotated[
    tuple[Kind, ...],
    Query(description="Which kinds, once for each; all of them when there is none."),
]
Since = Annotated[
    str | None,
    Query(pattern=f"^{_PLACE.pattern}$", description="The id of the last event that is known."),
]
Span = Annotated[float, Query(ge=0, le=LONGEST, description="Seconds after which the stream ends.")]


def changes_routes(app: Aura) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["changes"], route_class=GuardedRoute)
    events = {
        "description": "Events, one for each kind of what has changed.",
        "content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}},
    }

    @router.get(
        "/changes", name="changes", openapi_extra=needs("viewer", "body"),
        response_class=StreamingResponse, responses={**READS, 200: events},
    )  # fmt: skip
    async def changes(
        request: Request,
        kind: Kinds = (),
        run: Annotated[str | None, Query(description="Also how this run gets on.")] = None,
        since: Since = None,
        timeout: Span = LONGEST,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Any:
        """What changes from now on, or `since` an event that is known (`Last-Event-ID` when a
        connection was lost). The event `reset` says that some were missed: read everything again.
        Changes of a kind come together at most four times a second, 200 of them; `more` says that
        there were others. A limited token hears of its runs."""
        caller = caller_of(request)
        if last_event_id is not None and not _PLACE.fullmatch(last_event_id):
            last_event_id = "unknown"
        wanted = Wanted(_allowed(caller, kinds_of(kind)), run)
        if run is not None:
            found = (await show_run(app, run)).run
            caller.require(found.workflow)
            wanted = Wanted(wanted.kinds | {"run"}, run)
        place = last_event_id if last_event_id is not None else since
        span = Time(app, min(timeout, LONGEST))
        door: Door = request.app.state.door
        stream = _lines(app, wanted, place, span, lambda: door.caller(request.scope))
        return StreamingResponse(stream, media_type="text/event-stream")

    return router


_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {
            "type": "string",
            "pattern": f"^{_PLACE.pattern}$",
            "description": "In the last of the events that are told together.",
        },
        "event": {"type": "string", "enum": ["ready", "reset", *KINDS]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_EXAMPLE = (
    'id: 5f0c2a91-17\nevent: runs\ndata: {"changes":[{"name":"doc-17","state":"completed",'
    '"workflow":"research","version":"1.0.0"}],"more":false}\n\n'
)


def _allowed(caller: Caller, kinds: frozenset[Kind]) -> frozenset[Kind]:
    """The kinds that the caller may hear of. Raises Refused when there is none."""
    if not ranks(caller.role, "admin"):
        kinds -= {"audit"}
    if caller.workflows:
        kinds &= _LIMITED
    if not kinds:
        raise Refused(Problem(403, "token-limited", "this token does not hear of these changes"))
    return kinds


class Time:
    """How long a stream may last, in seconds."""

    def __init__(self, app: Aura, seconds: float) -> None:
        self._clock = app.clock
        self._until = app.clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds until its end, at most until it says that it lives."""
        return max(0.0, min(BEAT, self._until - self._clock.monotonic()))


async def _lines(
    app: Aura,
    wanted: Wanted,
    since: str | None,
    time: Time,
    again: Callable[[], Awaitable[Caller]],
) -> AsyncIterator[bytes]:
    """The events as text; a comment where nothing has happened for a while. Whoever listens is
    looked at `again` then, and as often while much happens."""
    hub = changes_of(app)
    caller = await again()
    due = app.clock.monotonic() + BEAT
    async for news in hub.follow(wanted, since, time.left):
        match news:
            case Here():
                yield _event(hub.name, news.number, "ready", {})
            case Reset():
                yield _event(hub.name, news.number, "reset", {"why": "changes were missed"})
            case Batch():
                if caller.workflows:
                    yield _told(hub.name, news, wanted, caller.may_see)
                else:
                    yield _once(hub.name, news, wanted)
            case None:
                yield b": still here\n\n"
        if not time.left():
            return
        if app.clock.monotonic() >= due:
            try:
                caller = await again()
            except (AuraError, Refused):
                return
            due = app.clock.monotonic() + BEAT


_ONCE: OrderedDict[tuple[str, int, Wanted], bytes] = OrderedDict()
_MOST_ONCE = 64


def _once(name: str, batch: Batch, wanted: Wanted) -> bytes:
    """The text for all who want the same: it is written once and not for each of them."""
    key = (name, batch.number, wanted)
    if key not in _ONCE:
        _ONCE[key] = _told(name, batch, wanted, None)
        if len(_ONCE) > _MOST_ONCE:
            _ONCE.popitem(last=False)
    return _ONCE[key]


def _told(name: str, batch: Batch, wanted: Wanted, may_see: Callable[[str], bool] | None) -> bytes:
    """The events of a batch. Its last one alone has its place: whoever loses the connection before
    that hears the batch again."""
    parts = for_caller(batch, wanted, may_see)
    return b"".join(
        _event(
            name, batch.number if left == 0 else None, kind,
            {"changes": list(map(_plain, changes)), "more": kind in batch.more},
        )
        for left, (kind, changes) in zip(reversed(range(len(parts))), parts.items(), strict=True)
    )  # fmt: skip


def _plain(change: Change) -> dict[str, Any]:
    return {"name": change.name, **change.what}


def _event(name: str, number: int | None, kind: str, data: dict[str, Any]) -> bytes:
    place = b"" if number is None else f"id: {name}-{number}\n".encode()
    return b"%sevent: %s\ndata: %s\n\n" % (place, kind.encode(), to_json(data))
