"""Stand-ins for steps: what a step gives or raises in a test, and how it was called."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aura.engine.lanes import StepScope, scope
from aura.engine.step import Step, TransactionStep
from aura.errors import SandboxError

_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Call:
    """One time that a mocked step was executed. `run` and `key` say where ("" outside a run),
    `attempt` which try it was, from 1."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    run: str = ""
    key: str = ""
    attempt: int = 1


@dataclass(slots=True)
class StepMock:
    """What a mocked step was called with. A replay does not call steps, so it adds nothing."""

    step: Step[..., Any]
    calls: list[Call] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How often it was executed, each try counted."""
        return len(self.calls)

    @property
    def last(self) -> Call:
        """The last call. Raises SandboxError when there was none."""
        if not self.calls:
            raise SandboxError(f"step {self.step.name} was not called")
        return self.calls[-1]


@contextlib.contextmanager
def mock_step(
    step: Step[..., Any],
    *,
    returns: Any = _NOTHING,
    raises: BaseException | type[BaseException] | None = None,
    calls: Callable[..., Any] | None = None,
) -> Iterator[StepMock]:
    """Let a step do something else inside the `with`, wherever it is called.

    It `returns` that, `raises` that, or `calls` that function with the step's arguments (plain or
    async). Everything around it stays as it is: tries, the time limit, the check of the result's
    type, the journal. Raises SandboxError for what is no step, two of the three, or a step that is
    mocked already.
    """
    if not isinstance(step, Step):
        raise SandboxError(
            f"{step!r:.80} is not a step", hint="Give a function that has @step, not its name"
        )
    if [returns is not _NOTHING, raises is not None, calls is not None].count(True) != 1:
        raise SandboxError(
            f"the mock of step {step.name} is not clear",
            hint="Give exactly one of returns=, raises= and calls=",
        )
    place = "body" if isinstance(step, TransactionStep) else "function"
    real = getattr(step, place)
    if getattr(real, "stands_for", None) is not None:
        raise SandboxError(
            f"step {step.name} is mocked already", hint="Leave the other mock_step first"
        )
    mock = StepMock(step)
    setattr(step, place, _fake(mock, real, _answer(step, returns, raises, calls)))
    try:
        yield mock
    finally:
        setattr(step, place, real)


def _answer(
    step: Step[..., Any],
    returns: Any,
    raises: BaseException | type[BaseException] | None,
    calls: Callable[..., Any] | None,
) -> Callable[..., Any]:
    if calls is not None:
        if inspect.iscoroutinefunction(calls) and not step.is_async:
            raise SandboxError(
                f"step {step.name} is a plain function and its mock is async",
                hint="Give calls= a plain function",
            )
        return calls

    error = _made(step, raises)

    def answer(*_: Any, **__: Any) -> Any:
        if error is not None:
            raise error
        return returns

    return answer


def _made(
    step: Step[..., Any], raises: BaseException | type[BaseException] | None
) -> BaseException | None:
    if not isinstance(raises, type):
        return raises
    try:
        return raises()
    except TypeError as error:
        raise SandboxError(
            f"the mock of step {step.name} cannot raise {raises.__name__}: {error}",
            hint="Give raises= an exception and not its type",
        ) from error


def _fake(
    mock: StepMock, real: Callable[..., Any], answer: Callable[..., Any]
) -> Callable[..., Any]:
    transaction = isinstance(mock.step, TransactionStep)

    def note(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = scope.get()
        shown = args[1:] if transaction else args  # without the connection
        if isinstance(current, StepScope):
            mock.calls.append(Call(shown, kwargs, current.run_id, current.key, current.attempt))
        else:
            mock.calls.append(Call(shown, kwargs))

    async def fake(*args: Any, **kwargs: Any) -> Any:
        note(args, kwargs)
        given = answer(*args, **kwargs)
        return await given if inspect.isawaitable(given) else given

    def plain_fake(*args: Any, **kwargs: Any) -> Any:
        note(args, kwargs)
        return answer(*args, **kwargs)

    chosen: Any = functools.wraps(real)(fake if mock.step.is_async else plain_fake)
    chosen.stands_for = mock.step
    made: Callable[..., Any] = chosen
    return made
