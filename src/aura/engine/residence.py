"""Whether an app still lives in its database, and what it may write there when it has left.

    lives here ──(the sign is written: aura.engine.promotion)──▶ left
       │                                                          │
       all passes                              what runs write: passes, until they are taken
                                               all other changes: DatabaseMoved

The sign is a document of the database that was left. A process that comes later reads it when it
opens; one that is there hears of it, and looks every `_LOOK` seconds in case it could not hear.
All that an app changes passes one of two places, which are closed then: the committer's `refuse`
(operations) and `Home` (the store's own verbs, and its transactions).

What a run writes is told from the rest by where it is submitted. It is let through because the run
itself is fenced: whoever promotes takes all runs before it copies what they may have written, and
a worker hands its runs over between two effects. To refuse it would fail runs that are to go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, cast

from aura.clock import Clock
from aura.engine.lanes import scope
from aura.engine.transaction import current
from aura.errors import DatabaseMoved, DecryptionFailed, StoreUnavailable
from aura.store.base import AppendFeed, Op, Outcome, PutDocument, StartRun, Store, Sweep, Swept
from aura.store.events import Emit, EventStore
from aura.store.portable import Admission, Change, Line, Row
from aura.store.queues import QueueLimits, QueueRecord
from aura.store.session import Isolation, Session, Written

log = logging.getLogger("aura.promotion")

SIGN = ("promotion", "to")
"""Kind and name of the document that says where the app has gone."""

OURS = frozenset({"key", "move", "promotion"})
"""Kinds of documents that belong to a database and not to its app, and so stay with it."""

STAYS = frozenset({"audit"})
"""Feeds that still grow: who tried to change what was left is told there."""

_LOOK = 10.0  # seconds

_looked_at: ContextVar[bool] = ContextVar("aura_looked_at", default=False)
"""In the committer's own tasks: what it writes was looked at when it was submitted."""

Refuse = Callable[[Op], Exception | None]


class Writes(Protocol):
    """What of the committer is needed here."""

    refuse: Refuse | None

    def open(self) -> None: ...


def changes_the_app(op: Op) -> bool:
    """Whether an operation changes what was copied, or begins something. Pure.

    The others belong to a run or a worker, which are fenced by their epochs, or change nothing.
    """
    if isinstance(op, PutDocument):
        return op.kind not in OURS
    if isinstance(op, AppendFeed):
        return bool(op.payloads) and op.feed not in STAYS
    if isinstance(op, StartRun):
        return op.parent is None
    return isinstance(op, Emit) and op.append is None


def _in_run() -> bool:
    """Whether the caller is the code of a run that this process still has."""
    transaction = current.get()
    if transaction is not None and transaction.of_run:
        return True
    at = scope.get()
    return at is not None and not at.execution.ended and not at.execution.lost


class Residence:
    """Of one app, from `open` to `close`."""

    def __init__(self) -> None:
        self._unlisten: Callable[[], None] = lambda: None
        self._looking: asyncio.Task[None] | None = None
        self._then: list[Callable[[], None]] = []
        self._left = False
        self.promotes = False  # it is this process that does it, and nobody needs to be told

    async def open(self, store: Store, clock: Clock) -> Store:
        """The store as the app may use it."""
        self._unlisten = store.listen(self._hear)
        self._left = await _has_left(store)
        if not self._left:
            work = self._look(store, clock)
            self._looking = asyncio.get_running_loop().create_task(work, name="aura-residence")
        return cast("Store", Home(store, self))

    async def close(self) -> None:
        self._unlisten()
        self._unlisten = lambda: None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        self._left, self._then = False, []

    def opens(self, committer: Writes) -> None:
        """Open the committer; it refuses operations from the moment on when the app has left."""
        outer = _looked_at.set(True)
        committer.open()
        _looked_at.reset(outer)

        def close() -> None:
            committer.refuse = self._refusal

        self.then(close)

    def then(self, stop: Callable[[], None]) -> None:
        """What else is done at that moment, at once when that is over."""
        if self._left:
            stop()
        else:
            self._then.append(stop)

    def require(self) -> None:
        """Raises DatabaseMoved when the app has left, but for a run that is still here."""
        if self._left and not _in_run():
            raise moved()

    def admit(self, ops: Iterable[Op]) -> None:
        """Raises DatabaseMoved when one of them is refused."""
        if self._left and not _looked_at.get() and any(map(changes_the_app, ops)):
            self.require()

    def _refusal(self, op: Op) -> DatabaseMoved | None:
        return moved() if changes_the_app(op) and not _in_run() else None

    def _hear(self, topic: str) -> None:
        if topic == f"doc:{'/'.join(SIGN)}":
            self._leave()

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        log.log(
            logging.DEBUG if self.promotes else logging.WARNING,
            "%s: this process changes nothing here any more. Restart it with that one",
            moved().message,
        )
        for stop in self._then:
            stop()

    async def _look(self, store: Store, clock: Clock) -> None:
        while not self._left:
            await clock.sleep(_LOOK)
            try:
                if await _has_left(store):
                    self._leave()
            except StoreUnavailable as error:
                log.debug("whether the app was promoted is looked up later: %s", error)


async def _has_left(store: Store) -> bool:
    try:
        return await store.document(*SIGN) is not None
    except DecryptionFailed:
        return True  # it is there, and another key's


def moved() -> DatabaseMoved:
    """What is raised for all that is refused."""
    return DatabaseMoved(
        "the app of this database was promoted to another one",
        hint="Set AURA_DATABASE_URL to that one; here nothing is started, changed or executed",
    )


class Home:
    """The store as an app has it: what is not written here is the store's own verb. See
    `aura.store.base.Store`; those here raise DatabaseMoved, too."""

    def __init__(self, inner: Store, residence: Residence) -> None:
        self.inner = inner
        self._residence = residence
        self.events = cast("EventStore", _HomeEvents(inner.events, residence))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        self._residence.admit(ops)
        return await self.inner.commit(ops)

    async def requeue(self, run_id: str, version: str | None = None) -> bool:
        self._residence.require()
        return await self.inner.requeue(run_id, version)

    async def sweep(self, what: Sweep) -> Swept:
        self._residence.require()
        return await self.inner.sweep(what)

    async def put_queue(self, name: str, limits: QueueLimits, *, replace: bool) -> QueueRecord:
        self._residence.require()
        return await self.inner.put_queue(name, limits, replace=replace)

    async def adopt(self, run: Row, rest: Iterable[Line], *, take_back: bool = False) -> Admission:
        self._residence.require()
        return await self.inner.adopt(run, rest, take_back=take_back)

    async def add_rows(self, table: str, rows: Sequence[Row]) -> int:
        self._residence.require()
        return await self.inner.add_rows(table, rows)

    async def replace_rows(self, table: str, changes: Sequence[Change]) -> int:
        self._residence.require()
        return await self.inner.replace_rows(table, changes)

    def session(self, isolation: Isolation | None, limit: float) -> Session:
        self._residence.require()
        session = self.inner.session(isolation, limit)
        return session if _in_run() else cast("Session", _HomeSession(session, self._residence))


def promotes(store: Store) -> None:
    """Say that who has this store writes the sign itself."""
    if isinstance(store, Home):
        store._residence.promotes = True


def unguarded(store: Store) -> Store:
    """The store itself, to see of which kind it is."""
    return store.inner if isinstance(store, Home) else store


class _HomeEvents:
    """See `aura.store.events.EventStore`."""

    def __init__(self, inner: EventStore, residence: Residence) -> None:
        self._inner = inner
        self._residence = residence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def requeue(self, topic: str, group: str, seq: int, version: str | None) -> bool:
        self._residence.require()
        return await self._inner.requeue(topic, group, seq, version)

    async def drop(self, topic: str, group: str, seq: int) -> bool:
        self._residence.require()
        return await self._inner.drop(topic, group, seq)

    async def replay(self, topic: str, group: str, since: float) -> int | None:
        self._residence.require()
        return await self._inner.replay(topic, group, since)

    async def forget(self, topic: str, group: str) -> bool:
        self._residence.require()
        return await self._inner.forget(topic, group)


class _HomeSession:
    """A transaction that is no run's: nothing of it is kept when the app has left meanwhile."""

    def __init__(self, inner: Session, residence: Residence) -> None:
        self._inner = inner
        self._residence = residence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, entries: Sequence[Written]) -> None:
        try:
            self._residence.require()
        except DatabaseMoved:
            await self._inner.rollback()
            raise
        await self._inner.commit(entries)
