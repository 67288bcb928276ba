"""`aura audit`: the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, print_json, show, table
from aura.server.audit import AuditEntry, AuditFilter, AuditLog, newest

audit = typer.Typer(help="Who changed what, when, why and from where.", no_args_is_help=True)


@audit.command("list")
def list_(
    by: Annotated[str, typer.Option(help="Whose name has this in it.", show_default=False)] = "",
    what: Annotated[
        str, typer.Option(help="Whose command or target has this in it.", show_default=False)
    ] = "",
    before: Annotated[int, typer.Option(min=0, help="Older than this number; 0: all.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 50,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List changes, the newest first; one that failed has a second line that says so.

    \b
    Examples:
      aura audit list
      aura audit list --what rollout --by ada
    """

    async def look(app: Aura) -> AuditLog:
        async with opened(app):
            return await newest(app, AuditFilter(by, what), before=before, limit=limit)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found)
    elif not found.entries:
        note("Nothing was changed that is like that.")
    else:
        columns = (">NO", "WHEN (UTC)", "=WHAT", "TARGET", "BY", "FROM", "OUTCOME", "WHY")
        show(table(columns, map(_row, found.entries)))
    if found.next:
        note(f"There are more; give the same command with --before {found.next}")


def _row(one: AuditEntry) -> tuple[str, ...]:
    target = " ".join(one.target.values())
    outcome = one.outcome if one.of is None else f"{one.outcome} (of {one.of})"
    return (
        str(one.number), moment(one.at), clean(one.what), one_line(target, 40), clean(one.by),
        clean(f"{one.via} {one.address}"), clean(outcome), one_line(one.why, 60),
    )  # fmt: skip
