"""`aura dlq`: what waits for a person, and what becomes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import (
    clean,
    error_line,
    indented,
    moment,
    note,
    one_line,
    payload,
    print_json,
    show,
    table,
    whole,
)
from aura.server import letters
from aura.server.letters import LetterDetail, LetterFilter, LetterList, LetterView

dlq = typer.Typer(
    help="Dead letters: events and runs that wait for a person.", no_args_is_help=True
)

LetterId = Annotated[
    str, typer.Argument(metavar="ID", help="As in aura dlq list.", show_default=False)
]


@dlq.command("list")
def list_(
    topic: Annotated[
        str | None, typer.Option(help="Only events of it.", show_default=False)
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Only of this group.", show_default=False)
    ] = None,
    workflow: Annotated[
        str | None, typer.Option(help="Only parked runs of it.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Go on after an earlier list.", show_default=False)
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List dead letters and parked runs, newest first.

    \b
    Examples:
      aura dlq list
      aura dlq list --topic orders --group billing --json
      aura dlq list --workflow research
    """

    where = LetterFilter(topic=topic, group=group, workflow=workflow)

    async def look(app: Aura) -> LetterList:
        async with opened(app):
            return await letters.list_letters(app, where, limit, cursor)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found.letters)
    elif not found.letters:
        note("Nothing waits for a person.")
    else:
        show(table(("=ID", "KEY", ">TRIES", "SINCE (UTC)", "ERROR"), map(_row, found.letters)))
    if found.next:
        note(f"There are more; give the same command with --cursor {found.next}")


@dlq.command("show")
def show_(
    letter: LetterId,
    full: Annotated[bool, typer.Option("--full", help="Show the payload and tracebacks.")] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a dead letter: its payload, and how each try failed.

    \b
    Examples:
      aura dlq show event:orders/billing/17
      aura dlq show run:order-4711 --full
    """

    async def look(app: Aura) -> LetterDetail:
        async with opened(app):
            return await letters.show_letter(app, letter, full=full)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found)
        return
    for line in _lines(found, full=full):
        show(line)


@dlq.command()
def requeue(
    letter: LetterId,
    version: Annotated[
        str | None,
        typer.Option(help="Of the run, or the workflow for the event.", show_default=False),
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Let a dead letter be tried again, by whatever worker handles it.

    A version is for a run, or for an event that a workflow handles. A function
    has no versions: given one, the event is a dead letter again, and says so.

    \b
    Examples:
      aura dlq requeue event:orders/billing/17
      aura dlq requeue event:orders/invoices/3 --version 1.1.0
    """
    _do(database, lambda app: letters.requeue_letter(app, letter, version))
    if as_json:
        print_json({"id": letter, "requeued": True, "version": version})
    else:
        asked = "" if version is None else f", by version {version} of the workflow that handles it"
        note(f"{letter} will be tried again{asked}.")
        if asked and letter.startswith("event:"):
            note(f"If a function handles it, it is a dead letter again: aura dlq show {letter}")


@dlq.command()
def drop(letter: LetterId, database: Database = None, as_json: Json = False) -> None:
    """Give a dead letter up. An event counts as handled, a run as cancelled.

    \b
    Example:
      aura dlq drop event:orders/billing/17
    """
    _do(database, lambda app: letters.drop_letter(app, letter))
    if as_json:
        print_json({"id": letter, "dropped": True})
    else:
        note(f"{letter} is given up.")


def _do(database: str | None, work: Callable[[Aura], Awaitable[None]]) -> None:
    async def act(app: Aura) -> None:
        async with opened(app):
            await work(app)

    process.run(act(bare_app(database)))


def _row(one: LetterView) -> tuple[RenderableType, ...]:
    what = "" if one.error is None else error_line(one.error, 120)
    key = one.key if one.kind == "event" else f"{one.workflow} {one.version}"
    return (
        Text(clean(one.id)),
        Text(one_line(key or "", 40)),
        str(one.tries),
        moment(one.at),
        Text(what),
    )


def _lines(found: LetterDetail, *, full: bool) -> list[Text]:
    letter = found.letter
    lines = [Text(clean(letter.id), "bold"), Text(f"since {moment(letter.at)} UTC")]
    if letter.kind == "run":
        lines.append(
            Text(f"{letter.workflow} {letter.version}; see: aura runs show {letter.id[4:]}")
        )
        if letter.error is not None:
            lines.append(Text(f"error {error_line(letter.error)}", "red"))
            if letter.error.hint:
                lines.append(Text(f"hint {clean(letter.error.hint)}"))
    if letter.key is not None:
        lines.append(Text(f"key {clean(letter.key)}"))
    if found.payload is not None:
        shown = (
            whole(found.payload) if full and found.payload.whole else payload(found.payload, 160)
        )
        lines.append(Text(f"payload {shown}"))
    for one in found.history:
        at = moment(datetime.fromtimestamp(float(one["at"]), UTC)) if "at" in one else "–"
        said = f"{one.get('type', '')}: {one.get('message', '')}"
        lines.append(Text(f"{at}  try {one.get('attempt', '–')}  {one_line(said, 300)}", "red"))
        if full and one.get("traceback"):
            lines.append(Text(indented(str(one["traceback"])), "dim"))
    return lines
