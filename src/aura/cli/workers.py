"""`aura workers`: list, show."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, print_json, show, styled, table
from aura.server.views import WorkerView
from aura.server.workflows import WorkerDetail, list_workers, show_worker

workers = typer.Typer(help="Look at the processes that execute runs.", no_args_is_help=True)


@workers.command("list")
def list_(
    gone: Annotated[bool, typer.Option("--all", help="Also those that are gone.")] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List workers, with the runs that each has in memory.

    \b
    Examples:
      aura workers list
      aura workers list --all --json
    """

    async def look(app: Aura) -> list[WorkerView]:
        async with opened(app):
            return await list_workers(app, gone=gone)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"workers": found})
    elif not found:
        note("No worker is running. Start one with: aura worker MODULE:APP")
    else:
        columns = ("=WORKER", "=STATE", "HOST", ">PROCESS", ">RUNS", "SINCE (UTC)", "TAGS")
        show(table(columns, map(_row, found)))


@workers.command("show")
def show_(
    worker: Annotated[
        str, typer.Argument(metavar="WORKER", help="As in aura workers list.", show_default=False)
    ],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a worker: what it can run, and what it runs now.

    \b
    Examples:
      aura workers show 01a2b3c4
    """

    async def look(app: Aura) -> WorkerDetail:
        async with opened(app):
            return await show_worker(app, worker)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found)
        return
    one = found.worker
    show(
        Text(clean(one.id), "bold"),
        Text(f"{_state(one)} on {clean(one.host)}, process {one.pid}"),
        Text(f"since {moment(one.started_at)} UTC"),
        Text(f"runs {clean(', '.join(one.workflows)) or 'nothing'}"),
    )
    rows = [
        (Text(clean(run.id)), clean(run.workflow), clean(run.version), styled(run.state))
        for run in found.runs
    ]
    if rows:
        show(Text(), table(("=RUN", "WORKFLOW", "VERSION", "=STATE"), rows))
    if found.more_runs:
        note("It has more runs than these.")


def _row(one: WorkerView) -> tuple[str, ...]:
    return (
        clean(one.id), _state(one), clean(one.host), str(one.pid), f"{one.runs:,}",
        moment(one.started_at), clean(" ".join(one.tags)),
    )  # fmt: skip


def _state(one: WorkerView) -> str:
    return "live" if one.live else "gone"
