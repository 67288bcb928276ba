"""The composition root: one app, one frozen config, everything joined."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload
from urllib.parse import urlsplit

from aura.clock import Clock, SystemClock
from aura.codec import Limits, pack, same_json
from aura.delivery.rollouts import Rollouts
from aura.engine import Registry, Resolver, Results, Run, Worker, WorkerOptions, Workflow
from aura.engine.lanes import settle_dependencies
from aura.engine.middleware import Middleware
from aura.engine.retention import Sweeper
from aura.errors import (
    ConfigError,
    InvalidInput,
    RunConflict,
    UnknownWorkflow,
)
from aura.store.base import RunFilter, RunRecord, Started, StartRun, Store
from aura.store.committer import Committer
from aura.store.keys import Keyring
from aura.store.sealed import SealedStore, sealed

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_DATABASE = "./aura.db"
LEAST_RETENTION = 60.0
"""Seconds: whoever waits for a result must have the time to fetch it."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Times in seconds.

    `database` is a path, ":memory:" or a postgresql:// URL; AURA_DATABASE_URL stands for it when it
    is not given, as AURA_LEASE does for `lease`. `max_payload` bounds one encoded argument or
    result in bytes. Ended runs are deleted after `retention` (seconds or a timedelta; None: never).
    `encryption_keys` are "id:base64" of 32 bytes each; the first one encrypts, all decrypt;
    AURA_ENCRYPTION_KEYS stands for them, separated by commas.
    """

    database: str = field(
        default_factory=lambda: os.environ.get("AURA_DATABASE_URL", DEFAULT_DATABASE)
    )
    lease: float = field(default_factory=lambda: _seconds("AURA_LEASE", 10.0))
    poll: float = 1.0
    capacity: int = 1_000
    threads: int = 32
    grace: float = 10.0
    max_payload: int = 8 * 1024 * 1024
    retention: timedelta | float | None = timedelta(days=30)
    encryption_keys: tuple[str, ...] = field(default_factory=lambda: _keys(), repr=False)

    def __post_init__(self) -> None:
        for name in ("lease", "poll", "capacity", "threads", "max_payload"):
            if not 0 < getattr(self, name) < math.inf:  # which nan is not either
                raise ConfigError(f"{name} is {getattr(self, name)}", hint="It must be above 0")
        age = self.retention_seconds
        if age is not None and not age >= LEAST_RETENTION:
            raise ConfigError(f"retention is {age:g} s", hint="Give 60 or more, or None for ever")
        Keyring(self.encryption_keys)  # refuses what is none

    @property
    def retention_seconds(self) -> float | None:
        """For how long ended runs are kept; None for ever."""
        kept = self.retention
        return kept.total_seconds() if isinstance(kept, timedelta) else kept


def _keys() -> tuple[str, ...]:
    return tuple(os.environ.get("AURA_ENCRYPTION_KEYS", "").replace(",", " ").split())


def _seconds(variable: str, default: float) -> float:
    """The seconds in an environment variable. Raises ConfigError when it is no number."""
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            f"{variable} is {text!r}", hint="Give seconds as a number, say 10"
        ) from error


class Aura:
    """An application: its workflows, its store and its worker.

    `async with app:` opens the store and starts an in-process worker; `app.client()` does the same
    without a worker, for processes that only start runs and wait for them.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Config | None = None,
        clock: Clock | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self.name = name
        self.config = config or Config()
        self.clock = clock or SystemClock()
        self.registry = Registry()
        self.rollouts = Rollouts()
        self.registry.add(self.rollouts.engine.workflow)
        self._resolver: Resolver = resolver or self.registry
        self._limits = Limits(max_bytes=self.config.max_payload)
        self._worker: Worker | None = None
        self._sweeper: Sweeper | None = None
        self._around: list[Middleware] = []
        self._opened = False

    def middleware(self, around: Middleware) -> Middleware:
        """Wrap a function around every run and every try of a step, the first one outermost.

        It is called with an `Invocation` and a function without arguments: `await proceed()` gives
        the result or raises. What it returns is the result. Around a run it is called each time
        that the run is taken up, so it must not decide anything for the run's code; it may await,
        but what it awaits is not journalled.
        """
        self._around.append(around)
        return around

    def workflow(
        self, *, version: str, name: str | None = None
    ) -> Callable[[Callable[P, Awaitable[R]]], Workflow[P, R]]:
        """Declare one version of a workflow. Raises RegistrationError, DuplicateVersion."""

        def decorate(function: Callable[P, Awaitable[R]]) -> Workflow[P, R]:
            chosen = function.__name__ if name is None else name
            made: Workflow[P, R] = Workflow(chosen, version, function)
            self.registry.add(made)
            return made

        return decorate

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def client(self) -> _Client:
        """`async with app.client():` opens the app without a worker."""
        return _Client(self)

    async def open(self, *, worker: bool = True, only: str | None = None) -> None:
        """Open the store and, unless told otherwise, start a worker in this process.

        With `only` that worker takes no run of others but the one with that id.
        """
        for workflow in self.registry:
            workflow.signature.compile()
        self.store = await self._open_store(worker=worker)
        self.committer = Committer(self.store, self.clock, patience=self.config.lease / 2)
        self.committer.open()
        origin = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.results = Results(self.store, origin, self.clock)
        self._worker = self._make_worker(only) if worker else None
        self.results.open(self._worker.executes if self._worker else lambda _: False)
        self._opened = True
        self.rollouts.open(self.store, self.committer, self.clock, self.start)
        if self._worker is not None:
            await self._worker.open()
        age = self.config.retention_seconds
        if worker and age is not None:
            plan = partial(self.rollouts.sweep_plan, age)
            self._sweeper = Sweeper(self.store, self.clock, plan)
            self._sweeper.open()

    async def _open_store(self, *, worker: bool) -> Store:
        """The store, which encrypts when there are keys. A worker must be able to read it."""
        store = open_store(self.config.database, self.clock)
        try:
            await store.open()
            found = await sealed(store, Keyring(self.config.encryption_keys))
            if worker and isinstance(found, SealedStore):
                found.require_keys()
        except BaseException:
            await store.close()
            raise
        return found

    async def close(self) -> None:
        """Hand back unfinished runs and close the store."""
        if not self._opened:
            return
        self._opened = False
        if self._sweeper is not None:
            await self._sweeper.close()
            self._sweeper = None
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        await self.rollouts.close()
        await self.results.close()
        await self.committer.close()
        await self.store.close()

    @overload
    async def start(
        self,
        workflow: Workflow[..., R],
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> Run[R]: ...

    @overload
    async def start(
        self,
        workflow: str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> Run[Any]: ...

    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> Run[Any]:
        """Start a run, durable when this returns. The same id with the same input is the same run.

        `workflow` is a declared workflow (that version runs) or a name (`version`, or the one that
        the resolver chooses). Arguments that are called id or version are passed by position.

        Raises UnknownWorkflow, InvalidInput, PayloadTooLarge, RunConflict.
        """
        self._require_open()
        run_id = new_run_id(self.clock.now()) if id is None else _checked_id(id)
        chosen = self._choose(workflow, version, run_id)
        data = chosen.signature.dump_checked(args, kwargs, self._limits)
        packed = pack(data, self._limits, f"the input of workflow {chosen.name}")
        fingerprint = chosen.signature.fingerprint(data)
        op = StartRun(
            run_id, chosen.name, chosen.version, packed, fingerprint, self.results.origin
        )  # fmt: skip
        await settle_dependencies()
        submit = self._worker.start if self._worker else self.committer.submit
        self._accept(op, cast("Started", await asyncio.shield(submit(op))))
        return self._handle(run_id, chosen)

    def run(self, run_id: str, workflow: Workflow[P, R] | None = None) -> Run[Any]:
        """A handle to a run by its id; with `workflow` its result comes back as declared."""
        self._require_open()
        return self._handle(run_id, workflow)

    async def runs(self, where: RunFilter = RunFilter()) -> list[RunRecord]:  # noqa: B008
        """Runs, newest first."""
        self._require_open()
        return await self.store.runs(where)

    def _handle(self, run_id: str, workflow: Workflow[..., Any] | None) -> Run[Any]:
        slot = workflow.signature.result if workflow else None
        return Run(run_id, self.store, self.committer, self.results, slot, self._limits)

    def _choose(
        self, workflow: Workflow[..., Any] | str, version: str | None, key: str
    ) -> Workflow[..., Any]:
        if isinstance(workflow, str):
            return self.registry.get(workflow, version or self._resolver.resolve(workflow, key))
        if not isinstance(workflow, Workflow):
            raise UnknownWorkflow(
                f"{workflow!r} is not a workflow", hint='Declare it with @app.workflow(version="…")'
            )
        self.registry.add(workflow)
        return workflow

    def _accept(self, op: StartRun, started: Started) -> None:
        found = started.run
        same = found.fingerprint == op.fingerprint or same_json(found.input, op.input)
        if found.workflow != op.workflow or not same:
            raise RunConflict(
                f"run {op.id} exists with another input or workflow "
                f"({found.workflow} {found.version}, {found.state})",
                hint="Choose another id, or start it with the same input",
            )

    def _make_worker(self, only: str | None) -> Worker:
        config = self.config
        options = WorkerOptions(
            config.lease, config.poll, config.capacity, config.threads, config.grace, only
        )
        return Worker(
            self.store, self.committer, self.registry, self.results, self.clock, self._limits,
            options, self._around,
        )  # fmt: skip

    def _require_open(self) -> None:
        if not self._opened:
            raise ConfigError(
                f"app {self.name} is not open", hint="Use `async with app:` around it"
            )


class _Client:
    def __init__(self, app: Aura) -> None:
        self._app = app

    async def __aenter__(self) -> Aura:
        await self._app.open(worker=False)
        return self._app

    async def __aexit__(self, *_: object) -> None:
        await self._app.close()


def open_store(database: str, clock: Clock) -> Store:
    """The store for a path, ":memory:", sqlite:///path or postgresql:// URL.

    Raises ConfigError for a URL that cannot be one.
    """
    if database.startswith(("postgresql://", "postgres://")):
        from aura.store.postgres import PostgresStore

        try:
            urlsplit(database)
        except ValueError:  # whose text may have the password in it
            raise ConfigError(
                "the database's URL cannot be read",
                hint="Write postgresql://user@host:5432/name, and %XX for odd characters in it",
            ) from None
        return PostgresStore(database)
    from aura.store.sqlite import SqliteStore

    path = database.removeprefix("sqlite:///")
    if "://" in path:
        raise ConfigError(
            f"the database {path.split('://')[0]}://… is of an unknown kind",
            hint="Give a path for SQLite or a postgresql:// URL",
        )
    return SqliteStore(path, clock=clock)


def _checked_id(run_id: Any) -> str:
    if not isinstance(run_id, str) or not 0 < len(run_id) <= 500 or not run_id.isprintable():
        raise InvalidInput(
            f"a run cannot have the id {run_id!r:.80}", hint="Give 1 to 500 printable characters"
        )
    return run_id


def new_run_id(now: float) -> str:
    """A time-ordered unique id (UUID version 7) for an epoch time in seconds: new runs are
    neighbours in the database."""
    millis = int(now * 1000)
    value = (millis << 80) | secrets.randbits(80)
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))
