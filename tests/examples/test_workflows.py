"""The durable research workflow means what the legacy service means, and the bad releases fail."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest

from aura import Aura, Config, RunFailed
from aura.delivery.plan import load_plan
from aura.gateway.adapters import load_adapter
from aura.gateway.config import WorkflowSpec, parse_gateway
from examples.research.corpus import sample_queries
from examples.research.ledger import shared_ledger
from examples.research.legacy import UniversalSearchOrchestrator
from examples.research.release_bad import parse_code_words, research_2_1, research_2_2
from examples.research.search import shared_index
from examples.research.text import code_words
from examples.research.workflows import LegacyAdapter, analyse_domain, research

EXAMPLE = Path(__file__).parents[2] / "examples" / "research"
BROKEN = 'The "**" operator'  # what 2.1.0 cannot read


@dataclass(frozen=True)
class Ended:
    """What the gateway tells an adapter of a run."""

    id: str
    seconds: float


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AURA_EXAMPLE_LEDGER", str(path))
    return path


@pytest.fixture
async def app(tmp_path: Path, ledger: Path) -> AsyncIterator[Aura]:
    app = Aura("research-test", config=Config(database=str(tmp_path / "aura.db")))
    for workflow in (research, research_2_1, research_2_2):
        app.registry.add(workflow)
    async with app:
        yield app


def meaning(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        part: value
        for part, value in answer.items()
        if part not in {"workflow_id", "performance_metrics"}
    }


async def test_the_workflow_means_what_legacy_means_on_all_sample_queries(app: Aura) -> None:
    legacy = UniversalSearchOrchestrator()
    for query in sample_queries():
        run = await app.start(research, query, 5)
        answer = LegacyAdapter.to_response(await run.result(60), Ended(run.id, 0.1))
        old = await asyncio.to_thread(legacy.research, query, 5)
        assert meaning(answer) == meaning(old), query
        assert list(answer) == list(old)


async def test_usage_is_recorded_once_for_each_run(app: Aura, ledger: Path) -> None:
    ids = [f"research-{n}" for n in range(5)]
    for run_id in (*ids, *ids):
        run = await app.start(research, query="lambda", id=run_id)
        await run.result(60)
    attempts = shared_ledger(ledger).attempts()
    assert sorted(key.partition(":")[0] for key in attempts) == ids
    assert set(attempts.values()) == {1}


def test_the_first_regression_raises_on_a_good_quarter_of_real_queries() -> None:
    def raises(query: str) -> bool:
        try:
            parse_code_words.function(code_words(query))
        except SyntaxError:
            return True
        return False

    share = sum(map(raises, sample_queries())) / len(sample_queries())
    assert 0.25 <= share <= 0.35
    assert raises(BROKEN)


async def test_the_first_regression_fails_the_run_and_otherwise_agrees(app: Aura) -> None:
    with pytest.raises(RunFailed, match="parse_code_words"):
        await (await app.start(research_2_1, BROKEN)).result(60)
    query = 'The "property()" function is implemented as a data descriptor'
    good = await (await app.start(research, query)).result(60)
    assert await (await app.start(research_2_1, query)).result(60) == good


async def test_the_second_regression_is_right_but_ten_times_slower(app: Aura) -> None:
    shared_index()
    query = sample_queries()[0]
    results, seconds = [], []
    for workflow in (research, research_2_2):
        least = math.inf  # processor time, of which a busy machine can only add to each try
        for _ in range(3):
            started = time.process_time()
            results.append(await (await app.start(workflow, query)).result(60))
            least = min(least, time.process_time() - started)
        seconds.append(least)
    assert results == [results[0]] * 6
    assert seconds[1] > 4 * seconds[0]


def test_the_adapter_reads_the_legacy_body() -> None:
    body = {"query": "lambda", "limit": 3, "user": "u1"}
    assert LegacyAdapter.to_input(body) == body
    assert LegacyAdapter.to_input({"query": "x"}) == {"query": "x", "limit": 5, "user": None}


@pytest.mark.parametrize(
    "body", [{}, {"query": ""}, {"query": "x", "limit": 51}, [], None, {"query": 3}]
)
def test_the_adapter_refuses_what_legacy_refuses(body: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        LegacyAdapter.to_input(body)


async def test_the_adapter_writes_typed_and_plain_results_alike(app: Aura) -> None:
    report = await (await app.start(research, "lambda")).result(60)
    one = LegacyAdapter.to_response(report, Ended("r1", 1.6))
    assert one == LegacyAdapter.to_response(asdict(report), Ended("r1", 1.6))
    assert one["workflow_id"] == "r1"
    assert one["performance_metrics"] == {"total_time": 1.6, "sla_compliance": False}


def test_the_gateway_file_is_valid_and_names_a_target_for_every_version(app: Aura) -> None:
    config = parse_gateway((EXAMPLE / "aura.yaml").read_text())
    assert config is not None
    specs = [spec for spec in config.targets.values() if isinstance(spec, WorkflowSpec)]
    own = {one for one in app.registry.versions() if one[0] == research.name}
    assert {(spec.workflow, spec.version) for spec in specs} == own
    assert all(isinstance(load_adapter(spec.adapter), LegacyAdapter) for spec in specs)


@pytest.mark.parametrize(
    ("file", "baseline", "candidate"),
    [
        ("aura.yaml", "legacy", "research@2.0.0"),
        ("release-2.1.0.yaml", "research@2.0.0", "research@2.1.0"),
        ("release-2.2.0.yaml", "research@2.0.0", "research@2.2.0"),
    ],
)
def test_the_plans_are_valid(file: str, baseline: str, candidate: str) -> None:
    plan = load_plan(EXAMPLE / file)
    assert (plan.split, plan.baseline, plan.candidate) == ("research", baseline, candidate)
    assert plan.stages[-1].weight == 1.0


def test_steps_are_plain_functions_outside_a_run() -> None:
    assert analyse_domain.function("lambda").domain == "operators"
