"""Workers delete what is old by themselves, and nothing that is in use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import aura
from aura import Config, step
from aura.app import Aura
from aura.delivery.plan import parse_plan
from aura.engine import retention
from aura.errors import AuraError, ConfigError
from aura.store.base import AppendFeed, PutDocument, Store, Sweep, Swept
from tests.engine.kit import World, declare, until

_ran: list[int] = []


@step(idempotent=True)
async def add(number: int) -> int:
    _ran.append(number)
    return number + 1


async def counts(number: int) -> int:
    for _ in range(3):
        number = await add(number)
    return number


async def waits() -> str:
    await aura.sleep(3_600)
    return "woke"


async def plan() -> Sweep:
    """Everything that has ended is older than this."""
    return Sweep(-60.0, limit=20)


async def test_old_runs_go_while_others_are_under_way(world: World) -> None:
    counting, waiting = declare(counts), declare(waits)
    app = await world.open(counting, waiting, keep_in_memory=0.0)
    asleep = await app.start(waiting)
    await until(lambda: _is(app, asleep.id, "waiting"))
    _ran.clear()
    starting = asyncio.gather(*(app.start(counting, at) for at in range(100)))
    swept = Swept()

    async def all_gone() -> bool:
        nonlocal swept
        more = await retention.sweep(app.store, app.clock, plan)
        swept = Swept(*map(sum, zip(swept, more, strict=True)))
        return swept.runs >= 100

    await until(all_gone, timeout=60)
    await starting
    assert swept[:2] == (100, 300)
    assert sorted(_ran) == sorted(at + n for at in range(100) for n in range(3))
    assert [run.id for run in await app.runs()] == [asleep.id]
    assert len(await app.store.journal(asleep.id)) == 1


async def _is(app: Aura, run_id: str, state: str) -> bool:
    return await app.run(run_id).status() == state


async def test_a_worker_sweeps_now_and_then(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PERIOD", 0.01)
    monkeypatch.setattr(Config, "retention_seconds", property(lambda _: -60.0))
    counting = declare(counts)
    monkeypatch.setattr(Config, "__post_init__", lambda _: None)
    app = await world.open(counting)
    run = await app.start(counting, 1)

    async def gone() -> bool:
        return await app.store.run(run.id) is None

    await until(gone)


async def test_none_keeps_everything(world: World) -> None:
    app = await world.open(declare(counts), retention=None)
    assert app._sweeper is None
    client = await world.open(declare(counts), worker=False)
    assert client._sweeper is None


class Broken:
    """A store that cannot sweep the first two times."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = 0

    async def sweep(self, what: Sweep) -> Swept:
        self.asked += 1
        if self.asked < 3:
            raise [AuraError("the database is away"), ValueError("odd")][self.asked - 1]
        return await self._store.sweep(what)


async def test_a_sweep_that_fails_is_tried_again(
    memory: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "PERIOD", 0.001)
    counting = declare(counts)
    app = await memory.open(counting)
    run = await app.start(counting, 1)
    await run.result()
    broken: Any = Broken(app.store)
    sweeper = retention.Sweeper(broken, app.clock, plan)
    sweeper.open()

    async def gone() -> bool:
        return await app.store.run(run.id) is None

    await until(gone)
    await sweeper.close()
    assert "the database is away" in caplog.text
    assert "ValueError: odd" in caplog.text


PLAN = """
rollout:
  name: next
  split: research
  baseline: old
  candidate: new
  guards: [errors: {}]
  stages: [50%, 100%]
"""


async def test_the_feeds_of_a_rollout_under_way_stay(world: World) -> None:
    app = await world.open()
    plan = parse_plan(PLAN, "aura.yaml")
    await app.rollouts.start(plan)
    for split in ("research", "other"):
        op = AppendFeed(f"observations/{split}", (b"{}", b"{}", b"{}"))
        await app.committer.submit(op)
    await app.rollouts.order("next", "hold", by="me")
    what = replace(await app.rollouts.sweep_plan(60.0), age=-60.0)
    assert what.keep == ("observations/research", "orders/rollout-next-1")
    assert (await app.store.sweep(what)).items == 2
    assert len(await app.store.feed("observations/research")) == 3
    assert len(await app.store.feed("observations/other")) == 1
    await app.rollouts.order("next", "rollback", by="me")
    await app.run("rollout-next-1").result(timeout=60)
    what = replace(await app.rollouts.sweep_plan(60.0), age=-60.0)
    assert what.keep == ()
    assert (await app.store.sweep(what)).items == 3
    assert len(await app.store.feed("observations/research")) == 1


async def test_no_feed_is_swept_while_a_rollout_cannot_be_read(
    memory: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = await memory.open()
    await app.store.commit([PutDocument("rollout", "odd", b"no JSON")])
    assert (await app.rollouts.sweep_plan(60.0)).feeds == ()
    assert "no feed is cleared" in caplog.text


@pytest.mark.parametrize("given", [0, 59.9, -1, float("nan"), timedelta(seconds=1)])
def test_a_short_retention_is_refused(given: float | timedelta) -> None:
    with pytest.raises(ConfigError, match="retention is"):
        Config(retention=given)


def test_retention_in_seconds() -> None:
    assert Config().retention_seconds == 30 * 86_400.0
    assert Config(retention=timedelta(days=2)).retention_seconds == 172_800.0
    assert Config(retention=90.5).retention_seconds == 90.5
    assert Config(retention=None).retention_seconds is None
