"""`aura rollout`: start, watch and steer rollouts. A worker's workflow does the work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
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
from aura.cli.completing import rollout_names
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json, taking
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
from aura.delivery.plan import load_plan
from aura.delivery.status import ArmStatus, PairStatus, RolloutStatus
from aura.errors import ConfigError
from aura.server.drivers import NOBODY
from aura.server.rollouts import (
    Begin,
    Checked,
    OrderView,
    approve_rollout,
    check_rollout,
    list_rollouts,
    order_rollout,
    require_targets,
    show_rollout,
    start_rollout,
)

rollout = typer.Typer(help="Move traffic to a candidate, stage by stage.", no_args_is_help=True)

REFRESH = 0.25
"""Seconds between two looks of --watch."""

Named = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="The plan, or the rollout's name.",
        show_default=False,
        autocompletion=rollout_names,
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Stay and show it; exit 1 if rolled back.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.", show_default=False)]
By = Annotated[
    str, typer.Option(help="Who says so. Default: this system's user.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What `aura rollout start` is given."""

    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The plan (YAML).", show_default=False)
    ]
    again: Annotated[
        bool, typer.Option("--again", help="Begin anew though it has completed before.")
    ] = False
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Begin though its baseline is not what serves now."),
    ] = False
    incompatible: Annotated[
        str,
        typer.Option(
            metavar="REASON", help="Begin though its versions do not fit; why.", show_default=False
        ),
    ] = ""
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would begin.")] = False
    by: By = ""
    watch: Watch = False
    database: Database = None
    as_json: Json = False


@rollout.command()
@taking(StartOptions)
def start(given: StartOptions) -> None:
    """Begin a rollout; workers drive it until its plan has ended.

    One whose baseline is not what serves now is refused: it would move
    everybody there at once. So is one whose candidate cannot take the inputs of
    its baseline, or gives other outputs (aura catalog diff).

    \b
    Examples:
      aura rollout start aura.yaml
      aura rollout start release-2.1.0.yaml --dry-run
      aura rollout start release-2.1.0.yaml --watch
    """
    from aura.gateway import load_gateway

    plan, gateway = load_plan(given.file), load_gateway(given.file)
    wanted = Begin(
        plan, given.again, given.replace, given.incompatible, gateway, source=str(given.file)
    )
    require_targets(gateway, plan, str(given.file), ranges=False)

    async def check(app: Aura) -> Checked:
        async with opened(app):
            return await check_rollout(app, wanted)

    async def begin(app: Aura) -> RolloutStatus:
        async with opened(app):
            for sentence in (await check_rollout(app, wanted)).notes:
                note(sentence)
            status = await start_rollout(app, wanted, by=given.by or process.user())
            return await _watch(app, plan.name, given.as_json) if given.watch else status

    app = bare_app(given.database)
    if given.dry_run:
        _tell_checked(process.run(check(app)), given.as_json)
    else:
        _tell(process.run(begin(app)), given.as_json, watched=given.watch)


def _tell_checked(found: Checked, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    for pair in found.plan.pairs:
        show(
            Text(clean(f"{found.plan.name}: {pair.split} from {pair.baseline} to {pair.candidate}"))
        )
    show(Text(clean("stages: " + ", ".join(one.name for one in found.plan.stages))))
    for sentence in found.notes:
        note(sentence)
    note("Nothing was started: this was a dry run.")


@rollout.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="The plan, or the rollout's name. Default: all.",
            show_default=False,
            autocompletion=rollout_names,
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
            return await show_rollout(app, wanted)

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

    async def tell(app: Aura) -> OrderView:
        async with opened(app):
            who = by or process.user()
            return await approve_rollout(
                app, wanted, by=who, reason=reason, stage=stage, ok=not refuse
            )

    found = process.run(tell(bare_app(database)))
    if as_json:
        print_json({"approval": found.order, "rollout": found.rollout.plain()})
    else:
        stage = found.rollout.stage
        note(f"Stage {stage} of {wanted} is {found.order}. See: aura rollout status {wanted}")
    _note_driver(found.driven)


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

    async def give(app: Aura) -> OrderView:
        async with opened(app):
            by = wish.by or process.user()
            return await order_rollout(
                app, wanted, order, by=by, reason=wish.reason, stage=wish.stage
            )

    found = process.run(give(bare_app(database)))
    if as_json:
        print_json({"order": order, "rollout": found.rollout.plain()})
    else:
        note(f"Rollout {wanted} is told to {order}. See: aura rollout status {wanted}")
    _note_driver(found.driven)


def _note_driver(driven: bool) -> None:
    if not driven:
        note(f"That is recorded, but no live worker is there to carry it out. {NOBODY}")


async def _all(app: Aura) -> list[RolloutStatus]:
    async with opened(app):
        return list((await list_rollouts(app)).rollouts)


async def _watch(app: Aura, name: str, as_json: bool) -> RolloutStatus:
    """Show each change of the rollout until it has ended or the person leaves."""
    last: RolloutStatus | None = None
    with process.stoppable() as stop, _screen(as_json) as update:
        while True:
            status = await show_rollout(app, name)
            if status != last:
                update(status)
                last = status
            if status.ended or stop.is_set():
                return status
            await app.clock.sleep(REFRESH)


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[RolloutStatus], None]]:
    """Where changes are shown: a picture that updates, in a pipe a line for each, or JSON."""
    if as_json:
        yield lambda status: print_json_line(status.plain())
        return
    if not sys.stdout.isatty():
        yield lambda status: print(_line(status), flush=True)
        return
    with Live(console=console(), auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda status: live.update(picture(status), refresh=True)


def _line(status: RolloutStatus) -> str:
    where = f"{status.name}  {status.state}  stage {status.stage}  {status.weight:.2%}"
    return f"{clean(where)}  {one_line(status.reason, 160)}"


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
    columns = (
        *("STAGE", "=VERDICT", "=ARM", ">REQUESTS", ">ERRORS", ">FALLBACKS", ">p50", ">p95"),
    )
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
    return table(("=GUARD", "=VERDICT", ">EVIDENCE", ">LIMIT", "REASON"), rows)
