"""Where each sealed value stands, and how whole rows are sealed and opened.

A value is sealed together with its place, which has no name of the database in it: a row opens in
every database that has its key, and a value that was moved to another row does not open at all.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from aura.codec import is_encrypted, unpack
from aura.store.keys import Keyring
from aura.store.portable import SEALED_TEXT, TABLES, Row, frame_of


def place(*parts: str) -> bytes:
    """The place of a value, in one form for each list of names."""
    return b"".join(b"%d:%b" % (len(part), part.encode(errors="surrogatepass")) for part in parts)


def start_place(run_id: str, workflow: str, dedup: str | None, *, debounced: bool) -> bytes:
    """The place of a run's fingerprint and first input: a later start gives a debounced run its
    own, without knowing its id."""
    return place("debounced", workflow, dedup or "") if debounced else place("run", run_id)


def _run_place(row: Row, column: str) -> bytes:
    first = column == "fingerprint" or (column == "input" and row.get("execution", 1) == 1)
    debounced = first and bool(row.get("debounced"))
    of = start_place(row["id"], row["workflow"], row.get("dedup"), debounced=debounced)
    return of + b"/" + column.encode()


_PLACES: dict[str, Callable[[Row, str], bytes]] = {
    "runs": _run_place,
    "journal": lambda row, column: (
        place("journal", row["run_id"], str(row["seq"]), row["key"]) + b"/" + column.encode()
    ),
    "signals": lambda row, _: place("signal", row["run_id"], row["id"]),
    "documents": lambda row, _: place("document", row["kind"], row["name"]),
    "feeds": lambda row, _: place("feed", row["feed"]),
    "events": lambda row, _: place("event", row["topic"], row["id"]),
    "deliveries": lambda row, _: place(
        "delivery", row["topic"], row["group_name"], str(row["seq"])
    ),
}


def seal_row(keys: Keyring, table: str, row: Row) -> Row:
    """The row with all payloads sealed; those that are already stay as they are."""
    changed: dict[str, Any] = {}
    for column in TABLES[table].payloads:
        value = row.get(column)
        if isinstance(value, str) and value and not value.startswith(SEALED_TEXT):
            frame = keys.seal(value.encode(), _PLACES[table](row, column))
            changed[column] = SEALED_TEXT + base64.b64encode(frame).decode()
        elif isinstance(value, bytes) and not is_encrypted(value):
            changed[column] = keys.seal(value, _PLACES[table](row, column))
    return {**row, **changed}


def open_row(keys: Keyring, table: str, row: Row) -> Row:
    """The row with all payloads opened. Raises KeyMissing, DecryptionFailed."""
    changed: dict[str, Any] = {}
    for column in TABLES[table].payloads:
        frame = frame_of(row.get(column))
        if frame is not None:
            opened = keys.open(frame, _PLACES[table](row, column))
            if is_encrypted(opened):
                unpack(opened)  # raises what it is
            changed[column] = opened.decode() if isinstance(row[column], str) else opened
    return {**row, **changed}
