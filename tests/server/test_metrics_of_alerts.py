"""Metrics that are there so that somebody is woken: leases, stalled commits, SLAs, rollbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aura import Aura, Config, step
from aura.delivery.decide import RolloutState
from aura.delivery.split import Arm, Split
from aura.delivery.status import Event, nothing_seen, status_of
from aura.gateway import parse_gateway
from aura.server.metrics import Metrics
from aura.server.serving import build
from aura.store.base import Heartbeat, Op, PutDocument
from tests.delivery.rollout_kit import plan
from tests.engine.kit import until
from tests.server.kit import client, make_app
from tests.server.test_metrics import Scrape, look_again, put, scraped


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "aura.db")
    return str(request.getfixturevalue("postgres_url"))


both = pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)


class Shift:
    """An app with one run that works until its gate opens."""

    def __init__(self, database: str) -> None:
        self.app = Aura("shift", config=Config(database=database, poll=0.05, lease=3600.0))
        self.metrics = Metrics(self.app)
        self.app.watch = self.metrics
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

        @step
        async def work() -> str:
            self.begun.set()
            await self.gate.wait()
            return "done"

        @self.app.workflow(version="1.0.0", name="job")
        async def job() -> str:
            return await work()

    async def counted(self) -> dict[str, float | None]:
        found = Scrape((await self.metrics.text())[0].decode())
        names = ("runs_taken_over", "runs_lost", "leases_lost")
        return {name: found(f"aura_{name}_total") for name in names}


@both
async def test_a_run_that_changes_hands_is_counted_on_both_sides(database: str) -> None:
    slow, other = Shift(database), Shift(database)
    nothing = {"runs_taken_over": 0, "runs_lost": 0, "leases_lost": 0}
    async with slow.app:
        run = await slow.app.start("job", id="r")
        await slow.begun.wait()
        assert await slow.counted() == nothing
        assert slow.app._worker is not None
        await slow.app.store.commit([Heartbeat(slow.app._worker.id, 0.0)])
        async with other.app:
            await other.begun.wait()
            slow.gate.set()
            await until(lambda: slow.app.executing == 0)
            other.gate.set()
            assert await run.result(60) == "done"
            assert await slow.counted() == {**nothing, "runs_lost": 1}
            assert await other.counted() == {**nothing, "runs_taken_over": 1}


async def test_a_lease_that_cannot_be_held_is_counted_once() -> None:
    shift = Shift(":memory:")
    async with shift.app:
        await shift.app.start("job", id="r")
        await shift.begun.wait()
        worker = shift.app._worker
        assert worker is not None
        for _ in range(3):  # before it has a new one
            worker.renounce(ConnectionError("tested"))
        await until(lambda: worker.joined and shift.app.executing == 0)
        found = await shift.counted()
        assert (found["leases_lost"], found["runs_lost"]) == (1, 1)


async def test_a_commit_that_does_not_end_shows() -> None:
    app = make_app()
    async with build(app) as serving, client(serving) as http:
        wait = "aura_checkpoint_wait_seconds"
        await until(lambda: app.committer.oldest() == 0.0)
        commit, asked, release = app.store.commit, asyncio.Event(), asyncio.Event()

        async def stuck(ops: Sequence[Op]) -> list[Any]:
            asked.set()
            await release.wait()
            return await commit(ops)

        setattr(app.store, "commit", stuck)  # noqa: B010  (a method of one object)
        before = app.clock.monotonic()
        writing = app.committer.submit(PutDocument("a", "b", b"{}"))
        await asked.wait()
        latest = app.clock.monotonic()
        await app.clock.sleep(0.05)
        shown = (await scraped(http))(wait)
        assert shown is not None
        assert 0.04 < shown <= app.clock.monotonic() - before
        assert app.clock.monotonic() - latest >= 0.05
        release.set()
        await writing
        await until(lambda: app.committer.oldest() == 0.0)


async def test_answers_are_in_time_or_late_by_the_sla_of_their_route() -> None:
    app = Aura("answering", config=Config(database=":memory:"))

    @app.workflow(version="1.0.0", name="answer")
    async def slowly() -> str:
        await asyncio.sleep(0.02)
        return "there"

    config = parse_gateway("""
gateway:
  targets:
    old: {workflow: answer, version: 1.0.0}
  routes:
    - {path: /patient, split: patient, baseline: old, sla: 60s, fallback: false}
    - {path: /hasty, split: hasty, baseline: old, sla: 1ms, fallback: false}
    - {path: /free, split: free, baseline: old, fallback: false}
""")
    async with build(app, config) as serving, client(serving) as http:
        for path in ("/patient", "/patient", "/hasty", "/free"):
            assert (await http.post(path, json={})).status_code == 200
        answers = (await scraped(http)).all("aura_gateway_sla_answers_total")
    assert answers == {
        frozenset({("split", "patient"), ("outcome", "in-time")}): 2,
        frozenset({("split", "hasty"), ("outcome", "late")}): 1,
    }


@both
async def test_the_baseline_of_a_split_and_the_last_rollback_are_known(database: str) -> None:
    app = make_app(database)
    async with build(app) as serving, client(serving) as http:
        await put(app, Split("s", 1, "x", (Arm("old", 0.9), Arm("new", 0.1))))
        for name, history in {
            "twice": [("rollback", 100.0), ("resume", 110.0), ("rollback", 120.0)],
            "too-late": [("rollback", 0.0)],
            "never": [("start", 90.0)],
        }.items():
            made = plan(name=name)
            events = tuple(Event(done, what, "", "test", done) for what, done in history)
            one = status_of(
                made, f"rollout-{name}-1", RolloutState(0, "running", 1.0), nothing_seen(made), "",
                events,
            )  # fmt: skip
            await app.committer.submit(PutDocument("rollout", name, one.to_json()))
        look_again(serving)
        found = await scraped(http)
    assert found.all("aura_split_baseline") == {
        frozenset({("split", "s"), ("arm", "old")}): 1,
    }
    times = found.all("aura_rollback_timestamp_seconds")
    assert times == {frozenset({("rollout", "twice")}): 120.0}


@both
async def test_commits_that_are_spared_are_counted(database: str) -> None:
    app = Aura("spared", config=Config(database=database, durability="adaptive"))

    @step(idempotent=True)
    async def small() -> None:
        await asyncio.sleep(0.001)

    @app.workflow(version="1.0.0")
    async def many() -> None:
        for _ in range(60):
            await small()

    async with build(app) as serving, client(serving) as http:
        await (await app.start("many")).result(60)
        found = await scraped(http)
        spared = app.committer.counts.saved
        assert found("aura_checkpoint_writes_saved_total") == spared > 0


async def test_the_breaker_of_a_target_shows_its_state() -> None:
    config = parse_gateway(
        "gateway:\n  routes:\n    - {path: /x, split: s, baseline: gone}\n  targets:\n"
        "    gone: {http: 'http://127.0.0.1:9', breaker: {consecutive: 2, open_for: 60s}}\n"
    )
    app = Aura("broken", config=Config(database=":memory:"))
    async with build(app, config) as serving, client(serving) as http:
        state = "aura_circuit_breaker_state"
        assert (await scraped(http))(state, target="gone") == 0
        for _ in range(3):
            assert (await http.get("/x")).status_code >= 500
        assert (await scraped(http))(state, target="gone") == 2
