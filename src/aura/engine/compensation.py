"""What a finished step of a saga leaves behind: how to take it back, and when. Pure."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aura.engine.retry import Retry
from aura.engine.step import Step
from aura.errors import RegistrationError

# Some seven minutes. Whoever wants another patience gives the compensation `@step(retries=...)`.
GENEROUS = Retry(attempts=12, first=0.5, longest=60.0)
ENDLESS = Retry(attempts=1_000_000_000, first=0.5, longest=60.0)

_MADE = "__aura_step__"


class Undo(NamedTuple):
    """A compensation: the step to call, which parameter takes the result of the step that it
    takes back (None: it does not want it), and which of that step's arguments it wants."""

    step: Step[..., Any]
    result: str | None
    wanted: tuple[str, ...]

    def arguments(self, result: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """What it is called with; `given` are the arguments of the step that it takes back."""
        chosen = {name: given[name] for name in self.wanted}
        return chosen if self.result is None else {self.result: result} | chosen


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A finished step. `lane` is its lane's id, `opened` the ticks at which that and the lanes
    around it were opened; `began` and `ended` are ticks, too."""

    key: str
    lane: str
    opened: tuple[int, ...]
    began: int
    ended: int
    undo: Undo | None
    arguments: Mapping[str, Any]


def undo_key(key: str) -> str:
    """The key of the compensation of the step with that key."""
    lane, _, call = key.rpartition("/")
    return f"{lane}/~{call}"


def round_key(key: str, number: int) -> str:
    """The key of a call that is made anew after its policy gave up; numbers start at 1."""
    return key if number == 1 else f"{key}#{number}"


def needs(later: Done, earlier: Done) -> bool:
    """Whether a step depends on another one: that had finished before its branch was opened.

    The branch is the one below the innermost lane that both have in common; two steps of one lane
    depend on each other in their order, two of branches that ran side by side do not.
    """
    mine, other = later.lane.split("."), earlier.lane.split(".")
    common = 0
    while common < min(len(mine), len(other)) and mine[common] == other[common]:
        common += 1
    opened = later.opened[common] if common < len(later.opened) else later.began
    return earlier.ended < opened


def as_step(function: Callable[..., Any]) -> Step[..., Any]:
    """The step that was declared so, or one that is made of a plain function.

    Raises RegistrationError when it has no name of its own.
    """
    if isinstance(function, Step):
        return function
    if getattr(function, "__name__", "<lambda>") == "<lambda>":
        raise RegistrationError(
            f"a saga cannot call {function!r}, which has no name", hint="Use @step or `def`"
        )
    if not inspect.isfunction(function):
        return Step(function)
    made: Step[..., Any] | None = vars(function).get(_MADE)
    if made is None:
        made = Step(function)
        setattr(function, _MADE, made)  # it lives as long as the function
    return made


def patient(step: Step[..., Any], policy: Retry) -> Step[..., Any]:
    """The same step with another policy of tries."""
    made = copy.copy(step)
    made.retry = policy
    return made


def compensation(function: Callable[..., Any], step: Step[..., Any]) -> Undo:
    """How `function` takes back `step`. Its first parameter gets the step's result, unless that
    has the name of one of the step's arguments; all others get the argument of their name.

    Raises RegistrationError for a parameter that nothing is known for.
    """
    undo = as_step(function)
    known = inspect.signature(step.function).parameters
    mine = list(inspect.signature(undo.function).parameters.values())
    result = mine.pop(0).name if mine and mine[0].name not in known else None
    wanted = tuple(one.name for one in mine if one.name in known)
    unknown = [one.name for one in mine if one.name not in known and one.default is one.empty]
    if unknown:
        raise RegistrationError(
            f"the compensation {undo.name} of step {step.name} takes {', '.join(unknown)}, which "
            f"{step.name} does not",
            hint="It gets the step's result first and then arguments of the step by their names; "
            "give other parameters a default",
        )
    chosen = undo if undo.retry.attempts else patient(undo, GENEROUS)
    return Undo(chosen, result, wanted)


def given_arguments(
    step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, with defaults."""
    step.signature.bind(args, kwargs)  # its error says what is wrong
    bound = inspect.signature(step.function).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
