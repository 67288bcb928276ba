"""Lists and counts of runs in SQLite, of which there may be a million.

A list of one state or workflow is put together from lists of one state and one workflow, which an
index has in order (`runs_resting`). The runs that are being executed are few, so they are not in it
and are sorted. Of the runs that have ended the larger part has been counted before: see the table
`tallies`.
"""

from __future__ import annotations

import heapq
import itertools
import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from aura.store.base import RunFilter, RunRecord
from aura.store.queries import queries
from aura.store.queues import LEAST_TALLIED, MOST_TALLIED, SETTLING, CountBy, counted, only_open
from aura.store.search import STATES
from aura.store.sqlite_ops import COLUMNS, record

_SQL = {name: sql.replace(":columns", COLUMNS) for name, sql in queries("sqlite").items()}


def runs(db: sqlite3.Connection, where: RunFilter) -> list[RunRecord]:
    """The runs that are wanted, in the order of the list."""
    at, before = where.end
    values: dict[str, Any] = {
        "state": where.state, "workflow": where.workflow, "parent": where.parent,
        "owner": where.owner, "before_at": at, "before_id": before, "limit": where.limit,
        "attributes": json.dumps(where.attributes),
    }  # fmt: skip
    if where.query is None and where.parent is None and (where.state or where.workflow):
        rows = _rows(db, _places(db, where, values))
    else:
        name = where.query or ("runs" if where.parent is None else "children")
        rows = db.execute(_SQL[name], values).fetchall()
    return list(map(record, rows))


def _places(db: sqlite3.Connection, where: RunFilter, values: dict[str, Any]) -> list[int]:
    """The rows of the newest runs, the newest first."""
    states: Sequence[str] = [where.state] if where.state else STATES
    lists: list[sqlite3.Cursor] = []
    for state in states:
        if state == "running":
            lists.append(db.execute(_SQL["runs_running"], values))
            continue
        of_state = {**values, "state": state}
        workflows = [where.workflow]
        if where.workflow is None:
            workflows = [one[0] for one in db.execute(_SQL["workflows_in_state"], of_state)]
        lists += [
            db.execute(_SQL["runs_resting"], {**of_state, "workflow": one}) for one in workflows
        ]
    newest = heapq.merge(*lists, key=lambda row: row[1:], reverse=True)
    return [row[0] for row in itertools.islice(newest, where.limit)]


def _rows(db: sqlite3.Connection, places: Sequence[int]) -> list[tuple[Any, ...]]:
    found = db.execute(_SQL["runs_by_row"], (json.dumps(places),)).fetchall()
    created, run_id = RunRecord._fields.index("created_at"), RunRecord._fields.index("id")
    return sorted(found, key=lambda row: (row[created], row[run_id]), reverse=True)


def count_runs(
    db: sqlite3.Connection, by: Sequence[CountBy], queue: str | None
) -> dict[tuple[str | None, ...], int]:
    names = ", ".join(counted(by))
    query = "count_open" if only_open(by) else "count_runs"
    rows = db.execute(_SQL[query].replace(":names", names), {"queue": queue}).fetchall()
    return {tuple(row[:-1]): row[-1] for row in rows}


def is_behind(db: sqlite3.Connection, now: float) -> bool:
    """Whether so many runs have ended since the last tally that it is time for another one."""
    [since] = db.execute(_SQL["tally_since"]).fetchone()
    values = {"since": since, "upto": now - SETTLING, "skip": LEAST_TALLIED}
    return db.execute(_SQL["tally_cut"], values).fetchone() is not None


def tally(db: sqlite3.Connection, now: float) -> bool:
    """Count some more of the runs that have ended; whether there are others."""
    db.execute("BEGIN IMMEDIATE")
    try:
        [since] = db.execute(_SQL["tally_since"]).fetchone()
        values = {"since": since, "upto": now - SETTLING, "skip": MOST_TALLIED}
        cut = db.execute(_SQL["tally_cut"], values).fetchone()
        if cut is not None:
            values["upto"] = cut[0]
        if values["upto"] > since:
            db.execute(_SQL["tally_runs"], values)
            db.execute(_SQL["tally_until"], values)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return cut is not None
