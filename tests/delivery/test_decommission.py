"""Taking targets out of service: gates, the verified copy, endpoints one by one, undo, crashes."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aura import Aura
from aura.delivery import decommission
from aura.delivery.decommission import Decommission
from aura.delivery.gates import Facts, Gate, failing
from aura.delivery.retirement import Retirement, notices
from aura.delivery.split import Arm, Split
from aura.delivery.status import Event, RolloutStatus
from aura.engine.backup import verified
from aura.errors import BundleDamaged, DecommissionError, StoreUnavailable
from aura.store.base import PutDocument
from tests.delivery.rollout_crew import crew
from tests.delivery.rollout_kit import app_on, plan

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decommission, "_LOOK", 0.05)


OPEN = Gate(stable=0, drained=True, idle=True)


def quick(folder: Path, **changes: Any) -> Decommission:
    given: dict[str, Any] = {
        "target": "a",
        "endpoints": ("/one", "/two"),
        "gate": OPEN,
        "grace": 0.05,
        "backup": str(folder / "backups"),
    }
    return Decommission(**{**given, **changes})


async def reached(
    app: Aura, condition: Callable[[Retirement], bool], target: str = "a"
) -> Retirement:
    give_up = time.monotonic() + 60
    while not condition(found := await app.rollouts.decommissions.status(target)):
        assert time.monotonic() < give_up, f"it never came to hold; the last was {found}"
        await asyncio.sleep(0.02)
    return found


def story(found: Retirement) -> list[str]:
    return [event.what for event in found.history]


THROUGH = ["start", "backup", "disabling", "grace", "off", "grace", "off", "archived"]


async def test_from_the_gate_to_the_archive(database: str, tmp_path: Path) -> None:
    async with app_on(database) as app:
        begun = await app.rollouts.decommissions.start(quick(tmp_path), by="ann")
        assert (begun.state, begun.history[0].by) == ("gate", "ann")
        found = await reached(app, lambda one: one.ended)
        assert (found.state, story(found)) == ("archived", THROUGH)
        assert [(one.path, one.phase) for one in found.endpoints] == [
            ("/one", "off"),
            ("/two", "off"),
        ]
        times = [event.at for event in found.history]
        assert times == sorted(times)
        off, second = found.history[4], found.history[5]
        assert off.at <= second.at  # never two endpoints in their grace
        copy = verified(Path(found.backup["path"]))
        assert (copy.sha256, copy.rows) == (found.backup["sha256"], found.backup["rows"])
        assert copy.rows["runs"] >= 1
        archive = json.loads(Path(found.archive).read_text())
        assert archive["retirement"]["target"] == "a"
        with pytest.raises(DecommissionError, match="archived: nothing can be undone"):
            await app.rollouts.decommissions.undo("a")
        with pytest.raises(DecommissionError, match="a was decommissioned"):
            await app.rollouts.decommissions.start(quick(tmp_path))
        with pytest.raises(DecommissionError, match="the target a was decommissioned"):
            await app.rollouts.start(plan())


async def test_undo_brings_every_endpoint_back(database: str, tmp_path: Path) -> None:
    async with app_on(database) as app:
        desk = app.rollouts.decommissions
        long = quick(tmp_path, grace=3_600.0)
        await desk.start(long)
        found = await reached(app, lambda one: one.endpoints[0].phase == "grace")
        with pytest.raises(DecommissionError, match="is being decommissioned already"):
            await desk.start(long)
        assert set(notices([found])) == {("/one", "a")}
        await desk.undo("a", by="bob", reason="a caller is left")
        found = await reached(app, lambda one: one.ended)
        assert found.state == "undone"
        assert {one.phase for one in found.endpoints} == {"on"}
        last = found.history[-1]
        assert (last.by, last.reason) == ("bob", "everything is back: a caller is left")
        assert notices([found]) == {}
        again = await desk.start(quick(tmp_path))
        assert again.run.endswith("-2")
        found = await reached(app, lambda one: one.ended)
        assert (found.state, story(found)) == ("archived", THROUGH)


async def test_the_gate_is_waited_for_and_says_what_it_waits_for(
    database: str, tmp_path: Path
) -> None:
    async with app_on(database) as app:
        split = Split("s", 1, "seed", (Arm("a", 0.95), Arm("b", 0.05)))
        await app.store.commit([PutDocument("split", "s", split.to_json(), 0)])
        await app.rollouts.decommissions.start(quick(tmp_path))
        found = await reached(app, lambda one: bool(one.gates))
        assert found.gates == ("drained: split s still sends 95.00% of its units to it",)
        assert found.backup == {}
        assert not (tmp_path / "backups").exists()
        body = split.with_weights({"b": 1.0}).to_json()
        await app.store.commit([PutDocument("split", "s", body, 1)])
        found = await reached(app, lambda one: one.ended)
        assert (found.state, found.gates) == ("archived", ())


def completed(**changes: Any) -> RolloutStatus:
    events = (
        Event(NOW - 90_000, "start", "", ""),
        Event(NOW - 7_200, "complete", "", "", NOW - 7_200),
    )
    given: dict[str, Any] = {
        "name": "r", "run": "r-1", "split": "s", "baseline": "a", "candidate": "b",
        "state": "completed", "stage": "100%", "stage_index": 0, "stages": (),
        "weights": {"a": 0.0, "b": 1.0}, "epoch": 3, "evidence": (), "reason": "",
        "history": events,
    }  # fmt: skip
    return RolloutStatus(**{**given, **changes})


@pytest.mark.parametrize(
    ("gate", "facts", "said"),
    [
        (Gate(), Facts((), (), 0), ["no rollout has replaced it"]),
        (Gate(), Facts((), (completed(),), 0), ["completed 2.0 h ago, of 48.0 h"]),
        (Gate(stable=7_200), Facts((), (completed(),), 0), []),
        (Gate(stable=1), Facts((), (completed(state="held"),), 0), ["which replaces it, is held"]),
        (
            Gate(stable=7_200),
            Facts((), (completed(history=(Event(NOW - 60, "rollback", "", ""),)),), 0),
            ["completed 60 s ago"],
        ),
        (OPEN, Facts((), (), 3), ["3 runs of it have not ended"]),
        (Gate(stable=0, idle=False), Facts((), (), 3), []),
        (
            OPEN,
            Facts((Split("s", 1, "x", (Arm("a", 0.01), Arm("b", 0.99))),), (), 1),
            ["split s still sends 1.00%", "1 runs"],
        ),
    ],
)
def test_gates(gate: Gate, facts: Facts, said: list[str]) -> None:
    found = failing(gate, "a", facts, NOW)
    assert len(found) == len(said)
    assert all(part in one for part, one in zip(said, found, strict=True))


async def test_runs_of_a_version_keep_it(database: str, tmp_path: Path) -> None:
    app = app_on(database)
    release = asyncio.Event()

    @app.workflow(version="1.0.0")
    async def old() -> str:
        await release.wait()
        return "done"

    async with app:
        run = await app.start(old)
        given = quick(tmp_path, target="old@1.0.0")
        await app.rollouts.decommissions.start(given)
        found = await reached(app, lambda one: bool(one.gates), "old@1.0.0")
        assert found.gates == ("idle: 1 runs of it have not ended",)
        release.set()
        await run.result(timeout=60)
        assert (await reached(app, lambda one: one.ended, "old@1.0.0")).state == "archived"


async def test_a_worker_is_killed_at_every_step(database: str, tmp_path: Path) -> None:
    """One worker after the other dies at the next effect; nothing is skipped or done twice."""
    points = [
        ("before", "0/gate#1"),
        ("after", "retirement:3"),
        ("before", "0/back-up#1"),
        ("after", "retirement:4"),
        ("before", "retirement:5"),
        ("after", "retirement:8"),
    ]
    async with crew() as people, app_on(database).client() as app:
        await app.rollouts.decommissions.start(quick(tmp_path))
        last = await people.hire("worker", database)
        for when, point in points:
            worker, last = last, await people.hire("worker", database)
            await worker.begin(when, point)
            assert await worker.end() == -signal.SIGKILL
        await last.begin()
        found = await reached(app, lambda one: one.ended)
        assert (found.state, story(found)) == ("archived", THROUGH)
        assert await app.run(found.run).result(timeout=60) == "archived"
        assert len(list((tmp_path / "backups").glob("*.gz"))) == 1


async def test_a_copy_that_was_damaged_is_found(tmp_path: Path) -> None:
    async with app_on(str(tmp_path / "aura.db")) as app:
        await app.rollouts.decommissions.start(quick(tmp_path))
        found = await reached(app, lambda one: one.ended)
    path = Path(found.backup["path"])
    lines = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(lines.replace(b"aura.decommission", b"aura.decommissioN", 1)))
    with pytest.raises(BundleDamaged):
        verified(path)
    path.write_bytes(gzip.compress(lines)[:-40])
    with pytest.raises(BundleDamaged):
        verified(path)


@pytest.mark.parametrize(
    "changes", [{"target": ""}, {"target": "a/b"}, {"endpoints": ()}, {"endpoints": ("/x", "/x")}]
)
def test_nonsense(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DecommissionError):
        quick(tmp_path, **changes)


async def test_an_order_to_undo_is_not_lost_to_the_archive(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the archive is being written: whoever was told that it is heard, is."""
    async with app_on(database) as app:
        desk = app.rollouts.decommissions
        facts = desk._facts
        ordered: list[Retirement] = []

        async def slow(plan: Decommission) -> Facts:
            if (await desk.status("a")).state == "disabling" and not ordered:
                ordered.append(await desk.undo("a", by="bob", reason="a caller is left"))
            return await facts(plan)

        monkeypatch.setattr(desk, "_facts", slow)
        await desk.start(quick(tmp_path))
        found = await reached(app, lambda one: one.ended)
        assert (ordered[0].state, found.state) == ("disabling", "undone")
        assert found.history[-1].by == "bob"


async def test_who_undoes_when_it_was_just_archived_hears_that(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_on(database) as app:
        desk = app.rollouts.decommissions
        begun = await desk.start(quick(tmp_path))
        await reached(app, lambda one: one.ended)
        monkeypatch.setattr(desk, "status", AsyncMock(return_value=begun))
        monkeypatch.setattr(desk, "_is_alive", AsyncMock(return_value=True))
        with pytest.raises(DecommissionError, match="archived at the same moment"):
            await desk.undo("a")


async def test_nothing_is_archived_when_orders_cannot_be_read(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_on(database) as app:
        desk = app.rollouts.decommissions
        begun = await desk.start(quick(tmp_path, gate=Gate(stable=0, drained=True, idle=False)))
        await reached(app, lambda one: one.ended)
        again = replace(begun, state="disabling")
        epoch = (await desk._shown("a"))[0]
        assert await desk._put(again, epoch)
        feed = app.store.feed

        async def away(name: str, *where: Any) -> Any:
            if name.startswith("orders/"):
                raise StoreUnavailable("away")
            return await feed(name, *where)

        monkeypatch.setattr(app.store, "feed", away)
        with pytest.raises(StoreUnavailable):
            await desk._archived(quick(tmp_path), begun.run)
        assert (await desk.status("a")).state == "disabling"
