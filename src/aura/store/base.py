"""The journal on disk: records, write operations and the verbs that every store has.

A store is six nouns and few verbs:

    runs       one row per run: its input, state, owner, epoch and result
    journal    the entries of each run, numbered from 1 (`seq`) without gaps
    signals    messages to each run, numbered from 1 without gaps in commit order
    documents  small named values with an epoch, replaced by compare-and-set
    feeds      append-only logs, numbered from 1 without gaps in commit order
    workers    processes that own runs, each with one lease

Every write is an operation (`Op`). `commit` applies a batch of them in one transaction; an
operation that does not hold (a stale epoch, a lost compare-and-set) is refused alone, with its
error in its place in the outcomes. The database's clock decides all leases and timers.

The life of a run, and the operation that makes each transition:

      StartRun          claim              Settle
    ─────────▶ pending ───────▶ running ──────────▶ completed | failed | cancelled | parked
                  ▲               │  ▲
                  │ Settle        │  │ claim (another owner, when the owner's lease is over)
                  │ (shutdown)    │  └─┐
                  ├───────────────┘    │
                  │   claim, when wake_at is over; SendSignal makes it pending
               waiting ◀── Settle (sleep, wait for a signal)

    StartRun with an owner begins in `running`, for a later time in `waiting`. RequestCancel marks;
    only the owner ends a run, except one that no worker ever had, which is cancelled at once.
    `fence` makes every run that has not ended `moved`: it goes on in another database, and here
    only when it is brought back. `Continue` makes a running run pending with another input: its
    next execution, whose journal is empty. In a queue, `claim` waits for a free place.

Families: a run that a run has started has it as its `parent`. However a run becomes terminal, in
the same transaction (a) a signal (`CHILD_ENDED`) is stored for its parent, which wakes like from
any signal, and (b) its children are asked to stop. Neither holds for a child that is `detached`.

Invariants: (1) epoch grows by one with each claim; (2) an entry or settlement is written only
with the run's current epoch and while it is running; (3) seq has no gaps; (4) a terminal run
never changes, except that `parked` may become `pending`; (5) a run does not begin to wait while
there is a signal that its owner has not seen (`Settle.seen`), so no wake-up is lost; (6) a run
starts children only with its current epoch and while it is running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from aura.errors import EpochConflict, LeaseLost, RunEnded, RunNotFound
from aura.store.events import Emit, EventStore, Progress, event_topics
from aura.store.outline import Outlined
from aura.store.portable import Portable
from aura.store.queues import Offer, Placement, Queued
from aura.store.search import Attributes, Searched
from aura.store.search import RunFilter as RunFilter
from aura.store.session import Isolation, Session

RunState = Literal[
    "pending", "running", "waiting", "completed", "failed", "cancelled", "parked", "moved"
]
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
CLOSED: frozenset[str] = TERMINAL | {"moved"}  # takes no more signals
SETTLED: frozenset[str] = CLOSED | {"parked"}
Priority = Literal["critical", "high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "normal", "low")
CHILD_ENDED = "~child"
"""The name of the signal that a child has ended; its id is this, a colon and the child's id."""


class Entry(NamedTuple):
    """One line of a run's journal. `seq` starts at 1; times are epoch seconds.

    `kind` says what was recorded: "step", "attempt" (a failed try that will be repeated),
    "sleep", "value" (now, random, uuid), "signal" (one was received), "state", "stream" and
    "answer" (what is told to those outside), ... Several "attempt" entries may share a key with
    the final entry of that step.
    """

    run_id: str
    seq: int
    key: str
    kind: str
    fingerprint: str
    input: bytes | None
    output: bytes | None
    error: bytes | None
    attempt: int
    started_at: float
    recorded_at: float


class RunRecord(NamedTuple):
    """One run. `owner` is the worker's id while running; `origin` the process that started it;
    `signals` counts those that were sent to it. `parent` is the run that started it, which a
    `detached` one outlives. `execution` counts from 1 how often the run has begun anew; the journal
    of this one begins after the seq `base`. `deadline` is epoch seconds."""

    id: str
    workflow: str
    version: str
    state: RunState
    epoch: int
    owner: str | None
    origin: str
    input: bytes
    fingerprint: str
    output: bytes | None
    error: bytes | None
    wake_at: float | None
    cancel_requested: bool
    recoveries: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    signals: int = 0
    parent: str | None = None
    detached: bool = False
    execution: int = 1
    base: int = 0
    queue: str | None = None
    key: str = ""
    priority: int = 0
    dedup: str | None = None
    debounced: bool = False
    deadline: float | None = None


class Signal(NamedTuple):
    """A message to a run. `deadline` and `sent_at` are epoch seconds; `late` says that it was
    known at sending that the deadline would be missed. `id` is unique within the run."""

    run_id: str
    seq: int
    name: str
    id: str
    priority: Priority
    deadline: float | None
    payload: bytes
    sent_at: float
    late: bool


@dataclass(frozen=True, slots=True)
class StartRun:
    """Create a run, or find the one that has the id. Outcome: `Started`.

    With `owner` the run begins in `running`, owned at epoch 1 by that worker. With a `place` (then
    it has no owner) it waits there, and the outcome may be a run with another id. With `parent` the
    outcome is `LeaseLost` unless that run is running at `parent_epoch` (or the id is there). Its
    worker fails it at its `deadline` (epoch seconds of the database). A run that is created has
    these `attributes`.
    """

    id: str
    workflow: str
    version: str
    input: bytes
    fingerprint: str
    origin: str
    owner: str | None = None
    parent: str | None = None
    parent_epoch: int = 0
    detached: bool = False
    place: Placement | None = None
    deadline: float | None = None
    attributes: Attributes = ()


class Started(NamedTuple):
    """`created` is False when the id was there before; `run` is then that run."""

    created: bool
    run: RunRecord


class Append(NamedTuple):
    """Write one journal entry. Outcome: None, or `LeaseLost`."""

    epoch: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Settle:
    """Take the run out of `running`. Outcome: None, or `LeaseLost`.

    `wake_at` (epoch seconds of the database; None: only a signal wakes it) is for "waiting", and
    so is `seen`: the seq of the last signal that the owner knows; when there is a newer one, the
    run becomes "pending". `announce` tells other processes, because one of them waits for the
    result, `frees` everybody that a place in a queue is free.
    """

    run_id: str
    epoch: int
    state: RunState
    output: bytes | None = None
    error: bytes | None = None
    wake_at: float | None = None
    announce: bool = True
    seen: int | None = None
    frees: bool = False


@dataclass(frozen=True, slots=True)
class Continue:
    """Let a running run begin anew with another input, as its next execution. Outcome: None, or
    `LeaseLost`.

    `base` is the seq of the last entry of this execution. Signals that are in `unread` or later
    than `seen` move along, the others count as taken. The fingerprint stays the first one.
    """

    run_id: str
    epoch: int
    version: str
    input: bytes
    base: int
    seen: int
    unread: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """Ask a run to stop. Outcome: the `RunRecord` after it, or None when there is no such run."""

    run_id: str


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Give a run a message, once per `id`. Outcome: `Sent`, or `RunNotFound`, or `RunEnded`.

    A waiting run becomes pending; with a `taker`, the id of a worker and the epoch that it knows,
    one of that epoch and of no queue becomes running instead, owned by that worker at the next
    epoch. `late` marks one that cannot meet its `deadline` (epoch seconds of the database); one
    that is committed after it is marked anyway.
    """

    run_id: str
    name: str
    payload: bytes
    id: str
    priority: Priority = "normal"
    deadline: float | None = None
    late: bool = False
    taker: tuple[str, int] | None = None


class Sent(NamedTuple):
    """A signal is durable. `duplicate`: its id was there before, and `seq` and `late` are those of
    then; `state` is the run's, after it; `taken`: the run is the taker's now."""

    seq: int
    duplicate: bool
    late: bool
    state: RunState
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell everybody of a topic, once what was submitted before is durable. Outcome: None."""

    topic: str


@dataclass(frozen=True, slots=True)
class PutDocument:
    """Replace a document if its epoch is `expected` (0: it must not exist; None: any).

    Outcome: the new epoch, or `EpochConflict`.
    """

    kind: str
    name: str
    body: bytes
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class AppendFeed:
    """Add payloads to the end of a feed. Outcome: the seq of the last one."""

    feed: str
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Extend a worker's lease by `lease` seconds from now; 0 or less gives it up. Outcome: None."""

    worker: str
    lease: float
    info: bytes = b"{}"


Op = (
    StartRun | Append | Settle | RequestCancel | SendSignal | PutDocument | AppendFeed | Heartbeat
    | Announce | Continue | Emit | Progress
)  # fmt: skip
Outcome = (
    None | int | Started | RunRecord | Sent | LeaseLost | EpochConflict | RunNotFound | RunEnded
)


class Document(NamedTuple):
    """A named value; `epoch` counts its changes from 1."""

    kind: str
    name: str
    epoch: int
    body: bytes
    updated_at: float


class FeedItem(NamedTuple):
    """One payload of a feed."""

    seq: int
    at: float
    payload: bytes


class Worker(NamedTuple):
    """A process that owns runs until `lease_until` (epoch seconds of the database)."""

    id: str
    lease_until: float
    started_at: float
    info: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What `claim` may take: runs of these (workflow, version) pairs, at most `limit`; with `only`
    no other run than that; from queues as far as the worker's `offer` allows."""

    worker: str
    versions: tuple[tuple[str, str], ...]
    limit: int
    only: str | None = None
    offer: Offer = field(default_factory=Offer)


class Claimed(NamedTuple):
    """A run that now belongs to the claimer, with its journal and signals in order of seq;
    `taken_over`: it was another worker's, whose lease is over."""

    run: RunRecord
    journal: list[Entry]
    signals: Sequence[Signal] = ()
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """`next_wake` is in how many seconds the earliest waiting run is due, or the first lease is
    over of another worker that has runs, or None; `cancels` are
    the claimer's own running runs that were asked to stop (in case it did not hear that); `moment`
    is the database's time at the end of it."""

    runs: list[Claimed] = field(default_factory=list)
    next_wake: float | None = None
    cancels: tuple[str, ...] = ()
    moment: float | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What `sweep` may delete: at most `limit` rows of what has been over for `age` seconds.

    That is ended runs (never parked ones) with their journals and signals, workers whose lease has
    been over for `dead` seconds and that own nothing, and items of the feeds whose names begin with
    one of `feeds`, except those in `keep`. The last item of a feed stays: it numbers the next one.
    Events go when all groups have handled them, or after `unread` seconds; dead letters stay. Large
    payloads go when no row has them any more.
    """

    age: float
    feeds: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    limit: int = 200
    dead: float = 86_400.0
    unread: float | None = None


class Swept(NamedTuple):
    """How many rows were deleted, or would be."""

    runs: int = 0
    entries: int = 0
    signals: int = 0
    items: int = 0
    workers: int = 0
    payloads: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What `aura doctor` shows. `settings` are the durability settings as the database has them."""

    kind: str
    location: str
    schema: int
    server: str
    settings: dict[str, str]
    clock_offset: float


Listener = Callable[[str], None]
Done = Callable[[Outcome | BaseException], None]


class Store(Portable, Queued, Searched, Outlined, Protocol):
    """The verbs. All raise `StoreUnavailable` when the database cannot be reached or written.

    Topics that listeners hear (on the event loop, from this and all other processes):
    `ready` (a run can be claimed), `run:<id>` (settled), `cancel:<id>`, `signal:<run>`,
    `doc:<kind>/<name>`, `feed:<name>`, `events:<topic>`, `groups`, and what `Announce` says. A
    topic can be missed when a connection breaks: listeners also poll slowly.
    """

    @property
    def events(self) -> EventStore: ...

    async def open(self) -> None:
        """Connect and bring the schema up to date. Raises SchemaTooNew, SchemaMismatch."""

    async def close(self) -> None: ...

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        """Apply the operations in one durable transaction; outcomes in the same order.

        Applied in this order, whatever the batch's: heartbeats, starts, appends, settlements,
        continuations, cancel requests, signals, documents, feeds. Sending the same signal again is
        harmless, and so is the same append or settlement with the same epoch, so that a commit
        whose outcome is unknown can be repeated.
        """

    async def claim(self, claim: Claim) -> ClaimResult:
        """Take pending runs, waiting runs that are due and runs whose owner's lease is over."""

    async def run(self, run_id: str) -> RunRecord | None: ...

    async def runs(self, where: RunFilter) -> list[RunRecord]: ...

    async def runs_by_id(self, ids: Sequence[str]) -> list[RunRecord]:
        """Those of them that exist, in no order, without duplicates."""

    async def journal(self, run_id: str) -> list[Entry]:
        """The entries of the run's present execution."""

    async def entries(self, run_id: str, kind: str, after: int = 0) -> list[Entry]:
        """The entries of one kind whose seq is above `after`, also of earlier executions."""

    async def signals(self, wanted: Sequence[tuple[str, int]]) -> list[Signal]:
        """For each (run id, seq) the run's signals after that seq, in order of run and seq."""

    async def document(self, kind: str, name: str) -> Document | None: ...

    async def documents(self, kind: str) -> list[Document]: ...

    async def feed(self, name: str, after: int = 0, limit: int = 1000) -> list[FeedItem]: ...

    async def workers(self) -> list[Worker]: ...

    async def requeue(self, run_id: str, version: str | None = None) -> bool:
        """Make a parked run pending, at that version if given; whether it was. Announce `ready`."""

    async def sweep(self, what: Sweep) -> Swept:
        """Delete one batch of what is old, the oldest first; nothing is left when it was none."""

    async def sweepable(self, what: Sweep) -> Swept:
        """How much there is for `sweep`, whatever the limit. It reads all of that."""

    async def info(self) -> StoreInfo: ...

    async def moment(self) -> float:
        """The database's time, in epoch seconds."""

    def session(self, isolation: Isolation | None, limit: float) -> Session:
        """A transaction for a user's own statements and journal entries, not yet begun. Where it
        keeps all others from writing, it may be open for `limit` seconds."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each topic from now on; the answer ends it."""


class Writer(Protocol):
    """Where operations are submitted one by one; the store's committer is one."""

    def submit(self, op: Op) -> asyncio.Future[Outcome]:
        """The outcome, once it is durable; raises what the store refused it with."""

    def post(self, op: Op, done: Done) -> None:
        """The same, with the outcome given to a function, at once when it is known."""

    def post_later(self, op: Append, done: Done) -> None:
        """The same, for an entry on which nothing outside depends: it may wait for others."""

    def hurry(self, run_id: str | None = None) -> None:
        """Somebody depends on what was posted before: write it now; what that run has posted,
        before what others have."""

    def written(self) -> dict[str, int]:
        """How much has been written since the start: commits, entries, those that waited, ..."""


def topics(ops: Sequence[Op], outcomes: Sequence[Outcome]) -> tuple[list[str], list[str]]:
    """What a committed batch announces: (to this process, to other processes)."""
    here: dict[str, None] = {}
    elsewhere: dict[str, None] = {}
    for op, outcome in zip(ops, outcomes, strict=True):
        if type(op) is Append or isinstance(outcome, BaseException):
            continue
        said = _topics(op, outcome)
        here |= dict.fromkeys(said)
        if isinstance(op, Settle) and op.state in SETTLED and not op.announce:
            said = said[1:]  # nobody waits for the result there
        elsewhere |= dict.fromkeys(said)
    return list(here), list(elsewhere)


def _topics(op: Op, outcome: Outcome) -> tuple[str, ...]:
    if isinstance(op, StartRun):
        new = isinstance(outcome, Started) and outcome.created and op.owner is None
        return ("ready",) if new else ()
    if isinstance(op, Settle):
        return _after_settling(op)
    if isinstance(op, Continue):
        return ("ready",)
    if isinstance(op, RequestCancel):
        return _after_cancel(op.run_id, outcome)
    if isinstance(op, SendSignal):
        return _after_signal(op.run_id, outcome)
    if isinstance(op, Announce):
        return (op.topic,)
    if isinstance(op, Emit | Progress):
        return event_topics(op)
    if isinstance(op, PutDocument):
        return (f"doc:{op.kind}/{op.name}",)
    return (f"feed:{op.feed}",) if isinstance(op, AppendFeed) else ()


def _after_settling(op: Settle) -> tuple[str, ...]:
    if op.state not in SETTLED:
        return ("ready",)
    return (f"run:{op.run_id}", "ready") if op.frees else (f"run:{op.run_id}",)


def _after_cancel(run_id: str, outcome: Outcome) -> tuple[str, ...]:
    """A run that nobody owns is settled at once, or can be claimed to end it."""
    if not isinstance(outcome, RunRecord):
        return ()
    if outcome.state in SETTLED:
        return (f"cancel:{run_id}", f"run:{run_id}")
    return (f"cancel:{run_id}", "ready") if outcome.state == "pending" else (f"cancel:{run_id}",)


def _after_signal(run_id: str, outcome: Outcome) -> tuple[str, ...]:
    """A pending run is announced too: the claim may have passed by while the signal was written."""
    if not isinstance(outcome, Sent) or outcome.duplicate:
        return ()
    topic = f"signal:{run_id}"
    return (topic, "ready") if outcome.state == "pending" else (topic,)


def run_ended(run_id: str, state: str) -> RunEnded:
    """The refusal of a signal to a run that cannot receive it any more."""
    return RunEnded(
        f"run {run_id} is {state}: it takes no more signals",
        hint="It goes on in another database: signal it there"
        if state == "moved"
        else "Start a new run, or signal earlier",
    )


def no_child_of(parent: str) -> LeaseLost:
    """The refusal of a start by a worker that does not own the parent any more."""
    return LeaseLost(f"run {parent} starts no children here: it is another worker's, or has ended")


def no_run(run_id: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
