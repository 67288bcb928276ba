"""`aura runs watch`: runs as they change, in a terminal that updates or line by line."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from aura.app import Aura
from aura.cli import process
from aura.cli.completing import run_ids
from aura.cli.exits import NOT_WELL
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, console, error_line, print_json_line, styled, table
from aura.cli.runs import branch, row, wait_line
from aura.server import operations
from aura.server.journal import LaneTree, calls, lane_tree
from aura.server.views import RunDetail, RunView
from aura.spans import span
from aura.store.base import SETTLED

REFRESH = 0.5
"""Seconds between two looks."""

SHOWN = 20
"""So many runs are watched when none is named."""

T = TypeVar("T")
Seen = tuple[RunDetail, LaneTree]


def watch(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="The run's id. Default: the newest ones.",
            show_default=False,
            autocompletion=run_ids,
        ),
    ] = None,
    workflow: Annotated[
        str | None, typer.Option(help="Only runs of this workflow.", show_default=False)
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Watch a run until it has ended, or the newest runs until Ctrl-C.

    In a pipe each change is a line. Exits with 1 when the run failed, was
    cancelled or is parked.

    \b
    Examples:
      aura runs watch doc-17
      aura runs watch --workflow research
      aura runs watch doc-17 --json
    """  # fmt: skip
    app = bare_app(database)
    if run_id is None:
        process.run(_watch_all(app, workflow, as_json))
        return
    ended = process.run(_watch_one(app, run_id, as_json))
    if ended is not None and ended.state != "completed":
        raise typer.Exit(NOT_WELL)


async def _watch_one(app: Aura, run_id: str, as_json: bool) -> RunView | None:
    """How the run has ended; None when the person has left before."""

    async def look() -> Seen:
        detail = await operations.show_run(app, run_id)
        return detail, lane_tree(calls(await app.store.journal(run_id)))

    def over(seen: Seen) -> bool:
        return seen[0].run.state in SETTLED

    said: set[str] = set()

    def lines(seen: Seen) -> None:
        run, journal = seen[0].run, seen[0].journal
        for call in journal:
            _say_once(said, f"{call.key}  {call.state}", span(call.seconds), call.state)
        _say_once(said, f"run {run.id}  {run.state}", error_line(run.error) if run.error else "")

    tell = _as_json(lambda seen: seen[0]) if as_json else lines
    async with opened(app):
        last = await _following(app, look, over, _picture_of_one, None if as_json else tell, tell)
    return last[0].run if over(last) else None


async def _watch_all(app: Aura, workflow: str | None, as_json: bool) -> None:
    known: dict[str, RunView] = {}

    async def look() -> list[RunView]:
        return list((await operations.list_runs(app, workflow=workflow, limit=SHOWN)).runs)

    def changes(runs: list[RunView]) -> None:
        for run in reversed(runs):
            if known.get(run.id) == run:
                continue
            known[run.id] = run
            if as_json:
                print_json_line(run)
            else:
                took = span(run.seconds)
                print(
                    clean(f"{run.id}  {run.workflow} {run.version}  {run.state}  {took}"),
                    flush=True,
                )
        for gone in known.keys() - {run.id for run in runs}:
            del known[gone]

    async with opened(app):
        await _following(
            app, look, lambda _: False, _picture_of_all, None if as_json else changes, changes
        )


async def _following(
    app: Aura,
    look: Callable[[], Awaitable[T]],
    over: Callable[[T], bool],
    picture: Callable[[T], RenderableType],
    plain: Callable[[T], None] | None,
    tell: Callable[[T], None],
) -> T:
    """Look again and again, show what has changed, and give what was seen last: once it is over, or
    somebody wants to stop. In a terminal (and with `plain`) it is a picture that changes."""
    screen = plain is not None and sys.stdout.isatty()
    live = Live(console=console(), auto_refresh=False, vertical_overflow="crop") if screen else None
    last: T | None = None
    with process.stoppable() as stop:
        if live is not None:
            live.start()
        try:
            while True:
                seen = await look()
                if seen != last:
                    last = seen
                    if live is None:
                        tell(seen)
                    else:
                        live.update(picture(seen), refresh=True)
                if over(seen) or stop.is_set():
                    return seen
                await process.until(stop, app.clock, REFRESH)
        finally:
            if live is not None:
                live.stop()


def _as_json(part: Callable[[Seen], RunDetail]) -> Callable[[Seen], None]:
    return lambda seen: print_json_line(part(seen))


def _say_once(said: set[str], what: str, more: str, state: str = "") -> None:
    """A line, unless it was said before; of a call that is under way its time says nothing."""
    if what in said:
        return
    said.add(what)
    print(
        clean(what if state in ("pending", "running") else f"{what}  {more}").rstrip(), flush=True
    )


def _picture_of_one(seen: Seen) -> RenderableType:
    detail, tree = seen
    run = detail.run
    head = Text.assemble(
        (f"{clean(run.id)}  ", "bold"), f"{clean(run.workflow)} {run.version}  ",
        styled(run.state), f"  {span(run.seconds)}",
    )  # fmt: skip
    waits = [Text(clean(f"waits for {wait_line(one)}")) for one in detail.waits]
    journal = branch(Tree(Text("journal", "bold")), tree, full=False)
    parts: list[RenderableType] = [head, *waits, journal]
    if run.error is not None:
        parts.append(Text(error_line(run.error), "red"))
    return Group(*parts)


def _picture_of_all(runs: list[RunView]) -> RenderableType:
    if not runs:
        return Text("No runs yet. Start one with: aura run MODULE:APP WORKFLOW")
    columns = ("=RUN", "WORKFLOW", "VERSION", "=STATE", "CREATED (UTC)", ">TOOK", "ERROR")
    return table(columns, map(row, runs))
