"""`aura apply`: make the catalog and the plans what files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
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
from aura.delivery.decommission import Decommission
from aura.delivery.gitops import Change, changes, load, refused
from aura.delivery.launches import WantedLaunch, launch_changes, parse_launches
from aura.server.decommissions import with_paths
from aura.yamlnodes import read

COLOURS = {
    "create": "green", "update": "yellow", "unchanged": "dim", "start": "bold cyan",
    "refused": "bold red",
}  # fmt: skip


def apply(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Files with catalog:, rollout: and so on.", show_default=False
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

    A plan, an experiment or a decommission begins when its section says
    `start: true`, once. Everything is checked before the first write: when one
    change is refused, none is made (exit code 1).

    \b
    Examples:
      aura apply aura.yaml --dry-run
      aura apply catalog.yaml release-2.1.0.yaml
    """  # fmt: skip
    wanted = [one for file in files for one in load(file)]
    begun = [one for file in files for one in _launches(file)]

    async def work(app: Aura) -> tuple[list[Change], list[str]]:
        async with opened(app):
            hands = Applier(app.catalog, app.rollouts, app.experiments, app.store, app.committer)
            who = by or process.user()
            known = await hands.look()
            found = changes(wanted, known, app.clock.now(), who)
            found += launch_changes(begun, await hands.look_at_launches(known.moving))
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


def _launches(file: Path) -> list[WantedLaunch]:
    """What a file wants begun; a decommission that names no endpoints has those of its gateway."""
    from aura.gateway import load_gateway

    found = parse_launches(read(file, kind="file"), str(file))
    gateway = load_gateway(file) if any(not one.named for one in found) else None
    return [
        replace(one, value=with_paths(one.value, gateway))
        if isinstance(one.value, Decommission) and not one.named
        else one
        for one in found
    ]


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
    new = "target" if one.kind == "decommission" else "name"
    return any(name == new and before is None for name, before, _ in one.fields)


def _field(name: str, before: Any, after: Any) -> str:
    return f"{clean(name)}: {_value(before)} → {_value(after)}"


def _value(value: Any) -> str:
    return "–" if value in (None, "") else one_line(json.dumps(value, ensure_ascii=False), 60)
