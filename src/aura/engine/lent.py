"""What an app lends to the code of its runs, so that rooms above the engine can offer calls that
know where they are made."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from aura.engine.calls import execution_id
from aura.engine.lanes import StepScope, scope
from aura.errors import ConfigError

T = TypeVar("T")


class Here(NamedTuple):
    """The step in which code runs: `run` is the run's id, `call` names the call in all of its
    executions, and `shadow` says whether nothing of it may be seen outside."""

    run: str
    call: str
    shadow: bool


def borrow(kind: type[T]) -> T:
    """The one of that type that the app has lent. Raises ConfigError outside a run."""
    current = scope.get()
    lent = None if current is None else current.execution.lent.get(kind)
    if not isinstance(lent, kind):
        raise ConfigError(
            f"nothing has lent a {kind.__name__} to the code that runs here",
            hint="Call it in a workflow that an open app executes",
        )
    return lent


def here() -> Here:
    """Where the code of a step runs. Raises ConfigError anywhere else."""
    current = scope.get()
    if not isinstance(current, StepScope):
        raise ConfigError("this is not the code of a step in a run", hint="Call it in a step")
    execution = current.execution
    call = f"{execution_id(execution.record)}:{current.key}"
    return Here(current.run_id, call, execution.shadow is not None)
