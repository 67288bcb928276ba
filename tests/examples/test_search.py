"""The research example's plain parts: corpus, terms, three kinds of search and their merge."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from examples.research.analysis import extract_knowledge
from examples.research.corpus import MAX_SECTION, domains, sample_queries, sections
from examples.research.models import Ranked, SearchResult, Section
from examples.research.search import FullText, merge, shared_index
from examples.research.text import code_words, content_terms, tokenise


def find(query: str, limit: int = 5) -> list[SearchResult]:
    index = shared_index()
    analysis = index.profiles.analyse(query)
    domain = index.domains[analysis.domain]
    rankings = {
        "fulltext": domain.fulltext.search(analysis.terms),
        "vector": domain.vectors.search(query),
        "graph": domain.graph.search(analysis.terms),
    }
    return merge(rankings, analysis.domain, query, limit)


def test_the_corpus_is_whole_and_free_of_repetition() -> None:
    everything = sections()
    assert len(everything) > 250
    assert len({section.id for section in everything}) == len(everything)
    assert len({section.text for section in everything}) == len(everything)
    assert sum(len(passages) for passages in domains().values()) == len(everything)
    assert all(passages for passages in domains().values())
    usual = [section for section in everything if len(section.text) <= MAX_SECTION]
    assert len(usual) > 0.9 * len(everything)


def test_sample_queries_are_distinct_real_and_reproducible() -> None:
    queries = sample_queries()
    assert len(queries) == len(set(queries)) == 200
    assert sample_queries.__wrapped__() == queries
    assert sample_queries(50) != sample_queries(50, seed=1)
    text = " ".join(" ".join((s.title + " " + s.text).split()) for s in sections())
    assert all(query in text for query in queries)
    assert any("__" in query for query in queries)
    assert any(not any(char.isalpha() for char in w) for q in queries for w in code_words(q))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ('the "**" operator', ["the", "op_star_star", "operator"]),
        ("x **= y // z", ["x", "op_star_star_equals", "y", "op_slash_slash", "z"]),
        ("Classes and properties, __eq__", ["class", "and", "property", "__eq__"]),
        ("built-in -1", ["built", "in", "op_minus", "1"]),
        ("status of ...", ["status", "of", "op_dot_dot_dot"]),
        ("", []),
    ],
)
def test_tokens(text: str, terms: list[str]) -> None:
    assert tokenise(text) == terms


def test_stop_words_stay_when_they_are_what_is_asked_for() -> None:
    assert content_terms('what is the "in" operator') == ["in", "operator"]
    assert content_terms("while") == ["while"]


def test_code_words_come_in_order_and_once() -> None:
    assert code_words('"__get__()" or __set__ or `yield`, "__get__()"') == [
        "__get__()",
        "__set__",
        "yield",
    ]


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ('power operator "**"', "The power operator"),
        ('how does "__getattr__" work', "Customizing module attribute access"),
        ("while", 'The "while" statement'),
        ('"finally" clause', '"finally" clause'),
    ],
)
def test_search_finds_the_section_that_is_about_it(query: str, title: str) -> None:
    assert find(query)[0].title == title


def test_all_three_kinds_of_search_contribute() -> None:
    found = [kind for query in sample_queries() for hit in find(query) for kind in hit.found_by]
    assert {kind: found.count(kind) > 200 for kind in set(found)} == {
        "fulltext": True,
        "vector": True,
        "graph": True,
    }


@pytest.mark.parametrize("query", ["", '"', "zzz qqq", "NEAR(", 'a" OR b*', "-", "\0", "é ü 漢"])
def test_odd_queries_are_answered(query: str) -> None:
    assert isinstance(find(query), list)


def test_full_text_treats_its_own_query_language_as_text() -> None:
    passages = (
        Section("a/0", "a", "d", "One", 'either "or" and'),
        Section("b/1", "b", "d", "", "x"),
    )
    index = FullText(passages)
    try:
        assert [hit.section for hit in index.search(['"', "OR", "or", "NOT"])] == ["a/0"]
        assert index.search([]) == []
    finally:
        index.close()


def test_merge_prefers_what_several_rankings_agree_on() -> None:
    a, b, c = (section.id for section in domains()["operators"][:3])
    rankings = {
        "one": [Ranked(a, 9.0), Ranked(b, 1.0)],
        "two": [Ranked(c, 9.0), Ranked(b, 1.0)],
    }
    merged = merge(rankings, "operators", "text", 3)
    first, *others = sorted([a, c])
    assert [(hit.rank, hit.section) for hit in merged] == [(1, b), (2, first), (3, *others)]
    assert merged[0].found_by == ["one", "two"]
    assert merged[0].score == round(2 / 62, 6)
    assert len(merge(rankings, "operators", "text", 1)) == 1


def test_knowledge_names_concepts_relations_and_grammar() -> None:
    domain = shared_index().domains["control flow"]
    knowledge = extract_knowledge(["with", "context", "zzz"], domain.graph, domain.grammar)
    assert [concept.term for concept in knowledge.concepts] == ["context"]
    assert ("context", "manager") in {(r.source, r.target) for r in knowledge.relations}
    assert any("with_stmt" in line for line in knowledge.grammar)


def test_answers_do_not_depend_on_the_process() -> None:
    script = (
        "from tests.examples.test_search import find\n"
        "from examples.research.corpus import sample_queries\n"
        "print([find(query) for query in sample_queries()[:25]])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
