"""`aura runs export` and `import`, and `aura promote`: runs out of a database and into another."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened, sqlite_file, using
from aura.cli.options import Database, Json, taking
from aura.cli.output import note, print_json
from aura.engine.arriving import Imported, import_bundle
from aura.engine.moving import Export, Exported, export
from aura.engine.promotion import promote as promote_app
from aura.errors import InvalidInput

Patience = Annotated[
    float,
    typer.Option(min=0.0, help="Seconds to wait for steps that are under way."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Then take their runs anyway: those steps run once more."),
]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What `aura runs export` is told."""

    file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to.", show_default=False)
    ]
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Their ids.", show_default=False)
    ] = None
    every: Annotated[bool, typer.Option("--all", help="All runs.")] = False
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="All runs that have not ended.")
    ] = False
    app_too: Annotated[
        bool, typer.Option("--app", help="All runs, and documents, feeds and events.")
    ] = False
    move: Annotated[
        bool, typer.Option("--move", help="Take the runs out: here they go on no more.")
    ] = False
    patience: Patience = 30.0
    force: Force = False
    again: Annotated[
        bool, typer.Option("--again", help="Write a move again whose file is lost.")
    ] = False
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="Decrypt: whoever has the file can read all.")
    ] = False
    database: Database = None
    as_json: Json = False


@taking(ExportOptions)
def export_runs(given: ExportOptions) -> None:
    """Write runs into a file, to be imported elsewhere.

    With --move they are taken out of this database first, whatever workers do,
    and go on where the file is imported; without it the file has copies. A move
    has the name of its file: the same command again finishes one that broke off.

    \b
    Examples:
      aura runs export doc-17 -o doc-17.bundle
      aura runs export --unfinished --move -o to-postgres.bundle
    """
    chosen = [bool(given.run_ids), given.every, given.unfinished, given.app_too]
    if sum(chosen) != 1:
        raise InvalidInput(
            "it is not said which runs" if not any(chosen) else "runs are named in several ways",
            hint="Give their ids, or --all, --unfinished or --app",
        )
    what = Export(
        runs=tuple(given.run_ids) if given.run_ids else None,
        unfinished=given.unfinished,
        app=given.app_too,
        move=given.file.name if given.move else "",
        patience=given.patience,
        force=given.force,
        again=given.again,
        opened=given.plaintext,
    )

    async def write(app: Aura) -> Exported:
        async with opened(app):
            return await export(app.store, app.clock, what, given.file)

    done = process.run(write(bare_app(given.database)))
    if given.as_json:
        print_json({"file": str(given.file), "move": what.move or None, **done._asdict()})
        return
    runs = "1 run" if done.runs == 1 else f"{done.runs:,} runs"
    note(f"{given.file} has {runs} ({done.lines:,} lines).")
    if done.moves:
        note(
            f"Not in it are runs of earlier moves: {', '.join(done.moves)}. They go on where "
            "those files were imported."
        )


def import_runs(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle.", show_default=False)],
    take_back: Annotated[
        bool,
        typer.Option("--take-back", help="Of a move from here that was imported nowhere."),
    ] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Let the runs of a bundle go on in this database.

    The whole file is checked first. Importing it again does no harm. Copies of
    runs that had not ended are parked; requeue them if they are to go on here.

    \b
    Examples:
      aura runs import to-postgres.bundle --database postgresql://db/app
    """

    async def read(app: Aura) -> Imported:
        async with opened(app):
            return await import_bundle(app.store, file, take_back=take_back)

    done = process.run(read(_any_app(database)))
    if as_json:
        print_json(done._asdict())
        return
    note(_told(done))
    if done.parked:
        note("Parked ones are copies. Let one go on here with: aura runs requeue RUN")


def promote(
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="Where it is.", show_default=False)
    ],
    target: Annotated[
        str, typer.Option("--to", metavar="URL", help="Where to; empty.", show_default=False)
    ],
    patience: Patience = 30.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Move a whole app into another database, with runs in flight.

    Runs, documents, feeds and events go on there, and nothing goes on in the
    old one: workers do not begin there, and runs are not started. The same
    command again finishes a promotion that broke off.

    \b
    Examples:
      aura promote --from ./aura.db --to postgresql://aura@db/app
    """
    what = Export(patience=patience, force=force)

    async def move(old: Aura, new: Aura) -> Imported:
        with tempfile.TemporaryDirectory(prefix="aura-promotion-") as folder:
            async with opened(old), opened(new):
                file = Path(folder) / "bundle"
                return await promote_app(old.store, new.store, old.clock, what, file)

    done = process.run(move(bare_app(source), _any_app(target)))
    if as_json:
        print_json(done._asdict())
        return
    note(_told(done))
    note("Start its workers with the new database now, as AURA_DATABASE_URL.")


def _any_app(database: str | None) -> Aura:
    """An app on a database that may be new."""
    app = using(Aura("aura"), database)
    file = sqlite_file(app.config.database)
    return bare_app(database) if file is None or file.exists() else app


def _told(done: Imported) -> str:
    arrived = "1 run has" if done.created == 1 else f"{done.created} runs have"
    parts = [f"{arrived} arrived"]
    if done.parked:
        parts.append(f"{done.parked} of them are parked")
    if done.returned:
        parts.append(f"{done.returned} have come back")
    if done.present:
        parts.append(f"{done.present} were here already")
    if done.rows:
        parts.append(f"{done.rows:,} rows of the app were added")
    if done.kept:
        parts.append(f"{done.kept:,} were here already")
    return ", ".join(parts) + "."
