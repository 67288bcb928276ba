"""What has been declared: workflows by name and version."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import semver

from aura.codec import Signature
from aura.engine import children
from aura.engine.durability import Durability, check_durability
from aura.engine.lanes import Lane, scope
from aura.errors import DuplicateVersion, RegistrationError, UnknownWorkflow

P = ParamSpec("P")
R = TypeVar("R")


LONGEST_NAME = 200
OWN = "aura."  # begins the names of the workflows that Aura itself is made of
MOST_SHOWN, MOST_NEAR = 8, 3  # names in an error


def check_name(name: Any, what: str) -> None:
    """Names are parts of keys and messages. Raises RegistrationError."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise RegistrationError(
            f"{what} has the name {name!r:.80}",
            hint=f"Give it 1 to {LONGEST_NAME} printable characters",
        )


def check_signal_name(name: Any) -> None:
    """Raises RegistrationError."""
    check_name(name, "a signal, update, stream or state")
    if "/" in name or "#" in name:
        raise RegistrationError(
            f"the name {name!r} contains / or #", hint="Journal keys are <lane>/<name>#<n>"
        )


class Workflow(Generic[P, R]):
    """One version of a workflow. Called inside a run it starts a child and gives its result; called
    outside a run, or inside a step, it is the plain function.

    Its runs wait in `queue`, unless their start names another one; workers without all tags of
    `requires` do not take them. `durability` says when journal entries are written on which nothing
    outside depends: "sync" at once, "adaptive" in batches, None as the app's settings say.
    """

    def __init__(
        self,
        name: str,
        version: str,
        function: Callable[P, Awaitable[R]],
        *,
        queue: str | None = None,
        requires: frozenset[str] = frozenset(),
        durability: Durability | None = None,
        stubs: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        check_name(name, "a workflow")
        if durability is not None:
            check_durability(durability)
        if not inspect.iscoroutinefunction(function):
            raise RegistrationError(
                f"workflow {name} is not an async function", hint="Write `async def`"
            )
        try:
            semver.Version.parse(version)
        except ValueError as error:
            raise RegistrationError(
                f"workflow {name} has version {version!r}, which is not a semantic version",
                hint='Write three numbers, as in version="1.0.0"',
            ) from error
        self.name = name
        self.version = version
        self.function = function
        self.queue = queue
        self.requires = requires
        self.durability = durability
        self.stubs = dict(stubs or {})
        self.signature = Signature(function, f"workflow {name}")
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        lane = scope.get()
        if type(lane) is not Lane:
            return self.function(*args, **kwargs)
        make = partial(children.call, self, args, kwargs)
        return lane.execution.called(self.name, make)

    def __repr__(self) -> str:
        return f"<workflow {self.name} {self.version}>"


class Resolver(Protocol):
    """Which version of a workflow a new run gets; `key` is what is kept on one version."""

    def resolve(self, workflow: str, key: str) -> str: ...


class Registry:
    """The workflows of this process, and in `lent` what the code of their runs can borrow.
    `starting` is told workflow and version of each run that a worker of the process starts."""

    def __init__(self) -> None:
        self.lent: dict[type, object] = {}
        self.starting: Callable[[str, str], None] | None = None
        self._workflows: dict[tuple[str, str], Workflow[..., Any]] = {}

    def add(self, workflow: Workflow[..., Any]) -> None:
        known = self._workflows.get((workflow.name, workflow.version))
        if known is not None and known.function is not workflow.function:
            raise DuplicateVersion(
                f"workflow {workflow.name} {workflow.version} is declared twice, as "
                f"{_place(known.function)} and {_place(workflow.function)}",
                hint="Give the new code a new version",
            )
        self._workflows[workflow.name, workflow.version] = workflow

    def get(self, name: str, version: str) -> Workflow[..., Any]:
        try:
            return self._workflows[name, version]
        except KeyError:
            raise self._unknown(name, version) from None

    def resolve(self, workflow: str, key: str) -> str:  # noqa: ARG002  (the Resolver's shape)
        """The highest version that is released; a pre-release only when there is nothing else."""
        versions = [
            semver.Version.parse(version) for name, version in self._workflows if name == workflow
        ]
        if not versions:
            raise self._unknown(workflow, None)
        return str(max(versions, key=lambda one: (one.prerelease is None, one)))

    def versions(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._workflows)

    def __contains__(self, pair: object) -> bool:
        return pair in self._workflows

    def __iter__(self) -> Iterator[Workflow[..., Any]]:
        return iter(self._workflows.values())

    def _unknown(self, name: str, version: str | None) -> UnknownWorkflow:
        wanted = f"workflow {name} {version}" if version else f"workflow {name}"
        return UnknownWorkflow(f"{wanted} is not registered here", hint=self.known(name))

    def known(self, name: str) -> str:
        """What somebody may have meant who asked for a workflow `name` that is not there, or not in
        that version: its versions, or else the app's own workflows, similar names first."""
        pairs = sorted(self._workflows, key=lambda one: (one[0], semver.Version.parse(one[1])))
        shown = [pair for pair in pairs if pair[0] == name]
        near: list[str] = []
        if shown:
            shown.reverse()
        else:
            shown = [pair for pair in pairs if not pair[0].startswith(OWN)]
            near = get_close_matches(name, {one for one, _ in shown}, MOST_NEAR)
            shown.sort(key=lambda pair: near.index(pair[0]) if pair[0] in near else MOST_NEAR)
        more = len(shown) - MOST_SHOWN
        listed = ", ".join(f"{one} {which}" for one, which in shown[:MOST_SHOWN]) or "none"
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        return f"{meant}Registered: {listed}{f' and {more} others' if more > 0 else ''}"


def _place(function: Callable[..., Any]) -> str:
    """Where a function is written: module, name and line."""
    code = getattr(function, "__code__", None)
    line = f" (line {code.co_firstlineno})" if code is not None else ""
    return f"{function.__module__}.{function.__qualname__}{line}"
