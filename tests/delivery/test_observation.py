from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.observation import Observation
from aura.errors import CodecError

PLAIN = Observation("s", 3, "cand", "u", 1000.5, ok=True, latency=0.25)

finite = st.floats(allow_nan=False, allow_infinity=False)
observations = st.builds(
    Observation,
    split=st.text(),
    epoch=st.integers(),
    arm=st.text(),
    unit=st.text(),
    at=finite,
    ok=st.booleans(),
    latency=st.floats(0, 1e9),
    share=st.floats(0, 1),
    fallback=st.booleans(),
    user_ok=st.booleans(),
    error=st.text(),
    shadow=st.booleans(),
    differences=st.lists(st.text()).map(tuple),
    run=st.text(),
)


@given(observations)
def test_json_round_trip(observation: Observation) -> None:
    assert Observation.from_json(observation.to_json()) == observation


def test_json_leaves_out_what_has_its_default() -> None:
    assert json.loads(PLAIN.to_json()) == {
        "split": "s",
        "epoch": 3,
        "arm": "cand",
        "unit": "u",
        "at": 1000.5,
        "ok": True,
        "latency": 0.25,
    }


def test_unknown_keys_are_ignored_and_whole_numbers_are_numbers() -> None:
    body = json.loads(PLAIN.to_json()) | {"cost": 3, "at": 7, "share": 1}
    found = Observation.from_json(json.dumps(body).encode())
    assert (found.at, found.share) == (7.0, 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", math.nan),
        ("at", math.inf),
        ("latency", math.nan),
        ("latency", math.inf),
        ("latency", -0.001),
        ("share", math.nan),
        ("share", 1.5),
        ("share", -0.5),
    ],
)
def test_impossible_numbers_are_refused(field: str, value: float) -> None:
    values: dict[str, Any] = json.loads(PLAIN.to_json()) | {field: value}
    with pytest.raises(CodecError, match=f"an observation's {field} is"):
        Observation(**values)
    with pytest.raises(CodecError, match=f"an observation's {field} is"):
        Observation.from_json(json.dumps(values).encode())


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"split": None}, "an observation's split is"),
        ({"epoch": 1.5}, "an observation's epoch is"),
        ({"epoch": True}, "an observation's epoch is"),
        ({"ok": 1}, "an observation's ok is"),
        ({"at": "now"}, "an observation's at is"),
        ({"at": 10**400}, "an observation's at is"),
        ({"latency": True}, "an observation's latency is"),
        ({"differences": "a"}, "an observation's differences is"),
        ({"differences": [1]}, "an observation's differences is"),
    ],
)
def test_wrong_types_are_refused(change: dict[str, object], phrase: str) -> None:
    body = json.loads(PLAIN.to_json()) | change
    with pytest.raises(CodecError, match=phrase):
        Observation.from_json(json.dumps(body).encode())


@pytest.mark.parametrize("name", ["split", "epoch", "arm", "unit", "at", "ok", "latency"])
def test_what_must_be_there_is_missed(name: str) -> None:
    body = json.loads(PLAIN.to_json())
    del body[name]
    with pytest.raises(CodecError, match=f"has no {name}"):
        Observation.from_json(json.dumps(body).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000, b"[]", b"1", b"null"])
def test_bytes_that_are_no_observation_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        Observation.from_json(data)
