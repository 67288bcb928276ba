"""Events from outside: one is added to a topic, and durable when this answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict

from aura.app import Aura
from aura.errors import InvalidInput
from aura.server.access import GuardedRoute, needs
from aura.server.operations import storable
from aura.server.runs_api import CHANGES, Body

Topic = Annotated[str, Path(min_length=1, examples=["reports.ready"])]


class EmitBody(Body):
    """An event. Those of one `key` are handled in order; the same `id` is one event of its topic,
    however often it is sent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"payload": {"id": 7}, "key": "doc-7", "id": "ready-7"}]}
    )
    payload: Any = None
    key: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class EmittedView:
    """An event that is durable."""

    topic: str
    id: str | None


def emitting_routes(app: Aura) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["topics"], route_class=GuardedRoute)

    @router.post(
        "/topics/{name:segment}/events", name="topics emit", openapi_extra=needs("operator"),
        responses=CHANGES, status_code=201,
    )  # fmt: skip
    async def emit(name: Topic, body: EmitBody) -> EmittedView:
        """Add an event to a topic; it is durable when this answers."""
        return await emit_event(app, name, body.payload, key=body.key, id=body.id)

    return router


async def emit_event(
    app: Aura, topic: str, payload: Any = None, *, key: str | None = None, id: str | None = None
) -> EmittedView:
    """Add an event to a topic. Raises InvalidInput, CodecError, PayloadTooLarge."""
    for text in (topic, key, id):
        if text is not None and not storable(text):
            raise InvalidInput("a name of an event cannot be stored", hint="Use other characters")
    await app.emit(topic, payload, key=key, id=id)
    return EmittedView(topic, id)
