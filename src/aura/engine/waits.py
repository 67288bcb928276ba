"""What a run waits for, as its journal tells those who look.

A wait with a time-out has an entry (kind "wait") from its begin, which fixes its end; any other one
has it once it has lasted for a while (see `Idleness`), without an end. Its input names what is
waited for, `{"names": [...]}` or `{"run": ...}`. The answer has the time at which the wait began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from aura.codec import plain, to_json
from aura.engine.calls import Call

if TYPE_CHECKING:
    from aura.engine.execution import Execution
    from aura.store.base import Entry


class Wait(NamedTuple):
    """`began` and `until` (infinite: there is no time-out) are epoch seconds. `say` journals it,
    once; None when that has been done."""

    began: float
    until: float
    say: Callable[[], None] | None


def begun(execution: Execution, call: Call, timeout: float | None, entry: Entry | None) -> Wait:
    """The wait of that call, which begins now, or goes on if it has an entry. One with a time-out
    is journalled here."""
    began = execution.clock.now() if entry is None else entry.started_at
    said = entry is not None

    def say(until: bytes | None = None) -> None:
        nonlocal said
        if not said or until is not None:
            said = True
            execution.recorder.record(call, "wait", output=until, started=began)

    if timeout is None:
        return Wait(began, math.inf, None if said else say)
    if entry is not None and entry.output is not None:
        return Wait(began, float(plain(entry.output)), None)
    until = execution.clock.now() + timeout
    say(to_json(until))
    return Wait(began, until, None)
