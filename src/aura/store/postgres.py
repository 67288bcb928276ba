"""The journal in PostgreSQL 14 or newer, in the schema `aura` of one database.

A batch of operations is one call of one function (`aura.commit`, in the migrations), so a commit
costs one round trip and one flush, and no lock outlives a paused or killed client. Entries share
the lock of their run's row and compare its epoch under it; a claim locks the row alone and raises
the epoch: whoever comes second sees what the first one did.

Claims are transactions of their own: the journals are read before they are committed, and when the
connection breaks while committing, the next claim finds out which runs are really owned.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, TypeVar
from urllib.parse import unquote

import asyncpg

from aura.clock import Clock, SystemClock
from aura.errors import EpochConflict, LeaseLost, StoreUnavailable
from aura.store import postgres_rows
from aura.store.base import (
    Announce,
    Append,
    AppendFeed,
    Claim,
    ClaimResult,
    Continue,
    Document,
    Entry,
    FeedItem,
    Heartbeat,
    Listener,
    Op,
    Outcome,
    PutDocument,
    RequestCancel,
    RunFilter,
    RunRecord,
    SendSignal,
    Sent,
    Settle,
    Signal,
    Started,
    StartRun,
    StoreInfo,
    Sweep,
    Swept,
    Worker,
    no_child_of,
    no_run,
    run_ended,
    topics,
)
from aura.store.events import Emit, Progress, lost_partition
from aura.store.events_postgres import PostgresEvents, emit_rows, progress_rows
from aura.store.outline import Glance
from aura.store.payloads import READY, Bodies, put_back, set_apart, uses
from aura.store.portable import Admission, Change, Fence, Line, Page, Row
from aura.store.postgres_aside import add_attributes, search, take_runs
from aura.store.postgres_claims import COLUMNS, Claims
from aura.store.postgres_link import Connection, Ear, Link, Loan, Pool, masked
from aura.store.postgres_lists import count_runs
from aura.store.postgres_migrations import migrate
from aura.store.postgres_payloads import keep, use
from aura.store.postgres_queues import (
    Placed,
    all_queues,
    depths,
    placed_row,
    put_queue,
)
from aura.store.postgres_session import Aid, PostgresSession
from aura.store.postgres_solo import commit_alone
from aura.store.queries import SHOWN, migrations, queries
from aura.store.queues import CountBy, QueueLimits, QueueRecord
from aura.store.search import Pulse, RunChange, gathered
from aura.store.session import Isolation, Session

T = TypeVar("T")

_SQL = {name: sql.replace(":columns", COLUMNS) for name, sql in queries("postgres").items()}
_SCHEMA = max(one.number for one in migrations("postgres"))
_MICROSECOND = 1e-6
_Done = tuple[list[Outcome], Sequence[str]]  # outcomes, and the topics that follow from ends


class PostgresStore:
    """See `aura.store.base.Store`. `url` is postgresql://user:password@host:port/database.

    Uses `pool_size` connections for reads and claims, two for commits (so that a critical signal
    does not wait for a batch) and one that listens. The clock is for the pauses between attempts
    to reconnect; leases and timers use the database's.
    """

    def __init__(self, url: str, *, pool_size: int = 4, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._link = Link(url)
        self._sizes = (pool_size, 2)
        self._sender = uuid.uuid4().hex
        self._listeners: list[Listener] = []
        self._layout: Mapping[str, Sequence[str]] = {}
        self._apart = False  # whether large payloads are stored apart
        self._reads: Pool | None = None
        self._writes: Pool | None = None
        self._guests: Pool | None = None  # for users' transactions
        self._ear = Ear(self._link, self._overhear, lambda: self._hear("ready"), self._clock)
        self._claims = Claims()
        self.events = PostgresEvents(lambda: self._taken(self._reads))

    @property
    def url(self) -> str:
        """Where the database is, without the password."""
        return masked(self._link.url)

    async def open(self) -> None:
        reads, writes = self._sizes
        self._reads, self._writes = Pool(self._link, reads), Pool(self._link, writes)
        self._guests = Pool(Link(self._link.url, guest=True), reads)
        try:
            async with self._writes.take() as connection:
                self._apart = READY in await migrate(connection, self._clock)
            await self._ear.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._ear.close()
        for pool in (self._reads, self._writes, self._guests):
            if pool is not None:
                await pool.close()

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        if not ops:
            return []
        marked, bodies = set_apart(ops) if self._apart else (ops, {})
        async with self._taken(self._writes) as connection:
            if bodies:
                outcomes, after = await self._commit_apart(connection, marked, bodies)
            else:
                outcomes, after = await self._commit_together(connection, ops)
        for topic in after:
            self._hear(unquote(topic))
        self._tell(ops, outcomes)
        return outcomes

    async def _commit_apart(
        self, connection: Connection, ops: Sequence[Op], bodies: Bodies
    ) -> _Done:
        async with connection.transaction():
            await keep(connection, bodies)
            outcomes, after = await self._commit_together(connection, ops)
            await use(connection, uses(ops, outcomes, bodies))
        return put_back(outcomes, bodies), after

    def _tell(self, ops: Sequence[Op], outcomes: Sequence[Outcome]) -> None:
        here, _ = topics(ops, outcomes)
        for topic in here:
            self._hear(topic)

    async def _commit_together(self, connection: Connection, ops: Sequence[Op]) -> _Done:
        alone = await commit_alone(connection, ops, _new_run) if len(ops) <= 2 else None
        if alone is not None:
            return alone, ()
        kinds = _by_kind(ops)
        if len(kinds[Append]) == len(ops):
            return await _append(connection, kinds[Append]), ()
        takers = {op.run_id: op.taker for op in kinds[SendSignal] if op.taker is not None}
        found_by_words = any(op.attributes for kind in (StartRun, Placed) for op in kinds[kind])
        if not (takers or found_by_words):
            return await self._apply(connection, ops, kinds)
        async with connection.transaction():
            outcomes, after = await self._apply(connection, ops, kinds)
            outcomes = await take_runs(connection, ops, outcomes, takers)
            await add_attributes(connection, ops, outcomes)
        return outcomes, after

    async def _apply(self, connection: Connection, ops: Sequence[Op], kinds: _Kinds) -> _Done:
        row = await connection.fetchrow(_SQL["commit"], self._sender, _SCHEMA, *_rows(kinds))
        assert row is not None  # noqa: S101  (the function answers with one row)
        answers = _Answers(kinds, row)
        known: dict[str, RunRecord] = {}
        if answers.wanted:
            rows = await connection.fetch(_SQL["runs_by_id"], answers.wanted)
            known = {record.id: record for record in map(RunRecord._make, rows)}
        return answers.in_order(ops, known), row["after"] or ()

    async def claim(self, claim: Claim) -> ClaimResult:
        async with self._taken(self._reads) as connection:
            return await self._claims.claim(connection, claim)

    async def run(self, run_id: str) -> RunRecord | None:
        return _first(await self._fetch(RunRecord, "run", run_id))

    async def runs(self, where: RunFilter) -> list[RunRecord]:
        query, values = search(where)
        return await self._fetch(RunRecord, query, *values)

    async def runs_by_id(self, ids: Sequence[str]) -> list[RunRecord]:
        return await self._fetch(RunRecord, "runs_by_id", list(ids))

    async def changed_runs(self, after: float, limit: int) -> list[RunChange]:
        return await self._fetch(RunChange, "changed_runs", after, limit)

    async def pulses(self, ids: Sequence[str]) -> list[Pulse]:
        return await self._fetch(Pulse, "pulses", list(ids))

    async def attributes(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        async with self._taken(self._reads) as connection:
            return gathered(map(tuple, await connection.fetch(_SQL["attributes"], list(ids))))

    async def journal(self, run_id: str) -> list[Entry]:
        return await self._fetch(Entry, "journal", run_id)

    async def entries(self, run_id: str, kind: str, after: int = 0) -> list[Entry]:
        query = "shown_entries" if kind in SHOWN else "entries"
        return await self._fetch(Entry, query, run_id, kind, after)

    async def entries_of(self, run_id: str, keys: Sequence[str]) -> list[Entry]:
        return await self._fetch(Entry, "entries_of", run_id, list(keys))

    async def outline(self, run_id: str, after: int, limit: int) -> list[Glance]:
        return await self._fetch(Glance, "outline", run_id, after, limit)

    async def signals(self, wanted: Sequence[tuple[str, int]]) -> list[Signal]:
        if not wanted:
            return []
        return await self._fetch(Signal, "signals", *zip(*wanted, strict=True))

    async def document(self, kind: str, name: str) -> Document | None:
        return _first(await self._fetch(Document, "document", kind, name))

    async def documents(self, kind: str) -> list[Document]:
        return await self._fetch(Document, "documents", kind)

    async def feed(self, name: str, after: int = 0, limit: int = 1000) -> list[FeedItem]:
        return await self._fetch(FeedItem, "feed", name, after, limit)

    async def workers(self) -> list[Worker]:
        return await self._fetch(Worker, "workers")

    async def _fetch(self, kind: type[T], query: str, *values: Any) -> list[T]:
        async with self._taken(self._reads) as connection:
            rows = await connection.fetch(_SQL[query], *values)
        return [kind(*row) for row in rows]

    async def requeue(self, run_id: str, version: str | None = None) -> bool:
        return bool(await self._fetch(str, "requeue", run_id, version))

    async def sweep(self, what: Sweep) -> Swept:
        values = (what.age, what.feeds, what.keep, what.limit, what.dead)
        swept = (await self._fetch(Swept, "sweep", *values))[0]
        room = what.limit - sum(swept)
        payloads = (await self._fetch(int, "sweep_payloads", room))[0]
        events = await self.events.sweep(what.age, what.unread, room - payloads)
        return swept._replace(payloads=payloads, events=events)

    async def sweepable(self, what: Sweep) -> Swept:
        values = (what.age, what.feeds, what.keep, what.dead)
        found = (await self._fetch(Swept, "sweepable", *values))[0]
        return found._replace(events=await self.events.sweepable(what.age, what.unread))

    @property
    def key_ids(self) -> tuple[str, ...]:
        return ()

    async def put_queue(self, name: str, limits: QueueLimits, *, replace: bool) -> QueueRecord:
        async with self._taken(self._reads) as connection:
            return await put_queue(connection, name, limits, replace)

    async def queues(self) -> list[QueueRecord]:
        async with self._taken(self._reads) as connection:
            return await all_queues(connection)

    async def count_runs(
        self, by: Sequence[CountBy], queue: str | None = None
    ) -> dict[tuple[str | None, ...], int]:
        async with self._taken(self._reads) as connection:
            return await count_runs(connection, by, queue)

    async def depths(self) -> dict[tuple[str | None, str], int]:
        async with self._taken(self._reads) as connection:
            return await depths(connection)

    async def layout(self) -> Mapping[str, Sequence[str]]:
        async with self._taken(self._reads) as connection:
            return await postgres_rows.layout(connection)

    async def rows(self, page: Page) -> list[Row]:
        self._layout = self._layout or await self.layout()
        async with self._taken(self._reads) as connection:
            return await postgres_rows.rows(connection, page, self._layout[page.table])

    async def fence(self, what: Fence) -> list[str]:
        async with self._taken(self._reads) as connection:
            return await postgres_rows.fence(connection, what)

    async def adopt(self, run: Row, rest: Iterable[Line], *, take_back: bool = False) -> Admission:
        async with self._taken(self._reads) as connection:
            return await postgres_rows.adopt(connection, run, rest, take_back, self._apart)

    async def add_rows(self, table: str, rows: Sequence[Row]) -> int:
        async with self._taken(self._reads) as connection:
            return await postgres_rows.add_rows(connection, table, rows)

    async def replace_rows(self, table: str, changes: Sequence[Change]) -> int:
        async with self._taken(self._reads) as connection:
            return await postgres_rows.replace_rows(connection, table, changes, self._apart)

    async def moment(self) -> float:
        return (await self._fetch(float, "moment"))[0]

    async def info(self) -> StoreInfo:
        async with self._taken(self._writes) as connection:
            row = await connection.fetchrow(_SQL["settings"])
            assert row is not None  # noqa: S101  (always one row)
        settings = {key: str(value) for key, value in row.items()}
        offset = float(settings.pop("now")) - self._clock.now()
        server = settings.pop("server_version")
        return StoreInfo("postgres", self.url, _SCHEMA, server, settings, offset)

    def session(self, isolation: Isolation | None, limit: float) -> Session:  # noqa: ARG002
        if self._guests is None or self._reads is None:
            raise StoreUnavailable("the store is not open", hint="Await its open() first")

        async def emit(connection: Connection, ops: Sequence[Op]) -> list[Outcome]:
            outcomes, _ = await self._apply(connection, ops, _by_kind(ops))  # no run ends by it
            return outcomes

        aid = Aid(emit, self._tell, self._clock, self._apart)
        return PostgresSession(self._guests, self._reads, self._link.url, isolation, aid)

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _hear(self, topic: str) -> None:
        for listener in tuple(self._listeners):
            listener(topic)

    def _overhear(self, payload: str) -> None:
        sender, *said = payload.split("\n")
        if sender != self._sender:
            for topic in said:
                self._hear(unquote(topic))

    def _taken(self, pool: Pool | None) -> Loan:
        if pool is None:
            raise StoreUnavailable("the store is not open", hint="Await its open() first")
        return pool.take()


# From operations to rows, and from the function's answer to outcomes.

_Kinds = dict[type, list[Any]]
_Outcomes = list[Outcome]


def _by_kind(ops: Iterable[Op]) -> _Kinds:
    kinds: _Kinds = {
        kind: []
        for kind in (
            *(Heartbeat, StartRun, Append, Settle, RequestCancel, SendSignal, PutDocument),
            *(AppendFeed, Announce, Emit, Progress, Placed, Continue),
        )
    }
    for op in ops:
        kinds[_kind(op)].append(op)
    return kinds


def _kind(op: Op) -> type:
    return Placed if type(op) is StartRun and op.place is not None else type(op)


def _rows(kinds: _Kinds) -> list[Sequence[Any]]:
    """The arrays of `aura.commit`, in the order of its parameters."""
    appends = kinds[Append]
    entries = [op.append for op in kinds[Emit] if op.append is not None]
    return [
        [(op.worker, op.lease, op.info) for op in kinds[Heartbeat]],
        [_start_row(op) for op in kinds[StartRun]],
        _entry_rows([*appends, *entries] if entries else appends),
        [_settle_row(op) for op in kinds[Settle]],
        [(op.run_id, _topic_key(op.run_id)) for op in kinds[RequestCancel]],
        [_signal_row(op) for op in kinds[SendSignal]],
        [_document_row(op) for op in kinds[PutDocument]],
        *_feed_rows(kinds[AppendFeed]),
        [_topic_key(op.topic) for op in kinds[Announce]],
        emit_rows(kinds[Emit], len(appends)),
        *progress_rows(kinds[Progress]),
        [placed_row(op, _start_row(op)) for op in kinds[Placed]],
        [_continue_row(op) for op in kinds[Continue]],
    ]


def _start_row(op: StartRun) -> tuple[Any, ...]:
    owner = op.owner or None
    rest = (op.parent, op.parent_epoch, op.detached, op.deadline)
    return (op.id, op.workflow, op.version, op.input, op.fingerprint, op.origin, owner, *rest)


def _continue_row(op: Continue) -> tuple[Any, ...]:
    return (op.run_id, op.epoch, op.version, op.input, op.base, op.seen, list(op.unread))


def _entry_rows(ops: Sequence[Append]) -> list[tuple[Any, ...]]:
    return [(*op.entry, op.epoch) for op in ops]


def _settle_row(op: Settle) -> tuple[Any, ...]:
    wake_at = op.wake_at if op.state == "waiting" else None
    topic = _elsewhere(op, None)
    return (op.run_id, op.epoch, op.state, op.output, op.error, wake_at, topic, op.seen, op.frees)


def _signal_row(op: SendSignal) -> tuple[Any, ...]:
    topic = _topic_key(f"signal:{op.run_id}")
    return (op.run_id, op.name, op.id, op.priority, op.deadline, op.payload, op.late, topic)


def _document_row(op: PutDocument) -> tuple[Any, ...]:
    return (op.kind, op.name, op.body, op.expected, _elsewhere(op, 1))


def _feed_rows(ops: Sequence[AppendFeed]) -> list[Sequence[Any]]:
    names = {op.feed: _elsewhere(op, 1) for op in ops}
    lines = [(op.feed, payload) for op in ops for payload in op.payloads]
    return [list(names), list(names.values()), lines]


def _elsewhere(op: Op, success: Outcome) -> str | None:
    """What other processes hear when the operation succeeds, as a notification writes it."""
    _, elsewhere = topics([op], [success])
    return _topic_key(elsewhere[0]) if elsewhere else None


def _topic_key(text: str) -> str:
    """Notifications separate topics by line ends."""
    return text.replace("%", "%25").replace("\n", "%0A")


class _Answers:
    """The outcomes of each kind of operation, from the row that `aura.commit` answered with."""

    def __init__(self, kinds: _Kinds, row: asyncpg.Record) -> None:
        self._moment: float = row["moment"]
        self._kinds = kinds
        self._created = dict.fromkeys(row["created"] or ())
        self._stale: frozenset[int] = frozenset(row["stale"] or ())
        self._refused: frozenset[int] = frozenset(row["refused"] or ())
        self._sent: list[Any] = row["sent"] or []
        self._epochs: list[int | None] = row["epochs"] or []
        self._tails: list[int] = row["tails"] or []
        self._behind: frozenset[int] = frozenset(row["behind"] or ())
        self._stayed: frozenset[int] = frozenset(row["stayed"] or ())
        found = [op.id for op in kinds[StartRun]] if self._some_were_there() else []
        self._stood: list[Any] = row["stood"] or []
        found += [one["id"] for one in self._stood if one is not None]
        self.wanted = found + [op.run_id for op in kinds[RequestCancel]]

    def _some_were_there(self) -> bool:
        return len(self._created) < len(self._kinds[StartRun])

    def in_order(self, ops: Sequence[Op], known: dict[str, RunRecord]) -> _Outcomes:
        """`known` has the runs whose ids are `wanted`."""
        lists: dict[type, Iterable[Outcome]] = {
            Heartbeat: [None] * len(self._kinds[Heartbeat]),
            StartRun: self._starts(known),
            Append: _held(self._kinds[Append], self._stale),
            Settle: _settled(self._kinds[Settle], self._refused),
            Continue: _settled(self._kinds[Continue], self._stayed),
            RequestCancel: [known.get(op.run_id) for op in self._kinds[RequestCancel]],
            SendSignal: map(_sent, self._kinds[SendSignal], self._sent),
            PutDocument: map(_put, self._kinds[PutDocument], self._epochs),
            AppendFeed: self._feeds(),
            Announce: [None] * len(self._kinds[Announce]),
            Emit: self._emits(),
            Progress: self._progress(),
            Placed: map(_stands, self._kinds[Placed], self._stood, repeat(known)),
        }
        following = {kind: iter(outcomes) for kind, outcomes in lists.items()}
        return [next(following[_kind(op)]) for op in ops]

    def _starts(self, known: dict[str, RunRecord]) -> _Outcomes:
        outcomes: _Outcomes = []
        starts: list[StartRun] = self._kinds[StartRun]
        for number, op in enumerate(starts, 1):
            if op.id in self._created:
                del self._created[op.id]
                at = self._moment - _MICROSECOND * (len(starts) - number)
                outcomes.append(Started(True, _new_run(op, at)))
            else:
                there = known.get(op.id)
                outcomes.append(Started(False, there) if there else no_child_of(op.parent or ""))
        return outcomes

    def _emits(self) -> _Outcomes:
        """The entries of emitted events are numbered after the others."""
        number = len(self._kinds[Append])
        outcomes: _Outcomes = []
        for op in self._kinds[Emit]:
            number += op.append is not None
            lost = op.append is not None and number in self._stale
            outcomes.append(_lost(op.append.entry.run_id) if lost else None)
        return outcomes

    def _progress(self) -> _Outcomes:
        ops: list[Progress] = self._kinds[Progress]
        return [lost_partition(op) if at in self._behind else None for at, op in enumerate(ops, 1)]

    def _feeds(self) -> _Outcomes:
        """Walks back from each feed's last seq over what was added to it."""
        ops: list[AppendFeed] = self._kinds[AppendFeed]
        ends = dict(zip(dict.fromkeys(op.feed for op in ops), self._tails, strict=True))
        outcomes: _Outcomes = []
        for op in reversed(ops):
            outcomes.append(ends[op.feed])
            ends[op.feed] -= len(op.payloads)
        return outcomes[::-1]


def _stands(op: StartRun, answer: Any, known: Mapping[str, RunRecord]) -> Outcome:
    if answer is None:
        return no_child_of(op.parent or "")
    return Started(answer["created"], known[answer["id"]])


def _new_run(op: StartRun, at: float) -> RunRecord:
    owner = op.owner or None
    return RunRecord(
        id=op.id,
        workflow=op.workflow,
        version=op.version,
        state="running" if owner else "pending",
        epoch=1 if owner else 0,
        owner=owner,
        origin=op.origin,
        input=op.input,
        fingerprint=op.fingerprint,
        output=None,
        error=None,
        wake_at=None,
        cancel_requested=False,
        recoveries=0,
        created_at=at,
        started_at=at if owner else None,
        finished_at=None,
        parent=op.parent,
        detached=op.detached,
        deadline=op.deadline,
    )


async def _append(connection: Connection, ops: Sequence[Append]) -> _Outcomes:
    return _held(ops, frozenset(await connection.fetchval(_SQL["append"], _entry_rows(ops))))


def _held(ops: Sequence[Append], stale: frozenset[int]) -> _Outcomes:
    if not stale:
        return [None] * len(ops)
    return [_lost(op.entry.run_id) if at in stale else None for at, op in enumerate(ops, 1)]


def _lost(run_id: str) -> LeaseLost:
    return LeaseLost(f"run {run_id} belongs to another worker now")


def _settled(ops: Sequence[Settle | Continue], refused: frozenset[int]) -> _Outcomes:
    return [
        LeaseLost(f"run {op.run_id} belongs to another worker now") if at in refused else None
        for at, op in enumerate(ops, 1)
    ]


def _sent(op: SendSignal, answer: Any) -> Outcome:
    sent = Sent(*answer)
    if answer["state"] is None:
        return no_run(op.run_id)
    return sent if answer["seq"] is not None else run_ended(op.run_id, sent.state)


def _put(op: PutDocument, epoch: int | None) -> Outcome:
    if epoch is not None:
        return epoch
    return EpochConflict(
        f"{op.kind} {op.name} is not at epoch {op.expected} any more",
        hint="Read it again and decide anew",
    )


def _first(rows: list[T]) -> T | None:
    return rows[0] if rows else None
