"""What is wrapped around runs and the tries of steps: tracing, logging, limits, stand-ins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from aura.store.base import RunRecord


class Invocation(NamedTuple):
    """What is being called. `name` is the workflow's or the step's; `key` the journal key of a step
    ("" for a run); `attempt` counts the tries of a step, or how often a run was taken up, from 1.
    Of a run there is also the `trace` that it was started in (a W3C traceparent, and a tracestate
    behind a slash if there is one) and its `execution`, counted from 1.
    """

    kind: Literal["run", "step"]
    name: str
    run_id: str
    workflow: str
    version: str
    key: str
    attempt: int
    trace: str = ""
    execution: int = 1


Proceed = Callable[[], Awaitable[Any]]
Middleware = Callable[[Invocation, Proceed], Awaitable[Any]]
"""Gets what is called and a function that calls it; gives the result, or raises."""


def concerning(around: Sequence[Middleware], run: RunRecord) -> Sequence[Middleware]:
    """Those that want to be called for that run: all but what has a method `concerns` that says
    no, so that what it leaves out costs nothing."""
    if not around:
        return around
    return [one for one in around if getattr(one, "concerns", _all)(run)]


def _all(_: RunRecord) -> bool:
    return True


def wrapped(around: Sequence[Middleware], what: Invocation, innermost: Proceed) -> Awaitable[Any]:
    """Call `innermost` inside all of these, the first one outermost."""
    proceed = innermost
    for one in reversed(around):
        proceed = partial(one, what, proceed)
    return proceed()
