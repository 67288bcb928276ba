"""Two releases that should not have been shipped, beside the good version that they replace.

    aura serve examples.research.release_bad:app

2.1.0 reads code words with Python's own parser: operators and keywords alone are no expressions.
2.2.0 builds its indexes anew for every request, for a corpus that never changes.
"""

from __future__ import annotations

import ast
import contextlib
from dataclasses import replace

from aura import step
from examples.research import models
from examples.research.search import Index
from examples.research.text import tokenise
from examples.research.workflows import analyse_domain, app, investigate

__all__ = ["app", "research_2_1", "research_2_2"]


@step(idempotent=True)
def parse_code_words(code_words: list[str]) -> list[str]:
    """The names within code words, `m.x()` giving `m` and `x`. Raises SyntaxError."""
    trees = [ast.parse(word, mode="eval") for word in code_words]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return names + [node.attr for node in nodes if isinstance(node, ast.Attribute)]


@app.workflow(version="2.1.0", name="research")
async def research_2_1(
    query: str, limit: int = models.DEFAULT_LIMIT, user: str | None = None
) -> models.ResearchReport:
    """Understands code: the names in code words become terms of their own."""
    about = await analyse_domain(query)
    names = await parse_code_words(about.code_words)
    found = [term for name in names for term in tokenise(name)]
    about = replace(about, terms=list(dict.fromkeys([*about.terms, *found])))
    return await investigate(query, about, limit, user)


@step(idempotent=True)
def analyse_with_fresh_index(query: str) -> models.DomainAnalysis:
    """Always up to date."""
    with contextlib.closing(Index.build()) as index:
        return index.profiles.analyse(query)


@app.workflow(version="2.2.0", name="research")
async def research_2_2(
    query: str, limit: int = models.DEFAULT_LIMIT, user: str | None = None
) -> models.ResearchReport:
    """Looks at the whole corpus for each request."""
    about = await analyse_with_fresh_index(query)
    return await investigate(query, about, limit, user)
