"""`aura runs`: list, show, cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from aura.app import Aura
from aura.cli import process
from aura.cli.completing import run_ids
from aura.cli.loading import bare_app, opened
from aura.cli.moments import Since, Until, maybe_moment
from aura.cli.options import Database, Json, taking
from aura.cli.output import (
    clean,
    error_line,
    indented,
    moment,
    note,
    payload,
    print_json,
    show,
    styled,
    table,
    whole,
)
from aura.server import operations
from aura.server.journal import Call, LaneTree, calls, lane_tree
from aura.server.operations import MOST_RUNS
from aura.server.views import (
    CallView,
    Payload,
    RunDetail,
    RunList,
    RunView,
    WaitView,
    call_view,
    time_of,
)
from aura.spans import span
from aura.store.base import SETTLED, TERMINAL

runs = typer.Typer(
    help="Look at runs, talk to them, cancel, fork, move and retry them.", no_args_is_help=True
)

RunId = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's id.", show_default=False, autocompletion=run_ids),
]


@dataclass(frozen=True, slots=True)
class ListOptions:
    state: Annotated[
        str | None,
        typer.Option(help=f"Only these: {', '.join(operations.STATES)}.", show_default=False),
    ] = None
    workflow: Annotated[
        str | None, typer.Option(help="Only runs of this workflow.", show_default=False)
    ] = None
    attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="Only runs with it.", show_default=False),
    ] = None
    since: Since = None
    until: Until = None
    limit: Annotated[int, typer.Option(min=1, max=MOST_RUNS, help="At most so many.")] = 20
    cursor: Annotated[
        str | None, typer.Option(help="Go on after an earlier list.", show_default=False)
    ] = None
    database: Database = None
    as_json: Json = False


@runs.command("list")
@taking(ListOptions)
def list_(given: ListOptions) -> None:
    """List runs, newest first.

    \b
    Examples:
      aura runs list
      aura runs list --state failed --workflow research --limit 100
      aura runs list --attribute customer:x --attribute tier:gold
      aura runs list --state parked --since 2d --json
    """

    async def look(app: Aura) -> RunList:
        async with opened(app):
            now = app.clock.now()
            return await operations.list_runs(
                app, state=given.state, workflow=given.workflow, limit=given.limit,
                cursor=given.cursor, attributes=given.attribute or (),
                since=maybe_moment(given.since, now, "--since"),
                until=maybe_moment(given.until, now, "--until"),
            )  # fmt: skip

    found = process.run(look(bare_app(given.database)))
    if given.as_json:
        print_json(found)
        return
    if not found.runs:
        note("There are no such runs. Start one with: aura run MODULE:APP WORKFLOW [JSON]...")
        return
    columns = ("=RUN", "WORKFLOW", "VERSION", "=STATE", "CREATED (UTC)", ">TOOK", "ERROR")
    show(table(columns, map(row, found.runs)))
    if found.next:
        note(f"There are more; give the same command with --cursor {found.next}")


@runs.command("show")
def show_(
    run_id: RunId,
    full: Annotated[
        bool, typer.Option("--full", help="Show inputs, outputs and tracebacks whole.")
    ] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a run: its input, its journal as a tree of lanes, how it ended.

    \b
    Examples:
      aura runs show doc-17
      aura runs show doc-17 --full
      aura runs show doc-17 --json
    """

    async def look(app: Aura) -> tuple[RunDetail, LaneTree]:
        async with opened(app):
            detail = await operations.show_run(app, run_id, full=full)
            return detail, lane_tree(calls(await app.store.journal(run_id)))

    detail, tree = process.run(look(bare_app(database)))
    if as_json:
        print_json(detail)
        return
    _show_head(detail, full=full)
    if detail.journal:
        show(branch(Tree(Text("journal", "bold")), tree, full=full))
    _show_suppressed(detail)
    _show_children(detail)
    _show_end(detail, full=full)


@runs.command("cancel")
def cancel(run_id: RunId, database: Database = None, as_json: Json = False) -> None:
    """Ask a run to stop; its code may clean up first.

    \b
    Examples:
      aura runs cancel doc-17
    """

    async def order(app: Aura) -> tuple[RunView, RunView]:
        async with opened(app):
            before = (await operations.show_run(app, run_id)).run
            return before, await operations.cancel_run(app, run_id)

    before, after = process.run(order(bare_app(database)))
    if as_json:
        print_json(after)
    elif before.state in TERMINAL:
        note(f"Run {run_id} had ended before: it is {before.state}.")
    elif after.state in SETTLED:
        note(f"Run {run_id} is {after.state}.")
    else:
        note(f"Run {run_id} is asked to stop; it is {after.state} until its code has.")


def row(run: RunView) -> tuple[Text | str, ...]:
    """A run in a table."""
    return (
        clean(run.id),
        clean(run.workflow),
        run.version,
        styled(run.state),
        moment(run.created_at),
        span(run.seconds),
        error_line(run.error, 60) if run.error else "",
    )


def _show_head(detail: RunDetail, *, full: bool) -> None:
    run = detail.run
    facts: list[tuple[str, str | Text]] = [
        ("run", clean(run.id)),
        ("workflow", f"{clean(run.workflow)} {run.version}"),
        ("state", styled(run.state)),
        ("created", f"{moment(run.created_at)} UTC"),
        ("took", span(run.seconds)),
    ]
    if run.attributes:
        words = (f"{name}:{value}" for name, value in run.attributes.items())
        facts.append(("attributes", clean(", ".join(words))))
    if run.queue:
        facts.append(("queue", clean(run.queue) + (f", key {clean(run.key)}" if run.key else "")))
    if run.parent:
        bond = "detached" if run.detached else "which stops it at its end"
        facts.append(("parent", clean(f"{run.parent}, {bond}")))
    if run.execution > 1:
        facts.append(("execution", str(run.execution)))
    if run.wake_at:
        facts.append(("wakes", f"{moment(run.wake_at)} UTC"))
    facts += [("waits for", clean(wait_line(one))) for one in detail.waits]
    if detail.more_waits:
        facts.append(("", "and more"))
    if run.worker:
        facts.append(("worker", run.worker))
    if run.recoveries:
        facts.append(("recovered", f"{run.recoveries} times"))
    if run.cancel_requested and run.state not in TERMINAL:
        facts.append(("cancel", "asked to stop"))
    facts.append(("input", _shown(detail.input, full=full)))
    grid = table(("", ""), facts)
    grid.show_header = False
    show(grid)


def wait_line(one: WaitView) -> str:
    """What a run waits for, since when and until when."""
    since = f", since {moment(one.since)} UTC" if one.since else ""
    until = f", until {moment(one.until)} UTC" if one.until else ""
    return f"{one.what}{since}{until}"


def _show_suppressed(detail: RunDetail) -> None:
    if not detail.suppressed:
        return
    columns = ("=SUPPRESSED", "NAME", "ANSWERED BY", "ARGUMENTS")
    rows = (
        (
            clean(one.what),
            clean(one.name),
            one.answer,
            payload(one.arguments, 80),
        )
        for one in detail.suppressed
    )
    show(table(columns, rows))


def _show_children(detail: RunDetail) -> None:
    if not detail.children:
        return
    columns = ("=CHILD", "WORKFLOW", "VERSION", "=STATE", "CREATED (UTC)", ">TOOK", "ERROR")
    show(table(columns, map(row, detail.children)))
    if detail.more_children:
        note(f"These are the newest {len(detail.children)} of its children; there are more.")


def _show_end(detail: RunDetail, *, full: bool) -> None:
    if detail.output is not None:
        show(Text.assemble(("output ", "bold"), _shown(detail.output, full=full)))
    error = detail.run.error
    if error is None:
        return
    show(Text.assemble(("error ", "bold red"), error_line(error)))
    if error.traceback:
        show(Text(indented(error.traceback), "dim"))
    if error.hint:
        show(Text(clean(error.hint)))


def branch(tree: Tree, lane: LaneTree, *, full: bool) -> Tree:
    """The tree with the calls of a lane."""
    for item in lane.items:
        if isinstance(item, Call):
            _leaf(tree, call_view(item, full=full), full=full)
        else:
            branch(tree.add(Text(f"lane {item.id}", "bold")), item, full=full)
    return tree


def _leaf(tree: Tree, call: CallView, *, full: bool) -> None:
    tries = f"  {call.attempts} attempts" if call.attempts > 1 else ""
    kind = "" if call.kind == "step" else f" ({call.kind})"
    line = Text.assemble(
        clean(f"{call.name}#{call.number}{kind}  "),
        styled(call.state),
        f"  {span(call.seconds)}{tries}",
    )
    if call.kind in ("sleep", "wait") and call.output is not None and call.output.whole:
        line.append(f"  until {moment(time_of(call.output.value))} UTC", "dim")
    elif call.kind == "signal" and call.output is None:
        line.append("  → none came", "dim")
    elif call.output is not None and not full:
        line.append(f"  → {payload(call.output, 90)}", "dim")
    node = tree.add(line)
    for failure in call.failures:
        node.add(Text(f"tried: {error_line(failure)}", "yellow"))
    if call.error is not None and call.state == "failed":
        node.add(Text(error_line(call.error), "red"))
        if full and call.error.traceback:
            node.add(Text(clean(call.error.traceback.rstrip()), "dim"))
    if call.error is not None and call.state == "retrying":
        node.add(Text(f"tried: {error_line(call.error)}", "yellow"))
    if full and call.input is not None:
        node.add(Text(f"input {_shown(call.input, full=True)}", "dim"))
    if full and call.output is not None:
        node.add(Text(f"output {_shown(call.output, full=True)}", "dim"))


def _shown(found: Payload, *, full: bool) -> str:
    return whole(found) if full and found.whole else payload(found, 160)
