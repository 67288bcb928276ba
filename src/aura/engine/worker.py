"""A worker: claims runs, keeps its lease, executes, and hands back what it cannot finish.

One dispatcher per process asks for runs when it hears that some are ready, when a timer is due,
when a slot gets free, and once per `poll`. One lease per process covers all its runs: a worker that
stops sending heartbeats loses them when its lease is over, and the epoch of each run that was taken
keeps it from writing when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import math
import os
import socket
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

from aura.clock import Clock
from aura.codec import Limits, to_json
from aura.engine.calls import Services
from aura.engine.children import Family
from aura.engine.definition import Registry
from aura.engine.durability import Durability
from aura.engine.execution import Execution
from aura.engine.faults import dump_run_error, unreadable
from aura.engine.handle import Results
from aura.engine.history import HistoryLimits
from aura.engine.lanes import install
from aura.engine.mail import Mail
from aura.engine.middleware import Middleware
from aura.engine.moving import ASIDE
from aura.engine.poison import (
    MOST_RECOVERIES,
    RECOVERED,
    SURVIVED,
    Suspects,
    mark,
    poisoned,
    suspicious,
)
from aura.engine.precedence import Precedence
from aura.engine.prefetch import Prefetch
from aura.engine.storeclock import StoreClock
from aura.engine.tenure import Tenure, Turnover
from aura.engine.watch import Watch
from aura.errors import DecryptionFailed, LeaseLost, PoisonRun, StoreUnavailable
from aura.store.base import (
    Claim,
    Claimed,
    Heartbeat,
    Outcome,
    RunRecord,
    RunState,
    SendSignal,
    Sent,
    Settle,
    Started,
    StartRun,
    Store,
    Writer,
)
from aura.store.queues import Offer

log = logging.getLogger("aura.worker")

_CLAIM_AT_ONCE = 100
_TURN = 0.02  # seconds until the next run is asked for, of those that a worker is for
_CLEANUP = 5.0  # seconds at least that code has to clean up after it was cancelled
_NAP = 0.05  # seconds between looks at what keeps a worker from closing
_KEY_PATIENCE = 60.0  # seconds until a run whose key is missing is looked at again


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`capacity` runs at once, `threads` for plain `def` steps, `only` the id of the one run to
    claim, with those that it starts (None: all), `offer` what queues may require, `history` how
    long journals may get, `max_recoveries` how many workers may die of a run, `durability` that of
    workflows which say nothing, `watch` who counts; the rest are seconds."""

    lease: float = 10.0
    poll: float = 1.0
    capacity: int = 1_000
    threads: int = 32
    grace: float = 10.0
    only: str | None = None
    offer: Offer = field(default_factory=Offer)
    history: HistoryLimits = field(default_factory=HistoryLimits)
    max_recoveries: int = MOST_RECOVERIES
    durability: Durability = "sync"
    watch: Watch | None = None


class Worker:
    """Executes the registry's workflows; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        registry: Registry,
        results: Results,
        clock: Clock,
        limits: Limits,
        options: WorkerOptions,
        around: Sequence[Middleware] = (),
    ) -> None:
        self.id = _new_id()
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._time = clock if isinstance(clock, StoreClock) else StoreClock(clock)
        self._rejoin = asyncio.Event()
        self._tenure = Tenure(clock, options.lease, self._rejoin.set)
        self.turnover = Turnover()
        self._options = options
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="aura-step")
        self._results = results
        self._family = Family(store, registry, results.origin, self.start)
        self._services = Services(
            writer, self._time, limits, self._threads, results.origin, self._settled,
            around=around,
            session=functools.partial(store.session, limit=options.lease / 2),
            family=self._family, history=options.history, durability=options.durability,
            precedence=Precedence(self._time), lent=registry.lent, tenure=self._tenure,
            watch=options.watch,
        )  # fmt: skip
        self._executions: dict[str, Execution] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reserved = 0
        self._starting: Counter[str] = Counter()  # starts in this worker's name, under way
        self._begun: set[tuple[str, int]] = set()  # what they or a claim may give once more
        self._mail = Mail(store, self._executions)
        self._prefetch = Prefetch(store, self, clock)
        self._suspects = Suspects()
        self._asked = 0
        self._ready = asyncio.Event()
        self._stopping = False
        self._away = False
        self._joined = False
        self._claiming = False
        self._loops: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        install(asyncio.get_running_loop())
        await self._beat()
        self._unlisten = self._store.listen(self._hear)
        self._results.hand_to(self)
        make = asyncio.get_running_loop().create_task
        self._loops = [
            make(self._dispatch(), name="aura-dispatch"),
            make(self._keep_lease(), name="aura-lease"),
            make(self._mail.fetch(), name="aura-signals"),
            make(self._family.fetch(self._clock.sleep), name="aura-children"),
        ]

    async def close(self) -> None:
        """Stop claiming, let steps that are under way end, release the rest, give up the lease.

        What has not ended after two times `grace` is left where it is, and said to be: its code
        goes on although it was cancelled. It can write nothing, and another worker takes the run.
        """
        self._stopping = True
        self._unlisten()
        self._results.hand_to(None)
        self._loops[0].cancel()
        give_up = self._clock.monotonic() + self._options.grace
        while self._tasks or self._reserved:
            late = self._clock.monotonic() - give_up
            for execution in tuple(self._executions.values()):
                if late > 0:
                    execution.suspend()
                else:
                    execution.release()
            if late > max(self._options.grace, _CLEANUP):
                self._leave_what_goes_on()
                break
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=_NAP)
            else:
                await self._clock.sleep(_NAP)
        for loop in self._loops[1:]:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):  # then the lease simply runs out
            await self._writer.submit(Heartbeat(self.id, 0.0))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _leave_what_goes_on(self) -> None:
        for execution in self.under_way:
            execution.lose(LeaseLost(f"run {execution.id}: its worker has closed"))
            log.error(
                "run %s (%s) does not end although it was cancelled: its code swallows "
                "CancelledError, or waits without end to clean up. Its worker closes without it",
                execution.id, execution.workflow,
            )  # fmt: skip

    def start(self, op: StartRun) -> asyncio.Future[Outcome]:
        """Submit a new run, in this worker's name if it has room and knows the workflow.

        It is then begun when it is durable, whether or not anybody still waits for the answer.
        """
        if self._registry.starting is not None:
            self._registry.starting(op.workflow, op.version)
        full = len(self._executions) + self._reserved >= self._options.capacity
        away = self._stopping or not self._joined
        if away or full or op.place or not self._serves(op.workflow, op.version):
            return self._writer.submit(op)
        self._reserved += 1
        self._starting[op.id] += 1
        future = self._writer.submit(replace(op, owner=self.id))
        # In a context of its own: the run is no branch of the one that starts it.
        begin = functools.partial(self._started, self.id, op.id)
        future.add_done_callback(begin, context=contextvars.Context())
        return future

    def _started(self, owner: str, run_id: str, future: asyncio.Future[Outcome]) -> None:
        self._reserved -= 1
        self._begin_started(owner, future)
        self._starting[run_id] -= 1
        if not self._starting[run_id]:
            del self._starting[run_id]
        self._forget_begun()

    def _begin_started(self, owner: str, future: asyncio.Future[Outcome]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, StoreUnavailable):
            self.renounce(error)  # the run may be there, in this worker's name
        elif error is None:
            run = cast("Started", future.result()).run
            mine = run.owner == owner and run.state == "running" and run.epoch == 1
            if mine and run.id not in self._executions:  # else the start was made twice
                self.begin(Claimed(run, []))

    def aim(self, op: SendSignal) -> SendSignal:
        """A signal of this process as it is to be written: it may take its run for this worker."""
        return self._prefetch.aim(op)

    def landed(self, op: SendSignal, outcome: Outcome | BaseException, now: float) -> None:
        """A signal of this process is durable, or refused."""
        if op.taker is not None:
            self._prefetch.landed(op, outcome)
        if isinstance(outcome, Sent):
            self._mail.hand(op, outcome, now)

    def reserve(self) -> bool:
        """Keep a place for one more run; whether there is one."""
        full = len(self._executions) + self._reserved >= self._options.capacity
        away = self._stopping or not self._joined or self._tenure.over
        if full or away or self._options.only is not None:
            return False
        self._reserved += 1
        return True

    def release(self) -> None:
        """Give the place back."""
        self._reserved -= 1
        if not self._reserved:
            self._mail.all_arrived()

    def _serves(self, workflow: str, version: str) -> bool:
        """Whether it knows the version, which requires nothing that this worker does not have."""
        known = (workflow, version) in self._registry
        required = self._registry.get(workflow, version).requires if known else frozenset()
        return known and required <= self._options.offer.tags

    def _claimable(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self._registry.versions() if self._serves(*pair))

    @property
    def joined(self) -> bool:
        """Whether this worker has a lease."""
        return self._joined

    @property
    def under_way(self) -> tuple[Execution, ...]:
        """The runs that are being executed here."""
        return tuple(self._executions.values())

    @property
    def expecting(self) -> bool:
        """Whether a claim or a start is under way, which may bring runs."""
        return self._reserved > 0

    def executes(self, run_id: str) -> bool:
        """Whether that run is under way here, and has not ended yet."""
        execution = self._executions.get(run_id)
        return execution is not None and not execution.ended

    def begin(self, claimed: Claimed) -> None:
        """Execute a run that is owned by this worker, unless that was done already: a claim and a
        start that found the same run may both give it."""
        run = claimed.run
        if (run.id, run.epoch) in self._begun:
            return
        if self._claiming or run.id in self._starting:
            self._begun.add((run.id, run.epoch))
        before = self._executions.get(run.id)
        if before is not None:  # it was lost, and has come back before this was noticed
            before.lose(LeaseLost(f"run {run.id} was taken over meanwhile, and is here again"))
        workflow = self._registry.get(run.workflow, run.version)
        execution = Execution(self._services, workflow, claimed)
        recovered = mark(claimed)
        if recovered is not None:
            execution.recorder.record(recovered[0], RECOVERED, output=recovered[1])
        task = asyncio.get_running_loop().create_task(execution.run(), name=f"aura-run-{run.id}")
        self._executions[run.id] = execution
        self._tasks[run.id] = task
        self._prefetch.came(run.id)
        self._mail.arrived(run.id)
        task.add_done_callback(lambda done: self._ended(execution, done))
        if claimed.taken_over and claimed.journal:
            log.info("run %s recovered with %d entries", run.id, len(claimed.journal))

    def _forget_begun(self) -> None:
        if not self._claiming and self._begun:
            self._begun = {one for one in self._begun if one[0] in self._starting}

    def _ended(self, execution: Execution, task: asyncio.Task[None]) -> None:
        execution.leave()
        self.turnover.runs_lost += execution.lost
        run = execution.record
        if execution.cut_off is not None and run.owner == self.id:
            self.renounce(execution.cut_off)
        if len(self._executions) >= self._options.capacity:
            self._ready.set()
        if self._tasks.get(run.id) is task:
            del self._executions[run.id], self._tasks[run.id]
            self._mail.left(run.id)
            if execution.asleep:
                self._prefetch.left(run)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("run %s broke the engine and is parked", run.id, exc_info=error)
            future = self._writer.submit(
                Settle(
                    run.id,
                    run.epoch,
                    "parked",
                    error=dump_run_error(error),
                    frees=run.queue is not None,
                )
            )
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _settled(self, record: RunRecord) -> None:
        """A run has ended here: who waits for it gets its record."""
        self._results.settled(record)
        if self._options.watch is not None:
            self._options.watch.settled(record)
        parent = self._executions.get(record.parent or "")
        if parent is not None:
            parent.children.ended(record)
        self._family.ended(record.id, record)

    def _hear(self, topic: str) -> None:
        if topic == "ready":
            self._ready.set()
        elif topic.startswith("signal:"):
            self._mail.heard(topic[7:], coming=self._claiming or self._reserved > 0)
        elif topic.startswith("cancel:"):
            self._cancel(topic[7:])
        elif topic.startswith("run:"):
            self._family.ended(topic[4:])
        elif topic.startswith("release:"):
            self._release(topic[8:])

    def _cancel(self, run_id: str) -> None:
        execution = self._executions.get(run_id)
        if execution is not None:
            execution.cancel()

    def _release(self, run_id: str) -> None:
        """Somebody wants to take the run; it goes on here when nobody has after a while."""
        execution = self._executions.get(run_id)
        if execution is not None:
            execution.release(self._clock.now() + ASIDE)

    async def _dispatch(self) -> None:
        while True:
            self._ready.clear()
            try:
                delay = await self._claim()
                self._away = False
            except StoreUnavailable as error:
                if not self._away:
                    log.warning("no runs can be claimed until the database is back: %s", error)
                self._away = True
                delay = self._options.poll
            except Exception:
                log.exception("claiming runs failed in an unknown way, trying again")
                delay = self._options.poll
            if delay > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._ready.wait()

    async def _claim(self) -> float:
        """Take what there is room for; seconds until it is worth asking again."""
        room = self._options.capacity - len(self._executions) - self._reserved
        limit = min(room, _CLAIM_AT_ONCE)
        if limit <= 0 or not self._joined:
            return self._options.poll
        only, others = self._whom()
        claim = Claim(self.id, self._claimable(), limit, only, self._options.offer)
        self._claiming = True
        self._reserved += limit  # for as long as the answer is under way
        try:
            asked = self._time.here()
            try:
                found = await self._store.claim(claim)
            finally:
                self._reserved -= limit
            if found.moment is not None:
                self._time.learn(asked, found.moment)
            if claim.worker != self.id:
                self._claiming = False
                return 0.0  # renounced meanwhile: they are free when the old lease is over
            for claimed in found.runs:
                self.take_up(claimed)
            self._claiming = False  # after an error the next claim may bring what this one took
        finally:
            self._forget_begun()
            if not self._reserved:
                self._mail.all_arrived()
        for run_id in found.cancels:
            self._cancel(run_id)
        if len(found.runs) == limit:
            return 0.0
        wake = self._options.poll if found.next_wake is None else found.next_wake
        return max(0.001, min(wake, self._options.poll, _TURN if others else math.inf))

    def _whom(self) -> tuple[str | None, bool]:
        """The one run to ask for (None: all), and whether there are others whose turn comes next:
        a worker for one run takes the runs that this one has started, too."""
        if self._options.only is None:
            return None, False
        family = [self._options.only, *self._family.started]
        away = [one for one in family if one not in self._executions] or family[:1]
        self._asked += 1
        return away[self._asked % len(away)], len(family) > 1

    def take_up(self, claimed: Claimed) -> None:
        """Execute a run that is this worker's, or set it aside."""
        self.turnover.taken_over += claimed.taken_over
        most = self._options.max_recoveries
        reason = unreadable(claimed) or poisoned(claimed, most)
        if reason is not None:
            self._set_aside(claimed.run, reason)
        elif suspicious(claimed, most) and not claimed.run.cancel_requested:
            self._take_suspect(claimed)
        else:
            self.begin(claimed)

    def _take_suspect(self, claimed: Claimed) -> None:
        """Execute a run that workers may die of, unless there is another one: then it waits, so
        that it does not die with that."""
        run = claimed.run
        until = self._suspects.wait_until(self._time.now())
        if until is not None:
            freed = run.queue is not None
            op = Settle(run.id, run.epoch, "waiting", wake_at=until, frees=freed)
            self._writer.submit(op).add_done_callback(_look_away)
            return
        self.begin(claimed)
        execution = self._executions.get(run.id)
        if execution is None:
            return  # it was begun before, and has ended
        before, late = execution.recorder.seq, self._time.monotonic() + SURVIVED

        def held() -> bool:
            """It has neither ended, nor come further, nor survived for long."""
            here = self._executions.get(run.id) is execution
            return here and execution.recorder.seq == before and self._time.monotonic() < late

        self._suspects.admit(held)

    def _set_aside(self, run: RunRecord, reason: DecryptionFailed | PoisonRun) -> None:
        """A run whose key is not here waits, with the reason as its error, for a worker that has
        it. One that was asked to stop would be ready again at once, so it is parked, as is one
        that workers die of."""
        log.warning("run %s is set aside: %s", run.id, reason)
        poison = isinstance(reason, PoisonRun)
        state: RunState = "parked" if run.cancel_requested or poison else "waiting"
        wake_at = self._time.now() + _KEY_PATIENCE
        error = dump_run_error(reason)
        future = self._writer.submit(
            Settle(
                run.id, run.epoch, state, error=error, wake_at=wake_at,
                frees=run.queue is not None,
            )
        )  # fmt: skip
        future.add_done_callback(_look_away)

    async def _keep_lease(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.lease / 3):
                    await self._rejoin.wait()
            self._rejoin.clear()
            try:
                await self._beat()
            except StoreUnavailable as error:
                log.warning("the lease cannot be extended: %s", error)
                self.renounce(error)
            except Exception as error:
                log.exception("extending the lease failed in an unknown way")
                self.renounce(error)

    async def _beat(self) -> None:
        info = to_json(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "runs": len(self._executions),
                "workflows": [f"{name} {version}" for name, version in self._claimable()],
                "tags": sorted(self._options.offer.tags),
                "resources": dict(self._options.offer.resources),
                "written": self._writer.written(),
            }
        )
        asked, name = self._clock.monotonic(), self.id
        await self._writer.submit(Heartbeat(name, self._options.lease, info))
        if self._tenure.over:
            await self._leave_what_is_lost()
        if name != self.id:
            return  # renounced meanwhile
        self._tenure.extend(asked)
        self._joined = True
        self._mail.look_at_all()

    async def _leave_what_is_lost(self) -> None:
        """The lease was over for a while: others may have taken runs."""
        executions = self.under_way
        found = await self._store.runs_by_id([one.id for one in executions]) if executions else []
        epochs = {run.id: run.epoch for run in found}
        for one in executions:
            if epochs.get(one.id, one.record.epoch) != one.record.epoch:
                one.lose(LeaseLost(f"run {one.id} was taken over while this worker stood still"))

    def renounce(self, reason: Exception) -> None:
        """Give up all runs and join again under a new name: what the old one wrote last is not
        known, and its runs are free for all when its lease is over."""
        log.warning("worker %s gives up %d runs: %s", self.id, len(self._executions), reason)
        self.turnover.leases_lost += self._joined  # what fails again was not held
        self._joined = False
        self._tenure.end()
        self.id = _new_id()
        for execution in tuple(self._executions.values()):
            execution.lose(LeaseLost(f"run {execution.id}: {reason}"))
        self._rejoin.set()


def _new_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _look_away(done: asyncio.Future[Outcome]) -> None:
    """Nobody waits for what becomes of it."""
    if not done.cancelled():
        done.exception()
