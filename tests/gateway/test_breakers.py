"""Circuit breakers before targets, as users of the gateway meet them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aura.clock import SystemClock
from aura.errors import BreakerOpen, ConfigError, RequestRefused, TargetFailed
from aura.gateway.build import breakers, build_targets
from aura.gateway.config import parse_gateway
from aura.gateway.guarded import GuardedTarget
from aura.gateway.targets import Answer, Request
from aura.resilience.breaker import BreakerRules
from tests.gateway.conftest import Start, split_of

RULES = BreakerRules(consecutive=3, open_for=5.0, probes=1)


class HandClock(SystemClock):
    """Goes on when it is told to."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


class Scripted:
    """Answers as it is told to."""

    whole = False

    def __init__(self) -> None:
        self.calls = 0
        self.answer: Answer | BaseException = Answer(200, [], b"{}")

    async def call(self, _: Request) -> Answer:
        self.calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        pass


def request() -> Request:
    return Request("/", "GET", b"/", (), b"")


async def test_a_candidate_that_is_down_is_not_asked_and_the_baseline_answers(start: Start) -> None:
    legacy, new, clock = Scripted(), Scripted(), HandClock()
    new.answer = TargetFailed("gone", code="target-unreachable")
    guarded = GuardedTarget(new, RULES, clock)
    running = await start(
        legacy, guarded, split=split_of(1.0), route={"fallback": True, "sla": 60.0}
    )
    for _ in range(8):
        answer = await running.client.get("/x")
        assert (answer.status_code, answer.headers["x-aura-arm"]) == (200, "legacy")
    assert new.calls == 3
    told = [(one.arm, one.ok, one.error, one.fallback, one.user_ok) for one in running.observed]
    assert (
        told
        == [("new", False, "target-unreachable", True, True)] * 3
        + [("new", False, "breaker-open", True, True)] * 5
    )
    new.answer = Answer(200, [], b"{}")
    clock.at += 5.0
    answer = await running.client.get("/x")
    assert answer.headers["x-aura-arm"] == "new"
    assert guarded.state.kind == "closed"


async def test_without_a_fallback_it_is_503_and_says_when(start: Start) -> None:
    legacy, clock = Scripted(), HandClock()
    legacy.answer = Answer(500, [], b"{}")
    running = await start(GuardedTarget(legacy, RULES, clock))
    for _ in range(3):
        assert (await running.client.get("/x")).status_code == 500
    answer = await running.client.get("/x")
    assert answer.status_code == 503
    assert answer.json()["code"] == "breaker-open"
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert legacy.calls == 3
    assert [one.error for one in running.observed] == ["status-500"] * 3 + ["breaker-open"]


async def test_what_is_not_the_targets_fault_does_not_open_it() -> None:
    inner = Scripted()
    guarded = GuardedTarget(inner, RULES, HandClock())
    for error in (
        RequestRefused("no", status=422, code="x"),
        TargetFailed("bad", code="unsafe-header"),
        asyncio.CancelledError(),
    ):
        inner.answer = error
        for _ in range(5):
            with pytest.raises(type(error)):
                await guarded.call(request())
    assert guarded.state.kind == "closed"
    inner.answer = TargetFailed("gone", code="target-reset")
    for _ in range(3):
        with pytest.raises(TargetFailed):
            await guarded.call(request())
    with pytest.raises(BreakerOpen) as told:
        await guarded.call(request())
    assert 2.5 <= told.value.retry_after <= 5.0


CONFIG = """
gateway:
  routes: [{{path: /*, split: s, baseline: a}}]
  targets:
    a: {{http: "http://127.0.0.1:1", breaker: {breaker}}}
"""


def target_of(breaker: str) -> Any:
    config = parse_gateway(CONFIG.format(breaker=breaker))
    assert config is not None
    targets = build_targets(config, runner=None, clock=SystemClock(), watch=lambda: None)
    return breakers(targets)["a"]


def test_a_breaker_in_the_configuration() -> None:
    assert target_of("{}").rules == BreakerRules()
    found = target_of("{failures: 25%, slow: 2s, open_for: 500ms, least: 5, probes: 1}")
    assert found.rules == BreakerRules(failures=0.25, slow=2.0, open_for=0.5, least=5, probes=1)


@pytest.mark.parametrize(
    "wrong", ["{failures: 0%}", "{open_for: 2m}", "{retries: 3}", "{least: none}", "on"]
)
def test_a_breaker_that_cannot_be_is_refused_with_its_line(wrong: str) -> None:
    with pytest.raises(ConfigError, match=":5: "):
        target_of(wrong)
