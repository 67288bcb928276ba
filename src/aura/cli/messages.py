"""`aura runs signal|update|state|stream|requeue|retry`: talking to a run, and hearing of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.options import Database, Json
from aura.cli.output import clean, note, print_json, print_json_line, print_value
from aura.cli.run import decoded
from aura.cli.runs import RunId, runs
from aura.server import messages, operations
from aura.server.messages import Item, Items, Message, SentView
from aura.server.views import RunView
from aura.store.base import PRIORITIES

__all__ = ["runs"]  # with these commands added

T = TypeVar("T")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What the workflow calls it.", show_default=False)
]
Given = Annotated[
    str | None,
    typer.Argument(metavar="[JSON]", help="The payload. Default: null.", show_default=False),
]
MessageId = Annotated[
    str | None,
    typer.Option("--id", help="Sent once, however often you ask.", show_default=False),
]


@runs.command("signal")
def signal(
    run_id: RunId,
    name: Name,
    payload: Given = None,
    priority: Annotated[str, typer.Option(help=f"{', '.join(PRIORITIES)}.")] = "normal",
    deadline: Annotated[
        float | None,
        typer.Option(min=0.001, help="Of use for so many seconds.", show_default=False),
    ] = None,
    message_id: MessageId = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Send a run a signal, which it gets with aura.receive.

    \b
    Examples:
      aura runs signal doc-17 approval '{"ok": true}'
      aura runs signal doc-17 stop --priority critical
    """
    message = Message(name, _payload(payload), priority, deadline, message_id)
    sent: SentView = _ask(
        database, lambda app: messages.signal_run(app, run_id, message, process.user())
    )  # fmt: skip
    if as_json:
        print_json(sent)
    elif sent.duplicate:
        note(f"Run {run_id} had this signal before, as number {sent.number}.")
    else:
        late = " It comes after its deadline." if sent.late else ""
        note(f"Run {run_id} has the signal, number {sent.number}; it is {sent.state}.{late}")


@runs.command("update")
def update(
    run_id: RunId,
    name: Name,
    value: Given = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds to wait for the answer.", show_default=False),
    ] = None,
    message_id: MessageId = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Send a run an update and print its answer, which it gives in its own time.

    \b
    Examples:
      aura runs update cart-5 add '{"article": 17}' --timeout 10
    """
    message = Message(name, _payload(value), id=message_id)
    answer = _ask(
        database,
        lambda app: messages.update_run(app, run_id, message, timeout=timeout, by=process.user()),
    )
    if as_json:
        print_json({"answer": answer})
    else:
        print_value(answer)


@runs.command("state")
def state(run_id: RunId, database: Database = None, as_json: Json = False) -> None:
    """Print what a run shows of itself with aura.set_state.

    \b
    Examples:
      aura runs state doc-17
    """
    found = _ask(database, lambda app: messages.state_of(app, run_id))
    if as_json:
        print_json({"state": found})
    else:
        print_value(found)


@runs.command("stream")
def stream(
    run_id: RunId,
    name: Name,
    after: Annotated[int, typer.Option(min=0, help="Pass over so many items.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as items come, until the run has ended.")
    ] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Print the items of a run's stream, one JSON line for each.

    With --follow and --json each line has the item's number too: the --after
    with which to go on.

    \b
    Examples:
      aura runs stream doc-17 tokens
      aura runs stream doc-17 tokens --after 120 --follow
    """
    if follow:
        _ask(database, lambda app: _print_all(app, run_id, name, after, as_json))
        return
    found: Items = _ask(database, lambda app: messages.items_of(app, run_id, name, after))
    if as_json:
        print_json(found)
        return
    for item in found.items:
        _print_item(item)


@runs.command("reward")
def reward(
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="The choices' name.", show_default=False)],
    value: Annotated[float, typer.Argument(min=0, max=1, help="0 to 1.", show_default=False)],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Tell what a run's choices were worth.

    \b
    Examples:
      aura runs reward doc-17 model 0.8
    """
    by = process.user()
    _ask(database, lambda app: messages.reward_run(app, run_id, name, value, by))
    if as_json:
        print_json({"run": run_id, "name": name, "value": value})
    else:
        note(f"The choices {clean(name)} of run {run_id} were worth {value:g}.")


@runs.command("requeue")
def requeue(run_id: RunId, database: Database = None, as_json: Json = False) -> None:
    """Let a parked run go on from its journal, once what parked it is mended.

    \b
    Examples:
      aura runs requeue doc-17
    """

    async def order(app: Aura) -> tuple[RunView, RunView]:
        before = (await operations.show_run(app, run_id)).run
        return before, await messages.requeue_run(app, run_id, process.user())

    before, after = _ask(database, order)
    if as_json:
        print_json(after)
    elif before.state == "parked":
        note(f"Run {run_id} goes on in the next worker that has its app; it is {after.state}.")
    else:
        note(f"Run {run_id} is not parked, it is {after.state}: nothing was changed.")


@runs.command("retry")
def retry(run_id: RunId, database: Database = None, as_json: Json = False) -> None:
    """Try again what failed: a parked run goes on, a failed one is forked.

    The fork begins with the step that failed; the steps before it are not
    repeated, unless they were compensated.

    \b
    Examples:
      aura runs retry doc-17
    """
    found: RunView = _ask(database, lambda app: messages.retry_run(app, run_id, process.user()))
    if as_json:
        print_json(found)
    elif found.id == run_id:
        note(f"Run {run_id} goes on in the next worker that has its app; it is {found.state}.")
    else:
        print(found.id, flush=True)
        note(f"Run {run_id} stays as it is; its fork {found.id} tries again.")


def _ask(database: str | None, question: Callable[[Aura], Awaitable[T]]) -> T:
    async def work() -> T:
        app = bare_app(database)
        async with opened(app):
            return await question(app)

    return process.run(work())


async def _print_all(app: Aura, run_id: str, name: str, after: int, as_json: bool) -> None:
    async for number, item in messages.follow_stream(app, run_id, name, after):
        if as_json:
            print_json_line(Item(number, item)._asdict())
        else:
            _print_item(item)


def _print_item(item: Any) -> None:
    """On one line also in a terminal, and with nothing in it that a terminal would obey."""
    text = json.dumps(item, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)


def _payload(given: str | None) -> Any:
    return None if given is None else decoded(given, "the payload")
