"""Whole rows, out of SQLite and into it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from aura.store.payloads import Use, loosened, reading, refuse_marks, row_apart
from aura.store.portable import (
    PAGE_BYTES,
    PAGE_ROWS,
    TABLES,
    Admission,
    Change,
    Fence,
    Line,
    Page,
    Row,
    admission,
    bounds,
    conditions,
    replacement,
    size,
)
from aura.store.queries import queries
from aura.store.sqlite_payloads import keep, loosen, use

_SQL = queries("sqlite")


def layout(db: sqlite3.Connection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table, column in db.execute(_SQL["layout"]):
        found.setdefault(table, []).append(column)
    return found


def rows(db: sqlite3.Connection, page: Page, columns: Sequence[str]) -> list[Row]:
    """Read until the page is full; what is not read is not in memory either."""
    table = TABLES[page.table]
    sql = (
        _SQL["rows"]
        .replace(":table", table.name)
        .replace(
            ":columns", ", ".join(f'{_read(table.name, name)} AS "{name}"' for name in columns)
        )
        .replace(":conditions", conditions(page, lambda _: "?"))
        .replace(":key", ", ".join(table.key))
    )
    cursor = db.execute(sql, (*bounds(page), PAGE_ROWS))
    names = [column[0] for column in cursor.description]
    found: list[Row] = []
    read = 0
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        found.append(row)
        read += size(row)
        if read >= PAGE_BYTES:
            break
    cursor.close()
    return found


def fence(db: sqlite3.Connection, what: Fence, now: float) -> list[str]:
    values = {
        "move": what.move,
        "runs": None if what.runs is None else json.dumps(what.runs),
        "force": what.force,
        "limit": what.limit,
        "now": now,
    }
    with _transaction(db):
        return [row[0] for row in db.execute(_SQL["fence"], values).fetchall()]


class _Refused(Exception):
    """Another run does not let this one begin (its dedup key); nothing is changed."""


def adopt(
    db: sqlite3.Connection, run: Row, rest: Iterable[Line], take_back: bool, apart: bool
) -> Admission:
    """`apart`: large payloads are stored apart."""
    try:
        return _adopt(db, run, rest, take_back, apart)
    except _Refused:
        return "other"


def _adopt(
    db: sqlite3.Connection, run: Row, rest: Iterable[Line], take_back: bool, apart: bool
) -> Admission:
    def marked(table: str, row: Row) -> Row:
        refuse_marks(table, row)
        return _apart(db, table, row) if apart else row

    with _transaction(db):
        here = db.execute(_SQL["identity"], (run["id"],)).fetchone()
        names = ("state", "epoch", "workflow", "created_at")
        known = None if here is None else dict(zip(names, here, strict=True))
        verdict = admission(known, run, take_back=take_back)
        if verdict not in ("create", "return"):
            return verdict
        if verdict == "return":
            for table in TABLES.values():
                if table.run is not None:
                    _forget(db, table.name, table.run, run["id"])
        if not _insert(db, "runs", marked("runs", run), "add_row"):
            raise _Refused
        for name, row in rest:
            _insert(db, name, marked(name, row), "insert_row")
        db.execute(_SQL["count_signals"], (run["id"],))
        db.execute(_SQL["tally_arrived"], (run["id"],))
        return verdict


def add_rows(db: sqlite3.Connection, table: str, found: Sequence[Row]) -> int:
    with _transaction(db):
        return sum(_insert(db, table, row, "add_row") for row in found)


def replace_rows(db: sqlite3.Connection, table: str, changes: Sequence[Change], apart: bool) -> int:
    with _transaction(db):
        return sum(_replace(db, table, change, apart) for change in changes)


def _replace(db: sqlite3.Connection, table: str, change: Change, apart: bool) -> int:
    was, becomes = change
    marked = _apart(db, table, becomes) if apart else becomes
    changes, tests, values = replacement(table, (was, marked), lambda _: "?", partial(_read, table))
    sql = (
        _SQL["replace_row"]
        .replace(":table", TABLES[table].name)
        .replace(":changes", changes)
        .replace(":conditions", tests)
    )
    loosen(db, was.get(TABLES[table].run or "", ""), loosened(table, was, becomes))
    return db.execute(sql, list(values.values())).rowcount


def _apart(db: sqlite3.Connection, table: str, row: Row) -> Row:
    """The row with marks in place of large values, which its run has from now on."""
    marked, bodies = row_apart(table, row)
    keep(db, bodies)
    use(db, [Use(row[TABLES[table].run or ""], mark) for mark in bodies])
    return marked


def _named(table: str, column: str) -> str:
    return f'{_read(table, column)} AS "{column}"'


def _read(table: str, column: str) -> str:
    return reading(table, column, "sqlite")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _forget(db: sqlite3.Connection, table: str, column: str, run_id: str) -> None:
    sql = _SQL["forget_rows"].replace(":table", table).replace(":run", column)
    db.execute(sql, (run_id,))


def _insert(db: sqlite3.Connection, table: str, row: Row, query: str) -> int:
    sql = (
        _SQL[query]
        .replace(":table", TABLES[table].name)
        .replace(":columns", ", ".join(f'"{name}"' for name in row))
        .replace(":values", ", ".join("?" * len(row)))
    )
    return db.execute(sql, [_value(one) for one in row.values()]).rowcount


def _value(value: Any) -> Any:
    """Lists are JSON texts here."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value
