"""Beginning anew: a run goes on under its id with other arguments and an empty journal.

    execution 1: seq 1 … 412 ── Continue ──▶ execution 2: seq 413 … ── Continue ──▶ ...

The run stays the same for everybody: its id, whoever waits for its result, its children, what it
shows (states and streams), and the signals that nobody has taken. New are its journal, its input
and the names that are made of its keys (ids of children, idempotency keys), which have the number
of the execution from the second one on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from aura.codec import pack
from aura.engine.lanes import ROOT, Lane, scope
from aura.errors import BeginAnew, ConfigError
from aura.store.base import CHILD_ENDED, Continue

if TYPE_CHECKING:
    from aura.engine.execution import Execution


def continue_as_new(*args: Any, version: str | None = None, **kwargs: Any) -> NoReturn:
    """End this execution of the run and begin anew with these arguments, under the same id.

    Never returns. For runs that go on for ever, so that their journals do not: whoever waits for
    the result waits on, signals that were not received yet are there for the next execution, and
    children go on. `version` is another version of the workflow to go on with (this one, if None).

    Raises ConfigError outside a workflow's own function and inside a saga, UnknownWorkflow,
    InvalidInput, PayloadTooLarge.
    """
    lane = scope.get()
    if type(lane) is not Lane or lane.id != ROOT:
        raise ConfigError(
            "aura.continue_as_new() was called outside a workflow's own function",
            hint="Call it there, and not in a step or in a branch",
        )
    from aura.engine.saga import in_saga  # which is made of executions, as these are of this

    if in_saga():
        raise ConfigError(
            "aura.continue_as_new() was called inside a saga, which has not ended",
            hint="Leave the scope of the saga first",
        )
    execution = lane.execution
    execution.raise_if_stopped()
    chosen = execution.workflow
    if version is not None:
        chosen = execution.children.family.registry.get(chosen.name, version)
    data = chosen.signature.dump_checked(args, kwargs, execution.limits)
    packed = pack(data, execution.limits, f"the input of workflow {chosen.name}")
    raise BeginAnew(packed, chosen.version)


def succession(execution: Execution, anew: BeginAnew) -> Continue:
    """What ends an execution and begins the next one."""
    run = execution.record
    return Continue(
        run.id, run.epoch, anew.version, anew.input, execution.recorder.seq,
        execution.mailbox.seen, tuple(_unread(execution)),
    )  # fmt: skip


def _unread(execution: Execution) -> Iterable[int]:
    """The signals that move along: not those of children's ends, which nobody will ask for."""
    own = {f"{CHILD_ENDED}:{child}" for child in execution.children.own}
    return (one.seq for one in execution.mailbox.unread() if one.id not in own)
