"""`aura catalog`: versions of workflows, and which may stand in for which."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, print_json, show, table
from aura.delivery.catalog_values import CatalogVersion, Compatibility
from aura.delivery.compatibility import Comparison
from aura.delivery.versions import reference
from aura.errors import CatalogError
from aura.server.operations import live_workers
from aura.store.base import SETTLED

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
                   show_default=False),
]  # fmt: skip


class Seen(NamedTuple):
    """A version with what runs of it there are, and whether a live worker has it."""

    version: CatalogVersion
    in_flight: int
    live: bool

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**self.version.plain(), "runs_in_flight": self.in_flight, "live": self.live}


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
    found = process.run(_seen(bare_app(database), workflow))
    if as_json:
        print_json({"versions": [one.plain() for one in found]})
    elif not found:
        note("The catalog is empty. An app that is opened registers its versions.")
    else:
        show(_listing(found))


@catalog.command("show")
def show_(
    name: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW", help="A workflow, or one version of it.", show_default=False
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
    app = bare_app(database)
    if reference(name) is not None:
        one = process.run(_one(app, name))
        print_json(one.plain()) if as_json else show(_details(one))
        return
    found, matrix = process.run(_matrix(app, name))
    if as_json:
        cells = [cell.plain() for row in matrix for cell in row]
        print_json({"versions": [one.plain() for one in found], "matrix": cells})
        return
    show(_listing(found), Text(), drawn(matrix), Text(), Text(LEGEND, style="dim"))
    if len(found) > MOST_DRAWN:
        note(f"The matrix has the newest {MOST_DRAWN} of {len(found)} versions; --json has all.")


@catalog.command()
def diff(old: Version, new: Version, database: Database = None, as_json: Json = False) -> None:
    """Whether the new version may take the place of the old one, field by field.

    Exit code 1 when it may not.

    \b
    Examples:
      aura catalog diff research@1.0.0 research@2.0.0
      aura catalog diff research@^1 research@^2 --json
    """

    async def look(app: Aura) -> Compatibility:
        async with opened(app):
            return await app.catalog.compare(old, new)

    found = process.run(look(bare_app(database)))
    print_json(found.plain()) if as_json else show(_difference(found))
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

    async def say(app: Aura) -> CatalogVersion:
        async with opened(app):
            if undo:
                return await app.catalog.restore(version)
            return await app.catalog.deprecate(
                version, why=why, replacement=replacement, by=by or process.user()
            )

    found = process.run(say(bare_app(database)))
    if as_json:
        print_json(found.plain())
    else:
        note(f"{found.name} is {'deprecated' if found.deprecated else 'no longer deprecated'}.")


# -- looking -----------------------------------------------------------------------------------


async def _seen(app: Aura, workflow: str | None) -> list[Seen]:
    async with opened(app):
        return await _with_runs(app, await app.catalog.versions(workflow))


async def _one(app: Aura, name: str) -> Seen:
    async with opened(app):
        return (await _with_runs(app, [await app.catalog.version(name)]))[0]


async def _matrix(app: Aura, name: str) -> tuple[list[Seen], list[list[Compatibility]]]:
    async with opened(app):
        versions = await app.catalog.versions(name)
        if not versions:
            raise CatalogError(f"the catalog has no workflow {name}", hint="See: aura catalog list")
        return await _with_runs(app, versions), await app.catalog.matrix(versions)


async def _with_runs(app: Aura, versions: Sequence[CatalogVersion]) -> list[Seen]:
    counts: Counter[str] = Counter()
    for (workflow, version, state), count in (
        await app.store.count_runs(("workflow", "version", "state"))
    ).items():
        if state not in SETTLED:
            counts[f"{workflow}@{version}"] += count
    live = {name for worker in await live_workers(app) for name in worker.workflows}
    return [Seen(one, counts[one.name], f"{one.workflow} {one.version}" in live)
            for one in versions]  # fmt: skip


# -- showing -----------------------------------------------------------------------------------


def _listing(found: Sequence[Seen]) -> RenderableType:
    columns = ("=VERSION", "OWNER", "CHANGELOG", "DEPRECATED", ">IN FLIGHT", "=LAST SEEN")
    return table(columns, map(_row, found))


def _row(one: Seen) -> tuple[RenderableType, ...]:
    version, facts = one.version, one.version.facts
    said = version.deprecated
    told = f"{said.why}{f' → {said.replacement}' if said.replacement else ''}" if said else ""
    counted = f" ({version.starts} started since)" if said and version.starts else ""
    return (
        Text(clean(version.name), style="dim" if said else ""),
        one_line(facts.owner, 30),
        one_line(facts.changelog, 60),
        Text(one_line(told + counted, 70), style="yellow"),
        f"{one.in_flight:,}",
        "now" if one.live else moment(_at(version.last_seen)),
    )


def _at(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def drawn(matrix: Sequence[Sequence[Compatibility]]) -> RenderableType:
    """The matrix: a row for each version as the old one, a column for each as the new one."""
    shown = [row[:MOST_DRAWN] for row in matrix[:MOST_DRAWN]]
    names = [row[0].old.rpartition("@")[2] for row in shown]
    rows = [
        (Text(name, style="bold"), *(_cell(cell) for cell in row))
        for name, row in zip(names, shown, strict=True)
    ]
    return table(("OLD \\ NEW", *(f"={name}" for name in names)), rows)


def _cell(cell: Compatibility) -> Text:
    if cell.old == cell.new and cell.runs.verdict == "unknown":
        return Text("·", style="dim")
    marks = [MARKS[one.verdict] for one in (cell.inputs, cell.outputs, cell.runs)]
    return Text(" ").join(Text(mark, style=style) for mark, style in marks)


def _difference(found: Compatibility) -> Group:
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


def _verdict(what: str, one: Comparison) -> list[Text]:
    mark, style = MARKS[one.verdict]
    styles = {"incompatible": "red", "unknown": "yellow", "note": "dim"}
    return [
        Text(f"{mark} {what}: {one.verdict}", style=style),
        *(
            Text(f"    {one_line(str(finding), 160)}", style=styles[finding.level])
            for finding in one.findings
        ),
    ]


def _details(one: Seen) -> Group:
    version, facts, said = one.version, one.version.facts, one.version.deprecated
    rows: list[tuple[str, Any]] = [
        ("owner", facts.owner), ("changelog", facts.changelog), ("metadata", facts.metadata or "–"),
        ("first seen", moment(_at(version.first_seen))),
        ("last seen", "now" if one.live else moment(_at(version.last_seen))),
        ("runs in flight", f"{one.in_flight:,}"),
        ("input", facts.input), ("output", facts.output),
    ]  # fmt: skip
    if said:
        rows[2:2] = [
            ("deprecated", f"{said.why} (since {moment(_at(said.since))}, by {said.by or '–'})"),
            ("replacement", said.replacement or "–"),
            ("started since", f"{version.starts:,}"),
        ]
    return Group(
        Text(clean(version.name), style="bold"),
        table(("", ""), [(name, one_line(_text(value), 400)) for name, value in rows]),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
