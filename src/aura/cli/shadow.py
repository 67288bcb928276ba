"""`aura shadow`: what copies of requests have shown, by split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, one_line, print_json, show, table
from aura.cli.shadow_page import page
from aura.delivery.shadow import Thresholds
from aura.errors import ConfigError
from aura.server.shadows import (
    ClearedView,
    ReportList,
    ShadowList,
    clear_shadows,
    list_shadows,
    show_shadows,
)

shadow = typer.Typer(help="What copies of requests have shown.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A split, or a rollout.", show_default=False)
]
Relative = Annotated[
    float, typer.Option(min=0, max=0.99, help="Relative threshold of noise, 0 to 1.")
]
Absolute = Annotated[
    float, typer.Option(min=0, max=0.99, help="Absolute threshold of noise, 0 to 1.")
]
_LIMITS = Thresholds()


@shadow.command("report")
def report(
    name: Name,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page, too.")
    ] = None,
    relative: Relative = _LIMITS.relative,
    absolute: Absolute = _LIMITS.absolute,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show in which fields the answers of copies differ, what is noise, and which effects were
    suppressed.

    \b
    Examples:
      aura shadow report research
      aura shadow report replace-legacy --html report.html
      aura shadow report research --json
    """
    limits = Thresholds(relative, absolute)

    async def look(app: Aura) -> ReportList:
        async with opened(app):
            return await show_shadows(app, name, limits)

    views = [asdict(one) for one in process.run(look(bare_app(database))).reports]
    if html is not None:
        try:
            html.write_text(page(name, views))
        except OSError as error:
            raise ConfigError(f"{html} cannot be written: {error.strerror}") from error
    if as_json:
        print_json(views)
        return
    if not views:
        note(f"No copies of {name} were sent yet. A plan's `shadow` stage sends them.")
    for one in views:
        _show(one)
    if html is not None:
        note(f"The page is {html}.")


@shadow.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List the splits that have reports.

    \b
    Example:
      aura shadow list
    """

    async def look(app: Aura) -> ShadowList:
        async with opened(app):
            return await list_shadows(app)

    found = process.run(look(bare_app(database))).splits
    if as_json:
        print_json(found)
        return
    for one in found:
        show(Text(clean(one)))
    if not found:
        note("There are no shadow reports.")


@shadow.command("clear")
def clear(name: Name, database: Database = None, as_json: Json = False) -> None:
    """Begin the reports of a split anew, after its candidate was mended.

    \b
    Example:
      aura shadow clear research
    """

    async def order(app: Aura) -> ClearedView:
        async with opened(app):
            return await clear_shadows(app, name)

    count = process.run(order(bare_app(database))).cleared
    if as_json:
        print_json({"cleared": count})
        return
    note(f"{count} reports of {name} begin anew.")


def _show(one: dict[str, Any]) -> None:
    differs = f"{one['differing']:,} differ in a field that is no noise"
    show(
        Text.assemble((f"{clean(one['split'])}: {clean(one['arm'])}", "bold")),
        Text(
            f"{one['copies']:,} copies, {one['compared']:,} compared, {one['paired']:,} with the "
            f"baseline's own noise; {differs}; cost {one['cost']:g}"
        ),
    )
    columns = ("=FIELD", "VERDICT", ">DIFFERS", ">NOISE", ">EVIDENCE", ">UNCOMPARED", "EXAMPLE")
    rows = [_row(each) for each in one["fields"]]
    if rows:
        show(table(columns, rows))
    _counts("SUPPRESSED", one["effects"])
    _counts("VIOLATION OF THE CONTRACT", one["violations"])
    _counts("NOT COMPARED", one["reasons"])
    _counts("NOT SENT", one["skipped"])
    if "suppressed: no answer" in one["reasons"]:
        note(
            "Without an answer a shadow run ends at an effect. Say @step(idempotent=True) where it "
            "may really be called, or give @step(shadow=...) what stands in for it."
        )
    if one["dropped"]:
        note(f"{one['dropped']:,} more are left out: a report has so many fields at most.")


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    example = next(iter(each["examples"]), None)
    noise, evidence = each["noise_rate"], each["evidence"]
    return (
        clean(each["field"]),
        "noise" if each["noise_field"] else "differs" if each["raw"] else "unclear",
        f"{each['raw_rate']:.2%}",
        "–" if noise is None else f"{noise:.2%}",
        "–" if evidence is None else f"{evidence:.3g}",
        f"{each['uncompared']:,}",
        one_line(f"{example['left'] or 'nothing'} / {example['right'] or 'nothing'}", 60)
        if example
        else "",
    )


def _counts(title: str, counts: dict[str, int]) -> None:
    if counts:
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        show(table((title, ">COUNT"), [(clean(name), f"{count:,}") for name, count in ordered]))
