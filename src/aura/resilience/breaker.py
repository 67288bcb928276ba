"""Should this be called now, after what became of the last calls?

    closed ──too many failed, or were slow──▶ open ──its time is over──▶ half-open
       ▲                                       ▲                            │
       │                                       └────one of them failed──────┤
       └──────────────────as many probes went well as are wanted────────────┘

The circuit breaker of Nygard, "Release It!" (2nd ed. 2018, 5.2), over a sliding window of time in
`BUCKETS` parts. It opens for `open_for` seconds, and twice as long each time that a probe fails, up
to `longest`; the jitter that the caller gives shortens that by up to half, so that callers that
opened together do not come back together. Everything is a value: whoever calls keeps the state,
reads the clock and draws the jitter.

>>> rules = BreakerRules(consecutive=2, open_for=1.0)
>>> state = Breaker()
>>> for at in (0.0, 0.1):
...     permit, state = decide(rules, state, at)
...     state = after(rules, state, permit, "failed", at, jitter=0.0)
>>> state.kind, decide(rules, state, 0.2)[0].wait
('open', 0.9)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

BUCKETS = 10
"""Parts of the window: what is older than the window leaves it a tenth at a time."""

Kind = Literal["closed", "half-open", "open"]
KINDS: tuple[Kind, ...] = ("closed", "half-open", "open")
"""In the order of the numbers that metrics show: 0, 1, 2."""

Outcome = Literal["ok", "slow", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens. Times in seconds, rates from 0 to 1.

    It opens when, of at least `least` calls within `window`, the share `failures` has failed, or
    the share `slows` took longer than `slow` (None: no call is slow), or when `consecutive` calls
    in a row have failed (None: however many). `probes` calls that go well close it again.
    """

    window: float = 30.0
    least: int = 20
    failures: float = 0.5
    consecutive: int | None = 10
    slow: float | None = None
    slows: float = 0.9
    open_for: float = 1.0
    longest: float = 60.0
    probes: int = 2

    def __post_init__(self) -> None:
        for name in ("window", "least", "consecutive", "slow", "open_for", "longest", "probes"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above 0, not {value}")
        for name in ("failures", "slows"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.longest < self.open_for:
            raise ValueError(f"longest ({self.longest}) is below open_for ({self.open_for})")

    def outcome(self, seconds: float, *, failed: bool) -> Outcome:
        """What a call was that took so long."""
        if failed:
            return "failed"
        return "slow" if self.slow is not None and seconds > self.slow else "ok"


class Part(NamedTuple):
    """What became of the calls of one part of the window."""

    number: int
    calls: int = 0
    failed: int = 0
    slow: int = 0


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known. `row` counts failures in a row, `until` is when an open one may be tried
    again, `opened` how often it has opened since it was last closed, `under_way` are probes without
    an outcome, `went_well` those with a good one. `turn` counts changes of `kind`: what a call
    becomes counts only in the turn that it began in."""

    kind: Kind = "closed"
    turn: int = 0
    parts: tuple[Part, ...] = ()
    row: int = 0
    until: float = 0.0
    opened: int = 0
    under_way: int = 0
    went_well: int = 0


class Permit(NamedTuple):
    """Whether a call may be made; if not, in how many seconds it is worth asking again."""

    allowed: bool
    wait: float
    turn: int


def decide(rules: BreakerRules, state: Breaker, now: float) -> tuple[Permit, Breaker]:
    """Whether to make a call now (seconds on a clock that never goes back), and the state after
    that. Of each call that is allowed `after` must be told, exactly once."""
    if state.kind == "closed":
        return Permit(True, 0.0, state.turn), state
    if state.kind == "open":
        if now < state.until:
            return Permit(False, state.until - now, state.turn), state
        state = replace(state, kind="half-open", turn=state.turn + 1, under_way=0, went_well=0)
    if state.under_way + state.went_well >= rules.probes:
        return Permit(False, rules.open_for, state.turn), state
    return Permit(True, 0.0, state.turn), replace(state, under_way=state.under_way + 1)


def after(
    rules: BreakerRules,
    state: Breaker,
    permit: Permit,
    outcome: Outcome,
    now: float,
    *,
    jitter: float,
) -> Breaker:
    """The state after a call that was allowed. "unknown" says nothing of the other side: the caller
    gave up. `jitter` is drawn from 0 to 1."""
    if permit.turn != state.turn:
        return state
    if state.kind == "half-open":
        return _probed(rules, state, outcome, now, jitter)
    if outcome == "unknown":
        return state
    state = _counted(rules, state, outcome, now)
    return _open(rules, state, now, jitter) if _tripped(rules, state) else state


def _counted(rules: BreakerRules, state: Breaker, outcome: Outcome, now: float) -> Breaker:
    number = math.floor(now * BUCKETS / rules.window)
    kept = [one for one in state.parts if number - BUCKETS < one.number]
    last = kept.pop() if kept and kept[-1].number >= number else Part(number)
    failed = outcome == "failed"
    last = Part(last.number, last.calls + 1, last.failed + failed, last.slow + (outcome == "slow"))
    return replace(state, parts=(*kept, last), row=state.row + 1 if failed else 0)


def _tripped(rules: BreakerRules, state: Breaker) -> bool:
    if rules.consecutive is not None and state.row >= rules.consecutive:
        return True
    calls = sum(one.calls for one in state.parts)
    if calls < rules.least:
        return False
    failed = sum(one.failed for one in state.parts)
    slow = sum(one.slow for one in state.parts)
    return failed >= rules.failures * calls or (slow > 0 and slow + failed >= rules.slows * calls)


def _probed(
    rules: BreakerRules, state: Breaker, outcome: Outcome, now: float, jitter: float
) -> Breaker:
    if outcome == "unknown":
        return replace(state, under_way=state.under_way - 1)
    if outcome != "ok":
        return _open(rules, state, now, jitter)
    if state.went_well + 1 >= rules.probes:
        return Breaker(turn=state.turn + 1)
    return replace(state, under_way=state.under_way - 1, went_well=state.went_well + 1)


def _open(rules: BreakerRules, state: Breaker, now: float, jitter: float) -> Breaker:
    doubled = min(state.opened, 60)
    seconds = min(rules.longest, rules.open_for * 2.0**doubled) * (1.0 - jitter / 2.0)
    return Breaker("open", state.turn + 1, until=now + seconds, opened=state.opened + 1)
