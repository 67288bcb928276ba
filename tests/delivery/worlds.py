"""Made worlds for plans: requests at a steady rate, assigned by the weight that the plan has."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from aura.delivery.backtest import Backtest, Replay
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan, parse_plan
from aura.stats.hashing import BUCKETS, growthbook_bucket

BEGAN = 1_760_000_000.0

TEXT = """
rollout:
  name: w
  baseline: old
  candidate: new
  sla: 1s
  guards: [errors: {max_error_rate: 10%, min_sample: 20, window: 60s}]
  stages: [10%, 50%, 100%]
  defaults: {min_requests: 100, min_time: 30s, max_time: 10m}
"""


def planned(*lines: str, text: str = TEXT) -> Plan:
    """The plan above with more settings."""
    return parse_plan(text + "".join(f"  {line}\n" for line in lines))


@dataclass(frozen=True, slots=True)
class Fate:
    """What a request meets on an arm."""

    fails: float = 0.0
    latency: float = 0.05


Fates = Callable[[str, float, float], Fate]
"""Of the arm, the candidate's weight and the seconds since the beginning."""


def run(plan: Plan, fates: Fates, seconds: float, rate: float = 10.0, seed: int = 1) -> Backtest:
    """What becomes of the plan in that world."""
    return live(plan, fates, seconds, rate, seed).result()


def live(plan: Plan, fates: Fates, seconds: float, rate: float = 10.0, seed: int = 1) -> Replay:
    replay, dice = Replay(plan, BEGAN), random.Random(seed)
    for number in range(int(seconds * rate)):
        after = number / rate
        unit = f"u{dice.randrange(5_000)}"
        share = replay.weight
        on = growthbook_bucket("seed", unit) < share * BUCKETS
        arm = plan.candidate if on else plan.baseline
        fate = fates(arm, share, after)
        ok = dice.random() >= fate.fails
        at = BEGAN + after
        replay.see(
            Observation(plan.split, 1, arm, unit, at, ok, fate.latency, share=share, user_ok=ok),
            at,
        )
    return replay


def whats(found: Backtest) -> list[str]:
    return [one.what for one in found.history]
