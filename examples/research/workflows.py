"""The same service as one durable workflow: analyse, extract, search in three ways at once, merge.

aura serve examples.research.workflows:app
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import aura
from aura import Aura, step
from examples.research import analysis, models, search
from examples.research.ledger import shared_ledger

app = Aura("research")


@step(idempotent=True)
def analyse_domain(query: str) -> models.DomainAnalysis:
    return search.shared_index().profiles.analyse(query)


@step(idempotent=True)
def extract_knowledge(domain: str, terms: list[str]) -> models.Knowledge:
    index = search.shared_index().domains[domain]
    return analysis.extract_knowledge(terms, index.graph, index.grammar)


@step(idempotent=True)
def search_fulltext(domain: str, terms: list[str]) -> list[models.Ranked]:
    return search.shared_index().domains[domain].fulltext.search(terms)


@step(idempotent=True)
def search_vectors(domain: str, query: str) -> list[models.Ranked]:
    return search.shared_index().domains[domain].vectors.search(query)


@step(idempotent=True)
def search_graph(domain: str, terms: list[str]) -> list[models.Ranked]:
    return search.shared_index().domains[domain].graph.search(terms)


def nothing_billed(user: str | None, query: str, results: int) -> None:
    """In place of the bill in shadow runs: their answers reach nobody."""


@step(retries=3, timeout=30, shadow=nothing_billed)
def record_usage(user: str | None, query: str, results: int) -> None:
    """What the customer is billed for. It happens outside: each try leaves a row in the ledger."""
    ledger = shared_ledger(ledger_path())
    ledger.record(aura.idempotency_key(), user or "", query, results)


@app.workflow(version="2.0.0")
async def research(
    query: str, limit: int = models.DEFAULT_LIMIT, user: str | None = None
) -> models.ResearchReport:
    """Answer a query from the sections of its domain."""
    about = await analyse_domain(query)
    return await investigate(query, about, limit, user)


async def investigate(
    query: str, about: models.DomainAnalysis, limit: int, user: str | None
) -> models.ResearchReport:
    """All that follows once it is known what the query is about."""
    knowledge = await extract_knowledge(about.domain, about.terms)
    fulltext, vector, graph = await asyncio.gather(
        search_fulltext(about.domain, about.terms),
        search_vectors(about.domain, query),
        search_graph(about.domain, about.terms),
    )
    rankings = {"fulltext": fulltext, "vector": vector, "graph": graph}
    results = search.merge(rankings, about.domain, query, limit)
    await record_usage(user, query, len(results))
    return models.ResearchReport("completed", about, knowledge, results)


class RunInfo(Protocol):
    """What the gateway tells of the run: its id and how many seconds it took."""

    @property
    def id(self) -> str: ...

    @property
    def seconds(self) -> float: ...


class LegacyAdapter:
    """Existing clients keep their JSON: legacy on the outside, the workflow inside."""

    @staticmethod
    def to_input(body: Any) -> dict[str, Any]:
        """The workflow's arguments. Raises pydantic.ValidationError."""
        return models.ResearchRequest.model_validate(body).model_dump()

    @staticmethod
    def to_response(
        result: models.ResearchReport | Mapping[str, Any], run: RunInfo
    ) -> dict[str, Any]:
        """The legacy JSON for a report."""
        report = asdict(result) if isinstance(result, models.ResearchReport) else dict(result)
        metrics = {
            "total_time": run.seconds,
            "sla_compliance": run.seconds <= models.SLA_SECONDS,
        }
        return {"workflow_id": run.id, **report, "performance_metrics": metrics}


def ledger_path() -> Path:
    """AURA_EXAMPLE_LEDGER, or `usage-ledger.db` beside the app's SQLite file."""
    if given := os.environ.get("AURA_EXAMPLE_LEDGER"):
        return Path(given)
    database = app.config.database
    folder = Path() if "://" in database or database == ":memory:" else Path(database).parent
    return folder / "usage-ledger.db"
