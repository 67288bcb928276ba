"""JSON schemas as plain values: what they refer to, what they say of lengths and bounds, and
whether a single value meets one. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import chain
from typing import Any

Schema = Any
"""A JSON schema: a dict, True or False."""

UNREAD = frozenset(
    {
        *("not", "if", "then", "else", "patternProperties", "dependentRequired", "contains"),
        *("dependentSchemas", "dependencies", "minContains", "maxContains", "additionalItems"),
        *("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    }
)
"""Keywords that restrict values and are not compared."""

_READ = frozenset(
    {
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "required"),
        *("additionalProperties", "propertyNames", "minProperties", "maxProperties", "items"),
        *("prefixItems", "minItems", "maxItems", "uniqueItems", "minimum", "maximum", "pattern"),
        *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "format"),
    }
)
CONSTRAINTS = UNREAD | _READ
UNIONS = ("anyOf", "oneOf")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
INFINITY = math.inf
_ONLY_EXPLAINS = frozenset(
    {
        *("title", "description", "examples", "deprecated", "readOnly", "writeOnly", "$comment"),
        *("$defs", "definitions", "$schema", "$id", "discriminator"),
    }
)
_SHALLOW = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf"})
_FORMATS = frozenset({"uuid", "ipv4", "ipv6", "email", "duration", "uri", "date", "date-time"})
_NO_FORMATS = frozenset({"binary", "password", "json-string", "textarea", "markdown"})


class Document:
    """A schema with what its references name."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._texts: dict[int, tuple[Schema, str]] = {}  # the schemas too: an id is used again

    def resolve(self, schema: Schema) -> Schema | None:
        """The schema that a reference stands for, with what stands beside it; None when it names
        nothing here, or itself."""
        seen: set[str] = set()
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            target = schema["$ref"]
            found = self._at(target)
            if target in seen or found is None:
                return None
            seen.add(target)
            beside = {key: schema[key] for key in schema if key in CONSTRAINTS and key != "$ref"}
            schema = {"allOf": [found, beside]} if beside else found
        return schema

    def _at(self, reference: str) -> Schema | None:
        if not reference.startswith("#"):
            return None
        found = self._root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                return None
            found = found[name]
        return found

    def text(self, schema: Schema) -> str:
        """The schema and all that it refers to, in one form: the same text is the same schema."""
        known = self._texts.get(id(schema))
        if known is None:
            known = self._texts[id(schema)] = (schema, self._text(schema))
        return known[1]

    def _text(self, schema: Schema) -> str:
        own = _json(schema)
        if '"$ref"' not in own:
            return own
        needed: dict[str, str] = {}
        waiting = [schema]
        while waiting:
            for target in _references(waiting.pop()):
                if target not in needed:
                    found = self._at(target)
                    needed[target] = _json(found)
                    waiting.append(found)
        return own + _json(needed)


def _bare(schema: Schema) -> Schema:
    """Without what only explains."""
    if isinstance(schema, dict):
        return {
            key: {name: _bare(part) for name, part in value.items()}
            if key in ("properties", "patternProperties") and isinstance(value, dict)
            else value
            if key in ("enum", "const", "required")
            else _bare(value)
            for key, value in schema.items()
            if key not in _ONLY_EXPLAINS
        }
    return [_bare(part) for part in schema] if isinstance(schema, list) else schema


def _json(schema: Schema) -> str:
    return json.dumps(_bare(schema), sort_keys=True, default=str)


def _references(schema: Schema) -> Iterable[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        yield from chain.from_iterable(map(_references, schema.values()))
    elif isinstance(schema, list):
        yield from chain.from_iterable(map(_references, schema))


def says_something(schema: Schema) -> bool:
    """Whether there is a value that it refuses."""
    return schema is not True and (
        not isinstance(schema, dict) or not CONSTRAINTS.isdisjoint(schema)
    )


def join(path: str, name: str) -> str:
    """The path of a field below another one."""
    return f"{path}.{name}" if path else name


def alternatives(schema: Mapping[str, Any]) -> list[Schema] | None:
    """The schemas of which a value meets one; None when there is no choice."""
    union = next((kind for kind in UNIONS if kind in schema), None)
    if union is not None:
        rest = {key: value for key, value in schema.items() if key != union and key in CONSTRAINTS}
        return [{"allOf": [part, rest]} if rest else part for part in schema[union]]
    kinds = schema.get("type")
    if isinstance(kinds, list) and "enum" not in schema and "const" not in schema:
        return [{**schema, "type": kind} for kind in kinds]
    return None


_STRICTER: dict[str, Callable[[Any, Any], Any]] = {
    **{f"min{what}": max for what in ("imum", "Length", "Items", "Properties")},
    **{f"max{what}": min for what in ("imum", "Length", "Items", "Properties")},
    "exclusiveMinimum": max,
    "exclusiveMaximum": min,
    "required": lambda one, other: [*one, *(name for name in other if name not in one)],
}
_BELONG = (frozenset({"properties", "additionalProperties"}), frozenset({"items", "prefixItems"}))


def merged(members: Iterable[Schema]) -> Schema | None:
    """One schema for what meets all of them; None when that cannot be written as one."""
    whole: dict[str, Any] = {}
    for member in members:
        if not isinstance(member, dict) or any(
            group & whole.keys() and group & member.keys() for group in _BELONG
        ):
            return None
        for key, value in member.items():
            if key not in CONSTRAINTS or key not in whole or whole[key] == value:
                whole[key] = value
            elif key in _STRICTER:
                whole[key] = _STRICTER[key](whole[key], value)
            else:
                return None
    return whole


def listed_values(schema: Mapping[str, Any]) -> list[Any] | None:
    """All values that it takes, when they are listed."""
    if "const" in schema:
        return [schema["const"]]
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    few: dict[Any, list[Any]] = {"null": [None], "boolean": [True, False]}
    return few.get(str(schema.get("type")))


def types_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that its values may have; all when it names none."""
    kinds = schema.get("type", TYPES)
    return (kinds,) if isinstance(kinds, str) else tuple(kinds)


def overlap(some: Iterable[str], others: Iterable[str]) -> set[str]:
    """The types that are among both; whole numbers are numbers."""
    wider = [{*kinds, *(("integer",) if "number" in kinds else ())} for kinds in (some, others)]
    return wider[0] & wider[1]


def other_fields(narrow: Mapping[str, Any]) -> Schema:
    """What fields may come that are not named."""
    if "additionalProperties" in narrow:
        return narrow["additionalProperties"]
    return "properties" not in narrow


def item(schema: Mapping[str, Any], at: int) -> Schema:
    """What the item at that place has to be."""
    first = schema.get("prefixItems", ())
    return first[at] if at < len(first) else schema.get("items", True)


def item_lengths(schema: Mapping[str, Any]) -> tuple[float, float]:
    """How many items there are at least and at most."""
    most = len(schema.get("prefixItems", ())) if schema.get("items") is False else INFINITY
    return schema.get("minItems", 0), min(schema.get("maxItems", INFINITY), most)


def string_lengths(schema: Mapping[str, Any]) -> tuple[float, float]:
    """How many characters there are at least and at most."""
    return schema.get("minLength", 0), schema.get("maxLength", INFINITY)


def is_note(name: Any) -> bool:
    """Whether a format restricts nothing."""
    return name in _NO_FORMATS


_CLOSE = (frozenset({"date", "date-time"}), frozenset({"time", "date-time"}))


def foreign(wanted: str, given: str) -> bool:
    """Whether text in one format is never in the other one."""
    return {wanted, given} <= _FORMATS and {wanted, given} not in _CLOSE


def bounds(
    schema: Mapping[str, Any], *, whole: bool
) -> tuple[tuple[float, int], tuple[float, int]]:
    """The least and the most, each with how far outside of the number it lies: (1, 1) is more than
    1. Whole numbers have no such bounds: more than 1 is at least 2."""
    low = max((schema.get("minimum", -INFINITY), 0), (schema.get("exclusiveMinimum", -INFINITY), 1))
    high = min((schema.get("maximum", INFINITY), 0), (schema.get("exclusiveMaximum", INFINITY), -1))
    if whole:
        if math.isfinite(low[0]):
            low = (math.floor(low[0]) + 1 if low[1] else math.ceil(low[0]), 0)
        if math.isfinite(high[0]):
            high = (math.ceil(high[0]) - 1 if high[1] else math.floor(high[0]), 0)
    return low, high


def is_multiple(value: float, step: float) -> bool:
    """Whether it is, in decimal numbers as they are written."""
    return bool(Fraction(str(value)) % Fraction(str(step)) == 0)


# -- single values -----------------------------------------------------------------------------


def holds(document: Document, schema: Schema, value: Any, depth: int = 12) -> bool | None:
    """Whether a value meets a schema; None when that is not told here."""
    schema = document.resolve(schema)
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict) or depth == 0:
        return None
    answers: list[bool | None] = [*_scalar(schema, value)]
    answers += [holds(document, one, value, depth - 1) for one in schema.get("allOf", ())]
    if "anyOf" in schema:
        tried = [holds(document, one, value, depth - 1) for one in schema["anyOf"]]
        answers.append(True if True in tried else None if None in tried else False)
    if "oneOf" in schema:
        tried = [holds(document, one, value, depth - 1) for one in schema["oneOf"]]
        answers.append(None if None in tried else tried.count(True) == 1)
    if not UNREAD.isdisjoint(schema):
        answers.append(None)
    if False in answers:
        return False
    return None if None in answers else True


def _scalar(schema: Mapping[str, Any], value: Any) -> Iterable[bool | None]:
    if "type" in schema:
        yield bool(overlap(types_of(schema), [_type_of(value)]))
    listed = _listed(schema)
    if listed is not None:
        yield any(_same(one, value) for one in listed)
    if isinstance(value, (dict, list)):
        if not (CONSTRAINTS - _SHALLOW).isdisjoint(schema):
            yield None
    elif isinstance(value, str):
        low, high = string_lengths(schema)
        yield low <= len(value) <= high
        yield _matches(schema.get("pattern"), value)
        yield None if schema.get("format") and not is_note(schema["format"]) else True
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield bounds(schema, whole=False)[0] <= (value, 0) <= bounds(schema, whole=False)[1]
        yield "multipleOf" not in schema or is_multiple(value, schema["multipleOf"])


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _matches(pattern: str | None, value: str) -> bool | None:
    if pattern is None:
        return True
    try:
        return re.search(pattern, value) is not None
    except re.error:  # another dialect
        return None


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, and 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, (int, float)):
        return "integer" if float(value).is_integer() else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
