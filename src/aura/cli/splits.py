"""`aura splits`: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, print_json, show, table
from aura.server.splits import SplitView, list_splits, show_split

splits = typer.Typer(help="Where traffic goes now, split by split.", no_args_is_help=True)
COLUMNS = ("=SPLIT", "SHARES", "MIRROR", "MOVED BY", "FORCED")


@splits.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List splits: the share of each arm, and what moves it.

    \b
    Examples:
      aura splits list
    """

    async def look(app: Aura) -> tuple[SplitView, ...]:
        async with opened(app):
            return (await list_splits(app)).splits

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"splits": found})
    elif not found:
        note("There are no splits. One is made when a rollout or an experiment of it starts.")
    else:
        show(table(COLUMNS, map(_row, found)))


@splits.command("show")
def show_(
    name: Annotated[str, typer.Argument(metavar="SPLIT", help="Its name.", show_default=False)],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a split.

    \b
    Examples:
      aura splits show checkout
    """

    async def look(app: Aura) -> SplitView:
        async with opened(app):
            return await show_split(app, name)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found)
    else:
        show(table(COLUMNS, [_row(found)]))


def _row(one: SplitView) -> tuple[str, ...]:
    shares = ", ".join(f"{clean(arm.name)} {100 * arm.share:g} %" for arm in one.arms)
    mirror = f"{clean(one.mirror)}, {100 * one.sample:g} % of units" if one.mirror else ""
    mover = clean(one.mover) if one.moving else ""
    return clean(one.name), shares, mirror, mover, clean(one.forced)
