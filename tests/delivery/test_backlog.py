"""Observations that come faster than they are folded put off no decision."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from aura import Aura
from aura.delivery import live, rollout, trial
from aura.delivery.live import Backlog, left_after
from aura.delivery.observation import Observation
from aura.store.base import AppendFeed, FeedItem
from tests.delivery.experiment_kit import ended as experiment_ended
from tests.delivery.experiment_kit import made, metric
from tests.delivery.rollout_kit import PLAN, app_on, ended, observed, plan, story

PAGE = 20


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (live, rollout, trial):
        monkeypatch.setattr(module, "PAGE", PAGE)


def never_ending(app: Aura, split: str, more: Callable[[], Awaitable[Observation]]) -> None:
    """There is one more page of observations whenever somebody reads one."""
    feed = app.store.feed

    async def read(name: str, after: int = 0, limit: int = 1_000) -> list[FeedItem]:
        if name == f"observations/{split}":
            some = [(await more()).to_json() for _ in range(PAGE)]
            await app.committer.submit(AppendFeed(name, tuple(some)))
        return await feed(name, after, limit)

    setattr(app.store, "feed", read)  # noqa: B010  (a method of one object)


@pytest.mark.parametrize(("ok", "last"), [(True, "complete"), (False, "rollback")])
async def test_a_rollout_decides_while_it_lags_behind(database: str, ok: bool, last: str) -> None:
    async with app_on(database) as app:

        async def more() -> Observation:
            return observed(ok=ok, user_ok=ok, share=1.0)

        never_ending(app, "t", more)
        await app.rollouts.start(plan(stages=(PLAN.stages[3],)))
        status = await ended(app)
        assert story(status) == ["start", last]
        assert await app.run(status.run).result(timeout=60) in ("completed", "rolled-back")


async def test_an_experiment_decides_while_it_lags_behind(database: str) -> None:
    """One arm does harm."""
    async with app_on(database) as app:
        units = count()

        async def more() -> Observation:
            one = await app.experiments.assign("shop", f"u{next(units)}")
            return observed(
                "shop", epoch=one.epoch, arm=one.arm, unit=one.unit, ok=one.arm == "a", share=0.5
            )  # fmt: skip

        never = made(primary=metric(effect=0.0), min_units=10**6)
        await app.experiments.start(never)
        never_ending(app, "shop", more)
        status = await experiment_ended(app)
        assert status.state == "harmed"


async def test_what_was_there_at_first_is_folded_before_the_decision() -> None:
    class Then:
        asked = 0

        async def moment(self) -> float:
            self.asked += 1
            return 100.0

    store: Any = Then()
    backlog = Backlog(store)
    assert not await backlog.remains(math.inf)
    assert store.asked == 0, "a query for nothing"
    assert await backlog.remains(99.0)
    assert await backlog.remains(100.0)
    assert not await backlog.remains(100.5)
    assert store.asked == 1
    page = [FeedItem(number, float(number), b"") for number in range(1, PAGE + 1)]
    assert left_after(page) == PAGE
    assert left_after(page[1:]) == left_after([]) == math.inf
