from __future__ import annotations

from aura.delivery.evidence import Tally
from aura.delivery.observation import Observation
from aura.delivery.plan import parse_plan

PLAN = parse_plan(
    """
    rollout:
      name: r
      baseline: old
      candidate: new
      sla: 1s
      guards: [errors, latency]
      stages: [shadow, 10%, 50%]
    """
)


def seen(
    arm: str,
    share: float,
    *,
    unit: str = "u",
    ok: bool = True,
    split: str = "r",
    epoch: int = 1,
    shadow: bool = False,
    at: float = 0.0,
) -> Observation:
    return Observation(
        split, epoch, arm, unit, at, ok, latency=0.25, share=share, user_ok=ok, shadow=shadow
    )


def test_counts_belong_to_the_stage_of_their_share_whenever_they_arrive() -> None:
    tally = Tally(PLAN)
    tally.fold(seen("new", 0.0, shadow=True))
    tally.fold(seen("old", 0.0))
    tally.fold(seen("new", 0.1, unit="a"))
    tally.fold(seen("new", 0.5, unit="b"))
    tally.fold(seen("new", 0.1, unit="a", ok=False))  # late, from the stage before
    shadow, tenth, half = (stage.weight for stage in PLAN.stages)
    assert [tally.evidence(stage.weight).requests for stage in PLAN.stages] == [1, 2, 1]
    assert [tally.evidence(stage.weight).units for stage in PLAN.stages] == [1, 1, 1]
    assert tally.arm(shadow, "old").requests == 1
    assert (tally.arm(tenth, "new").failed, tally.arm(tenth, "new").user_failed) == (1, 1)
    assert tally.arm(half, "new").latencies.count == 1
    assert tally.arm(half, "old").requests == 0
    assert [one.guard for one in tally.evidence(0.1).judgements] == ["errors", "latency"]


def test_other_splits_arms_and_earlier_rollouts_are_ignored() -> None:
    tally = Tally(PLAN, since=5)
    tally.fold(seen("new", 0.1, epoch=4, ok=False))
    tally.fold(seen("new", 0.1, epoch=5, split="other", ok=False))
    tally.fold(seen("newer", 0.1, epoch=5, ok=False))
    assert tally.evidence(0.1).requests == 0
    tally.fold(seen("new", 0.1, epoch=5))
    assert tally.evidence(0.1).requests == 1


def test_the_guard_that_tripped_first_is_named() -> None:
    assert Tally(PLAN).tripped is None
    tally = Tally(PLAN)
    for number in range(10):
        tally.fold(seen("new", 0.1, ok=False, at=float(number)))
    tripped = tally.tripped
    assert tripped is not None
    assert (tripped.guard, tripped.at) == ("errors", 3.0)
    assert tally.evidence(0.1).judgements[0] == tripped
