"""`aura rollback`: everybody to the baseline, until it is released. No worker is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json, taking
from aura.cli.output import clean, note, one_line, print_json, show, table
from aura.cli.rollout import rollout_name
from aura.delivery.channels import Channel, load_channels
from aura.delivery.emergency import Done
from aura.errors import RolloutError
from aura.server import emergencies
from aura.server.emergencies import ForcedList, ForcedView


@dataclass(frozen=True, slots=True)
class Options:
    """What `aura rollback` is given."""

    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPLIT|ROLLOUT|FILE]...", help="What to roll back.", show_default=False
        ),
    ] = None
    everything: Annotated[bool, typer.Option("--all", help="All splits.")] = False
    reason: Annotated[
        str, typer.Option(help="Why; it is kept, and told to everybody.", show_default=False)
    ] = ""
    by: Annotated[
        str, typer.Option(help="Who says so. Default: this system's user.", show_default=False)
    ] = ""
    release: Annotated[
        bool, typer.Option("--release", help="Let them be moved again; they stay where they are.")
    ] = False
    restore: Annotated[
        bool,
        typer.Option(
            "--restore",
            help="With --release: what no rollout was moving serves again what it served before.",
        ),
    ] = False
    listed: Annotated[bool, typer.Option("--list", help="Show what is rolled back now.")] = False
    alerts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Tell the `alerts:` of this file, too.", show_default=False
        ),
    ] = None
    database: Database = None
    as_json: Json = False


@taking(Options)
def rollback(given: Options) -> None:
    """Send everybody back to the baseline at once, and keep them there.

    Nothing moves such a split until it is released: rollouts of it are over,
    and none begins. It is done by this command itself, in one transaction,
    also when no worker runs; every gateway obeys it within a second. A
    gateway that cannot reach the database serves the baseline anyway.

    \b
    Examples:
      aura rollback --all --reason "checkout is down"
      aura rollback research --reason "wrong prices"
      aura rollback --list
      aura rollback research --release
      aura rollback --all --release --restore
    """
    _check(given)
    if given.listed:
        _show_forced(process.run(_forced(bare_app(given.database))), given.as_json)
        return
    channels = load_channels(given.alerts) if given.alerts is not None else ()
    done = process.run(_do(bare_app(given.database), given, channels))
    if given.as_json:
        print_json({"splits": [asdict(one) for one in done]})
    else:
        _tell(done, given)
    if not given.release and any(not one.changed and "forced" not in one.note for one in done):
        raise typer.Exit(1)


def _check(given: Options) -> None:
    if given.listed:
        return
    if bool(given.names) == given.everything:
        raise RolloutError(
            "name what is to be rolled back" if not given.names else "names and --all do not fit",
            hint="Give splits or rollouts, or --all for everything",
        )
    if given.restore and not given.release:
        raise RolloutError("--restore alone does nothing", hint="Add --release")


async def _do(app: Aura, given: Options, channels: tuple[Channel, ...]) -> Sequence[Done]:
    names = tuple(rollout_name(name) for name in given.names or ())
    which = emergencies.Which(names, given.everything)
    by = given.by or process.user()
    async with opened(app):
        if given.release:
            done = await emergencies.release(
                app, which, restore=given.restore, reason=given.reason, by=by, channels=channels
            )
        else:
            done = await emergencies.force(
                app, which, reason=given.reason, by=by, channels=channels
            )
        return done.splits


def _tell(done: Sequence[Done], given: Options) -> None:
    if not done:
        note("Nothing is rolled back." if given.release else "There is no split to roll back.")
    what = "released" if given.release else "rolled back"
    for one in done:
        if one.changed:
            ended = f"; rollout {', '.join(one.ended)} is over" if one.ended else ""
            more = f" ({one.note})" if one.note else ""
            note(f"{one.split}: {what} at epoch {one.epoch}{ended}{more}")
        else:
            note(f"{one.split}: left as it is: {one.note}")


async def _forced(app: Aura) -> ForcedList:
    async with opened(app):
        return await emergencies.forced(app)


def _show_forced(found: ForcedList, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
    elif not found.splits:
        note("Nothing is rolled back.")
    else:
        columns = ("=SPLIT", "SERVES", "SINCE", "BY", "REASON")
        show(table(columns, map(_row, found.splits)))


def _row(one: ForcedView) -> tuple[str, ...]:
    last = one.history[-1] if one.history else None
    since = datetime.fromtimestamp(last.at, UTC).isoformat(timespec="seconds") if last else ""
    return (
        clean(one.split),
        clean(one.baseline),
        since,
        clean(last.by) if last else "",
        str(one_line(one.reason, 80)),
    )
