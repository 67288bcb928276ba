"""One transaction in which a user's own statements and journal entries are written together.

A session is what a store gives for one such transaction:

    begin ──▶ execute, fetch, mark … ──▶ commit(entries)     all of it is durable, or nothing
                   └───────────────────▶ rollback

`commit` compares the run's epoch in the same transaction, so a worker that has lost the run commits
nothing. When the connection breaks while it commits, the session finds out in the journal what
became of it before it answers. What ends a transaction (COMMIT and the like) is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from aura.errors import TransactionError, TransactionInDoubt
from aura.store.events import Emit

if TYPE_CHECKING:
    from aura.store.base import Append

Written: TypeAlias = "Append | Emit"
"""An entry, some with the events that are emitted with it."""

T = TypeVar("T")

Isolation = Literal["read committed", "repeatable read", "serializable"]
ISOLATIONS: tuple[Isolation, ...] = ("read committed", "repeatable read", "serializable")

_BLANK = re.compile(r"(?:[\s;\ufeff]+|--[^\n]*(?:\n|\Z))+")
_WORD = re.compile(r"[A-Za-z]+")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_ENDING = frozenset(
    {
        *("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"),
        *("PREPARE", "DISCARD"),
    }
)
_SQLITE_ONLY = frozenset({"PRAGMA", "ATTACH", "DETACH", "VACUUM"})


class Row(Protocol):
    """A row of an answer: `row["name"]`, `row[0]`, `dict(row)`."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def keys(self) -> Iterable[str]: ...


class Session(Protocol):
    """One transaction on the store's database, for one task. See the module's docstring.

    `exclusive`: no other write to the database lands between `begin` and the end, and it ends by
    itself when it has been open for too long. `place` names the database in messages. All verbs
    raise StoreUnavailable when the database is away, TransactionConflict when it asks to try the
    transaction again (nothing of it is kept), TransactionError when it cannot go on; what is wrong
    with a statement is raised as the driver's own error.
    """

    exclusive: bool
    place: str

    def is_on(self, database: str) -> bool:
        """Whether this path or URL names the session's database."""
        ...

    async def begin(self) -> None: ...

    async def execute(self, sql: str, values: Sequence[Any]) -> int:
        """Run one statement; how many rows it changed."""
        ...

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        ...

    async def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        """Run one statement; its rows."""
        ...

    async def mark(self, what: Literal["set", "keep", "undo"], number: int) -> None:
        """Set a savepoint, keep what came after it, or undo that."""
        ...

    async def commit(self, entries: Sequence[Written]) -> None:
        """Write the entries and commit; the last one is the transaction's own, with the events that
        were emitted in it (outside of runs there are only those). Raises LeaseLost when the run is
        another worker's now, and TransactionInDoubt when nobody can tell whether it was
        committed."""
        ...

    async def rollback(self) -> None:
        """End without a trace. Harmless after the end; never raises."""
        ...


def refuse_ending(sql: str, *, sqlite: bool) -> None:
    """Raises TransactionError for a statement that would end the transaction or leave it."""
    word = first_word(sql, nested=not sqlite)
    if word in _ENDING:
        raise TransactionError(
            f"a transaction cannot run {word}: what it did is committed as a whole",
            hint="Return to commit and raise to roll back; for a part that may fail use "
            "`async with tx.savepoint()`",
        )
    if sqlite and word in _SQLITE_ONLY:
        raise TransactionError(
            f"a transaction cannot run {word}: it would change the connection that Aura writes "
            "with, or reach another database",
            hint="Do it outside, with a connection of your own",
        )


def first_word(sql: str, *, nested: bool) -> str:
    """The keyword that a statement begins with, in capitals; comments are passed over. `nested`:
    comments may contain comments, as in PostgreSQL."""
    at = 0
    while True:
        if blank := _BLANK.match(sql, at):
            at = blank.end()
        if not sql.startswith("/*", at):
            break
        at = _after_comment(sql, at, nested)
    word = _WORD.match(sql, at)
    return word[0].upper() if word else ""


def _after_comment(sql: str, at: int, nested: bool) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge[0] == "/*" else -depth if not nested else -1
        if depth <= 0:
            return edge.end()
    return len(sql)


async def to_the_end(task: asyncio.Task[T]) -> T:
    """The result of a task that must not be cut short, whoever cancels the waiting one meanwhile:
    that is cancelled when the task is done."""
    interrupted = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        task.exception()
        raise interrupted
    return task.result()


def in_doubt(cause: BaseException) -> TransactionInDoubt:
    """What is raised when the database does not say what became of a commit."""
    error = TransactionInDoubt(
        f"it is not known whether a transaction was committed: {cause}",
        hint="Its tables tell; a step's journal entry does so as soon as the database is back",
    )
    error.__cause__ = cause
    return error


def append_of(op: Written) -> Append:
    """The entry of what a run writes, without its events."""
    found = op.append if isinstance(op, Emit) else op
    assert found is not None  # noqa: S101  (a run writes events with entries only)
    return found


def own_entry(entries: Sequence[Written]) -> Append | None:
    """The entry that tells whether a transaction was committed; None outside of runs."""
    last = entries[-1] if entries else None
    return last.append if isinstance(last, Emit) else last
