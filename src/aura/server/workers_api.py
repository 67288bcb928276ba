"""The HTTP API's routes for workflows and their versions, and for workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from aura.app import Aura
from aura.server import workflows
from aura.server.access import GuardedRoute, caller_of, needs
from aura.server.runs_api import READS
from aura.server.views import WorkerView
from aura.server.workflows import WorkerDetail, WorkflowView

WorkflowName = Annotated[str, Path(min_length=1, examples=["research"])]
WorkerId = Annotated[str, Path(min_length=1, examples=["3c1f0a9e2b7d"])]


def workers_routes(app: Aura) -> APIRouter:
    """All of them."""
    router = APIRouter(route_class=GuardedRoute, responses=READS)

    @router.get(
        "/workflows", name="workflows list", tags=["workflows"],
        openapi_extra=needs("viewer", "body"),
    )  # fmt: skip
    async def list_workflows(request: Request) -> dict[str, list[WorkflowView]]:
        """All workflows with their versions: schemas, who has them, and how many runs."""
        return {"workflows": await workflows.list_workflows(app, caller_of(request).workflows)}

    @router.get(
        "/workflows/{workflow:segment}", name="workflows show", tags=["workflows"],
        openapi_extra=needs("viewer", "body"),
    )  # fmt: skip
    async def show_workflow(request: Request, workflow: WorkflowName) -> WorkflowView:
        """A workflow with its versions, the newest first."""
        if not caller_of(request).may_see(workflow):
            raise workflows.no_workflow(workflow)
        return await workflows.show_workflow(app, workflow)

    @router.get("/workers", name="workers list", tags=["workers"], openapi_extra=needs("viewer"))
    async def list_workers(gone: bool = False) -> dict[str, list[WorkerView]]:
        """The workers that live, with `gone` also those whose lease is over: since when, how many
        runs they have, and what they can run."""
        return {"workers": await workflows.list_workers(app, gone=gone)}

    @router.get(
        "/workers/{worker:segment}", name="workers show", tags=["workers"],
        openapi_extra=needs("viewer"),
    )  # fmt: skip
    async def show_worker(worker: WorkerId) -> WorkerDetail:
        """A worker with the runs that it has now."""
        return await workflows.show_worker(app, worker)

    return router
