"""The values that both services speak of."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field

DEFAULT_LIMIT = 5
MAX_LIMIT = 50
MAX_QUERY = 2_000  # characters
SLA_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Section:
    """A passage of the corpus: at most about 1,600 characters under one heading."""

    id: str
    topic: str
    domain: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class DomainAnalysis:
    """What a query is about. `confidence` is the winning domain's share of all evidence."""

    domain: str
    confidence: float
    intent: str
    terms: list[str]
    code_words: list[str]


@dataclass(frozen=True, slots=True)
class Concept:
    """A term of the query that the domain knows; `weight` is its rarity there."""

    term: str
    weight: float
    sections: int


@dataclass(frozen=True, slots=True)
class Relation:
    """Two terms that occur together; `strength` is their Jaccard similarity over sections."""

    source: str
    target: str
    strength: float


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the domain says about the terms of a query."""

    concepts: list[Concept]
    relations: list[Relation]
    grammar: list[str]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One section as one kind of search sees it; a higher score is better."""

    section: str
    score: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One section of the merged ranking, with the kinds of search that found it."""

    rank: int
    section: str
    title: str
    score: float
    found_by: list[str]
    excerpt: str


@dataclass(frozen=True, slots=True)
class ResearchReport:
    """The whole answer."""

    status: str
    domain_analysis: DomainAnalysis
    extracted_knowledge: Knowledge
    search_results: list[SearchResult]


class ResearchRequest(BaseModel):
    """The body of `POST /research`, for both services."""

    query: str = Field(min_length=1, max_length=MAX_QUERY)
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    user: str | None = None
