"""`aura rollout`: start, watch and steer rollouts. A worker's workflow does the work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from aura.delivery.admission import judge
from aura.delivery.arms import version_of
from aura.delivery.decide import Order
from aura.delivery.plan import Pair, Plan, load_plan
from aura.delivery.status import ArmStatus, PairStatus, RolloutStatus
from aura.delivery.versions import reference
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
    incompatible: Annotated[
        str,
        typer.Option(
            metavar="REASON", help="Begin though its versions do not fit; why.", show_default=False
        ),
    ] = "",
    watch: Watch = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Begin a rollout; workers drive it until its plan has ended.

    One whose baseline is not what serves now is refused: it would move
    everybody there at once. So is one whose candidate cannot take the inputs of
    its baseline, or gives other outputs (aura catalog diff).

    \b
    Examples:
      aura rollout start aura.yaml
      aura rollout start release-2.1.0.yaml --watch
    """
    plan = load_plan(file)
    _require_targets(file, plan, ranges=False)

    async def begin(app: Aura) -> RolloutStatus:
        async with opened(app):
            found = await judge(app.catalog, plan)
            _require_targets(file, found.plan)
            for sentence in found.unknown:
                note(f"The catalog cannot tell {sentence}")
            if not await _driver(app):
                note(
                    "No live worker is there to drive the rollout. Start one with: "
                    "aura worker MODULE:APP, or aura serve MODULE:APP"
                )
            for pair in () if again or replace else found.plan.pairs:
                if not await app.rollouts.serving(pair.split):
                    _require_baseline(file, pair)
            status = await app.rollouts.start(
                plan, again=again, replace=replace, incompatible=incompatible
            )
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


def _command(order: Order, does: str) -> None:
    """A command that gives this order."""

    def give(
        name: Named,
        reason: Reason = "",
        by: By = "",
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        _order(name, order, Wish(reason, by), database, as_json)

    give.__doc__ = does
    rollout.command(order)(give)


_command(
    "advance",
    """Go on to the next stage now; you answer for what is missing.

    \b
    Examples:
      aura rollout advance aura.yaml --reason "compared by hand"
    """,
)
_command(
    "hold",
    """Keep the weights as they are until someone says what to do.

    When it is resumed, its stage begins anew: evidence, time and approvals.
    A gradual rollback stops where it is.

    \b
    Examples:
      aura rollout hold aura.yaml --reason "look at the logs"
    """,
)
_command(
    "pause",
    """Keep the weights as they are and stop the clock; guards go on watching.

    When it is resumed, its stage goes on where it was.

    \b
    Examples:
      aura rollout pause aura.yaml --reason "release freeze"
    """,
)
_command(
    "resume",
    """Let a rollout that is held or paused go on.

    \b
    Examples:
      aura rollout resume aura.yaml
    """,
)
_command(
    "retry",
    """Begin the stage anew: its evidence, its time and its approvals.

    \b
    Examples:
      aura rollout retry aura.yaml --reason "the cache was cold"
    """,
)
_command(
    "rollback",
    """Send all traffic back to the baseline, at once.

    \b
    Examples:
      aura rollout rollback aura.yaml --reason "wrong prices"
      aura rollout rollback replace-legacy
    """,
)


@rollout.command()
def skip(
    name: Named,
    stage: Annotated[str, typer.Option(help="The later stage to go on to.", show_default=False)],
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Go on to a later stage now; you answer for what is missing.

    \b
    Examples:
      aura rollout skip aura.yaml --stage 50% --reason "tested elsewhere"
    """
    _order(name, "skip", Wish(reason, by, stage), database, as_json)


@rollout.command()
def approve(
    name: Named,
    stage: Annotated[
        str,
        typer.Option(help="The stage that is approved. Default: the present one."),
    ] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse to approve it.")] = False,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Approve that the present stage is passed, or refuse to.

    \b
    Examples:
      aura rollout approve aura.yaml --stage 50% --by ann --reason "looks good"
      aura rollout approve replace-legacy --refuse --by ann --reason "wrong prices"
    """
    wanted = rollout_name(name)

    async def tell(app: Aura) -> tuple[RolloutStatus, bool]:
        async with opened(app):
            who = by or process.user()
            status = await app.rollouts.approve(
                wanted, stage=stage, by=who, reason=reason, ok=not refuse
            )
            return status, await _driver(app)

    status, driven = process.run(tell(bare_app(database)))
    what = "refused" if refuse else "approved"
    if as_json:
        print_json({"approval": what, "rollout": status.plain()})
    else:
        note(f"Stage {status.stage} of {wanted} is {what}. See: aura rollout status {wanted}")
    _note_driver(driven)


def _require_targets(file: Path, plan: Plan, *, ranges: bool = True) -> None:
    """When the plan's file has a gateway too, it must be able to send requests to both arms;
    without `ranges`, to those that need not be looked up in the catalog."""
    from aura.gateway import load_gateway, missing_targets

    config = load_gateway(file)
    missing = missing_targets(config, plan) if config is not None else []
    missing = [one for one in missing if ranges or version_of(one) or not reference(one)]
    if missing and config is not None:
        raise ConfigError(
            f"{file}: the plan names {' and '.join(missing)}, for which the gateway has no target",
            hint=f"Its targets: {', '.join(config.targets)}",
        )


def _require_baseline(file: Path, pair: Pair) -> None:
    """When the plan's file has a gateway too and nothing has moved the split yet, what the gateway
    serves is the plan's baseline."""
    from aura.gateway import load_gateway

    config = load_gateway(file)
    for route in config.routes if config is not None else ():
        if route.split == pair.split and route.baseline != pair.baseline:
            raise RolloutError(
                f"{file}: {route.path} serves {route.baseline} now, the plan's baseline is "
                f"{pair.baseline}: it would move everybody there at once",
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


@dataclass(frozen=True, slots=True)
class Wish:
    """What comes with an order: why, who gives it, and the stage that it names."""

    reason: str
    by: str
    stage: str = ""


def _order(name: str, order: Order, wish: Wish, database: str | None, as_json: bool) -> None:
    wanted = rollout_name(name)

    async def give(app: Aura) -> tuple[RolloutStatus, bool]:
        async with opened(app):
            by = wish.by or process.user()
            status = await app.rollouts.order(
                wanted, order, reason=wish.reason, by=by, to=wish.stage
            )
            return status, await _driver(app)

    status, driven = process.run(give(bare_app(database)))
    if as_json:
        print_json({"order": order, "rollout": status.plain()})
    else:
        note(f"Rollout {wanted} is told to {order}. See: aura rollout status {wanted}")
    _note_driver(driven)


def _note_driver(driven: bool) -> None:
    if not driven:
        note(
            "That is recorded, but no live worker is there to carry it out. Start one with: "
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
    """A rollout for people: head, traffic, stages, guards; of each split that it moves."""
    head = Text.assemble(
        (f"{clean(status.name)}  ", "bold"),
        styled(status.state),
        f"  stage {clean(status.stage)}  ({one_line(status.reason, 120)})",
    )
    parts: list[RenderableType] = [head, *_approvals(status)]
    parts += [Text(f"note: {clean(note)}", style="yellow") for note in status.notes]
    parts += [_traffic(status), Text(), _stages(status), Text(), _guards(status)]
    for pair in status.together:
        title = Text(f"together with split {clean(pair.split)}", style="bold")
        parts += [Text(), title, _traffic(pair), Text(), _stages(pair), Text(), _guards(pair)]
    return Group(*parts)


def _approvals(status: RolloutStatus) -> list[Text]:
    wanted = status.approval
    if wanted is None:
        return []
    given = ", ".join(map(clean, wanted.given)) or "nobody yet"
    people = f" of {', '.join(map(clean, wanted.people))}" if wanted.people else ""
    asked = "" if wanted.asked_at is None else ", asked for"
    return [Text(f"approvals: {wanted.needed} needed{people}; given by {given}{asked}")]


def _traffic(status: RolloutStatus | PairStatus) -> Table:
    bars = table(("TRAFFIC", "", ">"), ())
    for arm in (status.baseline, status.candidate):
        share = status.weights.get(arm, 0.0)
        bars.add_row(clean(arm), ProgressBar(1.0, share, width=40), f"{share:.2%}")
    return bars


def _stages(status: RolloutStatus | PairStatus) -> Table:
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


def _guards(status: RolloutStatus | PairStatus) -> Table:
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
