"""The codec: what is accepted comes back equal, and what would not is refused with a reason."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple
from uuid import UUID

import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, Json, computed_field
from typing_extensions import TypedDict

from aura.codec import (
    Limits,
    Signature,
    Slot,
    canonical,
    digest,
    pack,
    plain,
    same_json,
    to_json,
    unpack,
)
from aura.errors import CodecError, InvalidInput, PayloadTooLarge, RegistrationError

LIMITS = Limits(max_bytes=10_000, compress_over=100)


class Color(enum.Enum):
    RED = "red"
    BLUE = 7


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Inner(BaseModel):
    data: bytes
    score: float
    maybe: float | None = None


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_bytes="utf8")

    inner: Inner
    items: list[Inner] = []
    at: datetime
    took: timedelta
    renamed: int = Field(alias="reNamed")
    text: Json[list[int]] = [1]

    @computed_field
    def double(self) -> int:
        return 2 * self.renamed


@dataclass
class Point:
    x: float
    data: bytes = b""
    tags: frozenset[str] = field(default_factory=frozenset)
    color: Color = Color.RED


class Row(TypedDict, total=False):
    key: UUID
    data: bytes
    when: date
    point: Point


class Pair(NamedTuple):
    left: int
    right: bytes


floats = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
inners = st.builds(Inner, data=st.binary(max_size=20), score=floats, maybe=st.none() | floats)
times = st.datetimes(timezones=st.just(UTC))
points = st.builds(
    Point, x=floats, data=st.binary(max_size=20), tags=st.frozensets(texts),
    color=st.sampled_from(Color),
)  # fmt: skip
models = st.builds(
    Model, inner=inners, items=st.lists(inners, max_size=3), at=times,
    took=st.timedeltas(timedelta(days=-999), timedelta(days=999)), reNamed=st.integers(),
    text=st.just("[1, 2]"),
)  # fmt: skip
rows = st.fixed_dictionaries(
    {}, optional={"key": st.uuids(), "data": st.binary(max_size=20), "when": st.dates(),
                  "point": points},
)  # fmt: skip
TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Model, models),
    (list[Inner], st.lists(inners, max_size=3)),
    (Point, points),
    (Row, rows),
    (dict[str, Point], st.dictionaries(texts, points, max_size=3)),
    (bytes, st.binary()),
    (float, floats),
    (str, texts),
    (int, st.integers()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (datetime, times | st.datetimes()),
    (UUID | None, st.none() | st.uuids()),
    (tuple[int, ...], st.lists(st.integers()).map(tuple)),
    (tuple[str, bytes], st.tuples(texts, st.binary())),
    (set[int], st.sets(st.integers())),
    (Pair, st.builds(Pair, st.integers(), st.binary())),
    (Color, st.sampled_from(Color)),
    (dict[int, bytes], st.dictionaries(st.integers(), st.binary(), max_size=3)),
    (Literal["a", "b", 1], st.sampled_from(["a", "b", 1])),
    (int | str, st.integers() | texts),
    (IPv4Address, st.ip_addresses(v=4)),
    (PurePosixPath, st.just(PurePosixPath("/a/b"))),
]
untyped = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(texts, inside, max_size=4),
    max_leaves=10,
)
anything = st.recursive(
    st.none() | st.integers() | floats | texts | st.binary() | times | st.uuids() | points
    | inners | st.sampled_from(Color) | st.sampled_from(Level) | st.decimals(),
    lambda inside: (
        st.lists(inside, max_size=3) | st.tuples(inside, inside)
        | st.dictionaries(texts | st.integers(), inside, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def equal(one: Any, other: Any) -> bool:
    """Equality of value and type, all the way down, where NaN equals NaN."""
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    if isinstance(one, BaseModel) or hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and equal(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize(("annotation", "values"), TYPED, ids=lambda x: getattr(x, "__name__", ""))
def test_typed_values_come_back_equal(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    slot = Slot(annotation, "the result of step test")

    @settings(max_examples=40, deadline=None, database=None)
    @given(values)
    def check(value: Any) -> None:
        data, back = slot.round_trip(value)
        assert equal(value, back), (value, back)
        assert equal(slot.load(unpack(pack(data, Limits(), "x"))), back)
        assert slot.dump(back) == data or slot.unordered

    check()


@settings(max_examples=150, deadline=None, database=None)
@given(untyped)
def test_plain_json_needs_no_annotation(value: Any) -> None:
    data, back = Slot(Any, "the result of step test").round_trip(value)
    assert equal(value, back)
    assert equal(value, plain(data))


@pytest.mark.parametrize(
    "annotation", [Any, object, dict[str, Any] | list[Any] | None, list[Any], dict, str | bytes]
)
def test_what_loose_types_accept_comes_back_equal(annotation: Any) -> None:
    slot = Slot(annotation, "the result of step test")

    @settings(max_examples=150, deadline=None, database=None)
    @given(anything)
    def check(value: Any) -> None:
        try:
            _, back = slot.round_trip(value)
        except CodecError as error:
            assert "the result of step test" in str(error)  # noqa: PT017
        else:
            assert value == back or equal(value, back), (value, back)

    check()


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (dict[str, Any], {"at": datetime.now(UTC)}),
        (dict[str, Any], {"deep": [{"pair": (1, 2)}]}),
        (list, [b"bytes"]),
        (str | datetime, datetime.now(UTC)),
        (str | bytes | None, b"bytes"),
        (list[datetime | str], ["2026-01-01T00:00:00Z"]),
        (object, {1}),
    ],
)
def test_a_loose_type_refuses_what_it_would_change(annotation: Any, value: Any) -> None:
    with pytest.raises(CodecError, match=r"the result of step s would come back.*Annotate"):
        Slot(annotation, "the result of step s").round_trip(value)


@pytest.mark.parametrize("value", [object(), lambda: None, "\udcff", {"a": object()}, Ellipsis])
def test_what_cannot_be_stored(value: Any) -> None:
    with pytest.raises(CodecError, match="the result of step s cannot be stored"):
        Slot(Any, "the result of step s").round_trip(value)


def test_a_loop_cannot_be_stored() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="cannot be stored"):
        Slot(Any, "the result of step s").round_trip(loop)


def test_coercion_is_that_of_the_declared_type() -> None:
    assert Slot(float, "x").round_trip(1) == (b"1.0", 1.0)
    assert Slot(Point, "x").round_trip({"x": 1, "color": "red"})[1] == Point(1.0)
    assert Slot(Sequence[int], "x").round_trip([1, 2])[1] == [1, 2]


@pytest.mark.parametrize(
    "annotation",
    [type("Strange", (), {}), "Missing", list["Missing"]],  # type: ignore[name-defined]  # noqa: F821
)
def test_types_that_nobody_can_store(annotation: Any) -> None:
    with pytest.raises(RegistrationError, match="argument 'a' of step s has a type that cannot"):
        Slot(annotation, "argument 'a' of step s")


def test_payloads_are_compressed_when_that_helps_and_limited() -> None:
    small, large = b'"' + b"a" * 98 + b'"', b'"' + b"a" * 9_000 + b'"'
    assert pack(small, LIMITS, "x") == small
    packed = pack(large, LIMITS, "x")
    assert packed[:1] == b"\x01"
    assert len(packed) < 200
    assert unpack(packed) == large
    assert unpack(small) == small
    with pytest.raises(PayloadTooLarge, match=r"x is 10,002 bytes long, the limit is 10,000"):
        pack(b'"' + b"a" * 10_000 + b'"', LIMITS, "x")


def test_a_small_limit_holds_below_the_compression_threshold() -> None:
    with pytest.raises(PayloadTooLarge):
        pack(b"x" * 60, Limits(max_bytes=50), "x")


def test_damaged_bytes_are_told() -> None:
    packed = pack(b'"' + b"ab" * 500 + b'"', LIMITS, "x")
    with pytest.raises(CodecError, match="cannot be decompressed"):
        unpack(packed[:20])
    with pytest.raises(CodecError, match="cannot be decompressed"):
        unpack(packed[:5] + b"\xff\xff" + packed[7:])
    with pytest.raises(CodecError, match="the result of step s cannot be read back"):
        Slot(int, "the result of step s").load(b'{"not": 1}')
    with pytest.raises(CodecError):
        Slot(Any, "the result of step s").load(b"{half")


@settings(max_examples=100, deadline=None, database=None)
@given(st.binary(max_size=3000))
def test_packing_any_json_is_lossless(data: bytes) -> None:
    text = pydantic_core.to_json(data, bytes_mode="base64")
    assert unpack(pack(text, LIMITS, "x")) == text


def sample(text: str, count: int = 1, *, words: set[str] | None = None, extra: Any = None) -> int:
    return count


SIGNATURE = Signature(sample, "step sample")


def test_arguments_are_dumped_by_name_however_they_are_passed() -> None:
    expected = b'{"text":"a","count":2}'
    assert SIGNATURE.dump(("a", 2), {}) == expected
    assert SIGNATURE.dump(("a",), {"count": 2}) == expected
    assert SIGNATURE.dump((), {"count": 2, "text": "a"}) == expected
    assert SIGNATURE.load(expected) == {"text": "a", "count": 2}


def test_all_that_does_not_fit_is_told_at_once() -> None:
    slot = Slot(list[Inner], "argument 'a' of step s")
    with pytest.raises(InvalidInput) as caught:
        slot.check([{"data": 5, "score": "high"}, {"score": 1.0}])
    said = str(caught.value)
    assert [
        part.partition(":")[0]
        for part in said.removeprefix(f"{slot.what} does not fit: ").split("; ")
    ] == [
        "0.data",
        "0.score",
        "1.data",
    ]
    with pytest.raises(InvalidInput, match=r"; and 15 more$"):
        slot.check([{}] * 10)


def test_no_arguments() -> None:
    nothing = Signature(lambda: None, "step nothing")
    assert nothing.dump((), {}) == b"{}"
    assert nothing.load(b"{}") == {}
    with pytest.raises(InvalidInput, match="Its arguments: none"):
        nothing.dump((1,), {})


@pytest.mark.parametrize("data", [b"[]", b"5", b'{"text": 5}', b'{"tekst": "a"}', b"{}"])
def test_input_from_outside_is_checked(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="step sample"):
        SIGNATURE.load(data)


@pytest.mark.parametrize("data", [b"", b"{", b'{"text": "a"', b"\xff", b'{"text": "\\ud800"}'])
def test_input_that_is_no_json_is_told(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="step sample"):
        SIGNATURE.load(data)


def test_fingerprints_do_not_depend_on_the_order_of_sets() -> None:
    one = SIGNATURE.fingerprint(b'{"text":"a","words":["x","y"]}')
    assert one == SIGNATURE.fingerprint(b'{"text":"a","words":["y","x"]}')
    assert one != SIGNATURE.fingerprint(b'{"text":"a","words":["y","z"]}')
    plain_signature = Signature(lambda a: a, "step plain")
    assert plain_signature.fingerprint(b"[1,2]") != plain_signature.fingerprint(b"[2,1]")
    assert plain_signature.fingerprint(b"[1,2]") == digest(b"[1,2]")


def test_fingerprints_see_sets_inside_models() -> None:
    def takes(point: Point, rows: list[Row]) -> None: ...

    signature = Signature(takes, "step takes")
    one = signature.fingerprint(b'{"point":{"x":1,"tags":["a","b"]},"rows":[]}')
    assert one == signature.fingerprint(b'{"point":{"x":1,"tags":["b","a"]},"rows":[]}')


def test_canonical_text() -> None:
    assert canonical(b'{"b": [3, 1, {"z": 1, "y": NaN}], "a": "\\u00fc"}') == (
        '{"a":"ü","b":[1,3,{"y":NaN,"z":1}]}'.encode()
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":2}', b'{"b": 2, "a": 1}', True),
        (b"[1,2]", b"[2,1]", False),
        (b"1", b"1.0", False),
        (b"true", b"1", False),
        (pack(to_json("a" * 5_000), LIMITS, "x"), to_json("a" * 5_000), True),
    ],
)
def test_same_json(one: bytes, other: bytes, same: bool) -> None:
    assert same_json(one, other) is same


def test_a_typed_dict_of_the_wrong_kind_says_what_to_use() -> None:
    import sys
    import typing

    if sys.version_info >= (3, 12):
        pytest.skip("pydantic takes both kinds from Python 3.12")
    old = typing.TypedDict("old", {"a": int})  # noqa: UP013
    with pytest.raises(RegistrationError, match=r"typing_extensions\.TypedDict"):
        Slot(old, "argument 'a' of step s")
