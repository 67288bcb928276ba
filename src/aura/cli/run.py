"""`aura run`: one run, from arguments on the command line to its result."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import from_json

from aura.app import Aura, new_run_id
from aura.cli import process
from aura.cli.loading import load_app, opened
from aura.cli.options import AppDatabase, AppName, Json, taking
from aura.cli.output import note, print_json, print_value
from aura.codec import plain, to_json
from aura.engine.definition import Workflow
from aura.engine.handle import Run
from aura.errors import InvalidInput, StoreUnavailable
from aura.masking import current_mask
from aura.server.operations import split_arguments
from aura.server.views import run_view
from aura.spans import span


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run, with what, and how."""

    target: AppName
    call: Annotated[
        list[str],
        typer.Argument(
            metavar="WORKFLOW [JSON]...",
            help="The workflow's name and its arguments, each as JSON.",
            show_default=False,
        ),
    ]
    given: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="JSON",
            help="Arguments by name, as a JSON object; @FILE reads a file, - stdin.",
            show_default=False,
        ),
    ] = None
    run_id: Annotated[
        str | None,
        typer.Option("--id", help="The run's id; the same one again is the same run."),
    ] = None
    version: Annotated[
        str | None, typer.Option(help="Default: the highest one.", show_default=False)
    ] = None
    detach: Annotated[
        bool, typer.Option("--detach", help="Only start it: a worker executes it.")
    ] = False
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds to wait; the run goes on after that.")
    ] = None
    database: AppDatabase = None
    as_json: Json = False


@taking(RunOptions)
def run(given: RunOptions) -> None:
    """Run a workflow and print its result as JSON.

    The run is executed here and, should this process end first, by the next
    worker. Text needs both kinds of quotes: the shell takes the outer ones.

    \b
    Examples:
      aura run research:app research '"what is a lambda"'
      aura run research:app research --input '{"text": "why"}' --id doc-17
      aura run research:app research '"long work"' --detach
    """
    app = load_app(given.target, given.database)
    workflow, *positional = given.call
    declared = app.catalog.named(workflow, given.version)
    values = arguments(declared, positional, given.given)
    by_position, named = split_arguments(app, workflow, declared.version, values)
    # An empty id is refused by the start: it is a script's variable that was never set.
    chosen = new_run_id(app.clock.now()) if given.run_id is None else given.run_id

    async def start() -> Run[Any]:
        return await app.start(workflow, *by_position, id=chosen, version=given.version, **named)

    if given.detach:
        raise typer.Exit(process.run(_detached(app, start, given.as_json)))
    raise typer.Exit(process.run(_attached(app, start, chosen, given.timeout, given.as_json)))


def arguments(
    declared: Workflow[..., Any], positional: list[str], given: str | None
) -> dict[str, Any]:
    """Typed arguments by name, from JSON texts. Raises InvalidInput."""
    values = [decoded(text, f"argument {at}") for at, text in enumerate(positional, 1)]
    named = decoded(_text(given), "--input") if given is not None else {}
    if not isinstance(named, dict):
        raise InvalidInput(
            "--input is not a JSON object", hint="Write '{\"name\": value}', one name per argument"
        )
    bound = declared.signature.bind(tuple(values), named)
    return declared.signature.load(to_json(bound))


def decoded(text: str, what: str) -> Any:
    """A value from JSON text on the command line. Raises InvalidInput."""
    try:
        return from_json(text)
    except ValueError as error:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise InvalidInput(
            f"{what} is not JSON ({error}): {shown}",
            hint="Quote text twice, as in '\"text\"'; numbers and true need no quotes of their own",
        ) from error


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{given[1:]} cannot be read: {error}") from error


Start = Callable[[], Awaitable[Run[Any]]]


async def _detached(app: Aura, start: Start, as_json: bool) -> int:
    async with opened(app):
        run = await start()
        if as_json:
            print_json(run_view(await run.record()))
        else:
            print(run.id, flush=True)
            note(f"Started. A worker executes it; look at it with: aura runs show {run.id}")
    return 0


async def _attached(
    app: Aura, start: Start, only: str, timeout: float | None, as_json: bool
) -> int:
    with process.stoppable() as stop:
        async with opened(app, worker=True, only=only):
            run = await start()
            result = asyncio.create_task(run.result(timeout))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({result, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not result.done():
                result.cancel()
                note(f"Stopped. Run {run.id} goes on in the next worker that has its app")
                return 128 + stop.signal
            try:
                result.result()
            except StoreUnavailable:
                note(f"Run {run.id} goes on when the database is back and a worker has its app")
                raise
            await _print_result(run, as_json)
    return 0


async def _print_result(run: Run[Any], as_json: bool) -> None:
    record = await run.record()
    result = current_mask()(plain(record.output))
    if as_json:
        print_json({"run": run_view(record), "result": result})
        return
    print_value(result)
    note(f"Run {run.id} completed in {span(run_view(record).seconds)}.")
