"""The format of bundles: what is written comes back, and what is damaged is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.engine.bundle import Decoder, Encoder, Header, OfRun, by_run
from aura.errors import BundleDamaged, BundleError
from aura.store.portable import Line

HEADER = Header("move", "to-postgres", "sqlite", 1.5, True)
ROWS: list[Line] = [
    ("runs", {"id": "a", "input": b'"x"', "epoch": 3, "wake_at": 1.25, "error": None}),
    ("journal", {"run_id": "a", "seq": 1, "output": b"\x01\xff"}),
    ("journal", {"run_id": "a", "seq": 2, "output": None}),
    ("signals", {"run_id": "a", "seq": 1, "late": True, "payload": "größe".encode()}),
    ("runs", {"id": "b", "input": b""}),
    ("documents", {"kind": "split", "name": "s", "body": b"{}"}),
]


def written(rows: list[Line] = ROWS, header: Header = HEADER) -> list[bytes]:
    encoder = Encoder()
    lines = [encoder.header(header), *(encoder.row(table, row) for table, row in rows)]
    return [*lines, encoder.end()]


def test_what_is_written_comes_back() -> None:
    decoder = Decoder(written())
    assert decoder.header == HEADER
    assert list(decoder) == ROWS
    assert decoder.totals is not None
    assert (decoder.totals.lines, decoder.totals.runs) == (7, 2)


def test_lines_are_readable() -> None:
    lines = [json.loads(line) for line in written()]
    assert lines[0] == {
        "bundle": "aura", "format": 1, "kind": "move", "move": "to-postgres", "source": "sqlite",
        "made_at": 1.5, "app": True,
    }  # fmt: skip
    assert lines[1]["row"]["input"] == {"text": '"x"'}
    assert lines[2]["row"]["output"] == {"base64": "Af8="}
    assert lines[-1]["end"]["runs"] == 2


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary()
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(st.text(min_size=1, max_size=5), values | texts, max_size=6))
def test_any_values_come_back(more: dict[str, Any]) -> None:
    rows: list[Line] = [("runs", {**more, "id": "a"})]
    [(_, row)] = list(Decoder(written(rows)))
    assert row == rows[0][1]
    assert {name: type(value) for name, value in row.items()} == {
        name: type(value) for name, value in rows[0][1].items()
    }


def test_every_cut_is_noticed() -> None:
    whole = b"".join(written())
    for length in range(len(whole) - 1):
        with pytest.raises(BundleDamaged):
            list(Decoder(whole[:length].splitlines(keepends=True)))


def test_every_changed_byte_is_noticed() -> None:
    whole = b"".join(written())
    for at in range(len(whole) - 1):
        changed = whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :]
        with pytest.raises(BundleError):
            list(Decoder(changed.splitlines(keepends=True)))


def test_lines_that_are_lost_doubled_or_moved_are_noticed() -> None:
    lines = written()
    for changed in (
        [*lines[:2], *lines[3:]],
        [*lines[:2], lines[1], *lines[2:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines, lines[1]],
    ):
        with pytest.raises(BundleDamaged):
            list(Decoder(changed))


@pytest.mark.parametrize(
    ("first", "error", "says"),
    [
        (b"", BundleDamaged, "no bundle"),
        (b"PK\x03\x04", BundleDamaged, "line 1"),
        (b"[]", BundleDamaged, "line 1"),
        (b'{"bundle":"other"}', BundleDamaged, "no bundle"),
        (b'{"bundle":"aura","format":2}', BundleError, "format 2"),
        (b'{"bundle":"aura","format":1,"kind":"gift","move":""}', BundleDamaged, "first line"),
    ],
)
def test_what_is_no_bundle(first: bytes, error: type[BundleError], says: str) -> None:
    with pytest.raises(error, match=says):
        Decoder([first])


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        (b'{"table":"workers","row":{}}', BundleError, "Upgrade"),
        (b'{"table":"runs","row":{}}', BundleDamaged, "has no id"),
        (b'{"table":"runs","row":[]}', BundleDamaged, "no row"),
        (b'{"table":"runs","row":{"id":{"base64":"?"}}}', BundleDamaged, "cannot be read"),
        (b'{"table":"runs","row":{"id":{"pickle":"x"}}}', BundleDamaged, "pickle"),
        (b'{"table":"runs","row":{"id":{"text":1}}}', BundleDamaged, "line 2")
    ],
)  # fmt: skip
def test_rows_that_are_none(line: bytes, error: type[BundleError], says: str) -> None:
    with pytest.raises(error, match=says):
        list(Decoder([written()[0], line + b"\n"]))


def test_rows_come_with_their_runs() -> None:
    found: list[Any] = []
    for part in by_run(ROWS):
        if isinstance(part, OfRun):
            found.append((part.run["id"], len(list(part.rest))))
        else:
            found.append(part[0])
    assert found == [("a", 3), ("b", 0), "documents"]


def test_rows_that_are_not_read_are_passed_over() -> None:
    assert [type(part).__name__ for part in by_run(ROWS)] == ["OfRun", "OfRun", "tuple"]


def test_rows_of_a_run_that_is_not_there() -> None:
    with pytest.raises(BundleDamaged, match="rows of run 'c'"):
        list(by_run([*ROWS[:1], ("journal", {"run_id": "c", "seq": 1})]))
