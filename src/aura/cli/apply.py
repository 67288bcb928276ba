"""`aura apply`: make the catalog and the plans what files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, one_line, print_json, show, table
from aura.delivery.applying import Applier
from aura.delivery.gitops import Change, changes, load, refused

COLOURS = {
    "create": "green", "update": "yellow", "unchanged": "dim", "start": "bold cyan",
    "refused": "bold red",
}  # fmt: skip


def apply(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Files with catalog: or rollout:, or both.", show_default=False
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who says so. Default: this user.")] = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Make the catalog and the plans what files say; applied again, nothing changes.

    A plan begins when its file says `start: true`, once. Everything is checked
    before the first write: when one change is refused, none is made (exit code 1).

    \b
    Examples:
      aura apply aura.yaml --dry-run
      aura apply catalog.yaml release-2.1.0.yaml
    """  # fmt: skip
    wanted = [one for file in files for one in load(file)]

    async def work(app: Aura) -> tuple[list[Change], list[str]]:
        async with opened(app):
            hands = Applier(app.catalog, app.rollouts, app.store, app.committer)
            who = by or process.user()
            found = changes(wanted, await hands.look(), app.clock.now(), who)
            if dry_run or refused(found):
                return found, []
            return found, await hands.carry_out(found, who)

    found, notes = process.run(work(bare_app(database)))
    error = refused(found)
    if as_json:
        body = [one.plain() for one in found]
        print_json({"changes": body, "applied": not dry_run and error is None, "notes": notes})
        if error is not None:
            raise typer.Exit(1)
        return
    show(_table(found))
    if error is not None:
        raise error
    for sentence in notes:
        note(sentence)
    if dry_run:
        note("Nothing was written: this was a dry run.")


def _table(found: Sequence[Change]) -> Any:
    rows: list[tuple[Any, ...]] = []
    for one in found:
        action = Text(one.action, style=COLOURS[one.action])
        told = [*([f"! {one.reason}"] if one.reason else []), *(f"note: {n}" for n in one.notes)]
        shown = () if one.action == "create" or _is_new(one) else one.fields
        lines = [*told, *(_field(*each) for each in shown)]
        rows.append((action, f"{one.kind} {clean(one.name)}", lines[0] if lines else ""))
        rows += [("", "", line) for line in lines[1:]]
    return table(("=ACTION", "=WHAT", "CHANGES"), rows)


def _is_new(one: Change) -> bool:
    """Whether there was no such plan: then all of it is new, and nobody needs to see that."""
    return any(name == "name" and before is None for name, before, _ in one.fields)


def _field(name: str, before: Any, after: Any) -> str:
    return f"{clean(name)}: {_value(before)} → {_value(after)}"


def _value(value: Any) -> str:
    return "–" if value in (None, "") else one_line(json.dumps(value, ensure_ascii=False), 60)
