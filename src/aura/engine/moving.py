"""Runs out of one database and into another one, through a bundle.

A move, and who can execute its runs:

    source                          file            target          who
    ──────────────────────────────────────────────────────────────────────────────
    running, waiting, ...           –               –               the source
    (1) moved, epoch raised         –               –               nobody, until (2) and (3)
    (2) moved                       whole           –               nobody, until (3)
    (3) moved                       whole           as it was       the target

Each run goes through (1) in one transaction of the source and through (3) in one of the target, so
no two workers can ever have it. After a crash between them the same commands are given again: (1)
passes over what is taken and (2) writes all that belongs to the move, whenever it was taken; (3)
passes over what is there. A run whose worker lives is not taken but asked for (`release:<id>`): the
worker hands it over between two effects, so that none of them is made twice.

A copy takes nothing: runs that had not ended are parked where they arrive, because they go on where
they come from.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from aura.clock import Clock
from aura.codec import plain, to_json
from aura.engine.bundle import Decoder, Encoder, Header, OfRun, by_run
from aura.errors import BundleDamaged, BundleError, KeyMissing, RunNotFound, RunsBusy
from aura.store.base import (
    TERMINAL,
    Announce,
    Claimed,
    Entry,
    PutDocument,
    RunFilter,
    RunRecord,
    Signal,
    Store,
)
from aura.store.portable import (
    OF_RUNS,
    OF_THE_APP,
    PAGE_BYTES,
    TABLES,
    Fence,
    Line,
    Moved,
    Page,
    Row,
    admission,
    key_ids,
    size,
)

R = TypeVar("R")

OURS = frozenset({"key", "move", "promotion"})
"""Kinds of documents that belong to a database and not to its app, and so stay with it."""

_LOOK = 0.05  # seconds between looks at runs that are to be handed over
_AT_ONCE = 500
_SHOWN = 5  # how many runs an error names


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be exported.

    `runs` are ids (None: all of them, or with `unfinished` those that have not ended); `app` adds
    documents, feeds and events. `move` names the move that takes the runs out of this database
    ("": they are copied); runs that a worker is executing are waited for, up to `patience` seconds,
    and with `force` taken then, so that the steps under way run again. `again` allows a move that
    has been written before. `opened`: nothing in the bundle is encrypted.
    """

    runs: tuple[str, ...] | None = None
    unfinished: bool = False
    app: bool = False
    move: str = ""
    patience: float = 30.0
    force: bool = False
    again: bool = False
    opened: bool = False


class Exported(NamedTuple):
    """How much a bundle has; `moves` names earlier moves whose runs are not in it."""

    runs: int
    lines: int
    moves: tuple[str, ...] = ()


class Imported(NamedTuple):
    """What became of the runs of a bundle: `created` here, come back (`returned`), `present`
    before; how many of the created ones are `parked`. `rows` of the app were added, `kept` ones
    were there."""

    created: int = 0
    returned: int = 0
    present: int = 0
    parked: int = 0
    rows: int = 0
    kept: int = 0


# -- out ---------------------------------------------------------------------------------------


async def export(store: Store, clock: Clock, what: Export, path: Path) -> Exported:
    """Write a bundle; it has its name when it is whole.

    Raises BundleError, RunsBusy (some runs are taken, then, and the rest is not: export again),
    RunNotFound, KeyMissing, StoreUnavailable.
    """
    _require_free(path)
    ids = what.runs
    if what.move:
        await _may_move(store, what)
        ids = None if ids is None else await _family(store, ids)
        await take(store, clock, what, ids)
    part = path.with_name(path.name + ".part")
    with _created(part) as file:
        done = await _write(store, clock, what, ids, file)
    part.replace(path)
    _sync_folder(path.parent)
    if what.move:
        body = to_json({"written_at": clock.now(), "runs": done.runs})
        await store.commit([PutDocument("move", what.move, body)])
    return done


def _require_free(path: Path) -> None:
    if path.exists():
        raise BundleError(
            f"{path} is there already", hint="Choose another name, or delete it if it is not needed"
        )


async def take(store: Store, clock: Clock, what: Export, ids: tuple[str, ...] | None) -> int:
    """Take runs out of this database; how many. Raises RunsBusy for those whose workers do not
    hand them over in time."""
    taken = 0
    give_up = clock.monotonic() + what.patience
    while True:
        while found := await store.fence(Fence(what.move, ids)):
            taken += len(found)
        busy = await _running(store, ids)
        if not busy:
            return taken
        if clock.monotonic() > give_up:
            if not what.force:
                raise _busy(busy, what.patience)
            while found := await store.fence(Fence(what.move, ids, force=True)):
                taken += len(found)
            return taken
        await store.commit([Announce(f"release:{run}") for run in busy])
        await clock.sleep(_LOOK)


async def _may_move(store: Store, what: Export) -> None:
    """A name is used for one move: its runs may live elsewhere since."""
    written = await store.document("move", what.move)
    if written is not None and not what.again:
        raise BundleError(
            f"the move {what.move} was written before, with {plain(written.body)['runs']} runs",
            hint="If its file is lost and was imported nowhere: --again. Else choose another name",
        )


async def _family(store: Store, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The runs, and those that wait for them or that they wait for: parents and children can only
    tell each other of their ends in one database."""
    found: dict[str, None] = {}
    waiting = list(ids)
    while waiting:
        run_id = waiting.pop()
        if run_id in found:
            continue
        record = await _record(store, run_id)
        found[run_id] = None
        if record.parent and not record.detached:
            waiting.append(record.parent)
        children = _listed(store, RunFilter(parent=run_id, limit=_AT_ONCE))
        waiting += [
            child.id
            async for child in children
            if child.state not in TERMINAL and not child.detached
        ]
    return tuple(found)


async def _running(store: Store, ids: tuple[str, ...] | None) -> list[str]:
    if ids is None:
        where = RunFilter(state="running", limit=_AT_ONCE)
        return [run.id async for run in _listed(store, where)]
    records = [await _record(store, run_id) for run_id in ids]
    return [run.id for run in records if run.state == "running"]


async def _listed(store: Store, where: RunFilter) -> AsyncIterator[RunRecord]:
    before = where.before
    while True:
        page = await store.runs(RunFilter(where.state, None, where.limit, before, where.parent))
        for run in page:
            yield run
        if len(page) < where.limit:
            return
        before = (page[-1].created_at, page[-1].id)


async def _record(store: Store, run_id: str) -> RunRecord:
    found = await store.run(run_id)
    if found is None:
        raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
    return found


def _busy(runs: list[str], patience: float) -> RunsBusy:
    return RunsBusy(
        f"{len(runs)} runs were not handed over within {patience:g} s: {_names(runs)}",
        hint="The others are taken; let the steps end and export again by the same name, or "
        "take them with --force, which runs the steps under way once more",
    )


async def _write(
    store: Store, clock: Clock, what: Export, ids: tuple[str, ...] | None, file: IO[bytes]
) -> Exported:
    lines = Encoder()
    info = await store.info()
    kind = "move" if what.move else "copy"
    file.write(lines.header(Header(kind, what.move, info.kind, clock.now(), what.app)))  # type: ignore[arg-type]
    moves: dict[str, None] = {}
    async for run in _selected(store, what, ids):
        moved = Moved.of(run)
        if moved is not None and moved.move != what.move and what.move:
            if ids is not None:
                raise BundleError(
                    f"run {run['id']} was moved before, by {moved.move}",
                    hint="It goes on where that bundle was imported",
                )
            moves[moved.move] = None
            continue
        file.write(lines.row("runs", run))
        for table in OF_RUNS:
            async for row in _rows(store, Page(table, run=run["id"], opened=what.opened)):
                file.write(lines.row(table, row))
    for table in OF_THE_APP if what.app else ():
        async for row in _rows(store, Page(table, opened=what.opened)):
            if table != "documents" or row["kind"] not in OURS:
                file.write(lines.row(table, row))
    file.write(lines.end())
    return Exported(lines.runs, lines.lines, tuple(moves))


async def _selected(store: Store, what: Export, ids: tuple[str, ...] | None) -> AsyncIterator[Row]:
    if ids is None:
        async for run in _rows(store, Page("runs", opened=what.opened)):
            if not (what.unfinished and run["state"] in TERMINAL):
                yield run
        return
    for run_id in ids:
        found = await store.rows(Page("runs", run=run_id, opened=what.opened))
        if not found:
            raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
        yield found[0]


async def _rows(store: Store, page: Page) -> AsyncIterator[Row]:
    """All rows from that page on, one page in memory at a time."""
    key = TABLES[page.table].key
    if page.run is not None and page.table == "runs":
        raise ValueError("one run is one row")
    while True:
        found = await store.rows(page)
        for row in found:
            yield row
        if not found:
            return
        last = found[-1]
        page = Page(page.table, tuple(last[name] for name in key), page.run, page.opened)


@contextmanager
def _created(part: Path) -> Iterator[IO[bytes]]:
    """A compressed file that only this user may read, durable when it is closed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        handle = os.open(part, flags, 0o600)
    except OSError as error:
        raise BundleError(f"{part} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "wb") as raw:
        with gzip.GzipFile("", "wb", 5, raw, mtime=0) as file:
            yield file  # type: ignore[misc]  # it is one but for typeshed
        raw.flush()
        os.fsync(raw.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- in ----------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file of a bundle. Raises BundleError when it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


def decoded(file: IO[bytes]) -> Decoder:
    """The bundle in an open file, from its beginning. Raises BundleDamaged."""
    file.seek(0)
    return Decoder(_lines(file))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as lines:
            yield from lines
    except (EOFError, OSError, zlib.error) as error:
        raise BundleDamaged(
            f"the bundle is damaged: {error}", hint="Copy it again from where it was written"
        ) from error


async def import_bundle(store: Store, path: Path, *, take_back: bool = False) -> Imported:
    """Let the runs of a bundle go on here. Doing it again does no harm.

    The whole file is checked before anything is written. `take_back` lets runs go on in the
    database from which this very bundle moved them; say it only when it was imported nowhere else.

    Raises BundleDamaged, BundleError, KeyMissing, StoreUnavailable.
    """
    with opened(path) as file:
        await _check(store, decoded(file), take_back)
        found = decoded(file)
        mark = await require_empty(store, found.header)
        done = Imported()
        batch: list[Line] = []
        for part in by_run(found):
            if isinstance(part, OfRun):
                run = arriving(part.run, found.header)
                verdict = await store.adopt(run, part.rest, take_back=take_back)
                done = _counted(done, verdict, run)
                continue
            if mark is None:
                done = done._replace(kept=done.kept + 1)
                continue
            batch.append((part[0], arriving_row(*part)))
            if len(batch) >= _AT_ONCE or sum(size(row) for _, row in batch) >= PAGE_BYTES:
                done, batch = await _add(store, batch, done), []
        done = await _add(store, batch, done)
    if mark is not None and found.header.app:
        await store.commit([PutDocument("move", mark, _ARRIVED)])
    await store.commit([Announce("ready"), Announce("groups")])
    return done


_ARRIVING, _ARRIVED = b'"arriving"', b'"arrived"'


async def require_empty(store: Store, header: Header) -> str | None:
    """The name of the document that says so; None when all of the app has arrived before.

    Rows of an app that is in use already would get in the way of those that arrive: a topic's next
    number, a group's cursor, a split. Raises BundleError.
    """
    if not header.app:
        return ""
    mark = f"arriving/{header.move or header.made_at}"
    known = await store.document("move", mark)
    if known is not None:
        return None if known.body == _ARRIVED else mark
    for table in OF_THE_APP:
        async for row in _rows(store, Page(table)):
            if table != "documents" or row["kind"] not in OURS:
                raise BundleError(
                    f"this database has {table} of its own, which do not go together with those "
                    "of the bundle",
                    hint="Nothing was imported. Import into an empty database, or export runs only",
                )
    await store.commit([PutDocument("move", mark, _ARRIVING)])
    return mark


def arriving(run: Row, header: Header) -> Row:
    """A run as it begins where it arrives. Pure. Raises BundleDamaged."""
    moved = Moved.of(run)
    state, wake_at = run["state"], run["wake_at"]
    more: dict[str, Any] = {}
    if header.kind == "move" and state not in TERMINAL:
        if moved is None or moved.move != header.move:
            raise BundleDamaged(f"run {run['id']} is in the bundle, but was not moved by it")
        state, wake_at = moved.state, moved.wake_at
    elif state not in TERMINAL:
        state, wake_at = "parked", None
        more = {"error": to_json(_COPIED), "finished_at": header.made_at}
    return {**run, "state": state, "wake_at": wake_at, "owner": None, "moved": None, **more}


_COPIED = {
    "type": "Copied",
    "message": "the run is a copy and goes on where it was copied from",
    "hint": "Requeue it if it is to go on here, too: its effects are then made twice",
    "traceback": "",
}


def arriving_row(table: str, row: Row) -> Row:
    """A row of the app as it arrives: what workers had is free. Pure."""
    assert TABLES[table].run is None  # noqa: S101  (by_run says so)
    return {**row, "owner": None} if "owner" in row else row


async def _check(store: Store, bundle: Decoder, take_back: bool) -> None:
    """Read everything once. Raises what speaks against importing it."""
    layout = await store.layout()
    ids: dict[str, Row] = {}
    here: list[str] = []
    others: list[str] = []
    for table, row in bundle:
        _check_row(table, row, layout[table], store.key_ids)
        if table == "runs":
            ids[row["id"]] = arriving(row, bundle.header)
        if len(ids) >= _AT_ONCE:
            await _compare(store, ids, take_back, here, others)
    await _compare(store, ids, take_back, here, others)
    if others:
        raise BundleError(
            f"{len(others)} runs of the bundle have the ids of other runs here: {_names(others)}",
            hint="Nothing was imported. Import it into another database",
        )
    if here:
        raise BundleError(
            f"{len(here)} runs were moved from here by this very bundle: {_names(here)}",
            hint="Nothing was imported. If it was imported nowhere else, let them go on here "
            "with --take-back",
        )


async def _compare(
    store: Store, ids: dict[str, Row], take_back: bool, here: list[str], others: list[str]
) -> None:
    for record in await store.runs_by_id(list(ids)):
        verdict = admission(record._asdict(), ids[record.id], take_back=take_back)
        if verdict == "here":
            here.append(record.id)
        elif verdict == "other":
            others.append(record.id)
    ids.clear()


def _check_row(table: str, row: Row, columns: Iterable[str], keys: tuple[str, ...]) -> None:
    unknown = row.keys() - set(columns)
    if unknown:
        raise BundleError(
            f"the bundle has {table}.{min(unknown)}, which this database has not",
            hint="Upgrade Aura here: pip install --upgrade aura-workflows",
        )
    for key_id in key_ids(table, row) - set(keys):
        raise KeyMissing(
            f"the bundle is encrypted with the key {key_id}, which this process does not have",
            key_id=key_id,
            hint="Add it to AURA_ENCRYPTION_KEYS, or export with --plaintext. Nothing was imported",
        )


async def _add(store: Store, batch: list[Line], done: Imported) -> Imported:
    added = 0
    for table in OF_THE_APP:
        rows = [row for name, row in batch if name == table]
        if rows:
            added += await store.add_rows(table, rows)
    return done._replace(rows=done.rows + added, kept=done.kept + len(batch) - added)


def _counted(done: Imported, verdict: str, run: Row) -> Imported:
    if verdict == "other":
        raise BundleError(f"run {run['id']} was started here meanwhile, as another run")
    if verdict == "create":
        parked = done.parked + (run["state"] == "parked")
        return done._replace(created=done.created + 1, parked=parked)
    if verdict == "return":
        return done._replace(returned=done.returned + 1)
    return done._replace(present=done.present + 1)


def _names(runs: list[str]) -> str:
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return ", ".join(sorted(runs)[:_SHOWN]) + more


# -- to look at --------------------------------------------------------------------------------


def histories(
    path: Path, as_is: Callable[[str, Row], Row] = lambda _, row: row
) -> Iterator[Claimed]:
    """The runs of a bundle as a worker would claim them, to be replayed or looked at.

    `as_is` may decrypt a row of a table. Raises BundleDamaged, BundleError.
    """
    with opened(path) as file:
        for part in by_run(decoded(file)):
            if isinstance(part, OfRun):
                rows = [(table, as_is(table, row)) for table, row in part.rest]
                yield _history(as_is("runs", part.run), rows)


def _history(run: Row, rows: list[Line]) -> Claimed:
    moved = Moved.of(run)
    if moved is not None:
        run = {**run, "state": moved.state, "wake_at": moved.wake_at}
    record = _record_of(RunRecord, run)
    journal = [_record_of(Entry, row) for table, row in rows if table == "journal"]
    signals = [_record_of(Signal, row) for table, row in rows if table == "signals"]
    return Claimed(record, [one for one in journal if one.seq > record.base], signals)


def _record_of(kind: type[R], row: Row) -> R:
    """A row as a record; columns that it has no field for are left out."""
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]  # a named tuple's
    return kind(**{name: row[name] for name in fields if name in row})
