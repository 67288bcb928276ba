"""One seeded world: a few processes on one database, runs, callers, and what goes wrong.

Everything that is left to chance is drawn from the seed, also which kinds of trouble there are at
all (most worlds have few, so that each gets far). After some seconds the trouble ends; then every
run must come to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any
from zlib import crc32

from aura import Aura, Config, Workflow
from aura.clock import Clock
from aura.codec import plain, unpack
from aura.delivery.catalog import Catalog
from aura.delivery.inflight import Forks
from aura.engine import Registry
from aura.engine.queues import place as place_in
from aura.engine.scheduler import Scheduler
from aura.engine.schedules import Schedules
from aura.errors import (
    ConfigError,
    ResultTimeout,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunParked,
    StoreUnavailable,
)
from aura.store.base import Claimed, Entry, RunRecord, Signal, Store, Sweep, Writer
from aura.store.queries import queries, whole
from aura.store.sqlite_ops import COLUMNS, record
from tests.simulation.apart import complaints_of_payloads, smaller_apart
from tests.simulation.disk import Died, Fault, SimulatedStore, WallClock, Weather, empty_database
from tests.simulation.history import Found, History, ticked
from tests.simulation.loop import Loop, Universe
from tests.simulation.plans import NARROW, PER, PER_KEY, PLACES, STARTS, Errand, errands
from tests.simulation.program import TOPIC, handle, script, ticking, turns
from tests.simulation.trouble import arrange

_RUN = queries("sqlite")["run"].replace(":columns", COLUMNS)
LEASE = 1.0
_ENTRIES = whole(
    "SELECT run_id, seq, key, kind, fingerprint, :whole(input), :whole(output), error, attempt, "
    "started_at, recorded_at FROM journal WHERE run_id = ? ORDER BY seq",
    "sqlite",
)
_SIGNALS = whole(
    "SELECT run_id, seq, name, id, priority, deadline, :whole(payload), sent_at, late FROM signals "
    "WHERE run_id = ? ORDER BY seq",
    "sqlite",
)
_RESULTS = whole("SELECT :whole(output) FROM runs WHERE parent = ?", "sqlite")
_TICKED = whole("SELECT :whole(input) FROM runs WHERE workflow = 'ticking'", "sqlite")
_SWEEP = 0.2  # seconds between two sweeps
_TICKS = 3  # so many runs of a schedule must have ended
LIMIT = 600.0  # simulated seconds after which a world is stuck
_DEAD = 5.0  # seconds after which a process that does not answer is taken for dead
_PATIENCE = 3  # how often a caller requeues a parked run


WORKFLOWS: tuple[Workflow[..., Any], ...] = (script, turns, ticking)


class World:
    """See the module. `workflows` are what its processes know."""

    def __init__(self, seed: int, workflows: tuple[Workflow[..., Any], ...] = WORKFLOWS) -> None:
        self.seed = seed
        self.workflows = workflows
        self.random = Random(seed)
        self.universe = Universe(Random(self.random.getrandbits(64)))
        self.clock = WallClock(self)
        self.weather = Weather(Random(self.random.getrandbits(64)))
        self.history = History()
        self.processes: list[Process] = []
        self.trace: list[str] = []
        self.errands: list[Errand] = []
        self.outages: list[tuple[float, float, str]] = []
        self.settings: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self.subscribes = False  # whether workers handle the events of runs
        self.tidies = seed % 8 == 5  # whether all but tiny payloads are stored apart, and swept
        self.schedule: dict[str, Any] = {}  # the options of what is scheduled, if anything is
        self.holder: Any = None  # whose transaction is open over several statements
        self._numbers = 0
        self._open_errands = 0

    # What processes and steps ask of it.

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def log(self, text: str) -> None:
        self.trace.append(f"{self.universe.now:10.6f} {text}")

    def away(self, process: Process) -> bool:
        """Whether the database cannot be reached from there."""
        if self.weather.calm:
            return False
        now = self.universe.now
        return any(a <= now < b and who in ("", process.name) for a, b, who in self.outages)

    def durable(self, run_id: str, children: bool) -> bytes:
        """The results that the run's journal holds at this moment, and those of its children, as
        one text."""
        found = [one.output for one in self.entries(run_id)]
        if children:
            found += [row[0] for row in self.db.execute(_RESULTS, (run_id,))]
        return b"".join(unpack(one) for one in found if one is not None)

    def entries(self, run_id: str) -> list[Entry]:
        """The journals of all executions of a run."""
        return [Entry(*row) for row in self.db.execute(_ENTRIES, (run_id,))]

    def record(self, run_id: str) -> RunRecord | None:
        """The run as the database holds it at this moment."""
        row = self.db.execute(_RUN, (run_id,)).fetchone()
        return None if row is None else record(row)

    def epoch(self, run_id: str) -> int | None:
        """The run's, while the database's clock goes as clocks should: leases are of its time."""
        found = None if self.clock.jumped else self.record(run_id)
        return None if found is None else found.epoch

    def look_at_queue(self, claimed: Sequence[Claimed]) -> None:
        """Complain if a claim went beyond the limits of NARROW."""
        taken = [one.run for one in claimed if one.run.queue == NARROW]
        if not taken:
            return
        held = Counter(
            row[0]
            for row in self.db.execute(
                "SELECT key FROM runs WHERE queue = ? AND state = 'running'", (NARROW,)
            )
        )
        if held.total() > PLACES or max(held.values()) > PER_KEY:
            self.history.complain(f"the limits of {NARROW} are exceeded: {dict(held)} are running")
        since = self.clock.now() - PER
        sql = "SELECT count(*) FROM runs WHERE queue = ? AND started_at > ?"
        begun = self.db.execute(sql, (NARROW, since)).fetchone()[0]
        if any(run.epoch == 1 for run in taken) and begun > STARTS:
            self.history.complain(f"the limits of {NARROW} are exceeded: {begun} have begun")

    def earlier_events(self, key: str, seq: int) -> list[int]:
        """The events of that key before that one."""
        sql = "SELECT seq FROM events WHERE key = ? AND seq < ?"
        return [row[0] for row in self.db.execute(sql, (key, seq))]

    # Its life.

    def play(self) -> list[str]:
        """Live from beginning to end; the complaints. One world at a time: they share a database
        whose statements are prepared."""
        self.db = empty_database()
        with (
            seeded(self.random.getrandbits(64)),
            _errors_logged(self.history.complain),
            smaller_apart() if self.tidies else contextlib.nullcontext(),
        ):
            try:
                self._begin()
                self.universe.run(self._settled, LIMIT)
            except AssertionError as stuck:
                self.history.complain(f"{stuck}: {self._still_open()}")
            if self.db.in_transaction:
                self.history.complain("a transaction is open at the end")
                self.db.execute("ROLLBACK")
            self._look_at_ticks()
            for complaint in complaints_of_payloads(self.db):
                self.history.complain(complaint)
            complaints = self.history.check(
                self._found(),
                bookings=self.db.execute("SELECT run, key, token FROM bookings").fetchall(),
                events=self.db.execute("SELECT id, key, payload FROM events").fetchall(),
            )
            self.universe.end()
        return complaints

    def _look_at_ticks(self) -> None:
        """Complain if ticks are missing or were made twice."""
        body = self.db.execute("SELECT body FROM documents WHERE kind = 'schedule'").fetchone()
        if body is not None:
            inputs = [row[0] for row in self.db.execute(_TICKED)]
            started = plain(body[0])["book"]["started"]
            for one in ticked(self.schedule["every"], inputs, started):
                self.history.complain(one)

    def digest(self) -> str:
        """What tells two executions of a seed apart."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]

    def _begin(self) -> None:
        draw = self.random
        self.errands = errands(draw)
        for at in range(draw.choice((1, 2, 2, 2, 3))):
            self.processes.append(Process(self, f"worker{at + 1}"))
        self.caller = Process(self, "caller", worker=False)
        self.processes.append(self.caller)
        self.settings = {
            "lease": LEASE,
            "poll": draw.choice((0.3, 1.0)),
            "grace": 0.5,
            "capacity": draw.choice((2, 100, 100)),
            "durability": draw.choice(("sync", "adaptive")),
        }
        self.subscribes = draw.random() < 0.15
        if draw.random() < 0.08:
            self.schedule = {
                "every": 1.0, "missed": "all", "overlap": draw.choice(("allow", "queue")),
            }  # fmt: skip
        self.services = {"keep_in_memory": draw.choice((0.05, 5.0)), "linger": 0.3}
        arrange(self, draw)
        for process in self.processes:
            process.start()
        self._open_errands = len(self.errands)
        for errand in self.errands:
            self.caller.loop.spawn(self._run_errand(errand))

    async def _run_errand(self, errand: Errand) -> None:
        try:
            await _Caller(self, errand).run()
        except Exception as error:  # noqa: BLE001  (a caller may see anything but nonsense)
            self.history.complain(f"the caller of {errand.id} got {type(error).__name__}: {error}")
        self._open_errands -= 1

    def _settled(self) -> bool:
        if self._open_errands:
            return False
        if self.schedule:
            sql = "SELECT count(*) FROM runs WHERE workflow = 'ticking' AND state = 'completed'"
            if self.db.execute(sql).fetchone()[0] < _TICKS:
                return False
        if not self.subscribes:
            return True
        events = self.db.execute("SELECT count(*) FROM events").fetchone()[0]
        return len(self.history.handled) == int(events)

    def _still_open(self) -> str:
        records = [self.record(errand.id) for errand in self.errands]
        return ", ".join(
            f"{one.id} is {one.state} at epoch {one.epoch}, wakes at {one.wake_at}"
            for one in records
            if one is not None and one.state not in ("completed", "failed", "cancelled")
        )

    def _found(self) -> list[Found]:
        """All runs, those of callers and their children."""
        ids = [row[0] for row in self.db.execute("SELECT id FROM runs ORDER BY id")]
        runs = [run for run in map(self.record, ids) if run is not None]
        return [
            Found(
                run,
                self.entries(run.id),
                [Signal(*row) for row in self.db.execute(_SIGNALS, (run.id,))],
                self.history.bases(run.id),
            )
            for run in runs
        ]


@cache
def _scheduler(process: str) -> Scheduler:
    """That of a process in all worlds: to make one takes as long as a world."""
    return Scheduler()


class _App(Aura):
    """An app whose database is the world's."""

    lent: Store

    def __init__(self, world: World, name: str, clock: WallClock, store: Store) -> None:
        config = Config(database=":memory:", retention=None, encryption_keys=(), **world.settings)
        super().__init__("simulated", config=config, clock=clock)
        self.lent = store
        self.registry = self._resolver = Registry()  # without the workflow of rollouts
        for workflow in world.workflows:
            self.registry.add(workflow)
        if world.subscribes:
            self.subscribe(TOPIC, group="all")(handle)
        self.queue(NARROW, concurrency=PLACES, per_key=PER_KEY, rate=(STARTS, PER))
        if world.schedule:
            self.schedules = Schedules(self.registry, self._resolver, self._limits)
            self.schedules.engine = _scheduler(name)
            self.registry.add(self.schedules.engine.workflow)
            self.schedule("pulse", ticking, **world.schedule)

    async def _open_store(self, *, worker: bool) -> Store:  # noqa: ARG002
        await self.lent.open()
        return self.lent

    # Of what changes versions there is the catalog only: the rest does nothing here, and to make
    # it takes a tenth of the time of a world.

    def _set_desk(self, forks: Forks, registry: Registry) -> None:  # noqa: ARG002
        self.catalog = Catalog(registry)

    def _watch_desk(self) -> None:
        """There are no rollouts."""

    def _open_desk(self, store: Store, writer: Writer, clock: Clock, start: Any, run: Any) -> None:  # noqa: ARG002
        self.catalog.open(store, writer, clock)

    async def _close_desk(self) -> None:
        await self.catalog.close()


class Process:
    """One process: it can die at any moment, and is then started anew."""

    def __init__(self, world: World, name: str, *, worker: bool = True) -> None:
        self.world = world
        self.name = name
        self.worker = worker
        self.clock = WallClock(world)
        self.store: SimulatedStore | None = None
        self.restart_after: float | None = 0.5  # seconds
        self.fate: list[tuple[int, Fault]] = []  # which transaction of its own ends it, and how
        self._transactions = 0

    def start(self) -> None:
        self.loop: Loop = self.world.universe.loop(self)
        self.store = SimulatedStore(self.world, self)
        self.app = _App(self.world, self.name, self.clock, self.store)
        self.world.log(f"{self.name} starts")
        self.ready = self.loop.create_future()
        self.loop.spawn(self._main())

    async def _main(self) -> None:
        try:
            await self.app.open(worker=self.worker)
        except StoreUnavailable:
            self.die()
        except Exception as error:
            self.world.history.complain(f"{self.name} cannot start: {error!r}")
            raise
        worker = self.app._worker
        if worker is not None:
            worker._services = replace(worker._services, **self.world.services)
            if self.world.tidies:
                self.loop.spawn(self._tidy())
        self.ready.set_result(None)

    async def _tidy(self) -> None:
        """Sweep what is left of payloads; no run is old enough."""
        assert self.store is not None
        while True:
            await self.clock.sleep(_SWEEP)
            with contextlib.suppress(StoreUnavailable):
                swept = await self.store.sweep(Sweep(1e9))
                if swept.payloads:
                    self.world.log(f"{self.name} sweeps {swept.payloads} payloads")

    def doom(self) -> Fault | None:
        """How this transaction ends the process, if it does."""
        self._transactions += 1
        if self.fate and self._transactions >= self.fate[0][0] and not self.world.weather.calm:
            return self.fate.pop(0)[1]
        return None

    def die(self) -> None:
        """End without a word, in the middle of everything."""
        self.kill()
        raise Died

    def kill(self) -> None:
        if self.loop.dead:
            return
        self.world.log(f"{self.name} dies")
        self.loop.kill()
        world = self.world
        if self.store is not None and world.holder is self.store._writer:
            if world.db.in_transaction:
                world.db.execute("ROLLBACK")
            world.holder = None
        self._transactions = 0
        if self.restart_after is not None:
            self.world.universe.at(self.world.universe.now + self.restart_after, self.start)

    def stop(self) -> None:
        """End as a rolling update does, and begin anew."""
        if not self.loop.dead and self.ready.done():
            self.loop.spawn(self._stop())

    async def _stop(self) -> None:
        self.world.log(f"{self.name} stops")
        with contextlib.suppress(StoreUnavailable):
            await self.app.close()
        self.kill()

    def check_alive(self) -> None:
        if self.loop.dead:
            raise Died


class _Caller:
    """Starts one run, talks to it, and waits for its result; tries again what failed."""

    def __init__(self, world: World, errand: Errand) -> None:
        self._world = world
        self._errand = errand
        self._process = world.caller
        self._sleep = world.caller.clock.sleep

    async def run(self) -> None:
        errand, process = self._errand, self._process
        await process.ready
        await self._sleep(errand.at)
        if errand.helper:
            self._start_elsewhere()
        app = process.app
        run: Any = await self._insist(lambda: self._start(app))
        self._told("start")
        talks = [asyncio.ensure_future(self._signal(run, *one)) for one in errand.signals]
        talks += [asyncio.ensure_future(self._update(run, *one)) for one in errand.updates]
        if errand.cancel_at is not None:
            talks.append(asyncio.ensure_future(self._cancel(run, errand.cancel_at)))
        await self._result(run)
        await asyncio.gather(*talks)

    def _start(self, app: Aura) -> Any:
        errand = self._errand
        if errand.each:
            asks = [kind for (kind,) in errand.plan]
            return app.start(turns, asks, errand.each, [], id=errand.id)
        place = place_in(NARROW, key=errand.key) if errand.key is not None else None
        return app.start(script, errand.plan, id=errand.id, queue=place)

    def _start_elsewhere(self) -> None:
        """A worker starts the run, too, or first: the same id is the same run."""
        helper = self._world.processes[0]
        if helper.loop.dead or not helper.ready.done():
            return

        async def start() -> None:
            with contextlib.suppress(StoreUnavailable, ConfigError):
                await self._start(helper.app)
                self._told("start")

        helper.loop.spawn(start())

    async def _signal(
        self, run: Any, after: float, name: str, key: str, priority: str, times: int
    ) -> None:
        await self._sleep(after)
        for _ in range(times):
            try:
                sent = await self._insist(
                    lambda: self._send(run, name, key, priority)
                )  # fmt: skip
            except RunEnded:
                self._world.log(f"signal {key} of {run.id} was refused")
                return
            self._told("signal", sent.seq)
            if sent.duplicate:
                self._world.log(f"signal {key} of {run.id} was repeated")

    async def _send(self, run: Any, name: str, key: str, priority: Any) -> Any:
        """Send a signal, half of them by way of a worker's process: there it may wake the run."""
        chance = crc32(f"{self._world.seed} {run.id} {key}".encode())
        helper = self._world.processes[chance // 2 % (len(self._world.processes) - 1)]
        if chance % 2 or helper.loop.dead or not helper.ready.done():
            return await run.signal(name, key, priority=priority, id=key)
        answer = self._process.loop.create_future()

        def answered(got: Any) -> None:
            if not answer.done():
                answer.set_result(got)

        async def send() -> None:
            try:
                there = helper.app.run(run.id)
                got: Any = await there.signal(name, key, priority=priority, id=key)
            except Exception as error:  # noqa: BLE001  (handed to the caller)
                got = error
            self._process.loop.call_soon(answered, got)

        helper.loop.spawn(send())
        try:
            got = await asyncio.wait_for(answer, _DEAD)
        except TimeoutError:
            raise StoreUnavailable(f"{helper.name} does not answer") from None
        if isinstance(got, ConfigError):
            raise StoreUnavailable(f"{helper.name} is being stopped") from got
        if isinstance(got, Exception):
            raise got
        return got

    async def _update(self, run: Any, after: float, key: str, times: int) -> None:
        await self._sleep(after)
        answers = self._world.history.answers.setdefault(run.id, {}).setdefault(key, [])
        for _ in range(times):
            answers.append(
                await self._insist(lambda: run.update("ask", key, id=key, timeout=20.0))
            )  # fmt: skip
            self._told("update", answers[-1])

    async def _cancel(self, run: Any, after: float) -> None:
        await self._sleep(after)
        await self._insist(run.cancel)
        self._told("cancel")

    async def _result(self, run: Any) -> None:
        patience = _PATIENCE
        while True:
            try:
                result = await self._insist(lambda: run.result(timeout=20.0))
            except (RunFailed, RunCancelled) as error:
                self._told(type(error).__name__)
                return
            except RunParked as error:
                self._world.log(f"{run.id} is parked: {error}")
                if patience == 0:
                    self._world.history.complain(f"{run.id} is parked: {error}")
                    return
                patience -= 1
                await self._insist(run.requeue)
            else:
                self._told("result", result)
                if self._errand.each:
                    self._compare(result)
                return

    def _compare(self, result: list[str]) -> None:
        """Whether a run that began anew again and again has had all that it was given."""
        errand = self._errand
        for what, given, mark in (
            ("turns", [one[2] for one in errand.signals], "s-"),
            ("updates", [one[1] for one in errand.updates], "u-"),
        ):
            self._told(what, (given, [one for one in result if one.startswith(mark)]))

    async def _insist(self, ask: Callable[[], Any]) -> Any:
        """Ask until there is an answer."""
        while True:
            try:
                return await ask()
            except (StoreUnavailable, ResultTimeout) as error:
                self._world.log(f"the caller of {self._errand.id} got {type(error).__name__}")
            await self._sleep(0.1)

    def _told(self, what: str, detail: Any = None) -> None:
        run_id = self._errand.id
        self._world.log(f"{what} of {run_id}: {detail}")
        self._world.history.told(what, run_id, self._world.record(run_id), detail)


class _Errors(logging.Handler):
    """What the engine logs as an error is something that it did not expect."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        what = "" if record.exc_info is None else f": {record.exc_info[1]!r}"
        self._complain(f"logged: {record.getMessage()}{what}")


@contextlib.contextmanager
def _errors_logged(complain: Callable[[str], None]) -> Iterator[None]:
    logger, handler = logging.getLogger("aura"), _Errors(complain)
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() < logging.ERROR and not logging.getLogger().handlers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Chance in the standard library, as far as the engine uses it, comes from the seed."""
    state, uuid4, source = random.getstate(), uuid.uuid4, Random(seed)
    random.seed(source.getrandbits(64))
    uuid.uuid4 = lambda: uuid.UUID(int=source.getrandbits(128), version=4)
    try:
        yield
    finally:
        random.setstate(state)
        uuid.uuid4 = uuid4
