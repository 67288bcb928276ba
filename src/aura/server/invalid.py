"""Requests that do not fit: what is wrong, where, and how to mend it, without what was sent.

Whatever a client has sent may be a secret, so values are not repeated; and what a validator of the
user's own says about a field that is masked is not shown either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from aura.gateway.problems import Problem
from aura.masking import Mask, current_mask

_TIME = "it should be a time with its zone, such as 2026-05-01T12:00:00Z"
_OWN_WORDS = ("value_error", "assertion_error")
"""Kinds of errors whose text a validator has written."""
_UNSAID = "it is refused; why is not shown, because the field is masked"
_MOST, _MOST_EXAMPLE = 300, 800
"""Characters of names, and of an example, that are shown."""

_STANDARD = re.compile(
    r"([\w.\[\]-]+: (?:Input should|Field required|String should|Bytes should|List should|"
    r"Tuple should|Dictionary should|Set should|Value should|Missing required|Extra inputs|"
    r"Unexpected |Multiple values|Invalid |Unable to|Decimal |Datetime|Date |Time |UUID |URL |it ))"
)
"""What pydantic says of a field: a name and a colon, but no value behind it."""
_CUSTOM = re.compile(r"([\w.\[\]-]+): (?:Value error|Assertion failed), [^;]*")

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a text"),
    (list, "a list"),
    (Mapping, "an object"),
)
_WORDS = {
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "timezone_aware": _TIME,
    "dict_type": "it should be an object",
    "model_attributes_type": "it should be an object",
    "model_type": "it should be an object",
    "mapping_type": "it should be an object",
    "list_type": "it should be a list",
    "tuple_type": "it should be a list",
    "string_type": "it should be a text",
    "missing": "it is missing",
    "extra_forbidden": "there is no such field",
}


def refused_input(request: Request, error: RequestValidationError) -> Problem:
    """The first place that is wrong, with all that is wrong there, and the names of the others."""
    every = [(_path(one["loc"], error.body), one) for one in error.errors()]
    path, first = every[0]
    where = _where(path)
    here = [one for at, one in every if _where(at) == where]
    parts = [f"{where}: {_what(here, path)}", _mend(request, first, path)]
    others = sorted({_where(at) for at, _ in every} - {where})
    parts.append(f"Also wrong: {', '.join(others)[:_MOST]}" if others else "")
    detail = ". ".join(part for part in parts if part)
    field = where.removeprefix("body.")
    return Problem(422, "invalid-input", detail.encode("utf-8", "replace").decode(), field=field)


def unsaid(detail: str, mask: Mask | None = None) -> str:
    """The text of an error without what is masked: neither what a validator says about a secret
    field, nor `name=value` of one."""
    mask = mask or current_mask()
    if not mask:
        return detail

    def hidden(found: re.Match[str]) -> str:
        secret = any(map(mask.hides, re.split(r"[.\[\]]+", found[1])))
        return f"{found[1]}: {_UNSAID}" if secret else found[0]

    parts = _STANDARD.split(_CUSTOM.sub(hidden, detail))
    return "".join(part if at % 2 else mask.text(part) for at, part in enumerate(parts))


def _path(loc: Sequence[int | str], body: object) -> list[int | str]:
    """Where it is in what was sent. Pydantic names the branches of unions, too, which are in no
    body: they are left out."""
    kept: list[int | str] = [loc[0]]
    here = body
    for at, part in enumerate(loc[1:], 1):
        inside = _has(here, part)
        missing = isinstance(here, Mapping) and at == len(loc) - 1
        if inside or missing or loc[0] != "body":
            kept.append(part)
        here = here[part] if inside else here  # type: ignore[index]
    return kept


def _has(here: object, part: int | str) -> bool:
    if isinstance(here, list | tuple):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, Mapping) and part in here


def _where(path: Sequence[int | str]) -> str:
    """`body.plan.stages[2]`; of a query and a path the name alone."""
    parts = path if path[0] == "body" else path[1:]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")[:_MOST] or str(path[0])


def _what(errors: Sequence[Mapping[str, Any]], path: Sequence[int | str]) -> str:
    """What is wrong there; of something that may be one of several kinds, why it is none."""
    kinds = {one["type"] for one in errors}
    if kinds & set(_OWN_WORDS) and any(current_mask().hides(str(part)) for part in path):
        return _UNSAID
    said = " or ".join(dict.fromkeys(map(_said, errors)))
    given = _kind_of(errors[0].get("input"))
    typed = all(kind.endswith("_type") for kind in kinds)
    return f"{said}, and is {given}" if typed and given else said


def _said(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        reason = (error.get("ctx") or {}).get("error", "")
        return f"it is not JSON: {reason}, at character {error['loc'][-1]}"
    return _WORDS.get(error["type"]) or _plain(str(error["msg"]))


def _plain(text: str) -> str:
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return "it " + text.removeprefix("Input ") if text.startswith("Input ") else text.rstrip(".")


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "")


def _mend(request: Request, error: Mapping[str, Any], path: Sequence[int | str]) -> str:
    """What to send in its place, from this API's own description; "" where what is wrong says it
    already."""
    if error["type"] == "extra_forbidden":
        known = _fields(request) if len(path) == 2 else ()
        return f"Leave it out; there are {', '.join(known)}" if known else "Leave it out"
    name = str(path[1]) if len(path) > 1 and error["type"] != "json_invalid" else ""
    example, about = _example(request, path, name)
    told = _told(example)
    if path[0] == "body" and not name:
        return f"Send JSON such as {told}" if told else "Send a JSON object"
    if told:
        return f"{'Add it' if error['type'] == 'missing' else 'Mend it'}, as in {told}"
    if about:
        return about.rstrip(".")
    plain = str(error["msg"]).startswith("Input should be") and "type" not in error["type"]
    return "" if plain else "GET /api/v1/openapi.json says what it may be"


def _told(example: object) -> str:
    text = json.dumps(example) if example is not None else ""
    return text if len(text) <= _MOST_EXAMPLE else ""


def _example(request: Request, path: Sequence[int | str], name: str) -> tuple[object, str]:
    """An example of that part of the request, and what is said about it."""
    if path[0] == "body":
        examples = getattr(_model(request), "model_config", {}).get("json_schema_extra", {})
        whole = next(iter(examples.get("examples", ())), None)
        if name and isinstance(whole, Mapping):
            whole = {name: whole[name]} if name in whole else None
        return whole, ""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    for one in (*getattr(dependant, "path_params", ()), *getattr(dependant, "query_params", ())):
        if one.alias == name:
            examples = getattr(one.field_info, "examples", None)
            return {name: examples[0]} if examples else None, one.field_info.description or ""
    return None, ""


def _fields(request: Request) -> tuple[str, ...]:
    return tuple(getattr(_model(request), "model_fields", ()))


def _model(request: Request) -> Any:
    """What the route takes as a body."""
    found = getattr(request.scope.get("route"), "body_field", None)
    return getattr(getattr(found, "field_info", None), "annotation", None)
