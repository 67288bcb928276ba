"""The service as it grew: six orchestrators, each building again what it needs for every request.

    python -m examples.research.legacy --port 9001

`POST /research {"query": ..., "limit": 5, "user": ...}` answers in the JSON that clients know.
"""

from __future__ import annotations

import argparse
import contextlib
import time
import uuid
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import FastAPI

from examples.research import models
from examples.research.analysis import DomainProfiles, Grammar, extract_knowledge
from examples.research.corpus import domains, sections
from examples.research.search import FullText, TermGraph, Vectors, merge

service = FastAPI(title="Research (legacy)")


class ConfigExtractionOrchestrator:
    """Finds the settings of a request: which domain it is about. Reads all headings again."""

    def extract(self, query: str) -> models.DomainAnalysis:
        return DomainProfiles(sections()).analyse(query)


class WorkflowOrchestrator:
    """Runs the 'knowledge' part of a request, after having its settings extracted."""

    def run(self, query: str) -> tuple[models.DomainAnalysis, models.Knowledge]:
        analysis = ConfigExtractionOrchestrator().extract(query)
        passages = domains()[analysis.domain]
        knowledge = extract_knowledge(analysis.terms, TermGraph(passages), Grammar(passages))
        return analysis, knowledge


class SearchOrchestrator:
    """Full text, over tables that it fills for each request."""

    def search(self, analysis: models.DomainAnalysis) -> list[models.Ranked]:
        with contextlib.closing(FullText(domains()[analysis.domain])) as fulltext:
            return fulltext.search(analysis.terms)


class UnifiedSearchOrchestrator:
    """Full text, then vectors."""

    def search(self, query: str, analysis: models.DomainAnalysis) -> dict[str, list[models.Ranked]]:
        fulltext = SearchOrchestrator().search(analysis)
        vector = Vectors(domains()[analysis.domain]).search(query)
        return {"fulltext": fulltext, "vector": vector}


class IntegrationOrchestrator:
    """Full text and vectors, then the graph, which it cannot take from the workflow's."""

    def search(self, query: str, analysis: models.DomainAnalysis) -> dict[str, list[models.Ranked]]:
        rankings = UnifiedSearchOrchestrator().search(query, analysis)
        graph = TermGraph(domains()[analysis.domain]).search(analysis.terms)
        return {**rankings, "graph": graph}


class UniversalSearchOrchestrator:
    """The entry: everything, one after the other."""

    def research(self, query: str, limit: int) -> dict[str, Any]:
        started = time.perf_counter()
        analysis, knowledge = WorkflowOrchestrator().run(query)
        rankings = IntegrationOrchestrator().search(query, analysis)
        results = merge(rankings, analysis.domain, query, limit)
        total_time = time.perf_counter() - started
        return {
            "workflow_id": str(uuid.uuid4()),
            "status": "completed",
            "domain_analysis": asdict(analysis),
            "extracted_knowledge": asdict(knowledge),
            "search_results": [asdict(result) for result in results],
            "performance_metrics": {
                "total_time": total_time,
                "sla_compliance": total_time <= models.SLA_SECONDS,
            },
        }


@service.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@service.post("/research")
def research(request: models.ResearchRequest) -> dict[str, Any]:
    return UniversalSearchOrchestrator().research(request.query, request.limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    uvicorn.run(
        "examples.research.legacy:service",
        host=options.host,
        port=options.port,
        workers=options.workers,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
