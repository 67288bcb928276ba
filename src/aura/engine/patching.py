"""Small changes of workflow code that runs are in the middle of.

`aura.patched("id")` is answered once per run, by the first call:

    the journal has the patch                                   True: a new run, or one that was new
    the journal has something that nobody has asked for yet     False: it has passed this point
    else                                                        True, and the journal gets the patch

False needs no entry: what made it false stays in the journal, so every replay gets the same answer.
In doubt (another branch is not replayed yet) it is the old way, which is always right.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from aura.engine.calls import Call
from aura.engine.definition import check_signal_name
from aura.engine.lanes import Lane, scope
from aura.errors import ConfigError

if TYPE_CHECKING:
    from aura.engine.execution import Execution


class Patches:
    """The answers of one run. `recorded` are the patches that its journal has."""

    def __init__(self, execution: Execution, recorded: Collection[str]) -> None:
        self._execution = execution
        self._answers = dict.fromkeys(recorded, True)

    def ask(self, patch: str) -> bool:
        """Whether the run goes the new way."""
        known = self._answers.get(patch)
        if known is None:
            known = self._answers[patch] = not self._execution.behind
            if known:
                call = Call(f"0/~patch:{patch}#1", patch, None)
                self._execution.recorder.record(call, "patch", later=True)
        return known


def patched(patch: str) -> bool:
    """Whether this run takes the new way of a change that has that name:
    `if aura.patched("check-first"): await check(...)`.

    True in runs that come here for the first time with the new code, which is journalled; False in
    those that had passed this point before. When no run is left that gets False (`aura replay`
    says so), delete the old way and the call. Outside a run it is True. Raises ConfigError in a
    step, whose code is not replayed.
    """
    check_signal_name(patch)
    current = scope.get()
    if current is None:
        return True
    if type(current) is not Lane:
        raise ConfigError(
            "aura.patched() was called inside a step",
            hint="Ask in the workflow; a step's code may change at any time",
        )
    current.execution.raise_if_stopped()
    return current.execution.patches.ask(patch)
