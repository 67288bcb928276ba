"""When a takeover is noted in a run's journal. Found by the simulation (seed 517)."""

from __future__ import annotations

import asyncio

import pytest

from aura import step
from aura.engine import poison
from aura.engine.poison import APART, ASIDE, RECOVERED, Suspects, mark, poisoned, suspicious
from aura.store.base import Claimed, Entry, RunRecord
from tests.engine.kit import World, declare

RUN = RunRecord(
    "r", "flow", "1.0.0", "running", 3, "me", "o", b"{}", "f", None, None, None, False, 0, 0.0,
    0.0, None,
)  # fmt: skip


def claimed(recoveries: int, *kinds: str) -> Claimed:
    """A run that was taken over so often; "recovered 2" in its journal is the line of the second
    time."""
    journal = []
    for seq, kind in enumerate(kinds, 1):
        name, _, count = kind.partition(" ")
        output = count.encode() or b"null"
        journal.append(Entry("r", seq, kind, name, "", None, output, None, 1, 0.0, 0.0))
    return Claimed(RUN._replace(recoveries=recoveries), journal)


@pytest.mark.parametrize(
    ("found", "noted"),
    [
        (claimed(0), False),
        (claimed(1, "step"), False),  # the first one has no line
        (claimed(2, "step"), True),
        (claimed(2, "step", f"{RECOVERED} 2"), False),
        (claimed(2, "step", f"{RECOVERED} 2", "step"), False),  # it has slept since
        (claimed(3, "step", f"{RECOVERED} 2", "step"), True),
        (claimed(3, "step", f"{RECOVERED} 2"), True),
    ],
)
def test_each_takeover_is_noted_once(found: Claimed, noted: bool) -> None:
    assert (mark(found) is not None) is noted


def test_only_takeovers_without_progress_count() -> None:
    ends = [f"{RECOVERED} {number}" for number in range(2, 5)]
    assert poisoned(claimed(5, "step", *ends), 4) is not None
    assert poisoned(claimed(5, "step", *ends, "step"), 4) is None
    assert poisoned(claimed(4, "step", *ends), 4) is None  # it only woke


def test_a_suspect_is_a_run_that_has_often_died_without_progress() -> None:
    ends = [f"{RECOVERED} {number}" for number in range(2, 5)]
    assert not suspicious(claimed(3, "step", *ends[:1]), 10)
    assert suspicious(claimed(4, "step", *ends[:2]), 10)
    assert not suspicious(claimed(4, "step", *ends), 10)  # it only woke
    assert not suspicious(claimed(4, "step", *ends[:2], "step"), 10)
    assert suspicious(claimed(2, "step"), 2), "before it is parked"


def test_suspects_wait_for_each_other_and_come_back_one_by_one() -> None:
    suspects, held = Suspects(), True
    assert suspects.wait_until(100.0) is None
    suspects.admit(lambda: held)
    waits = [suspects.wait_until(100.0) for _ in range(3)]
    assert waits == pytest.approx([100.0 + ASIDE + number * APART for number in range(3)])
    assert suspects.wait_until(200.0) == 200.0 + ASIDE
    held = False
    assert suspects.wait_until(200.0) is None


async def test_the_runs_beside_a_poisonous_one_are_not_parked_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have come no further either, as it kills at once what they had just begun."""
    monkeypatch.setattr(poison, "ASIDE", 0.2)
    killed = asyncio.Event()
    died: list[str] = []

    @step
    async def works(name: str) -> str:
        if name == "poison":
            died.append(name)
            killed.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.5)
        return name

    async def flow(name: str) -> str:
        return await works(name)

    workflow = declare(flow)
    client = await world.open(workflow, worker=False)
    innocent = [await client.start(workflow, f"good {n}", id=f"good-{n}") for n in range(3)]
    bad = await client.start(workflow, "poison", id="bad")
    while await bad.status() != "parked":
        app = await world.open(workflow, max_recoveries=5, lease=0.6)
        async with asyncio.timeout(60):
            while not killed.is_set() and await bad.status() != "parked":
                await asyncio.sleep(0.01)
        killed.clear()
        if await bad.status() != "parked":
            await world.crash(app)
    assert not any([await run.status() == "parked" for run in innocent])
    assert len(died) == 6
    for number, run in enumerate(innocent):
        assert await run.result(timeout=60) == f"good {number}"
