"""The crash test would see what it looks for."""

from __future__ import annotations

import dataclasses
import json

import pytest

from aura.store.base import Entry, RunRecord
from tests.crash.kit import Found, Line

TOKENS = [f"token {n}" for n in range(8)]
RECORD = RunRecord(
    "r", "order", "1.0.0", "completed", 2, None, "o", b"{}", "f", json.dumps(TOKENS).encode(),
    None, None, False, 1, 0.0, 0.0, 9.0,
)  # fmt: skip
JOURNAL = [
    Entry("r", n + 1, f"0/effect#{n}", "step", "f", None, json.dumps(token).encode(), None, 1,
          10.0 * n, 10.0 * n + 5)
    for n, token in enumerate(TOKENS)
]  # fmt: skip
LINES = [
    Line("effect", "r", f"0/effect#{n}", 1 if n < 4 else 2, 100 if n < 4 else 200, 10.0 * n + 1,
         TOKENS[:n])
    for n in range(8)
]  # fmt: skip
GOOD = Found(RECORD, JOURNAL, LINES)


def test_a_sound_run_has_no_complaints() -> None:
    assert GOOD.complaints() == []
    unfinished = dataclasses.replace(LINES[4], epoch=1, pid=100, at=30.0)
    assert dataclasses.replace(GOOD, lines=[*LINES, unfinished]).complaints() == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (dataclasses.replace(GOOD, record=RECORD._replace(state="running")), "is running"),
        (dataclasses.replace(GOOD, record=RECORD._replace(output=b'["x"]')), "has result"),
        (dataclasses.replace(GOOD, journal=[*JOURNAL[:6], JOURNAL[7]]), "has the seqs"),
        (
            dataclasses.replace(
                GOOD, journal=[*JOURNAL[:7], JOURNAL[7]._replace(key="0/effect#0")]
            ),
            "has twice",
        ),
        (
            dataclasses.replace(
                GOOD, lines=[*LINES, dataclasses.replace(LINES[2], epoch=2, pid=200, at=90.0)]
            ),
            "ran again",
        ),
        (
            dataclasses.replace(GOOD, lines=[dataclasses.replace(LINES[0], pid=300), *LINES[1:]]),
            "had owners",
        ),
        (
            dataclasses.replace(
                GOOD, lines=[*LINES, dataclasses.replace(LINES[7], before=["lost"], at=69.0)]
            ),
            "knew of results that are lost",
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_each_breach_is_seen(found: Found, says: str) -> None:
    assert any(says in one for one in found.complaints())
