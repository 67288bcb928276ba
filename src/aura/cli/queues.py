"""`aura queues`: list, show."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, print_json, show, table
from aura.server.queues import QueueDetail, QueueView, list_queues, show_queue
from aura.spans import span

queues = typer.Typer(help="Look at queues and their limits.", no_args_is_help=True)


@queues.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List queues: their runs and their limits.

    \b
    Examples:
      aura queues list
      aura queues list --json
    """

    async def look(app: Aura) -> list[QueueView]:
        async with opened(app):
            return await list_queues(app)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"queues": found})
    elif not found:
        note('There are no queues. Declare one with: app.queue("name", concurrency=8)')
    else:
        columns = ("=QUEUE", ">PENDING", ">RUNNING", ">WAITING", ">PARKED", "LIMITS")
        show(table(columns, map(_row, found)))


@queues.command("show")
def show_(
    name: Annotated[
        str, typer.Argument(metavar="QUEUE", help="The queue's name.", show_default=False)
    ],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a queue: its limits, who works on it, and which keys wait.

    \b
    Examples:
      aura queues show gpu
      aura queues show gpu --json
    """

    async def look(app: Aura) -> QueueDetail:
        async with opened(app):
            return await show_queue(app, name)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found)
        return
    grid = table(("", ""), _facts(found))
    grid.show_header = False
    show(grid)
    if found.keys:
        rows = (
            (clean(one.key) or "(none)", str(one.pending), str(one.running)) for one in found.keys
        )
        show(table(("=KEY", ">PENDING", ">RUNNING"), rows))
    if found.queue.pending and not found.served_by:
        note("No live worker has what this queue requires: its runs wait.")


def _row(queue: QueueView) -> tuple[Text | str, ...]:
    counts = (queue.pending, queue.running, queue.waiting, queue.parked)
    return (clean(queue.name), *map(str, counts), limits(queue))


def _facts(found: QueueDetail) -> list[tuple[str, str]]:
    queue = found.queue
    runs = ((queue.pending, "pending"), (queue.running, "running"), (queue.waiting, "waiting"),
            (queue.parked, "parked"))  # fmt: skip
    facts = [
        ("queue", clean(queue.name)),
        ("limits", limits(queue)),
        ("runs", ", ".join(f"{count} {state}" for count, state in runs)),
        ("workers", ", ".join(f"{clean(one)} ({n})" for one, n in found.running_on.items()) or "-"),
        ("served by", ", ".join(map(clean, found.served_by)) or "no live worker"),
    ]
    if queue.changed_at:
        facts.append(("changed", f"{moment(queue.changed_at)} UTC"))
    return facts


def limits(queue: QueueView) -> str:
    """The limits of a queue in words."""
    found = []
    if queue.concurrency is not None:
        found.append(f"{queue.concurrency} at once")
    if queue.per_worker is not None:
        found.append(f"{queue.per_worker} per worker")
    if queue.per_key is not None:
        found.append(f"{queue.per_key} per key")
    if queue.rate is not None:
        found.append(f"{queue.rate} per {span(queue.per)}")
    if queue.requires:
        found.append("requires " + ", ".join(map(clean, queue.requires)))
    found += [f"{amount:g} {clean(name)} each" for name, amount in queue.resources.items()]
    return "; ".join(found) or "none"
