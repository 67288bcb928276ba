"""`aura catalog`: versions of workflows, and which may stand in for which."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.completing import versions
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, print_json, show, table
from aura.delivery.versions import reference
from aura.server import catalog as operations
from aura.server.catalog import (
    MOST_COMPARED,
    ComparisonView,
    FindingView,
    FitView,
    VersionView,
    compare,
    list_versions,
    show_version,
    show_workflow,
)

T = TypeVar("T")

catalog = typer.Typer(help="Versions of workflows, and which fit which.", no_args_is_help=True)

MOST_DRAWN = 12
"""So many versions are drawn as a matrix: the newest."""

MARKS = {
    "compatible": ("✓", "green"),
    "incompatible": ("✗", "bold red"),
    "unknown": ("?", "yellow"),
}
LEGEND = "Each cell: inputs, outputs, runs in flight. ✓ fits, ✗ does not, ? nobody can tell."

Version = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="As in research@1.0.0 or research@^1.",
                   show_default=False, autocompletion=versions),
]  # fmt: skip


@catalog.command("list")
def list_(
    workflow: Annotated[
        str | None, typer.Option(help="Only versions of this one.", show_default=False)
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List all versions: who owns them, what is new, which are deprecated.

    \b
    Examples:
      aura catalog list
      aura catalog list --workflow research --json
    """
    found = _with_app(database, lambda app: list_versions(app, workflow)).versions
    if as_json:
        print_json({"versions": [asdict(one) for one in found]})
    elif not found:
        note("The catalog is empty. An app that is opened registers its versions.")
    else:
        show(_listing(found))


@catalog.command("show")
def show_(
    name: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW",
            help="A workflow, or one version of it.",
            show_default=False,
            autocompletion=versions,
        ),
    ],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show a workflow's versions and their compatibility matrix, or one version.

    \b
    Examples:
      aura catalog show research
      aura catalog show research@1.0.0 --json
    """  # fmt: skip
    if reference(name) is not None:
        one = _with_app(database, lambda app: show_version(app, name))
        print_json(asdict(one)) if as_json else show(_details(one))
        return
    found = _with_app(database, lambda app: show_workflow(app, name))
    if as_json:
        print_json(asdict(found))
        return
    show(_listing(found.versions), Text(), drawn(found.matrix), Text(), Text(LEGEND, style="dim"))
    if len(found.versions) > MOST_DRAWN:
        of = len(found.versions)
        note(
            f"The matrix has the newest {MOST_DRAWN} of {of} versions; --json has {MOST_COMPARED}."
        )


@catalog.command()
def diff(old: Version, new: Version, database: Database = None, as_json: Json = False) -> None:
    """Whether the new version may take the place of the old one, field by field.

    Exit code 1 when it may not.

    \b
    Examples:
      aura catalog diff research@1.0.0 research@2.0.0
      aura catalog diff research@^1 research@^2 --json
    """
    found = _with_app(database, lambda app: compare(app, old, new))
    print_json(asdict(found)) if as_json else show(_difference(found))
    if found.refused:
        raise typer.Exit(1)


@catalog.command()
def deprecate(
    version: Version,
    why: Annotated[str, typer.Option(help="Why it should not be used.", show_default=False)] = "",
    replacement: Annotated[
        str, typer.Option(help="What to take: a version or range.", show_default=False)
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    by: Annotated[str, typer.Option(help="Who says so. Default: this user.")] = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Ask everybody to start no more runs of a version.

    Runs in flight go on. New ones are started too, with a warning in the log,
    and are counted.

    \b
    Examples:
      aura catalog deprecate research@1.0.0 --why "too slow" --replacement ^2
      aura catalog deprecate research@1.0.0 --undo
    """
    who = by or process.user()
    if undo:
        found = _with_app(database, lambda app: operations.restore(app, version))
    else:
        found = _with_app(
            database,
            lambda app: operations.deprecate(
                app, version, by=who, why=why, replacement=replacement
            ),
        )
    if as_json:
        print_json(asdict(found))
    else:
        note(f"{found.name} is {'deprecated' if found.deprecated else 'no longer deprecated'}.")


def _with_app(database: str | None, act: Callable[[Aura], Awaitable[T]]) -> T:
    async def inside(app: Aura) -> T:
        async with opened(app):
            return await act(app)

    return process.run(inside(bare_app(database)))


# -- showing -----------------------------------------------------------------------------------


def _listing(found: Sequence[VersionView]) -> RenderableType:
    columns = ("=VERSION", "OWNER", "CHANGELOG", "DEPRECATED", ">IN FLIGHT", "=LAST SEEN")
    return table(columns, map(_row, found))


def _row(one: VersionView) -> tuple[RenderableType, ...]:
    said = one.deprecated
    told = f"{said.why}{f' → {said.replacement}' if said.replacement else ''}" if said else ""
    counted = f" ({one.starts} started since)" if said and one.starts else ""
    return (
        Text(clean(one.name), style="dim" if said else ""),
        one_line(one.owner, 30),
        one_line(one.changelog, 60),
        Text(one_line(told + counted, 70), style="yellow"),
        f"{one.runs_in_flight:,}",
        "now" if one.live else moment(_at(one.last_seen)),
    )


def _at(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def drawn(matrix: Sequence[FitView]) -> RenderableType:
    """The matrix: a row for each version as the old one, a column for each as the new one."""
    names = list(dict.fromkeys(cell.old for cell in matrix))[:MOST_DRAWN]
    cells = {(cell.old, cell.new): cell for cell in matrix}
    short = [name.rpartition("@")[2] for name in names]
    rows = [
        (Text(title, style="bold"), *(_cell(cells[old, new]) for new in names))
        for title, old in zip(short, names, strict=True)
    ]
    return table(("OLD \\ NEW", *(f"={name}" for name in short)), rows)


def _cell(cell: FitView) -> Text:
    if cell.old == cell.new and cell.runs.verdict == "unknown":
        return Text("·", style="dim")
    marks = [MARKS[one.verdict] for one in (cell.inputs, cell.outputs, cell.runs)]
    return Text(" ").join(Text(mark, style=style) for mark, style in marks)


def _difference(found: FitView) -> Group:
    parts = [Text.assemble((clean(found.old), "bold"), " → ", (clean(found.new), "bold"))]
    for what, one in (
        ("inputs", found.inputs), ("outputs", found.outputs), ("runs in flight", found.runs),
    ):  # fmt: skip
        parts += _verdict(what, one)
    for override in found.overrides:
        at = moment(_at(override.at))
        parts.append(
            Text(f"Rollout {clean(override.rollout)} started all the same ({at}): "
                 f"{one_line(override.reason, 120)}", style="yellow")
        )  # fmt: skip
    return Group(*parts)


def _verdict(what: str, one: ComparisonView) -> list[Text]:
    mark, style = MARKS[one.verdict]
    styles = {"incompatible": "red", "unknown": "yellow", "note": "dim"}
    return [
        Text(f"{mark} {what}: {one.verdict}", style=style),
        *(
            Text(f"    {one_line(_found(finding), 160)}", style=styles[finding.level])
            for finding in one.findings
        ),
    ]


def _found(finding: FindingView) -> str:
    return f"{finding.path or '(all of it)'}: {finding.reason}"


def _details(one: VersionView) -> Group:
    said = one.deprecated
    rows: list[tuple[str, Any]] = [
        ("owner", one.owner), ("changelog", one.changelog), ("metadata", one.metadata or "–"),
        ("first seen", moment(_at(one.first_seen))),
        ("last seen", "now" if one.live else moment(_at(one.last_seen))),
        ("runs in flight", f"{one.runs_in_flight:,}"),
        ("input", one.input), ("output", one.output),
    ]  # fmt: skip
    if said:
        rows[2:2] = [
            ("deprecated", f"{said.why} (since {moment(_at(said.since))}, by {said.by or '–'})"),
            ("replacement", said.replacement or "–"),
            ("started since", f"{one.starts:,}"),
        ]
    return Group(
        Text(clean(one.name), style="bold"),
        table(("", ""), [(name, one_line(_text(value), 400)) for name, value in rows]),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
