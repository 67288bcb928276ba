"""A store around a store: payloads are encrypted on their way in and decrypted on their way out.

Sealed are the inputs, outputs, errors and fingerprints of runs and journal entries, the payloads of
signals, feeds and events, the histories of dead letters, and the bodies of documents. What the
database needs to find its way stays as it is: ids, names, keys, states and times, and what workers
tell of themselves.

Each key that has sealed something leaves a document behind (kind "key", the id as its name) with a
known text in it. By these a process finds out that it lacks the key before it writes anything.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

from aura.codec import is_encrypted, unpack
from aura.errors import DecryptionFailed, EpochConflict
from aura.store.base import (
    Append,
    AppendFeed,
    Claim,
    Claimed,
    ClaimResult,
    Continue,
    Document,
    Entry,
    FeedItem,
    Listener,
    Op,
    Outcome,
    PutDocument,
    RequestCancel,
    RunFilter,
    RunRecord,
    SendSignal,
    Settle,
    Signal,
    Started,
    StartRun,
    Store,
    StoreInfo,
    Sweep,
    Swept,
    Worker,
)
from aura.store.events import Emit, Progress
from aura.store.events_sealed import SealedEvents, seal_events, seal_progress
from aura.store.keys import Keyring
from aura.store.outline import Glance
from aura.store.portable import SEALED_TEXT as _TEXT
from aura.store.portable import (
    TABLES,
    Admission,
    Change,
    Fence,
    Line,
    Page,
    Row,
    frame_of,
    key_ids,
)
from aura.store.queues import CountBy, QueueLimits, QueueRecord
from aura.store.sealed_rows import open_row, seal_row, start_place
from aura.store.sealed_rows import place as _place
from aura.store.sealed_session import SealedSession
from aura.store.search import Pulse, RunChange
from aura.store.session import Isolation, Session, Written

_KIND = "key"
_KNOWN = b'"this key opens what Aura has sealed with it"'


async def sealed(store: Store, keys: Keyring) -> Store:
    """The open store itself when nothing is or will be sealed in it, else one that seals.

    Without the key that sealed last, or with another one of that id, it gives everything that can
    be read and refuses to write: `refusal` says why.
    """
    marks = sorted(await store.documents(_KIND), key=lambda one: one.updated_at)
    if not marks and not keys.ids:
        return store
    refusal = _refusal(marks, keys)
    if refusal is None and keys.ids[0] not in {one.name for one in marks}:
        mark = keys.seal(_KNOWN, _document_place(_KIND, keys.ids[0]))
        [outcome] = await store.commit([PutDocument(_KIND, keys.ids[0], mark, 0)])
        if isinstance(outcome, EpochConflict):  # another process was first: perhaps with another
            return await sealed(store, keys)  # key of that id
    return SealedStore(store, keys, refusal)


def _refusal(marks: Sequence[Document], keys: Keyring) -> DecryptionFailed | None:
    """Why this process may not write: it lacks the key of the others, or has another one."""
    for mark in marks:
        found = keys.open(mark.body, _document_place(_KIND, mark.name))
        if found != _KNOWN and (mark.name in keys.ids or mark is marks[-1]):
            try:
                unpack(found)
            except DecryptionFailed as error:
                return error
            return DecryptionFailed(
                f"the mark of the encryption key {mark.name} is damaged", key_id=mark.name
            )
    return None


class SealedStore:
    """See `aura.store.base.Store`, whose verbs these are.

    What does not open of runs, journals and signals is given as it is stored (`aura.codec.unpack`
    says why it does not); documents and feed items raise DecryptionFailed or KeyMissing.
    """

    def __init__(
        self, inner: Store, keys: Keyring, refusal: DecryptionFailed | None = None
    ) -> None:
        self._inner = inner
        self._keys = keys
        self.refusal = refusal
        self.events = SealedEvents(inner.events, keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys; the first one seals."""
        return self._keys.ids

    def require_keys(self) -> None:
        """Raises KeyMissing or DecryptionFailed when this process must not write."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    async def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        outcomes = await self._inner.commit([self._seal_op(op) for op in ops])
        return [self._open_outcome(*pair) for pair in zip(ops, outcomes, strict=True)]

    async def claim(self, claim: Claim) -> ClaimResult:
        found = await self._inner.claim(claim)
        runs = [
            Claimed(
                self._open_run(one.run),
                [self._open_entry(entry) for entry in one.journal],
                [self._open_signal(signal) for signal in one.signals],
                one.taken_over,
            )
            for one in found.runs
        ]
        return replace(found, runs=runs)

    async def run(self, run_id: str) -> RunRecord | None:
        found = await self._inner.run(run_id)
        return None if found is None else self._open_run(found)

    async def runs(self, where: RunFilter) -> list[RunRecord]:
        return [self._open_run(one) for one in await self._inner.runs(where)]

    async def runs_by_id(self, ids: Sequence[str]) -> list[RunRecord]:
        return [self._open_run(one) for one in await self._inner.runs_by_id(ids)]

    async def changed_runs(self, after: float, limit: int) -> list[RunChange]:
        return await self._inner.changed_runs(after, limit)

    async def pulses(self, ids: Sequence[str]) -> list[Pulse]:
        return await self._inner.pulses(ids)

    async def attributes(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return await self._inner.attributes(ids)

    async def journal(self, run_id: str) -> list[Entry]:
        return [self._open_entry(one) for one in await self._inner.journal(run_id)]

    async def entries(self, run_id: str, kind: str, after: int = 0) -> list[Entry]:
        return [self._open_entry(one) for one in await self._inner.entries(run_id, kind, after)]

    async def entries_of(self, run_id: str, keys: Sequence[str]) -> list[Entry]:
        return [self._open_entry(one) for one in await self._inner.entries_of(run_id, keys)]

    async def outline(self, run_id: str, after: int, limit: int) -> list[Glance]:
        return await self._inner.outline(run_id, after, limit)

    async def signals(self, wanted: Sequence[tuple[str, int]]) -> list[Signal]:
        return [self._open_signal(one) for one in await self._inner.signals(wanted)]

    async def document(self, kind: str, name: str) -> Document | None:
        found = await self._inner.document(kind, name)
        return None if found is None else self._open_document(found)

    async def documents(self, kind: str) -> list[Document]:
        return [self._open_document(one) for one in await self._inner.documents(kind)]

    async def feed(self, name: str, after: int = 0, limit: int = 1000) -> list[FeedItem]:
        place = _place("feed", name)
        found = await self._inner.feed(name, after, limit)
        return [one._replace(payload=self._must_open(one.payload, place)) for one in found]

    async def workers(self) -> list[Worker]:
        return await self._inner.workers()

    async def requeue(self, run_id: str, version: str | None = None) -> bool:
        return await self._inner.requeue(run_id, version)

    async def sweep(self, what: Sweep) -> Swept:
        return await self._inner.sweep(what)

    async def sweepable(self, what: Sweep) -> Swept:
        return await self._inner.sweepable(what)

    async def put_queue(self, name: str, limits: QueueLimits, *, replace: bool) -> QueueRecord:
        return await self._inner.put_queue(name, limits, replace=replace)

    async def queues(self) -> list[QueueRecord]:
        return await self._inner.queues()

    async def count_runs(
        self, by: Sequence[CountBy], queue: str | None = None
    ) -> dict[tuple[str | None, ...], int]:
        return await self._inner.count_runs(by, queue)

    async def depths(self) -> dict[tuple[str | None, str], int]:
        return await self._inner.depths()

    async def layout(self) -> Mapping[str, Sequence[str]]:
        return await self._inner.layout()

    async def rows(self, page: Page) -> list[Row]:
        change = open_row if page.opened else seal_row
        if not page.opened:
            self.require_keys()  # to seal what was written before there were keys
        return [change(self._keys, page.table, row) for row in await self._inner.rows(page)]

    async def fence(self, what: Fence) -> list[str]:
        self.require_keys()
        return await self._inner.fence(what)

    async def adopt(self, run: Row, rest: Iterable[Line], *, take_back: bool = False) -> Admission:
        self.require_keys()
        sealed_rest = ((table, seal_row(self._keys, table, row)) for table, row in rest)
        run = seal_row(self._keys, "runs", run)
        return await self._inner.adopt(run, sealed_rest, take_back=take_back)

    async def add_rows(self, table: str, rows: Sequence[Row]) -> int:
        self.require_keys()
        rows = [seal_row(self._keys, table, row) for row in rows]
        return await self._inner.add_rows(table, rows)

    async def replace_rows(self, table: str, changes: Sequence[Change]) -> int:
        self.require_keys()
        sealed = [(was, seal_row(self._keys, table, row)) for was, row in changes]
        return await self._inner.replace_rows(table, sealed)

    async def stale(self, page: Page) -> tuple[list[Change], tuple[object, ...] | None]:
        """The rows of a page of which another key than the newest has sealed something, or none
        has: as they are, and opened; those whose key is not here are left out. And behind which
        key the next page begins (None: there is none)."""
        rows = await self._inner.rows(page)
        found = []
        for row in rows:
            if not _is_new(page.table, row, self._keys.ids[0]):
                with suppress(DecryptionFailed):
                    found.append((row, open_row(self._keys, page.table, row)))
        key = TABLES[page.table].key
        return found, tuple(rows[-1][name] for name in key) if rows else None

    async def moment(self) -> float:
        return await self._inner.moment()

    async def info(self) -> StoreInfo:
        return await self._inner.info()

    def session(self, isolation: Isolation | None, limit: float) -> Session:
        return SealedSession(self._inner.session(isolation, limit), self._seal_written)

    def listen(self, listener: Listener) -> Callable[[], None]:
        return self._inner.listen(listener)

    # On the way in.

    def _seal_op(self, op: Op) -> Op:
        if isinstance(op, Append):
            return Append(op.epoch, self._seal_entry(op.entry))
        if isinstance(op, Emit):
            self.require_keys()
            append = op.append and Append(op.append.epoch, self._seal_entry(op.append.entry))
            return Emit(seal_events(self._keys, op.events), append)
        if isinstance(op, Progress):
            self.require_keys()
            return seal_progress(self._keys, op)
        if isinstance(op, Continue):
            self.require_keys()
            place = _place("run", op.run_id)
            return replace(op, input=self._keys.seal(op.input, place + b"/input"))
        if isinstance(op, StartRun | Settle | SendSignal | PutDocument | AppendFeed):
            self.require_keys()
            return self._seal_other(op)
        return op

    def _seal_written(self, op: Written) -> Written:
        return cast("Written", self._seal_op(op))

    def _seal_entry(self, entry: Entry) -> Entry:
        place = _entry_place(entry)
        return entry._replace(
            fingerprint=self._seal_text(entry.fingerprint, place),
            input=self._seal(entry.input, place + b"/input"),
            output=self._seal(entry.output, place + b"/output"),
            error=self._seal(entry.error, place + b"/error"),
        )

    def _seal_other(self, op: StartRun | Settle | SendSignal | PutDocument | AppendFeed) -> Op:
        if isinstance(op, StartRun):
            wait = op.place
            debounced = wait is not None and wait.debounce is not None
            dedup = wait.dedup if wait else None
            place = start_place(op.id, op.workflow, dedup, debounced=debounced)
            return replace(
                op,
                input=self._keys.seal(op.input, place + b"/input"),
                fingerprint=self._seal_text(op.fingerprint, place),
            )
        if isinstance(op, Settle):
            place = _place("run", op.run_id)
            return Settle(
                op.run_id, op.epoch, op.state, self._seal(op.output, place + b"/output"),
                self._seal(op.error, place + b"/error"), op.wake_at, op.announce, op.seen,
                op.frees,
            )  # fmt: skip
        if isinstance(op, SendSignal):
            payload = self._keys.seal(op.payload, _place("signal", op.run_id, op.id))
            return SendSignal(
                op.run_id, op.name, payload, op.id, op.priority, op.deadline, op.late, op.taker
            )  # fmt: skip
        if isinstance(op, PutDocument):
            body = self._keys.seal(op.body, _document_place(op.kind, op.name))
            return PutDocument(op.kind, op.name, body, op.expected)
        place = _place("feed", op.feed)
        return AppendFeed(op.feed, tuple(self._keys.seal(one, place) for one in op.payloads))

    def _seal(self, data: bytes | None, place: bytes) -> bytes | None:
        return None if data is None else self._keys.seal(data, place)

    def _seal_text(self, text: str, place: bytes) -> str:
        """A fingerprint would tell which inputs are equal, and short inputs by trying them all."""
        if not text:
            return text
        frame = self._keys.seal(text.encode(), place + b"/fingerprint")
        return _TEXT + base64.b64encode(frame).decode()

    # On the way out.

    def _open_outcome(self, op: Op, outcome: Outcome) -> Outcome:
        if isinstance(op, StartRun) and isinstance(outcome, Started):
            if outcome.created:
                run = outcome.run._replace(input=op.input, fingerprint=op.fingerprint)
                return Started(True, run)
            return Started(False, self._open_run(outcome.run))
        if isinstance(op, RequestCancel) and isinstance(outcome, RunRecord):
            return self._open_run(outcome)
        return outcome

    def _open_run(self, run: RunRecord) -> RunRecord:
        place = begin = first = _place("run", run.id)
        if run.debounced:
            begin = start_place(run.id, run.workflow, run.dedup, debounced=True)
            first = begin if run.execution == 1 else place
        return run._replace(
            fingerprint=self._open_text(run.fingerprint, begin),
            input=self._keys.open(run.input, first + b"/input"),
            output=self._open(run.output, place + b"/output"),
            error=self._open(run.error, place + b"/error"),
        )

    def _open_entry(self, entry: Entry) -> Entry:
        place = _entry_place(entry)
        return entry._replace(
            fingerprint=self._open_text(entry.fingerprint, place),
            input=self._open(entry.input, place + b"/input"),
            output=self._open(entry.output, place + b"/output"),
            error=self._open(entry.error, place + b"/error"),
        )

    def _open_signal(self, signal: Signal) -> Signal:
        place = _place("signal", signal.run_id, signal.id)
        return signal._replace(payload=self._keys.open(signal.payload, place))

    def _open_document(self, document: Document) -> Document:
        place = _document_place(document.kind, document.name)
        return document._replace(body=self._must_open(document.body, place))

    def _open(self, data: bytes | None, place: bytes) -> bytes | None:
        return None if data is None else self._keys.open(data, place)

    def _must_open(self, data: bytes, place: bytes) -> bytes:
        """For what is no run's: nobody can do anything with it while it is closed."""
        opened = self._keys.open(data, place)
        if is_encrypted(opened):
            unpack(opened)  # raises what it is
        return opened

    def _open_text(self, text: str, place: bytes) -> str:
        if not text.startswith(_TEXT):
            return text
        frame = base64.b64decode(text.removeprefix(_TEXT))
        found = self._keys.open(frame, place + b"/fingerprint")
        return text if is_encrypted(found) else found.decode()


def _is_new(table: str, row: Row, key_id: str) -> bool:
    """Whether the key with that id has sealed all payloads of a row. The mark of a key stays that
    key's."""
    if table == "documents" and row["kind"] == _KIND:
        return True
    plain = [row[name] for name in TABLES[table].payloads if row[name] and not frame_of(row[name])]
    return not plain and key_ids(table, row) <= {key_id}


def _entry_place(entry: Entry) -> bytes:
    return _place("journal", entry.run_id, str(entry.seq), entry.key)


def _document_place(kind: str, name: str) -> bytes:
    return _place("document", kind, name)
