"""How the runs of a bundle arrive: see `moving`, whose step (3) this is.

The whole file is read and checked before anything is written. Then each run arrives in one
transaction of its own, so after a crash each is there whole or not at all, and importing the same
file again brings the rest.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from aura.codec import to_json
from aura.engine.bundle import Decoder, Header, OfRun, by_run
from aura.engine.moving import ASIDE, AT_ONCE, all_rows, named
from aura.engine.residence import OURS
from aura.errors import BundleDamaged, BundleError, KeyMissing, RunEnded, RunNotFound
from aura.store.base import (
    CHILD_ENDED,
    TERMINAL,
    Announce,
    Claimed,
    Entry,
    PutDocument,
    RunRecord,
    SendSignal,
    Signal,
    Store,
)
from aura.store.portable import (
    OF_THE_APP,
    PAGE_BYTES,
    TABLES,
    Line,
    Moved,
    Page,
    Row,
    admission,
    key_ids,
    size,
)

R = TypeVar("R")


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


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file of a bundle. Raises BundleError when it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror}",
            hint="Name a file that aura runs export has written",
        ) from error
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
    except gzip.BadGzipFile as error:
        raise BundleDamaged(
            f"the bundle is damaged: {_called(file)} is not compressed as bundles are",
            hint="Name a file that aura runs export has written",
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        raise BundleDamaged(
            f"the bundle is damaged: {_called(file)}: {error}",
            hint="Copy it again from where it was written",
        ) from error


def _called(file: IO[bytes]) -> str:
    return str(getattr(file, "name", "the file"))


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
        children: list[tuple[str, str]] = []
        batch: list[Line] = []
        for part in by_run(found):
            if isinstance(part, OfRun):
                run = arriving(part.run, found.header)
                verdict = await store.adopt(run, part.rest, take_back=take_back)
                done = _counted(done, verdict, run)
                if run.get("parent") and not run.get("detached"):
                    children.append((run["id"], run["parent"]))
                continue
            if mark is None:
                done = done._replace(kept=done.kept + 1)
                continue
            batch.append((part[0], arriving_row(*part)))
            if len(batch) >= AT_ONCE or sum(size(row) for _, row in batch) >= PAGE_BYTES:
                done, batch = await _add(store, batch, done), []
        done = await _add(store, batch, done)
    if mark is not None and found.header.app:
        await store.commit([PutDocument("move", mark, _ARRIVED)])
    await _tell_parents(store, children)
    await store.commit([Announce("ready"), Announce("groups")])
    return done


async def _tell_parents(store: Store, children: list[tuple[str, str]]) -> None:
    """A child that ends before its parent has arrived has nobody to tell. Twice is once."""
    for at in range(0, len(children), AT_ONCE):
        some = dict(children[at : at + AT_ONCE])
        ended = [run for run in await store.runs_by_id(list(some)) if run.state in TERMINAL]
        outcomes = await store.commit(
            [
                SendSignal(some[run.id], CHILD_ENDED, b"null", f"{CHILD_ENDED}:{run.id}")
                for run in ended
            ]
        )
        for outcome in outcomes:  # the parent may have ended, or be nowhere
            if isinstance(outcome, BaseException) and not isinstance(
                outcome, RunEnded | RunNotFound
            ):
                raise outcome


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
        async for row in all_rows(store, Page(table)):
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
        state, wake_at = _before(moved, run, header.made_at)
    elif state not in TERMINAL:
        state, wake_at = "parked", None
        more = {"error": to_json(_COPIED), "finished_at": header.made_at}
    return {**run, "state": state, "wake_at": wake_at, "owner": None, "moved": None, **more}


def _before(moved: Moved, run: Row, now: float) -> tuple[str, float | None]:
    """State and wake-up of a run before it was moved. One that was only handed over goes on at
    once; to wake another one a little early costs a replay."""
    soon = moved.wake_at is not None and moved.wake_at <= now + ASIDE
    if moved.state == "waiting" and soon and run["started_at"] is not None:
        return "pending", None
    return moved.state, moved.wake_at


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
        if len(ids) >= AT_ONCE:
            await _compare(store, ids, take_back, here, others)
    await _compare(store, ids, take_back, here, others)
    if others:
        raise BundleError(
            f"{len(others)} runs of the bundle have the ids of other runs here: {named(others)}",
            hint="Nothing was imported. Import it into another database",
        )
    if here:
        raise BundleError(
            f"{len(here)} runs were moved from here by this very bundle: {named(here)}",
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
        raise BundleError(
            f"run {run['id']} cannot arrive: another run has its id, or is under way with its "
            "dedup key",
            hint="Let that one end, or cancel it, and import again",
        )
    if verdict == "create":
        parked = done.parked + (run["state"] == "parked")
        return done._replace(created=done.created + 1, parked=parked)
    if verdict == "return":
        return done._replace(returned=done.returned + 1)
    return done._replace(present=done.present + 1)


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
