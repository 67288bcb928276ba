"""Runs found by their attributes, by the worker that has them, and by the time they were parked."""

from __future__ import annotations

from dataclasses import replace

from aura.store.base import Claim, RunFilter, Settle, Started, Store, Sweep
from aura.store.portable import Page
from aura.store.queues import Placement
from tests.store.kit import PAIRS, append, beat, start


async def ids(store: Store, where: RunFilter) -> list[str]:
    return [one.id for one in await store.runs(where)]


async def test_runs_are_found_by_attributes_page_by_page(store: Store) -> None:
    for at in range(5):
        customer = ("customer", "x" if at % 2 == 0 else "y")
        op = replace(start(f"r{at}"), attributes=(customer, ("tier", f"t{at % 3}")))
        assert isinstance((await store.commit([op]))[0], Started)
    await store.commit([start("plain")])
    mine = (("customer", "x"),)
    assert await ids(store, RunFilter(attributes=mine)) == ["r4", "r2", "r0"]
    first = await store.runs(RunFilter(attributes=mine, limit=2))
    after = (first[-1].created_at, first[-1].id)
    assert await ids(store, RunFilter(attributes=mine, limit=2, before=after)) == ["r0"]
    both = (*mine, ("tier", "t1"))
    assert await ids(store, RunFilter(attributes=both)) == ["r4"]
    assert await ids(store, RunFilter(attributes=(("customer", "z"),))) == []
    assert await ids(store, RunFilter(attributes=mine, state="pending")) == ["r4", "r2", "r0"]
    assert await ids(store, RunFilter(attributes=mine, state="failed")) == []
    assert await ids(store, RunFilter(attributes=mine, workflow="other")) == []
    assert await ids(store, RunFilter(attributes=mine, parent="nobody")) == []
    assert await store.attributes(["r1", "plain", "gone"]) == {
        "r1": {"customer": "y", "tier": "t1"}
    }


async def test_only_a_run_that_is_created_gets_attributes(store: Store) -> None:
    op = replace(start("a"), attributes=(("customer", "x"),))
    again = replace(op, attributes=(("customer", "y"), ("more", "z")))
    outcomes = await store.commit([op, again, start("b")])
    assert [one.created for one in outcomes if isinstance(one, Started)] == [True, False, True]
    await store.commit([again])
    assert await store.attributes(["a", "b"]) == {"a": {"customer": "x"}}
    once = replace(op, id="c", place=Placement(delay=60.0, dedup="one"))
    twice = replace(again, id="d", place=Placement(delay=60.0, dedup="one"))
    await store.commit([once])
    await store.commit([twice])
    assert await store.attributes(["c", "d"]) == {"c": {"customer": "x"}}


async def test_attributes_travel_with_their_run_and_go_with_it(store: Store) -> None:
    await beat(store, "w")
    await store.commit([replace(start("a", owner="w"), attributes=(("customer", "x"),))])
    [run] = await store.rows(Page("runs", run="a"))
    [line] = await store.rows(Page("attributes", run="a"))
    moved = {**run, "id": "b", "state": "pending", "owner": None, "epoch": 0}
    there = [("attributes", {**line, "run_id": "b"})]
    assert await store.adopt(moved, there) == "create"
    assert await ids(store, RunFilter(attributes=(("customer", "x"),))) == ["b", "a"]
    await store.commit([Settle("a", 1, "completed")])
    assert (await store.sweep(Sweep(age=0.0))).runs == 1
    assert await store.attributes(["a", "b"]) == {"b": {"customer": "x"}}
    assert await ids(store, RunFilter(attributes=(("customer", "x"),))) == ["b"]


async def test_runs_of_a_worker(store: Store) -> None:
    await beat(store, "w")
    await beat(store, "v")
    await store.commit([start("a", owner="w"), start("b", owner="w"), start("c", owner="v")])
    await store.commit([start("d")])
    assert sorted(await ids(store, RunFilter(owner="w"))) == ["a", "b"]
    first = await store.runs(RunFilter(owner="w", limit=1))
    after = (first[0].created_at, first[0].id)
    [rest] = await ids(store, RunFilter(owner="w", before=after))
    assert {first[0].id, rest} == {"a", "b"}
    assert await ids(store, RunFilter(owner="w", state="waiting")) == []


async def test_parked_runs_by_the_time_they_were_parked(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start(name, owner="w") for name in "abc"])
    for name in "bca":
        await store.commit([Settle(name, 1, "parked", error=b'"why"')])
    where = RunFilter("parked", by="parked", limit=2)
    first = await store.runs(where)
    assert [one.id for one in first] == ["a", "c"]
    at = first[-1].finished_at
    assert at is not None
    assert await ids(store, replace(where, before=(at, "c"))) == ["b"]
    assert await ids(store, replace(where, workflow="other")) == []
    assert await store.requeue("a")
    assert await ids(store, where) == ["c", "b"]
    claimed = await store.claim(Claim("w", PAIRS, 5))
    assert [one.run.id for one in claimed.runs] == ["a"]


async def test_what_has_changed_since(store: Store) -> None:
    await beat(store, "w")
    before = await store.moment() - 1.0
    assert await store.changed_runs(before, 10) == []
    await store.commit([start(name, owner="w") for name in "ab"])
    await store.commit([start("c")])
    await store.commit([Settle("a", 1, "completed")])
    await store.commit([Settle("b", 1, "parked", error=b'"why"')])
    found = await store.changed_runs(before, 10)
    assert [one.at for one in found] == sorted((one.at for one in found), reverse=True)
    assert {(one.id, one.state) for one in found} == {
        ("a", "completed"), ("b", "parked"), ("c", "pending"),
    }  # fmt: skip
    assert {one.workflow for one in found} == {"research"}
    assert len(await store.changed_runs(before, 2)) == 2
    assert await store.changed_runs(found[0].at, 10) == []


async def test_how_far_runs_are(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w"), start("b")])
    await store.commit([append("a", 1), append("a", 2)])
    found = {one.id: one for one in await store.pulses(["a", "b", "gone"])}
    assert (found["a"].state, found["a"].epoch, found["a"].entries) == ("running", 1, 2)
    assert (found["b"].state, found["b"].entries, found["b"].signals) == ("pending", 0, 0)
    assert len(found) == 2
