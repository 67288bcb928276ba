"""`aura experiment`: plan, start, watch and end experiments. A worker's workflow does the work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, one_line, print_json, show, styled, table
from aura.delivery import report as pages
from aura.delivery.conclude import Order
from aura.delivery.experiment import DAY, Experiment, load_experiment
from aura.delivery.experiment_status import ExperimentStatus
from aura.delivery.forecast import POWER, Forecast, Traffic
from aura.errors import ConfigError
from aura.server.drivers import NOBODY
from aura.server.experiments import (
    ExperimentList,
    ExperimentOrder,
    forecast_of,
    list_experiments,
    order_experiment,
    reward_unit,
    show_experiment,
    start_experiment,
)
from aura.spans import span

experiment = typer.Typer(help="Find out which arm is better.", no_args_is_help=True)

Named = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The experiment's name, or its file.", show_default=False),
]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The experiment (YAML).", show_default=False)
]
By = Annotated[str, typer.Option(help="Who says so. Default: this system's user.")]


@experiment.command()
def plan(
    file: File,
    mean: Annotated[
        float | None, typer.Option(help="Mean of the primary metric on the baseline.")
    ] = None,
    spread: Annotated[float | None, typer.Option(help="Its standard deviation per unit.")] = None,
    per_day: Annotated[float | None, typer.Option(help="New units a day.")] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Say how long it would take, and how small an effect it can find.

    What the split's units did before tells how much the metric varies and
    how many units there are; --mean, --spread and --per-day stand for that.
    Nothing is started.

    \b
    Examples:
      aura experiment plan copy.yaml
      aura experiment plan copy.yaml --mean 0.12 --spread 0.33 --per-day 900
    """
    wanted = load_experiment(file)
    traffic = _traffic(mean, spread, per_day)

    async def look(app: Aura) -> Forecast:
        async with opened(app):
            return (await forecast_of(app, wanted, traffic)).forecast

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(asdict(found))
    else:
        show(*_forecast(found, wanted))


@experiment.command()
def start(file: File, by: By = "", database: Database = None, as_json: Json = False) -> None:
    """Begin an experiment; workers watch it until it has ended.

    \b
    Examples:
      aura experiment start copy.yaml
    """
    wanted = load_experiment(file)

    who = by or process.user()

    async def begin(app: Aura) -> tuple[Forecast, ExperimentStatus]:
        async with opened(app):
            found = await forecast_of(app, wanted)
            if not found.driven:
                note(f"No live worker is there to watch the experiment. {NOBODY}")
            return found.forecast, await start_experiment(app, wanted, by=who)

    found, status = process.run(begin(bare_app(database)))
    if as_json:
        print_json({"forecast": asdict(found), "experiment": status.plain()})
    else:
        show(*_forecast(found, wanted), Text(), *picture(status))


@experiment.command("list")
def show_list(database: Database = None, as_json: Json = False) -> None:
    """List experiments, and which layers have free places.

    \b
    Examples:
      aura experiment list
    """

    async def look(app: Aura) -> ExperimentList:
        async with opened(app):
            return await list_experiments(app)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(
            {
                "experiments": [status.plain() for status in found.experiments],
                "layers": [asdict(layer) for layer in found.layers],
                "holdout": found.holdout,
            }
        )
        return
    if not found.experiments:
        note("There are no experiments. Start one with: aura experiment start FILE")
        return
    columns = ("=EXPERIMENT", "SPLIT", "=STATE", "LAYER", ">UNITS", "WINNER", "REASON")
    show(table(columns, map(_row, found.experiments)))
    if found.layers or found.holdout:
        rows = [
            (clean(layer.name), f"{layer.free:.2%}", clean(", ".join(layer.experiments)))
            for layer in found.layers
        ]
        show(Text(), table(("LAYER", ">FREE", "EXPERIMENTS"), rows))
        show(Text(f"Held out of all experiments: {found.holdout:.2%} of units"))


@experiment.command()
def status(name: Named, database: Database = None, as_json: Json = False) -> None:
    """Show an experiment: its arms, its metrics, and what it waits for.

    \b
    Examples:
      aura experiment status checkout-copy
      aura experiment status copy.yaml --json
    """
    found = _status(name, database)
    if as_json:
        print_json(found.plain())
    else:
        show(*picture(found))


@experiment.command()
def stop(
    name: Named,
    promote: Annotated[
        str, typer.Option(metavar="ARM", help="End it with this arm as the winner.")
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; it is kept in the history.")] = "",
    by: By = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """End an experiment: everybody to the baseline, or to the arm that you promote.

    \b
    Examples:
      aura experiment stop checkout-copy --reason "the campaign is over"
      aura experiment stop checkout-copy --promote new
    """
    wanted = experiment_name(name)
    order: Order = "promote" if promote else "stop"

    async def give(app: Aura) -> ExperimentOrder:
        async with opened(app):
            who = by or process.user()
            return await order_experiment(app, wanted, order, by=who, reason=reason, arm=promote)

    found = process.run(give(bare_app(database)))
    if as_json:
        print_json({"order": order, "experiment": found.experiment.plain()})
    else:
        note(f"Experiment {wanted} is told to {order}. See: aura experiment status {wanted}")
    if not found.driven:
        note(f"The order is recorded, but no live worker is there to carry it out. {NOBODY}")


@experiment.command()
def reward(
    name: Named,
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="Whose.", show_default=False)],
    value: Annotated[float, typer.Argument(help="What it is worth.", show_default=False)],
    metric: Annotated[str, typer.Option(help="Of which metric.")] = "reward",
    reward_id: Annotated[
        str, typer.Option("--id", help="Sent again, it is the same reward.", show_default=False)
    ] = "",
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Tell what a unit turned out to be worth, be it days later.

    \b
    Examples:
      aura experiment reward checkout-copy user-17 31.5 --metric basket --id order-9
    """
    wanted = experiment_name(name)

    async def give(app: Aura) -> None:
        async with opened(app):
            await reward_unit(app, wanted, (unit, metric, value), reward_id)

    process.run(give(bare_app(database)))
    if as_json:
        print_json({"name": wanted, "unit": unit, "metric": metric, "value": value})
    else:
        note(f"{clean(unit)} was worth {value:g} to {wanted}.")


@experiment.command()
def report(
    name: Named,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with plots there."),
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Report an experiment; --html writes a page with its plots over time.

    \b
    Examples:
      aura experiment report checkout-copy
      aura experiment report checkout-copy --html report.html
    """
    found = _status(name, database)
    if html is not None:
        try:
            html.write_text(pages.html(found), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(
                f"{html} cannot be written: {error.strerror}", hint="Name another file"
            ) from error
    if as_json:
        print_json(found.plain())
        return
    show(*picture(found), Text(), *_more(found))
    if html is not None:
        note(f"Written to {html}")


def experiment_name(given: str) -> str:
    """The experiment that a file's path or a name stands for.

    Raises PlanError for a file that cannot be read, ConfigError for a path without a file.
    """
    path = Path(given)
    if path.is_file():
        return load_experiment(path).name
    if path.suffix in (".yaml", ".yml") or "/" in given:
        raise ConfigError(
            f"there is no file {given}", hint="Give the file's path, or the experiment's name"
        )
    return given


def _status(name: str, database: str | None) -> ExperimentStatus:
    wanted = experiment_name(name)

    async def look(app: Aura) -> ExperimentStatus:
        async with opened(app):
            return await show_experiment(app, wanted)

    return process.run(look(bare_app(database)))


def _traffic(mean: float | None, spread: float | None, per_day: float | None) -> Traffic | None:
    if mean is None and spread is None and per_day is None:
        return None
    if mean is None or spread is None or per_day is None:
        raise ConfigError(
            "a forecast needs --mean, --spread and --per-day together",
            hint="Give all three, or none to learn them from what was observed",
        )
    return Traffic(mean, spread, per_day)


def _forecast(found: Forecast, wanted: Experiment) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if found.traffic is not None:
        known = found.traffic
        parts.append(
            Text(
                f"{clean(found.metric)} per {clean(wanted.unit)} on the baseline: mean "
                f"{known.mean:.4g}, standard deviation {known.spread:.4g}, {known.per_day:,.0f} "
                f"units a day ({found.source})"
            )
        )
        rows = [
            (
                clean(one.arm),
                pages.shown(one.detectable),
                pages.percent(one.detectable_relative),
                pages.shown(one.effect),
                "–" if one.units is None else f"{one.units:,}",
                _days(one.days),
                _days(one.full_days),
            )
            for one in found.arms
        ]
        columns = (
            *("ARM", f">FOUND IN {wanted.max_time / DAY:g} D", ">RELATIVE", ">WANTED"),
            *(">UNITS", ">ON AVERAGE", ">AT MOST"),
        )
        parts.append(table(columns, rows))
        parts.append(
            Text(
                f"With a probability of {POWER:.0%}, alpha {wanted.alpha:g} over all arms, looking "
                "all the time.",
                style="dim",
            )
        )
    parts += [Text(f"Note: {flaw}", style="yellow") for flaw in found.flaws]
    return parts


def _days(days: float | None) -> str:
    return "–" if days is None else span(days * DAY)


def _row(status: ExperimentStatus) -> tuple[RenderableType, ...]:
    units = sum(status.ratio.units.values()) if status.ratio else 0
    return (
        clean(status.name),
        clean(status.split),
        styled(status.state),
        clean(status.experiment.layer or "–"),
        f"{units:,}",
        clean(status.winner or "–"),
        one_line(status.reason, 80),
    )


def picture(status: ExperimentStatus) -> list[RenderableType]:
    """An experiment for people: head, arms, metrics."""
    head = Text.assemble(
        (f"{clean(status.name)}  ", "bold"),
        styled(status.state),
        f"  ({one_line(status.reason, 200)})",
    )
    parts: list[RenderableType] = [head, _arms(status)]
    ratio = status.ratio
    if ratio is not None:
        wrong = "WRONG: nothing can be believed" if ratio.tripped else "as it should be"
        parts.append(
            Text(
                f"Sample ratio: {wrong} (evidence {ratio.evidence:.3g}, trips at {ratio.limit:g})",
                style="bold red" if ratio.tripped else "dim",
            )
        )
    return [*parts, Text(), _metrics(status)]


def _arms(status: ExperimentStatus) -> RenderableType:
    ratio = status.ratio
    rows = [
        (
            clean(name),
            f"{weight:.2%}",
            f"{status.weights.get(name, 0.0):.2%}",
            f"{ratio.units.get(name, 0):,}" if ratio else "–",
            f"{ratio.expected.get(name, 0.0):,.1f}" if ratio else "–",
            _role(status, name),
        )
        for name, weight in status.experiment.arms
    ]
    return table(("ARM", ">WEIGHT", ">SHARE NOW", ">UNITS", ">EXPECTED", ""), rows)


def _role(status: ExperimentStatus, arm: str) -> str:
    if arm == status.winner:
        return "winner"
    if arm in status.dropped:
        return "dropped"
    return "baseline" if arm == status.experiment.baseline else ""


def _metrics(status: ExperimentStatus) -> RenderableType:
    rows = [
        (
            clean(one.metric) + ("" if index else " *"),
            clean(one.arm),
            f"{one.units:,}",
            pages.shown(one.mean),
            pages.shown(one.baseline_mean),
            pages.shown(one.difference, signed=True),
            pages.interval(one.low, one.high),
            pages.percent(one.relative),
            f"{one.p:.3g}",
            styled(one.verdict),
        )
        for index, one in enumerate(status.comparisons)
    ]
    columns = (
        *("METRIC", "ARM", ">UNITS", ">MEAN", ">BASELINE", ">DIFFERENCE", ">INTERVAL"),
        *(">RELATIVE", ">p", "VERDICT"),
    )
    return table(columns, rows)


def _more(status: ExperimentStatus) -> list[RenderableType]:
    guards = [
        (clean(arm), one.guard, styled(one.verdict), f"{one.evidence:.3g}", f"{one.limit:.3g}",
         one_line(one.reason, 110))
        for arm, found in (status.guards or {}).items()
        for one in found
    ]  # fmt: skip
    events = [
        (pages.moment(one.at), one.what, clean(one.by or "–"), one_line(one.reason, 120))
        for one in status.history
    ]
    return [
        table(("ARM", "GUARD", "VERDICT", ">EVIDENCE", ">LIMIT", "REASON"), guards),
        Text(),
        Text("; ".join(pages.counted(status)), style="dim"),
        Text(),
        table(("WHEN", "WHAT", "BY", "WHY"), events),
    ]
