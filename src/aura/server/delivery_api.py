"""The HTTP API's routes for what changes what runs: catalog, splits, rollouts, emergencies.

Who gives an order is the token's name. Why is said by `reason` in the body or by the header
`Aura-Reason`; it is kept in the history and in the audit log.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import ConfigDict, Field

from aura.app import Aura
from aura.delivery.curve import Curve
from aura.delivery.decide import Order
from aura.delivery.status import RolloutStatus
from aura.errors import InvalidInput
from aura.server import backtests, catalog, emergencies, rollouts, splits
from aura.server.access import GuardedRoute, caller_of, needs, reason_of
from aura.server.backtests import MOST_SENT, BacktestView, Bounds
from aura.server.catalog import FitView, VersionList, VersionView, WorkflowView
from aura.server.emergencies import DoneView, ForcedList, Which
from aura.server.rollouts import Begin, HistoryView, OrderView, RolloutList, StartedView
from aura.server.runs_api import CHANGES, READS, Body
from aura.server.splits import SplitList, SplitView

Name = Annotated[str, Path(min_length=1, examples=["replace-legacy"])]
Version = Annotated[
    str, Path(description="A version or range, as in research@^1.", examples=["research@1.0.0"])
]
Text = Annotated[str, Field(max_length=500)]


class Why(Body):
    """An order that needs no more words than why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "one caller left"}]})
    reason: Text = ""


class PlanBody(Body):
    """A rollout to start. `plan` is what a file has below `rollout:`, with the same words for times
    and rates ("10m", "5%"). `again` although it has completed before, `replace` although its
    baseline is not what serves now; `incompatible` is why although its versions do not fit.
    `dry_run` says what would come of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "plan": {
                        "name": "replace-legacy",
                        "baseline": "legacy",
                        "candidate": "research@1.0.0",
                        "stages": ["10%", "50%", "100%"],
                        "defaults": {"min_requests": 100, "min_time": "10m"},
                    },
                    "dry_run": True,
                }
            ]
        }
    )
    plan: dict[str, Any]
    again: bool = False
    replace: bool = False
    incompatible: Text = ""
    dry_run: bool = False


class BacktestBody(Body):
    """A plan to try on what was observed: of the rollout `on` (of several of that name, the one
    with this `run`; else the last), or on `observations` that are sent, as they are recorded."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "plan": {
                        "name": "careful",
                        "split": "research",
                        "baseline": "research@1.0.0",
                        "candidate": "research@2.0.0",
                        "stages": ["5%", "100%"],
                        "guards": [{"errors": {}}],
                        "defaults": {"min_requests": 100, "min_time": "10m"},
                    },
                    "observations": [
                        {
                            "split": "research",
                            "epoch": 1,
                            "arm": "research@2.0.0",
                            "unit": "user-17",
                            "at": 1772366400.0,
                            "ok": True,
                            "latency": 0.12,
                        }
                    ],
                }
            ]
        }
    )
    plan: dict[str, Any]
    on: Text = ""
    run: Text = ""
    observations: Annotated[tuple[dict[str, Any], ...], Field(max_length=MOST_SENT)] | None = None


class OrderBody(Body):
    """Why; `skip` needs the later `stage` to go on to."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "tested elsewhere", "stage": "50%"}]}
    )
    reason: Text = ""
    stage: Text = ""


class ApprovalBody(Body):
    """An approval by the token's name, or a refusal (`ok` is false). `stage` guards against
    approving another one than was looked at."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"stage": "50%", "reason": "looks good"}]}
    )
    stage: Text = ""
    ok: bool = True
    reason: Text = ""


class DeprecationBody(Body):
    """Why nobody should start the version any more, and what to take: a version or range."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "too slow", "replacement": "^2"}]}
    )
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    replacement: Text = ""


class ForceBody(Body):
    """Splits or rollouts by name, or `everything`, that go back to their baselines at once and stay
    there until they are released."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"everything": True, "reason": "checkout is down"}]}
    )
    names: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()
    everything: bool = False
    reason: Text = ""


class ReleaseBody(Body):
    """Splits that may be moved again. With `restore` what nothing was moving serves again what it
    served before."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"names": ["research"], "restore": True}]}
    )
    names: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()
    everything: bool = False
    restore: bool = False
    reason: Text = ""


def delivery_routes(app: Aura) -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["delivery"], route_class=GuardedRoute)
    _catalog(router, app)
    _rollouts(router, app)
    _orders(router, app)
    _splits(router, app)
    _emergencies(router, app)
    return router


def why(request: Request, body: Body) -> str:
    """The reason of a change."""
    return reason_of(request, body.model_dump(include={"reason"}))


def _catalog(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/catalog", name="catalog list", openapi_extra=look, responses=READS)
    async def show_all(workflow: str | None = None) -> VersionList:
        """Versions of workflows, the newest first: who owns them, which are deprecated, how many
        runs of them are in flight."""
        return await catalog.list_versions(app, workflow)

    @router.get(
        "/catalog/workflows/{name:segment}", name="catalog show", openapi_extra=look,
        responses=READS,
    )  # fmt: skip
    async def workflow(name: Annotated[str, Path(examples=["research"])]) -> WorkflowView:
        """A workflow's versions, and the compatibility matrix of the newest 40."""
        return await catalog.show_workflow(app, name)

    @router.get(
        "/catalog/versions/{version:segment}", name="catalog show", openapi_extra=look,
        responses=READS,
    )  # fmt: skip
    async def version(version: Version) -> VersionView:
        """One version, or the one that a range stands for."""
        return await catalog.show_version(app, version)

    @router.get("/catalog/diff", name="catalog diff", openapi_extra=look, responses=READS)
    async def diff(
        old: Annotated[str, Query(examples=["research@1.0.0"])],
        new: Annotated[str, Query(examples=["research@2.0.0"])],
    ) -> FitView:
        """Whether the new version may take the place of the old one, field by field."""
        return await catalog.compare(app, old, new)

    @router.post(
        "/catalog/versions/{version:segment}/deprecate", name="catalog deprecate",
        openapi_extra=needs("operator", names=("replacement",)), responses=CHANGES,
    )  # fmt: skip
    async def deprecate(request: Request, version: Version, body: DeprecationBody) -> VersionView:
        """Ask everybody to start no more runs of a version. Those in flight go on; new ones are
        started too, with a warning, and are counted."""
        return await catalog.deprecate(
            app, version, by=caller_of(request).name, why=body.reason, replacement=body.replacement
        )

    @router.post(
        "/catalog/versions/{version:segment}/restore", name="catalog restore",
        openapi_extra=needs("operator", names=("reason",)), responses=CHANGES,
    )  # fmt: skip
    async def restore(version: Version, _: Why) -> VersionView:
        """Take a deprecation back."""
        return await catalog.restore(app, version)


def _rollouts(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/rollouts", name="rollout list", openapi_extra=look, responses=READS)
    async def show_all() -> RolloutList:
        """All rollouts, by name."""
        return await rollouts.list_rollouts(app)

    @router.post(
        "/rollouts", name="rollout start", responses=CHANGES,
        openapi_extra=needs(
            "operator", names=("plan.name", "again", "replace", "incompatible", "dry_run")
        ),
    )  # fmt: skip
    async def start(request: Request, body: PlanBody) -> StartedView:
        """Begin a rollout; workers drive it until its plan has ended. A plan that is sent has no
        `alerts`: they may run commands, so they come from files."""
        plan = await rollouts.read_plan(body.plan)
        begin = Begin(plan, body.again, body.replace, body.incompatible, request.app.state.gateway)
        checked = await rollouts.check_rollout(app, begin)
        if body.dry_run:
            return StartedView(None, checked)
        status = await rollouts.start_rollout(app, begin, by=caller_of(request).name)
        return StartedView(status, checked)

    @router.post(
        "/backtests", name="rollout backtest", responses=CHANGES,
        openapi_extra=needs("operator", names=("plan.name", "on", "run")),
    )  # fmt: skip
    async def backtest(body: BacktestBody) -> BacktestView:
        """What another plan would have done with what was observed. It changes nothing, but costs
        the server up to a minute of work, so it is not for everybody; one after the other."""
        if bool(body.on) == (body.observations is not None):
            raise InvalidInput(
                "nothing says what to replay",
                hint="Give either `on`, a rollout's name, or `observations`",
            )
        plan = await rollouts.read_plan(body.plan)
        if body.observations is not None:
            return await backtests.backtest_sent(app, plan, body.observations, Bounds())
        return await backtests.backtest_rollout(app, plan, body.on, body.run, Bounds())

    @router.get(
        "/rollouts/{name:segment}", name="rollout status", openapi_extra=look, responses=READS
    )
    async def show(name: Name) -> RolloutStatus:
        """A rollout as it is now: traffic, stages, both arms in them, guards, history."""
        return await rollouts.show_rollout(app, name)

    @router.get(
        "/rollouts/{name:segment}/history", name="rollout history", openapi_extra=look,
        responses=READS,
    )  # fmt: skip
    async def history(name: Name) -> HistoryView:
        """Who did what, when and why, also in earlier runs of the same name."""
        return await rollouts.history_of(app, name)

    @router.get(
        "/rollouts/{name:segment}/curve", name="rollout curve", openapi_extra=look, responses=READS
    )
    async def curve(name: Name, run: str = "") -> Curve:
        """How it went over time: share, requests, errors and the guards' evidence, at most 300
        points, and the latencies of both arms by stage. `run` names an earlier run."""
        return await rollouts.curve_of(app, name, run)


def _orders(router: APIRouter, app: Aura) -> None:
    @router.post(
        "/rollouts/{name:segment}/approve", name="rollout approve", responses=CHANGES,
        openapi_extra=needs("operator", names=("stage", "ok")),
    )  # fmt: skip
    async def approve(request: Request, name: Name, body: ApprovalBody) -> OrderView:
        """Approve the stage that a rollout is in, or refuse to. Where the plan names who approves,
        that is the token's name."""
        return await rollouts.approve_rollout(
            app, name, by=caller_of(request).name, reason=why(request, body), stage=body.stage,
            ok=body.ok,
        )  # fmt: skip

    @router.post(
        "/rollouts/{name:segment}/{order}", name="rollout {order}", responses=CHANGES,
        openapi_extra=needs("operator", names=("stage",)),
    )  # fmt: skip
    async def order(request: Request, name: Name, order: Order, body: OrderBody) -> OrderView:
        """Steer a rollout: advance or skip to a later stage (you answer for what is missing), hold
        or pause and resume it, retry its stage, or roll it back at once."""
        return await rollouts.order_rollout(
            app, name, order, by=caller_of(request).name, reason=why(request, body),
            stage=body.stage,
        )  # fmt: skip


def _splits(router: APIRouter, app: Aura) -> None:
    look = needs("viewer")

    @router.get("/splits", name="splits list", openapi_extra=look, responses=READS)
    async def show_all() -> SplitList:
        """All splits, by name: who is sent where now, and by whose order."""
        return await splits.list_splits(app)

    @router.get("/splits/{name:segment}", name="splits show", openapi_extra=look, responses=READS)
    async def show(name: Name) -> SplitView:
        """One split."""
        return await splits.show_split(app, name)


def _emergencies(router: APIRouter, app: Aura) -> None:
    @router.get(
        "/emergencies", name="rollback list", openapi_extra=needs("viewer"), responses=READS
    )
    async def forced() -> ForcedList:
        """The splits that are forced to their baselines now, by whom and why."""
        return await emergencies.forced(app)

    @router.post(
        "/emergencies", name="rollback", responses=CHANGES,
        openapi_extra=needs("operator", names=("names", "everything")),
    )  # fmt: skip
    async def force(request: Request, body: ForceBody) -> DoneView:
        """Send everybody back to the baseline at once, and keep them there. It is done when this
        answers, also without a worker; gateways obey within a second."""
        which = Which(body.names, body.everything)
        return await emergencies.force(
            app, which, reason=why(request, body), by=caller_of(request).name
        )

    @router.post(
        "/emergencies/release", name="rollback release", responses=CHANGES,
        openapi_extra=needs("operator", names=("names", "everything", "restore")),
    )  # fmt: skip
    async def release(request: Request, body: ReleaseBody) -> DoneView:
        """Let splits be moved again; they stay where they are, unless they are restored."""
        which = Which(body.names, body.everything)
        return await emergencies.release(
            app, which, reason=why(request, body), by=caller_of(request).name, restore=body.restore
        )
