"""What a run waits for, read from its record and its journal. Pure, but for `waits_now`.

A lane does one thing after the other, so a wait with something after it in its lane is over, also
when its branch was cancelled and left no trace. A timer of a run out of memory that would have
ended before the run is to wake is over, too. A branch that was cancelled and did nothing else is
shown until its time: the journal does not tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aura.codec import plain
from aura.engine.handle import UPDATE
from aura.errors import AuraError
from aura.server.journal import LATER, Call, call_of
from aura.server.views import MOST_WAITS, WaitView, error_view, time_of
from aura.store.base import CLOSED, RunRecord

if TYPE_CHECKING:
    from aura.app import Aura
    from aura.server.outline import Outline

_EARLY = 0.001  # seconds by which a wake-up may be before the wait's own end
_PASSING = frozenset({"step", "sleep", "child", "start", "signal", "ended", "wait", "value"})
# Kinds of calls that a lane makes only when it waits for nothing else.


def waits(run: RunRecord, found: Iterable[Call], now: float) -> tuple[WaitView, ...]:
    """What the run waits for, in the order of its journal; `now` is the database's time."""
    if run.state in CLOSED:
        return ()
    whole = _as_a_whole(run)
    if whole is not None:
        return (whole,)
    views = (_view(run, call, now) for call in open_calls(found))
    return tuple(one for one in views if one is not None)


def open_calls(found: Iterable[Call]) -> tuple[Call, ...]:
    """The calls that are not over, as far as keys and kinds tell."""
    latest: dict[str, str] = {}
    waiting: list[Call] = []
    for call in found:
        if call.kind in _PASSING:
            latest[call.lane] = call.key
        if call.state in ("waiting", "retrying"):
            waiting.append(call)
    return tuple(
        call for call in waiting if call.state == "retrying" or latest[call.lane] == call.key
    )


async def waits_now(app: Aura, run: RunRecord, known: Outline) -> tuple[WaitView, ...]:
    """The same for a journal of which only the outline is known. Raises StoreUnavailable."""
    calls = open_calls(call_of(key, tuple(of)) for key, of in known.found.items())
    keys = [one.key for one in calls[: MOST_WAITS + 1]]
    asked = [key + end for key in keys for end in ("", *LATER.values())]
    entries: dict[str, list[Any]] = {}
    for entry in await app.store.entries_of(run.id, asked) if keys else ():
        entries.setdefault(entry.key.removesuffix(LATER.get(entry.kind, "")), []).append(entry)
    full = (call_of(key, tuple(entries[key])) for key in keys if key in entries)
    return waits(run, full, app.time.now())


def _as_a_whole(run: RunRecord) -> WaitView | None:
    """What a run waits for that is not in the hands of its code."""
    error = error_view(run.error)
    if run.state == "parked":
        said = f": {error.message}" if error else ""
        return _make("person", f"somebody who decides{said}", since=run.finished_at)
    since = run.created_at if run.started_at is None else None
    if run.state == "pending" and run.queue:
        key = f", key {run.key}" if run.key else ""
        return _make("queue", f"a place in queue {run.queue}{key}", since=since)
    if run.state == "pending":
        return _make("worker", f"a worker that has {run.workflow} {run.version}", since=since)
    if run.state == "waiting" and error is not None:
        return _make("worker", f"a worker that can read it: {error.message}", until=run.wake_at)
    if run.state == "waiting" and run.started_at is None:
        said = "its start, unless another one comes" if run.debounced else "its start"
        return _make("start", said, since=since, until=run.wake_at)
    return None


def _view(run: RunRecord, call: Call, now: float) -> WaitView | None:
    """A call that is not over; None when its time says that it is."""
    since = call.last.recorded_at if call.state == "retrying" else call.started_at
    until = _until(call)
    if until is None and call.state == "retrying":
        return None  # it is tried just now
    if until is not None:
        asleep = run.state == "waiting"
        over = run.wake_at is None or until < run.wake_at - _EARLY if asleep else until <= now
        if over:
            return None
    if call.kind == "sleep":
        return _make("timer", "a timer", call, since=since, until=until)
    if call.state == "retrying":
        error = error_view(call.last.error)
        told = f", after {error.type}: {error.message}" if error else ""
        return _make("retry", f"the next try of {call.name}{told}", call, since=since, until=until)
    return _for_others(call, since, until)


def _for_others(call: Call, since: float, until: float | None) -> WaitView:
    """A wait for a run or for messages."""
    said = _read(call.last.output if call.kind == "child" else call.last.input)
    told = said if isinstance(said, Mapping) else {}
    child = told.get("id" if call.kind == "child" else "run")
    if call.kind == "child" or child:
        runs = (str(child),) if child else ()
        kind = "child" if call.kind == "child" else "run"
        what = f"the {'child' if kind == 'child' else 'run'} {child or call.name}"
        return _make(kind, what, call, since=since, until=until, runs=runs)
    names = told.get("names") or call.name.partition(":")[2].split("|")
    plainly = tuple(str(one).removeprefix(UPDATE) for one in names)
    update = call.name.startswith("update:") or any(str(one).startswith(UPDATE) for one in names)
    kind = "update" if update else "signal"
    what = f"the {kind} {' or '.join(plainly)}"
    if plainly[0].startswith("saga:") and len(plainly) == 1:
        what += ', which says "retry", "skip" or "compensate"'
    return _make(kind, what, call, since=since, until=until, names=plainly)


def _until(call: Call) -> float | None:
    if call.state == "retrying":
        failed = _read(call.last.error)
        at = failed.get("retry_at") if isinstance(failed, Mapping) else None
    else:
        at = _read(call.last.output) if call.kind in ("sleep", "wait") else None
    return float(at) if isinstance(at, int | float) else None


def _read(data: bytes | None) -> Any:
    """What is stored; None when there is nothing, or when it does not open here."""
    try:
        return None if data is None else plain(data)
    except (AuraError, ValueError):
        return None


def _make(
    kind: str,
    what: str,
    call: Call | None = None,
    *,
    since: float | None = None,
    until: float | None = None,
    names: tuple[str, ...] = (),
    runs: tuple[str, ...] = (),
) -> WaitView:
    return WaitView(
        kind, what, names, runs, "" if call is None else call.key,
        None if since is None else time_of(since), None if until is None else time_of(until),
    )  # fmt: skip
