"""The format of bundles: runs (and what else an app has) as lines of JSON. Pure.

    {"bundle": "aura", "format": 1, "kind": "move", ...}        the header
    {"table": "runs", "row": {"id": "doc-17", ...}}             a run ...
    {"table": "journal", "row": {...}}                          ... followed by its rows
    {"table": "documents", "row": {...}}                        what belongs to no run comes last
    {"end": {"lines": 41, "runs": 3, "sha256": "..."}}          nothing is after this

A value that is bytes is {"text": ...} when it is text, {"base64": ...} otherwise. The digest is
that of all bytes before the last line; a bundle without that line has broken off. In a file the
lines are compressed by gzip. What is encrypted in the database is encrypted in the bundle, too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from aura.errors import BundleDamaged, BundleError
from aura.store.portable import TABLES, Line, Row

FORMAT = 1
Kind = Literal["copy", "move"]
_HINT = "Copy it again from where it was written, or export the runs again"


@dataclass(frozen=True, slots=True)
class Header:
    """What a bundle says of itself. `move` is the name of the move ("" for copies); `source` the
    kind of database; `made_at` is in epoch seconds; `app` says that it has more than runs."""

    kind: Kind
    move: str
    source: str
    made_at: float
    app: bool = False


class Totals(NamedTuple):
    """What the last line says."""

    lines: int
    runs: int
    sha256: str


class Encoder:
    """Makes the lines of one bundle; each ends with a line feed."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.lines = 0
        self.runs = 0

    def header(self, header: Header) -> bytes:
        return self._line({"bundle": "aura", "format": FORMAT, **asdict(header)})

    def row(self, table: str, row: Row) -> bytes:
        self.runs += table == "runs"
        values = {name: _encoded(value) for name, value in row.items()}
        return self._line({"table": table, "row": values})

    def end(self) -> bytes:
        totals = Totals(self.lines, self.runs, self._digest.hexdigest())
        return _json({"end": totals._asdict()})

    def _line(self, value: Any) -> bytes:
        line = _json(value)
        self._digest.update(line)
        self.lines += 1
        return line


class Decoder:
    """Reads the lines of one bundle. `totals` is there when the last one was read."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._digest = hashlib.sha256()
        self._read = 0
        self._runs = 0
        self.totals: Totals | None = None
        self.header = self._header()

    def __iter__(self) -> Iterator[Line]:
        """The rows. Raises BundleDamaged where the bundle is."""
        for line in self._lines:
            found = self._parsed(line)
            if "end" in found:
                self._end(found["end"])
                return
            row = self._row(found)
            self._count(line)
            yield row
        raise _damaged(f"it breaks off after {self._read} lines")

    def _header(self) -> Header:
        line = next(self._lines, b"")
        found = self._parsed(line) if line else {}
        if found.get("bundle") != "aura":
            raise BundleDamaged("this is no bundle of Aura", hint="Give what `export` has written")
        if found.get("format") != FORMAT:
            raise BundleError(
                f"the bundle has format {found.get('format')!r}, this Aura reads {FORMAT}",
                hint="Import it with the Aura that wrote it, or a newer one",
            )
        self._count(line)
        known = {name: found.get(name) for name in Header.__dataclass_fields__}
        header = Header(**known)  # type: ignore[arg-type]  # looked at in the next line
        if header.kind not in ("copy", "move") or not isinstance(header.move, str):
            raise _damaged("its first line is not as it should be")
        return header

    def _row(self, found: dict[str, Any]) -> Line:
        table, row = found.get("table"), found.get("row")
        if not isinstance(table, str) or not isinstance(row, dict):
            raise self._at("is no row")
        if table not in TABLES:
            raise BundleError(
                f"the bundle has rows of {table!r:.80}, which this Aura does not know",
                hint="Upgrade Aura here: pip install --upgrade aura-workflows",
            )
        self._runs += table == "runs"
        try:
            values = {name: _decoded(value) for name, value in row.items()}
            missing = set(TABLES[table].key) - values.keys()
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise self._at(f"cannot be read ({error})") from error
        if missing:
            raise self._at(f"has no {', '.join(sorted(missing))}")
        return table, values

    def _end(self, said: Any) -> None:
        totals = Totals(self._read, self._runs, self._digest.hexdigest())
        if said != totals._asdict():
            raise _damaged("its contents do not fit its checksum")
        if next(self._lines, b"").strip():
            raise _damaged("something stands behind its end")
        self.totals = totals

    def _count(self, line: bytes) -> None:
        self._digest.update(line)
        self._read += 1

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._at("is not JSON") from error
        if not isinstance(found, dict):
            raise self._at("is no JSON object")
        return found

    def _at(self, what: str) -> BundleDamaged:
        return _damaged(f"line {self._read + 1} {what}")


class OfRun(NamedTuple):
    """A run, and its rows, which can be read once and before the next run is asked for."""

    run: Row
    rest: Iterator[Line]


def by_run(rows: Iterable[Line]) -> Iterator[OfRun | Line]:
    """Rows as runs with what belongs to them, in one pass; rows of no run as they are.

    What is not read of a run's rows is passed over. Raises BundleDamaged for rows without a run.
    """
    source = _Peeking(rows)
    while source.head is not None:
        table, row = source.take()
        column = TABLES[table].run
        if table == "runs":
            rest = _of_run(source, str(row["id"]))
            yield OfRun(row, rest)
            for _ in rest:
                pass
        elif column is not None:
            raise _damaged(f"it has rows of run {row[column]!r:.80}, which is not before them")
        else:
            yield table, row


class _Peeking:
    """Lines of which the next one can be looked at."""

    def __init__(self, rows: Iterable[Line]) -> None:
        self._rows = iter(rows)
        self.head = next(self._rows, None)

    def take(self) -> Line:
        assert self.head is not None  # noqa: S101  (the caller has looked)
        taken, self.head = self.head, next(self._rows, None)
        return taken


def _of_run(source: _Peeking, run_id: str) -> Iterator[Line]:
    while source.head is not None:
        table, row = source.head
        column = TABLES[table].run
        if table == "runs" or column is None or row[column] != run_id:
            return
        yield source.take()


def _damaged(what: str) -> BundleDamaged:
    return BundleDamaged(f"the bundle is damaged: {what}", hint=_HINT)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"


def _encoded(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return {"text": value.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    [(how, text)] = value.items()
    if how == "text":
        return text.encode("utf-8")
    if how == "base64":
        return base64.b64decode(text, validate=True)
    raise ValueError(f"values cannot be {how!r:.40}")
