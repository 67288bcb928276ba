"""`aura runs fork`: a second run from the middle of another one."""

from __future__ import annotations

from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, print_json
from aura.cli.runs import RunId
from aura.server import operations
from aura.server.operations import ForkView


def fork(
    run_id: RunId,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Keep what is before the first entry with this key, as in 0/charge#1. "
            "Default: keep all.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="With this code. Default: the same.", show_default=False)
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", help="The new run's id.", show_default=False)
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Start a second run from the middle of another one, which stays as it is.

    It has the journal, state, streams and signals up to there, and makes the
    call at the key, and all after it, anew. Keys: aura runs show RUN --json

    \b
    Examples:
      aura runs fork doc-17 --at '0/charge#1'
      aura runs fork doc-17 --at '0.2/extract#1' --version 1.1.0 --id doc-17-again
    """

    async def make(app: Aura) -> ForkView:
        async with opened(app):
            return await operations.fork_run(app, run_id, at=at, version=version, new_id=new_id)

    made = process.run(make(bare_app(database)))
    if as_json:
        print_json(made)
        return
    print(made.run.id, flush=True)
    note(f"It has {made.entries} entries and {made.signals} signals of {clean(run_id)}.")
    if made.undone:
        note(
            f"Careful: the original has compensated {', '.join(map(clean, made.undone))} since, "
            "which the fork counts as done."
        )
