"""What a query is about, and what a domain says about its terms."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol

from examples.research.models import Concept, DomainAnalysis, Knowledge, Relation, Section
from examples.research.text import code_words, content_terms, tokenise

MAX_CONCEPTS = 8
MAX_RELATIONS = 10
MAX_GRAMMAR = 5
_NEIGHBOURS = 4
_LEAD = 120  # characters
_DEFAULT_DOMAIN = "simple statements"
_PRODUCTION = re.compile(r"^ *(\w+ +::= .+)$", re.MULTILINE)
_INTENTS = {
    "comparison": r"\b(compar\w*|differen\w*|versus|than|equivalent)\b",
    "procedure": r"^how\b|\b(steps?|used to|by using)\b",
    "rationale": r"^why\b|\b(because|reason)\b",
    "constraint": r"\b(must|cannot|error|raises?|raised|invalid|illegal)\b",
    "definition": r"^what\b|\b(is|are) (a|an|the)\b|\b(defin\w+|means?)\b",
}


class Graph(Protocol):
    """What knowledge extraction needs to know about the terms of a domain."""

    def sections_of(self, term: str) -> int: ...
    def rarity(self, term: str) -> float: ...
    def neighbours(self, term: str, limit: int) -> list[tuple[str, float]]: ...


class DomainProfiles:
    """Which terms speak for which domain: those of its topics, headings and opening words."""

    def __init__(self, passages: Sequence[Section]) -> None:
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        for section in passages:
            lead = f"{section.topic} {section.title} {section.text[:_LEAD]}"
            self._counts[section.domain].update(tokenise(lead))

    def analyse(self, query: str) -> DomainAnalysis:
        """The domain with the most evidence in the query's terms; ties go by name."""
        terms = content_terms(query)
        evidence = dict.fromkeys(self._counts, 0.0)
        for term in terms:
            speakers = [domain for domain, counts in self._counts.items() if term in counts]
            for domain in speakers:
                rarity = math.log(1 + len(evidence) / len(speakers))
                evidence[domain] += (1 + math.log(self._counts[domain][term])) * rarity
        domain = min(evidence, key=lambda name: (-evidence[name], name))
        total = sum(evidence.values())
        return DomainAnalysis(
            domain=domain if total else _DEFAULT_DOMAIN,
            confidence=round(evidence[domain] / total, 4) if total else 0.0,
            intent=intent_of(query),
            terms=terms,
            code_words=code_words(query),
        )


def intent_of(query: str) -> str:
    """What kind of answer a query asks for."""
    for intent, pattern in _INTENTS.items():
        if re.search(pattern, query, re.IGNORECASE):
            return intent
    return "reference" if code_words(query) else "topic"


class Grammar:
    """The grammar productions of a domain's sections, found by the terms they spell."""

    def __init__(self, passages: Sequence[Section]) -> None:
        lines = (line for section in passages for line in _PRODUCTION.findall(section.text))
        self._productions = {
            " ".join(line.split()): frozenset(tokenise(line.replace("_", " "))) for line in lines
        }

    def productions(self, terms: Sequence[str]) -> list[str]:
        """The productions that spell most of the terms."""
        wanted = frozenset(terms)
        scored = {line: len(wanted & spelled) for line, spelled in self._productions.items()}
        found = [line for line, score in scored.items() if score]
        return sorted(found, key=lambda line: (-scored[line], line))[:MAX_GRAMMAR]


def extract_knowledge(terms: Sequence[str], graph: Graph, grammar: Grammar) -> Knowledge:
    """The query's terms as the domain knows them, what they relate to, and their grammar."""
    known = [term for term in terms if graph.sections_of(term)]
    concepts = sorted(
        (Concept(term, round(graph.rarity(term), 4), graph.sections_of(term)) for term in known),
        key=lambda concept: (-concept.weight, concept.term),
    )[:MAX_CONCEPTS]
    relations = sorted(
        (
            Relation(concept.term, other, round(strength, 4))
            for concept in concepts
            for other, strength in graph.neighbours(concept.term, _NEIGHBOURS)
        ),
        key=lambda relation: (-relation.strength, relation.source, relation.target),
    )[:MAX_RELATIONS]
    return Knowledge(concepts, relations, grammar.productions(terms))
