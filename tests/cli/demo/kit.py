"""Records as a demo leaves them, made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aura.cli.demo.crash import CrashFigures, RunFate
from aura.cli.demo.figures import Release, Story
from aura.cli.demo.model import GOOD, LEGACY, Exchange, Note
from aura.delivery.decide import RolloutState
from aura.delivery.observation import Observation
from aura.delivery.plan import Plan, parse_plan
from aura.delivery.status import Event, RolloutStatus, nothing_seen, status_of
from aura.store.base import Entry, RunRecord, RunState

BEGAN = 1_700_000_000.0

MAIN = parse_plan(
    """
rollout:
  name: replace-legacy
  split: research
  baseline: legacy
  candidate: research@2.0.0
  sla: 800ms
  guards: [errors, latency]
  stages: [shadow: {min_requests: 1}, 50%, 100%]
  defaults: {min_requests: 1, min_time: 0s}
"""
)
CANARY = parse_plan(
    """
rollout:
  name: release-2.1.0
  split: research
  baseline: research@2.0.0
  candidate: research@2.1.0
  guards: [errors]
  stages: [15%, 100%]
  defaults: {min_requests: 60, min_time: 5s}
"""
)


def exchange(at: float, **changes: Any) -> Exchange:
    """A good answer of the legacy service, sent `at` seconds after the beginning."""
    made = Exchange(BEGAN + at, "user-001", 0, LEGACY, "", 200, 0.05, "ok")
    return replace(made, **changes)


def observation(at: float, arm: str, **changes: Any) -> Observation:
    """A good request on an arm, ended `at` seconds after the beginning, 50 ms after it was sent."""
    made = Observation("research", 1, arm, "user-001", BEGAN + at, ok=True, latency=0.05, share=0.5)
    return replace(made, **changes)


def entry(run: str, seq: int, name: str, at: float = 0.0, kind: str = "step") -> Entry:
    """A journal entry, recorded `at` seconds after the beginning."""
    return Entry(
        run, seq, f"0/{name}#1", kind, "", None, b"{}", None, 1, BEGAN + at, BEGAN + at
    )  # fmt: skip


def record(run: str, *, epoch: int = 1, state: RunState = "completed", **changes: Any) -> RunRecord:
    """A run of the service, finished two seconds after the beginning."""
    made = RunRecord(
        run, "research", "2.0.0", state, epoch, None, "test", b"", "", b"", None, None, False,
        epoch - 1, BEGAN, BEGAN, BEGAN + 2,
    )  # fmt: skip
    return made._replace(**changes)


def status(plan: Plan, state: RolloutState, *events: Event) -> RolloutStatus:
    """A rollout's status with a history, opened at epoch 1."""
    began = Event(BEGAN, "start", "begins", "")
    made = status_of(plan, "run-1", state, nothing_seen(plan, (3,)), "", (began, *events))
    return replace(made, opened=(1, BEGAN, 0))


def completed() -> Release:
    """The rollout of 2.0.0, completed after 20 seconds."""
    events = [
        Event(BEGAN + 5, "advance", "on", "", BEGAN + 5),
        Event(BEGAN + 10, "advance", "on", "", BEGAN + 10),
        Event(BEGAN + 20, "complete", "over", "", BEGAN + 20),
    ]
    return Release(MAIN, status(MAIN, RolloutState(2, "completed", BEGAN + 20), *events))


def tripped(*, since: float = 30.0, done: float = 30.04) -> Release:
    """The canary, tripped and rolled back at those seconds after the beginning."""
    event = Event(BEGAN + done, "rollback", "errors: too many", "", BEGAN + done, BEGAN + since)
    made = status(CANARY, RolloutState(0, "rolled-back", BEGAN + done), event)
    first = replace(made.history[0], at=BEGAN + 25)
    return Release(CANARY, replace(made, guard="errors", history=(first, event)))


FATE = RunFate(
    "research-1", "research 2.0.0", 1, 2, "completed", ("analyse_domain",), ("search",), True, 2.0
)
CRASH = CrashFigures(1, 1, 0, 0, 0, 4, 4, 20, 5, 1900.0, (FATE,))


def failed_on_canary(at: float) -> Observation:
    """A request that failed on 2.1.0 and was answered by 2.0.0."""
    return observation(at, "research@2.1.0", ok=False, fallback=True, epoch=2, share=0.15)


def story(**changes: Any) -> Story:
    """A demo in which all went well."""
    made = Story(
        began=BEGAN,
        ended=BEGAN + 40,
        rate=12.0,
        quick=False,
        database="SQLite",
        exchanges=tuple(exchange(at / 2, arm=LEGACY if at < 20 else GOOD) for at in range(60)),
        observations=(
            observation(2, GOOD, shadow=True, share=0.0),
            *(observation(at / 2, LEGACY) for at in range(20)),
            *(observation(10 + at / 2, GOOD, latency=0.01) for at in range(20)),
            *(failed_on_canary(28 + at / 2) for at in range(4)),
        ),
        main=completed(),
        canaries=(tripped(), tripped()),
        crash=CRASH,
        killed_at=BEGAN + 7,
        differences=(),
        compared=10,
        fields=600,
        notes=(Note(BEGAN + 1, "all processes are ready", "good"),),
    )  # fmt: skip
    return replace(made, **changes)
