"""`aura topics`: how large topics are, how far their groups, and handling events again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aura.app import Aura
from aura.cli import process
from aura.cli.loading import bare_app, opened
from aura.cli.moments import read_moment
from aura.cli.options import Database, Json
from aura.cli.output import clean, moment, note, one_line, payload, print_json, show, table
from aura.cli.run import decoded
from aura.server import topics as operations
from aura.server.emitting import EmittedView, emit_event
from aura.server.topics import MOST_EVENTS, EventPage, EventView, TopicView
from aura.spans import span

topics = typer.Typer(help="Topics of events and the groups that handle them.", no_args_is_help=True)

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.", show_default=False)]
Group = Annotated[str, typer.Option("--group", help="The group.", show_default=False)]


@topics.command("list")
def list_(database: Database = None, as_json: Json = False) -> None:
    """List topics: how many events are kept, how large they are, and how far behind groups are.

    \b
    Examples:
      aura topics list
      aura topics list --json
    """
    found = _look(database, None)
    if as_json:
        print_json(found)
        return
    if not found:
        note("There are no topics. Emit an event with app.emit or aura.emit.")
        return
    columns = ("=TOPIC", ">EVENTS", ">BYTES", ">EMITTED", ">GROUPS", ">LARGEST LAG", ">DEAD")
    rows = (
        (
            Text(clean(one.topic)),
            f"{one.events:,}",
            f"{one.bytes:,}",
            f"{one.emitted:,}",
            str(len(one.groups)),
            f"{max((each.lag for each in one.groups), default=0):,}",
            f"{sum(each.dead for each in one.groups):,}",
        )
        for one in found
    )
    show(table(columns, rows))


@topics.command("show")
def show_(topic: Topic, database: Database = None, as_json: Json = False) -> None:
    """Show the groups of a topic: what they have not handled yet, and for how long.

    \b
    Example:
      aura topics show orders
    """
    [found] = _look(database, topic)
    if as_json:
        print_json(found)
        return
    show(
        Text(clean(found.topic), "bold"),
        Text(f"{found.events:,} events, {found.bytes:,} bytes; {found.emitted:,} emitted in all"),
    )
    if not found.groups:
        note("No group handles it.")
        return
    columns = ("=GROUP", ">LAG", "OLDEST", ">WAITING", ">DEAD", ">WORKERS")
    rows = (
        (
            Text(clean(one.group)),
            f"{one.lag:,}",
            span(one.age),
            f"{one.waiting:,}",
            f"{one.dead:,}",
            str(one.workers),
        )
        for one in found.groups
    )
    show(table(columns, rows))


@topics.command()
def read(
    topic: Topic,
    after: Annotated[int, typer.Option(min=0, help="Go on behind this number.")] = 0,
    last: Annotated[int, typer.Option(min=0, help="Or begin so many before the end.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=MOST_EVENTS, help="At most so many.")] = 50,
    full: Annotated[bool, typer.Option("--full", help="Show large payloads whole.")] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List the events of a topic in their order.

    \b
    Examples:
      aura topics read orders --last 20
      aura topics read orders --after 1000 --json
    """

    async def look(app: Aura) -> EventPage:
        async with opened(app):
            return await operations.read_topic(app, topic, after, limit, last=last, full=full)

    found = process.run(look(bare_app(database)))
    if as_json:
        print_json(found)
    elif not found.events:
        note("There are no events there.")
    else:
        show(table((">NO", "WHEN (UTC)", "KEY", "PAYLOAD"), map(_event, found.events)))
    if found.next:
        note(f"There are more; give the same command with --after {found.next}")


@topics.command()
def replay(
    topic: Topic,
    group: Group,
    since: Annotated[
        str,
        typer.Option(help="A time (2026-05-01T12:00Z) or an age (90m, 2d).", show_default=False),
    ],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Let a group handle again what was emitted since then.

    Each event gets a new idempotency key, so handlers do not take it for one that they know.
    What the group has left of these events, dead letters too, begins anew.

    \b
    Examples:
      aura topics replay orders --group billing --since 2026-05-01T12:00Z
      aura topics replay orders --group billing --since 90m
    """

    async def act(app: Aura) -> int:
        async with opened(app):
            return await operations.replay_topic(
                app, topic, group, read_moment(since, app.clock.now(), "--since")
            )

    count = process.run(act(bare_app(database)))
    if as_json:
        print_json({"topic": topic, "group": group, "events": count})
    else:
        note(f"Group {group} handles {count:,} events of {topic} again.")


@topics.command()
def emit(
    topic: Topic,
    said: Annotated[str, typer.Argument(metavar="[JSON]", help="What it says.")] = "null",
    key: Annotated[
        str | None,
        typer.Option(help="Events of one key are handled in order.", show_default=False),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option("--id", help="Sent again, it is the same event.", show_default=False),
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Add an event to a topic; it is durable when this ends.

    \b
    Examples:
      aura topics emit orders '{"order": 17, "paid": true}' --key 17
    """

    async def act(app: Aura) -> EmittedView:
        async with opened(app):
            given = decoded(said, "the payload")
            return await emit_event(app, topic, given, key=key, id=event_id)

    found = process.run(act(bare_app(database)))
    if as_json:
        print_json(found)
    else:
        note(f"The event is in {clean(topic)}.")


@topics.command()
def forget(topic: Topic, group: Group, database: Database = None, as_json: Json = False) -> None:
    """Delete a group that nobody uses any more, so that it keeps no events from being deleted.

    \b
    Example:
      aura topics forget orders --group old-billing
    """

    async def act(app: Aura) -> None:
        async with opened(app):
            await operations.forget_group(app, topic, group)

    process.run(act(bare_app(database)))
    if as_json:
        print_json({"topic": topic, "group": group, "forgotten": True})
    else:
        note(f"Group {group} of {topic} is forgotten.")


def _look(database: str | None, topic: str | None) -> list[TopicView]:
    async def look(app: Aura) -> list[TopicView]:
        async with opened(app):
            return await operations.topics(app, topic)

    return process.run(look(bare_app(database)))


def _event(one: EventView) -> tuple[str, ...]:
    told = "–" if one.payload is None else payload(one.payload, 120)
    return str(one.seq), moment(one.at), one_line(one.key or "", 40), told
