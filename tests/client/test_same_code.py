"""One body of code, in process and over HTTP: the same verbs, the same values, the same errors.

That both are an `App` is checked by mypy, where they are given to the bodies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aura import Aura
from aura.client import App, Client
from aura.delivery.shadow import Example, Finding, ShadowReport
from aura.engine import RunFilter
from aura.errors import (
    AuraError,
    InvalidInput,
    PayloadTooLarge,
    RegistrationError,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunEnded,
    RunFailed,
    RunNotFound,
    UnknownDecommission,
    UnknownFlow,
    UnknownQueue,
    UnknownWorkflow,
    UpdateRejected,
)
from tests.client.conftest import Served
from tests.client.kit import (
    Receipt,
    broken_flow,
    charge_flow,
    measures_flow,
    routes_flow,
    steps_fail_flow,
    talks_flow,
    waits_flow,
)

AT = datetime(2026, 3, 1, 12, 30, 0, 250_000, tzinfo=UTC)


@pytest.fixture(params=["in process, sqlite", "over HTTP, sqlite", "over HTTP, postgres"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(how: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if "postgres" in how:
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "aura.db")


@pytest.fixture
async def app(how: str, served: Served) -> AsyncIterator[App]:
    if how.startswith("in process"):
        local: App = served.app
        yield local
        return
    async with Client(served.url) as client:
        remote: App = client
        yield remote


async def test_typed_values_go_in_and_come_out(app: App) -> None:
    run = await app.start(charge_flow, "a/1", Decimal("0.10"), AT, b"\x00\xff", id="c/1")
    receipt: Receipt = await run.result(timeout=60)
    assert receipt == Receipt("a/1", Decimal("0.10"), AT, b"\x00\xff")
    assert isinstance(receipt.amount, Decimal)
    again = await app.start(charge_flow, "a/1", amount=Decimal("0.10"), at=AT, proof=b"\x00\xff",
                            id="c/1")  # fmt: skip
    assert again.id == "c/1"
    with pytest.raises(RunConflict, match="c/1 exists with another input"):
        await app.start(charge_flow, "other", Decimal(1), AT, id="c/1")
    assert await app.run("c/1", charge_flow).result() == receipt
    assert await run.status() == "completed"
    fork = await run.fork(id="c/2")
    assert (fork.id, await fork.result(timeout=60)) == ("c/2", receipt)
    with pytest.raises(RunConflict):
        await run.fork(id="c/2")


async def test_a_workflow_is_started_by_its_name(app: App) -> None:
    run = await app.start("charge", "a", Decimal(2), at=AT)
    typed = app.run(run.id, charge_flow)  # by its name a client does not know what it returns
    assert (await typed.result(60)).amount == 2
    assert await (await app.start("picks@^1.0", "x")).result(60) == "x/"
    own = await app.start("newer", "a", "2.50", "2026-03-01T12:30:00Z", version="1.0.0")
    assert (await app.run(own.id, charge_flow).result(60)).amount == Decimal("2.50")
    for value in (1.5, float("inf"), -0.0):
        assert await (await app.start(measures_flow, value)).result(60) == value
    assert str(await (await app.start(measures_flow, float("nan"))).result(60)) == "nan"


async def test_failures_have_their_names(app: App) -> None:
    run = await app.start(broken_flow, "no such thing", id="b")
    with pytest.raises(RunFailed, match="LookupError: no such thing") as failed:
        await run.result(timeout=60)
    assert (failed.value.type, failed.value.run_id) == ("LookupError", "b")
    assert "in broken" in failed.value.traceback
    with pytest.raises(RunFailed, match="step fails failed") as failed:
        await (await app.start(steps_fail_flow, "x")).result(timeout=60)
    assert failed.value.type == "StepFailed"
    with pytest.raises(RunEnded):
        await run.signal("go")
    assert await run.cancel() == "failed"
    assert await run.requeue() == "failed"


async def test_a_run_is_spoken_with(app: App) -> None:
    run = await app.start(talks_flow, id="t/1")
    items: list[object] = []
    first = run.stream("tokens")
    items.append(await anext(first))
    items.append(await anext(first))
    assert (await run.state())["phase"] == "asking"
    with pytest.raises(ResultTimeout, match="run t/1 has no result after"):
        await run.result(timeout=0.05)
    sent = await run.signal("go", {"ok": True, "why": "ä\n"}, priority="critical", id="s1")
    assert (sent.seq, sent.duplicate) == (1, False)
    assert (await run.signal("go", {"ok": True}, id="s1")).duplicate
    late = await run.signal("note", deadline=timedelta(days=1))
    assert (late.seq, late.late) == (2, False)
    assert (await run.signal("note", deadline=AT - timedelta(days=300))).late
    with pytest.raises(UpdateRejected, match="below zero"):
        await run.update("add", -1, timeout=60)
    answer = await run.update("add", 4, type=timedelta, timeout=60, id="u1")
    assert answer == timedelta(seconds=5)
    assert await run.update("add", 4, type=timedelta, timeout=60, id="u1") == answer
    items += [item async for item in first]
    assert items == ["one", {"two": "2\n\ndata: x"}, "three"]
    assert [item async for item in run.stream("tokens", after=2)] == ["three"]
    assert [item async for item in run.stream("nothing")] == []
    assert await run.result(60) == [{"ok": True, "why": "ä\n"}, 4]
    assert (await run.state())["phase"] == "done"


async def test_a_run_is_stopped(app: App) -> None:
    run = await app.start(waits_flow, id="w")
    waiting = asyncio.create_task(run.result())
    await run.signal("something else")
    assert await run.cancel() in ("running", "waiting", "cancelled", "pending")
    with pytest.raises(RunCancelled, match="was cancelled"):
        await asyncio.wait_for(waiting, 60)
    with pytest.raises(ResultTimeout, match="no answer after"):
        await (await app.start(waits_flow)).update("add", 1, timeout=0.05)


async def test_runs_are_listed(app: App) -> None:
    for at in range(3):
        words = {"customer": f"c&{at % 2}", "kind": "test"}
        run = await app.start(measures_flow, float(at), id=f"m{at}", attributes=words)
        await run.result(60)
    await app.start(waits_flow)
    found = await app.runs(RunFilter(workflow="measures", limit=2))
    assert [(one.id, one.state, one.version) for one in found] == [
        ("m2", "completed", "1.0.0"), ("m1", "completed", "1.0.0"),
    ]  # fmt: skip
    pairs = (("customer", "c&0"), ("kind", "test"))
    assert [one.id for one in await app.runs(RunFilter(attributes=pairs))] == ["m2", "m0"]
    with pytest.raises(InvalidInput):
        await app.start(measures_flow, 1.0, attributes={"": "x"})
    [first] = await app.runs(RunFilter(workflow="measures", limit=1))
    assert first.finished_at is not None
    assert abs(first.created_at - first.finished_at) < 600


async def test_a_place_in_a_queue(app: App) -> None:
    one = await app.start(waits_flow, queue="slow", id="one")
    at = datetime.now(UTC) + timedelta(days=1)
    places = [Aura.place("slow", key="k", priority=7, at=at), Aura.place(dedup="d", delay=3_600)]
    two = await app.start(waits_flow, queue=places[0])
    three = await app.start(waits_flow, queue=places[1])
    assert (await app.start(waits_flow, queue=places[1])).id == three.id
    assert await two.status() == await three.status() == "waiting"
    for run in (one, two, three):
        await run.cancel()
    late = await app.start(waits_flow, deadline=0.05)
    with pytest.raises(RunFailed, match="DeadlineExceeded"):
        await late.result(60)
    past = await app.start(waits_flow, deadline=AT - timedelta(days=300))
    with pytest.raises(RunFailed, match="DeadlineExceeded"):
        await past.result(60)


async def test_events_are_emitted_once(app: App, served: Served) -> None:
    for _ in range(2):
        await app.emit("reports.ready", {"id": 7}, key="doc-7", id="ready-7")
    await app.emit("reports.ready")
    [topic] = [
        one for one in await served.app.store.events.topics() if one.topic == "reports.ready"
    ]
    assert topic.tail == 2


Wrong = Callable[[App], Awaitable[object]]


WRONG: list[tuple[Wrong, type[AuraError]]] = [
    (lambda app: app.run("nobody").result(1), RunNotFound),
    (lambda app: app.run("nobody/../..").status(), RunNotFound),
    (lambda app: app.run("..").cancel(), RunNotFound),
    (lambda app: app.run("a?b#c%2F").state(), RunNotFound),
    (lambda app: app.run("").status(), RunNotFound),
    (lambda app: app.run("nobody").signal("go"), RunNotFound),
    (lambda app: app.run("nobody").requeue(), RunNotFound),
    (lambda app: app.run("nobody").fork(), RunNotFound),
    (lambda app: app.run("nobody").update("go", timeout=1), RunNotFound),
    (lambda app: anext(app.run("nobody").stream("s")), RunNotFound),
    (lambda app: app.run("nobody").signal("a/b"), RegistrationError),
    (lambda app: app.run("nobody").signal("go", priority="soon"), InvalidInput),  # type: ignore[arg-type]
    (lambda app: app.run("nobody").signal("go", id=""), InvalidInput),
    (lambda app: app.run("nobody").signal("go", deadline=datetime(2026, 1, 1)), InvalidInput),  # noqa: DTZ001
    (lambda app: app.run("nobody").signal("go", deadline=float("inf")), InvalidInput),
    (lambda app: app.run("nobody").signal("go", object()), AuraError),
    (lambda app: app.start("no such"), UnknownWorkflow),
    (lambda app: app.start("charge@^9"), UnknownWorkflow),
    (lambda app: app.start(print), UnknownWorkflow),  # type: ignore[call-overload]
    (lambda app: app.start("charge", "a"), InvalidInput),
    (lambda app: app.start("charge", "a", "b", AT), InvalidInput),
    (lambda app: app.start("charge", 1, 2, 3, 4, 5, 6), InvalidInput),
    (lambda app: app.start("charge", "a", Decimal(1), at=AT, more=1), InvalidInput),
    (lambda app: app.start(charge_flow, "a", "b", AT), InvalidInput),
    (lambda app: app.start(waits_flow, id="\ud800"), InvalidInput),
    (lambda app: app.start(waits_flow, id=""), InvalidInput),
    (lambda app: app.start(waits_flow, queue="no such"), UnknownQueue),
    (lambda app: app.start("waits", queue="no such"), UnknownQueue),
    (lambda app: app.start(broken_flow, "x" * 9_000_000), PayloadTooLarge),
]


async def test_what_is_wrong_is_said_in_the_same_words(app: App) -> None:
    for wrong, kind in WRONG:
        with pytest.raises(AuraError) as told:
            await wrong(app)
        assert isinstance(told.value, kind), (told.value, kind)
        assert str(told.value)


async def test_what_is_found_out_is_read_in_the_same_words(app: App, served: Served) -> None:
    """Desks that `App` does not name: both have them."""
    both: Any = app
    assert await both.flows.names() == []
    assert await both.learning.all() == []
    assert await both.rollouts.shadows.splits() == []
    assert await both.rollouts.decommissions.all() == []
    for wrong, kind in (
        (both.flows.show("nothing"), UnknownFlow),
        (both.flows.release("nothing", "a"), UnknownFlow),
        (both.learning.status("nothing"), UnknownFlow),
        (both.learning.stop("nothing"), UnknownFlow),
        (both.rollouts.decommissions.status("nothing"), UnknownDecommission),
        (both.rollouts.decommissions.undo("nothing"), UnknownDecommission),
    ):
        with pytest.raises(kind, match="nothing"):
            await wrong
    run = await app.start(routes_flow, id="r")
    assert await run.result(60) in ("fast", "deep")
    await run.reward("route", 1.0)
    async with asyncio.timeout(60):
        while sum(one.rewarded for one in (await both.flows.show("route")).arms.values()) < 1:
            await asyncio.sleep(0.05)
    found = await both.flows.show("route")
    assert set(found.arms) == set(found.probabilities) == {"fast", "deep"}
    assert sum(one.choices for one in found.arms.values()) == 1
    desk = served.app.rollouts.shadows
    seen = Finding({"total": Example("1", "2", "value", 5.0)}, cost=0.5)
    desk.found("pay", "new", seen)
    async with asyncio.timeout(60):
        while not await both.rollouts.shadows.splits():
            await asyncio.sleep(0.05)
    [report] = await both.rollouts.shadows.reports("pay")
    assert isinstance(report, ShadowReport)
    assert (report.arm, report.copies, report.differing, report.cost) == ("new", 1, 1, 0.5)
    assert report.fields["total"].examples[0].right == "2"
    assert await both.rollouts.shadows.clear("pay") == 1
    assert [one for one in await both.rollouts.shadows.reports("pay") if one.copies] == []
