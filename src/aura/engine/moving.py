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
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from aura.clock import Clock
from aura.codec import plain, to_json
from aura.engine.bundle import Encoder, Header
from aura.engine.residence import OURS
from aura.errors import (
    BundleError,
    RunNotFound,
    RunsBusy,
)
from aura.store.base import (
    TERMINAL,
    Announce,
    PutDocument,
    RunFilter,
    RunRecord,
    Store,
)
from aura.store.portable import (
    OF_RUNS,
    OF_THE_APP,
    TABLES,
    Fence,
    Moved,
    Page,
    Row,
)

ASIDE = 10.0
"""Seconds for which a run that its worker has handed over waits to be taken."""

_LOOK = 0.05  # seconds between looks at runs that are to be handed over
AT_ONCE = 500
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
        ids = await _take_families(store, clock, what)
    part = path.with_name(path.name + ".part")
    with _created(part) as file:
        done = await _write(store, clock, what, ids, file)
    if what.move:
        body = to_json({"written_at": clock.now(), "runs": done.runs})
        await store.commit([PutDocument("move", what.move, body)])
    part.replace(path)
    _sync_folder(path.parent)
    return done


def _require_free(path: Path) -> None:
    if path.exists():
        raise BundleError(
            f"{path} is there already", hint="Choose another name, or delete it if it is not needed"
        )


async def _take_families(store: Store, clock: Clock, what: Export) -> tuple[str, ...] | None:
    """Take the runs with their families, also children that were started meanwhile; whom that
    were. Who is taken starts no more, so this comes to an end."""
    if what.runs is None:
        await take(store, clock, what, None)
        return None
    ids = await _family(store, what.runs)
    while True:
        await take(store, clock, what, ids)
        grown = await _family(store, ids)
        if len(grown) == len(ids):
            return ids
        ids = grown


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
        children = _listed(store, RunFilter(parent=run_id, limit=AT_ONCE))
        waiting += [
            child.id
            async for child in children
            if child.state not in TERMINAL and not child.detached
        ]
    return tuple(found)


async def _running(store: Store, ids: tuple[str, ...] | None) -> list[str]:
    if ids is None:
        where = RunFilter(state="running", limit=AT_ONCE)
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
        f"{len(runs)} runs were not handed over within {patience:g} s: {named(runs)}",
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
            async for row in all_rows(store, Page(table, run=run["id"], opened=what.opened)):
                file.write(lines.row(table, row))
    for table in OF_THE_APP if what.app else ():
        async for row in all_rows(store, Page(table, opened=what.opened)):
            if table != "documents" or row["kind"] not in OURS:
                file.write(lines.row(table, row))
    file.write(lines.end())
    return Exported(lines.runs, lines.lines, tuple(moves))


async def _selected(store: Store, what: Export, ids: tuple[str, ...] | None) -> AsyncIterator[Row]:
    if ids is None:
        async for run in all_rows(store, Page("runs", opened=what.opened)):
            if not (what.unfinished and run["state"] in TERMINAL):
                yield run
        return
    for run_id in ids:
        found = await store.rows(Page("runs", run=run_id, opened=what.opened))
        if not found:
            raise RunNotFound(f"there is no run {run_id}", hint="List runs with: aura runs list")
        yield found[0]


async def all_rows(store: Store, page: Page) -> AsyncIterator[Row]:
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
        raise BundleError(
            f"{part} cannot be written: {error.strerror}",
            hint="Name a file in a folder that is there and that you may write to",
        ) from error
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


def named(runs: list[str]) -> str:
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return ", ".join(sorted(runs)[:_SHOWN]) + more
