"""The HTTP API's second half: what is said to runs, and what they tell while they go on.

Changing requests carry JSON, also when there is nothing to say (`{}`). A web page of somebody else
cannot send that to this machine without asking first, and is never answered yes; one that names
another Origin is refused outright.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from aura.app import Aura
from aura.server import messages, operations
from aura.server.hosts import host_of, is_loopback_name
from aura.server.messages import Items, Message, SentView
from aura.server.operations import ForkView
from aura.server.views import RunView

LONGEST_WAIT = 60.0
"""Seconds that an update's answer is waited for at most; it may be asked for again."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SignalBody(_Body):
    """A signal; `deadline` is in seconds from now, `id` makes it one however often it is sent."""

    payload: Any = None
    priority: str = "normal"
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    id: str | None = None


class UpdateBody(_Body):
    """An update; `timeout` is how many seconds to wait for the answer."""

    value: Any = None
    id: str | None = None
    timeout: Annotated[float, Field(gt=0, le=LONGEST_WAIT)] = 30.0


class ForkBody(_Body):
    """Where to fork: before the first entry with the key `at` (none: at the end); `version` is the
    code's (none: the same), `id` the new run's."""

    at: str | None = None
    version: str | None = None
    id: str | None = None


def changing(app: Aura) -> APIRouter:
    """The routes; those that read stand before the one for a whole run, which takes any path."""
    router = APIRouter(tags=["runs"], dependencies=[Depends(_may_change)])

    @router.get("/runs/{run_id:path}/state")
    async def state(run_id: str) -> dict[str, Any]:
        """What the run shows of itself, by key."""
        return {"state": await messages.state_of(app, run_id)}

    @router.get("/runs/{run_id:path}/streams/{name}", response_model=Items)
    async def stream(
        request: Request,
        run_id: str,
        name: str,
        after: Annotated[int, Query(ge=0)] = 0,
        follow: bool = False,
    ) -> Any:
        """The items of a stream; with `follow` as server-sent events until the run has ended.
        An event's id is the `after` with which the stream is gone on with."""
        found = await messages.items_of(app, run_id, name, _resumed(request, after))
        if not follow:
            return found
        return StreamingResponse(
            _events(app, run_id, name, _resumed(request, after)), media_type="text/event-stream"
        )

    @router.post("/runs/{run_id:path}/signals/{name}")
    async def signal(request: Request, run_id: str, name: str, body: SignalBody) -> SentView:
        """Give the run a message, which is durable when this answers."""
        message = Message(name, body.payload, body.priority, body.deadline, body.id)
        return await messages.signal_run(app, run_id, message, _who(request))

    @router.post("/runs/{run_id:path}/updates/{name}")
    async def update(request: Request, run_id: str, name: str, body: UpdateBody) -> dict[str, Any]:
        """Give the run a message and wait for its answer."""
        message = Message(name, body.value, id=body.id)
        found = await messages.update_run(
            app, run_id, message, timeout=body.timeout, by=_who(request)
        )
        return {"answer": found}

    @router.post("/runs/{run_id:path}/cancel")
    async def cancel(request: Request, run_id: str) -> RunView:
        """Ask the run to stop; its code may clean up first."""
        messages.note_change("cancel of", run_id, _who(request))
        return await operations.cancel_run(app, run_id)

    @router.post("/runs/{run_id:path}/requeue")
    async def requeue(request: Request, run_id: str) -> RunView:
        """Let a parked run go on."""
        return await messages.requeue_run(app, run_id, _who(request))

    @router.post("/runs/{run_id:path}/retry")
    async def retry(request: Request, run_id: str) -> RunView:
        """Try again what failed: the run that goes on, which is a fork if this one has ended."""
        return await messages.retry_run(app, run_id, _who(request))

    @router.post("/runs/{run_id:path}/fork")
    async def fork(request: Request, run_id: str, body: ForkBody) -> ForkView:
        """Start a second run from the middle of this one, which stays as it is."""
        messages.note_change("fork of", run_id, _who(request))
        return await operations.fork_run(
            app, run_id, at=body.at, version=body.version, new_id=body.id
        )

    return router


def _may_change(request: Request) -> None:
    """Raises HTTPException for a request that may not change anything."""
    if request.method in _SAFE:
        return
    origin = request.headers.get("origin")
    if origin is not None and not is_loopback_name(host_of(origin.rpartition("//")[2])):
        raise HTTPException(403, "pages of other origins may not change anything")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON (content-type: application/json), {} for nothing")


async def _events(app: Aura, run_id: str, name: str, after: int) -> AsyncIterator[bytes]:
    async for number, item in messages.follow_stream(app, run_id, name, after):
        yield b"id: %d\ndata: %s\n\n" % (number, to_json(item))


def _resumed(request: Request, after: int) -> int:
    """Where a client that lost its connection goes on."""
    last = request.headers.get("last-event-id", "")
    return max(after, int(last)) if last.isascii() and last.isdigit() and len(last) < 19 else after


def _who(request: Request) -> str:
    return f"HTTP from {request.client.host}" if request.client else "HTTP"
