"""How PostgreSQL executes what Aura asks it: statements are recorded on their way and explained.

Explained is the plan that is really used, generic and with the settings of Aura's sessions; it is
executed for that, so only reading statements are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aura.store.postgres_link import Connection, Link


class Statement(NamedTuple):
    """A statement with the values of its parameters."""

    sql: str
    values: Sequence[Any]


@dataclass(slots=True)
class Plan:
    """What was done for a statement: how each node of it read a table, and how many rows that were,
    those included that a filter threw away."""

    statement: Statement
    scans: list[tuple[str, str, int]] = field(default_factory=list)
    """(how, table, rows), as ("Index Scan using runs_newest", "runs", 51)."""

    def rows(self, *tables: str) -> int:
        """How many rows of these tables were read; of all, when none is named."""
        return sum(rows for _, table, rows in self.scans if not tables or table in tables)

    def brief(self) -> str:
        """The scans in one line each."""
        return "\n".join(f"{how} on {table}: {rows:,} rows" for how, table, rows in self.scans)


@contextlib.contextmanager
def recorded() -> Iterator[list[Statement]]:
    """The statements of stores that are opened inside."""
    found: list[Statement] = []
    connect = Link.connect

    async def listening(link: Link) -> Connection:
        connection = await connect(link)
        connection.add_query_logger(lambda one: found.append(Statement(one.query, one.args or ())))
        return connection

    Link.connect = listening  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        Link.connect = connect  # type: ignore[method-assign]


async def explained(url: str, statements: Sequence[Statement]) -> list[Plan]:
    """The plans of those that only read, each text once."""
    unique = {one.sql: one for one in statements if _reads(one.sql)}
    connection = await Link(url).connect()
    try:
        return [await _explain(connection, one) for one in unique.values()]
    finally:
        await connection.close()


def _reads(sql: str) -> bool:
    lines = (line for line in sql.splitlines() if line and not line.startswith("--"))
    first = next(lines, "").split()[:1]
    return first in (["SELECT"], ["WITH"]) and " FROM aura." in sql and "UPDATE" not in sql


async def _explain(connection: Connection, statement: Statement) -> Plan:
    values = ", ".join(map(_literal, statement.values))
    await connection.execute(f"PREPARE asked AS {statement.sql}")
    explain = "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked"
    try:
        text = await connection.fetchval(f"{explain} ({values})" if values else explain)
    finally:
        await connection.execute("DEALLOCATE asked")
    plan = Plan(statement)
    _walk(json.loads(text)[0]["Plan"], plan)
    return plan


def _walk(node: Mapping[str, Any], plan: Plan) -> None:
    if "Relation Name" in node or node["Node Type"] == "Bitmap Index Scan":
        index = node.get("Index Name")
        how = node["Node Type"] + (f" using {index}" if index else "")
        removed = node.get("Rows Removed by Filter", 0) + node.get(
            "Rows Removed by Index Recheck", 0
        )
        rows = round((node["Actual Rows"] + removed) * node["Actual Loops"])
        plan.scans.append((how, node.get("Relation Name", index or ""), rows))
    for one in node.get("Plans", ()):
        _walk(one, plan)


def _literal(value: Any) -> str:
    """A value as a text that the database reads as whatever type the parameter has."""
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        value = "{" + ",".join(json.dumps(str(one)) for one in value) + "}"
    return "'" + str(value).replace("'", "''") + "'"
