"""Steps: functions whose results are journalled."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from aura.codec import Signature, Slot
from aura.engine.definition import Workflow, check_name
from aura.engine.lanes import Lane, scope
from aura.engine.retry import Retry
from aura.engine.transaction import without_connection
from aura.errors import RegistrationError
from aura.store.session import ISOLATIONS, Isolation

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
        shadow: Callable[..., Any] | None = None,
    ) -> None:
        if isinstance(function, Workflow):
            raise RegistrationError(
                f"workflow {function.name} cannot be a step",
                hint="Await it in the workflow, where it is a child, or call it in a step of yours",
            )
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
        self.stub = None if shadow is None else Step(shadow, name=self.name).function
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = Signature(function, f"step {self.name}")
        functools.update_wrapper(self, function)

    @property
    def slot(self) -> Slot:
        """How the result is written and read."""
        return self.signature.result

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


class _Unmarked(Signature):
    """One whose arguments are not compared on replay."""

    def fingerprint(self, data: bytes) -> str:  # noqa: ARG002
        return "own"


def own_step(
    function: Callable[..., Any], *, name: str, retry: Retry, idempotent: bool = False
) -> Step[..., Any]:
    """A step of a workflow that Aura itself is made of.

    Its arguments follow from the run's input and its journal, so they are not compared on replay:
    a version of Aura in which plans have one more setting goes on with the rollouts of the one
    before, instead of parking them with their traffic where it is.
    """
    made: Step[..., Any] = Step(function, name=name, retry=retry, idempotent=idempotent)
    made.signature = _Unmarked(function, made.signature.what)
    return made


class TransactionStep(Step[P, R]):
    """A step whose statements and journal entry are committed together, by Aura's own store.

    `body` is the function itself, which takes the connection first.
    """

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        *,
        name: str | None = None,
        retry: Retry = Retry(),  # noqa: B008  (frozen)
        timeout: float | None = None,
        isolation: Isolation | None = None,
        database: str | None = None,
        shadow: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(
            without_connection(function), name=name, retry=retry, timeout=timeout, shadow=shadow
        )
        if isolation is not None and isolation not in ISOLATIONS:
            raise RegistrationError(
                f"step {self.name} has isolation={isolation!r}",
                hint=f"Give one of {', '.join(ISOLATIONS)}",
            )
        self.body = function
        self.isolation = isolation
        self.database = database
        self._result = self.signature

    @property
    def slot(self) -> Slot:
        """How the result is written and read, also where a saga watches the signature."""
        return self._result.result

    def see(self, value: Any) -> None:
        """Tell a saga that watches the signature that the step's result is durable."""
        watcher: Any = self.signature.result
        if watcher is not self.slot:
            watcher.see(value)


class StepDecorator:
    """`@step` declares a step: a function whose result is journalled, retried by policy.

    `retries` is how often to try again (exponential backoff with jitter), or a `Retry`; `timeout`
    bounds each try in seconds; `idempotent=True` says that running it twice does no harm, so its
    journal entry may be batched; `name` replaces the function's name in journal keys; `shadow` is
    called instead, with the same arguments, in shadow runs whose baseline has no answer.
    `@step.transaction` declares one whose own SQL is committed together with its journal entry.
    """

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...

    @overload
    def __call__(
        self,
        /,
        *,
        retries: int | Retry = 0,
        timeout: float | None = None,
        idempotent: bool = False,
        name: str | None = None,
        shadow: Callable[..., Any] | None = None,
    ) -> _Decorator: ...

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        retries: int | Retry = 0,
        timeout: float | None = None,
        idempotent: bool = False,
        name: str | None = None,
        shadow: Callable[..., Any] | None = None,
    ) -> Any:
        retry = _retry(retries)

        def decorate(function: Callable[..., Any]) -> Step[..., Any]:
            return Step(
                function, name=name, retry=retry, timeout=timeout, idempotent=idempotent,
                shadow=shadow,
            )  # fmt: skip

        return decorate if function is None else decorate(function)

    @overload
    def transaction(
        self, function: Callable[Concatenate[Any, P], Awaitable[R]], /
    ) -> TransactionStep[P, R]: ...

    @overload
    def transaction(
        self,
        /,
        *,
        retries: int | Retry = 0,
        timeout: float | None = None,
        name: str | None = None,
        isolation: Isolation | None = None,
        database: str | None = None,
        shadow: Callable[..., Any] | None = None,
    ) -> _TransactionDecorator: ...

    def transaction(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        retries: int | Retry = 0,
        timeout: float | None = None,
        name: str | None = None,
        isolation: Isolation | None = None,
        database: str | None = None,
        shadow: Callable[..., Any] | None = None,
    ) -> Any:
        """Declare a step that gets a connection to Aura's own database as its first argument.

        Its statements and its journal entry are committed together: exactly once. It is rolled back
        when it raises, is cancelled or runs out of time, and begun anew when the database asks for
        that. `isolation` is PostgreSQL's level (SQLite always gives "serializable"); `database`,
        when given, is the path or URL that the app must be on.
        """
        retry = _retry(retries)

        def decorate(function: Callable[..., Any]) -> TransactionStep[..., Any]:
            return TransactionStep(
                function, name=name, retry=retry, timeout=timeout, isolation=isolation,
                database=database, shadow=shadow,
            )  # fmt: skip

        return decorate if function is None else decorate(function)


step = StepDecorator()


def _retry(retries: int | Retry) -> Retry:
    if isinstance(retries, int) and retries < 0:
        raise RegistrationError(f"retries={retries}", hint="Give 0 or more")
    return retries if isinstance(retries, Retry) else Retry(attempts=retries)


class _Decorator(Protocol):
    """The type of `step(...)`: keeps the signature of what it decorates."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


class _TransactionDecorator(Protocol):
    """The type of `step.transaction(...)`: takes the connection away from the signature."""

    def __call__(
        self, function: Callable[Concatenate[Any, P], Awaitable[R]], /
    ) -> TransactionStep[P, R]: ...
