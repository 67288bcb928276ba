"""Numbers that a target tells in its answers, such as cost and tokens, for observations. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aura.gateway.headers import value
from aura.gateway.targets import Answer

LONGEST = 40  # characters of a number


@dataclass(frozen=True, slots=True)
class NumberSource:
    """Where a route finds a metric's number in an answer: a header, or a field of a JSON body, by
    its dotted path. Bodies that are streamed are not looked into."""

    metric: str
    kind: Literal["header", "field"]
    name: str


def numbers_of(
    sources: Sequence[NumberSource], answer: Answer | None
) -> tuple[dict[str, float], int]:
    """The finite numbers of an answer by metric, and how many others were refused. One that is not
    there is neither."""
    found: dict[str, float] = {}
    refused = 0
    if answer is None or not sources:
        return found, refused
    body = _body(answer) if any(source.kind == "field" for source in sources) else None
    for source in sources:
        given = _header(answer, source.name) if source.kind == "header" else _field(body, source)
        if given is None:
            continue
        number = _number(given)
        if number is None:
            refused += 1
        else:
            found[source.metric] = number
    return found, refused


def _header(answer: Answer, name: str) -> str | None:
    content = value(answer.headers, name.encode())
    return None if content is None else content.decode("latin-1").strip()


def _body(answer: Answer) -> Any:
    if not answer.body:
        return None
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _field(body: Any, source: NumberSource) -> Any:
    for part in source.name.split("."):
        if not isinstance(body, dict):
            return None
        body = body.get(part)
    return body


def _number(given: Any) -> float | None:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    if isinstance(given, str) and len(given) > LONGEST:
        return None
    try:
        number = float(given)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
