"""The HTTP API's routes for what is found out: experiments, shadow reports, learning; and for
targets that are taken out of service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field

from aura.app import Aura
from aura.delivery.conclude import Order
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.forecast import Traffic
from aura.delivery.shadow import Thresholds
from aura.server import decommissions, experiments, flows, shadows
from aura.server.access import GuardedRoute, caller_of, needs
from aura.server.decommissions import DecommissionList, DecommissionOrder, DecommissionView
from aura.server.delivery_api import Text, Why, why
from aura.server.experiments import ExperimentList, ExperimentOrder, ExperimentStarted
from aura.server.flows import (
    FlowList,
    FlowView,
    LearningList,
    LearningStarted,
    LearningView,
    WorthView,
)
from aura.server.problems import described
from aura.server.runs_api import CHANGES, READS, Body
from aura.server.shadows import ClearedView, ReportList, ShadowList

Name = Annotated[str, Path(min_length=1, examples=["checkout-copy"])]
Target = Annotated[str, Path(min_length=1, examples=["legacy"])]
Rate = Annotated[float, Query(ge=0, lt=1)]
LIMITS = Thresholds()


class TrafficBody(Body):
    """What is expected of the primary metric on the baseline: mean and standard deviation of a
    unit's value, and new units a day."""

    mean: Annotated[float, Field(ge=-1e12, le=1e12, strict=True)]
    spread: Annotated[float, Field(ge=1e-12, le=1e12, strict=True)]
    per_day: Annotated[float, Field(ge=1e-6, le=1e12, strict=True)]


class ExperimentBody(Body):
    """An experiment to start: what a file has below `experiment:`, and below `rollout:` when one
    follows it. `dry_run` only says how long it takes and what it can find; `traffic` stands there
    for what was observed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "experiment": {
                        "name": "checkout-copy",
                        "split": "checkout",
                        "arms": {"old": "50%", "new": "50%"},
                        "primary": "outcome",
                    },
                    "dry_run": True,
                    "traffic": {"mean": 0.12, "spread": 0.33, "per_day": 900},
                }
            ]
        }
    )
    experiment: dict[str, Any]
    rollout: dict[str, Any] | None = None
    traffic: TrafficBody | None = None
    dry_run: bool = False


class ConclusionBody(Body):
    """Why it ends; `promote` needs the `arm` that wins."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "the campaign is over", "arm": "new"}]}
    )
    arm: Text = ""
    reason: Text = ""


class UnitRewardBody(Body):
    """What a unit turned out to be worth. Two rewards of the same `id` are one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"unit": "user-17", "metric": "basket", "value": 31.5, "id": "order-9"}]
        }
    )
    unit: Annotated[str, Field(min_length=1, max_length=500)]
    metric: Annotated[str, Field(min_length=1, max_length=500)]
    value: Annotated[float, Field(allow_inf_nan=False, strict=True)]
    id: Text = ""


class ArmBody(Body):
    """An arm that may be taken again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"arm": "deep"}]})
    arm: Annotated[str, Field(min_length=1, max_length=500)]
    reason: Text = ""


class LearningBody(Body):
    """A split that is to learn: what a file has below `learning:`. `dry_run` only checks it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "learning": {
                        "name": "model-route",
                        "split": "chat",
                        "arms": ["small", "large"],
                        "every": "30s",
                    },
                    "dry_run": True,
                }
            ]
        }
    )
    learning: dict[str, Any]
    dry_run: bool = False


class StopBody(Body):
    """Why; with `keep` the shares stay as they are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "the small model is retired", "keep": True}]}
    )
    keep: bool = False
    reason: Text = ""


class DecommissionBody(Body):
    """A target to take out of service: what a file has below `decommission:`, without `backup` and
    `alerts`. `dry_run` only says whether it would begin."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"decommission": {"target": "legacy", "grace": "24h"}, "dry_run": True}]
        }
    )
    decommission: dict[str, Any]
    dry_run: bool = False
    reason: Text = ""


def learning_routes(app: Aura) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["delivery"], route_class=GuardedRoute)
    _experiments(router, app)
    _flows(router, app)
    _learning(router, app)
    _shadows(router, app)
    _decommissions(router, app)
    return router


def _experiments(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/experiments", name="experiment list", openapi_extra=look, responses=READS)
    async def show_all() -> ExperimentList:
        """All experiments, the layers with their free places, and the hold-out."""
        return await experiments.list_experiments(app)

    @router.post(
        "/experiments", name="experiment start", responses=CHANGES,
        openapi_extra=needs("operator", names=("experiment.name", "dry_run")),
    )  # fmt: skip
    async def start(request: Request, body: ExperimentBody) -> ExperimentStarted:
        """Begin an experiment; workers watch it until it has ended. With `dry_run` the forecast
        alone."""
        wanted = await experiments.read_experiment(body.experiment, body.rollout)
        traffic = None if body.traffic is None else Traffic(**body.traffic.model_dump())
        found = await experiments.forecast_of(app, wanted, traffic)
        if body.dry_run:
            return found
        by = caller_of(request).name
        status = await experiments.start_experiment(app, wanted, by=by)
        return ExperimentStarted(status, found.forecast, found.driven)

    @router.get(
        "/experiments/{name:segment}", name="experiment status", openapi_extra=look,
        responses=READS,
    )  # fmt: skip
    async def show(name: Name) -> ExperimentStatus:
        """An experiment: its arms, the sample-ratio check, each metric with its confidence
        sequence over time, guards, counts and history."""
        return await experiments.show_experiment(app, name)

    @router.post(
        "/experiments/{name:segment}/rewards", name="experiment reward", responses=CHANGES,
        openapi_extra=needs("operator", names=("metric", "id")),
    )  # fmt: skip
    async def reward(name: Name, body: UnitRewardBody) -> dict[str, str]:
        """Tell what a unit turned out to be worth, be it days later; `name` may be a split's."""
        told = (body.unit, body.metric, body.value)
        await experiments.reward_unit(app, name, told, body.id)
        return {"experiment": name}

    @router.post(
        "/experiments/{name:segment}/{order}", name="experiment {order}", responses=CHANGES,
        openapi_extra=needs("operator", names=("arm",)),
    )  # fmt: skip
    async def order(
        request: Request, name: Name, order: Order, body: ConclusionBody
    ) -> ExperimentOrder:
        """End an experiment: stop sends everybody to the baseline, promote to the arm that wins."""
        return await experiments.order_experiment(
            app, name, order, by=caller_of(request).name, reason=why(request, body), arm=body.arm
        )


def _flows(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/flows", name="flows list", openapi_extra=look, responses=READS)
    async def show_all() -> FlowList:
        """Choices inside workflows (`aura.choose`), and what was learnt about their arms."""
        return await flows.list_flows(app)

    @router.get("/flows/{name:segment}", name="flows show", openapi_extra=look, responses=READS)
    async def show(name: Name) -> FlowView:
        """One choice."""
        return await flows.show_flow(app, name)

    @router.get(
        "/flows/{name:segment}/worth", name="flows evaluate", openapi_extra=look,
        responses={**READS, **described(409)},
    )  # fmt: skip
    async def worth(
        name: Name,
        policy: Annotated[
            str, Query(min_length=1, max_length=2000, examples=["fast=0.2,deep=0.8"])
        ],
        alpha: Annotated[float, Query(gt=0, lt=1)] = 0.05,
    ) -> WorthView:
        """What a policy would have earned per choice, from the log: weights by arm, or one arm."""
        return await flows.evaluate_flow(app, name, policy, alpha)

    @router.post(
        "/flows/{name:segment}/release", name="flows release", responses=CHANGES,
        openapi_extra=needs("operator", names=("arm",)),
    )  # fmt: skip
    async def release(request: Request, name: Name, body: ArmBody) -> FlowView:
        """Let an arm be taken again that was tripped; its failures count anew."""
        return await flows.release_arm(app, name, body.arm, by=caller_of(request).name)


def _learning(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/learning", name="flows status", openapi_extra=look, responses=READS)
    async def show_all() -> LearningList:
        """Splits that learn: the traffic goes where it is worth most."""
        return await flows.list_learning(app)

    @router.post(
        "/learning", name="flows start", responses=CHANGES,
        openapi_extra=needs("operator", names=("learning.name", "dry_run")),
    )  # fmt: skip
    async def start(body: LearningBody) -> LearningStarted:
        """Let a split learn."""
        plan = await flows.read_learning(body.learning)
        return await flows.start_learning(app, plan, dry_run=body.dry_run)

    @router.get(
        "/learning/{name:segment}", name="flows status", openapi_extra=look, responses=READS
    )
    async def show(name: Name) -> LearningView:
        """One of them."""
        return await flows.show_learning(app, name)

    @router.post(
        "/learning/{name:segment}/stop", name="flows stop", responses=CHANGES,
        openapi_extra=needs("operator", names=("keep",)),
    )  # fmt: skip
    async def stop(request: Request, name: Name, body: StopBody) -> LearningView:
        """End it: everybody to the baseline, or as they are now."""
        return await flows.stop_learning(
            app, name, by=caller_of(request).name, reason=why(request, body), keep=body.keep
        )


def _shadows(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/shadows", name="shadow list", openapi_extra=look, responses=READS)
    async def show_all() -> ShadowList:
        """The splits that have reports of copies."""
        return await shadows.list_shadows(app)

    @router.get(
        "/shadows/{name:segment}", name="shadow report", openapi_extra=look, responses=READS
    )
    async def show(
        name: Name, relative: Rate = LIMITS.relative, absolute: Rate = LIMITS.absolute
    ) -> ReportList:
        """In which fields the answers of copies differ, with examples, what is noise, and which
        effects were suppressed. `name` is a split or a rollout, the numbers are the thresholds of
        noise."""
        return await shadows.show_shadows(app, name, Thresholds(relative, absolute))

    @router.post(
        "/shadows/{name:segment}/clear", name="shadow clear", responses=CHANGES,
        openapi_extra=needs("operator", names=("reason",)),
    )  # fmt: skip
    async def clear(name: Name, _: Why) -> ClearedView:
        """Begin the reports of a split anew, after its candidate was mended."""
        return await shadows.clear_shadows(app, name)


def _decommissions(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/decommissions", name="decommission status", openapi_extra=look, responses=READS)
    async def show_all() -> DecommissionList:
        """Targets that are taken out of service, or were."""
        return await decommissions.list_decommissions(app)

    @router.post(
        "/decommissions", name="decommission start", responses=CHANGES,
        openapi_extra=needs("admin", names=("decommission.target", "dry_run")),
    )  # fmt: skip
    async def start(request: Request, body: DecommissionBody) -> DecommissionOrder:
        """Take a target out of service: gate, backup, one endpoint after the other, archive. Only
        its last step cannot be undone."""
        gateway = request.app.state.gateway
        plan = await decommissions.read_decommission(body.decommission, gateway)
        return await decommissions.start_decommission(
            app, plan, by=caller_of(request).name, dry_run=body.dry_run
        )

    @router.get(
        "/decommissions/{target:segment}", name="decommission status", openapi_extra=look,
        responses=READS,
    )  # fmt: skip
    async def show(target: Target) -> DecommissionView:
        """One target: the gates that it waits for, its backup, each endpoint and its calls."""
        return await decommissions.show_decommission(app, target)

    @router.post(
        "/decommissions/{target:segment}/undo", name="decommission undo", responses=CHANGES,
        openapi_extra=needs("operator", names=("reason",)),
    )  # fmt: skip
    async def undo(request: Request, target: Target, body: Why) -> DecommissionOrder:
        """Bring every endpoint back; possible until the target is archived."""
        return await decommissions.undo_decommission(
            app, target, by=caller_of(request).name, reason=why(request, body)
        )
