"""Steps: functions whose results are journalled."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from aura.codec import Signature
from aura.engine.definition import check_name
from aura.engine.lanes import Lane, scope
from aura.engine.retry import Retry
from aura.errors import RegistrationError

P = ParamSpec("P")
R = TypeVar("R")


class Step(Generic[P, R]):
    """A function whose result is journalled when it is called inside a run.

    Outside a run it is the plain function. A plain `def` runs in a thread.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        *,
        name: str | None = None,
        retry: Retry = Retry(),  # noqa: B008  (frozen)
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> None:
        if inspect.isclass(function) or not hasattr(function, "__name__"):
            raise RegistrationError(f"@step needs a function, not {function!r}")
        if timeout is not None and timeout <= 0:
            raise RegistrationError(
                f"step {function.__name__} has timeout={timeout}", hint="Give seconds above 0"
            )
        self.function = function
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise RegistrationError(
                f"step {function.__name__} is a generator", hint="Return a list of what it yields"
            )
        self.name = function.__name__ if name is None else name
        check_name(self.name, "a step")
        if "/" in self.name or "#" in self.name or self.name[0] == "~":
            raise RegistrationError(
                f"step name {self.name!r} contains / or #, or begins with ~",
                hint="Keys are <lane>/<name>#<n>, and ~ is for compensations",
            )
        self.retry = retry
        self.timeout = timeout
        self.idempotent = idempotent
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = Signature(function, f"step {self.name}")
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        lane = scope.get()
        if type(lane) is not Lane:
            return cast("Coroutine[Any, Any, R]", self.function(*args, **kwargs))
        return lane.execution.called(self.name, lambda call: self._durable(call, args, kwargs))

    async def _durable(self, call: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        lane = scope.get()  # the lane of the task that awaits, not of the one that called
        assert type(lane) is Lane  # noqa: S101  (set for every task of a run)
        lane.execution.began(call)
        return cast("R", await lane.execution.step(lane, self, args, kwargs))

    def __repr__(self) -> str:
        return f"<step {self.name}>"


@overload
def step(function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...


@overload
def step(
    *,
    retries: int | Retry = 0,
    timeout: float | None = None,
    idempotent: bool = False,
    name: str | None = None,
) -> _Decorator: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retries: int | Retry = 0,
    timeout: float | None = None,
    idempotent: bool = False,
    name: str | None = None,
) -> Any:
    """Declare a step: a function whose result is journalled, retried by policy.

    `retries` is how often to try again (exponential backoff with jitter), or a `Retry`; `timeout`
    bounds each try in seconds; `idempotent=True` says that running it twice does no harm, so its
    journal entry may be batched; `name` replaces the function's name in journal keys.
    """
    if isinstance(retries, int) and retries < 0:
        raise RegistrationError(f"retries={retries}", hint="Give 0 or more")
    retry = retries if isinstance(retries, Retry) else Retry(attempts=retries)

    def decorate(function: Callable[..., Any]) -> Step[..., Any]:
        return Step(function, name=name, retry=retry, timeout=timeout, idempotent=idempotent)

    return decorate if function is None else decorate(function)


class _Decorator(Protocol):
    """The type of `step(...)`: keeps the signature of what it decorates."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...
