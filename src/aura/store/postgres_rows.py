"""Whole rows, out of PostgreSQL and into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

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
from aura.store.postgres_link import Connection
from aura.store.postgres_payloads import keep, loosen, use
from aura.store.queries import queries

_SQL = queries("postgres")
_AHEAD = 16  # rows that are fetched at once: each may be some megabytes long
_PREPARED: WeakKeyDictionary[Connection, dict[tuple[str, ...], Any]] = WeakKeyDictionary()
_BATCH = 200  # rows that are written at once, while they are small


async def layout(connection: Connection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table, column in await connection.fetch(_SQL["layout"]):
        found.setdefault(table, []).append(column)
    return found


async def rows(connection: Connection, page: Page, columns: Sequence[str]) -> list[Row]:
    """Read until the page is full; what is not read stays on the server."""
    table = TABLES[page.table]
    sql = (
        _SQL["rows"]
        .replace(":table", table.name)
        .replace(":names", ", ".join(_named(table.name, name) for name in columns))
        .replace(":conditions", conditions(page, lambda at: f"${at + 2}"))
        .replace(":key", ", ".join(table.key))
    )
    found: list[Row] = []
    read = 0
    async with connection.transaction(readonly=True):
        cursor = connection.cursor(sql, PAGE_ROWS, *bounds(page), prefetch=_AHEAD)
        async for record in cursor:
            row = dict(record)
            found.append(row)
            read += size(row)
            if read >= PAGE_BYTES:
                break
    return found


async def fence(connection: Connection, what: Fence) -> list[str]:
    """Those that nobody else has locked, else one of the others: a commit locks runs in the order
    of its entries, so whoever waits for one must not hold another."""
    asked = None if what.runs is None else list(what.runs)
    taken = await connection.fetch(_SQL["fence"], what.move, asked, what.force, what.limit)
    if not taken:
        patient = _SQL["fence"].replace(" SKIP LOCKED", "")
        taken = await connection.fetch(patient, what.move, asked, what.force, 1)
    return [row[0] for row in taken]


class _Refused(Exception):
    """Another run does not let this one begin (its dedup key); nothing is changed."""


async def adopt(
    connection: Connection, run: Row, rest: Iterable[Line], take_back: bool, apart: bool
) -> Admission:
    """`apart`: large payloads are stored apart."""
    try:
        return await _adopt(connection, run, rest, take_back, apart)
    except _Refused:
        return "other"


async def _adopt(
    connection: Connection, run: Row, rest: Iterable[Line], take_back: bool, apart: bool
) -> Admission:
    async def marked(table: str, row: Row) -> Row:
        refuse_marks(table, row)
        return await _apart(connection, table, row) if apart else row

    async with connection.transaction():
        here = await connection.fetchrow(_SQL["identity"], run["id"])
        verdict = admission(None if here is None else dict(here), run, take_back=take_back)
        if verdict not in ("create", "return"):
            return verdict
        await _forget_all(connection, run["id"], verdict)
        if not await _Pens(connection, "add_row").add("runs", await marked("runs", run)):
            raise _Refused
        pens = _Pens(connection, "insert_row")
        for name, row in rest:
            await pens.write(name, await marked(name, row))
        await pens.flush()
        await connection.execute(_SQL["count_signals"], run["id"])
        await connection.execute(_SQL["tally_arrived"], run["id"])
    return verdict


async def add_rows(connection: Connection, table: str, found: Sequence[Row]) -> int:
    pens = _Pens(connection, "add_row")
    async with connection.transaction():
        return sum([await pens.add(table, row) for row in found])


async def replace_rows(
    connection: Connection, table: str, changes: Sequence[Change], apart: bool
) -> int:
    async with connection.transaction():
        return sum([await _replace(connection, table, change, apart) for change in changes])


async def _replace(connection: Connection, table: str, change: Change, apart: bool) -> int:
    was, becomes = change
    marked = await _apart(connection, table, becomes) if apart else becomes
    sets, tests, values = replacement(
        table, (was, marked), lambda at: f"${at + 1}", partial(_read, table)
    )
    sql = (
        _SQL["replace_row"]
        .replace(":table", TABLES[table].name)
        .replace(":changes", sets)
        .replace(":conditions", tests)
    )
    await loosen(connection, was.get(TABLES[table].run or "", ""), loosened(table, was, becomes))
    return len(await connection.fetch(sql, *values.values()))


async def _apart(connection: Connection, table: str, row: Row) -> Row:
    """The row with marks in place of large values, which its run has from now on."""
    marked, bodies = row_apart(table, row)
    if bodies:
        await keep(connection, bodies)
        await use(connection, [Use(row[TABLES[table].run or ""], mark) for mark in bodies])
    return marked


def _named(table: str, column: str) -> str:
    return f'{_read(table, column)} AS "{column}"'


def _read(table: str, column: str) -> str:
    return reading(table, column, "postgres")


async def _forget_all(connection: Connection, run_id: str, verdict: Admission) -> None:
    """What a run left here when it was moved away; it comes back with all of it."""
    for table in TABLES.values() if verdict == "return" else ():
        if table.run is not None:
            sql = _SQL["forget_rows"].replace(":table", table.name).replace(":run", table.run)
            await connection.execute(sql, run_id)


class _Pens:
    """Statements that write rows, one for each table and set of columns."""

    def __init__(self, connection: Connection, query: str) -> None:
        self._connection = connection
        self._query = query
        self._statements = _PREPARED.setdefault(connection, {})
        self._waiting: list[list[Any]] = []
        self._size = 0
        self._last: tuple[str, ...] = ()

    async def write(self, table: str, row: Row) -> None:
        """Add a row, in order; `flush` writes those that have gathered."""
        place = (table, *row)
        if place != self._last:
            await self.flush()
            self._last = place
        statement = await self._statement(place)
        self._waiting.append(_values(statement, row))
        self._size += size(row)
        if len(self._waiting) >= _BATCH or self._size >= PAGE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        if self._waiting:
            await (await self._statement(self._last)).executemany(self._waiting)
        self._waiting, self._size = [], 0

    async def add(self, table: str, row: Row) -> int:
        """Write a row now; whether its key was free."""
        statement = await self._statement((table, *row))
        return len(await statement.fetch(*_values(statement, row)))

    async def _statement(self, place: tuple[str, ...]) -> Any:
        known = (self._query, *place)
        if known not in self._statements:
            table, *names = place
            sql = (
                _SQL[self._query]
                .replace(":table", TABLES[table].name)
                .replace(":names", ", ".join(f'"{name}"' for name in names))
                .replace(":values", ", ".join(f"${at + 1}" for at in range(len(names))))
            )
            self._statements[known] = await self._connection.prepare(sql)
        return self._statements[known]


def _values(statement: Any, row: Row) -> list[Any]:
    """The values as the columns want them: SQLite has neither truth values nor lists."""
    wanted = [one.name for one in statement.get_parameters()]
    return [_value(value, kind) for value, kind in zip(row.values(), wanted, strict=True)]


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "bool":
        return bool(value)
    if kind in ("float4", "float8"):
        return float(value)
    if kind.endswith("[]") and isinstance(value, str):
        return json.loads(value)
    return value
