"""Noise of the baseline, comparers of the user's, and what copies may cost."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aura.gateway.client import Receive, Scope, Send
from aura.gateway.comparing import MOST_HANGS, ComparerFailed, Comparers
from aura.gateway.diff import Pattern, Rules, diff_documents, rules_of
from aura.gateway.shadow import Budget, ShadowLimits
from tests.gateway.conftest import Servers, Start, app_of, read_body, reply, split_of

COMPARERS = """
import time, os
def close(left, right):
    print("noise on stdout")
    return abs(left - right) < 10
def raises(left, right): raise RuntimeError("no")
def hangs(left, right):
    while True: pass
def nonsense(left, right): return "yes"
def dies(left, right): os._exit(3)
"""


@pytest.fixture
def comparers_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "house_comparers.py").write_text(COMPARERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "house_comparers"


def numbered(begin: int = 0, **more: Any) -> Any:
    """Answers with a number that is never the same twice."""
    numbers = itertools.count(begin)

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        headers = [(b"x-cost", b"0.5")]
        await reply(send, {"id": next(numbers), **more}, headers=headers)

    return app_of(handle)


async def test_fields_in_which_the_baseline_differs_from_itself_are_noise(
    start: Start, servers: Servers
) -> None:
    asked: list[bytes] = []
    legacy = numbered(total=5)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.append(dict(scope["headers"]).get(b"idempotency-key", b""))
        await legacy(scope, receive, send)

    running = await start(
        await servers.asgi(watched),
        await servers.asgi(numbered(100, total=6)),
        split=split_of(0.0, mirror=True),
        shadow=ShadowLimits(noise=0.01),
    )
    for number in range(6):
        await running.client.post("/", content=b"{}", headers={"idempotency-key": f"k{number}"})
        await running.observations(2 * number + 2)
    copies = [one for one in running.observed if one.shadow]
    assert [one.differences for one in copies] == [("$.total",)] * 6
    report = running.gateway.shadows.desk.known("s", "new")
    assert (report.compared, report.paired) == (6, 6)
    assert (report.fields["$.id"].raw, report.fields["$.id"].noise) == (6, 6)
    assert (report.fields["$.total"].raw, report.fields["$.total"].noise) == (6, 0)
    assert asked[:2] == [b"k0", b"again-shadow-k0"]


async def test_without_noise_the_baseline_is_asked_once(start: Start, servers: Servers) -> None:
    running = await start(
        await servers.asgi(numbered()), await servers.asgi(numbered()),
        split=split_of(0.0, mirror=True),
    )  # fmt: skip
    assert (await running.client.get("/")).json()["id"] == 0
    await running.observations(2)
    assert (await running.client.get("/")).json()["id"] == 1
    assert running.gateway.shadows.desk.known("s", "new").paired == 0


async def test_copies_end_with_their_budget(start: Start, servers: Servers) -> None:
    running = await start(
        await servers.asgi(numbered()),
        await servers.asgi(numbered()),
        split=split_of(0.0, mirror=True),
        shadow=ShadowLimits(max_cost=1.0),
    )
    for number in range(4):
        assert (await running.client.get("/")).status_code == 200
        await running.observations((2, 4, 5, 6)[number])
    shadows = running.gateway.shadows
    assert (shadows.sent, shadows.skipped) == (2, 2)
    report = shadows.desk._new["s", "new"]
    assert (report.cost, report.skipped) == (1.0, {"over the budget": 2})
    assert [one.metrics for one in running.observed if one.shadow] == [{"cost": 0.5}] * 2


def test_a_budget_comes_back_with_time() -> None:
    budget = Budget(1.0, window=60.0)
    budget.spend(0.0, 0.6)
    assert not budget.used_up(1.0)
    budget.spend(30.0, 0.5)
    assert budget.used_up(59.0)
    assert not budget.used_up(60.0)
    budget.spend(61.0, 5.0)
    assert budget.used_up(89.0)
    assert not budget.used_up(200.0)
    assert not Budget(None, 60.0).used_up(0.0)


async def test_comparers_decide_and_failing_ones_break_nothing(
    start: Start, servers: Servers, comparers_module: str
) -> None:
    named = {
        "near": "close",
        "far": "close",
        "raised": "raises",
        "odd": "nonsense",
        "no": "missing",
    }
    rules = Rules(
        comparers=tuple(
            (Pattern.parse(f"$.{name}"), f"{comparers_module}:{function}")
            for name, function in named.items()
        )
    )
    left: dict[str, Any] = dict.fromkeys(named, 1)
    running = await start(
        await servers.asgi(numbered(**left)),
        await servers.asgi(numbered(**left | {"near": 5, "far": 500})),
        split=split_of(0.0, mirror=True),
        route={"rules": rules},
    )
    assert (await running.client.get("/")).status_code == 200
    _, copy = await running.observations(2)
    assert copy.differences == ("$.far",)
    report = running.gateway.shadows.desk.known("s", "new")
    assert {path for path, one in report.fields.items() if one.uncompared} == {
        "$.raised", "$.odd", "$.no"
    }  # fmt: skip
    assert len(running.gateway.shadows.comparers.failures) == 3


async def test_a_comparer_that_hangs_is_killed_and_given_up(comparers_module: str) -> None:
    """The event loop goes on meanwhile, and other comparers do."""
    comparers = Comparers(timeout=0.3)
    close, hangs = f"{comparers_module}:close", f"{comparers_module}:hangs"
    assert await comparers.same(close, 1, 2)
    for _ in range(MOST_HANGS):
        comparers._known.add(hangs)  # it was imported with the other one
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        with pytest.raises(ComparerFailed, match="did not return"):
            await comparers.same(hangs, 1, 2)
        ticking.cancel()
        assert ticks > 3
        assert not await comparers.same(close, 1, 50)
    began = time.monotonic()
    with pytest.raises(ComparerFailed, match="given up"):
        await comparers.same(hangs, 1, 2)
    assert time.monotonic() - began < 5
    assert comparers.failures == {hangs: MOST_HANGS + 1}
    await comparers.close()


async def test_a_comparer_that_ends_its_process_breaks_nothing(comparers_module: str) -> None:
    comparers = Comparers()
    with pytest.raises(ComparerFailed, match="process ended"):
        await comparers.same(f"{comparers_module}:dies", 1, 2)
    assert await comparers.same(f"{comparers_module}:close", 1, 2)
    await comparers.close()
    assert "house_comparers" not in sys.modules


def test_a_comparer_is_left_its_values_wherever_both_are() -> None:
    rules = Rules(comparers=((Pattern.parse("$.items[*].score"), "m:f"),))
    left = {"items": [{"score": 1}, {"score": 2}, {}]}
    right = {"items": [{"score": 9}, {"score": 2}, {"score": 3}]}
    diffed = diff_documents(left, right, rules)
    assert [(one.path, one.left, one.right) for one in diffed.pending] == [
        ("$.items[0].score", 1, 9), ("$.items[1].score", 2, 2)
    ]  # fmt: skip
    assert [(one.path, one.kind) for one in diffed.found] == [("$.items[2].score", "added")]


def test_masked_values_are_never_shown() -> None:
    rules = Rules(masked=(Pattern.parse("$.user.email"),))
    found = diff_documents(
        {"user": {"email": "a@b.c", "n": 1}, "x": {"user": 1}},
        {"user": {"email": "d@e.f", "n": 2}},
        rules,
    ).found
    assert [(one.path, one.left, one.right) for one in found] == [
        ("$.user.email", "(masked)", "(masked)"), ("$.user.n", "1", "2"), ("$.x", '{"user": 1}', "")
    ]  # fmt: skip
    (whole,) = diff_documents({"user": {"email": "a@b.c"}}, {}, rules).found
    assert whole.left == "(masked)"


def test_bags_and_masks_need_no_comparer() -> None:
    assert diff_documents([1, 2], [2, 1], rules_of(unordered=["$"])).found == []
