"""What the faces of Aura have in common about rollouts: start, look, steer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aura.app import Aura
from aura.delivery import curves
from aura.delivery.admission import judge, refuse
from aura.delivery.arms import version_of
from aura.delivery.curve import Curve, added, point_of
from aura.delivery.decide import Order
from aura.delivery.plan import Pair, Plan, parse_plan
from aura.delivery.status import Event, RolloutStatus
from aura.delivery.versions import reference
from aura.errors import ConfigError, PlanError, RolloutError, UnknownRollout
from aura.server.drivers import NOBODY, is_driven
from aura.server.given import read_given
from aura.server.operations import storable

if TYPE_CHECKING:
    from aura.gateway import GatewayConfig


@dataclass(frozen=True, slots=True)
class Begin:
    """A rollout to start. `again` although it has completed before, `replace` although its baseline
    is not what serves now, `incompatible` is why although its versions do not fit. `gateway` is
    what its file, or this process, says of targets; `source` names it in errors."""

    plan: Plan
    again: bool = False
    replace: bool = False
    incompatible: str = ""
    gateway: GatewayConfig | None = None
    source: str = "this server"


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of a plan: times in seconds, weight 0.0 to 1.0 (0.0: copies only)."""

    name: str
    weight: float
    min_requests: int
    min_units: int
    min_time: float
    max_time: float
    approvals: int


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan as it would begin: with versions in place of ranges."""

    name: str
    pairs: tuple[Pair, ...]
    stages: tuple[StageView, ...]
    guards: tuple[str, ...]
    on_trip: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a start would do: `notes` are what nobody can tell and what is missing, `driven` says
    whether a worker is there to drive it."""

    plan: PlanView
    notes: tuple[str, ...]
    driven: bool


@dataclass(frozen=True, slots=True)
class StartedView:
    """A rollout that was started, None in a dry run; and what was found out before."""

    rollout: RolloutStatus | None
    checked: Checked


@dataclass(frozen=True, slots=True)
class RolloutList:
    """All rollouts, by name."""

    rollouts: tuple[RolloutStatus, ...]


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order that is recorded, and the rollout as it was then; without `driven` no worker is
    there to carry it out yet."""

    order: str
    rollout: RolloutStatus
    driven: bool


@dataclass(frozen=True, slots=True)
class PastView:
    """One run of a rollout: how it is or how it ended, and who did what, when and why."""

    run: str
    state: str
    baseline: str
    candidate: str
    reason: str
    by: str
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class HistoryView:
    """The runs of a rollout's name, the oldest first, the present one last."""

    name: str
    runs: tuple[PastView, ...]


async def read_plan(plan: dict[str, Any]) -> Plan:
    """A plan that was sent. Raises PlanError; also for alerts, which may run commands and call
    addresses, so only who can reach the database sets them."""
    if "alerts" in plan:
        raise PlanError(
            "rollout.alerts: a plan that is sent has no alerts of its own",
            hint="Leave them out, and start it with `aura rollout start FILE` if it needs them",
        )
    return await read_given({"rollout": plan}, parse_plan)


async def check_rollout(app: Aura, begin: Begin) -> Checked:
    """Whether it would begin, without beginning it. Raises what `Rollouts.start` raises."""
    found = await judge(app.catalog, begin.plan)
    refuse(found, begin.incompatible)
    require_targets(begin.gateway, found.plan, begin.source)
    if not (begin.again or begin.replace):
        for pair in found.plan.pairs:
            if not await app.rollouts.serving(pair.split):
                require_baseline(begin.gateway, pair, begin.source)
    await app.rollouts.refuse(found.plan, again=begin.again, replace=begin.replace)
    driven = await is_driven(app, app.rollouts.engine.workflow)
    notes = [f"The catalog cannot tell {sentence}" for sentence in found.unknown]
    if not driven:
        notes.append(f"No live worker is there to drive the rollout. {NOBODY}")
    return Checked(_plan_view(found.plan), tuple(notes), driven)


async def start_rollout(app: Aura, begin: Begin, *, by: str) -> RolloutStatus:
    """Begin what was checked; the rollout once a worker has taken it up. Raises RolloutError,
    Incompatible, CatalogError, DecommissionError."""
    return await app.rollouts.start(
        begin.plan, again=begin.again, replace=begin.replace, incompatible=begin.incompatible, by=by
    )


async def list_rollouts(app: Aura) -> RolloutList:
    """All of them."""
    return RolloutList(tuple(await app.rollouts.all()))


async def show_rollout(app: Aura, name: str) -> RolloutStatus:
    """One of them as it is now. Raises UnknownRollout."""
    return await app.rollouts.status(_known(name))


async def history_of(app: Aura, name: str) -> HistoryView:
    """Who did what, when and why, also in earlier runs of the same name. Raises UnknownRollout."""
    runs = (
        PastView(one.run, one.state, one.baseline, one.candidate, one.reason, one.by, one.history)
        for one in await app.rollouts.past(_known(name))
    )
    return HistoryView(name, tuple(runs))


async def curve_of(app: Aura, name: str, run: str = "") -> Curve:
    """How a rollout went over time, up to now, and its latencies: of the present run, or of an
    earlier one. At most 300 points; between two of them a value stays what it was at the first
    one. Raises UnknownRollout."""
    past = await app.rollouts.past(_known(name))
    status = next((one for one in past if one.run == run), None) if run else past[-1]
    if status is None:
        runs = ", ".join(one.run for one in past[-5:])
        raise UnknownRollout(f"rollout {name} has no run {run:.200}", hint=f"It has {runs}")
    found = await curves.read(app.store, status.run) or Curve(status.run, {})
    at = status.history[-1].at if status.ended and status.history else app.clock.now()
    limits = {**{one.guard: one.limit for one in status.evidence}, **found.limits}
    last = added(found, point_of(status, at))
    return Curve(found.run, limits, last.points, found.latencies)


async def order_rollout(
    app: Aura, name: str, order: Order, *, by: str, reason: str = "", stage: str = ""
) -> OrderView:
    """Tell a rollout what to do, durably. `skip` needs the later `stage` to go on to. Raises
    UnknownRollout, and RolloutError for an order that does not fit."""
    status = await app.rollouts.order(_known(name), order, reason=reason, by=by, to=stage)
    return OrderView(order, status, await is_driven(app, app.rollouts.engine.workflow))


async def approve_rollout(
    app: Aura, name: str, *, by: str, reason: str = "", stage: str = "", ok: bool = True
) -> OrderView:
    """Approve the stage that a rollout is in, or refuse to. Raises UnknownRollout, and RolloutError
    when the stage needs no approval, or not that person's."""
    status = await app.rollouts.approve(_known(name), stage=stage, by=by, reason=reason, ok=ok)
    driven = await is_driven(app, app.rollouts.engine.workflow)
    return OrderView("approved" if ok else "refused", status, driven)


def require_targets(
    gateway: GatewayConfig | None, plan: Plan, source: str, *, ranges: bool = True
) -> None:
    """A gateway must be able to send requests to all arms; without `ranges`, to those that need not
    be looked up in the catalog. Raises ConfigError."""
    from aura.gateway import missing_targets

    missing = missing_targets(gateway, plan) if gateway is not None else []
    missing = [one for one in missing if ranges or version_of(one) or not reference(one)]
    if missing and gateway is not None:
        raise ConfigError(
            f"{source}: the plan names {' and '.join(missing)}, for which the gateway has no "
            "target",
            hint=f"Its targets: {', '.join(gateway.targets)}",
        )


def require_baseline(gateway: GatewayConfig | None, pair: Pair, source: str) -> None:
    """When nothing has moved the split yet, what the gateway serves is the plan's baseline. Raises
    RolloutError."""
    for route in gateway.routes if gateway is not None else ():
        if route.split == pair.split and route.baseline != pair.baseline:
            raise RolloutError(
                f"{source}: {route.path} serves {route.baseline} now, the plan's baseline is "
                f"{pair.baseline}: it would move everybody there at once",
                hint=f"Write `baseline: {route.baseline}`, or say that you mean it with --replace",
            )


def _known(name: str) -> str:
    """Raises UnknownRollout for a name that no database can hold."""
    if not storable(name):
        raise UnknownRollout("there is no rollout of that name", hint="Use other characters")
    return name


def _plan_view(plan: Plan) -> PlanView:
    stages = tuple(
        StageView(
            one.name, one.weight, one.min_requests, one.min_units, one.min_time, one.max_time,
            one.approval.needed if one.approval else 0,
        )
        for one in plan.stages
    )  # fmt: skip
    return PlanView(
        plan.name, plan.pairs, stages, tuple(one.kind for one in plan.guards), plan.on_trip
    )
