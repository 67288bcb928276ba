"""The composition root: one app, one frozen config, everything joined."""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Never, ParamSpec, Self, TypeVar, Unpack, cast, overload

from aura.clock import Clock, SystemClock
from aura.codec import Limits, pack
from aura.delivery.catalog_values import About
from aura.delivery.desk import Desk
from aura.engine import Registry, Resolver, Results, Run, Worker, WorkerOptions, Workflow
from aura.engine.attributes import taken_attributes
from aura.engine.bus import Events
from aura.engine.children import Terms, check_same
from aura.engine.children import start as start_child
from aura.engine.durability import Durability, check_durability
from aura.engine.events import Handling, new_id
from aura.engine.handle import Deadline
from aura.engine.history import MAX_BYTES, MAX_ENTRIES, HistoryLimits
from aura.engine.ids import asked_id, checked_id
from aura.engine.ids import new_run_id as new_run_id
from aura.engine.lanes import Lane, scope, settle_dependencies
from aura.engine.middleware import Middleware
from aura.engine.onto import Onto
from aura.engine.poison import MOST_RECOVERIES
from aura.engine.queues import (
    Queue,
    Queues,
    Rate,
    checked_tags,
    named,
    offer,
    place,
    placed,
    read_resources,
)
from aura.engine.residence import Residence
from aura.engine.retention import Sweeper
from aura.engine.schedules import ScheduleOptions, Schedules
from aura.engine.settings import check_app, check_database, check_number
from aura.engine.shadow import checked_stubs, held_transaction, inherited, shadow_place
from aura.engine.storeclock import StoreClock
from aura.engine.tenure import Turnover
from aura.engine.transaction import Open
from aura.engine.watch import begun
from aura.errors import ConfigError, RegistrationError, UnknownWorkflow
from aura.masking import Masking
from aura.store.base import RunFilter, RunRecord, StartRun, Store, Sweep
from aura.store.committer import Committer
from aura.store.keys import Keyring
from aura.store.opening import open_store as open_store
from aura.store.queues import Placement
from aura.store.resealing import Resealing
from aura.store.sealed import SealedStore, sealed
from aura.store.session import Isolation
from aura.telemetry import Telemetry, tracing_of

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
    result in bytes. A run is parked when the journal of one execution would have more than
    `max_history` entries or `max_history_bytes`; at half of that the log says so. It is parked also
    when `max_recoveries` workers in a row have died of it. Ended runs, and events that every group
    has handled, are deleted after `retention` (seconds or a timedelta; None: never); events that a
    group has not handled are kept for `unread_retention` (None: until it has).
    With `durability` "adaptive" journal entries on which nothing outside depends are written in
    batches, the rarer the longer processes live: `mtbf` seconds between failures (None: estimated).
    `encryption_keys` are "id:base64" of 32 bytes each; the first one encrypts, all decrypt;
    AURA_ENCRYPTION_KEYS stands for them, separated by commas. What queues may require of a worker:
    its `tags` (AURA_TAGS=gpu,eu) and `resources` (AURA_RESOURCES=gpu=2,ram=64). `masking` says what
    people are not shown (AURA_MASK, AURA_UNMASKED).
    """

    database: str = field(
        default_factory=lambda: os.environ.get("AURA_DATABASE_URL", DEFAULT_DATABASE)
    )
    lease: float = field(default_factory=lambda: _seconds("AURA_LEASE", 10.0))
    durability: Durability = "sync"
    mtbf: float | None = None
    poll: float = 1.0
    capacity: int = 1_000
    threads: int = 32
    grace: float = 10.0
    max_payload: int = 8 * 1024 * 1024
    max_history: int = MAX_ENTRIES
    max_history_bytes: int = MAX_BYTES
    max_recoveries: int = MOST_RECOVERIES
    retention: timedelta | float | None = timedelta(days=30)
    unread_retention: timedelta | float | None = None
    encryption_keys: tuple[str, ...] = field(default_factory=lambda: _keys(), repr=False)
    tags: frozenset[str] = field(default_factory=lambda: _tags())
    resources: Mapping[str, float] = field(default_factory=lambda: _resources())
    masking: Masking = field(default_factory=Masking)

    def __post_init__(self) -> None:
        check_database(self.database)
        for name in (
            *("lease", "poll", "capacity", "threads", "max_payload"),
            *("max_history", "max_history_bytes", "max_recoveries"),
        ):
            check_number(name, getattr(self, name), "It must be above 0")
        for name, age in (("retention", self.retention_seconds), ("unread_retention", self.unread)):
            if age is not None:
                hint = "Give 60 seconds or more, or None for ever"
                check_number(name, age, hint, LEAST_RETENTION)
        check_durability(self.durability)
        if self.mtbf is not None:
            check_number("mtbf", self.mtbf, "Give seconds above 0, or None")
        Keyring(self.encryption_keys)  # refuses what is none
        offer(self.tags, self.resources)

    @property
    def retention_seconds(self) -> float | None:
        """For how long ended runs are kept; None for ever."""
        return _age(self.retention)

    @property
    def unread(self) -> float | None:
        """For how many seconds events that nobody has handled are kept; None for ever."""
        return _age(self.unread_retention)


def _age(kept: timedelta | float | None) -> float | None:
    return kept.total_seconds() if isinstance(kept, timedelta) else kept


def _keys() -> tuple[str, ...]:
    return tuple(os.environ.get("AURA_ENCRYPTION_KEYS", "").replace(",", " ").split())


def _tags() -> frozenset[str]:
    return frozenset(os.environ.get("AURA_TAGS", "").replace(",", " ").split())


def _resources() -> dict[str, float]:
    return read_resources(os.environ.get("AURA_RESOURCES", "").replace(",", " ").split())


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


class Aura(Events, Desk):
    """An application: its workflows, its store and its worker.

    `async with app:` opens the store and starts an in-process worker; `app.client()` does the same
    without a worker, for processes that only start runs and wait for them. With `telemetry`
    (True, or an `aura.telemetry.Telemetry`; AURA_TELEMETRY=1) it is traced.
    """

    committer: Committer

    def __init__(
        self,
        name: str,
        *,
        config: Config | None = None,
        clock: Clock | None = None,
        resolver: Resolver | None = None,
        telemetry: Telemetry | bool | None = None,
    ) -> None:
        super().__init__()
        self.name = check_app(name)
        self.config = config or Config()
        self.clock = clock or SystemClock()
        self.registry = Registry()
        self._set_desk(Onto(self.registry), self.registry)
        self._resolver: Resolver = resolver or self.registry
        self._residence, self._resealing = Residence(), Resealing()
        self._limits = Limits(max_bytes=self.config.max_payload)
        self.schedules = Schedules(self.registry, self._resolver, self._limits)
        self.registry.add(self.schedules.engine.workflow)
        self._worker: Worker | None = None
        self._sweeper: Sweeper | None = None
        self._around: list[Middleware] = self._traced_by(tracing_of(telemetry, name, self.clock))
        self.queues = Queues()
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
        self,
        *bare: Never,
        version: str = "",
        name: str | None = None,
        queue: Queue | str | None = None,
        requires: Iterable[str] = (),
        durability: Durability | None = None,
        shadow: Mapping[str, Callable[..., Any]] | None = None,
        **about: Unpack[About],
    ) -> Callable[[Callable[P, Awaitable[R]]], Workflow[P, R]]:
        """Declare one version of a workflow.

        Its runs wait in `queue`, unless their start names another one; only workers that have all
        tags of `requires` take them. `durability` is the app's unless it is given. `shadow` has
        functions by the names of steps, for which they stand in shadow runs. For the catalog:
        `owner` and `changelog` (one line each), `metadata` (a dict). Raises RegistrationError,
        DuplicateVersion, ConfigError.
        """
        if bare or not version:
            raise RegistrationError(
                "a workflow was declared without its version",
                hint='Write @app.workflow(version="1.0.0"), with the brackets',
            )
        line = queue.name if isinstance(queue, Queue) else queue
        tags = checked_tags(requires)
        stubs = checked_stubs(shadow)

        def decorate(function: Callable[P, Awaitable[R]]) -> Workflow[P, R]:
            chosen = function.__name__ if name is None else name
            made: Workflow[P, R] = Workflow(
                chosen, version, function, queue=line, requires=tags, durability=durability,
                stubs=stubs,
            )  # fmt: skip
            self.registry.add(made)
            self.catalog.declare(made, about)
            return made

        return decorate

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        per_worker: int | None = None,
        per_key: int | None = None,
        rate: Rate | None = None,
        requires: Iterable[str] = (),
        resources: Mapping[str, float] | None = None,
    ) -> Queue:
        """Declare a queue: how many of its runs may be running at once, in all, on one worker and
        of one key; `rate=(100, timedelta(minutes=1))`: how many may begin within any such time.

        Its runs are taken by workers that have all tags of `requires` and enough of `resources`,
        of which each running run uses so much. Raises RegistrationError.
        """
        return self.queues.declare(
            name, concurrency=concurrency, per_worker=per_worker, per_key=per_key, rate=rate,
            requires=requires, resources=resources,
        )  # fmt: skip

    place = staticmethod(place)
    shadow = staticmethod(shadow_place)

    def schedule(
        self,
        name: str,
        workflow: Workflow[..., Any] | str,
        *args: Any,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        """Declare a schedule: start the workflow with these arguments again and again.

        `app.schedule("nightly", report, "all", cron="0 3 * * *", timezone="Europe/Berlin")`. It is
        created, or changed, when a worker of the app starts. Options: `cron` or `every`,
        `timezone`, `overlap`, `missed`, `jitter`, `queue`, `deadline`. A workflow that has a
        parameter `tick` gets the time for which it was started, a datetime, there.

        Raises RegistrationError.
        """
        self.schedules.declare(name, workflow, args, options)

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
        self.time = StoreClock(self.clock)
        await self.time.ask(self.store)
        self.committer = Committer(
            self.store, self.time, patience=self.config.lease / 2, mtbf=self.config.mtbf
        )  # fmt: skip
        self._residence.opens(self.committer)
        origin = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.results = Results(self.store, origin, self.time)
        self._worker = self._make_worker(only) if worker else None
        await self.queues.open(self.store, self.committer, worker=worker)
        self.results.open(self._worker.executes if self._worker else lambda _: False)
        self._opened = True
        self._open_desk(self.store, self.committer, self.clock, self.start, self.run)
        self.schedules.open(
            self.store, self.committer, self.time, self.start, self.run, self.queues.require
        )
        self.schedules.engine.attach(
            self.store, self.committer, self._limits, origin,
            self._worker.start if self._worker else self.committer.submit,
        )  # fmt: skip
        if self._worker is not None:
            await self._worker.open()
            if only is None:
                self._watch_desk()
                await self.schedules.apply()
                await self._open_bus(
                    self._worker, self._resolver, self.start, self.config.threads, self.config.lease
                )
        age = self.config.retention_seconds
        if worker and age is not None:
            plan = partial(self.sweep_plan, age)
            self._sweeper = Sweeper(self.store, self.clock, plan)
            self._sweeper.open()

    async def sweep_plan(self, age: float) -> Sweep:
        """What may be deleted of what has been over for `age` seconds."""
        return replace(await self._sweep_desk(age), unread=self.config.unread)

    async def _open_store(self, *, worker: bool) -> Store:
        """The store, which encrypts when there are keys. A worker must be able to read it."""
        store = open_store(self.config.database, self.clock)
        try:
            await store.open()
            found = await sealed(store, Keyring(self.config.encryption_keys))
            if worker and isinstance(found, SealedStore):
                found.require_keys()
            home = await self._residence.open(found, self.clock)
            if worker:
                self._residence.require()
                await self._resealing.open(found, self.clock)
                self._residence.then(self._resealing.stop)
        except BaseException:
            await self._residence.close()
            await store.close()
            raise
        return home

    async def close(self) -> None:
        """Hand back unfinished runs and close the store."""
        if not self._opened:
            return
        self._opened = False
        if self._sweeper is not None:
            await self._sweeper.close()
            self._sweeper = None
        await self._resealing.close()
        await self._close_bus(self.config.grace)
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        await self._close_desk()
        await self.results.close()
        await self.committer.close()
        await self._residence.close()
        await self.store.close()
        if self._traces is not None:
            self._traces.close()

    @overload
    async def start(
        self,
        workflow: Workflow[..., R],
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> Run[R]: ...

    @overload
    async def start(
        self,
        workflow: str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> Run[Any]: ...

    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        *args: Any,
        id: str | None = None,
        version: str | None = None,
        queue: Queue | Placement | str | None = None,
        deadline: Deadline = None,
        detached: bool = False,
        **kwargs: Any,
    ) -> Run[Any]:
        """Start a run, durable when this returns. The same id with the same input is the same run.

        `workflow` is a declared workflow (that version runs), a name (`version`, or the one that
        the resolver chooses) or `name@range`, as in "research@^1.2"; `version` may be a range, too.
        `queue` is where the run waits: a queue, its name, or a place in one
        (`gpu.place(key="tenant-7", priority="high")`, `app.place(delay=60)`). A run that is not
        done at its `deadline` (seconds from now, a timedelta or an aware datetime) is interrupted
        and fails with DeadlineExceeded. By `attributes={"customer": "x"}` (texts, not encrypted)
        it is found. Arguments that are called like these are passed by position.

        Inside a run the new one is its child: the start is journalled, its id is made of the
        parent's unless you choose one, and when the parent ends it is asked to stop, unless it is
        `detached`. `await run.result()` then is a durable wait.

        Raises UnknownWorkflow, UnknownQueue, InvalidInput, PayloadTooLarge, RunConflict.
        """
        attributes = taken_attributes(kwargs)
        lane = self._inside()
        if lane is not None:
            until = self.results.moment(deadline) if self._opened else None
            chosen_id = None if id is None else checked_id(id)
            terms = Terms(chosen_id, detached, named(queue), until, attributes)
            return await self._start_child(lane, (workflow, version), (args, kwargs), terms)
        self._require_open()
        self._residence.require()
        run_id = new_run_id(self.clock.now()) if id is None else checked_id(id)
        chosen = await self.choose(workflow, version, run_id)
        data = chosen.signature.dump_checked(args, kwargs, self._limits)
        packed = pack(data, self._limits, f"the input of workflow {chosen.name}")
        fingerprint = chosen.signature.fingerprint(data)
        there, run_id = inherited(placed(queue, chosen.queue), run_id)
        op = StartRun(
            run_id, chosen.name, chosen.version, packed, fingerprint, self.results.origin,
            place=there, deadline=self.results.moment(deadline), attributes=attributes,
        )  # fmt: skip
        await self.queues.require(op.place)
        await settle_dependencies()
        submit = self._worker.start if self._worker else self.committer.submit
        if self._worker is None:  # else that tells of each start, also of those by runs
            self.catalog.started(chosen.name, chosen.version)
        started = await begun(submit, op, self.watch)
        check_same(op, started.run)
        return self._handle(started.run.id, chosen)

    def _inside(self) -> Lane | None:
        """Where in a run of this app the caller is. One that is only rehearsed needs no open app:
        its journal answers."""
        lane = scope.get()
        store = self.store if self._opened else None
        mine = type(lane) is Lane and lane.execution.children.are_in(store)
        return cast("Lane", lane) if mine else None

    async def _start_child(
        self,
        lane: Lane,
        what: tuple[Workflow[..., Any] | str, str | None],
        arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
        terms: Terms,
    ) -> Run[Any]:
        execution = lane.execution
        chosen = self._choose(*what, terms.id or execution.id)
        terms = terms._replace(place=placed(terms.place, chosen.queue))
        if self._opened:
            self._residence.require()
            await self.queues.require(terms.place)
        child = await execution.called(
            f"start of {chosen.name}",
            lambda call: start_child(call, chosen, *arguments, terms),
        )
        return self._handle(child, chosen)

    def run(self, run_id: str, workflow: Workflow[P, R] | None = None) -> Run[Any]:
        """A handle to a run by its id; with `workflow` its result comes back as declared. Raises
        InvalidInput for what can be no id."""
        if self._inside() is None:
            self._require_open()
        return self._handle(asked_id(run_id), workflow)

    async def runs(self, where: RunFilter = RunFilter()) -> list[RunRecord]:  # noqa: B008
        """Runs, newest first."""
        self._require_open()
        return await self.store.runs(where)

    def transaction(self, isolation: Isolation | None = None) -> Open:
        """`async with app.transaction() as tx`: a transaction on the app's database, outside of
        runs: to make tables, to look, to test transactional steps. Commits at the end, and rolls
        back when it raises. Raises what the verbs of `tx` raise."""
        self._require_open()
        names = Handling(new_id(self.clock.now()), self._limits, [])
        return Open(self.store.session(isolation, self.config.lease / 2), names, held_transaction)

    def _handle(self, run_id: str, workflow: Workflow[..., Any] | None) -> Run[Any]:
        slot = workflow.signature.result if workflow else None
        if not self._opened:  # a rehearsal
            nothing: Any = None
            return Run(run_id, nothing, nothing, nothing, slot, self._limits)
        return Run(run_id, self.store, self.committer, self.results, slot, self._limits)

    async def choose(
        self, workflow: Workflow[..., Any] | str, version: str | None, run_id: str
    ) -> Workflow[..., Any]:
        """The version that a run with this id gets. Raises UnknownWorkflow."""
        await self.catalog.ready(workflow, version)
        return self._choose(workflow, version, run_id)

    def _choose(
        self, workflow: Workflow[..., Any] | str, version: str | None, key: str
    ) -> Workflow[..., Any]:
        if isinstance(workflow, str):
            return self.registry.get(*self.catalog.choose(workflow, version, key, self._resolver))
        if not isinstance(workflow, Workflow):
            raise UnknownWorkflow(
                f"{workflow!r} is not a workflow", hint='Declare it with @app.workflow(version="…")'
            )
        self.registry.add(workflow)
        return workflow

    def _make_worker(self, only: str | None) -> Worker:
        config = self.config
        options = WorkerOptions(
            config.lease, config.poll, config.capacity, config.threads, config.grace, only,
            offer(config.tags, config.resources),
            HistoryLimits(config.max_history, config.max_history_bytes),
            config.max_recoveries, config.durability, self.watch,
        )  # fmt: skip
        return Worker(
            self.store, self.committer, self.registry, self.results, self.time, self._limits,
            options, self._around,
        )  # fmt: skip

    @property
    def executing(self) -> int:
        """How many runs are under way in this process."""
        return 0 if self._worker is None else len(self._worker.under_way)

    @property
    def turnover(self) -> Turnover:
        """How often runs and leases of this process have changed hands."""
        return Turnover() if self._worker is None else self._worker.turnover

    def _require_home(self) -> None:
        self._residence.require()

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
