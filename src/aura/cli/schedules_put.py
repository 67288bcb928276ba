"""`aura schedules put`: a schedule that the code does not declare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import load_app, opened
from aura.cli.options import AppDatabase, AppName, Json, taking
from aura.cli.run import decoded
from aura.cli.schedules import schedules, told
from aura.errors import InvalidInput
from aura.server.schedules import OrderView, ScheduleSpec, put_schedule

__all__ = ["schedules"]


@dataclass(frozen=True, slots=True)
class PutOptions:
    target: AppName
    name: Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its name.", show_default=False)]
    workflow: Annotated[
        str, typer.Argument(metavar="WORKFLOW", help="What it starts.", show_default=False)
    ]
    cron: Annotated[
        str, typer.Option(help="Minute, hour, day, month, weekday.", show_default=False)
    ] = ""
    every: Annotated[float, typer.Option(min=0, help="Or so many seconds.")] = 0.0
    timezone: Annotated[str, typer.Option(help="In which --cron is meant.")] = "UTC"
    overlap: Annotated[
        str, typer.Option(help="While the last run goes on: skip, queue, cancel, allow.")
    ] = "skip"
    missed: Annotated[
        str, typer.Option(help="Ticks that nobody was there for: skip, latest, all.")
    ] = "latest"
    jitter: Annotated[float, typer.Option(min=0, help="Start later by up to so many seconds.")] = 0
    given: Annotated[
        str, typer.Option("--input", metavar="JSON", help="The arguments by name.")
    ] = "{}"
    version: Annotated[
        str | None, typer.Option(help="Default: the highest one.", show_default=False)
    ] = None
    queue: Annotated[
        str | None, typer.Option(help="The queue of its runs.", show_default=False)
    ] = None
    database: AppDatabase = None
    as_json: Json = False

    def spec(self) -> ScheduleSpec:
        values = decoded(self.given, "--input")
        if not isinstance(values, dict):
            raise InvalidInput("--input is not a JSON object", hint="Write '{\"name\": value}'")
        rules = ("cron", "every", "timezone", "overlap", "missed", "jitter")
        options = {name: getattr(self, name) for name in rules}
        return ScheduleSpec(self.workflow, self.version, values, options, self.queue)


@schedules.command("put")
@taking(PutOptions)
def put(given: PutOptions) -> None:
    """Create a schedule, or replace the one of that name that the code does not declare.

    \b
    Examples:
      aura schedules put research:app nightly research --cron "0 3 * * *" --input '{"text": "why"}'
    """
    app, spec = load_app(given.target, given.database), given.spec()

    async def act(app: Aura) -> OrderView:
        async with opened(app):
            return await put_schedule(app, given.name, spec)

    told(process.run(act(app)), given.name, given.as_json)
