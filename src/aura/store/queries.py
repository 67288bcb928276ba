"""SQL lives in .sql files: named queries, and migrations with their checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from aura.errors import SchemaMismatch, SchemaTooNew

SHOWN = frozenset({"state", "stream", "answer"})
"""Kinds of journal entries that are looked for from outside, so they have an index."""

_NAME = re.compile(r"^-- :name: (\w+)$", re.MULTILINE)
_WHOLE = re.compile(r":(whole|size)\((?:(\w+)\.)?(\w+)\)")
_MARK_LENGTH = 33  # bytes of what stands for a value that is stored apart
_FILE = re.compile(r"^(\d{4})_(pre|post)_(\w+)\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """A schema change. `pre` ones add and run before new code needs them; `post` ones remove and
    wait until no live worker runs older code."""

    number: int
    phase: Literal["pre", "post"]
    name: str
    sql: str
    checksum: str

    @property
    def id(self) -> str:
        return f"{self.number:04d}_{self.phase}"

    @property
    def online(self) -> bool:
        """Whether its statements are transactions of their own, so that nobody waits for them. They
        can be repeated, since they may have been broken off."""
        return self.sql.startswith("-- :online:")


@cache
def queries(dialect: str) -> Mapping[str, str]:
    """The named queries of a dialect: name -> SQL text."""
    found: dict[str, str] = {}
    for file in (files("aura.store") / "sql" / dialect).iterdir():
        if file.name.endswith(".sql"):
            parts = _NAME.split(file.read_text("utf-8"))
            texts = (whole(text.strip(), dialect) for text in parts[2::2])
            found |= zip(parts[1::2], texts, strict=True)
    return found


def whole(sql: str, dialect: str) -> str:
    """A text in which `:whole(column)` is a value that may be stored apart, and `:size(column)` its
    length in bytes; see `aura.store.payloads`."""
    table = "payloads" if dialect == "sqlite" else "aura.payloads"

    def expression(match: re.Match[str]) -> str:
        column = ".".join(filter(None, match.groups()[1:]))
        found, here = "body", column
        if match[1] == "size":
            found, here = "length(body)", f"length({column})"
        stored = f"SELECT {found} FROM {table} WHERE mark = {column}"  # noqa: S608  (our own names)
        is_mark = f"length({column}) = {_MARK_LENGTH}"
        return f"CASE WHEN {is_mark} THEN coalesce(({stored}), {here}) ELSE {here} END"

    return _WHOLE.sub(expression, sql)


@cache
def migrations(dialect: str) -> tuple[Migration, ...]:
    """All migrations of a dialect, in the order in which they are applied."""
    folder = files("aura.store") / "sql" / dialect / "migrations"
    found = []
    for file in folder.iterdir():
        match = _FILE.match(file.name)
        if match:
            sql = file.read_text("utf-8")
            phase: Literal["pre", "post"] = "pre" if match[2] == "pre" else "post"
            checksum = hashlib.sha256(sql.encode()).hexdigest()[:32]
            found.append(Migration(int(match[1]), phase, match[3], sql, checksum))
    return tuple(sorted(found, key=lambda one: (one.number, one.phase == "post")))


def outstanding(
    known: tuple[Migration, ...], applied: Mapping[str, str], oldest_worker: int | None
) -> list[Migration]:
    """Which migrations to apply now. Pure.

    `applied` maps migration ids to checksums, `oldest_worker` is the lowest schema number that a
    live worker was built for. Raises SchemaTooNew when the database knows a migration that this
    code does not, SchemaMismatch when one was changed after it was applied.
    """
    newest = max(one.number for one in known)
    unknown = [name for name in applied if int(name[:4]) > newest]
    if unknown:
        raise SchemaTooNew(
            f"the database has schema {max(unknown)[:4]}, this Aura knows {newest:04d}",
            hint="Upgrade Aura in this process: pip install --upgrade aura-workflows",
        )
    for one in known:
        if applied.get(one.id, one.checksum) != one.checksum:
            raise SchemaMismatch(
                f"migration {one.id} ({one.name}) was applied with another text",
                hint="Restore the file as it was released, or use a fresh database",
            )
    late = oldest_worker is not None and oldest_worker < newest
    return [one for one in known if one.id not in applied and not (one.phase == "post" and late)]
