"""The circuit breaker: a value, and decisions about it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.resilience.breaker import BUCKETS, Breaker, BreakerRules, Outcome, Permit, after, decide

RULES = BreakerRules(
    window=10.0, least=4, failures=0.5, consecutive=3, slow=1.0, slows=0.75, open_for=2.0,
    longest=12.0, probes=2,
)  # fmt: skip


def called(
    state: Breaker, outcome: Outcome, at: float, rules: BreakerRules = RULES, jitter: float = 0.0
) -> Breaker:
    permit, state = decide(rules, state, at)
    assert permit.allowed
    return after(rules, state, permit, outcome, at, jitter=jitter)


def after_all(outcomes: str, rules: BreakerRules = RULES, step: float = 0.1) -> Breaker:
    names: dict[str, Outcome] = {"f": "failed", "o": "ok", "s": "slow", "u": "unknown"}
    state = Breaker()
    for number, one in enumerate(outcomes):
        state = called(state, names[one], number * step, rules)
    return state


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ("ffo", "closed"),
        ("fff", "open"),  # three in a row
        ("fofo", "open"),  # half of four
        ("ofo", "closed"),  # too few
        ("ooofo", "closed"),
        ("sss", "closed"),
        ("ssso", "open"),  # three of four were slow
        ("sofs", "open"),  # a failure is no better than a slow call
        ("uuuuuu", "closed"),  # nobody knows what these were
    ],
)
def test_when_it_opens(outcomes: str, kind: str) -> None:
    assert after_all(outcomes).kind == kind


def test_what_is_older_than_the_window_does_not_count() -> None:
    rules = BreakerRules(window=10.0, least=2, failures=0.5, consecutive=None)
    state = called(Breaker(), "failed", 0.0, rules)
    assert called(state, "ok", 8.0, rules).kind == "open"
    assert called(called(state, "ok", 10.5, rules), "ok", 10.6, rules).kind == "closed"


def test_open_says_when_and_is_half_open_then() -> None:
    state = after_all("fff")
    assert decide(RULES, state, 0.2) == (Permit(False, 2.0, 1), state)
    assert decide(RULES, state, 1.2)[0].wait == pytest.approx(1.0)
    first, state = decide(RULES, state, 2.2)
    second, state = decide(RULES, state, 2.2)
    assert (first.allowed, second.allowed, state.kind) == (True, True, "half-open")
    assert not decide(RULES, state, 2.3)[0].allowed  # so many probes are enough
    state = after(RULES, state, first, "ok", 2.4, jitter=0.0)
    assert state.kind == "half-open"
    state = after(RULES, state, second, "ok", 2.5, jitter=0.0)
    assert state == Breaker(turn=3)


def test_each_failed_probe_doubles_the_time_up_to_the_longest() -> None:
    state, at, waits = after_all("fff"), 0.2, []
    for _ in range(5):
        waits.append(decide(RULES, state, at)[0].wait)
        at = state.until
        state = called(state, "failed", at)
    assert waits == pytest.approx([2.0, 4.0, 8.0, 12.0, 12.0])
    for number in range(200):  # and no overflow
        at = state.until
        state = called(state, "slow" if number % 2 else "failed", at)
    assert state.until - at == pytest.approx(12.0)


def test_the_jitter_shortens_by_up_to_half() -> None:
    for jitter, seconds in ((0.0, 2.0), (0.5, 1.5), (1.0, 1.0)):
        state = Breaker()
        for _ in range(3):
            state = called(state, "failed", 0.0, jitter=jitter)
        assert state.until == pytest.approx(seconds)


def test_a_probe_that_says_nothing_gives_its_place_back() -> None:
    state = after_all("fff")
    at = state.until
    first, state = decide(RULES, state, at)
    _, state = decide(RULES, state, at)
    assert not decide(RULES, state, at)[0].allowed
    state = after(RULES, state, first, "unknown", at, jitter=0.0)
    assert decide(RULES, state, at)[0].allowed


def test_what_began_before_it_opened_says_nothing_of_later() -> None:
    old, state = decide(RULES, Breaker(), 0.0)
    for _ in range(3):
        state = called(state, "failed", 0.0)
    _, state = decide(RULES, state, state.until)
    assert after(RULES, state, old, "failed", 5.0, jitter=0.0) == state
    assert after(RULES, state, old, "ok", 5.0, jitter=0.0) == state


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 0.0}, {"least": 0}, {"failures": 0.0}, {"failures": 1.5}, {"consecutive": 0},
        {"slow": 0.0}, {"slows": -0.1}, {"open_for": -1.0}, {"probes": 0},
        {"open_for": 5.0, "longest": 1.0}, {"longest": float("inf")}, {"window": float("nan")},
    ],
)  # fmt: skip
def test_rules_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|below"):
        BreakerRules(**wrong)


STEPS = st.lists(
    st.tuples(
        st.floats(0, 4),  # seconds since the last one
        st.sampled_from(["ok", "slow", "failed", "unknown", "ask"]),
        st.floats(0, 1),
    ),
    max_size=120,
)


@given(STEPS, st.integers(1, 4), st.integers(1, 5) | st.none())
def test_whatever_happens_it_is_bounded_and_comes_back(
    steps: list[tuple[float, str, float]], probes: int, consecutive: int | None
) -> None:
    rules = BreakerRules(
        window=10.0, least=4, consecutive=consecutive, slow=1.0, open_for=2.0, longest=12.0,
        probes=probes,
    )  # fmt: skip
    state, now = Breaker(), 0.0
    waiting: list[Permit] = []
    for seconds, what, jitter in steps:
        now += seconds
        if what == "ask" or not waiting:
            permit, state = decide(rules, state, now)
            if permit.allowed:
                waiting.append(permit)
            else:
                assert permit.wait > 0
                assert state.kind != "closed"
        else:
            outcome: Any = "unknown" if what == "ask" else what
            state = after(rules, state, waiting.pop(0), outcome, now, jitter=jitter)
        assert len(state.parts) <= BUCKETS + 1
        assert state.under_way >= 0
        assert state.under_way + state.went_well <= probes
        assert state.kind != "open" or 0 <= state.until - now <= 12.0 or state.until <= now
    for permit in waiting:
        state = after(rules, state, permit, "unknown", now, jitter=0.0)
    for _ in range(2 * probes + 1):  # when all goes well from now on, it closes
        now = max(now, state.until)
        permit, state = decide(rules, state, now)
        if state.kind == "closed":
            break
        assert permit.allowed
        state = after(rules, state, permit, "ok", now, jitter=0.0)
    assert state.kind == "closed"


@given(st.lists(st.sampled_from(["ok", "failed", "slow"]), max_size=60))
def test_it_opens_exactly_when_the_counts_say_so(outcomes: list[str]) -> None:
    rules = BreakerRules(window=1_000.0, least=5, failures=0.6, consecutive=4, slow=1.0, slows=0.8)
    state, seen = Breaker(), list[str]()
    for one in outcomes:
        outcome: Any = one
        state = called(state, outcome, 1.0, rules)
        seen.append(one)
        failed, slow = seen.count("failed"), seen.count("slow")
        enough = len(seen) >= 5
        row = seen[-4:] == ["failed"] * 4
        late = slow > 0 and slow + failed >= 0.8 * len(seen)
        assert (state.kind == "open") == (row or (enough and (failed >= 0.6 * len(seen) or late)))
        if state.kind == "open":
            return
