"""The HTTP API: `/healthz`, `/readyz` and `/api/v1`.

Errors are problem documents (RFC 9457) with a stable `code`. As long as there are no tokens the
API answers this machine only: a request whose Host is another name is refused, so that a web page
cannot read runs by pointing a name of its own at 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from aura.app import Aura
from aura.errors import (
    AuraError,
    CodecError,
    InvalidInput,
    PayloadTooLarge,
    RegistrationError,
    ResultTimeout,
    RolloutError,
    RunConflict,
    RunEnded,
    RunNotFound,
    StoreUnavailable,
    UnknownQueue,
    UpdateRejected,
)
from aura.gateway.problems import Problem
from aura.server import operations
from aura.server.changing import changing
from aura.server.hosts import host_of, is_loopback_name
from aura.server.operations import MOST_RUNS, Overview
from aura.server.queues import QueueDetail, QueueView, list_queues, show_queue
from aura.server.views import RunDetail, RunList

log = logging.getLogger("aura.server")

API = "/api/v1"
READY_WITHIN = 2.0
"""Seconds in which the database must answer."""

_HEALTH = frozenset({"/healthz", "/readyz", f"{API}/healthz", f"{API}/readyz"})
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": HTTPStatus(status).phrase, "content": {"application/problem+json": {}}}
    for status in (403, 404, 409, 415, 422, 503)
}
_KINDS: tuple[tuple[type[AuraError], int, str], ...] = (
    (RunNotFound, 404, "run-not-found"),
    (RolloutError, 404, "rollout-not-found"),
    (UnknownQueue, 404, "queue-not-found"),
    (InvalidInput, 422, "invalid-input"),
    (PayloadTooLarge, 413, "payload-too-large"),
    (CodecError, 422, "invalid-input"),
    (RegistrationError, 422, "invalid-input"),
    (RunEnded, 409, "run-ended"),
    (RunConflict, 409, "run-conflict"),
    (UpdateRejected, 409, "update-rejected"),
    (ResultTimeout, 504, "no-answer-yet"),
    (StoreUnavailable, 503, "store-unavailable"),
)


def build_api(app: Aura) -> FastAPI:
    """The API of an app, as an ASGI application. The app must be open when it is called."""
    api = FastAPI(
        title="Aura",
        version=version("aura-workflows"),
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.include_router(_health(app))
    api.include_router(_health(app), prefix=API, include_in_schema=False)
    api.include_router(changing(app), prefix=API, responses=_PROBLEMS)
    api.include_router(_reads(app), prefix=API, responses=_PROBLEMS)
    api.add_exception_handler(AuraError, _refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _no_such_page)
    api.add_exception_handler(Exception, _failed)
    api.middleware("http")(_guard)
    return api


def _health(app: Aura) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: _PROBLEMS[503]})
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
    router = APIRouter(tags=["read"])

    @router.get("/status")
    async def status() -> Overview:
        """Runs by state, live workers and rollouts."""
        return await operations.overview(app)

    @router.get("/rollouts")
    async def rollouts() -> dict[str, Any]:
        """All rollouts, by name."""
        return {"rollouts": [one.plain() for one in await app.rollouts.all()]}

    @router.get("/queues")
    async def queues() -> dict[str, list[QueueView]]:
        """All queues, by name: their limits, and their runs that have not ended."""
        return {"queues": await list_queues(app)}

    @router.get("/queues/{name:path}")
    async def queue(name: str) -> QueueDetail:
        """A queue, the keys that wait in it, and who works on it."""
        return await show_queue(app, name)

    @router.get("/runs")
    async def runs(
        state: str | None = None,
        workflow: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_RUNS)] = 50,
        cursor: str | None = None,
    ) -> RunList:
        """A page of runs, newest first; `next` is the cursor of the page after it."""
        return await operations.list_runs(
            app, state=state, workflow=workflow, limit=limit, cursor=cursor
        )

    @router.get("/runs/{run_id:path}")
    async def run(run_id: str, full: bool = False) -> RunDetail:
        """A run with its journal; large inputs and outputs only with `full`."""
        return await operations.show_run(app, run_id, full=full)

    return router


async def _guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse names that are not this machine's; forbid caches and guesses about the content."""
    if request.url.path not in _HEALTH and not _is_here(request):
        return _response(
            Problem(
                403,
                "host-not-allowed",
                "without tokens the API answers requests to localhost only, not to this Host",
            )
        )
    response = await go_on(request)
    response.headers["cache-control"] = "no-store"
    response.headers["x-content-type-options"] = "nosniff"
    return response


def _is_here(request: Request) -> bool:
    return is_loopback_name(host_of(request.headers.get("host", "")))


async def _refused(_: Request, error: Exception) -> Response:
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            return _response(Problem(status, code, str(error)))
    log.error("a request failed", exc_info=error)
    return _response(Problem(500, "failed", str(error)))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    return _response(Problem(422, "invalid-input", f"{field}: {first['msg']}", field=field))


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    path = request.url.path[:200]
    if error.status_code == 404:
        return _response(Problem(404, "not-found", f"nothing is served at {path}"))
    headers = [(name.encode(), value.encode()) for name, value in (error.headers or {}).items()]
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    detail = f"{request.method} {path}: {error.detail}"
    return _response(Problem(error.status_code, code, detail, headers=tuple(headers)))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("the API failed on %s", request.url.path, exc_info=error)
    return _response(Problem(500, "failed", f"the server failed: {type(error).__name__}"))


def _response(problem: Problem) -> Response:
    response = Response(problem.body(), problem.status, media_type="application/problem+json")
    for name, value in problem.headers:
        response.headers[name.decode()] = value.decode()
    return response
