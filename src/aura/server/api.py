"""The HTTP API: `/healthz`, `/readyz` and `/api/v1`.

Errors are problem documents (RFC 9457) with a stable `code` (`aura.server.problems`); who may ask
what is said in `aura.server.access`. Every route is a `GuardedRoute`, but for the health of the
process, which everybody may know.
"""

from __future__ import annotations

import asyncio
import platform
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi.openapi.utils import get_openapi

from aura.app import Aura
from aura.errors import StoreUnavailable
from aura.server import operations
from aura.server.access import Door, Gate, GuardedRoute, needs
from aura.server.audit import AuditLog, read_log
from aura.server.changes_api import changes_routes
from aura.server.delivery_api import delivery_routes
from aura.server.emitting import emitting_routes
from aura.server.events_api import events_routes
from aura.server.learning_api import learning_routes
from aura.server.operations import Overview
from aura.server.problems import SCHEMA, described, handle_errors
from aura.server.queues import QueueDetail, QueueView, list_queues, show_queue
from aura.server.runs_api import READS, runs_routes
from aura.server.schedules_api import schedules_routes
from aura.server.workers_api import workers_routes

API = "/api/v1"
READY_WITHIN = 2.0
"""Seconds in which the database must answer."""

DELIVERY = delivery_routes, learning_routes
HEALTH = frozenset({"/healthz", "/readyz", f"{API}/healthz", f"{API}/readyz"})


def build_api(app: Aura, door: Door | None = None) -> FastAPI:
    """The API of an app, as an ASGI application. The app must be open when it is called. `door`
    is that of the process's other faces, None when there are none."""
    api = FastAPI(
        title="Aura", version=version("aura-workflows"), openapi_url=None, docs_url=None,
        redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    api.state.aura = app
    api.state.openapi = partial(openapi_of, api)
    api.state.gateway = None  # its configuration, when the process has one
    api.include_router(_health(app))
    api.include_router(_health(app), prefix=API, include_in_schema=False)
    api.include_router(runs_routes(app), prefix=API)
    api.include_router(emitting_routes(app), prefix=API)
    api.include_router(_reads(app), prefix=API)
    for routes in (schedules_routes, events_routes, workers_routes, changes_routes, *DELIVERY):
        api.include_router(routes(app), prefix=API)
    api.include_router(_about(api, app), prefix=API)
    handle_errors(api)
    api.state.door = door or Door(app)
    api.add_middleware(Gate, door=api.state.door, public=HEALTH)
    return api


def _health(app: Aura) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/readyz", responses=described(503))
    async def readyz() -> dict[str, str]:
        """The process can do its work: its database answers."""
        try:
            async with asyncio.timeout(READY_WITHIN):
                await app.store.document("aura", "ready")
        except TimeoutError as error:
            raise StoreUnavailable(
                f"the database has not answered within {READY_WITHIN:g} s",
                hint="Look at it with: aura doctor",
            ) from error
        return {"status": "ready"}

    return router


def _reads(app: Aura) -> APIRouter:
    router = APIRouter(tags=["read"], route_class=GuardedRoute, responses=READS)

    @router.get("/status", name="status", openapi_extra=needs("viewer"))
    async def status() -> Overview:
        """Runs by state, live workers and rollouts."""
        return await operations.overview(app)

    @router.get("/queues", name="queues list", openapi_extra=needs("viewer"))
    async def queues() -> dict[str, list[QueueView]]:
        """All queues, by name: their limits, and their runs that have not ended."""
        return {"queues": await list_queues(app)}

    @router.get("/queues/{name:segment}", name="queues show", openapi_extra=needs("viewer"))
    async def queue(name: str) -> QueueDetail:
        """A queue, the keys that wait in it, and who works on it."""
        return await show_queue(app, name)

    @router.get("/audit", name="audit", openapi_extra=needs("admin"))
    async def audit_log(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> AuditLog:
        """Who changed what, when, why and from where, the oldest first."""
        return await read_log(app, after, limit)

    return router


def _about(api: FastAPI, app: Aura) -> APIRouter:
    router = APIRouter(tags=["about"], route_class=GuardedRoute, responses=READS)

    @router.get("/openapi.json", name="openapi", openapi_extra=needs("viewer", "body"))
    async def openapi() -> dict[str, Any]:
        """This API in the OpenAPI's words."""
        return openapi_of(api)

    @router.get("/build", name="build", openapi_extra=needs("viewer", "body"))
    async def build() -> dict[str, str]:
        """Which Aura this is, on which Python; `app` is the app that it serves."""
        return {
            "name": "aura-workflows",
            "version": version("aura-workflows"),
            "python": platform.python_version(),
            "api": API,
            "app": app.name,
        }

    return router


def openapi_of(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; made once."""
    if api.openapi_schema is None:
        made = get_openapi(title=api.title, version=api.version, routes=api.routes)
        parts = made.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = SCHEMA
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in made["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in HEALTH else [{"token": []}]
        api.openapi_schema = made
    return api.openapi_schema
