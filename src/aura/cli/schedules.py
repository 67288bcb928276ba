"""`aura schedules`: look at schedules and tell them what to do. A worker carries it out."""

from __future__ import annotations

import getpass
from dataclasses import fields
from datetime import datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, print_json, show, styled, table
from aura.errors import InvalidInput
from aura.server.schedules import (
    OrderView,
    ScheduleDetail,
    ScheduleEvent,
    ScheduleOrder,
    ScheduleView,
    list_schedules,
    order_schedule,
    show_schedule,
)

schedules = typer.Typer(help="Look at schedules, pause and trigger them.", no_args_is_help=True)

NO_WORKER = (
    "The order is recorded, but no live worker is there to carry it out. Start one with: "
    "aura worker MODULE:APP, or aura serve MODULE:APP"
)
NO_ANSWER = "The order is recorded, but no worker has carried it out within 10 seconds. See: "

Named = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="The schedule's name.", show_default=False)
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the history.", show_default=False)]
By = Annotated[
    str, typer.Option(help="Who says so. Default: this system's user.", show_default=False)
]


@schedules.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List schedules: when they tick, and when next.

    \b
    Examples:
      aura schedules list
      aura schedules list --json
    """

    async def look(app: Aura) -> list[ScheduleView]:
        async with opened(app):
            return await list_schedules(app)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"schedules": found})
    elif not found:
        note('There are no schedules. Declare one with: app.schedule("name", workflow, cron="…")')
    else:
        columns = ("=SCHEDULE", "=STATE", "WHEN", "WORKFLOW", "NEXT (UTC)", ">STARTED", ">MISSED")
        show(table(columns, map(_row, found)))


@schedules.command("show")
def show_(name: Named, database: Database = None, as_json: Json = False) -> None:
    """Show a schedule: its rules, what it did last, and its runs.

    \b
    Examples:
      aura schedules show nightly
      aura schedules show nightly --json
    """

    async def look(app: Aura) -> ScheduleDetail:
        async with opened(app):
            return await show_schedule(app, name)

    found = process.run(look(bare_app(database)))
    if as_json:
        plain = {one.name: getattr(found.schedule, one.name) for one in fields(found.schedule)}
        print_json({**plain, "ticks": found.ticks, "runs": found.runs})
    else:
        columns = ("WHEN (UTC)", "=WHAT", "=RUN", "=STATE", "REASON")
        history = reversed(found.schedule.history)
        events = [_event(one, found.runs.get(one.run, "")) for one in history]
        show(_head(found.schedule), Text(), table(columns, events))


@schedules.command()
def pause(
    name: Named, reason: Reason = "", by: By = "", database: Database = None, as_json: Json = False
) -> None:
    """Start nothing until it is resumed; ticks of that time are not made up for.

    \b
    Examples:
      aura schedules pause nightly --reason "release freeze"
    """
    order = ScheduleOrder("pause", reason=reason, by=by or _user())
    _order(name, order, database, as_json)


@schedules.command()
def resume(
    name: Named, reason: Reason = "", by: By = "", database: Database = None, as_json: Json = False
) -> None:
    """Let a paused schedule go on with its next tick.

    \b
    Examples:
      aura schedules resume nightly
    """
    order = ScheduleOrder("resume", reason=reason, by=by or _user())
    _order(name, order, database, as_json)


@schedules.command()
def trigger(
    name: Named,
    key: Annotated[
        str | None,
        typer.Option("--id", help="With the same id it happens once.", show_default=False),
    ] = None,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Start its workflow now, also while it is paused; behind one that runs, if need be.

    \b
    Examples:
      aura schedules trigger nightly
      aura schedules trigger nightly --id ticket-17
    """
    order = ScheduleOrder("trigger", key, reason=reason, by=by or _user())
    _order(name, order, database, as_json)


@schedules.command()
def backfill(
    name: Named,
    start: Annotated[
        str, typer.Option("--from", metavar="TIME", help="The first tick.", show_default=False)
    ],
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="The last tick. Default: now."),
    ] = None,
    reason: Reason = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Start the ticks of a time that has passed, where they have no run. Both ends count.

    Times are ISO 8601; without a zone they are in the schedule's.

    \b
    Examples:
      aura schedules backfill nightly --from 2026-03-01 --to 2026-03-07
      aura schedules backfill nightly --from 2026-03-01T00:00Z --reason "new report"
    """
    first = _time(start, "--from")
    last = None if end is None else _time(end, "--to")
    order = ScheduleOrder("backfill", None, first, last, reason, by or _user())
    _order(name, order, database, as_json)


@schedules.command()
def delete(
    name: Named, reason: Reason = "", by: By = "", database: Database = None, as_json: Json = False
) -> None:
    """Delete a schedule; what it has started goes on. One that the code declares comes again when
    a worker starts: pause it, or take it out of the code first.

    \b
    Examples:
      aura schedules delete nightly
    """
    order = ScheduleOrder("delete", reason=reason, by=by or _user())
    _order(name, order, database, as_json)


def _order(name: str, order: ScheduleOrder, database: str | None, as_json: bool) -> None:
    async def run(app: Aura) -> OrderView:
        async with opened(app):
            return await order_schedule(app, name, order)

    told(process.run(run(bare_app(database))), name, as_json)


def told(found: OrderView, name: str, as_json: bool) -> None:
    """Say what became of an order."""
    if as_json:
        schedule = found.schedule if found.done else None
        print_json({"order": found.order, "done": found.done, "schedule": schedule})
    elif found.done and found.schedule is not None:
        show(_head(found.schedule))
    if not found.done:
        note(NO_ANSWER + f"aura schedules show {name}" if found.driven else NO_WORKER)


def _time(text: str, option: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{option} {text!r} is not a time", hint="Write it as in 2026-03-01T03:00+01:00"
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return ""


def _row(found: ScheduleView) -> tuple[RenderableType, ...]:
    return (
        clean(found.name),
        styled(found.state),
        clean(found.words),
        clean(f"{found.workflow} {found.version}"),
        moment(found.next),
        f"{found.counts.started:,}",
        f"{found.counts.missed:,}",
    )


def _head(found: ScheduleView) -> Text:
    counts = found.counts
    missed = f"of the last {found.window:g} s" if found.missed == "window" else found.missed
    lines = [
        f"runs {found.workflow} {found.version}, {found.words}",
        f"overlap {found.overlap}, missed {missed}"
        + (f", jitter {found.jitter:g} s" if found.jitter else ""),
        f"next {moment(found.next)} UTC; started {counts.started:,}, skipped {counts.skipped:,}, "
        f"missed {counts.missed:,}",
    ]
    if found.running:
        lines.append(f"running: {', '.join(found.running)}")
    if found.waiting:
        lines.append(f"waiting: {len(found.waiting):,}, from {moment(found.waiting[0])} UTC")
    head = Text.assemble((f"{clean(found.name)}  ", "bold"), styled(found.state))
    return Text("\n").join([head, *(Text(f"  {clean(line)}") for line in lines)])


def _event(event: ScheduleEvent, state: str) -> tuple[RenderableType, ...]:
    return (
        moment(event.at),
        event.kind,
        clean(event.run),
        styled(state),
        one_line(event.reason, 100),
    )
