"""`aura decommission`: take a target out of service, and back while that is possible."""

from __future__ import annotations

from dataclasses import asdict
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
from aura.delivery.retiring import load_decommission
from aura.errors import ConfigError
from aura.server.decommissions import (
    DecommissionList,
    DecommissionOrder,
    DecommissionView,
    list_decommissions,
    show_decommission,
    start_decommission,
    undo_decommission,
    with_paths,
)
from aura.server.drivers import NOBODY


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
def start(
    name: Named,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would begin.")] = False,
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Begin; workers drive it: gate, backup, one endpoint after the other.

    FILE is an aura.yaml with a `decommission:` section; a TARGET alone is
    taken out of service with the usual settings: after 48 h at 100 % without
    a trip, on all its paths at once, with a day in which callers get 410.

    \b
    Examples:
      aura decommission aura.yaml
      aura decommission legacy --dry-run
      aura decommission legacy
      aura decommission status legacy
      aura decommission undo legacy --reason "one caller left"
    """
    plan = _plan(name)

    async def begin(app: Aura) -> DecommissionOrder:
        async with opened(app):
            who, slips = by or process.user(), not _is_file(name)
            return await start_decommission(app, plan, by=who, dry_run=dry_run, known=slips)

    found = process.run(begin(bare_app(database)))
    if as_json:
        print_json(asdict(found) if dry_run else _plain(found))
    elif dry_run:
        paths = ", ".join(map(clean, found.endpoints))
        note(f"{plan.target} would be decommissioned, endpoint by endpoint: {paths}")
    else:
        note(f"{plan.target} is being decommissioned. See: aura decommission status {plan.target}")
    _warn(found.driven)


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

    async def look(app: Aura) -> DecommissionList:
        async with opened(app):
            if name is None:
                return await list_decommissions(app)
            return DecommissionList((await show_decommission(app, _target(name)),))

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(asdict(found))
    elif not found.targets:
        note("Nothing is being decommissioned. Start with: aura decommission FILE|TARGET")
    for one in found.targets if not as_json else ():
        _show(one)


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

    target = _target(name)

    async def give(app: Aura) -> DecommissionOrder:
        async with opened(app):
            return await undo_decommission(app, target, by=by or process.user(), reason=reason)

    found = process.run(give(bare_app(database)))
    if as_json:
        print_json({"order": "undo", "target": _plain(found)})
    else:
        note(f"{target} is brought back. See: aura decommission status {target}")
    _warn(found.driven)


def _plain(found: DecommissionOrder) -> dict[str, Any]:
    return {} if found.target is None else asdict(found.target)


def _plan(name: str) -> Decommission:
    """From a file, with the gateway's paths for the target when it names none; or for a target."""
    path = Path(name)
    if not _is_file(name):
        return Decommission(target=name)
    plan, named = load_decommission(path)
    if named:
        return plan
    from aura.gateway import load_gateway

    return with_paths(plan, load_gateway(path))


def _target(name: str) -> str:
    return load_decommission(name)[0].target if _is_file(name) else name


def _is_file(name: str) -> bool:
    if Path(name).is_file():
        return True
    if name.endswith((".yaml", ".yml")) or "/" in name:
        raise ConfigError(f"there is no file {name}", hint="Give a file, or a target's name")
    return False


def _warn(driven: bool) -> None:
    if not driven:
        note(f"No live worker is there to carry it out. {NOBODY}")


def _show(one: DecommissionView) -> None:
    show(f"{clean(one.target)}  {one.state}")
    for gate in one.gates:
        show(f"  waits: {one_line(gate, 110)}")
    if one.backup:
        show(f"  backup: {clean(str(one.backup.get('path')))}")
    if one.archive:
        show(f"  archive: {clean(one.archive)}")
    rows = (
        (
            clean(each.path),
            styled(each.phase),
            _time(each.until),
            f"{one.calls.get(each.path, 0):,}",
        )
        for each in one.endpoints
    )
    show(table(("=ENDPOINT", "PHASE", "GRACE UNTIL", ">CALLS"), rows))
    for event in one.history[-5:]:
        who = f" (by {event.by})" if event.by else ""
        show(f"  {_time(event.at)}  {one_line(event.reason + who, 100)}")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else "–"
