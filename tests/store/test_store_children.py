"""Families in every store: who ends tells its parent and stops its children; runs begin anew."""

from __future__ import annotations

import pytest

from aura.errors import LeaseLost
from aura.store.base import (
    CHILD_ENDED,
    Continue,
    Entry,
    Outcome,
    RequestCancel,
    RunFilter,
    RunState,
    SendSignal,
    Sent,
    Settle,
    Started,
    StartRun,
    Store,
    Sweep,
)
from tests.store.kit import (
    Backend,
    append,
    beat,
    claim,
    claimed_ids,
    eventually,
    settle,
    start,
    started,
    the_run,
)


def child(
    name: str,
    parent: str = "p",
    *,
    epoch: int = 1,
    owner: str | None = None,
    detached: bool = False,
) -> StartRun:
    return StartRun(
        name, "research", "1.0.0", b"{}", "f", "origin", owner, parent, epoch, detached
    )  # fmt: skip


async def families(store: Store, *children: StartRun, parent: str = "p") -> list[Outcome]:
    """A running parent that has started these."""
    await beat(store, "w")
    await store.commit([start(parent, owner="w")])
    return await store.commit(list(children))


async def told(store: Store, parent: str = "p") -> list[tuple[int, str, str]]:
    return [(one.seq, one.name, one.id) for one in await store.signals([(parent, 0)])]


async def states(store: Store, *ids: str) -> list[str]:
    return [(await the_run(store, one)).state for one in ids]


async def test_a_child_knows_its_parent(store: Store) -> None:
    outcomes = await families(store, child("c", owner="w"), child("d", detached=True))
    for outcome in outcomes:
        run = started(outcome).run
        assert run == await the_run(store, run.id)
        assert run.parent == "p"
    assert [started(one).run.detached for one in outcomes] == [False, True]
    plain = await the_run(store, "p")
    assert (plain.parent, plain.detached, plain.execution, plain.base) == (None, False, 1, 0)
    mine = await store.runs(RunFilter(parent="p"))
    assert sorted(one.id for one in mine) == ["c", "d"]
    assert [one.id for one in await store.runs(RunFilter(parent="p", state="running"))] == ["c"]
    assert await store.runs(RunFilter(parent="nobody")) == []
    first = await store.runs(RunFilter(parent="p", limit=1))
    second = await store.runs(RunFilter(parent="p", before=(first[0].created_at, first[0].id)))
    assert sorted(one.id for one in [*first, *second]) == ["c", "d"]


async def test_only_the_owner_of_a_running_parent_starts_children(store: Store) -> None:
    [stale] = await families(store, child("c", epoch=0))
    assert isinstance(stale, LeaseLost)
    [unknown] = await store.commit([child("c", parent="nobody")])
    assert isinstance(unknown, LeaseLost)
    [made, again] = await store.commit([child("c"), child("c")])
    assert (started(made).created, started(again).created) == (True, False)
    await store.commit([settle("p")])
    [late, known] = await store.commit([child("d"), child("c")])
    assert isinstance(late, LeaseLost)
    assert not started(known).created, "what is there is found all the same"
    assert await store.run("d") is None


async def test_several_runs_by_their_ids(store: Store) -> None:
    await store.commit([start("a"), start("b")])
    found = await store.runs_by_id(["b", "nobody", "a", "b"])
    assert sorted(one.id for one in found) == ["a", "b"]
    assert next(one for one in found if one.id == "a") == await the_run(store, "a")
    assert await store.runs_by_id([]) == []


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_the_end_of_a_child_wakes_its_parent(store: Store, state: RunState) -> None:
    await families(store, child("c", owner="w"))
    await store.commit([Settle("p", 1, "waiting", seen=0)])
    assert await store.commit([settle("c", state)]) == [None]
    assert await states(store, "p", "c") == ["pending", state]
    assert await told(store) == [(1, CHILD_ENDED, f"{CHILD_ENDED}:c")]
    [claimed] = await claim(store)
    assert claimed.run.id == "p"
    assert [one.id for one in claimed.signals] == [f"{CHILD_ENDED}:c"]


async def test_a_child_that_does_not_end_tells_nothing(store: Store) -> None:
    await families(store, child("c", owner="w"), child("d", owner="w"), child("e", owner="w"))
    await store.commit([settle("c", "parked"), settle("d", "pending"), settle("e", "waiting")])
    assert await told(store) == []
    assert await store.requeue("c")
    [again] = [one.run for one in await claim(store, limit=10) if one.run.id == "c"]
    await store.commit([settle("c", epoch=again.epoch)])
    assert [one for _, _, one in await told(store)] == [f"{CHILD_ENDED}:c"]


async def test_a_refused_settlement_tells_nothing_and_a_repeated_one_once(store: Store) -> None:
    await families(store, child("c", owner="w"))
    [refused] = await store.commit([settle("c", epoch=7)])
    assert isinstance(refused, LeaseLost)
    assert await told(store) == []
    for _ in range(2):
        assert await store.commit([settle("c")]) == [None]
    assert len(await told(store)) == 1
    assert (await the_run(store, "p")).signals == 1


async def test_a_child_that_nobody_owns_is_cancelled_and_tells_it(store: Store) -> None:
    await families(store, child("c"), child("d", owner="w"))
    await store.commit([settle("d", "parked")])
    await store.commit([RequestCancel("c"), RequestCancel("d")])
    assert await states(store, "c", "d") == ["cancelled", "cancelled"]
    assert sorted(one for _, _, one in await told(store)) == [
        f"{CHILD_ENDED}:c",
        f"{CHILD_ENDED}:d",
    ]
    await store.commit([RequestCancel("c")])
    assert len(await told(store)) == 2


async def test_a_child_that_ends_and_is_asked_to_stop_in_one_batch_tells_it_once(
    store: Store,
) -> None:
    await families(store, child("c", owner="w"), child("d"))
    outcomes = await store.commit(
        [settle("c"), RequestCancel("c"), RequestCancel("d"), RequestCancel("d")]
    )
    assert not any(isinstance(one, BaseException) for one in outcomes)
    assert await states(store, "c", "d") == ["completed", "cancelled"]
    assert [one for _, _, one in await told(store)] == [f"{CHILD_ENDED}:c", f"{CHILD_ENDED}:d"]


async def test_many_ends_at_once_are_numbered_without_gaps(store: Store) -> None:
    names = [f"c{number:03d}" for number in range(300)]
    await families(store, *(child(name, owner="w") for name in names))
    own = SendSignal("p", "go", b"1", "mine")
    await store.commit([own, *(settle(name) for name in names)])
    found = await store.signals([("p", 0)])
    assert [one.seq for one in found] == list(range(1, 302))
    assert {one.id for one in found} == {"mine", *(f"{CHILD_ENDED}:{name}" for name in names)}
    assert (await the_run(store, "p")).signals == 301


async def test_parent_and_child_that_end_together(store: Store) -> None:
    await families(store, child("c", owner="w"))
    assert await store.commit([settle("p"), settle("c")]) == [None, None]
    assert await states(store, "p", "c") == ["completed", "completed"]
    assert await told(store) == [], "nobody is there to be told"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_the_end_of_a_parent_stops_its_children(store: Store, end: RunState) -> None:
    await families(
        store, *(child(name, owner="w") for name in ("run", "wait", "done", "parked")), child("new")
    )
    await store.commit([settle("wait", "waiting"), settle("done"), settle("parked", "parked")])
    await store.commit([settle("p", end)])
    found = {one.id: one for one in await store.runs(RunFilter(parent="p"))}
    assert {name: one.state for name, one in found.items()} == {
        "run": "running",
        "wait": "pending",
        "done": "completed",
        "parked": "cancelled",
        "new": "cancelled",
    }
    asked = {name for name, one in found.items() if one.cancel_requested}
    assert asked == {"run", "wait", "parked", "new"}


async def test_a_parent_that_does_not_end_stops_nobody(store: Store) -> None:
    states: tuple[RunState, ...] = ("parked", "waiting", "pending")
    for number, state in enumerate(states):
        parent = f"p{number}"
        await families(store, child(f"c{number}", parent), parent=parent)
        await store.commit([settle(parent, state)])
        assert not (await the_run(store, f"c{number}")).cancel_requested


async def test_a_detached_child_outlives_its_parent_and_tells_nothing(store: Store) -> None:
    await families(store, child("a", owner="w", detached=True), child("b", detached=True))
    await store.commit([settle("a")])
    assert await told(store) == []
    await store.commit([settle("p")])
    record = await the_run(store, "b")
    assert (record.state, record.cancel_requested) == ("pending", False)


async def test_stopping_goes_down_the_generations(store: Store) -> None:
    """A parked run is cancelled at once, so its own children have to be asked then."""
    await families(store, child("c", owner="w"))
    await store.commit([child("d", "c", owner="w"), child("e", "c")])
    await store.commit([child("f", "d")])
    await store.commit([settle("c", "parked"), settle("d", "parked")])
    await store.commit([settle("p", "failed")])
    assert await states(store, "c", "d", "e", "f") == ["cancelled"] * 4


async def test_ends_are_heard_here_and_in_other_processes(shared: Backend) -> None:
    here, there = await shared.open(), await shared.open()
    await families(here, child("c", owner="w"), child("r", owner="w"))
    heard: dict[str, list[str]] = {"here": [], "there": []}
    here.listen(heard["here"].append)
    there.listen(heard["there"].append)
    await here.commit([Settle("p", 1, "waiting", seen=0)])
    await here.commit([settle("c")])

    async def woken() -> bool:
        return all({"signal:p", "ready"} <= set(of) for of in heard.values())

    await eventually(woken)
    [parent] = [one for one in await claim(here) if one.run.id == "p"]
    await here.commit([child("a%b", epoch=parent.run.epoch)])
    await here.commit([settle("p", epoch=parent.run.epoch)])

    async def stopped() -> bool:
        return all({"cancel:r", "cancel:a%b", "run:a%b"} <= set(of) for of in heard.values())

    await eventually(stopped)


async def test_a_child_is_kept_until_its_parent_has_ended(store: Store) -> None:
    await families(store, child("c", owner="w"), child("d", owner="w", detached=True))
    await store.commit([append("c", 1), settle("c"), settle("d")])
    old = Sweep(-60.0)
    assert (await store.sweepable(old)).runs == 1
    await store.sweep(old)
    assert await store.run("d") is None
    assert await store.run("c") is not None
    await store.commit([settle("p")])
    assert (await store.sweepable(old)).runs == 2
    while any(await store.sweep(old)):
        pass
    assert await store.run("c") is None
    assert await store.run("p") is None


# Beginning anew.


def anew(base: int, *, epoch: int = 1, seen: int = 0, unread: tuple[int, ...] = ()) -> Continue:
    return Continue("p", epoch, "1.0.0", b'{"n":2}', base, seen, unread)


async def begun(store: Store, signals: int = 0) -> None:
    """A run with two entries and so many signals."""
    await beat(store, "w")
    await store.commit([start("p", owner="w")])
    await store.commit([append("p", 1), append("p", 2)])
    await store.commit([SendSignal("p", "go", b"%d" % n, f"s{n}") for n in range(1, signals + 1)])


async def test_a_run_begins_anew_with_an_empty_journal(store: Store) -> None:
    await begun(store)
    before = await the_run(store, "p")
    assert await store.commit([anew(2)]) == [None]
    [claimed] = await claim(store)
    run = claimed.run
    assert (run.id, run.input, run.execution, run.base) == ("p", b'{"n":2}', 2, 2)
    assert (run.fingerprint, run.created_at) == (before.fingerprint, before.created_at)
    assert (run.epoch, run.recoveries, claimed.journal) == (2, 0, [])
    assert await store.commit([append("p", 3, epoch=2)]) == [None]
    assert [one.seq for one in await store.journal("p")] == [3]
    assert [one.seq for one in await store.entries("p", "step")] == [1, 2, 3]
    [again] = await store.commit([start("p")])
    assert started(again).run.fingerprint == before.fingerprint


async def test_only_the_owner_lets_a_run_begin_anew_and_once(store: Store) -> None:
    await begun(store)
    [stale] = await store.commit([anew(2, epoch=0)])
    assert isinstance(stale, LeaseLost)
    assert await store.commit([anew(2)]) == [None]
    assert await store.commit([anew(2)]) == [None], "a commit whose outcome was unknown"
    assert (await the_run(store, "p")).execution == 2
    await claim(store)
    [late] = await store.commit([anew(2)])
    assert isinstance(late, LeaseLost)
    [write] = await store.commit([append("p", 3, epoch=1)])
    assert isinstance(write, LeaseLost)


async def test_signals_around_the_switch_move_along(store: Store) -> None:
    await begun(store, signals=5)
    await store.commit([anew(2, seen=4, unread=(2, 4))])
    await store.commit([SendSignal("p", "go", b"6", "s6")])
    [claimed] = await claim(store)
    assert [one.seq for one in claimed.signals] == [2, 4, 5, 6]
    assert [one.seq for one in await store.signals([("p", 0)])] == [2, 4, 5, 6]
    assert claimed.run.signals == 6
    again = await store.commit([SendSignal("p", "go", b"1", "s1")])
    assert [one.duplicate for one in again if isinstance(one, Sent)] == [True], "also one taken"


async def test_signals_over_several_switches(store: Store) -> None:
    await begun(store, signals=3)
    await store.commit([anew(2, seen=3, unread=(2,))])
    [second] = await claim(store)
    assert [one.seq for one in second.signals] == [2]
    await store.commit([anew(2, epoch=2, seen=3)])
    [third] = await claim(store)
    assert [*third.signals] == []
    assert third.run.execution == 3
    assert await store.commit([Settle("p", 3, "waiting", seen=3)]) == [None]
    assert await states(store, "p") == ["waiting"], "what was taken wakes nobody"


async def test_children_live_on_when_their_parent_begins_anew(store: Store) -> None:
    await begun(store)
    await store.commit([child("c")])
    await store.commit([anew(2)])
    assert not (await the_run(store, "c")).cancel_requested
    [parent] = [one for one in await claim(store) if one.run.id == "p"]
    await store.commit([settle("p", epoch=parent.run.epoch)])
    assert (await the_run(store, "c")).cancel_requested


async def test_a_cancel_request_outlasts_the_switch(store: Store) -> None:
    await begun(store)
    await store.commit([RequestCancel("p")])
    await store.commit([anew(2)])
    [claimed] = await claim(store)
    assert claimed.run.cancel_requested


async def test_what_earlier_executions_left_is_swept(store: Store) -> None:
    await begun(store, signals=3)
    shown = Entry("p", 3, "0/state:x#1", "state", "x", None, b"1", None, 1, 1.0, 1.0)
    await store.commit([append("p", 3)._replace(entry=shown)])
    await store.commit([anew(3, seen=3, unread=(3,))])
    [claimed] = await claim(store)
    await store.commit([append("p", 4, epoch=claimed.run.epoch)])
    while any(await store.sweep(Sweep(-60.0))):
        pass
    assert [one.seq for one in await store.journal("p")] == [4], "this execution's"
    assert await store.entries("p", "step") == [*await store.journal("p")]
    assert [one.seq for one in await store.entries("p", "state")] == [3], "it is shown still"
    assert [one.seq for one in await store.signals([("p", 0)])] == [3]
    assert await claimed_ids(store) == []


async def test_a_child_of_a_run_that_exists_already_is_that_run(store: Store) -> None:
    await store.commit([start("c")])
    [found] = await families(store, child("c"))
    assert isinstance(found, Started)
    assert (found.created, found.run.parent) == (False, None)
