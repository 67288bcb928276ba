"""Starting, writing, settling and cancelling runs: the same on every store."""

from __future__ import annotations

import asyncio

import pytest

from aura.errors import LeaseLost
from aura.store.base import (
    Append,
    Entry,
    Op,
    RequestCancel,
    RunFilter,
    RunRecord,
    RunState,
    Settle,
    StartRun,
    Store,
)
from tests.store.kit import (
    Backend,
    append,
    beat,
    claim,
    claimed_ids,
    database_now,
    entry,
    settle,
    start,
    started,
    the_run,
)


async def test_a_run_starts_pending_and_unowned(store: Store) -> None:
    before = await database_now(store)
    (outcome,) = await store.commit([start("a", value=b"\x00\xff")])
    run = started(outcome).run
    assert started(outcome).created
    assert run == await store.run("a")
    assert (run.state, run.epoch, run.owner, run.input) == ("pending", 0, None, b"\x00\xff")
    assert (run.origin, run.fingerprint, run.version) == ("origin", "fingerprint", "1.0.0")
    assert before - 0.01 <= run.created_at <= await database_now(store)
    assert (run.started_at, run.finished_at, run.recoveries) == (None, None, 0)
    assert run.cancel_requested is False


async def test_a_run_can_start_owned(store: Store) -> None:
    (outcome,) = await store.commit([start("a", owner="w")])
    run = started(outcome).run
    assert run == await store.run("a")
    assert (run.state, run.epoch, run.owner) == ("running", 1, "w")
    assert run.started_at == run.created_at


async def test_starting_again_finds_the_first(store: Store) -> None:
    await store.commit([start("a", value=b"1")])
    (outcome,) = await store.commit([start("a", value=b"2", owner="w")])
    assert started(outcome).created is False
    assert started(outcome).run == await store.run("a")
    assert started(outcome).run.input == b"1"


async def test_one_batch_starts_an_id_once(store: Store) -> None:
    ops = [start("a", value=b"1"), start("b"), start("a", value=b"2")]
    outcomes = [started(one) for one in await store.commit(ops)]
    assert [one.created for one in outcomes] == [True, True, False]
    assert [one.run.id for one in outcomes] == ["a", "b", "a"]
    assert outcomes[2].run.input == b"1"


async def test_racing_starts_create_one_run(shared: Backend) -> None:
    stores = [await shared.open(), await shared.open()]
    ids = [f"run-{at}" for at in range(20)]
    batches = [
        store.commit([start(one, value=f"{number}".encode()) for one in order])
        for number, (store, order) in enumerate([(stores[0], ids), (stores[1], ids[::-1])] * 3)
    ]
    outcomes = [started(one) for batch in await asyncio.gather(*batches) for one in batch]
    assert sum(one.created for one in outcomes) == len(ids)
    for one in outcomes:
        assert one.run.input == (await the_run(stores[0], one.run.id)).input


async def test_entries_come_back_in_order_and_whole(store: Store) -> None:
    whole = Entry("a", 1, "0/é#1", "step", "f", b"\x00in", b"\x00out", None, 3, 1.5, 2.25)
    failed = Entry("a", 2, "0/é#1", "attempt", "f", None, None, b"err", 1, 0.1, 0.2)
    await store.commit([start("a", owner="w")])
    assert await store.commit([Append(1, failed), Append(1, whole)]) == [None, None]
    assert await store.journal("a") == [whole, failed]
    assert await store.journal("nobody") == []


async def test_a_batch_is_applied_in_the_stated_order(store: Store) -> None:
    ops: list[Op] = [RequestCancel("b"), settle("a"), append("a", 1), start("b")]
    outcomes = await store.commit([*ops, start("a", owner="w")])
    assert [type(one).__name__ for one in outcomes] == [
        "RunRecord",
        "NoneType",
        "NoneType",
        "Started",
        "Started",
    ]
    assert (await the_run(store, "a")).state == "completed"
    assert (await the_run(store, "b")).state == "cancelled"
    assert len(await store.journal("a")) == 1


async def test_an_empty_batch_is_nothing(store: Store) -> None:
    assert await store.commit([]) == []


@pytest.mark.parametrize("mixed", [False, True])
async def test_a_stale_epoch_is_refused_alone(store: Store, *, mixed: bool) -> None:
    await store.commit([start("a", owner="w"), start("b", owner="w"), start("c")])
    ops: list[Op] = [
        append("a", 1),
        append("b", 1, epoch=2),
        append("c", 1, epoch=0),
        append("nobody", 1),
        append("a", 2),
    ]
    if mixed:
        ops += [settle("b", epoch=2), settle("a"), settle("nobody")]
    outcomes = await store.commit(ops)
    refused = [at for at, one in enumerate(outcomes) if isinstance(one, LeaseLost)]
    assert refused == ([1, 2, 3, 5, 7] if mixed else [1, 2, 3])
    assert [one.seq for one in await store.journal("a")] == [1, 2]
    assert await store.journal("b") == await store.journal("c") == []
    assert (await the_run(store, "b")).state == "running"


async def test_repeating_a_batch_is_harmless(store: Store) -> None:
    await store.commit([start("a", owner="w"), start("b", owner="w")])
    ops: list[Op] = [append("a", 1), append("a", 2), settle("a"), append("b", 1)]
    assert await store.commit(ops) == [None] * 4
    after = await the_run(store, "a")
    assert await store.commit(ops) == [None] * 4
    assert await store.commit([append("a", 1)]) == [None]
    assert await the_run(store, "a") == after
    assert [one.seq for one in await store.journal("a")] == [1, 2]


async def test_a_number_cannot_be_written_twice(store: Store) -> None:
    await store.commit([start("a", owner="w"), append("a", 1, key="0/one#1")])
    (outcome,) = await store.commit([append("a", 1, key="0/other#1")])
    assert isinstance(outcome, LeaseLost)
    assert [one.key for one in await store.journal("a")] == ["0/one#1"]


async def test_nothing_new_is_written_to_a_settled_run(store: Store) -> None:
    await store.commit([start("a", owner="w"), append("a", 1), settle("a")])
    outcomes = await store.commit([append("a", 2), settle("a", "failed")])
    assert all(isinstance(one, LeaseLost) for one in outcomes)
    assert (await the_run(store, "a")).state == "completed"


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "parked"])
async def test_settling_ends_ownership(store: Store, state: RunState) -> None:
    await store.commit([start("a", owner="w")])
    done = Settle("a", 1, state, b"\x00result", b"error")
    assert await store.commit([done]) == [None]
    run = await the_run(store, "a")
    assert (run.state, run.owner, run.output, run.error) == (state, None, b"\x00result", b"error")
    assert run.finished_at is not None
    assert await claimed_ids(store) == []


async def test_a_run_given_back_is_pending_again(store: Store) -> None:
    await store.commit([start("a", owner="w"), settle("a", "pending")])
    run = await the_run(store, "a")
    assert (run.state, run.owner, run.finished_at, run.epoch) == ("pending", None, None, 1)
    (again,) = await claim(store)
    assert (again.run.epoch, again.run.recoveries, again.run.started_at) == (2, 0, run.started_at)


async def test_cancelling_a_run_that_nobody_had(store: Store) -> None:
    await store.commit([start("a")])
    (outcome,) = await store.commit([RequestCancel("a")])
    assert isinstance(outcome, RunRecord)
    assert outcome == await store.run("a")
    assert (outcome.state, outcome.cancel_requested) == ("cancelled", True)
    assert outcome.finished_at is not None
    assert await claimed_ids(store) == []


async def test_cancelling_leaves_a_running_run_to_its_owner(store: Store) -> None:
    await store.commit([start("a", owner="w")])
    (outcome,) = await store.commit([RequestCancel("a")])
    assert isinstance(outcome, RunRecord)
    assert (outcome.state, outcome.cancel_requested) == ("running", True)
    assert await store.commit([append("a", 1), settle("a", "cancelled")]) == [None, None]


async def test_cancelling_wakes_a_sleeping_run(store: Store) -> None:
    later = await database_now(store) + 3600
    await store.commit([start("a", owner="w"), settle("a", "waiting", wake_at=later)])
    (outcome,) = await store.commit([RequestCancel("a")])
    assert isinstance(outcome, RunRecord)
    assert (outcome.state, outcome.cancel_requested) == ("pending", True)
    (woken,) = await claim(store)
    assert woken.run.cancel_requested


async def test_a_run_asked_to_stop_does_not_go_to_sleep(store: Store) -> None:
    later = await database_now(store) + 3600
    await store.commit([start("a", owner="w"), RequestCancel("a")])
    sleep = settle("a", "waiting", wake_at=later)
    assert await store.commit([sleep]) == [None]
    assert (await the_run(store, "a")).state == "pending"
    assert await store.commit([sleep]) == [None]


async def test_cancelling_a_run_given_back_waits_for_a_worker(store: Store) -> None:
    await store.commit([start("a", owner="w"), settle("a", "pending")])
    (outcome,) = await store.commit([RequestCancel("a")])
    assert isinstance(outcome, RunRecord)
    assert (outcome.state, outcome.cancel_requested) == ("pending", True)


async def test_cancelling_a_parked_run(store: Store) -> None:
    await store.commit([start("a", owner="w"), settle("a", "parked"), RequestCancel("a")])
    assert (await the_run(store, "a")).state == "cancelled"


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_cancelling_an_ended_run_changes_nothing(store: Store, state: RunState) -> None:
    await store.commit([start("a", owner="w"), settle("a", state)])
    before = await store.run("a")
    assert await store.commit([RequestCancel("a"), RequestCancel("nobody")]) == [before, None]


async def test_listing(store: Store) -> None:
    for at in range(7):
        await store.commit([start(f"r{at}", owner="w", workflow="odd" if at % 2 else "even")])
    await store.commit([settle("r1"), settle("r2")])
    await beat(store, "w")

    async def ids(where: RunFilter) -> list[str]:
        return [one.id for one in await store.runs(where)]

    newest = ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert await ids(RunFilter()) == newest
    assert await ids(RunFilter(state="completed")) == ["r2", "r1"]
    assert await ids(RunFilter(workflow="odd")) == ["r5", "r3", "r1"]
    assert await ids(RunFilter(workflow="odd", state="completed")) == ["r1"]
    assert await ids(RunFilter(workflow="none")) == []
    pages, before = [], None
    while page := await store.runs(RunFilter(limit=3, before=before)):
        pages.append([one.id for one in page])
        before = (page[-1].created_at, page[-1].id)
    assert pages == [newest[:3], newest[3:6], newest[6:]]


async def test_runs_that_start_together_are_listed_once_each(store: Store) -> None:
    ids = {f"r{at}" for at in range(10)}
    await store.commit([start(one) for one in sorted(ids)])
    seen: list[str] = []
    before = None
    while page := await store.runs(RunFilter(limit=4, before=before)):
        seen += [one.id for one in page]
        before = (page[-1].created_at, page[-1].id)
    assert (len(seen), set(seen)) == (len(ids), ids)


async def test_payloads_are_kept_byte_for_byte(store: Store) -> None:
    big = bytes(range(256)) * (5 * 1024 * 4)
    await store.commit([start("a", value=big, owner="w")])
    await store.commit([Append(1, entry("a", 1, output=big)), Append(1, entry("a", 2, output=b""))])
    await store.commit([Settle("a", 1, "completed", big)])
    run = await the_run(store, "a")
    assert run.input == run.output == big
    assert [one.output for one in await store.journal("a")] == [big, b""]


@pytest.mark.parametrize(
    "run_id", ["Ωmega/é 漢字 🚀", "a'b\"c;--%0A%", "tab\tline\nend", "x" * 500, " ", "\\x41"]
)
async def test_ids_may_be_any_text(store: Store, run_id: str) -> None:
    op = StartRun(run_id, "wörk flow", "1.0.0-β", b"", "", run_id, run_id)
    (outcome,) = await store.commit([op])
    await store.commit([append(run_id, 1), settle(run_id)])
    run = await the_run(store, run_id)
    assert (run.id, run.origin, run.workflow, run.version) == (
        run_id,
        run_id,
        "wörk flow",
        "1.0.0-β",
    )
    assert started(outcome).run.owner == run_id
    assert [one.run_id for one in await store.journal(run_id)] == [run_id]


async def test_a_large_batch(store: Store) -> None:
    ids = [f"run-{at:04}" for at in range(1500)]
    outcomes = await store.commit([start(one, owner="w") for one in ids])
    assert [started(one).run.id for one in outcomes] == ids
    ops: list[Op] = [*(append(one, 1) for one in ids), *(settle(one) for one in ids[::2])]
    assert await store.commit(ops) == [None] * len(ops)
    assert len(await store.runs(RunFilter(state="completed", limit=5000))) == len(ids[::2])
