"""JSON schemas of what a function takes and returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_type_hints
from weakref import WeakKeyDictionary

import pydantic_core
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from aura.delivery.schema import Schema

UNTOLD = {"$ref": "#/$defs/untold"}
"""The schema of what pydantic cannot describe: it refers to nothing, and so nothing is known."""

_RESULT = "return"
_known: WeakKeyDictionary[Callable[..., Any], tuple[Schema, Schema]] = WeakKeyDictionary()


def schemas_of(function: Callable[..., Any]) -> tuple[Schema, Schema]:
    """What it takes, as an object of its arguments, and what it returns.

    Arguments that nobody declared are refused, as the engine refuses them.
    """
    found = _known.get(function)
    if found is None:
        found = _known[function] = _schemas(function)
    return found


def _schemas(function: Callable[..., Any]) -> tuple[Schema, Schema]:
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    wanted = {name: hints.get(name, Any) for name in parameters}
    parts, shared = _described({**wanted, _RESULT: hints.get(_RESULT, Any)})
    fields = {name: _with_default(parts[name], one.default) for name, one in parameters.items()}
    required = [name for name, one in parameters.items() if one.default is one.empty]
    takes = {
        "type": "object", "properties": fields, "required": required,
        "additionalProperties": False,
    }  # fmt: skip
    return _needed(takes, shared), _needed(parts[_RESULT], shared)


def _described(wanted: dict[str, Any]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """A schema for each type, and the definitions that they share."""
    try:
        return _together(wanted)
    except PydanticUserError:  # one of them has no schema: the others have
        parts: dict[str, Schema] = {}
        shared: dict[str, Schema] = {}
        for name, annotation in wanted.items():
            try:
                found, definitions = _together({name: annotation})
            except PydanticUserError:
                parts[name] = UNTOLD
                continue
            parts |= found
            shared |= definitions
        return parts, shared


def _together(wanted: dict[str, Any]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    inputs: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        (name, "serialization" if name == _RESULT else "validation", TypeAdapter(annotation))
        for name, annotation in wanted.items()
    ]
    found, shared = TypeAdapter.json_schemas(inputs, by_alias=False)
    return {str(key[0]): schema for key, schema in found.items()}, shared.get("$defs", {})


def _with_default(schema: Schema, default: Any) -> Schema:
    if default is inspect.Parameter.empty or "$ref" in schema:
        return schema
    try:
        return {**schema, "default": pydantic_core.to_jsonable_python(default, bytes_mode="base64")}
    except pydantic_core.PydanticSerializationError:
        return schema


def _needed(schema: Schema, shared: dict[str, Schema]) -> Schema:
    """The schema with those of the definitions that it refers to."""
    needed: dict[str, Schema] = {}
    waiting = [schema]
    while waiting:
        for name in _mentioned(waiting.pop()):
            if name in shared and name not in needed:
                needed[name] = shared[name]
                waiting.append(shared[name])
    return {**schema, "$defs": dict(sorted(needed.items()))} if needed else schema


def _mentioned(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        target = schema.get("$ref")
        own = [target.rpartition("/")[2]] if isinstance(target, str) else []
        return own + [name for part in schema.values() for name in _mentioned(part)]
    return [n for part in schema for n in _mentioned(part)] if isinstance(schema, list) else []
