"""What the faces of Aura have in common about targets that are taken out of service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aura.app import Aura
from aura.delivery.decommission import Decommission
from aura.delivery.retirement import Done, Endpoint, Policy, Retirement, State
from aura.delivery.retiring import parse_decommission
from aura.delivery.split import Split
from aura.errors import DecommissionError, PlanError, UnknownDecommission
from aura.server.drivers import is_driven
from aura.server.given import read_given
from aura.server.operations import storable

if TYPE_CHECKING:
    from aura.gateway import GatewayConfig

HERE_ONLY = ("backup", "alerts")
"""Settings that name folders, commands and addresses: they come from files, not from requests."""


@dataclass(frozen=True, slots=True)
class DecommissionView:
    """Where the decommission of a target is: `gates` that it waits for, in words; the `backup` that
    was read back; each endpoint's phase; `calls` by endpoint since it began to be disabled."""

    target: str
    run: str
    state: State
    policy: Policy
    endpoints: tuple[Endpoint, ...]
    link: str
    gates: tuple[str, ...]
    backup: dict[str, Any]
    archive: str
    history: tuple[Done, ...]
    calls: dict[str, int]


@dataclass(frozen=True, slots=True)
class DecommissionList:
    """All of them, by target."""

    targets: tuple[DecommissionView, ...]


@dataclass(frozen=True, slots=True)
class DecommissionOrder:
    """What was ordered, or in a dry run (`target` is None) would be: the `endpoints` that are
    disabled one after the other. Without `driven` no worker is there to carry it out."""

    order: str
    target: DecommissionView | None
    endpoints: tuple[str, ...]
    driven: bool


async def read_decommission(
    section: Mapping[str, Any], gateway: GatewayConfig | None
) -> Decommission:
    """What was sent as a file's `decommission:` section, with the gateway's paths for the target
    when it names none. Raises PlanError."""
    for name in HERE_ONLY:
        if name in section:
            raise PlanError(
                f"decommission.{name}: it cannot be set from here",
                hint="Write it into a file, for `aura decommission FILE`",
            )
    plan, named = await read_given({"decommission": section}, parse_decommission)
    return plan if named else with_paths(plan, gateway)


def with_paths(plan: Decommission, gateway: GatewayConfig | None) -> Decommission:
    """The plan with the paths that a gateway has for its target; as it is when there are none."""
    routes = gateway.routes if gateway is not None else ()
    paths = [route.path for route in routes if route.baseline == plan.target]
    return replace(plan, endpoints=tuple(dict.fromkeys(paths))) if paths else plan


async def list_decommissions(app: Aura) -> DecommissionList:
    """All of them."""
    found = await app.rollouts.decommissions.all()
    return DecommissionList(tuple([await _view(app, one) for one in found]))


async def show_decommission(app: Aura, target: str) -> DecommissionView:
    """One of them. Raises UnknownDecommission."""
    return await _view(app, await app.rollouts.decommissions.status(_known(target)))


async def start_decommission(
    app: Aura, plan: Decommission, *, by: str, dry_run: bool = False, known: bool = True
) -> DecommissionOrder:
    """Begin, or with `dry_run` say whether it would; `known` refuses a target that no split has had
    as an arm, which most likely is a slip. Raises DecommissionError."""
    if known:
        await _require_known(app, plan.target)
    driven = await is_driven(app, app.rollouts.decommissions.workflow)
    if dry_run:
        await app.rollouts.decommissions.refuse(plan)
        return DecommissionOrder("start", None, plan.endpoints, driven)
    found = await app.rollouts.decommissions.start(plan, by=by)
    return DecommissionOrder("start", await _view(app, found), plan.endpoints, driven)


async def undo_decommission(
    app: Aura, target: str, *, by: str, reason: str = ""
) -> DecommissionOrder:
    """Order it to bring every endpoint back, which is possible until the target is archived. Raises
    UnknownDecommission, DecommissionError."""
    desk = app.rollouts.decommissions
    found = await desk.undo(_known(target), by=by, reason=reason)
    paths = tuple(one.path for one in found.endpoints)
    driven = await is_driven(app, desk.workflow)
    return DecommissionOrder("undo", await _view(app, found), paths, driven)


async def _view(app: Aura, one: Retirement) -> DecommissionView:
    calls = await app.rollouts.decommissions.calls(one.target)
    return DecommissionView(
        one.target, one.run, one.state, one.policy, one.endpoints, one.link, one.gates, one.backup,
        one.archive, one.history, calls,
    )  # fmt: skip


async def _require_known(app: Aura, target: str) -> None:
    splits = [Split.from_json(one.body) for one in await app.store.documents("split")]
    arms = sorted({arm.name for split in splits for arm in split.arms})
    if target not in arms:
        raise DecommissionError(
            f"no split has an arm {target}",
            hint=f"Arms are {', '.join(arms) or '(none yet)'}; for another target write a file "
            "with `decommission:`",
        )


def _known(target: str) -> str:
    if not storable(target):
        raise UnknownDecommission("no target of that name is being decommissioned")
    return target
