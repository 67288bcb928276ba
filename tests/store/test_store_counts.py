"""Counts and lists of many runs: what was tallied, what has ended since, what is deleted and what
arrives."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, get_args

import pytest

from aura.store import postgres_lists, sqlite_lists
from aura.store.base import RunFilter, RunRecord, RunState, Settle, Store, Sweep
from aura.store.portable import Page, Row
from aura.store.queues import CountBy
from aura.store.search import STATES
from tests.store.kit import beat, start


async def old_runs(store: Store, runs: int, age: float, states: tuple[str, ...]) -> None:
    """Runs that ended `age` seconds ago and before, a second apart, as if they had been there."""
    await beat(store, "w")
    await store.commit([start("model", owner="w")])
    [model] = await store.rows(Page("runs", run="model"))
    await store.commit([Settle("model", 1, "completed", b'"done"')])
    now = await store.moment()
    for at in range(runs):
        state = states[at % len(states)]
        ended = now - age - at
        changed: dict[str, Any] = {
            "id": f"old-{at:03}", "state": state, "owner": None, "created_at": ended - 1.0,
            "started_at": ended - 0.5, "finished_at": ended, "queue": "q" if at % 3 == 0 else None,
            "workflow": f"flow-{at % 2}",
        }  # fmt: skip
        row: Row = {**model, **changed}
        assert await store.adopt(row, []) == "create"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tallies are made of few runs."""
    for module in (sqlite_lists, postgres_lists):
        monkeypatch.setattr(module, "LEAST_TALLIED", 3)
        monkeypatch.setattr(module, "MOST_TALLIED", 7)


async def counted_by_hand(store: Store, *by: str) -> dict[tuple[Any, ...], int]:
    found: dict[tuple[Any, ...], int] = {}
    for run in await store.runs(RunFilter(limit=10_000)):
        key = tuple(getattr(run, name) for name in by)
        found[key] = found.get(key, 0) + 1
    return found


async def agree(store: Store) -> None:
    assert await store.count_runs(["state"]) == await counted_by_hand(store, "state")
    whole: list[CountBy] = ["workflow", "version", "state", "queue"]
    assert await store.count_runs(whole) == await counted_by_hand(store, *whole)


async def test_counts_stay_right_over_tallies_sweeps_and_arrivals(store: Store) -> None:
    await old_runs(store, 30, 100.0, ("completed", "failed", "cancelled"))
    await agree(store)  # tallies, in pieces
    await agree(store)
    assert (await store.count_runs(["state"], "q")) == {
        ("completed",): 10,
    }
    assert (await store.sweep(Sweep(age=120.0, limit=6))).runs == 6
    await agree(store)
    [row] = await store.rows(Page("runs", run="old-003"))
    arrived = {**row, "id": "arrived", "finished_at": row["finished_at"] - 500.0}
    assert await store.adopt(arrived, []) == "create"
    await agree(store)
    await store.commit([start("new", owner="w"), start("waits"), start("parks", owner="w")])
    await store.commit([Settle("new", 1, "failed", error=b"1"), Settle("parks", 1, "parked")])
    await agree(store)
    while (await store.sweep(Sweep(age=0.0))).runs:
        pass
    assert await store.count_runs(["state"]) == {("pending",): 1, ("parked",): 1}


async def test_tallies_are_made_by_one_at_a_time(shared: Any) -> None:
    stores = [await shared.open() for _ in range(3)]
    await old_runs(stores[0], 40, 100.0, ("completed",))
    counts = await asyncio.gather(*(one.count_runs(["state"]) for one in stores))
    assert counts == [{("completed",): 41}] * 3
    await agree(stores[1])


async def test_runs_are_counted_while_they_are_swept(shared: Any) -> None:
    """Whoever counts sees each run or does not: none is counted after it has gone."""
    one, other = [await shared.open() for _ in range(2)]
    await old_runs(one, 60, 100.0, ("completed", "failed"))

    async def sweeps() -> None:
        while (await one.sweep(Sweep(age=50.0, limit=5))).runs:
            pass

    sweeping = asyncio.create_task(sweeps())
    while not sweeping.done():
        await other.count_runs(["state"])
    await sweeping
    assert await other.count_runs(["state"]) == {("completed",): 1}


def expected(runs: list[RunRecord], where: RunFilter) -> list[str]:
    found = [
        run
        for run in sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)
        if (where.state is None or run.state == where.state)
        and (where.workflow is None or run.workflow == where.workflow)
        and (where.before is None or (run.created_at, run.id) < where.before)
    ]
    return [run.id for run in found[: where.limit]]


async def test_lists_of_a_state_or_workflow_are_in_order_page_by_page(store: Store) -> None:
    await old_runs(store, 40, 100.0, ("completed", "failed", "cancelled", "completed"))
    await store.commit([start(f"p{at}", workflow=f"flow-{at % 3}") for at in range(12)])
    await store.commit([start(f"r{at}", workflow="flow-1", owner="w") for at in range(6)])
    await store.commit([Settle("r0", 1, "parked"), Settle("r1", 1, "failed", error=b"1")])
    everything = await store.runs(RunFilter(limit=1_000))
    chance = random.Random(5)
    for state in (None, *get_args(RunState)):
        for workflow in (None, "flow-0", "flow-1", "flow-2", "research", "none"):
            where = RunFilter(state=state, workflow=workflow, limit=chance.randint(1, 9))
            while True:
                page = await store.runs(where)
                assert [run.id for run in page] == expected(everything, where), where
                if not page:
                    break
                where = replace(where, before=(page[-1].created_at, page[-1].id))


def test_every_state_is_listed() -> None:
    assert get_args(RunState) == STATES
