"""What a process obeys: the newest epoch it has heard of, and its baseline when it cannot know."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.delivery.holder import SplitHolder
from aura.delivery.split import Arm, Split
from aura.errors import ConfigError
from aura.gateway.config import parse_gateway


class Hands:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    def advance(self, seconds: float) -> None:
        self.time += seconds


UNITS = [f"user-{number}" for number in range(200)]


def split(epoch: int, share: float, *, moving: bool = True) -> Split:
    arms = (Arm("old", round(1 - share, 4)), Arm("new", share))
    return Split("s", epoch, "seed", arms, moving=moving)


def sent(holder: SplitHolder, arm: str = "new") -> set[str]:
    found = holder.current
    return {unit for unit in UNITS if found is not None and found.assign(unit) == arm}


def holder_at(clock: Hands, one: Split) -> SplitHolder:
    holder = SplitHolder(clock=clock, freshness=2.0)
    holder.offer(one)
    holder.confirm(one.epoch, clock.monotonic())
    return holder


def test_a_split_that_is_moved_lapses_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    clock = Hands()
    holder = holder_at(clock, split(3, 0.5))
    before = sent(holder)
    assert len(before) > 50
    clock.advance(2.0)
    assert (sent(holder), holder.lapsed) == (before, False)
    clock.advance(0.01)
    with caplog.at_level(logging.WARNING):
        assert (sent(holder), holder.lapsed, holder.lapses) == (set(), True, 1)
        assert sent(holder) == set()
    assert len(caplog.records) == 1
    assert "until it is, old serves everybody" in caplog.text
    known = holder.known()
    assert known is not None
    assert (known.epoch, known.lapsed, known.weights) == (3, True, {"old": 1.0, "new": 0.0})
    found = holder.current
    assert found is not None
    assert (found.epoch, found.share("new")) == (3, 0.0)  # an honest share for the guards
    holder.confirm(3, clock.monotonic())
    assert (sent(holder), holder.lapsed) == (before, False)
    assert "confirmed again" in caplog.text


def test_one_whose_rollout_has_ended_is_obeyed_for_ever() -> None:
    clock = Hands()
    holder = holder_at(clock, split(7, 1.0, moving=False))
    clock.advance(1e6)
    assert sent(holder) == set(UNITS)
    assert not holder.lapsed


def test_a_look_counts_from_when_it_began() -> None:
    """Its answer may have been long on the way, or the process was stopped meanwhile."""
    clock = Hands()
    holder = holder_at(clock, split(1, 0.5))
    began = clock.monotonic()
    clock.advance(30.0)
    holder.confirm(1, began)
    assert holder.lapsed


def test_an_older_epoch_confirms_nothing() -> None:
    """The database was restored from a copy: what is obeyed cannot be known to be right."""
    clock = Hands()
    holder = holder_at(clock, split(5, 0.5))
    clock.advance(1.0)
    assert not holder.offer(split(4, 1.0))
    holder.confirm(4, clock.monotonic())
    clock.advance(1.5)
    assert (sent(holder), holder.lapsed) == (set(), True)


def test_without_a_confirmation_there_is_no_candidate() -> None:
    holder = SplitHolder(clock=Hands())
    assert (holder.current, holder.known(), holder.lapsed) == (None, None, False)
    holder.offer(split(1, 0.5))
    assert holder.lapsed
    assert sent(holder) == set()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 9)),
        st.tuples(st.just("confirm"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 1.9, 2.1])),
    ),
    max_size=60,
)


@given(steps, st.lists(st.integers(0, 100), min_size=10, max_size=10), st.integers(1, 10))
def test_a_unit_never_gets_the_bad_arm_after_a_newer_epoch(
    story: list[tuple[str, float]], shares: list[int], bad: int
) -> None:
    """Epochs rise up to the rollback at `bad`, and news comes in any order, late and twice; what
    one process has obeyed never goes back, and a lapse sends nobody to the candidate."""
    shares = sorted(shares)
    splits = [split(n + 1, (shares[n] if n + 1 < bad else 0) / 100) for n in range(10)]
    clock = Hands()
    holder = SplitHolder(clock=clock, freshness=2.0)
    newest, on_candidate = 0, set[str]()
    for what, value in story:
        if what == "offer":
            holder.offer(splits[int(value)])
        elif what == "confirm":
            holder.confirm(int(value) + 1, clock.monotonic())
        else:
            clock.advance(value)
        found = holder.current
        if found is None:
            continue
        assert found.epoch >= newest
        newest = found.epoch
        now = sent(holder)
        if newest >= bad or holder.lapsed:
            assert now == set()
        else:
            assert now >= on_candidate  # raising weights moves nobody back
            on_candidate = now


@given(st.integers(0, 100), st.lists(st.integers(0, 3), max_size=20))
def test_two_processes_agree_on_every_assignment(share: int, order: list[int]) -> None:
    """Whatever they heard before and in whatever order: the same epoch is the same arm."""
    splits = [split(n + 1, share * (n + 1) / 400) for n in range(4)]
    one, other = SplitHolder(), SplitHolder()
    for number in order:
        one.offer(splits[number])
    for holder in (one, other):
        holder.offer(Split.from_json(splits[3].to_json()))
    assert sent(one) == sent(other)
    assert sent(one, "old") == set(UNITS) - sent(one)


GATEWAY = """
gateway:
  routes: [{{path: /, split: s, baseline: old}}]
  targets: {{old: {{http: "http://127.0.0.1:1"}}}}
  freshness: {0}
"""


def test_freshness_is_configured() -> None:
    config = parse_gateway(GATEWAY.format("1500ms"))
    assert config is not None
    assert config.freshness == 1.5
    for wrong, why in (("0s", "positive"), ("900ms", "1s or more"), ("2", "its unit")):
        with pytest.raises(ConfigError, match=why):
            parse_gateway(GATEWAY.format(wrong))
