"""The JSON that clients of the legacy service rely on, whoever answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from aura.gateway.diff import Rules, diff_json
from aura.gateway.shadow import field_paths

_STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(_STRICT)
class DomainAnalysis(TypedDict):
    """What the query is about."""

    domain: str
    confidence: float
    intent: str
    terms: list[str]
    code_words: list[str]


@with_config(_STRICT)
class Knowledge(TypedDict):
    """What was extracted."""

    concepts: list[dict[str, str | float | int]]
    relations: list[dict[str, str | float]]
    grammar: list[str]


@with_config(_STRICT)
class SearchResult(TypedDict):
    """One section of the merged ranking."""

    rank: int
    section: str
    title: str
    score: float
    found_by: list[str]
    excerpt: str


@with_config(_STRICT)
class Metrics(TypedDict):
    """How long it took."""

    total_time: float
    sla_compliance: bool


@with_config(_STRICT)
class LegacyAnswer(TypedDict):
    """The whole answer."""

    workflow_id: str
    status: Literal["completed"]
    domain_analysis: DomainAnalysis
    extracted_knowledge: Knowledge
    search_results: list[SearchResult]
    performance_metrics: Metrics


_ANSWER = TypeAdapter(LegacyAnswer)


def flaw(body: bytes) -> str:
    """What is wrong with an answer's body, "" when a client can use it."""
    try:
        answer = _ANSWER.validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return "" if answer["search_results"] else "search_results: empty"


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field in which answers to the same query differ: in `count` of the pairs; `ignored` says
    that the route's configuration expects it; two short examples."""

    path: str
    count: int
    ignored: bool
    legacy: str
    new: str


def differences(pairs: Iterable[tuple[bytes, bytes]], rules: Rules) -> list[FieldDifference]:
    """The fields in which pairs of answers (legacy, new) differ, the expected ones too."""
    documents = [(json.loads(old), json.loads(new)) for old, new in pairs]
    unexpected = {path for old, new in documents for path in _paths(old, new, rules)}
    counts: dict[str, int] = {}
    examples: dict[str, tuple[str, str]] = {}
    for old, new in documents:
        found = diff_json(old, new, Rules())
        for path in field_paths(found):
            counts[path] = counts.get(path, 0) + 1
        for one in found:
            examples.setdefault(field_paths([one])[0], (one.left, one.right))
    return [
        FieldDifference(path, count, path not in unexpected, *examples[path])
        for path, count in sorted(
            counts.items(), key=lambda item: (item[0] not in unexpected, item)
        )
    ]


def fields(body: bytes) -> int:
    """How many values an answer has."""
    return _leaves(json.loads(body))


def _leaves(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_leaves, value.values()))
    if isinstance(value, list):
        return sum(map(_leaves, value))
    return 1


def _paths(old: Any, new: Any, rules: Rules) -> tuple[str, ...]:
    return field_paths(diff_json(old, new, rules))
