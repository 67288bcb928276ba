"""What is asked of a world: runs with random plans, and what their callers do meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from aura.store.base import PRIORITIES

Plan = list[Any]
NARROW, PLACES, PER_KEY, STARTS, PER = "narrow", 2, 1, 3, 1.0
"""The queue: so many of its runs at once, in all and of a key, and begun within so many seconds."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One run and what its caller does. Times in seconds: `at` of the world, the others after the
    start. A signal is (after, name, id, priority, how often it is sent); `helper` says that a
    worker's process starts the run, too. One with a `key` waits in the queue NARROW, one with
    `each` runs `turns` with so many of its signals and updates in each execution."""

    id: str
    at: float
    plan: Plan
    signals: tuple[tuple[float, str, str, str, int], ...] = ()
    cancel_at: float | None = None
    helper: bool = False
    key: str | None = None
    each: int = 0
    updates: tuple[tuple[float, str, int], ...] = ()
    """(after, id, how often it is sent)"""


def errands(random: Random) -> list[Errand]:
    if random.random() < 0.12:
        return [_queued(random, f"q{number}") for number in range(1, random.randint(3, 5) + 1)]
    count = random.choice((1, 2, 2, 3))
    made = [_errand(random, f"r{number}") for number in range(1, count + 1)]
    if random.random() < 0.15:
        made[-1] = _turning(random, "t1")
    elif random.random() < 0.2:
        made[-1] = _waking(random, "w1")
    return made


def _queued(random: Random, run_id: str) -> Errand:
    """A run in a queue with limits."""
    plan = [_act(random, random.choice(("effect", "look", "sleep", "book", "flaky")), deep=False)]
    return Errand(run_id, random.random(), [*plan, ["effect", 0.2]], key=random.choice("ab"))


def _turning(random: Random, run_id: str) -> Errand:
    """A run that begins anew again and again, with signals and updates all the time."""
    asks = [[random.choice(("signal", "update"))] for _ in range(random.randint(2, 6))]
    signals, updates = [], []
    for at, (kind,) in enumerate(asks):
        after, times = random.expovariate(1.5), random.choice((1, 1, 2))
        if kind == "signal":
            signals.append((after, "turn", f"s-{at}", random.choice(PRIORITIES), times))
        else:
            updates.append((after, f"u-{at}", times))
    each = random.choice((1, 1, 2))
    return Errand(
        run_id, random.random(), asks, tuple(signals), each=each, updates=tuple(updates)
    )  # fmt: skip


def _waking(random: Random, run_id: str) -> Errand:
    """A run that is mostly out of memory, and is woken by signals again and again."""
    plan: Plan = []
    signals = []
    for at in range(random.randint(2, 6)):
        name = random.choice("ab")
        plan.append(["receive", name, random.choice((None, None, 30.0))])
        if random.random() < 0.5:
            plan.append(_act(random, random.choice(("effect", "look", "book", "emit")), deep=False))
        after, times = at * random.uniform(0.3, 1.5), random.choice((1, 1, 2))
        signals.append((after, name, f"w{at}-{name}", random.choice(PRIORITIES), times))
    cancelled = random.uniform(0.0, 6.0) if random.random() < 0.1 else None
    return Errand(run_id, random.random(), plan, tuple(signals), cancelled)


def _errand(random: Random, run_id: str) -> Errand:
    plan = _plan(random, random.randint(1, 4), deep=True)
    signals = [
        (
            random.expovariate(1.5), name, f"s{at}-{name}", random.choice(PRIORITIES),
            random.choice((1, 1, 2)),
        )
        for at, name in enumerate(_awaited(plan))
        if name is not None
    ]  # fmt: skip
    cancelled = random.random() < 0.1
    return Errand(
        run_id,
        random.random(),
        plan,
        tuple(signals),
        random.uniform(0.0, 3.0) if cancelled else None,
        random.random() < 0.3,
    )


def _awaited(plan: Plan) -> list[str | None]:
    """The names of all signals that a plan waits for, once for each wait."""
    names: list[str | None] = []
    for act, *rest in plan:
        if act == "receive":
            names.append(rest[0])
        elif act in ("gather", "race", "limited"):
            for branch in rest[1:] if act == "limited" else rest:
                names += _awaited(branch)
    return names


def _pause(random: Random) -> float:
    """How long a step takes, in seconds: mostly no time worth the name, sometimes very long."""
    return round(random.choice((0.0, 0.0, 0.001, 0.05, 0.3)) * random.uniform(0.5, 1.5), 6)


_KINDS = (
    *("effect",) * 4, *("look",) * 3, *("flaky",) * 2, *("sleep",) * 2, *("receive",) * 2,
    *("saga",) * 2, *("gather",) * 3, "race", "threaded", "failing", "value", "show",
    *("child",) * 2, *("limited",) * 2, *("book",) * 2, *("emit",) * 3, "tell",
)  # fmt: skip


_DEEP = ("gather", "race", "saga", "child", "limited")


def _plan(random: Random, length: int, *, deep: bool) -> Plan:
    return [_act(random, random.choice(_KINDS), deep) for _ in range(length)]


def _act(random: Random, kind: str, deep: bool) -> list[Any]:
    if kind in _DEEP:
        return _nested(random, kind) if deep else ["effect", _pause(random)]
    if kind in ("emit", "tell"):
        return [kind, random.choice("xy")]
    if kind in ("effect", "look", "book"):
        return [kind, _pause(random)]
    if kind == "flaky":
        return [kind, random.choice((0, 1, 2, 9))]
    if kind == "failing":
        return [kind, random.choice(("doomed", "late"))]
    if kind == "sleep":
        return [kind, _about(random, (0.0, 0.01, 0.4, 3.0))]
    if kind == "receive":
        return [kind, random.choice("ab"), random.choice((None, 0.3, 2.0))]
    return [kind]


def _nested(random: Random, kind: str) -> list[Any]:
    """An act that has a plan of its own, or several."""
    if kind == "saga":
        parts: list[Any] = [_pause(random) for _ in range(random.randint(1, 3))]
        if random.random() < 0.4:
            parts.append([_pause(random), _pause(random)])
        return [kind, parts, random.random() < 0.5]
    count = random.choice((2, 2, 3)) if kind in ("gather", "race") else 1
    plans = [_plan(random, random.randint(1, 3), deep=False) for _ in range(count)]
    if kind == "child":
        return [kind, [_in_time(act) for act in plans[0]]]
    if kind == "limited":
        return [kind, _about(random, (0.01, 0.2, 3.0)), *plans]
    return [kind, *plans]


def _about(random: Random, seconds: tuple[float, ...]) -> float:
    return round(random.choice(seconds) * random.uniform(0.5, 1.5), 6)


def _in_time(act: list[Any]) -> list[Any]:
    """Nobody sends signals to children, so they do not wait for ever."""
    return [*act[:2], 0.3] if act[0] == "receive" else act
