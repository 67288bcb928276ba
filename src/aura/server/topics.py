"""What the faces of Aura show of topics: how large they are, how far their groups, their events;
and handling events again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aura.app import Aura
from aura.errors import InvalidInput, UnknownTopic
from aura.server.operations import storable
from aura.server.views import Payload, payload_view, time_of
from aura.store.base import Announce
from aura.store.events import GROUPS, PARTITIONS, Event, TopicInfo

MOST_EVENTS = 500
"""A page of events is not longer than this."""

_END = 2**62  # no seq is as high
_EVERYWHERE = tuple(range(PARTITIONS))
_SHOWN = 1e-6  # seconds: what is shown of times


@dataclass(frozen=True, slots=True)
class GroupView:
    """How far a group is behind: events that are not handled yet (`lag`), seconds since the oldest
    of them (`age`), those of them that wait for a retry or their key, dead letters, workers."""

    group: str
    lag: int
    age: float | None
    waiting: int
    dead: int
    workers: int


@dataclass(frozen=True, slots=True)
class TopicView:
    """A topic with its groups. `events` are kept, of `emitted` in all; `bytes` is the size of their
    payloads."""

    topic: str
    emitted: int
    events: int
    bytes: int
    groups: tuple[GroupView, ...]


@dataclass(frozen=True, slots=True)
class EventView:
    """An event. `seq` numbers those of its topic from 1, without gaps."""

    seq: int
    id: str
    key: str | None
    at: datetime
    payload: Payload | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in their order; `next` is the `after` of the next question, also when nothing is there
    yet, and `tail` the seq of the topic's last event."""

    topic: str
    events: tuple[EventView, ...]
    next: int
    tail: int


async def topics(app: Aura, topic: str | None = None) -> list[TopicView]:
    """Topics and how far their groups are. Raises UnknownTopic."""
    if topic is not None and not storable(topic):
        raise _no_topic(topic)
    infos: list[TopicInfo] = await app.store.events.topics()
    groups = await app.store.events.groups(topic)
    found = [
        TopicView(
            one.topic,
            one.tail,
            one.events,
            one.bytes,
            tuple(GroupView(*each[1:]) for each in groups if each.topic == one.topic),
        )
        for one in infos
        if topic in (None, one.topic)
    ]
    if topic is not None and not found:
        raise _no_topic(topic)
    return found


async def replay_topic(app: Aura, topic: str, group: str, since: float) -> int:
    """Let a group handle again what was emitted since then (epoch seconds); how many events.

    An event's time as it is shown is rounded, and names that event all the same. Raises
    UnknownTopic when there is no such group.
    """
    if not (storable(topic) and storable(group)):
        raise _no_group(topic, group)
    count = await app.store.events.replay(topic, group, since - _SHOWN)
    if count is None:
        raise _no_group(topic, group)
    await app.committer.submit(Announce(GROUPS))
    return count


async def forget_group(app: Aura, topic: str, group: str) -> None:
    """Delete a group that nobody uses any more, with its dead letters. Raises InvalidInput when
    there is none, or workers take part in it."""
    if not (storable(topic) and storable(group)):
        raise _no_group(topic, group)
    known = [one for one in await app.store.events.groups(topic) if one.group == group]
    if known and known[0].workers:
        raise InvalidInput(
            f"live workers take part in group {group} of topic {topic}: {known[0].workers}",
            hint="Stop them, or deploy code that does not subscribe",
        )
    if not await app.store.events.forget(topic, group):
        raise _no_group(topic, group)


async def read_topic(
    app: Aura, topic: str, after: int = 0, limit: int = 50, *, last: int = 0, full: bool = False
) -> EventPage:
    """At most `limit` events after that seq; with `last` they begin so many before the end. Large
    payloads are shown whole with `full`. Raises UnknownTopic, InvalidInput."""
    if not 1 <= limit <= MOST_EVENTS:
        raise InvalidInput(f"the limit is {limit}", hint=f"Give 1 to {MOST_EVENTS}")
    if not storable(topic):
        raise _no_topic(topic)
    events = app.store.events
    if last:
        end = await events.read(topic, _END, _EVERYWHERE, 1)
        after = max(after, end.tail - last)
    page = await events.read(topic, after, _EVERYWHERE, limit)
    if page.tail == 0:
        raise _no_topic(topic)
    found = tuple(_event_view(one, full=full) for one in page.events)
    following = found[-1].seq if found else min(after, page.tail)
    return EventPage(topic, found, following, page.tail)


def _event_view(event: Event, *, full: bool) -> EventView:
    payload = payload_view(event.payload, full=full)
    return EventView(event.seq, event.id, event.key, time_of(event.at), payload)


def _no_topic(topic: str) -> UnknownTopic:
    shown = topic[:200].encode("utf-8", "replace").decode()
    return UnknownTopic(f"there is no topic {shown}", hint="List them: aura topics list")


def _no_group(topic: str, group: str) -> UnknownTopic:
    place = f"topic {topic:.200} has no group {group:.200}".encode("utf-8", "replace").decode()
    return UnknownTopic(place, hint=f"Look at it: aura topics show {topic:.200}")
