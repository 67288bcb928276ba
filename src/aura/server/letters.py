"""What waits for a person: dead letters of groups and parked runs, as they are shown and ordered.

A dead letter is called `event:TOPIC/GROUP/SEQ`, a parked run `run:ID`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from aura.app import Aura
from aura.codec import plain
from aura.delivery.versions import is_exact
from aura.errors import CodecError, InvalidInput, NoSuchDeadLetter
from aura.masking import current_mask
from aura.server.operations import read_cursor, storable, write_cursor
from aura.server.views import ErrorView, Payload, error_view, payload_view
from aura.store.base import Announce, RequestCancel, RunFilter, RunRecord
from aura.store.events import GROUPS, DeadLetter, LetterPlace

MOST_LETTERS = 1_000
"""A page of a list is not longer than this."""

_LAST = 2**62  # no seq is as high
_EVENT = re.compile(r"event:(?P<topic>[^/]+)/(?P<group>[^/]+)/(?P<seq>[0-9]{1,18})")


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
class LetterList:
    """What waits, the newest first; `next` is the cursor of the page after it, None on the last."""

    letters: tuple[LetterView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which ones: of a `topic` or `group` (then no runs, which belong to none), or the parked runs
    of a `workflow` (then no events). Raises InvalidInput when nothing can be all of that."""

    kind: Literal["event", "run"] | None = None
    topic: str | None = None
    group: str | None = None
    workflow: str | None = None

    def __post_init__(self) -> None:
        for text in (self.topic, self.group, self.workflow):
            if text is not None and not storable(text):
                raise InvalidInput("a name cannot be stored", hint="Use other characters")
        if not (self.events or self.runs):
            raise InvalidInput(
                "no dead letter is like that",
                hint="Events have a topic and a group, runs a workflow",
            )

    @property
    def events(self) -> bool:
        """Whether events are wanted."""
        return self.kind != "run" and self.workflow is None

    @property
    def runs(self) -> bool:
        """Whether parked runs are wanted."""
        return self.kind != "event" and self.topic is None and self.group is None


@dataclass(frozen=True, slots=True)
class LetterDetail:
    """One of them with its payload (of a run: its input), and each try as it was recorded."""

    letter: LetterView
    payload: Payload | None
    history: Sequence[dict[str, Any]]


async def list_letters(
    app: Aura, where: LetterFilter = LetterFilter(), limit: int = 50, cursor: str | None = None
) -> LetterList:
    """A page of what waits, the newest first. Raises InvalidInput."""
    if not 1 <= limit <= MOST_LETTERS:
        raise InvalidInput(f"the limit is {limit}", hint=f"Give 1 to {MOST_LETTERS}")
    after = None if cursor is None else _after(cursor)
    found: list[tuple[_Key, LetterView]] = []
    if where.events:
        found += await _events(app, where, limit + 1, after)
    if where.runs:
        found += await _runs(app, where, limit + 1, after)
    found.sort(key=lambda one: one[0], reverse=True)
    page = found[:limit]
    more = write_cursor(page[-1][0].at, page[-1][1].id) if len(found) > limit else None
    return LetterList(tuple(view for _, view in page), more)


class _Key(NamedTuple):
    """Where a letter stands in the list: by its time, runs before events of the same time."""

    at: float
    is_run: bool
    place: tuple[Any, ...]


def _after(cursor: str) -> _Key:
    at, name = read_cursor(cursor)
    place = _place(name)
    if place is None:
        return _Key(at, True, (name.removeprefix("run:"),))
    return _Key(at, False, (place[2], place[0], place[1]))


async def _events(
    app: Aura, where: LetterFilter, limit: int, after: _Key | None
) -> list[tuple[_Key, LetterView]]:
    before = None
    if after is not None:
        before = LetterPlace(after.at, *((_LAST, "", "") if after.is_run else after.place))
    letters = await app.store.events.dead_letters(where.topic, where.group, limit, before)
    found = []
    for one in letters:
        it = one.delivery
        found.append((_Key(it.changed_at, False, (it.seq, it.topic, it.group)), _of_event(one)))
    return found


async def _runs(
    app: Aura, where: LetterFilter, limit: int, after: _Key | None
) -> list[tuple[_Key, LetterView]]:
    before = None
    if after is not None:
        before = (after.at, after.place[0] if after.is_run else "")
    wanted = RunFilter("parked", where.workflow, limit, before, by="parked")
    runs = await app.runs(wanted)
    return [(_Key(run.finished_at or 0.0, True, (run.id,)), _of_run(run)) for run in runs]


async def workflow_of_letter(app: Aura, name: str) -> str | None:
    """The workflow of a parked run; None for an event. Raises NoSuchDeadLetter, InvalidInput."""
    return None if _place(name) else (await _parked(app, name)).workflow


async def show_letter(app: Aura, name: str, *, full: bool = False) -> LetterDetail:
    """Raises NoSuchDeadLetter, InvalidInput."""
    place = _place(name)
    if place is None:
        run = await _parked(app, name)
        return LetterDetail(_of_run(run), payload_view(run.input, full=full), ())
    found = await app.store.events.dead_letter(*place)
    if found is None:
        raise no_letter(name)
    payload = payload_view(found.event.payload, full=full)
    return LetterDetail(_of_event(found), payload, _history(found))


async def requeue_letter(app: Aura, name: str, version: str | None = None) -> None:
    """Let it be tried again: a run by the code of that version, an event by that version of the
    workflow that handles it.

    Raises NoSuchDeadLetter, and InvalidInput as `check_requeue` does.
    """
    await check_requeue(app, name, version)
    place = _place(name)
    if place is None:
        await _requeue_run(app, name, version)
        return
    if not await app.store.events.requeue(*place, version):
        raise no_letter(name)
    await app.committer.submit(Announce(GROUPS))


async def check_requeue(app: Aura, name: str, version: str | None) -> None:
    """Raises InvalidInput for what can name no letter, for what is no version, and for a version of
    a handler that is a function, as far as this process knows it; NoSuchDeadLetter."""
    place = _place(name)
    if version is None:
        return
    if not (is_exact(version) and storable(version)):
        raise InvalidInput(f"{version!r:.60} is no version", hint="Give one such as 1.2.0")
    if place is not None:
        if await app.store.events.dead_letter(*place) is None:
            raise no_letter(name)
        app.subscriptions.check_version(place[0], place[1], version)


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
        raise no_letter(name)
    await app.committer.submit(Announce(GROUPS))


def no_letter(name: str) -> NoSuchDeadLetter:
    """What to raise for a name that no dead letter has."""
    shown = name[:200].encode("utf-8", "replace").decode()
    return NoSuchDeadLetter(f"there is no dead letter {shown}", hint="List them: aura dlq list")


def _place(name: str) -> tuple[str, str, int] | None:
    """Topic, group and seq; None for the name of a run."""
    if name.startswith("run:"):
        return None
    found = _EVENT.fullmatch(name) if storable(name) else None
    if found is None:
        raise InvalidInput(
            f"{name!r:.120} names no dead letter",
            hint="Take an id from aura dlq list: event:TOPIC/GROUP/SEQ or run:ID",
        )
    return found["topic"], found["group"], int(found["seq"])


async def _parked(app: Aura, name: str) -> RunRecord:
    run_id = name.removeprefix("run:")
    run = await app.store.run(run_id) if storable(run_id) else None
    if run is None or run.state != "parked":
        raise no_letter(name)
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
    mask = current_mask()
    return [
        {name: mask.text(one) if isinstance(one, str) else one for name, one in each.items()}
        for each in found
    ]
