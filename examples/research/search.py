"""Three kinds of search over sections, merged by rank: full text, vectors, a graph of terms.

Each kind is built from the sections of one domain. `Index` holds all of them, `shared_index()` is
this process's one copy.
"""

from __future__ import annotations

import atexit
import functools
import math
import re
import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from examples.research.analysis import DomainProfiles, Grammar
from examples.research.corpus import domains, first_sentence, passages_of, sections
from examples.research.models import Ranked, SearchResult, Section
from examples.research.text import STOP_WORDS, content_terms, tokenise

CANDIDATES = 20  # how many sections each kind of search hands to the merge
RRF_K = 60  # Cormack, Clarke & Büttcher 2009, "Reciprocal rank fusion"
_TITLE_WEIGHT = 2.0
_REFERENCE = re.compile(r"see (?:also )?sections? ([A-Z][\w ,’'-]+?)(?=[).;]|$)", re.MULTILINE)


class FullText:
    """Okapi BM25 through SQLite FTS5, over the terms of `tokenise` rather than raw text.

    Usable from several threads; `close()` frees its memory.
    """

    def __init__(self, passages: Sequence[Section]) -> None:
        self._lock = threading.Lock()
        self._ids = [section.id for section in passages]
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute(
            "CREATE VIRTUAL TABLE passages USING fts5"
            "(title, body, detail = column, tokenize = \"unicode61 tokenchars '_'\")"
        )
        self._db.executemany(
            "INSERT INTO passages (rowid, title, body) VALUES (?, ?, ?)",
            (
                (n, " ".join(tokenise(section.title)), " ".join(tokenise(section.text)))
                for n, section in enumerate(passages)
            ),
        )

    def search(self, terms: Sequence[str], limit: int = CANDIDATES) -> list[Ranked]:
        """The best sections that hold any of the terms."""
        match = " OR ".join(_quoted(term) for term in terms)
        if not match:
            return []
        with self._lock:
            rows = self._db.execute(
                "SELECT rowid, bm25(passages, ?, 1.0) AS cost FROM passages "
                "WHERE passages MATCH ? ORDER BY cost, rowid LIMIT ?",
                (_TITLE_WEIGHT, match, limit),
            ).fetchall()
        return [Ranked(self._ids[row], round(-cost, 6)) for row, cost in rows]

    def close(self) -> None:
        with self._lock:
            self._db.close()


class Vectors:
    """TF-IDF vectors of terms, compared by cosine."""

    def __init__(self, passages: Sequence[Section]) -> None:
        self._ids = [section.id for section in passages]
        counts = [Counter(_words(section.title + "\n" + section.text)) for section in passages]
        spread = Counter(term for count in counts for term in count)
        total = len(passages)
        self._idf = {term: math.log(total / df) + 1 for term, df in spread.items()}
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for n, count in enumerate(counts):
            for term, weight in self._normalised(count).items():
                self._postings[term].append((n, weight))

    def search(self, query: str, limit: int = CANDIDATES) -> list[Ranked]:
        """The sections whose direction is closest to the query's."""
        cosines: dict[int, float] = defaultdict(float)
        for term, weight in self._normalised(Counter(_words(query))).items():
            for n, other in self._postings[term]:
                cosines[n] += weight * other
        return _best(self._ids, cosines, limit)

    def _normalised(self, counts: Counter[str]) -> dict[str, float]:
        weights = {
            term: (1 + math.log(count)) * self._idf[term]
            for term, count in counts.items()
            if term in self._idf
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {term: weight / length for term, weight in weights.items()}


class TermGraph:
    """Sections and terms as one graph: a section touches its terms and the sections it refers to.

    A term in one section only, or in more than half of them, links nothing and is left out.
    """

    def __init__(self, passages: Sequence[Section]) -> None:
        self._ids = [section.id for section in passages]
        found = [
            {term for term in set(tokenise(f"{section.title}\n{section.text}")) if _is_node(term)}
            for section in passages
        ]
        spread = Counter(term for terms in found for term in terms)
        most = max(2, len(passages) // 2)
        linking = {term for term, df in spread.items() if 2 <= df <= most}
        self._terms_of = [sorted(terms & linking) for terms in found]
        self._sections_of: dict[str, list[int]] = defaultdict(list)
        for n, terms in enumerate(self._terms_of):
            for term in terms:
                self._sections_of[term].append(n)
        self._see_also = _references(passages)

    def sections_of(self, term: str) -> int:
        """How many sections a term links."""
        return len(self._sections_of.get(term, ()))

    def rarity(self, term: str) -> float:
        """The term's inverse document frequency in the domain."""
        return math.log(1 + len(self._ids) / self.sections_of(term))

    def neighbours(self, term: str, limit: int) -> list[tuple[str, float]]:
        """The terms that share most sections with a term, with their Jaccard similarity."""
        home = self._sections_of.get(term, ())
        shared = Counter(other for n in home for other in self._terms_of[n] if other != term)
        scored = (
            (other, both / (len(home) + self.sections_of(other) - both))
            for other, both in shared.items()
        )
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:limit]

    def search(self, terms: Sequence[str], limit: int = CANDIDATES) -> list[Ranked]:
        """Walk from the query's terms to sections, on to what they refer to and share terms with.

        A personalised random walk cut after three hops: the first visit counts in full, each
        further one by `restart` less.
        """
        restart = 0.5
        near = self._visit(self._seeds(terms))
        far: dict[int, float] = defaultdict(float)
        for n, mass in near.items():
            for other in self._see_also[n]:
                far[other] += restart * mass / len(self._see_also[n])
        onward: dict[str, float] = defaultdict(float)
        for n, mass in sorted(near.items(), key=lambda item: (-item[1], item[0]))[:limit]:
            for term in self._terms_of[n]:
                onward[term] += restart * mass / len(self._terms_of[n])
        again = self._visit(onward)
        scores = {
            n: near.get(n, 0.0) + far.get(n, 0.0) + again.get(n, 0.0)
            for n in near.keys() | far.keys() | again.keys()
        }
        return _best(self._ids, scores, limit)

    def _seeds(self, terms: Iterable[str]) -> dict[str, float]:
        rarities = {term: self.rarity(term) for term in terms if self.sections_of(term)}
        total = sum(rarities.values())
        return {term: rarity / total for term, rarity in rarities.items()}

    def _visit(self, masses: dict[str, float]) -> dict[int, float]:
        reached: dict[int, float] = defaultdict(float)
        for term, mass in masses.items():
            for n in self._sections_of[term]:
                reached[n] += mass / self.sections_of(term)
        return reached


class DomainIndex:
    """All that is needed to answer within one domain."""

    def __init__(self, passages: Sequence[Section]) -> None:
        self.fulltext = FullText(passages)
        self.vectors = Vectors(passages)
        self.graph = TermGraph(passages)
        self.grammar = Grammar(passages)


@dataclass(frozen=True, slots=True)
class Index:
    """Every domain's index, and the profiles that tell which domain a query belongs to."""

    profiles: DomainProfiles
    domains: dict[str, DomainIndex]

    @classmethod
    def build(cls) -> Index:
        """Read the whole corpus: about 0.3 s of work."""
        built = {domain: DomainIndex(passages) for domain, passages in domains().items()}
        return cls(DomainProfiles(sections()), built)

    def close(self) -> None:
        for domain in self.domains.values():
            domain.fulltext.close()


_building = threading.Lock()


def shared_index() -> Index:
    """This process's index, built by whoever asks first."""
    with _building:
        return _build_shared_index()


@functools.lru_cache(maxsize=1)
def _build_shared_index() -> Index:
    index = Index.build()
    atexit.register(index.close)
    return index


def merge(
    rankings: dict[str, list[Ranked]], domain: str, query: str, limit: int
) -> list[SearchResult]:
    """One ranking out of several, by reciprocal rank fusion; ties go to the smaller section id."""
    scores: dict[str, float] = defaultdict(float)
    found_by: dict[str, list[str]] = defaultdict(list)
    for kind, ranking in rankings.items():
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.section] += 1 / (RRF_K + rank)
            found_by[hit.section].append(kind)
    terms = frozenset(content_terms(query))
    passages = passages_of(domain)
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit]
    return [
        SearchResult(
            rank=rank,
            section=section,
            title=passages[section].title,
            score=round(score, 6),
            found_by=found_by[section],
            excerpt=excerpt(passages[section].text, terms),
        )
        for rank, (section, score) in enumerate(best, start=1)
    ]


def excerpt(text: str, terms: frozenset[str]) -> str:
    """The paragraph's first sentence that holds most of the terms."""
    sentences = [first_sentence(paragraph) for paragraph in re.split(r"\n\s*\n", text)]
    return max(sentences, key=lambda sentence: len(terms & set(tokenise(sentence))))


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'


def _words(text: str) -> list[str]:
    return [term for term in tokenise(text) if term not in STOP_WORDS]


def _is_node(term: str) -> bool:
    return len(term) > 2 and term not in STOP_WORDS and not term.isdigit()


def _references(passages: Sequence[Section]) -> list[list[int]]:
    by_title: dict[str, list[int]] = defaultdict(list)
    for n, section in enumerate(passages):
        by_title[section.title.lower()].append(n)
    return [
        sorted({n for title in _REFERENCE.findall(" ".join(section.text.split()))
                for n in by_title.get(title.strip().lower(), ())})
        for section in passages
    ]  # fmt: skip


def _best(ids: Sequence[str], scores: dict[int, float], limit: int) -> list[Ranked]:
    ranked = sorted(scores.items(), key=lambda item: (-round(item[1], 9), item[0]))[:limit]
    return [Ranked(ids[n], round(score, 6)) for n, score in ranked]
