"""Recorded histories against other code: what would diverge is said, and nothing happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

import aura
from aura import Retry, Workflow, step
from aura.engine.rehearsal import rehearse, rehearse_all
from aura.engine.replaying import Divergence, Pair, ReplayReport, RunReplay, Side
from aura.store.base import Claimed
from tests.engine.kit import Ledger, World, declare, until
from tests.engine.test_replay_property import Tree

Code = Callable[..., Awaitable[Any]]
LEDGER = Ledger()


@pytest.fixture
def ledger() -> Ledger:
    LEDGER.ran.clear()
    return LEDGER


@step
async def charge(cents: int) -> str:
    LEDGER(f"charge {cents}")
    return f"paid {cents}"


@step
def threaded(name: str) -> str:
    LEDGER(f"threaded {name}")
    return name


@step(idempotent=True)
async def look(name: str) -> str:
    LEDGER(f"look {name}")
    return name


@step(retries=Retry(attempts=1, first=60.0))
async def flaky() -> str:
    LEDGER("flaky")
    raise OSError("the network")


async def history(world: World, run_id: str) -> Claimed:
    async with world.store() as store:
        run = await store.run(run_id)
        assert run is not None
        return Claimed(run, await store.journal(run_id))


async def recorded(world: World, code: Code, *args: Any) -> Claimed:
    """The history of a run that has ended."""
    flow = declare(code, name="flow")
    app = await world.open(flow)
    run = await app.start(flow, *args)
    await run.result(timeout=60)
    LEDGER.ran.clear()
    return Claimed(await run.record(), await app.store.journal(run.id))


async def against(code: Code, recorded: Claimed) -> RunReplay:
    return await rehearse(declare(code, "2.0.0", "flow"), recorded)


async def shop(cents: int) -> list[Any]:
    paid = await charge(cents)
    aura.set_state("paid", paid)
    moment = aura.now()
    aura.stream("log").write(paid)
    left, right = await asyncio.gather(look("left"), threaded("right"))
    await aura.sleep(0.001)
    return [paid, left, right, moment.year]


async def test_the_same_code_replays_and_nothing_runs(memory: World, ledger: Ledger) -> None:
    found = await against(shop, await recorded(memory, shop, 500))
    assert found == RunReplay(found.run, "flow", "1.0.0", "2.0.0", "completed", found.entries)
    assert found.entries >= 7
    assert ledger.ran == []


async def test_other_arguments_are_shown_with_both_sides(memory: World, ledger: Ledger) -> None:
    async def dearer(cents: int) -> None:
        await charge(cents + 1)

    found = await against(dearer, await recorded(memory, shop, 500))
    [one] = found.divergences
    assert (one.kind, one.recorded, one.asked) == (
        "mismatch",
        Side("0/charge#1", "step", one.recorded.fingerprint, '{"cents":500}'),  # type: ignore[union-attr]
        Side("0/charge#1", "step", one.asked.fingerprint, '{"cents":501}'),  # type: ignore[union-attr]
    )
    assert '{"cents":500}' in one.message
    assert '{"cents":501}' in one.message
    assert ledger.ran == []


async def test_another_kind_under_a_key(memory: World, ledger: Ledger) -> None:
    async def sleeper() -> None:
        await aura.sleep(0)

    @step(name="sleep")
    async def other() -> None:
        LEDGER("other")

    async def stepper() -> None:
        await other()

    [one] = (await against(stepper, await recorded(memory, sleeper))).divergences
    assert one.kind == "mismatch"
    assert one.recorded is not None
    assert one.asked is not None
    assert (one.recorded.kind, one.asked.kind) == ("sleep", "step")


async def test_a_step_before_what_is_recorded_is_inserted(memory: World, ledger: Ledger) -> None:
    async def inserted(cents: int) -> None:
        paid = await charge(cents)
        await threaded("first")
        await asyncio.gather(look("left"), threaded("right"))
        _ = paid

    async def two(cents: int) -> None:
        await charge(cents)
        await asyncio.gather(look("left"), threaded("right"))

    [one] = (await against(inserted, await recorded(memory, two, 5))).divergences
    assert one.kind == "inserted"
    assert one.asked == Side("0/threaded#1", "step", one.asked.fingerprint, '{"name":"first"}')  # type: ignore[union-attr]
    assert one.recorded is not None
    assert one.recorded.key in ("0.1/look#1", "0.2/threaded#1")
    assert ledger.ran == []


async def test_what_comes_after_all_that_is_recorded_is_no_divergence(
    memory: World, ledger: Ledger
) -> None:
    async def longer(cents: int) -> None:
        await charge(cents)
        await threaded("more")

    async def short(cents: int) -> None:
        await charge(cents)

    found = await against(longer, await recorded(memory, short, 5))
    assert found.divergences == ()
    assert found.continues == 'step 0/threaded#1 with {"name":"more"}'
    assert ledger.ran == []


async def test_a_step_that_is_gone_is_removed(memory: World, ledger: Ledger) -> None:
    async def shorter(cents: int) -> None:
        await look("start")

    async def longer(cents: int) -> None:
        await look("start")
        await charge(cents)

    [one] = (await against(shorter, await recorded(memory, longer, 5))).divergences
    assert (one.kind, one.asked) == ("removed", None)
    assert one.recorded is not None
    assert one.recorded.key == "0/charge#1"


async def test_code_that_raises(memory: World, ledger: Ledger) -> None:
    async def broken(cents: int) -> None:
        await charge(cents)
        raise ValueError("of the new code")

    found = await against(broken, await recorded(memory, shop, 5))
    assert found.divergences[0].kind == "raises"
    assert "of the new code" in found.divergences[0].message
    assert {one.kind for one in found.divergences[1:]} == {"removed"}


async def test_input_that_does_not_fit_any_more(memory: World, ledger: Ledger) -> None:
    async def other(dollars: int) -> None:
        await charge(dollars)

    found = await against(other, await recorded(memory, shop, 5))
    assert found.divergences[0].kind == "raises"
    assert "dollars" in found.divergences[0].message


async def test_another_result_is_said_but_is_no_divergence(memory: World, ledger: Ledger) -> None:
    async def one(cents: int) -> str:
        return await charge(cents)

    async def other(cents: int) -> str:
        return (await charge(cents)).upper()

    found = await against(other, await recorded(memory, one, 5))
    assert (found.divergences, found.result_differs) == ((), True)
    assert not (await against(one, await recorded(memory, one, 6))).result_differs


async def test_code_that_waits_for_something_outside_steps(memory: World, ledger: Ledger) -> None:
    async def hangs(cents: int) -> None:
        await asyncio.get_running_loop().create_future()

    [one] = (await against(hangs, await recorded(memory, shop, 5))).divergences
    assert one.kind == "stuck"


async def waiting(cents: int) -> Any:
    await charge(cents)
    return await aura.receive("approval", timeout=timedelta(days=2))


async def asleep(cents: int) -> None:
    await charge(cents)
    await aura.sleep(3_600)


async def between_tries(cents: int) -> None:
    await charge(cents)
    await flaky()


async def in_a_saga(cents: int) -> None:
    async with aura.saga() as saga:
        await saga.step(charge, cents, compensate=refund)
        await aura.receive("approval")


@step
async def refund(paid: str) -> None:
    LEDGER(f"refund {paid}")


@pytest.mark.parametrize("code", [waiting, asleep, between_tries, in_a_saga])
async def test_runs_in_flight_replay_up_to_where_they_are(
    world: World, ledger: Ledger, code: Code
) -> None:
    flow = declare(code, name="flow")
    app = await world.open(flow, keep_in_memory=0.0)
    run = await app.start(flow, 7)

    async def at_rest() -> bool:
        return await run.status() == "waiting"

    await until(at_rest, 20)
    ledger.ran.clear()
    found = await against(code, await history(world, run.id))
    assert (found.divergences, found.state) == ((), "waiting")
    assert found.continues
    assert ledger.ran == []


async def test_failed_and_cancelled_runs_replay(memory: World, ledger: Ledger) -> None:
    async def fails() -> None:
        await charge(1)
        raise ValueError("as before")

    async def tidies(cents: int) -> None:
        try:
            await charge(cents)
            await aura.receive("never")
        finally:
            await threaded("tidied")

    failing, tidying = declare(fails), declare(tidies)
    app = await memory.open(failing, tidying)
    failed = await app.start(failing)
    with pytest.raises(aura.RunFailed):
        await failed.result(timeout=60)
    cancelled = await app.start(tidying, 2)
    await until(lambda: _has(app, cancelled.id, 1))
    await cancelled.cancel()

    async def over() -> bool:
        return await cancelled.status() == "cancelled"

    await until(over, 10)
    ledger.ran.clear()
    for flow, run in ((failing, failed), (tidying, cancelled)):
        past = Claimed(await run.record(), await app.store.journal(run.id))
        assert (await rehearse(flow, past)).divergences == ()
    assert ledger.ran == []


async def _has(app: aura.Aura, run_id: str, entries: int) -> bool:
    return len(await app.store.journal(run_id)) >= entries


async def test_random_task_trees_replay_without_a_finding(memory: World) -> None:
    """Branches, races, retries, time-outs: the same code asks for all that is recorded."""

    async def grown(seed: int) -> Any:
        return await Tree(seed).node()()

    flow = declare(grown)
    app = await memory.open(flow)
    runs = [await app.start(flow, seed) for seed in range(40)]
    for run in runs:
        await run.result(timeout=60)
    histories = [Claimed(await one.record(), await app.store.journal(one.id)) for one in runs]
    report = await _all(app, histories)
    assert [one.divergences for one in report.diverged] == []
    assert report.runs == 40
    assert [await one.record() for one in runs] == [one.run for one in histories]


async def _all(app: aura.Aura, histories: list[Claimed], **options: Any) -> ReplayReport:
    async def given() -> AsyncIterator[Claimed]:
        for one in histories:
            yield one

    return await rehearse_all(app.registry, given(), **options)


async def test_every_beginning_of_a_history_replays(memory: World, ledger: Ledger) -> None:
    """A run may be anywhere when its code is changed."""
    whole = await recorded(memory, shop, 5)
    for entries in range(len(whole.journal) + 1):
        part = Claimed(whole.run._replace(state="pending"), whole.journal[:entries])
        found = await against(shop, part)
        assert found.divergences == (), entries
    assert ledger.ran == []


async def test_the_report_counts_pairs_of_versions(memory: World, ledger: Ledger) -> None:
    async def first(cents: int) -> None:
        await charge(cents)

    async def second(cents: int) -> None:
        await charge(cents * 2)

    flows: list[Workflow[..., Any]] = [
        declare(first, "1.0.0", "flow"),
        declare(second, "2.0.0", "flow"),
    ]
    app = await memory.open(*flows)
    runs = [await app.start(flow, cents) for flow in flows for cents in (0, 5)]
    for run in runs:
        await run.result(timeout=60)
    histories = [Claimed(await one.record(), await app.store.journal(one.id)) for one in runs]
    own = await _all(app, histories)
    assert own.pairs == (Pair("flow", "1.0.0", "1.0.0", 2, 0), Pair("flow", "2.0.0", "2.0.0", 2, 0))
    newer = await _all(app, histories, version="2.0.0", at_once=1)
    assert newer.pairs == (
        Pair("flow", "1.0.0", "2.0.0", 2, 1),
        Pair("flow", "2.0.0", "2.0.0", 2, 0),
    )
    assert [one.run for one in newer.diverged] == [runs[1].id]
    assert not newer.compatible
    plain = newer.plain()
    assert plain["runs"] == 4
    assert plain["diverged"][0]["divergences"][0]["asked"]["input"] == '{"cents":10}'
    unknown = await _all(app, histories[:1], version="3.0.0")
    assert (unknown.runs, len(unknown.skipped)) == (0, 1)
    assert "3.0.0 is not registered" in unknown.skipped[0].reason


async def test_encrypted_histories_are_skipped(memory: World, ledger: Ledger) -> None:
    whole = await recorded(memory, shop, 5)
    locked = Claimed(whole.run._replace(input=b"\x02\x02k1xxxx"), whole.journal)
    app = await memory.open(declare(shop, name="flow"))
    report = await _all(app, [locked])
    assert "k1" in report.skipped[0].reason


async def test_patches_show_when_the_old_way_may_go(memory: World, ledger: Ledger) -> None:
    async def old(cents: int) -> None:
        await charge(cents)
        await look("a")

    async def patched(cents: int) -> None:
        if aura.patched("look-first"):
            await look("b")
        await charge(cents)
        await look("a")

    async def newest(cents: int) -> None:
        await look("b")
        await charge(cents)
        await look("a")

    before, after = await recorded(memory, old, 1), await recorded(memory, patched, 1)
    assert [(await against(patched, one)).divergences for one in (before, after)] == [(), ()]
    kinds = [[d.kind for d in (await against(newest, one)).divergences] for one in (before, after)]
    assert kinds == [["mismatch"], []]


def test_a_divergence_is_a_value() -> None:
    one = Divergence("removed", Side("0/a#1", "step"), None, "m")
    assert one == Divergence("removed", Side("0/a#1", "step"), None, "m")
    assert str(Side("0/a#1", "step")) == "step 0/a#1"


async def test_what_a_stopped_rehearsal_cleans_up_does_nothing(
    memory: World, ledger: Ledger
) -> None:
    async def tidies(cents: int) -> None:
        try:
            await charge(cents)
            await charge(cents + 1)
        finally:
            await threaded("tidied")

    async def simple(cents: int) -> None:
        await charge(cents)

    found = await against(tidies, await recorded(memory, simple, 5))
    assert found.divergences == ()
    assert ledger.ran == []


async def test_all_that_a_workflow_can_do_replays_from_every_entry(
    memory: World, ledger: Ledger
) -> None:
    """Children, events, transactions, time limits, updates, sagas: nothing of it begins anew."""

    @step.transaction
    async def book(session: Any, name: str) -> str:
        LEDGER(f"book {name}")
        return name

    async def child(name: str) -> str:
        return await look(name)

    minor = declare(child)

    async def everything() -> list[Any]:
        found: list[Any] = [await minor("a"), await book("b")]
        started = await aura.map(minor, ["x", "y", "z"], concurrency=2)
        await aura.emit("things", {"n": 1}, key="k")
        async with aura.timeout(60):
            found.append(await charge(1))
        with contextlib.suppress(TimeoutError):
            async with aura.timeout(0.05):
                await aura.receive("never")
        update = await aura.receive_update("add")
        update.answer(update.value + 1)
        async with aura.saga() as saga:
            await saga.step(charge, 2, compensate=refund)
        return [*found, *started]

    major = declare(everything)
    app = await memory.open(minor, major)
    run = await app.start(major)
    assert await run.update("add", 1, timeout=30) == 2
    assert await run.result(timeout=60) == ["a", "b", "paid 1", "x", "y", "z"]
    journal = await app.store.journal(run.id)
    record = await run.record()
    ledger.ran.clear()
    before = await app.runs()
    kinds = {entry.kind for entry in journal}
    assert kinds >= {"child", "ended", "step", "timeout", "over", "signal", "answer", "value"}
    for entries in range(len(journal) + 1):
        state: Any = "completed" if entries == len(journal) else "pending"
        part = Claimed(record._replace(state=state), journal[:entries])
        found = await rehearse(major, part)
        assert found.divergences == (), (entries, found)
    assert ledger.ran == []
    assert await app.runs() == before
    assert await app.store.journal(run.id) == journal
