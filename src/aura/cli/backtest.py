"""`aura rollout history` and `backtest`: what was done, and what another plan would have done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, print_json, show, styled, table
from aura.cli.rollout import Named, rollout_name
from aura.cli.rollout import rollout as rollout
from aura.delivery.backtest import Backtest, Replay
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan, load_plan
from aura.delivery.status import RolloutStatus
from aura.errors import CodecError, ConfigError
from aura.server.backtests import BacktestView, backtest_rollout


@rollout.command()
def history(name: Named, database: Database = None, as_json: Json = False) -> None:
    """Show what was done in a rollout, and in earlier ones of its name.

    \b
    Examples:
      aura rollout history replace-legacy
      aura rollout history aura.yaml --json
    """
    wanted = rollout_name(name)

    async def look(app: Aura) -> list[RolloutStatus]:
        async with opened(app):
            return await app.rollouts.past(wanted)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json({"rollouts": [_plain(status) for status in found]})
        return
    for status in found:
        show(Text.assemble((clean(status.run), "bold"), "  ", styled(status.state)))
        show(table(("=AT (UTC)", "=WHAT", "BY", "REASON"), _events(status)))


@rollout.command()
def backtest(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The plan to try.", show_default=False)
    ],
    on: Annotated[
        str, typer.Option(metavar="NAME", help="The rollout whose observations are replayed.")
    ] = "",
    run: Annotated[
        str, typer.Option(help="Of several rollouts of that name, the one with this run.")
    ] = "",
    observations: Annotated[
        Path | None,
        typer.Option(help="Observations instead, as JSON lines.", show_default=False),
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Replay recorded observations against a plan: what it would have done.

    Nothing is changed. Units were assigned by the weights of then.

    \b
    Examples:
      aura rollout backtest careful.yaml --on replace-legacy
      aura rollout backtest careful.yaml --observations friday.jsonl --json
    """
    plan = load_plan(file)
    if bool(on) == (observations is not None):
        raise ConfigError("nothing says what to replay", hint="Give --on NAME or --observations")
    if observations is not None:
        _tell(BacktestView(replayed(plan, observations), None), as_json)
        return

    async def replay(app: Aura) -> BacktestView:
        async with opened(app):
            return await backtest_rollout(app, plan, rollout_name(on), run)

    _tell(process.run(replay(bare_app(database))), as_json)


def replayed(plan: Plan, path: Path) -> Backtest:
    """A backtest on a file with an observation as JSON on each line. Raises ConfigError."""
    made = Replay(plan)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path}: the observations cannot be read: {error.strerror}", hint="Check the path"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            made.see(Observation.from_json(line))
        except CodecError as error:
            raise ConfigError(f"{path}:{number}: {error.message}", hint=error.hint) from error
    return made.result()


def _tell(view: BacktestView, as_json: bool) -> None:
    found = view.backtest
    if as_json:
        told = asdict(view)
        print_json({name: one for name, one in told.items() if one is not None})
        return
    rows: list[tuple[RenderableType, ...]] = [
        (
            _after(one.at - found.began),
            one.what,
            clean(one.stage),
            f"{one.weight:.2%}",
            one_line(one.reason, 110),
        )
        for one in found.history
    ]
    end = f"{found.state}: {found.reason}"
    rows.append(
        (_after(found.ended - found.began), "end", clean(found.stage), f"{found.weight:.2%}",
         one_line(end, 110))
    )  # fmt: skip
    show(table((">AFTER", "=WHAT", "STAGE", ">WEIGHT", "REASON"), rows))
    hits, then = found.hits, found.recorded
    show(
        f"Of {found.observations:,} observations, {hits.requests:,} are requests of {hits.units:,} "
        f"units that failed on the candidate before that end; about {found.expected:,.1f} "
        f"with this plan's weights. In the whole record: {then.requests:,} of {then.units:,}."
    )
    for text in (*found.notes, view.caveat):
        note(text)


def _events(status: RolloutStatus) -> Iterable[tuple[RenderableType, ...]]:
    for event in status.history:
        when = moment(datetime.fromtimestamp(event.at, UTC))
        yield when, event.what, clean(event.by), one_line(event.reason, 200)


def _plain(status: RolloutStatus) -> dict[str, Any]:
    plain = status.plain()
    return {name: plain[name] for name in ("name", "run", "split", "state", "stage", "history")}


def _after(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}"
