"""`aura decommission`: take a target out of service, and back while that is possible."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, one_line, print_json, show, styled, table
from aura.delivery.decommission import Decommission
from aura.delivery.retirement import Retirement
from aura.delivery.retiring import load_decommission
from aura.delivery.split import Split
from aura.errors import ConfigError, DecommissionError
from aura.server.operations import live_workers


class _StartsByDefault(TyperGroup):
    """`aura decommission legacy` is `aura decommission start legacy`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["start", *args]
        return super().resolve_command(ctx, args)


decommission = typer.Typer(
    cls=_StartsByDefault,
    help="Take a target out of service: `aura decommission FILE|TARGET`.",
    no_args_is_help=True,
)

Named = Annotated[
    str, typer.Argument(metavar="FILE|TARGET", help="Which target.", show_default=False)
]
By = Annotated[
    str, typer.Option(help="Who says so. Default: this system's user.", show_default=False)
]


@decommission.command()
def start(name: Named, by: By = "", database: Database = None, as_json: Json = False) -> None:
    """Begin; workers drive it: gate, backup, one endpoint after the other.

    FILE is an aura.yaml with a `decommission:` section; a TARGET alone is
    taken out of service with the usual settings: after 48 h at 100 % without
    a trip, on all its paths at once, with a day in which callers get 410.

    \b
    Examples:
      aura decommission aura.yaml
      aura decommission legacy
      aura decommission status legacy
      aura decommission undo legacy --reason "one caller left"
    """
    plan = _plan(name)

    async def begin(app: Aura) -> tuple[Retirement, bool]:
        async with opened(app):
            if not _is_file(name):
                await _require_known(app, plan.target)
            found = await app.rollouts.decommissions.start(plan, by=by or process.user())
            return found, await _driven(app)

    found, driven = process.run(begin(bare_app(database)))
    if as_json:
        print_json(found.plain())
    else:
        note(f"{plan.target} is being decommissioned. See: aura decommission status {plan.target}")
    _warn(driven)


@decommission.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|TARGET]", help="Default: all.", show_default=False),
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show where it is: failing gates, the backup, each endpoint and its calls.

    \b
    Examples:
      aura decommission status
      aura decommission status legacy --json
    """

    async def look(app: Aura) -> list[tuple[Retirement, dict[str, int]]]:
        async with opened(app):
            desk = app.rollouts.decommissions
            some = await desk.all() if name is None else [await desk.status(_target(name))]
            return [(one, await desk.calls(one.target)) for one in some]

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"targets": [{**one.plain(), "calls": calls} for one, calls in found]})
    elif not found:
        note("Nothing is being decommissioned. Start with: aura decommission FILE|TARGET")
    for one, calls in found if not as_json else ():
        _show(one, calls)


@decommission.command()
def undo(
    name: Named,
    reason: Annotated[str, typer.Option(help="Why.", show_default=False)] = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Bring every endpoint back; possible until the target is archived.

    \b
    Examples:
      aura decommission undo legacy --reason "one caller left"
    """

    async def give(app: Aura) -> tuple[Retirement, bool]:
        async with opened(app):
            desk = app.rollouts.decommissions
            found = await desk.undo(_target(name), by=by or process.user(), reason=reason)
            return found, await _driven(app)

    found, driven = process.run(give(bare_app(database)))
    if as_json:
        print_json({"order": "undo", "target": found.plain()})
    else:
        note(f"{found.target} is brought back. See: aura decommission status {found.target}")
    _warn(driven)


def _plan(name: str) -> Decommission:
    """From a file, with the gateway's paths for the target when it names none; or for a target."""
    path = Path(name)
    if not _is_file(name):
        return Decommission(target=name)
    plan, named = load_decommission(path)
    if named:
        return plan
    from aura.gateway import load_gateway

    config = load_gateway(path)
    paths = (
        [route.path for route in config.routes if route.baseline == plan.target] if config else []
    )
    return replace(plan, endpoints=tuple(dict.fromkeys(paths))) if paths else plan


def _target(name: str) -> str:
    return load_decommission(name)[0].target if _is_file(name) else name


def _is_file(name: str) -> bool:
    if Path(name).is_file():
        return True
    if name.endswith((".yaml", ".yml")) or "/" in name:
        raise ConfigError(f"there is no file {name}", hint="Give a file, or a target's name")
    return False


async def _driven(app: Aura) -> bool:
    """Whether a live worker can execute the workflow."""
    workflow = app.rollouts.decommissions.workflow
    wanted = f"{workflow.name} {workflow.version}"
    return any(wanted in worker.workflows for worker in await live_workers(app))


def _warn(driven: bool) -> None:
    if not driven:
        note(
            "It is recorded, but no live worker is there to carry it out. Start one with: "
            "aura worker MODULE:APP, or aura serve MODULE:APP"
        )


def _show(one: Retirement, calls: dict[str, int]) -> None:
    show(f"{clean(one.target)}  {one.state}")
    for gate in one.gates:
        show(f"  waits: {one_line(gate, 110)}")
    if one.backup:
        show(f"  backup: {clean(str(one.backup.get('path')))}")
    if one.archive:
        show(f"  archive: {clean(one.archive)}")
    rows = (
        (clean(each.path), styled(each.phase), _time(each.until), f"{calls.get(each.path, 0):,}")
        for each in one.endpoints
    )
    show(table(("=ENDPOINT", "PHASE", "GRACE UNTIL", ">CALLS"), rows))
    for event in one.history[-5:]:
        who = f" (by {event.by})" if event.by else ""
        show(f"  {_time(event.at)}  {one_line(event.reason + who, 100)}")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else "–"


async def _require_known(app: Aura, target: str) -> None:
    """Raises DecommissionError for a bare name that no split has had: most likely a slip."""
    splits = [Split.from_json(one.body) for one in await app.store.documents("split")]
    arms = sorted({arm.name for split in splits for arm in split.arms})
    if target not in arms:
        raise DecommissionError(
            f"no split has an arm {target}",
            hint=f"Arms are {', '.join(arms) or '(none yet)'}; for another target write a file "
            "with `decommission:`",
        )
