"""What waits for a person: dead letters of groups and parked runs, as they are shown and ordered.

A dead letter is called `event:TOPIC/GROUP/SEQ`, a parked run `run:ID`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from aura.app import Aura
from aura.codec import plain
from aura.errors import CodecError, InvalidInput, NoSuchDeadLetter
from aura.server.views import ErrorView, Payload, error_view, payload_view
from aura.store.base import Announce, RequestCancel, RunFilter, RunRecord
from aura.store.events import GROUPS, DeadLetter, TopicInfo

_EVENT = re.compile(r"event:(?P<topic>[^/]+)/(?P<group>[^/]+)/(?P<seq>\d{1,18})")


@dataclass(frozen=True, slots=True)
class LetterView:
    """An event that a group could not handle (`kind` "event", with `topic`, `group`, `seq` and
    `key`), or a parked run ("run", with `workflow` and `version`). `at` is since when it waits."""

    id: str
    kind: Literal["event", "run"]
    topic: str | None
    group: str | None
    seq: int | None
    key: str | None
    workflow: str | None
    version: str | None
    tries: int
    error: ErrorView | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class LetterDetail:
    """One of them with its payload (of a run: its input), and each try as it was recorded."""

    letter: LetterView
    payload: Payload | None
    history: Sequence[dict[str, Any]]


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


async def list_letters(
    app: Aura, *, topic: str | None = None, group: str | None = None, limit: int = 50
) -> list[LetterView]:
    """The newest first. With a topic or a group no runs, which belong to none."""
    found = [_of_event(one) for one in await app.store.events.dead_letters(topic, group, limit)]
    if topic is None and group is None:
        found += [_of_run(run) for run in await app.runs(RunFilter("parked", limit=limit))]
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda one: one.at or oldest, reverse=True)[:limit]


async def show_letter(app: Aura, name: str, *, full: bool = False) -> LetterDetail:
    """Raises NoSuchDeadLetter, InvalidInput."""
    place = _place(name)
    if place is None:
        run = await _parked(app, name)
        return LetterDetail(_of_run(run), payload_view(run.input, full=full), ())
    found = await app.store.events.dead_letter(*place)
    if found is None:
        raise _missing(name)
    payload = payload_view(found.event.payload, full=full)
    return LetterDetail(_of_event(found), payload, _history(found))


async def requeue_letter(app: Aura, name: str, version: str | None = None) -> None:
    """Let it be tried again: a run by the code of that version, an event by that version of the
    workflow that handles it.

    Raises NoSuchDeadLetter, InvalidInput.
    """
    place = _place(name)
    if place is None:
        await _requeue_run(app, name, version)
        return
    if not await app.store.events.requeue(*place, version):
        raise _missing(name)
    await app.committer.submit(Announce(GROUPS))


async def drop_letter(app: Aura, name: str) -> None:
    """Give it up: an event counts as handled then, and a run as cancelled.

    Raises NoSuchDeadLetter, InvalidInput.
    """
    place = _place(name)
    if place is None:
        run = await _parked(app, name)
        await app.committer.submit(RequestCancel(run.id))
        return
    if not await app.store.events.drop(*place):
        raise _missing(name)
    await app.committer.submit(Announce(GROUPS))


async def topics(app: Aura, topic: str | None = None) -> list[TopicView]:
    """Topics and how far their groups are. Raises InvalidInput when there is no such topic."""
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
        raise InvalidInput(f"there is no topic {topic}", hint="List them: aura topics list")
    return found


async def replay_topic(app: Aura, topic: str, group: str, since: float) -> int:
    """Let a group handle again what was emitted since then (epoch seconds); how many events.

    Raises InvalidInput when there is no such group.
    """
    count = await app.store.events.replay(topic, group, since)
    if count is None:
        raise _no_group(topic, group)
    await app.committer.submit(Announce(GROUPS))
    return count


async def forget_group(app: Aura, topic: str, group: str) -> None:
    """Delete a group that nobody uses any more, with its dead letters. Raises InvalidInput when
    there is none, or workers take part in it."""
    known = [one for one in await app.store.events.groups(topic) if one.group == group]
    if known and known[0].workers:
        raise InvalidInput(
            f"live workers take part in group {group} of topic {topic}: {known[0].workers}",
            hint="Stop them, or deploy code that does not subscribe",
        )
    if not await app.store.events.forget(topic, group):
        raise _no_group(topic, group)


def _no_group(topic: str, group: str) -> InvalidInput:
    return InvalidInput(
        f"topic {topic} has no group {group}", hint=f"Look at it: aura topics show {topic}"
    )


def _missing(name: str) -> NoSuchDeadLetter:
    return NoSuchDeadLetter(f"there is no dead letter {name}", hint="List them: aura dlq list")


def _place(name: str) -> tuple[str, str, int] | None:
    """Topic, group and seq; None for the name of a run."""
    if name.startswith("run:"):
        return None
    found = _EVENT.fullmatch(name)
    if found is None:
        raise InvalidInput(
            f"{name!r:.120} names no dead letter",
            hint="Take an id from aura dlq list: event:TOPIC/GROUP/SEQ or run:ID",
        )
    return found["topic"], found["group"], int(found["seq"])


async def _parked(app: Aura, name: str) -> RunRecord:
    run = await app.store.run(name.removeprefix("run:"))
    if run is None or run.state != "parked":
        raise _missing(name)
    return run


async def _requeue_run(app: Aura, name: str, version: str | None) -> None:
    run = await _parked(app, name)
    await app.run(run.id).requeue(version)


def _of_event(one: DeadLetter) -> LetterView:
    delivery = one.delivery
    history = _history(one)
    last = history[-1] if history else {}
    parts = {name: str(last.get(name, "")) for name in ("type", "message", "traceback")}
    return LetterView(
        id=f"event:{delivery.topic}/{delivery.group}/{delivery.seq}",
        kind="event",
        topic=delivery.topic,
        group=delivery.group,
        seq=delivery.seq,
        key=delivery.key,
        workflow=None,
        version=None,
        tries=delivery.attempts,
        error=ErrorView(**parts) if last else None,
        at=datetime.fromtimestamp(delivery.changed_at, UTC),
    )


def _of_run(run: RunRecord) -> LetterView:
    at = run.finished_at
    return LetterView(
        id=f"run:{run.id}",
        kind="run",
        topic=None,
        group=None,
        seq=None,
        key=None,
        workflow=run.workflow,
        version=run.version,
        tries=run.recoveries + 1,
        error=error_view(run.error),
        at=None if at is None else datetime.fromtimestamp(at, UTC),
    )


def _history(one: DeadLetter) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = plain(one.delivery.history) or []
    except CodecError as error:
        found = [{"type": "unreadable", "message": str(error)}]
    return found
