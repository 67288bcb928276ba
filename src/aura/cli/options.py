"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

AppName = Annotated[
    str,
    typer.Argument(metavar="MODULE:APP", help="The app, as in research:app.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="A SQLite file or a postgresql:// URL. Default: AURA_DATABASE_URL, or ./aura.db.",
        show_default=False,
    ),
]
AppDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="A SQLite file or a postgresql:// URL, in place of the app's own.",
        show_default=False,
    ),
]
