"""Starting runs from outside, and waiting for how they end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aura.app import Aura
from aura.errors import InvalidInput, ResultTimeout, RunError
from aura.server.operations import no_run, split_arguments, storable
from aura.server.views import Payload, RunView, payload_view, run_view
from aura.store.base import SETTLED
from aura.store.queues import Placement


@dataclass(frozen=True, slots=True)
class Start:
    """A run that is wanted: named `arguments` for a `version` (or range; None: whichever is
    chosen), the place in a `queue`, times in seconds from now. `once` makes all starts with the
    same one the same run; `id` does, too."""

    workflow: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None
    id: str | None = None
    once: str = ""
    queue: str | None = None
    key: str | None = None
    priority: str = "normal"
    delay: float | None = None
    deadline: float | None = None


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
    for text in (what.workflow, what.version, what.id, what.queue, what.key):
        if text is not None and not storable(text):
            raise InvalidInput("a name cannot be stored", hint="Use other characters")
    if what.id is not None and what.once:
        raise InvalidInput("a run has one name", hint="Give an id or an idempotency key, not both")
    by_position, named = split_arguments(app, what.workflow, what.version, what.arguments)
    run = await app.start(
        what.workflow,
        *by_position,
        id=once_id(what.once) if what.once else what.id,
        version=what.version,
        queue=_place(app, what),
        deadline=what.deadline,
        **named,
    )
    return run_view(await run.record())


async def result_of(app: Aura, run_id: str, seconds: float) -> ResultView:
    """How the run has ended, once it has or the time is over. Raises RunNotFound."""
    if not storable(run_id):
        raise no_run(run_id)
    run = app.run(run_id)
    with contextlib.suppress(RunError, ResultTimeout):  # the record says the same
        await run.result(timeout=seconds)
    record = await run.record()
    output = payload_view(record.output, full=True)
    return ResultView(run_view(record), record.state in SETTLED, output)


def once_id(key: str) -> str:
    """The id of the run that an idempotency key stands for; nobody meets it by chance."""
    return f"once-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _place(app: Aura, what: Start) -> Placement | None:
    """None when nothing is said of it: then it is the workflow's own."""
    if (what.queue, what.key, what.delay) == (None, None, None) and what.priority == "normal":
        return None
    priority = cast("Any", what.priority)  # checked there
    return app.place(what.queue, key=what.key, priority=priority, delay=what.delay)
