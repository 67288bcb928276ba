"""`aura schedules`: look at schedules and tell them what to do. A worker carries it out."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import typer
from rich.console import RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, print_json, show, styled, table
from aura.engine.schedule import Event
from aura.engine.scheduler import VERSION, WORKFLOW, Status
from aura.errors import InvalidInput, ResultTimeout
from aura.server.operations import live_workers
from aura.store.base import RunRecord

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


class Done(NamedTuple):
    """What became of an order; without a status nobody has carried it out yet."""

    status: Status | None
    driven: bool


@schedules.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List schedules: when they tick, and when next.

    \b
    Examples:
      aura schedules list
      aura schedules list --json
    """

    async def look(app: Aura) -> list[Status]:
        async with opened(app):
            return await app.schedules.list()

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"schedules": [status.plain() for status in found]})
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

    async def look(app: Aura) -> tuple[Status, Sequence[RunRecord]]:
        async with opened(app):
            return await app.schedules.show(name), await app.schedules.runs(name)

    status, runs = process.run(look(bare_app(database)))
    states = {run.id: run.state for run in runs}
    if as_json:
        print_json({**status.plain(), "runs": states})
    else:
        columns = ("WHEN (UTC)", "=WHAT", "=RUN", "=STATE", "REASON")
        events = [_event(one, states.get(one.run, "")) for one in reversed(status.book.history)]
        show(_head(status), Text(), table(columns, events))


@schedules.command()
def pause(
    name: Named, reason: Reason = "", by: By = "", database: Database = None, as_json: Json = False
) -> None:
    """Start nothing until it is resumed; ticks of that time are not made up for.

    \b
    Examples:
      aura schedules pause nightly --reason "release freeze"
    """
    _order(
        name, "pause", lambda app: app.schedules.pause(name, reason=reason, by=by or _user()),
        database, as_json,
    )  # fmt: skip


@schedules.command()
def resume(
    name: Named, reason: Reason = "", by: By = "", database: Database = None, as_json: Json = False
) -> None:
    """Let a paused schedule go on with its next tick.

    \b
    Examples:
      aura schedules resume nightly
    """
    _order(
        name, "resume", lambda app: app.schedules.resume(name, reason=reason, by=by or _user()),
        database, as_json,
    )  # fmt: skip


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
    _order(
        name, "trigger",
        lambda app: app.schedules.trigger(name, id=key, reason=reason, by=by or _user()),
        database, as_json,
    )  # fmt: skip


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

    async def fill(app: Aura) -> Status:
        until = last or datetime.fromtimestamp(app.clock.now(), UTC)
        return await app.schedules.backfill(name, first, until, reason=reason, by=by or _user())

    _order(name, "backfill", fill, database, as_json)


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
    _order(
        name, "delete", lambda app: app.schedules.delete(name, reason=reason, by=by or _user()),
        database, as_json,
    )  # fmt: skip


def _order(
    name: str,
    order: str,
    give: Callable[[Aura], Awaitable[Status]],
    database: str | None,
    as_json: bool,
) -> None:
    async def run(app: Aura) -> Done:
        async with opened(app):
            driven = await _is_driven(app)
            if not driven:
                app.schedules.patience = 0.0
            try:
                return Done(await give(app), driven)
            except ResultTimeout:
                return Done(None, driven)

    status, driven = process.run(run(bare_app(database)))
    if as_json:
        plain = None if status is None else status.plain()
        print_json({"order": order, "done": status is not None, "schedule": plain})
    elif status is not None:
        show(_head(status))
    if status is None:
        note(NO_ANSWER + f"aura schedules show {name}" if driven else NO_WORKER)


async def _is_driven(app: Aura) -> bool:
    """Whether a live worker can execute the workflow of schedules."""
    wanted = f"{WORKFLOW} {VERSION}"
    return any(wanted in worker.workflows for worker in await live_workers(app))


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


def _row(status: Status) -> tuple[RenderableType, ...]:
    schedule, book = status.schedule, status.book
    return (
        clean(schedule.name),
        styled(status.state),
        clean(schedule.words),
        clean(f"{schedule.workflow} {schedule.version}"),
        _moment(status.next),
        f"{book.started:,}",
        f"{book.missed:,}",
    )


def _head(status: Status) -> Text:
    schedule, book = status.schedule, status.book
    missed = (
        f"of the last {schedule.window:g} s" if schedule.missed == "window" else schedule.missed
    )
    lines = [
        f"runs {schedule.workflow} {schedule.version}, {schedule.words}",
        f"overlap {schedule.overlap}, missed {missed}"
        + (f", jitter {schedule.jitter:g} s" if schedule.jitter else ""),
        f"next {_moment(status.next)} UTC; started {book.started:,}, skipped {book.skipped:,}, "
        f"missed {book.missed:,}",
    ]
    if book.running:
        lines.append(f"running: {', '.join(book.running)}")
    if book.queued:
        lines.append(f"waiting: {len(book.queued):,}, from {_moment(book.queued[0].at)} UTC")
    head = Text.assemble((f"{clean(schedule.name)}  ", "bold"), styled(status.state))
    return Text("\n").join([head, *(Text(f"  {clean(line)}") for line in lines)])


def _event(event: Event, state: str) -> tuple[RenderableType, ...]:
    return (
        _moment(event.at),
        event.kind,
        clean(event.run),
        styled(state),
        one_line(event.reason, 100),
    )


def _moment(at: float | None) -> str:
    return moment(None if at is None else datetime.fromtimestamp(at, UTC))
