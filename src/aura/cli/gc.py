"""`aura gc`: delete what is old now, or say how much that would be."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from aura.app import LEAST_RETENTION, Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import note, print_json
from aura.engine.retention import describe, sweep
from aura.errors import InvalidInput
from aura.store.base import Swept
from aura.yamlnodes import DURATION, SECONDS


def gc(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Such as 90m, 48h or 7d.")
    ] = "30d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would go, and delete nothing.")
    ] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Delete ended runs and old observations, in small batches.

    Workers do the same by themselves, after the time in Config.retention.
    Runs that have not ended or are parked stay, whatever their age.

    \b
    Examples:
      aura gc --older-than 7d --dry-run
      aura gc --older-than 7d
    """
    age = seconds(older_than)

    async def work(app: Aura) -> Swept:
        async with opened(app):
            plan = partial(app.sweep_plan, age)
            if dry_run:
                return await app.store.sweepable(await plan())
            return await sweep(app.store, app.clock, plan)

    found = process.run(work(bare_app(database)))
    if as_json:
        print_json({"dry_run": dry_run, "older_than": age, **found._asdict()})
    else:
        note(f"{'Would delete' if dry_run else 'Deleted'} {describe(found)}.")


def seconds(text: str) -> float:
    """The seconds of a duration. Raises InvalidInput when it is none, or too short."""
    match = DURATION.fullmatch(text)
    age = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if not LEAST_RETENTION <= age < float("inf"):
        raise InvalidInput(
            f"--older-than is {text!r}", hint="Give a time of a minute or more: 90m, 48h, 7d"
        )
    return age
