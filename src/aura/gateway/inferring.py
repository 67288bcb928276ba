"""A contract from examples: pairs of a request and its answer. Pure but for reading the files.

A file has one pair, a list of them, or one on each line:

    {"request": {"method": "GET", "path": "/orders/7?full=1", "body": null},
     "response": {"status": 200, "headers": {"content-type": "application/json"}, "body": {...}}}

A body is JSON, or text, which is taken byte for byte. The contract is what all answers of one path,
method and status have in common: fields that are in every one of them are required, a value has
one of the types that were seen, null if it was null once. Enumerations cannot be seen in examples;
write them into the document by hand. A part of a path that is a number, a UUID or a long word in
hexadecimal digits is a parameter.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aura.errors import ConfigError

DEEPEST = 100
_PARAMETER = re.compile(r"\d+|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-f]{16,}")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Example:
    """One request and its answer. `target` is path and query; `sent` and `said` are the bodies,
    `kind` the answer's content type without parameters ("" for none)."""

    method: str
    target: str
    sent: bytes
    status: int
    kind: str
    said: bytes


def read_examples(files: Iterable[str]) -> list[Example]:
    """The pairs in files; patterns with * are looked up. Raises ConfigError."""
    found: list[Example] = []
    for pattern in files:
        names = sorted(glob.glob(pattern, recursive=True)) or [pattern]  # noqa: PTH207  (absolute ones, too)
        for name in names:
            found += _read(Path(name))
    if not found:
        raise ConfigError("there are no examples", hint="Name files with pairs of request, answer")
    return found


def infer(examples: Sequence[Example]) -> dict[str, Any]:
    """An OpenAPI 3.1 document that all of the examples fit."""
    paths: dict[str, Any] = {}
    for one in examples:
        operation = paths.setdefault(_template(one.target), {}).setdefault(one.method.lower(), {})
        answers = operation.setdefault("responses", {}).setdefault(str(one.status), {})
        answers.setdefault(one.kind, []).append(one.said)
    for item in paths.values():
        for operation in item.values():
            responses = operation["responses"]
            operation["responses"] = {one: _response(responses[one]) for one in sorted(responses)}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"What {len(examples)} examples have in common", "version": "1"},
        "paths": dict(sorted(paths.items())),
    }


def shape(values: Sequence[Any], depth: int = 0) -> dict[str, Any]:
    """The schema of what JSON values have in common. Raises ConfigError when they are too deep."""
    if depth > DEEPEST:
        raise ConfigError("an example is too deep", hint="Leave it out")
    kinds = {_kind(one) for one in values}
    if "number" in kinds:
        kinds.discard("integer")
    schema: dict[str, Any] = {}
    if kinds:
        schema["type"] = min(kinds) if len(kinds) == 1 else sorted(kinds)
    objects = [one for one in values if isinstance(one, dict)]
    if objects:
        names = sorted({name for one in objects for name in one})
        schema["properties"] = {
            name: shape([one[name] for one in objects if name in one], depth + 1)
            for name in names
        }  # fmt: skip
        required = [name for name in names if all(name in one for one in objects)]
        if required:
            schema["required"] = required
    members = [member for one in values if isinstance(one, list) for member in one]
    if members:
        schema["items"] = shape(members, depth + 1)
    return schema


def _response(answers: Mapping[str, list[bytes]]) -> dict[str, Any]:
    content = {kind: _media(kind, bodies) for kind, bodies in sorted(answers.items()) if kind}
    made: dict[str, Any] = {"description": "as in the examples"}
    return made | ({"content": content} if content else {})


def _media(kind: str, bodies: list[bytes]) -> dict[str, Any]:
    if kind != "application/json" and not kind.endswith("+json"):
        return {}
    try:
        return {"schema": shape([json.loads(body) for body in bodies])}
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"an example says that its body is {kind}, which it is not", hint="Mend the example"
        ) from error


def _kind(one: Any) -> str:
    if isinstance(one, dict):
        return "object"
    return "array" if isinstance(one, list) else _TYPES[type(one)]


def _template(target: str) -> str:
    parts = target.partition("?")[0].split("/")
    names = iter(range(1, len(parts) + 1))
    return "/".join(
        f"{{p{next(names)}}}" if _PARAMETER.fullmatch(part) else part for part in parts
    )  # fmt: skip


def _read(path: Path) -> list[Example]:
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"the examples {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the examples {path} are no text: {error}") from error
    return [_example(pair, path) for pair in _pairs(text, path)]


def _pairs(text: str, path: Path) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the examples {path} are not JSON: {error}") from error
    return found if isinstance(found, list) else [found]


def _example(pair: Any, path: Path) -> Example:
    try:
        request, response = pair["request"], pair["response"]
        headers = {str(k).lower(): str(v) for k, v in (response.get("headers") or {}).items()}
        body = response.get("body")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind and isinstance(body, dict | list):
            kind = "application/json"
        return Example(
            str(request.get("method", "GET")).upper(), str(request["path"]),
            _bytes(request.get("body")), int(response.get("status", 200)), kind, _bytes(body),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path} has something that is no example: {type(error).__name__} {error}",
            hint='Write {"request": {"method", "path", "body"}, "response": {"status", "body"}}',
        ) from error


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
