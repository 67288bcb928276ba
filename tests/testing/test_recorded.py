"""Recorded runs as regression tests, and time in schedules and events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import aura
from aura import Aura, Config, Workflow, step
from aura.errors import AuraError, SandboxError
from aura.testing import Sandbox, load_histories, mock_step, replay

DAY = timedelta(days=1)


@step
async def charge(order: str) -> str:
    return f"receipt-{order}"


@step
async def ship(order: str) -> str:
    return f"shipped {order}"


async def order(number: str) -> str:
    await charge(number)
    await aura.sleep(DAY)
    return await ship(number)


async def for_nothing(number: str) -> str:
    await aura.sleep(DAY)
    return await ship(number)


async def other_arguments(number: str) -> str:
    await charge(number + "!")
    await aura.sleep(DAY)
    return await ship(number)


def shop(function: Any = order, version: str = "1.0.0") -> Aura:
    app = Aura("shop", config=Config(database=":memory:"))
    app.registry.add(Workflow("order", version, function))
    return app


async def recorded(folder: Path) -> Path:
    """A bundle of one run that has ended and one that sleeps."""
    app, path = shop(), folder / "orders.bundle"
    async with Sandbox(app) as sandbox:
        run = await sandbox.start("order", "A-1", id="ended")
        assert await run.result(timeout=30) == "shipped A-1"
        await sandbox.start("order", "A-2", id="sleeping")
        await sandbox.settle()
        await sandbox.export(path)
    return path


async def test_recorded_runs_fit_the_code_that_wrote_them(tmp_path: Path) -> None:
    histories = load_histories(await recorded(tmp_path))
    assert {one.run.id: one.run.state for one in histories}["ended"] == "completed"
    ended = next(one for one in histories if one.run.id == "ended")
    assert [entry.key for entry in ended.journal][:1] == ["0/charge#1"]
    with mock_step(charge, raises=AssertionError), mock_step(ship, raises=AssertionError):
        report = await replay(shop(), histories)
    assert report.compatible
    assert report.runs == 2


@pytest.mark.parametrize("changed", [for_nothing, other_arguments])
async def test_code_that_has_changed_is_told_apart(tmp_path: Path, changed: Any) -> None:
    histories = load_histories(await recorded(tmp_path))
    report = await replay(shop(changed), histories)
    assert not report.compatible
    assert {one.run for one in report.diverged} == {"ended", "sleeping"}
    assert "charge" in str(report.diverged[0].divergences)
    report = await replay(shop(changed, "2.0.0"), histories, version="2.0.0")
    assert not report.compatible


async def test_one_run_of_a_sandbox_can_be_replayed_at_once() -> None:
    async with Sandbox(shop()) as sandbox:
        run = await sandbox.start("order", "A-1")
        await run.result(timeout=30)
        history = await sandbox.history(run.id)
    changed: Workflow[[str], str] = Workflow("order", "1.0.0", for_nothing)
    assert (await replay(shop(), history)).compatible
    assert not (await replay(changed, history)).compatible
    assert not (await replay([changed], [history])).compatible


async def test_wrong_use_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no bundle"):
        load_histories(tmp_path / "nothing")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(AuraError):
        load_histories(tmp_path / "junk")
    with pytest.raises(SandboxError, match="no history"):
        await replay(shop(), [])
    histories = load_histories(await recorded(tmp_path))
    with pytest.raises(SandboxError, match="cannot be replayed"):
        await replay(Aura("empty", config=Config(database=":memory:")), histories)


async def test_schedules_tick_as_time_is_skipped() -> None:
    app, ticks = Aura("nightly", config=Config(database=":memory:")), list[str]()

    @app.workflow(version="1.0.0")
    async def report(tick: datetime) -> None:
        ticks.append(f"{tick:%d %H:%M}")

    app.schedule("nightly", report, cron="0 3 * * *")
    async with Sandbox(app, start=datetime(2030, 1, 1, tzinfo=UTC)) as sandbox:
        await sandbox.skip(3 * DAY)
        assert ticks == ["01 03:00", "02 03:00", "03 03:00"]
