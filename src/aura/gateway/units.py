"""The unit of a request: the key that keeps a user on one arm. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from aura.gateway.headers import Pairs, value

LONGEST = 200  # characters of a unit kept as they are; longer ones are hashed


@dataclass(frozen=True, slots=True)
class UnitSource:
    """Where a route finds its unit: a header, a cookie or a field of a JSON body, by name.

    A field's name is a dotted path: `user.id`.
    """

    kind: Literal["header", "cookie", "body"]
    name: str


@dataclass(frozen=True, slots=True)
class Unit:
    """`found` is False when the request did not name one and its address stands in."""

    value: str
    found: bool


def find_unit(source: UnitSource | None, headers: Pairs, body: bytes | None, address: str) -> Unit:
    """The unit of a request; `address:<client address>` when the source names none.

    `body` is None when it was too large to be kept.
    """
    named = _named(source, headers, body) if source else None
    if not named:
        return Unit(f"address:{address}", found=False)
    if len(named) > LONGEST:
        named = "sha256:" + hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()
    return Unit(named, found=True)


def _named(source: UnitSource, headers: Pairs, body: bytes | None) -> str | None:
    if source.kind == "header":
        content = value(headers, source.name.lower().encode())
        return content.decode("utf-8", "replace").strip() if content else None
    if source.kind == "cookie":
        return _cookie(headers, source.name)
    return _field(body, source.name)


def _cookie(headers: Pairs, wanted: str) -> str | None:
    for key, content in headers:
        if key != b"cookie":
            continue
        for pair in content.decode("utf-8", "replace").split(";"):
            name, _, text = pair.strip().partition("=")
            if name == wanted:
                return text.strip('"')
    return None


def _field(body: bytes | None, path: str) -> str | None:
    if not body:
        return None
    try:
        node = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for part in path.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(part)
    if isinstance(node, bool) or not isinstance(node, (str, int)):
        return None
    return str(node)
