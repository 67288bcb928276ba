"""What those outside say to a run and hear of it: the HTTP API and the command line ask here.

Each change leaves one line in the log `aura.audit`: what was done to which run, and by whom.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from aura.app import Aura
from aura.codec import plain
from aura.delivery.versions import is_exact
from aura.engine.compensation import undo_key
from aura.engine.handle import Deadline, Run
from aura.errors import InvalidInput
from aura.masking import current_mask
from aura.server.operations import no_run, storable, view_of
from aura.server.views import RunView
from aura.store.base import Entry, Priority, RunState

audit = logging.getLogger("aura.audit")


@dataclass(frozen=True, slots=True)
class SentView:
    """A signal that is durable. `number` counts the run's signals from 1; `duplicate`: its id was
    there before; `late`: it cannot meet its deadline; `state` is the run's, after it."""

    run: str
    id: str | None
    number: int
    duplicate: bool
    late: bool
    state: RunState


@dataclass(frozen=True, slots=True)
class Message:
    """What a signal is made of; `deadline` is in seconds from now."""

    name: str
    payload: Any = None
    priority: str = "normal"
    deadline: Deadline = None
    id: str | None = None


class Item(NamedTuple):
    """One item of a stream; `number` counts from 1, and is the `after` of the next question."""

    number: int
    item: Any


@dataclass(frozen=True, slots=True)
class Items:
    """Items of a stream; `next` is the `after` of the next question, `ended` that no more come."""

    items: tuple[Any, ...]
    next: int
    ended: bool


async def signal_run(app: Aura, run_id: str, message: Message, by: str = "") -> SentView:
    """Send a signal. Raises RunNotFound, RunEnded, InvalidInput, CodecError, PayloadTooLarge."""
    sent = await _run(app, run_id).signal(
        message.name,
        message.payload,
        priority=cast("Priority", message.priority),  # checked there
        deadline=message.deadline,
        id=message.id,
    )
    note_change(f"signal {message.name}, number {sent.seq}, to", run_id, by)
    return SentView(run_id, message.id, sent.seq, sent.duplicate, sent.late, sent.state)


async def update_run(
    app: Aura, run_id: str, message: Message, *, timeout: float | None = None, by: str = ""
) -> Any:
    """Send an update and wait for its answer. Raises UpdateRejected, RunEnded, ResultTimeout,
    RunNotFound, InvalidInput, CodecError."""
    note_change(f"update {message.name} to", run_id, by)
    run = _run(app, run_id)
    return await run.update(message.name, message.payload, timeout=timeout, id=message.id)


async def state_of(app: Aura, run_id: str) -> dict[str, Any]:
    """What the run shows of itself. Raises RunNotFound."""
    found: dict[str, Any] = current_mask()(await _run(app, run_id).state())
    return found


async def items_of(app: Aura, run_id: str, name: str, after: int = 0) -> Items:
    """The items of a stream that are there, without the first `after`. Raises RunNotFound."""
    ended = (await _run(app, run_id).record()).finished_at is not None
    entries = await app.store.entries(run_id, "stream")
    items = [item for one in entries if one.fingerprint == name for item in plain(one.output)]
    shown = current_mask()(items[after:])
    return Items(tuple(shown), max(after, len(items)), ended)


async def follow_stream(app: Aura, run_id: str, name: str, after: int = 0) -> AsyncIterator[Item]:
    """The items of a stream as they come, until the run has ended. Raises RunNotFound."""
    number = after
    async for item in _run(app, run_id).stream(name, after=after):
        number += 1
        yield Item(number, current_mask()(item))


async def reward_run(app: Aura, run_id: str, name: str, value: float, by: str = "") -> None:
    """Tell what the run's choices of that name were worth. Raises RunNotFound, UnknownFlow,
    InvalidInput."""
    await _run(app, run_id).reward(name, value)
    note_change(f"reward for {name} of", run_id, by)


async def requeue_run(app: Aura, run_id: str, by: str = "", version: str | None = None) -> RunView:
    """Let a parked run go on, with another version's code if one is given; the run after that.
    Raises RunNotFound, InvalidInput."""
    run = _run(app, run_id)
    _check_version(version)
    await run.requeue(version)
    note_change("requeue of", run_id, by)
    return await view_of(app, run_id)


def _check_version(version: str | None) -> None:
    if version is not None and not (is_exact(version) and storable(version)):
        raise InvalidInput(f"{version!r:.60} is no version", hint="Give one such as 1.2.0")


async def retry_run(app: Aura, run_id: str, by: str = "", new_id: str | None = None) -> RunView:
    """Try again what failed: a parked run goes on, a failed one is forked at the step that failed
    (its steps before that are not repeated, unless they were compensated), as `new_id`. The run
    that goes on.

    Raises RunNotFound, and InvalidInput for a run that has neither failed nor is parked,
    RunConflict when the new id is taken.
    """
    run = _run(app, run_id)
    record = await run.record()
    if record.state == "parked":
        return await requeue_run(app, run_id, by)
    if record.state != "failed":
        raise InvalidInput(
            f"run {run_id} is {record.state}: there is nothing to try again",
            hint="Only failed and parked runs are retried; see: aura runs fork",
        )
    if new_id is not None and not storable(new_id):
        raise InvalidInput("the new run's id cannot be stored", hint="Use other characters")
    fork = await run.fork(at=broken_at(await app.store.journal(run_id)), id=new_id)
    note_change(f"retry as {fork.id} of", run_id, by)
    return await view_of(app, fork.id)


def broken_at(journal: list[Entry]) -> str | None:
    """The key from which a failed run has to be made anew: of the first step that was compensated,
    else of the last one that failed; None when no step did."""
    keys = {entry.key for entry in journal}
    steps = [entry for entry in journal if entry.kind == "step"]
    undone = [one.key for one in steps if undo_key(one.key) in keys]
    failed = [one.key for one in steps if one.error is not None]
    return undone[0] if undone else failed[-1] if failed else None


def _run(app: Aura, run_id: str) -> Run[Any]:
    if not storable(run_id):
        raise no_run(run_id)
    return app.run(run_id)


def note_change(what: str, run_id: str, by: str) -> None:
    """One line for whoever looks into what was done to a run."""
    audit.info("%s run %s by %s", what, run_id, by or "this process")
