"""The HTTP API's routes for schedules. Tokens that are limited to workflows see and tell the
schedules that start these."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime, ConfigDict, Field

from aura.app import Aura
from aura.engine.schedule import Missed, Overlap
from aura.server import schedules
from aura.server.access import GuardedRoute, caller_of, needs, reason_of
from aura.server.runs_api import CHANGES, READS, Body, Nothing, Seconds
from aura.server.schedules import (
    MOST_TICKS,
    OrderView,
    ScheduleDetail,
    ScheduleOrder,
    ScheduleSpec,
    ScheduleView,
)
from aura.server.scopes import require_schedule

Name = Annotated[str, Path(min_length=1, examples=["nightly"])]


class ScheduleBody(Body):
    """A schedule that is wanted. Either `cron` (minute, hour, day, month, weekday, in `timezone`)
    or `every` (seconds). `input` has the workflow's arguments by name; one called `tick` gets the
    time of each start. `missed` is what becomes of ticks that nobody was there for, or how old one
    may be (seconds). `jitter` delays each start by up to so much; `deadline` counts from it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"workflow": "research", "input": {"text": "durable"}, "cron": "0 3 * * *"}
            ]
        }
    )
    workflow: str
    version: str | None = None
    input: Annotated[dict[str, Any], Field(default_factory=dict)]
    cron: str = ""
    every: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)] = 0.0
    timezone: str = "UTC"
    overlap: Overlap = "skip"
    missed: Missed | Seconds = "latest"
    jitter: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)] = 0.0
    queue: str | None = None
    deadline: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)] = 0.0


class TriggerBody(Body):
    """With the same `id` a schedule is triggered once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "ticket-17"}]})
    id: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class BackfillBody(Body):
    """The first and the last tick of a time that has passed (`end` none: now)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"start": "2026-03-01T00:00:00Z", "end": "2026-03-07T00:00:00Z"}]
        }
    )
    start: AwareDatetime
    end: AwareDatetime | None = None


def schedules_routes(app: Aura) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["schedules"], route_class=GuardedRoute)
    _looks(router, app)
    _makes(router, app)
    _orders(router, app)
    return router


def _looks(router: APIRouter, app: Aura) -> None:
    @router.get(
        "/schedules", name="schedules list", openapi_extra=needs("viewer", "body"),
        responses=READS,
    )  # fmt: skip
    async def list_schedules(
        request: Request, workflow: str | None = None
    ) -> dict[str, list[ScheduleView]]:
        """All schedules, by name: when they tick, and when next."""
        caller = caller_of(request)
        found = await schedules.list_schedules(app, workflow)
        return {"schedules": [one for one in found if caller.may_see(one.workflow)]}

    @router.get(
        "/schedules/{name:segment}", name="schedules show",
        openapi_extra=needs("viewer", "body"), responses=READS,
    )  # fmt: skip
    async def show_schedule(
        request: Request, name: Name, ticks: Annotated[int, Query(ge=0, le=MOST_TICKS)] = 5
    ) -> ScheduleDetail:
        """A schedule, its next ticks, what it did last, and its runs."""
        await require_schedule(app, caller_of(request), name)
        return await schedules.show_schedule(app, name, ticks)


def _makes(router: APIRouter, app: Aura) -> None:
    @router.put(
        "/schedules/{name:segment}", name="schedules put",
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def put_schedule(request: Request, name: Name, body: ScheduleBody) -> OrderView:
        """Create a schedule, or replace the one of that name. It must not be one that the code
        declares, which says what it says again when a worker starts."""
        caller = caller_of(request)
        caller.require(body.workflow.partition("@")[0])
        if caller.workflows:
            await require_schedule(app, caller, name, new=True)
        options = body.model_dump(exclude={"workflow", "version", "input", "queue"})
        spec = ScheduleSpec(body.workflow, body.version, body.input, options, body.queue)
        return await schedules.put_schedule(app, name, spec)

    @router.post(
        "/schedules/{name:segment}/delete", name="schedules delete",
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def delete(request: Request, name: Name, _: Nothing) -> OrderView:
        """Delete a schedule; what it has started goes on."""
        return await _order(app, request, name, ScheduleOrder("delete"))


def _orders(router: APIRouter, app: Aura) -> None:
    @router.post(
        "/schedules/{name:segment}/pause", name="schedules pause",
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def pause(request: Request, name: Name, _: Nothing) -> OrderView:
        """Start nothing until it is resumed; ticks of that time are not made up for."""
        return await _order(app, request, name, ScheduleOrder("pause"))

    @router.post(
        "/schedules/{name:segment}/resume", name="schedules resume",
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def resume(request: Request, name: Name, _: Nothing) -> OrderView:
        """Let a paused schedule go on with its next tick."""
        return await _order(app, request, name, ScheduleOrder("resume"))

    @router.post(
        "/schedules/{name:segment}/trigger", name="schedules trigger",
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def trigger(request: Request, name: Name, body: TriggerBody) -> OrderView:
        """Start its workflow now, also while it is paused; behind one that runs, if need be."""
        return await _order(app, request, name, ScheduleOrder("trigger", body.id))

    @router.post(
        "/schedules/{name:segment}/backfill", name="schedules backfill",
        openapi_extra=needs("operator", "body"), responses=CHANGES,
    )  # fmt: skip
    async def backfill(request: Request, name: Name, body: BackfillBody) -> OrderView:
        """Start the ticks of a time that has passed, where they have no run. Both ends count."""
        order = ScheduleOrder("backfill", start=body.start, end=body.end)
        return await _order(app, request, name, order)


async def _order(app: Aura, request: Request, name: str, order: ScheduleOrder) -> OrderView:
    caller = caller_of(request)
    await require_schedule(app, caller, name)
    said = replace(order, by=caller.name, reason=reason_of(request))
    return await schedules.order_schedule(app, name, said)
