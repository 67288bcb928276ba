"""Old and new schemas: what is told to be compatible is, by an independent validator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal, NotRequired
from uuid import UUID

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

from aura.delivery.compatibility import (
    Comparison,
    Verdict,
    compare,
    compare_inputs,
    compare_outputs,
)

NAMES = ("1.0.0", "2.0.0")


def of(annotation: Any) -> Any:
    return TypeAdapter(annotation).json_schema()


def sent(old: Any, new: Any) -> Comparison:
    """What comes of sending values of the first type to who reads the second one."""
    return compare(sender=of(old), reader=of(new), who=("sender", "reader"))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Shrub(BaseModel):
    value: float
    children: list[Shrub] = []


class Bonsai(BaseModel):
    value: int
    children: list[Bonsai]


class Strict(BaseModel, extra="forbid"):
    a: int


class Two(TypedDict):
    a: int
    b: str


class Some(TypedDict):
    a: int
    b: NotRequired[str]


class One(TypedDict):
    a: int


@dataclass
class Point:
    x: float
    y: float = 0.0


CASES: list[tuple[Any, Any, Verdict, str]] = [
    (int, float, "compatible", ""),
    (float, int, "incompatible", "type"),
    (str, int, "incompatible", "type"),
    (int, int | str, "compatible", ""),
    (int | str, int, "incompatible", "type"),
    (int | None, int, "incompatible", "type"),
    (Colour, str, "compatible", ""),
    (str, Colour, "incompatible", "enum"),
    (Literal["a"], Literal["a", "b"], "compatible", ""),
    (Literal["a", "b"], Literal["a"], "incompatible", "enum"),
    (bool, Literal[True, False], "compatible", ""),
    (bool, int, "incompatible", "type"),
    (bool, Literal[True], "incompatible", "enum"),
    (Two, One, "compatible", ""),
    (Two, Some, "compatible", ""),
    (Some, Two, "incompatible", "required"),
    (One, Two, "incompatible", "required"),
    (Two, Strict, "incompatible", "field"),
    (One, Strict, "compatible", ""),
    (list[int], list[float], "compatible", ""),
    (list[str], list[int], "incompatible", "type"),
    (tuple[int, str], list[int | str], "compatible", ""),
    (tuple[int, str], tuple[int, int], "incompatible", "type"),
    (list[int], tuple[int, int], "incompatible", "length"),
    (list[int], set[int], "incompatible", "unique"),
    (set[int], list[int], "compatible", ""),
    (dict[str, int], dict[str, float], "compatible", ""),
    (dict[str, int], dict[str, str], "incompatible", "type"),
    (dict[str, int], Point, "incompatible", "required"),
    (Point, dict[str, float], "compatible", ""),
    (dict[Literal["a"], int], dict[str, int], "compatible", ""),
    (dict[str, int], dict[Literal["a"], int], "incompatible", "enum"),
    (Cat, Cat | Dog, "compatible", ""),
    (Cat | Dog, Dog, "incompatible", "enum"),
    (Cat | Dog, Dog | Cat | str, "compatible", ""),
    (Cat, Dog | str, "incompatible", "type"),
    (Tree, Shrub, "compatible", ""),
    (Shrub, Tree, "incompatible", "type"),
    (Tree, Bonsai, "incompatible", "required"),
    (UUID, str, "compatible", ""),
    (str, UUID, "incompatible", "format"),
    (UUID, date, "incompatible", "format"),
    (date, datetime, "unknown", "format"),
    (Any, str, "unknown", "untyped"),
    (str, Any, "compatible", ""),
    (dict[str, Any], dict[str, int], "unknown", "untyped"),
]


@pytest.mark.parametrize(("old", "new", "verdict", "kind"), CASES)
def test_types(old: Any, new: Any, verdict: Verdict, kind: str) -> None:
    found = sent(old, new)
    assert (found.verdict, kind in [one.kind for one in found.findings] or kind) == (
        verdict,
        True if kind else "",
    )


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({"minimum": 2}, {"minimum": 1}, "compatible"),
        ({"minimum": 1}, {"minimum": 2}, "incompatible"),
        ({"exclusiveMinimum": 0}, {"minimum": 1}, "compatible"),
        ({"maximum": 9}, {"exclusiveMaximum": 10}, "compatible"),
        ({"maximum": 10}, {"exclusiveMaximum": 10}, "incompatible"),
        ({}, {"maximum": 10}, "incompatible"),
        ({"multipleOf": 6}, {"multipleOf": 3}, "compatible"),
        ({}, {"multipleOf": 3}, "incompatible"),
        ({"minimum": 3, "maximum": 3}, {"multipleOf": 3}, "unknown"),
        ({}, {"not": {"const": 3}}, "unknown"),
        ({"not": {"const": 3}}, {"not": {"const": 3}}, "compatible"),
        ({"not": {"maximum": 5}}, {"minimum": 5}, "unknown"),
        ({"enum": [1, 2]}, {"enum": [2, 3, 1.0]}, "compatible"),
        ({"enum": [1, True]}, {"enum": [1]}, "compatible"),  # true is no integer
    ],
)
def test_numbers(old: dict[str, Any], new: dict[str, Any], verdict: Verdict) -> None:
    kind = {"type": "integer"}
    found = compare(sender=kind | old, reader=kind | new, who=("sender", "reader"))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({"maxLength": 3}, {"maxLength": 4}, "compatible"),
        ({"maxLength": 4}, {"maxLength": 3}, "incompatible"),
        ({"minLength": 1}, {}, "compatible"),
        ({}, {"pattern": "^a"}, "incompatible"),
        ({"pattern": "^ab"}, {"pattern": "^a"}, "unknown"),
        ({"const": "ab"}, {"pattern": "^a"}, "compatible"),
        ({"const": "b"}, {"pattern": "^a"}, "incompatible"),
        ({"const": "b"}, {"pattern": "(?<broken"}, "unknown"),
        ({}, {"$ref": "#/nowhere"}, "unknown"),
        ({}, {"allOf": [{"maxLength": 4}, {"minLength": 0}]}, "incompatible"),
        ({"allOf": [{"maxLength": 4}]}, {"maxLength": 4}, "compatible"),
        ({"anyOf": [{"maxLength": 4}, {"const": "abcde"}]}, {"maxLength": 5}, "compatible"),
        ({}, {"oneOf": [{"minLength": 1}, {"maxLength": 3}]}, "unknown"),
    ],
)
def test_texts(old: dict[str, Any], new: dict[str, Any], verdict: Verdict) -> None:
    kind = {"type": "string"}
    found = compare(sender=kind | old, reader=kind | new, who=("sender", "reader"))
    assert found.verdict == verdict


def test_reasons_name_the_field_and_both_sides() -> None:
    old: Schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer", "default": 1}},
        "required": ["text"],
        "additionalProperties": False,
    }
    facts: Schema = {
        "type": "array",
        "items": {"type": "object", "properties": {"id": {"type": "integer"}}},
    }
    new = copy.deepcopy(old)
    new["properties"] = {"text": {"type": "integer"}, "facts": facts}
    new["required"] = ["text", "facts"]
    found = compare_inputs(old, new, NAMES)
    assert found.verdict == "incompatible"
    assert [str(one) for one in found.findings] == [
        "facts: required by 2.0.0, not sent by callers of 1.0.0",
        "text: string from callers of 1.0.0, only integer accepted by 2.0.0",
        "times: sent by callers of 1.0.0, not accepted by 2.0.0",
    ]
    wider = copy.deepcopy(facts)
    wider["items"]["properties"]["id"]["type"] = "string"
    told = compare_outputs(facts, wider, NAMES)
    assert [str(one) for one in told.findings] == [
        "result[].id: string from 2.0.0, only integer accepted by readers of 1.0.0"
    ]


def test_another_default_is_a_note() -> None:
    old, new = (
        {"type": "object", "properties": {"n": {"type": "integer", "default": number}}}
        for number in (1, 2)
    )
    found = compare_inputs(old, new, NAMES)
    assert found.verdict == "compatible"
    assert [str(one) for one in found.findings] == ["n: left out it was 1, now 2"]
    assert compare_outputs(old, new, NAMES).findings == ()


def test_a_field_that_a_result_has_no_more() -> None:
    found = compare_outputs(of(Two), of(One), NAMES)
    assert [str(one) for one in found.findings] == [
        "result.b: required by readers of 1.0.0, not sent by 2.0.0"
    ]
    assert compare_outputs(of(One), of(Two), NAMES).verdict == "compatible"


def test_no_schema_is_unknown_and_a_broken_one_too() -> None:
    assert compare_inputs(None, {}, NAMES).verdict == "unknown"
    for broken in ({"type": "object", "properties": 7}, {"type": "integer", "minimum": "x"}):
        reader = {"type": broken["type"], "properties": {}, "minimum": 1}
        found = compare(sender=broken, reader=reader, who=NAMES)
        assert [one.kind for one in found.findings] == ["unreadable"]


def test_schemas_without_end_come_to_an_end() -> None:
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert compare(sender={"type": "string"}, reader=loop, who=NAMES).verdict == "unknown"
    text = {"type": "string"}
    wide = {f"y{n}": text for n in range(20)}
    choice = [{"type": "object", "properties": wide, "required": [name]} for name in wide]
    many: Schema = {f"x{n}": {"anyOf": list(choice)} for n in range(60)}
    more = copy.deepcopy(many)
    for one in more.values():
        one["anyOf"].append({"type": "null"})
    old, new = ({"type": "object", "properties": schema} for schema in (many, more))
    assert compare(sender=old, reader=new, who=NAMES).verdict in ("compatible", "unknown")


# -- properties --------------------------------------------------------------------------------

Schema = dict[str, Any]
NAMES_OF_FIELDS = ("a", "b", "c")
texts = st.text("ab", max_size=4)


def _integers(draw: Callable[..., Any]) -> Schema:
    made: Schema = {"type": draw(st.sampled_from(["integer", "number"]))}
    for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if draw(st.booleans()):
            made[keyword] = draw(st.integers(-3, 3)) + (6 if "ax" in keyword else -6)
    if draw(st.integers(0, 4)) == 0:
        made["multipleOf"] = draw(st.sampled_from([1, 2, 3, 4]))
    return made


def _strings(draw: Callable[..., Any]) -> Schema:
    made: Schema = {"type": "string"}
    if draw(st.booleans()):
        made["minLength"] = draw(st.integers(0, 2))
    if draw(st.booleans()):
        made["maxLength"] = draw(st.integers(2, 4))
    if draw(st.integers(0, 4)) == 0:
        made["pattern"] = draw(st.sampled_from(["^a", "b$", "a"]))
    return made


def _listed(draw: Callable[..., Any]) -> Schema:
    pool = st.sampled_from([1, 2, "a", "b", None, True, False, 1.5])
    return {"enum": draw(st.lists(pool, min_size=1, max_size=3))}


def _arrays(draw: Callable[..., Any], below: st.SearchStrategy[Schema]) -> Schema:
    made: Schema = {"type": "array", "items": draw(below)}
    if draw(st.booleans()):
        made["prefixItems"] = draw(st.lists(below, min_size=1, max_size=2))
    if draw(st.booleans()):
        made["maxItems"] = draw(st.integers(1, 3))
    if draw(st.integers(0, 3)) == 0:
        made["minItems"] = draw(st.integers(0, 1))
    if draw(st.integers(0, 3)) == 0:
        made["uniqueItems"] = True
    return made


def _objects(draw: Callable[..., Any], below: st.SearchStrategy[Schema]) -> Schema:
    fields = draw(st.dictionaries(st.sampled_from(NAMES_OF_FIELDS), below, max_size=3))
    made: Schema = {"type": "object", "properties": fields}
    made["required"] = [name for name in fields if draw(st.booleans())]
    rest = draw(st.integers(0, 3))
    if rest == 0:
        made["additionalProperties"] = False
    elif rest == 1:
        made["additionalProperties"] = draw(below)
    return made


@st.composite
def leaves(draw: Callable[..., Any]) -> Schema:
    plain = [{"type": "boolean"}, {"type": "null"}]
    kind: int = draw(st.integers(0, 4))
    if kind == 4:
        return dict(draw(st.sampled_from(plain)))
    return [_integers, _strings, _listed, _integers][kind](draw)


@st.composite
def branches(draw: Callable[..., Any], below: st.SearchStrategy[Schema]) -> Schema:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return {"anyOf": draw(st.lists(below, min_size=1, max_size=3))}
    if kind == 1:
        return {"oneOf": draw(st.lists(below, min_size=1, max_size=2))}
    return (_arrays if kind == 2 else _objects)(draw, below)


schemas = st.recursive(leaves(), branches, max_leaves=6)


@st.composite
def changed(draw: Callable[..., Any], schema: Schema) -> Schema:
    """The schema with one of its parts made otherwise: more likely compatible than another one."""
    made = copy.deepcopy(schema)
    places = [made]
    for place in places:
        places += place.get("properties", {}).values()
        places += place.get("anyOf", []) + place.get("oneOf", []) + place.get("prefixItems", [])
        places += [place["items"]] if "items" in place else []
    place = draw(st.sampled_from(places))
    key = draw(st.sampled_from([*sorted(place), "anyOf", "properties", "replace"]))
    if key == "replace":
        place.clear()
        place.update(draw(leaves()))
    elif key == "anyOf" and not place.keys() & {"anyOf", "oneOf"}:
        before = dict(place)
        place.clear()
        place["anyOf"] = [before, draw(leaves())]
    elif key == "properties" and "properties" in place:
        place["properties"][draw(st.sampled_from(NAMES_OF_FIELDS))] = draw(leaves())
    elif key == "enum":
        place["enum"] = place["enum"][:1] + draw(_values_of_enums)
    elif key in place and key not in ("anyOf", "oneOf", "type", "properties", "items"):
        place.pop(key)
    return made


_values_of_enums = st.lists(st.sampled_from([1, 2, "a", None]), max_size=2)


def valid(schema: Schema, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values for a schema; most of them are valid. Fields that it does not name are not sent."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return st.one_of([values(one) for one in schema[union]])
    kind = schema["type"]
    if kind == "array":
        first = [values(one) for one in schema.get("prefixItems", [])]
        rest = st.lists(values(schema["items"]), max_size=2)
        whole = st.tuples(st.tuples(*first), rest).map(lambda both: [*both[0], *both[1]])
        return st.tuples(whole, st.integers(0, 3)).map(lambda pair: pair[0][: pair[1]])
    if kind == "object":
        fields = {name: values(one) for name, one in schema["properties"].items()}
        required = {name: fields.pop(name) for name in schema["required"]}
        named = st.fixed_dictionaries(required, optional=fields)
        more = schema.get("additionalProperties", False)
        if more is False:
            return named
        others = st.dictionaries(st.sampled_from([*NAMES_OF_FIELDS, "z"]), values(more), max_size=2)
        return st.tuples(others, named).map(lambda both: {**both[0], **both[1]})
    return {
        "boolean": st.booleans(),
        "null": st.none(),
        "string": texts,
        "integer": st.integers(-10, 10),
        "number": st.integers(-20, 20).map(lambda n: n / 2),
    }[kind]


@st.composite
def pairs(draw: Callable[..., Any]) -> tuple[Schema, Schema]:
    old = draw(schemas)
    return old, draw(st.one_of(changed(old), changed(old), schemas))


@given(schemas)
@settings(max_examples=60)
def test_a_schema_is_compatible_with_itself(schema: Schema) -> None:
    assert compare(sender=schema, reader=copy.deepcopy(schema), who=NAMES).findings == ()


@given(pairs(), st.data())
@settings(max_examples=250)
def test_what_is_told_to_fit_fits(pair: tuple[Schema, Schema], data: st.DataObject) -> None:
    """The oracle is another implementation: the library jsonschema."""
    old, new = pair
    told = compare(sender=old, reader=new, who=NAMES).verdict
    assume(told == "compatible")
    value = data.draw(values(old))
    assume(valid(old, value))
    assert valid(new, value), (old, new, value)


@given(schemas, schemas)
@settings(max_examples=60)
def test_adding_an_optional_input_is_compatible_and_a_required_one_is_not(
    old: Schema, added: Schema
) -> None:
    def arguments(fields: dict[str, Schema], required: list[str]) -> Schema:
        return {
            "type": "object", "properties": fields, "required": required,
            "additionalProperties": False,
        }  # fmt: skip

    before = arguments({"a": old}, ["a"])
    optional = arguments({"a": old, "new": added}, ["a"])
    required = arguments({"a": old, "new": added}, ["a", "new"])
    assert compare_inputs(before, optional, NAMES).verdict == "compatible"
    assert compare_inputs(before, required, NAMES).verdict == "incompatible"
    assert compare_inputs(optional, before, NAMES).verdict == "incompatible"
    assert compare_outputs(before, optional, NAMES).verdict == "incompatible"  # closed to readers
    assert compare_outputs(optional, before, NAMES).verdict == "compatible"


@given(schemas)
@settings(max_examples=60)
def test_one_alternative_more_is_taken_and_may_not_be_sent(old: Schema) -> None:
    strange = {"type": "object", "properties": {"q": {"const": 1}}, "required": ["q"]}
    more = {"anyOf": [old, strange]}
    assert compare(sender=old, reader=more, who=NAMES).verdict in ("compatible", "unknown")
    assert compare(sender={"type": "string"}, reader={"anyOf": [{"type": "string"}, old]},
                   who=NAMES).verdict == "compatible"  # fmt: skip
