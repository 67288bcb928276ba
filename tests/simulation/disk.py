"""The store of a simulated world: the real SqliteStore on one database in memory.

Its transactions take seeded time and meet seeded faults. Every process has its own link to it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import log
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from aura.errors import StoreUnavailable
from aura.store.base import Claim, ClaimResult, Op, Outcome
from aura.store.session import Isolation, Session, Written, append_of
from aura.store.sqlite import SqliteStore
from aura.store.sqlite_thread import explain

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

Fault = Literal[
    "busy", "full", "conflict", "cut", "ack-lost", "dies-before-commit", "dies-after-commit"
]  # fmt: skip
_LOCKED = 0.01  # seconds after which a transaction looks whether another one is over
_EPOCH = 1_800_000_000.0  # when simulated time begins, in epoch seconds


class Died(BaseException):
    """The process is dead; this only unwinds what it was doing."""


class WallClock:
    """A clock that may be wrong, and be put right, by some seconds."""

    def __init__(self, world: World) -> None:
        self._universe = world.universe
        self.offset = 0.0
        self.jumped = False

    def now(self) -> float:
        return _EPOCH + self._universe.now + self.offset

    def monotonic(self) -> float:
        return self._universe.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


@dataclass
class Weather:
    """What goes wrong in the database, while it does. Probabilities are per transaction."""

    random: Random
    chances: dict[Fault, float] = field(default_factory=dict)
    latency: float = 0.001  # seconds, on average, each way
    slow: float = 0.0  # the probability that it takes fifty times as long
    in_order: bool = True  # one transaction of a process after the other
    at_once: bool = False  # small commits without leaving the event loop
    deaf: float = 0.0  # the probability that a message between processes is lost
    calm: bool = False

    def draw(self) -> Fault | None:
        if self.calm:
            return None
        for fault, chance in self.chances.items():
            if chance and self.random.random() < chance:
                return fault
        return None

    def delay(self) -> float:
        mean = self.latency
        if self.slow and not self.calm and self.random.random() < self.slow:
            mean *= 50
        return -log(1.0 - self.random.random()) * mean  # exponentially distributed


class _Faulty:
    """A connection whose next COMMIT does not come about."""

    def __init__(self, db: sqlite3.Connection, instead: Callable[[], None]) -> None:
        self._db = db
        self._instead = instead

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "COMMIT":
            self._instead()
        return self._db.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class Link:
    """Stands for the store's connection thread."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._under_way = 0
        self._free_at = 0.0
        self._session_calls: deque[asyncio.Future[Any]] = deque()  # which keep their order
        self.gate = asyncio.Lock()  # held while a session is open
        self.written: Sequence[Written] = ()  # what the session is about to commit

    def try_now(self, work: Callable[[Any], Any]) -> Any:
        self._process.check_alive()
        if self._under_way or not self._world.weather.at_once or self._world.db.in_transaction:
            return None
        return self._perform(work)

    async def call(self, work: Callable[[Any], Any], *, inside: bool = False) -> Any:
        """Do the work some time from now; `inside` is for whoever holds the gate."""
        if inside or not self.gate.locked():
            return await self._sent(work, inside)
        async with self.gate:
            answer = self._sent(work, inside)
        return await answer

    def catch_up(self, patience: float) -> bool:  # noqa: ARG002  (a link's)
        """Nobody can be kept waiting here: whether there is nothing under way."""
        return not self._under_way

    def interrupt(self) -> None:
        """Statements take no time here."""

    async def _sent(self, work: Callable[[Any], Any], inside: bool) -> Any:
        self._process.check_alive()
        world, weather = self._world, self._world.weather
        loop = self._process.loop
        answer: asyncio.Future[Any] = loop.create_future()
        self._under_way += 1
        if inside:
            self._session_calls.append(answer)
        began = max(world.universe.now, self._free_at) + weather.delay()
        if weather.in_order:
            self._free_at = began

        def reach_the_database() -> None:
            locked = world.db.in_transaction and not (inside and world.holder is self)
            if locked or (inside and self._session_calls[0] is not answer):
                world.universe.at(world.universe.now + _LOCKED, reach_the_database)
                return
            if inside:
                self._session_calls.popleft()
            if loop.dead and (inside or weather.random.random() < 0.5):
                return  # what a dead process had sent may arrive or not
            result, error = None, None
            try:
                result = self._perform(work, inside)
            except Died:
                return
            except Exception as caught:  # noqa: BLE001  (handed to the caller)
                error = caught
            ended = max(world.universe.now, self._free_at) + weather.delay()
            if weather.in_order:
                self._free_at = ended
            loop.call_at(ended, self._settle, answer, result, error)

        world.universe.at(began, reach_the_database)
        return await answer

    async def stop(self) -> None:
        self._process.check_alive()

    def _settle(self, answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._under_way -= 1
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)

    def _perform(self, work: Callable[[Any], Any], inside: bool = False) -> Any:
        """The transaction, or a statement of one, with what goes wrong in it."""
        db = self._world.db
        try:
            return self._meeting_faults(work, inside)
        except (StoreUnavailable, Died):
            if inside and db.in_transaction:
                db.execute("ROLLBACK")
            raise
        finally:
            self._world.holder = self if db.in_transaction else None
            self._note_what_was_written(db)

    def _note_what_was_written(self, db: sqlite3.Connection) -> None:
        """The session's entries, when they are there."""
        if not self.written or db.in_transaction:
            return
        entry = append_of(self.written[-1]).entry
        sql = "SELECT kind, output FROM journal WHERE run_id = ? AND seq = ?"
        if db.execute(sql, (entry.run_id, entry.seq)).fetchone() == (entry.kind, entry.output):
            outcomes: list[Outcome] = [None] * len(self.written)
            self._world.history.committed(self._process.name, self.written, outcomes)
            self.written = ()

    def _meeting_faults(self, work: Callable[[Any], Any], inside: bool) -> Any:
        fault = self._process.doom() or self._world.weather.draw()
        if self._world.away(self._process):
            fault = "cut"
        if fault is None or not (self._process.worker or self._process.ready.done()):
            return work(self._world.db)
        self._world.log(f"{self._process.name} meets {fault}")
        if fault == "cut":
            raise StoreUnavailable("the connection was lost")
        if fault in ("ack-lost", "dies-after-commit"):
            result = work(self._world.db)
            if fault == "ack-lost" and not (inside or isinstance(result, ClaimResult)):
                raise StoreUnavailable("the connection was lost while it committed")
            if fault == "dies-after-commit":
                self._process.die()
            return result
        try:
            return work(_Faulty(self._world.db, lambda: self._fail(fault)))
        except sqlite3.OperationalError as error:
            raise explain(error, ":memory:") from error

    def _fail(self, fault: Fault) -> None:
        if fault == "dies-before-commit":
            self._process.die()
        if fault == "busy":
            raise sqlite3.OperationalError("database is locked")
        if fault == "full":
            raise sqlite3.OperationalError("database or disk is full")
        raise StoreUnavailable("the transaction could not be serialised")


class Voice:
    """Stands for the socket by which processes wake each other."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def open(self) -> None: ...

    def close(self) -> None: ...

    def tell(self, topics: Iterable[str]) -> None:
        weather = self._world.weather
        for other in self._world.processes:
            if other is self._process or other.store is None or other.loop.dead:
                continue
            if weather.deaf and not weather.calm and weather.random.random() < weather.deaf:
                continue
            when = self._world.universe.now + weather.delay()
            self._world.universe.at(when, _telling(other.loop, other.store, tuple(topics)))


def _telling(loop: Any, store: SimulatedStore, topics: tuple[str, ...]) -> Callable[[], None]:
    def tell() -> None:
        for topic in topics:
            if not loop.dead:
                loop.call_soon(store._hear, topic)

    return tell


class SimulatedStore(SqliteStore):
    """The SQLite store, with the world's database behind it."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(":memory:", clock=world.clock)
        link: Any = Link(world, process)
        voice: Any = Voice(world, process)
        self._writer = self._reader = link
        self._wake = voice
        self._world = world
        self._process = process

    def _commit(self, db: Any, ops: Sequence[Op]) -> tuple[list[Outcome], list[str]]:
        outcomes, topics = super()._commit(db, ops)
        self._world.history.committed(self._process.name, ops, outcomes)
        return outcomes, topics

    def session(self, isolation: Isolation | None, limit: float) -> Session:
        made: Any = super().session(isolation, limit)
        link: Any = self._writer
        commit = made.commit

        async def noted(entries: Sequence[Written]) -> None:
            link.written = entries
            try:
                await commit(entries)
            finally:
                link.written = ()

        made.commit = noted
        session: Session = made
        return session

    def _claim(self, db: Any, claim: Claim) -> ClaimResult:
        found = super()._claim(db, claim)
        for claimed in found.runs:
            self._world.history.claimed(self._process.name, claimed)
        self._world.look_at_queue(found.runs)
        return found


@cache
def _database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1_000)
    SqliteStore(":memory:")._prepare(db)
    db.execute("CREATE TABLE bookings (run TEXT, key TEXT, token TEXT)")
    return db


def empty_database() -> sqlite3.Connection:
    """The database of this operating system's process, without rows; its statements stay prepared,
    which is half the time that a world would take otherwise."""
    db = _database()
    if db.in_transaction:
        db.execute("ROLLBACK")
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        if name != "migrations":
            db.execute(f"DELETE FROM {name}")  # noqa: S608  (the schema's own names)
    return db
