"""The shapes in which runs, workers and the whole are shown: the HTTP API's and the CLI's JSON.

Frozen values that pydantic can write. Times are UTC and ISO 8601, durations are in seconds. Fields
are added, never renamed or removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aura.codec import plain, unpack
from aura.engine.shadow import suppressed_entries
from aura.errors import CodecError, DecryptionFailed
from aura.masking import HIDDEN, current_mask
from aura.server.journal import Call, CallState, calls
from aura.store.base import Entry, RunRecord, RunState, StoreInfo, Worker

PREVIEW = 400
"""Characters of a payload that is not shown whole."""

WHOLE = 2_048
"""A payload of at most so many bytes is shown whole."""


MOST_CHILDREN = 100
"""So many children are shown with a run."""

MOST_WAITS = 100
"""So much of what a run waits for is shown."""


@dataclass(frozen=True, slots=True)
class Payload:
    """An input or output. `value` is there when it is `whole`, else `preview` has its beginning.

    `bytes` is the size of its JSON text. Of one that is `encrypted` and does not open here, it is
    the size as it is stored, and `preview` names the key.
    """

    bytes: int
    whole: bool
    value: Any = None
    preview: str = ""
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class ErrorView:
    """Why a run or call failed: the exception's name, its message and, when kept, its traceback."""

    type: str
    message: str
    traceback: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands in a list. `seconds` from its start to its end, or None before that;
    `queue` is None for the default one."""

    id: str
    workflow: str
    version: str
    state: RunState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    wake_at: datetime | None
    worker: str | None
    epoch: int
    recoveries: int
    cancel_requested: bool
    error: ErrorView | None
    queue: str | None
    key: str
    priority: int
    parent: str | None = None
    detached: bool = False
    execution: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallView:
    """One durable call of a run. `attempts` counts its tries, `failures` are those that failed
    and were repeated; `seconds` is None while it is not over."""

    lane: str
    name: str
    number: int
    key: str
    kind: str
    state: CallState
    attempts: int
    started_at: datetime
    seconds: float | None
    input: Payload | None
    output: Payload | None
    error: ErrorView | None
    failures: tuple[ErrorView, ...]


@dataclass(frozen=True, slots=True)
class WaitView:
    """Something that a run waits for. `kind` is "signal", "update", "timer", "child", "run",
    "retry", or of a run that does not go on by itself "queue", "worker", "start", "person"; `what`
    says it in words. `names` are the signals or updates, any of which will do, `runs` those that
    are to end, `call` is the key in the journal. `until` is its time-out or when it is over."""

    kind: str
    what: str
    names: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    call: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SuppressedView:
    """An effect that a shadow run did not make: see `aura.engine.shadow.Suppressed`."""

    key: str
    what: str
    name: str
    answer: str
    arguments: Payload | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run with what went in, what came out and its journal, in the order of its calls. `children`
    are the newest runs that it has started; whether there are more says `more_children`.
    `suppressed` are the effects that a shadow run did not make. `waits` is what it waits for now;
    whether there is more says `more_waits`."""

    run: RunView
    input: Payload
    output: Payload | None
    journal: tuple[CallView, ...]
    children: tuple[RunView, ...] = ()
    more_children: bool = False
    suppressed: tuple[SuppressedView, ...] = ()
    waits: tuple[WaitView, ...] = ()
    more_waits: bool = False


@dataclass(frozen=True, slots=True)
class RunList:
    """Runs, newest first; `next` is the cursor of the page after this one, None on the last."""

    runs: tuple[RunView, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A process that executes runs. `runs` is how many it had at its last heartbeat; `live` says
    that its lease is not over; `workflows` has "name version" of all that it can run; `written`
    says how much its process had written then: commits, journal entries, those of them that waited
    for others (`deferred`), and the commits that this has `saved`."""

    id: str
    host: str
    pid: int
    live: bool
    runs: int
    workflows: tuple[str, ...]
    started_at: datetime
    lease_until: datetime
    tags: tuple[str, ...]
    resources: dict[str, float]
    written: dict[str, int]


@dataclass(frozen=True, slots=True)
class DatabaseView:
    """Where everything is kept; no password is in `location`."""

    kind: str
    location: str
    server: str
    schema: int


def payload_view(data: bytes | None, *, full: bool = False) -> Payload | None:
    """Stored bytes as they are shown, None for none. Damaged ones are shown as that."""
    if data is None:
        return None
    try:
        text = unpack(data)
        if full or len(text) <= WHOLE:
            return Payload(len(text), True, current_mask()(plain(text)))
        cut = _beginning(text)
    except DecryptionFailed as error:
        named = f"encrypted with the key {error.key_id}"
        return Payload(len(data), False, preview=named, encrypted=True)
    except (CodecError, ValueError) as error:
        return Payload(len(data), False, preview=f"cannot be read: {error}")
    return Payload(len(text), False, preview=cut)


def _beginning(text: bytes) -> str:
    """The first characters of a JSON text, masked: before it is cut, if there may be a secret."""
    mask, whole = current_mask(), ""
    if mask and mask.may_find(whole := text.decode("utf-8", "replace")):
        return mask.json_text(whole)[:PREVIEW]
    return text[: 4 * PREVIEW].decode("utf-8", "replace")[:PREVIEW]


def error_view(data: bytes | None) -> ErrorView | None:
    """A recorded error, None for none."""
    if data is None:
        return None
    try:
        found = plain(data)
    except DecryptionFailed as error:
        return ErrorView("encrypted", error.message, hint=error.hint)
    except (CodecError, ValueError) as error:
        return ErrorView("unreadable", str(error))
    if not isinstance(found, dict):
        return ErrorView("unknown", json.dumps(current_mask()(found)))
    shown = current_mask().text
    names = ("type", "message", "traceback", "hint")
    parts = {name: shown(str(found.get(name, ""))) for name in names}
    return ErrorView(**parts)


def run_view(run: RunRecord, attributes: Mapping[str, str] | None = None) -> RunView:
    """A run as it stands in a list, with the attributes by which it is found."""
    began, ended = run.started_at, run.finished_at
    return RunView(
        id=run.id,
        workflow=run.workflow,
        version=run.version,
        state=run.state,
        created_at=time_of(run.created_at),
        started_at=_time_or_none(began),
        finished_at=_time_or_none(ended),
        seconds=None if began is None or ended is None else round(max(0.0, ended - began), 6),
        wake_at=_time_or_none(run.wake_at),
        worker=run.owner,
        epoch=run.epoch,
        recoveries=run.recoveries,
        cancel_requested=run.cancel_requested,
        error=error_view(run.error),
        queue=run.queue,
        key=run.key,
        priority=run.priority,
        parent=run.parent,
        detached=run.detached,
        execution=run.execution,
        attributes=dict(attributes or {}),
    )


def run_detail(
    run: RunRecord,
    journal: list[Entry],
    children: Sequence[RunRecord] = (),
    *,
    full: bool = False,
    attributes: Mapping[str, str] | None = None,
) -> RunDetail:
    """A run with its journal and children; with `full` every payload is shown whole."""
    given = payload_view(run.input, full=full)
    assert given is not None  # noqa: S101  (every run has an input)
    return RunDetail(
        run=run_view(run, attributes),
        input=given,
        output=payload_view(run.output, full=full),
        journal=tuple(call_view(call, full=full) for call in calls(journal)),
        children=tuple(map(run_view, children[:MOST_CHILDREN])),
        more_children=len(children) > MOST_CHILDREN,
        suppressed=tuple(
            SuppressedView(entry.key, *said, payload_view(entry.input, full=full))
            for entry, said in suppressed_entries(journal)
        ),
    )


def call_view(call: Call, *, full: bool = False) -> CallView:
    """One durable call."""
    failed = tuple(view for one in call.entries[:-1] if (view := error_view(one.error)))
    return CallView(
        lane=call.lane,
        name=call.name,
        number=call.number,
        key=call.key,
        kind=call.kind,
        state=call.state,
        attempts=call.last.attempt,
        started_at=time_of(call.started_at),
        seconds=None if call.seconds is None else round(call.seconds, 6),
        input=payload_view(_input(call), full=full),
        output=_hidden(call) or payload_view(_output(call), full=full),
        error=error_view(call.last.error),
        failures=failed,
    )


def worker_view(worker: Worker, now: float) -> WorkerView:
    """A worker; `now` is the database's time in epoch seconds."""
    try:
        info = plain(worker.info)
    except (CodecError, ValueError):
        info = None
    told: dict[str, Any] = info if isinstance(info, dict) else {}
    return WorkerView(
        id=worker.id,
        host=str(told.get("host", "")),
        pid=int(told.get("pid", 0)),
        live=worker.lease_until > now,
        runs=int(told.get("runs", 0)),
        workflows=tuple(map(str, told.get("workflows", ()))),
        started_at=time_of(worker.started_at),
        lease_until=time_of(worker.lease_until),
        tags=tuple(map(str, told.get("tags", ()))),
        resources=dict(told.get("resources", {})),
        written=dict(told.get("written", {})),
    )


def database_view(info: StoreInfo) -> DatabaseView:
    """The database without its settings."""
    return DatabaseView(info.kind, info.location, info.server, info.schema)


def _hidden(call: Call) -> Payload | None:
    """What is shown of state and of a stream whose own name says that it is secret."""
    named = call.last.kind in ("state", "stream") and current_mask().hides(call.last.fingerprint)
    return Payload(len(_output(call) or b""), True, HIDDEN) if named else None


def _input(call: Call) -> bytes | None:
    """What was given; of a wait that is over, what is known of the signal that came."""
    first, last = call.entries[0], call.last
    return last.input or first.input if first.kind == "wait" else first.input


def _output(call: Call) -> bytes | None:
    """What it gave; of a sleep that is over, until when it was."""
    if call.entries[0].kind == "wait":
        return call.last.output
    return next((one.output for one in reversed(call.entries) if one.output is not None), None)


def time_of(at: float) -> datetime:
    """An epoch time in seconds, in UTC; one behind the last year that a datetime has, as its end
    (a run may sleep for any time)."""
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _time_or_none(at: float | None) -> datetime | None:
    return None if at is None else time_of(at)
