"""Rows on their way out of a database and into another one, whatever columns they have.

Nothing here names a column that it does not need: a row is a mapping of all columns that the
database has, so what is added to the schema travels along. Which tables travel, and why others do
not, is said once, in `TABLES` and `LEFT`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from aura.codec import is_encrypted
from aura.errors import DecryptionFailed

Row = Mapping[str, Any]
"""Column to value: None, bool, int, float, str or bytes."""

Line = tuple[str, Row]
"""A row and the table that it belongs to."""

SEALED_TEXT = "sealed:"  # begins a sealed text; fingerprints are hexadecimal or names
PAGE_BYTES = 1 << 20
PAGE_ROWS = 1_000


class Table(NamedTuple):
    """A table whose rows travel. `key` is its primary key, in whose order they are read; `run` the
    column with the run's id, when its rows belong to runs; `payloads` are sealed columns."""

    name: str
    key: tuple[str, ...]
    run: str | None = None
    payloads: tuple[str, ...] = ()


TABLES: Mapping[str, Table] = {
    one.name: one
    for one in (
        Table("runs", ("id",), "id", ("input", "fingerprint", "output", "error")),
        Table("journal", ("run_id", "seq"), "run_id", ("input", "fingerprint", "output", "error")),
        Table("signals", ("run_id", "seq"), "run_id", ("payload",)),
        Table("attributes", ("run_id", "name"), "run_id"),
        Table("queues", ("name",)),
        Table("documents", ("kind", "name"), None, ("body",)),
        Table("feeds", ("feed", "seq"), None, ("payload",)),
        Table("queues", ("name",)),
        Table("topics", ("topic",)),
        Table("events", ("topic", "seq"), None, ("payload",)),
        Table("consumers", ("topic", "group_name")),
        Table("partitions", ("topic", "group_name", "part")),
        Table("deliveries", ("topic", "group_name", "seq"), None, ("history",)),
    )
}
LEFT: Mapping[str, str] = {
    "workers": "processes do not move",
    "members": "they are processes, too",
    "tallies": "every database counts its own runs",
    "tally_mark": "every database counts its own runs",
    "migrations": "every database has its own",
    "payloads": "they are read in the place of their marks",
    "payload_uses": "they follow from the rows that have marks",
    "payloads_loose": "they are for the sweeps of one database",
}
"""Tables whose rows stay where they are, and why."""

OF_RUNS = tuple(one.name for one in TABLES.values() if one.run and one.name != "runs")
OF_THE_APP = tuple(one.name for one in TABLES.values() if not one.run)


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows to read: of a table, after a key, of one run. At most PAGE_ROWS, and no more
    once there are PAGE_BYTES. `opened`: payloads are decrypted, else they are sealed when there
    are keys."""

    table: str
    after: tuple[Any, ...] = ()
    run: str | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Fence:
    """Take runs that have not ended out of this database: their epoch is raised, so that no worker
    writes to them any more, and their state is `moved`. `runs` are ids (None: all of them).

    A run whose owner's lease is not over is taken only with `force`.
    """

    move: str
    runs: tuple[str, ...] | None = None
    force: bool = False
    limit: int = 1_000


class Moved(NamedTuple):
    """What `runs.moved` says: by which move, and what the run was before."""

    move: str
    state: str
    wake_at: float | None

    @classmethod
    def of(cls, run: Row) -> Moved | None:
        text = run["moved"]
        return None if text is None else cls(**json.loads(text))


Admission = Literal["create", "return", "present", "older", "here", "other"]
"""What becomes of a run that arrives: it is created; it comes back to where it was moved from; it
is here already; a newer state of it was here; it was moved from here by the same bundle; another
run has its id."""


def admission(here: Row | None, arriving: Row, *, take_back: bool = False) -> Admission:
    """Whether an arriving run may go on here. Pure.

    `here` is the run with its id in this database. A run that was moved away comes back when the
    arriving one has been claimed since (its epoch is higher), or with `take_back`, which is to be
    said only of bundles that were imported nowhere else.
    """
    if here is None:
        return "create"
    if any(here[name] != arriving[name] for name in ("workflow", "created_at")):
        return "other"
    if here["state"] != "moved":
        return "present"
    if arriving["epoch"] > here["epoch"] or (take_back and arriving["epoch"] == here["epoch"]):
        return "return"
    return "here" if arriving["epoch"] == here["epoch"] else "older"


Change = tuple[Row, Row]
"""A row as it is, and as it is to be; their keys are the same."""


def replacement(
    table: str, change: Change, mark: Callable[[int], str], read: Callable[[str], str]
) -> tuple[str, str, Row]:
    """The payloads of a row, and the conditions that it is still the old one, as SQL; with the
    values of the placeholders, which `mark` gives from 0. `read` says how a column is read."""
    was, becomes = change
    payloads = [name for name in TABLES[table].payloads if becomes[name] != was[name]]
    fixed = [*TABLES[table].key, *payloads]
    sets = ", ".join(f"{name} = {mark(at)}" for at, name in enumerate(payloads))
    tests = " AND ".join(
        f"{read(name)} = {mark(at)}" for at, name in enumerate(fixed, start=len(payloads))
    )
    values = {f"new {name}": becomes[name] for name in payloads}
    return sets, tests, values | {f"old {name}": was[name] for name in fixed}


def conditions(page: Page, mark: Callable[[int], str]) -> str:
    """What a page's rows have in common, as SQL; `mark` gives the n-th (from 0) placeholder."""
    table = TABLES[page.table]
    marks = [mark(at) for at in range(len(bounds(page)))]
    said = [f"{table.run} = {marks.pop(0)}"] if page.run is not None else []
    if page.after:
        said.append(f"({', '.join(table.key)}) > ({', '.join(marks)})")
    return " AND ".join(said) or "true"


def bounds(page: Page) -> tuple[Any, ...]:
    """The values of the placeholders in `conditions`."""
    return page.after if page.run is None else (page.run, *page.after)


def frame_of(value: Any) -> bytes | None:
    """The frame of a sealed value; None for others. Raises DecryptionFailed when it is damaged."""
    if isinstance(value, str) and value.startswith(SEALED_TEXT):
        try:
            return base64.b64decode(value.removeprefix(SEALED_TEXT), validate=True)
        except ValueError as error:
            raise DecryptionFailed(f"a sealed text is damaged: {error}", key_id="") from error
    return value if isinstance(value, bytes) and is_encrypted(value) else None


def key_ids(table: str, row: Row) -> set[str]:
    """The ids of the keys that have sealed something in this row."""
    frames = [frame_of(row.get(column)) for column in TABLES[table].payloads]
    return {
        frame[2 : 2 + frame[1]].decode("ascii", "replace")
        for frame in frames
        if frame is not None and len(frame) > 1
    }


def size(row: Row) -> int:
    """About how many bytes a row has."""
    return sum(len(value) for value in row.values() if isinstance(value, (bytes, str)))


class Portable(Protocol):
    """The verbs of moving, which every store has."""

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys that this store has; what they have sealed, it can read."""
        ...

    async def layout(self) -> Mapping[str, Sequence[str]]:
        """The tables of this database and their columns, without those that it computes."""
        ...

    async def rows(self, page: Page) -> list[Row]:
        """Rows in the order of their key; an empty list when there are no more."""
        ...

    async def fence(self, what: Fence) -> list[str]:
        """The ids of the runs that were taken, at most `limit`; none when there are no more."""
        ...

    async def adopt(self, run: Row, rest: Iterable[Line], *, take_back: bool = False) -> Admission:
        """Write a run with its rows in one transaction, if `admission` lets it in; how that was.

        `rest` are rows of the tables in OF_RUNS. It is consumed only when the run is let in.
        """
        ...

    async def add_rows(self, table: str, rows: Sequence[Row]) -> int:
        """Write rows of a table of the app whose key is free; how many those were."""
        ...

    async def replace_rows(self, table: str, changes: Sequence[Change]) -> int:
        """Give rows other payloads, if they still are as they were read; how many those were."""
        ...
