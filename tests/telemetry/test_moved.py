"""A run that is on another worker after a crash is one trace."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aura.telemetry import tracing_of
from tests.telemetry.kit import Collector, Seen, Spans, collector, tree
from tests.telemetry.program import make

ROOT = Path(__file__).resolve().parents[2]


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"{what} has not come"
        await asyncio.sleep(0.02)


def worker(database: str, folder: Path, to: Collector) -> subprocess.Popen[bytes]:
    environment = {
        "AURA_TELEMETRY": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": to.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.telemetry.program", database, str(folder)],
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_one_trace_over_two_processes(database: str, tmp_path: Path, spans: Spans) -> None:
    app = make(database)
    app._around += app._traced_by(tracing_of(spans.settings(), "starter", app.clock))
    with collector() as found:
        one = worker(database, tmp_path, found)
        try:
            async with app.client():
                run = await app.start("outer", "x", id="r")
                # Its first step and its child are exported, the second step is under way.
                await until((tmp_path / f"reached-{one.pid}").exists, "the second step")
                await until(lambda: len(found.got) >= 3, "the spans before the crash")
                one.kill()
                one.wait()
                (tmp_path / "open").touch()
                other = worker(database, tmp_path, found)
                try:
                    assert await asyncio.wait_for(run.result(), 60) == "x"
                    await until(lambda: ended(found.got, "run outer"), "the span of the run")
                finally:
                    other.terminate()
                    other.wait()
        finally:
            one.kill()
            one.wait()
    everything = [*spans.all(), *found.got]
    assert tree(one for one in everything if not one.name.startswith("queue")) == [
        "start outer",
        "start outer > run outer",
        "start outer > run outer > resume outer",
        "start outer > run outer > run inner",
        "start outer > run outer > run inner > step first",
        "start outer > run outer > step first",
        "start outer > run outer > step first",
        "start outer > run outer > step second",
    ]
    assert len({one.trace for one in everything}) == 1
    by_key = {one.attributes.get("aura.step.key"): one.process for one in found.got}
    assert by_key["0/first#1"] == one.pid
    assert by_key["0/first#2"] == by_key["0/second#1"] == other.pid
    [whole] = [one for one in found.got if one.name == "run outer"]
    assert whole.process == other.pid
    assert all(whole.start <= one.start <= one.end <= whole.end for one in steps(found.got))


def ended(spans: list[Seen], name: str) -> bool:
    return any(one.name == name for one in spans)


def steps(spans: list[Seen]) -> list[Seen]:
    return [one for one in spans if one.name.startswith("step")]
