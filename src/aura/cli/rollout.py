"""`aura rollout`: start, watch and steer rollouts. A worker's workflow does the work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import (
    clean,
    console,
    note,
    one_line,
    print_json,
    print_json_line,
    show,
    styled,
    table,
)
from aura.delivery.decide import Order
from aura.delivery.plan import Plan, load_plan
from aura.delivery.status import ArmStatus, RolloutStatus
from aura.errors import ConfigError, RolloutError
from aura.server.operations import live_workers

rollout = typer.Typer(help="Move traffic to a candidate, stage by stage.", no_args_is_help=True)

REFRESH = 0.25
"""Seconds between two looks of --watch."""

Named = Annotated[
    str,
    typer.Argument(metavar="FILE", help="The plan, or the rollout's name.", show_default=False),
]
Watch = Annotated[bool, typer.Option("--watch", help="Stay and show it; exit 1 if rolled back.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.", show_default=False)]
By = Annotated[
    str, typer.Option(help="Who says so. Default: this system's user.", show_default=False)
]


@rollout.command()
def start(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The plan (YAML).", show_default=False)
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Begin anew though it has completed before.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Begin though its baseline is not what serves now."),
    ] = False,
    watch: Watch = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Begin a rollout; workers drive it until its plan has ended.

    One whose baseline is not what serves now is refused: it would move
    everybody there at once.

    \b
    Examples:
      aura rollout start aura.yaml
      aura rollout start release-2.1.0.yaml --watch
    """
    plan = load_plan(file)
    _require_targets(file, plan)

    async def begin(app: Aura) -> RolloutStatus:
        async with opened(app):
            if not await _driver(app):
                note(
                    "No live worker is there to drive the rollout. Start one with: "
                    "aura worker MODULE:APP, or aura serve MODULE:APP"
                )
            if not (again or replace) and not await app.rollouts.serving(plan.split):
                _require_baseline(file, plan)
            status = await app.rollouts.start(plan, again=again, replace=replace)
            return await _watch(app, plan.name, as_json) if watch else status

    _tell(process.run(begin(bare_app(database))), as_json, watched=watch)


@rollout.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="The plan, or the rollout's name. Default: all.",
            show_default=False,
        ),
    ] = None,
    watch: Watch = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a rollout: its stages, both arms in them, what the guards say.

    \b
    Examples:
      aura rollout status
      aura rollout status aura.yaml --watch
      aura rollout status replace-legacy --json
    """
    if name is None:
        _show_all(process.run(_all(bare_app(database))), as_json)
        return
    wanted = rollout_name(name)

    async def look(app: Aura) -> RolloutStatus:
        async with opened(app):
            if watch:
                return await _watch(app, wanted, as_json)
            return await app.rollouts.status(wanted)

    _tell(process.run(look(bare_app(database))), as_json, watched=watch)


@rollout.command()
def advance(
    name: Named,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Go on to the next stage now; you answer for evidence that is missing.

    \b
    Examples:
      aura rollout advance aura.yaml --reason "compared by hand"
    """
    _order(name, "advance", reason, by, database, as_json)


@rollout.command()
def hold(
    name: Named,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Keep the weights as they are until someone says what to do.

    \b
    Examples:
      aura rollout hold aura.yaml --reason "release freeze"
    """
    _order(name, "hold", reason, by, database, as_json)


@rollout.command()
def resume(
    name: Named,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Let a rollout that is held go on; its stage's time begins anew.

    \b
    Examples:
      aura rollout resume aura.yaml
    """
    _order(name, "resume", reason, by, database, as_json)


@rollout.command()
def rollback(
    name: Named,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Send all traffic back to the baseline, at once.

    \b
    Examples:
      aura rollout rollback aura.yaml --reason "wrong prices"
      aura rollout rollback replace-legacy
    """
    _order(name, "rollback", reason, by, database, as_json)


def _require_targets(file: Path, plan: Plan) -> None:
    """When the plan's file has a gateway too, it must be able to send requests to both arms."""
    from aura.gateway import load_gateway, missing_targets

    config = load_gateway(file)
    missing = missing_targets(config, plan) if config is not None else []
    if missing and config is not None:
        raise ConfigError(
            f"{file}: the plan names {' and '.join(missing)}, for which the gateway has no target",
            hint=f"Its targets: {', '.join(config.targets)}",
        )


def _require_baseline(file: Path, plan: Plan) -> None:
    """When the plan's file has a gateway too and nothing has moved the split yet, what the gateway
    serves is the plan's baseline."""
    from aura.gateway import load_gateway

    config = load_gateway(file)
    for route in config.routes if config is not None else ():
        if route.split == plan.split and route.baseline != plan.baseline:
            raise RolloutError(
                f"{file}: {route.path} serves {route.baseline} now, the plan's baseline is "
                f"{plan.baseline}: it would move everybody there at once",
                hint=f"Write `baseline: {route.baseline}`, or say that you mean it with --replace",
            )


def rollout_name(given: str) -> str:
    """The rollout that a plan's path or a name stands for.

    Raises PlanError for a plan that cannot be read, ConfigError for a path without a file.
    """
    path = Path(given)
    if path.is_file():
        return load_plan(path).name
    if path.suffix in (".yaml", ".yml") or "/" in given:
        raise ConfigError(
            f"there is no file {given}", hint="Give the plan's path, or the rollout's name"
        )
    return given


def _order(
    name: str, order: Order, reason: str, by: str, database: str | None, as_json: bool
) -> None:
    wanted = rollout_name(name)

    async def give(app: Aura) -> tuple[RolloutStatus, bool]:
        async with opened(app):
            status = await app.rollouts.order(wanted, order, reason=reason, by=by or process.user())
            return status, await _driver(app)

    status, driven = process.run(give(bare_app(database)))
    if as_json:
        print_json({"order": order, "rollout": status.plain()})
    else:
        note(f"Rollout {wanted} is told to {order}. See: aura rollout status {wanted}")
    if not driven:
        note(
            "The order is recorded, but no live worker is there to carry it out. Start one with: "
            "aura worker MODULE:APP, or aura serve MODULE:APP"
        )


async def _driver(app: Aura) -> bool:
    """Whether a live worker can execute the workflow of rollouts."""
    workflow = app.rollouts.engine.workflow
    wanted = f"{workflow.name} {workflow.version}"
    return any(wanted in worker.workflows for worker in await live_workers(app))


async def _all(app: Aura) -> list[RolloutStatus]:
    async with opened(app):
        return await app.rollouts.all()


async def _watch(app: Aura, name: str, as_json: bool) -> RolloutStatus:
    """Show each change of the rollout until it has ended or the person leaves."""
    last: RolloutStatus | None = None
    with process.stoppable() as stop, _screen(as_json) as update:
        while True:
            status = await app.rollouts.status(name)
            if status != last:
                update(status)
                last = status
            if status.ended or stop.is_set():
                return status
            await app.clock.sleep(REFRESH)


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[RolloutStatus], None]]:
    """Where changes are shown: a table that updates, or one line of JSON for each."""
    if as_json:
        yield lambda status: print_json_line(status.plain())
        return
    with Live(console=console(), auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda status: live.update(picture(status), refresh=True)


def _tell(status: RolloutStatus, as_json: bool, *, watched: bool) -> None:
    """Print it, unless it was just watched; then it matters how it ended."""
    if watched:
        if status.state == "rolled-back":
            note(f"Rollout {status.name} was rolled back: {status.reason}")
            raise typer.Exit(1)
    elif as_json:
        print_json(status.plain())
    else:
        show(picture(status))


def _show_all(found: list[RolloutStatus], as_json: bool) -> None:
    if as_json:
        print_json({"rollouts": [status.plain() for status in found]})
    elif not found:
        note("There are no rollouts. Start one with: aura rollout start FILE")
    else:
        columns = ("=ROLLOUT", "SPLIT", "=STATE", "STAGE", "CANDIDATE", "REASON")
        show(table(columns, map(_row, found)))


def _row(status: RolloutStatus) -> tuple[RenderableType, ...]:
    return (
        clean(status.name),
        clean(status.split),
        styled(status.state),
        clean(status.stage),
        clean(status.candidate),
        one_line(status.reason, 80),
    )


def picture(status: RolloutStatus) -> Group:
    """A rollout for people: head, traffic, stages, guards."""
    head = Text.assemble(
        (f"{clean(status.name)}  ", "bold"),
        styled(status.state),
        f"  stage {clean(status.stage)}  ({one_line(status.reason, 120)})",
    )
    return Group(head, _traffic(status), Text(), _stages(status), Text(), _guards(status))


def _traffic(status: RolloutStatus) -> Table:
    bars = table(("TRAFFIC", "", ">"), ())
    for arm in (status.baseline, status.candidate):
        share = status.weights.get(arm, 0.0)
        bars.add_row(clean(arm), ProgressBar(1.0, share, width=40), f"{share:.2%}")
    return bars


def _stages(status: RolloutStatus) -> Table:
    columns = (*("STAGE", "VERDICT", "ARM", ">REQUESTS", ">ERRORS", ">FALLBACKS", ">p50", ">p95"),)
    rows: list[tuple[RenderableType, ...]] = []
    for stage in status.stages:
        name, verdict = clean(stage.name), styled(stage.verdict)
        rows.append((name, verdict, "candidate", *_arm(stage.candidate)))
        rows.append(("", "", "baseline", *_arm(stage.baseline)))
    return table(columns, rows)


def _arm(arm: ArmStatus) -> tuple[str, ...]:
    return (
        f"{arm.requests:,}",
        f"{arm.errors:,}",
        f"{arm.fallbacks:,}",
        _ms(arm.p50_ms),
        _ms(arm.p95_ms),
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _guards(status: RolloutStatus) -> Table:
    rows = [
        (
            one.guard,
            styled(one.verdict),
            f"{one.evidence:.3g}",
            f"{one.limit:.3g}",
            one_line(one.reason, 110),
        )
        for one in status.evidence
    ]
    return table(("GUARD", "VERDICT", ">EVIDENCE", ">LIMIT", "REASON"), rows)
