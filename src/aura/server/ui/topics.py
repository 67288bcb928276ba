"""Topics of events: how large they are, how far their groups, and their last events."""

from __future__ import annotations

from aura.server import topics
from aura.server.topics import EventPage, TopicView
from aura.server.ui.pages import page
from aura.server.ui.parts import Column, Empty, Stat, Table, card, el, heading, link
from aura.server.ui.paths import path
from aura.server.ui.topic_actions import actions
from aura.server.ui.values import line
from aura.server.ui.visit import Visit

LAST = 50
"""So many of the newest events are shown."""

NOTHING = Empty(
    "No topics yet",
    "A topic is there from its first event on. Emit one in a workflow with aura.emit, or outside: "
    'await app.emit("orders.ready", {"id": 17})',
)
COLUMNS = (
    Column("topic", "Topic", "link"),
    Column("events", "Events kept", "number"),
    Column("emitted", "Emitted", "number", narrow=False),
    Column("bytes", "Bytes", "number", narrow=False),
    Column("groups", "Groups", "number"),
    Column("lag", "Largest lag", "number"),
    Column("dead", "Dead letters", "number"),
)
GROUPS = (
    Column("group", "Group"),
    Column("lag", "Not handled yet", "number"),
    Column("age", "Oldest", "seconds"),
    Column("waiting", "Wait for a retry", "number", narrow=False),
    Column("dead", "Dead letters", "link"),
    Column("workers", "Workers", "number"),
)
EVENTS = (
    Column("seq", "Number", "number"),
    Column("key", "Key"),
    Column("at", "When", "time"),
    Column("payload", "Payload", "code"),
)


@page("/topics", "Topics")
async def all_topics(visit: Visit) -> None:
    """All of them."""
    heading("Topics", "Events, and the groups that handle them")
    with card("Topics"):
        table = Table(COLUMNS, label="Topics", empty=NOTHING)

    def show(found: list[TopicView]) -> None:
        table.show(map(_row, found))

    await visit.live(lambda: topics.topics(visit.app), show, key="topics")


def _row(one: TopicView) -> dict[str, object]:
    return {
        "id": one.topic,
        "topic": one.topic,
        "href": path("topics", one.topic),
        "events": one.events,
        "emitted": one.emitted,
        "bytes": one.bytes,
        "groups": len(one.groups),
        "lag": max((each.lag for each in one.groups), default=0),
        "dead": sum(each.dead for each in one.groups),
    }


@page("/topics/{topic:segment}", "Topic", menu="/topics")
async def one_topic(visit: Visit, topic: str) -> None:
    """A topic's groups and its last events."""
    with heading(topic, ""):
        buttons = el("div", "page-actions")
    known: tuple[str, ...] | None = None
    with el("div", "stats"):
        kept, size, emitted = Stat("Events kept", "–"), Stat("Bytes", "–"), Stat("Emitted", "–")
    with card("Groups"):
        nobody = Empty("No group handles it", "Subscribe in the app: @app.subscribe(topic)")
        groups = Table(GROUPS, label="Groups", empty=nobody)
    with card("Events", f"the last {LAST}"):
        events = Table(EVENTS, label="Events", empty=Empty("No events are kept"))
    link("Dead letters of this topic", f"/dead-letters?topic={path(topic)[1:]}")

    async def look() -> tuple[TopicView, EventPage]:
        found = await topics.topics(visit.app, topic)
        return found[0], await topics.read_topic(visit.app, topic, last=LAST, limit=LAST)

    def show(found: tuple[TopicView, EventPage]) -> None:
        nonlocal known
        one, last = found
        names = tuple(each.group for each in one.groups)
        if names != known:
            known = names
            buttons.clear()
            with buttons:
                actions(visit, topic, names)
        kept.show(f"{one.events:,}")
        size.show(f"{one.bytes:,}")
        emitted.show(f"{one.emitted:,}")
        groups.show(
            {
                "id": each.group, "group": each.group, "lag": each.lag, "age": each.age,
                "waiting": each.waiting, "dead": str(each.dead), "workers": each.workers,
                "href": f"/dead-letters?topic={path(topic)[1:]}&group={path(each.group)[1:]}",
            }
            for each in one.groups
        )  # fmt: skip
        events.show(
            {
                "id": str(each.seq), "seq": each.seq, "key": each.key, "at": each.at,
                "payload": line(each.payload),
            }
            for each in reversed(last.events)
        )  # fmt: skip

    await visit.live(look, show, key=("topic", topic, visit.caller.role))
