"""The corpus: Python's language reference, which every Python carries as `pydoc_data.topics`."""

from __future__ import annotations

import functools
import keyword
import random
import re
from collections.abc import Iterator
from pydoc_data.topics import topics

from examples.research.models import Section
from examples.research.text import code_words

MAX_SECTION = 1_600  # characters
QUERY_SEED = 20_240_229

_TOPICS_OF_DOMAIN = {
    "names": (
        "atom-identifiers atom-literals attribute-references dynamic-features exprlists floating "
        "id-classes identifiers imaginary integers numbers dict lists conversions"
    ),
    "operators": (
        "await binary bitwise booleans calls comparisons in lambda operator-summary power "
        "shifting slicings subscriptions unary"
    ),
    "simple statements": (
        "assert assignment augassign break continue del else global nonlocal pass return yield"
    ),
    "control flow": "async for if try while with",
    "definitions": "class compound function",
    "objects": "bltin-code-objects bltin-ellipsis-object bltin-null-object objects types",
    "attributes": "attribute-access callable-types context-managers customization specialattrs",
    "protocols": "numeric-types sequence-types specialnames",
    "sequences": "typesseq typesseq-mutable",
    "mappings": "bltin-type-objects truth typesfunctions typesmapping typesmethods typesmodules",
    "formatting": "formatstrings strings",
    "text": "string-methods",
    "execution": "exceptions execmodel import naming raise",
    "debugger": "debugger",
}
_DOMAIN_OF_TOPIC = {
    topic: domain for domain, names in _TOPICS_OF_DOMAIN.items() for topic in names.split()
}
_OTHER_TOPICS = "simple statements"  # topics that newer Pythons add
_UNDERLINE = re.compile(r"([*=\-^~\"])\1{2,}$")
_NOT_PROSE = re.compile(r"::=|>>>|\+--|\| ")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")


@functools.lru_cache(maxsize=1)
def sections() -> tuple[Section, ...]:
    """All sections, short topics first; a passage that several topics repeat comes once."""
    seen: set[str] = set()
    found: list[Section] = []
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name)):
        domain = _DOMAIN_OF_TOPIC.get(topic, _OTHER_TOPICS)
        for title, text in _passages(topics[topic]):
            if text not in seen:
                seen.add(text)
                found.append(Section(f"{topic}/{len(found)}", topic, domain, title, text))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def domains() -> dict[str, tuple[Section, ...]]:
    """The sections of each domain, in the order of `sections()`."""
    return {
        domain: tuple(section for section in sections() if section.domain == domain)
        for domain in _TOPICS_OF_DOMAIN
    }


@functools.cache
def passages_of(domain: str) -> dict[str, Section]:
    """The sections of a domain by their ids."""
    return {section.id: section for section in domains()[domain]}


@functools.lru_cache(maxsize=4)
def sample_queries(count: int = 200, seed: int = QUERY_SEED) -> tuple[str, ...]:
    """Distinct real queries: headings and sentences of the corpus, some of them about syntax.

    Three in ten name an operator or a keyword as code, as people who ask about a language do.
    The same count and seed give the same queries on the same Python version.
    """
    pools: dict[str, list[str]] = {"syntax": [], "names": [], "prose": []}
    for query in dict.fromkeys(_candidates()):
        pools[_kind(query)].append(query)
    chance = random.Random(seed)  # noqa: S311 - a reproducible choice, not a secret
    syntax, names = round(count * 0.3), round(count * 0.3)
    wanted = {"syntax": syntax, "names": names, "prose": count - syntax - names}
    queries = [query for kind, size in wanted.items() for query in chance.sample(pools[kind], size)]
    chance.shuffle(queries)
    return tuple(queries)


def first_sentence(text: str) -> str:
    """The first sentence of a passage on one line, cut at 200 characters."""
    flat = " ".join(text[:300].split())[:200]
    return _SENTENCE_END.split(flat, maxsplit=1)[0]


def _passages(topic: str) -> Iterator[tuple[str, str]]:
    for title, body in _headed(topic):
        text = ""
        for paragraph in re.split(r"\n\s*\n", body):
            if text and len(text) + len(paragraph) > MAX_SECTION:
                yield title, text
                text = ""
            text = f"{text}\n\n{paragraph}" if text else paragraph
        if text.strip():
            yield title, text


def _headed(topic: str) -> Iterator[tuple[str, str]]:
    title, lines = "", topic.splitlines()
    body: list[str] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.strip() and _UNDERLINE.fullmatch(below):
            if any(part.strip() for part in body):
                yield title, "\n".join(body).strip("\n")
            title, body = line.strip(), []
        elif not _UNDERLINE.fullmatch(line):
            body.append(line)
    yield title, "\n".join(body).strip("\n")


def _candidates() -> Iterator[str]:
    for section in sections():
        if section.title:
            yield section.title
        for sentence in _SENTENCE_END.split(" ".join(section.text.split())):
            words = sentence.rstrip(".:;,").split()
            if 4 <= len(words) <= 16 and not _NOT_PROSE.search(sentence):
                yield " ".join(words)


def _kind(query: str) -> str:
    words = code_words(query)
    if any(_is_syntax(word) for word in words):
        return "syntax"
    return "names" if words else "prose"


def _is_syntax(word: str) -> bool:
    first = word.split()[0]
    is_keyword = keyword.iskeyword(first) and first not in {"None", "True", "False"}
    return is_keyword or not re.search(r"\w", word)
