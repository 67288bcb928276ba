"""What becomes a span, and what belongs to which trace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as api
from opentelemetry.trace import NoOpTracerProvider

import aura
from aura import RunFailed, step, telemetry
from aura.engine.traces import carried_in, current
from aura.errors import ConfigError
from aura.telemetry import Telemetry
from aura.telemetry.tracing import Budget
from tests.telemetry.kit import INCOMING, Seen, Spans, app_of, story, tree, until


async def test_the_whole_story_is_one_trace(database: str, spans: Spans) -> None:
    app = app_of(database, spans.settings())
    tries: list[int] = []
    handled: list[Any] = []
    story(app, tries, handled)
    async with app:
        run = await app.start("outer", "x", id="r")
        assert await run.result() == "x"
        await until(lambda: tree(spans.all()).count(LAST) == 1, "the run that the event started")
        await until(lambda: any("publish handled" in one for one in tree(spans.all())), "handler")
        await until(lambda: any(one.endswith("process asked") for one in tree(spans.all())), "end")
    found = spans.all()
    run_of_it = "start outer > run outer"
    assert tree(one for one in found if not one.name.startswith("queue")) == sorted(
        [
            "start outer",
            run_of_it,
            f"{run_of_it} > step ask",
            f"{run_of_it} > step ask > chat gpt-5",
            f"{run_of_it} > step ask",
            f"{run_of_it} > step ask > chat gpt-5",
            f"{run_of_it} > step ask > publish asked",
            f"{run_of_it} > step ask > publish asked > process asked",
            f"{run_of_it} > step ask > publish asked > process asked > publish handled",
            f"{run_of_it} > step plain",
            f"{run_of_it} > run inner",
            f"{run_of_it} > run inner > step plain",
            f"{run_of_it} > publish done",
            f"{run_of_it} > publish done > process done",
            f"{run_of_it} > publish done > process done > start inner",
            LAST,
            f"{LAST} > step plain",
        ]
    )
    assert len({one.trace for one in found}) == 1
    await check_attributes(found)


LAST = "start outer > run outer > publish done > process done > start inner > run inner"


async def check_attributes(found: list[Seen]) -> None:
    [failed, done] = [one for one in found if one.name == "step ask"]
    assert (failed.failed, failed.attributes["aura.attempt"]) == (True, 1)
    assert failed.attributes["error.type"] == "ValueError"
    assert (done.failed, done.attributes["aura.step.key"]) == (False, "0/ask#1")
    [whole] = [one for one in found if one.name == "run outer"]
    assert whole.attributes == {
        "aura.run.id": "r",
        "aura.workflow": "outer",
        "aura.workflow.version": "1.0.0",
        "aura.state": "completed",
        "aura.epoch": 1,
    }
    [model] = [one for one in found if one.name == "chat gpt-5" and not one.failed]
    assert model.kind == "CLIENT"
    assert model.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ("a", "b"),
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "server.address": "api.openai.com",
        "server.port": 443,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.model": "gpt-5-mini",
        "gen_ai.response.id": "x",
        "gen_ai.response.finish_reasons": ("stop",),
    }
    [event] = [one for one in found if one.name == "process asked"]
    assert event.attributes["messaging.consumer.group.name"] == "g"
    assert event.attributes["messaging.destination.name"] == "asked"


async def test_what_an_error_says_is_masked(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings())
    story(app, [], [])
    async with app:
        await (await app.start("outer", "x")).result()
    said = [
        one.status.description
        for one in spans.exporter.get_finished_spans()
        if one.status.description and one.name in ("step ask", "chat gpt-5")
    ]
    assert said == ["refused, password=***"] * 2
    assert "hunter2" not in "".join(one.to_json() for one in spans.exporter.get_finished_spans())


async def test_a_run_that_sleeps_out_of_memory_has_each_step_once(
    database: str, spans: Spans
) -> None:
    app = app_of(database, spans.settings(), poll=0.05)

    @step
    async def one(text: str) -> str:
        return text

    @app.workflow(version="1.0.0")
    async def waits(text: str) -> str:
        await one(text)
        await aura.receive("go")
        return await one(text)

    async with app:
        run = await app.start("waits", "x", id="r")

        async def asleep() -> bool:
            return (await run.record()).state == "waiting"

        end = time.monotonic() + 60
        while not await asleep():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        await run.signal("go")
        await run.result()
    found = spans.all()
    keys = [one.attributes["aura.step.key"] for one in found if one.name == "step one"]
    assert sorted(keys) == ["0/one#1", "0/one#2"]
    assert [one.attributes["aura.epoch"] for one in found if one.name == "resume waits"] == [2]
    assert len({one.trace for one in found}) == 1


async def test_how_long_a_run_waited_for_a_worker_is_a_span(database: str, spans: Spans) -> None:
    starter = app_of(database, spans.settings())
    worker = app_of(database, spans.settings(), poll=0.05)
    for app in (starter, worker):
        story(app, [1], [])
    async with starter.client():
        run = await starter.start("inner", "x")
        await asyncio.sleep(0.05)
        async with worker:
            await run.result()
            await until(lambda: any("run inner" in one for one in tree(spans.all())), "the run")
    [queue] = [one for one in spans.all() if one.name.startswith("queue")]
    assert queue.end - queue.start >= 40_000_000
    assert tree(spans.all())[-2:] == [
        f"start inner > run inner > {queue.name}",
        "start inner > run inner > step plain",
    ]


async def test_failed_runs_and_children_say_so(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings())

    @app.workflow(version="1.0.0")
    async def broken(text: str) -> str:
        raise ValueError(text)

    async with app:
        with pytest.raises(RunFailed):
            await (await app.start("broken", "x")).result()
    [run] = [one for one in spans.all() if one.name == "run broken"]
    assert run.failed
    assert run.attributes["aura.state"] == "failed"


async def test_spans_of_the_users_own_are_parents_and_children(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings())
    tracer = spans.provider.get_tracer("user")

    @app.workflow(version="1.0.0")
    async def other() -> None:
        return None

    @step
    async def works() -> None:
        with tracer.start_as_current_span("mine"):
            await app.start("other")

    @app.workflow(version="1.0.0")
    async def outer() -> None:
        await works()

    async with app:
        with tracer.start_as_current_span("request"):
            run = await app.start("outer")
        await run.result()
        await until(lambda: any(one.endswith("run other") for one in tree(spans.all())), "other")
    assert tree(spans.all())[-1] == (
        "request > start outer > run outer > step works > mine > start other > run other"
    )


async def test_what_is_not_recorded_stays_so(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings())
    handled: list[Any] = []
    story(app, [1], handled)
    async with app:
        with carried_in(INCOMING[:-2] + "00"):
            run = await app.start("outer", "x")
        await run.result()
        await until(lambda: handled, "the handler")
        assert (await run.record()).origin.endswith(INCOMING[:-2] + "00")
    assert spans.all() == []


async def test_above_the_budget_whole_traces_are_left_out(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings(rate=1e-6))
    story(app, [1], [])
    async with app:
        for number in range(3):
            await (await app.start("inner", str(number), id=str(number))).result()
    assert {one.attributes.get("aura.run.id", "0") for one in spans.all()} == {"0"}
    assert [one.name for one in spans.all()] == ["start inner", "run inner"]  # of the first


def test_the_budget_is_a_bucket_of_a_quarter_of_a_second() -> None:
    budget = Budget(40.0)
    assert budget.allows(0.0)
    for _ in range(10):
        assert budget.affords(0.0)
        budget.spend()
    assert not budget.allows(0.0)  # nothing new begins, but what has begun goes on
    for _ in range(10):
        assert budget.affords(0.0)
        budget.spend()
    assert not budget.affords(0.0)
    assert budget.affords(0.125)  # 5 have come: it owes as many
    assert not budget.allows(0.125)
    assert budget.allows(0.3)
    assert budget.allows(1e9)
    for _ in range(10):
        budget.spend()
    assert not budget.allows(1e9)
    assert Budget(None).allows(0.0)
    assert Budget(None).affords(0.0)


async def test_a_run_with_more_steps_than_the_budget_says_so(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings(rate=16.0))

    @step(idempotent=True)
    async def tiny() -> None:
        return None

    @app.workflow(version="1.0.0")
    async def long() -> None:
        await asyncio.gather(*(tiny() for _ in range(500)))

    async with app:
        await (await app.start("long")).result()
    found = spans.all()
    steps = [one for one in found if one.name == "step tiny"]
    [run] = [one for one in found if one.name == "run long"]
    assert 0 < len(steps) < 500
    assert run.attributes["aura.spans_left_out"] == 500 - len(steps)
    assert tree(found).count("start long > run long") == 1


async def test_tracers_without_ids_hang_all_on_the_start(spans: Spans) -> None:
    class Foreign:
        """A provider that is not the SDK's: nobody chooses its ids."""

        def get_tracer(self, name: str) -> Any:
            made = spans.provider.get_tracer(name)

            class Tracer:
                start_span = staticmethod(made.start_span)

            return Tracer()

    app = app_of(":memory:", Telemetry(rate=None, provider=Foreign()))
    story(app, [1], [])
    async with app:
        await (await app.start("inner", "x")).result()
    assert tree(spans.all()) == [
        "start inner",
        "start inner > run inner",
        "start inner > step plain",
    ]


async def test_runs_of_starters_without_telemetry_begin_a_trace(
    database: str, spans: Spans
) -> None:
    starter, worker = app_of(database, False), app_of(database, spans.settings(), poll=0.05)
    for app in (starter, worker):
        story(app, [1], [])
    async with starter.client():
        run = await starter.start("inner", "x")
        async with worker:
            await run.result()
            await until(lambda: any(one.name == "run inner" for one in spans.all()), "the run")
    found = [one for one in spans.all() if not one.name.startswith("queue")]
    assert tree(found) == ["run inner", "run inner > step plain"]


async def test_schedules_and_the_like_make_no_spans(spans: Spans) -> None:
    app = app_of(":memory:", spans.settings(), poll=0.05)
    ticks: list[int] = []

    @app.workflow(version="1.0.0")
    async def tick() -> None:
        ticks.append(1)

    app.schedule("often", tick, every=1.0)
    async with app:
        await until(lambda: any(one.name == "run tick" for one in spans.all()), "a tick")
    assert {one.name for one in spans.all()} <= {"run tick", "queue default"}


# -- on and off --------------------------------------------------------------------------------


async def test_off_means_nothing_is_there() -> None:
    app = app_of(":memory:", None)
    assert app.watch is None
    assert app._around == []
    seen: list[object] = []

    @step
    async def looks() -> None:
        seen.append(current.get())
        with telemetry.model("gpt-5") as call:
            call.used(input_tokens=1)
            call.answered(finish="stop")
            call.note(request_seed=1)

    @app.workflow(version="1.0.0")
    async def run() -> None:
        await looks()

    async with app:
        started = await app.start("run")
        await started.result()
        assert " " not in (await started.record()).origin
    assert seen == [None]


def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_TELEMETRY", "1")
    assert app_of(":memory:", None).watch is not None
    assert app_of(":memory:", False).watch is None
    monkeypatch.setenv("AURA_TELEMETRY", "maybe")
    with pytest.raises(ConfigError, match="AURA_TELEMETRY"):
        app_of(":memory:", None)
    monkeypatch.setenv("AURA_TRACE_RATE", "all")
    assert Telemetry().rate is None
    monkeypatch.setenv("AURA_TRACE_RATE", "5")
    assert Telemetry().rate == 5
    for wrong in ("x", "0", "-1", "nan"):
        monkeypatch.setenv("AURA_TRACE_RATE", wrong)
        with pytest.raises(ConfigError, match=r"rate|RATE"):
            Telemetry()


async def test_a_provider_that_records_nothing_does_no_harm() -> None:
    app = app_of(":memory:", Telemetry(rate=None, provider=NoOpTracerProvider()))
    story(app, [1], [])
    async with app:
        assert await (await app.start("outer", "x")).result() == "x"
    assert not api.get_current_span().get_span_context().is_valid


ABSENT = """
import sys
sys.modules["opentelemetry"] = None
from aura import Aura, Config
from aura.errors import ConfigError
import asyncio
app = Aura("x", config=Config(database=":memory:"))
@app.workflow(version="1.0.0")
async def w() -> int:
    return 7
async def main():
    async with app:
        assert await (await app.start(w)).result() == 7
asyncio.run(main())
try:
    Aura("x", telemetry=True)
except ConfigError as error:
    print(error)
"""


def test_without_the_package_all_but_traces_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "opentelemetry" in done.stdout
    assert "pip install" in done.stdout


def test_off_imports_nothing_of_it(tmp_path: Path) -> None:
    said = "import sys, aura; print('opentelemetry' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
