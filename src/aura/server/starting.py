"""Starting runs from outside, and waiting for how they end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

import pydantic_core
from pydantic_core import from_json

from aura.app import Aura
from aura.codec import to_json
from aura.engine import Deadline, Workflow, checked_id, new_run_id
from aura.errors import InvalidInput, ResultTimeout, RunError
from aura.server.operations import no_run, split_arguments, storable, view_of
from aura.server.views import Payload, RunView, payload_view, run_view
from aura.store.base import SETTLED
from aura.store.queues import Placement


@dataclass(frozen=True, slots=True)
class Start:
    """A run that is wanted: named `arguments`, after `positional` ones, as JSON values, for a
    `version` (or range; None: whichever is chosen), the place in a `queue`, times in seconds from
    now or as datetimes. `once` makes all starts with the same one the same run; `id` does, too."""

    workflow: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    positional: tuple[Any, ...] = ()
    version: str | None = None
    id: str | None = None
    once: str = ""
    queue: str | None = None
    key: str | None = None
    priority: str | int = "normal"
    delay: float | None = None
    at: datetime | None = None
    dedup: str | None = None
    debounce: float | None = None
    debounce_limit: float | None = None
    deadline: Deadline = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResultView:
    """How a run has ended. `settled` is False while it goes on, then ask again; `output` is there
    when it is completed, `run.error` says why it is not."""

    run: RunView
    settled: bool
    output: Payload | None


async def start_run(app: Aura, what: Start) -> RunView:
    """Start the run, or find the one that was started as the same. Raises UnknownWorkflow,
    UnknownQueue, InvalidInput, PayloadTooLarge, RunConflict."""
    for text in (what.workflow, what.version, what.id, what.queue, what.key, what.dedup):
        if text is not None and not storable(text):
            raise InvalidInput("a name cannot be stored", hint="Use other characters")
    if what.id is not None and what.once:
        raise InvalidInput("a run has one name", hint="Give an id or an idempotency key, not both")
    run_id = once_id(what.once) if what.once else what.id
    run_id = new_run_id(app.clock.now()) if run_id is None else checked_id(run_id)
    chosen = await app.choose(what.workflow, what.version, run_id)
    values = chosen.signature.load(to_json(_bound(chosen, what)))
    by_position, named = split_arguments(app, chosen.name, chosen.version, values)
    run = await app.start(
        chosen.name,
        *by_position,
        id=run_id,
        version=chosen.version,
        queue=_place(app, what),
        deadline=what.deadline,
        attributes=what.attributes,
        **named,
    )
    return await view_of(app, run.id)


async def result_of(app: Aura, run_id: str, seconds: float) -> ResultView:
    """How the run has ended, once it has or the time is over. Raises RunNotFound."""
    if not storable(run_id):
        raise no_run(run_id)
    run = app.run(run_id)
    with contextlib.suppress(RunError, ResultTimeout):  # the record says the same
        await run.result(timeout=seconds)
    record = await run.record()
    output = payload_view(record.output, full=True)
    if output is not None:
        output = replace(output, value=legal(output.value))
    known = await app.store.attributes([run_id])
    return ResultView(run_view(record, known.get(run_id)), record.state in SETTLED, output)


def legal(value: Any) -> Any:
    """A JSON value without NaN and infinities, which JSON has not: they are told as text, which
    whoever expects a number reads as one."""
    return from_json(pydantic_core.to_json(value, inf_nan_mode="strings"))


def once_id(key: str) -> str:
    """The id of the run that an idempotency key stands for; nobody meets it by chance."""
    return f"once-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _bound(chosen: Workflow[..., Any], what: Start) -> dict[str, Any]:
    """The arguments by name. Raises InvalidInput."""
    if not what.positional:
        return dict(what.arguments)
    return chosen.signature.bind(what.positional, what.arguments)


def _place(app: Aura, what: Start) -> Placement | None:
    """None when nothing is said of it: then it is the workflow's own. Raises InvalidInput."""
    if what.debounce_limit is not None and what.debounce is None:
        raise InvalidInput("debounce_limit needs a debounce", hint="Give both, in seconds")
    wait, most = what.debounce, what.debounce_limit
    priority = cast("Any", what.priority)  # checked there
    found = app.place(
        what.queue, key=what.key, priority=priority, delay=what.delay, at=what.at,
        dedup=what.dedup, debounce=wait if wait is None or most is None else (wait, most),
    )  # fmt: skip
    return None if found == Placement() else found
