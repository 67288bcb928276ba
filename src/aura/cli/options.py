"""Options that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_type_hints

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
LogFormat = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        metavar="pretty|json",
        help="How the log is written. [default: pretty on a terminal, else json]",
        show_default=False,
    ),
]
MetricsPort = Annotated[
    str | None,
    typer.Option(
        "--metrics-port",
        metavar="[HOST:]PORT",
        help="Serve /metrics on a port of its own, of this machine unless a host is named.",
        show_default=False,
    ),
]

Options = TypeVar("Options")


def taking(
    options: type[Options],
) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """For commands with many parameters: they are the fields of a frozen dataclass, which the
    function gets."""

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            function(options(**given))

        hints = get_type_hints(options, include_extras=True)
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = hints
        vars(command)["__signature__"] = inspect.Signature(
            [
                inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if one.default is MISSING else one.default,
                    annotation=hints[one.name],
                )
                for one in fields(options)  # type: ignore[arg-type]  # it is a dataclass
            ]
        )
        return command

    return decorate
