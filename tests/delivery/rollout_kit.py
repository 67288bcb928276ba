"""Rollouts under made traffic: units come at random, ask the split they follow for their arm, and
report what they had there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aura import Aura, Config
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan, parse_plan
from aura.delivery.split import Split
from aura.delivery.status import RolloutStatus
from aura.store.base import Op, Outcome

TEXT = """
rollout:
  name: t
  baseline: a
  candidate: b
  sla: 100ms
  guards:
    - errors: {max_error_rate: 20%, min_sample: 8}
    - latency: {max_p95: 500ms, min_sample: 8}
  stages:
    - shadow: {sample: 50%}
    - 30%
    - 60%
    - 100%
  defaults: {min_requests: 8, min_time: 20ms, max_time: 1m}
"""
PLAN = parse_plan(TEXT)
THROUGH = ["start", "advance", "advance", "advance", "complete"]
"""What the history of PLAN says when all goes well."""


def plan(**changes: Any) -> Plan:
    return replace(PLAN, **changes)


def short(**changes: Any) -> Plan:
    """Every stage gives up after a moment."""
    stages = tuple(replace(stage, max_time=0.15) for stage in PLAN.stages)
    return replace(PLAN, stages=stages, **changes)


def forever(**changes: Any) -> Plan:
    """No stage ever has its evidence."""
    made = plan(**changes)
    stages = tuple(replace(stage, min_requests=10**9) for stage in made.stages)
    return replace(made, stages=stages)


def app_on(database: str, **settings: Any) -> Aura:
    return Aura("test", config=Config(database=database, **({"poll": 0.05} | settings)))


def observed(split: str = "t", **changes: Any) -> Observation:
    one = Observation(split, 1, "b", "u1", time.time(), True, 0.01, share=0.3)
    return replace(one, **changes)


@dataclass(slots=True)
class Traffic:
    """See the module. `failing` is the share of an arm's requests that fail, evenly and the first
    one too, so that a guard sees it whatever the sample; `slow` is its latency in seconds. Both
    may be changed while it runs. Nothing fails while the candidate has no more than the share
    `fine_up_to`."""

    app: Aura
    split: str = "t"
    per_second: int = 1_000
    failing: dict[str, float] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    fine_up_to: float = 0.0
    splits: list[Split] = field(default_factory=list)
    went_back: list[str] = field(default_factory=list)
    sent: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    _moved: set[str] = field(default_factory=set)
    _failures_due: dict[str, float] = field(default_factory=dict)

    def hear(self, split: Split) -> None:
        """Obey the newest epoch, as a gateway does."""
        if not self.splits or split.epoch > self.splits[-1].epoch:
            if self.splits and split.seed != self.splits[-1].seed:
                self._moved.clear()
            self.splits.append(split)

    def request(self) -> None:
        split = self.splits[-1]
        unit = f"u{self.dice.randrange(500)}"
        arm = split.assign(unit)
        candidate = split.arms[1].name
        if arm == candidate:
            self._moved.add(unit)
        elif unit in self._moved:
            self.went_back.append(unit)
        share = split.share(candidate)
        mirror = split.mirror_for(unit)
        for name, shadow in ((arm, False), *(((mirror, True),) if mirror else ())):
            ok = share <= self.fine_up_to or not self._fails(name)
            latency = self.slow.get(name, 0.01)
            now = time.time()
            one = Observation(
                self.split, split.epoch, name, unit, now, ok, latency, share, shadow=shadow,
                user_ok=ok or shadow,
            )  # fmt: skip
            self.app.rollouts.observe(one)
            self.sent += 1

    def _fails(self, arm: str) -> bool:
        rate = self.failing.get(arm, 0.0)
        due = self._failures_due.get(arm, 1.0 - rate) + rate
        self._failures_due[arm] = due - (due >= 1.0)
        return due >= 1.0

    async def run(self) -> None:
        stop = self.app.rollouts.follow(self.split, self.hear)
        began, done = time.monotonic(), 0
        try:
            while True:
                await asyncio.sleep(0.004)
                due = int((time.monotonic() - began) * self.per_second)
                for _ in range(min(due - done, 100) if self.splits else 0):
                    self.request()
                done = due
        finally:
            stop()


@asynccontextmanager
async def traffic(app: Aura, **settings: Any) -> AsyncIterator[Traffic]:
    """Traffic as long as the block lasts."""
    made = Traffic(app, **settings)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    """Return when the condition holds; fail loudly when it does not come to hold."""
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up, "the condition never came to hold"
        await asyncio.sleep(0.01)


async def wait_for(
    app: Aura,
    condition: Callable[[RolloutStatus], bool],
    name: str = "t",
    timeout: float = 60.0,
) -> RolloutStatus:
    """The first status of the rollout for which the condition holds."""
    give_up = time.monotonic() + timeout
    while True:
        status = await app.rollouts.status(name)
        if condition(status):
            return status
        assert time.monotonic() < give_up, f"it never came to hold; the last was {status}"
        await asyncio.sleep(0.01)


async def ended(app: Aura, name: str = "t", timeout: float = 60.0) -> RolloutStatus:
    return await wait_for(app, lambda status: status.ended, name, timeout)


def held(status: RolloutStatus) -> bool:
    return status.state == "held"


def story(status: RolloutStatus) -> list[str]:
    return [event.what for event in status.history]


async def split_of(app: Aura, name: str = "t") -> Split:
    document = await app.store.document("split", name)
    assert document is not None
    found = Split.from_json(document.body)
    assert found.epoch == document.epoch
    return found


def check_the_way_up(splits: list[Split], candidate: str = "b") -> None:
    """Shares only ever rise over the epochs (to nothing, when it was rolled back at the end)."""
    shares = [one.share(candidate) for one in {one.epoch: one for one in splits}.values()]
    risen = shares[:-1] if len(shares) > 1 and shares[-1] == 0 else shares
    assert risen == sorted(risen)
    assert len({one.seed for one in splits}) == 1


def spy_on_commits(app: Aura, see: Callable[[Op], None]) -> None:
    """Show each operation that is about to be committed."""
    commit = app.store.commit

    async def seen(ops: Any) -> list[Outcome]:
        for op in ops:
            see(op)
        return await commit(ops)

    setattr(app.store, "commit", seen)  # noqa: B010  (a method of one object)
