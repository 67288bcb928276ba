"""Events in every store: numbered without gaps, once per id, and groups that cannot lose any."""

from __future__ import annotations

import asyncio

import pytest

from aura.errors import LeaseLost
from aura.store.base import Append, Op, Settle, Store, Sweep
from aura.store.events import (
    PARTITIONS,
    Assignment,
    Change,
    Emit,
    Event,
    Join,
    LetterPlace,
    NewEvent,
    Progress,
    partition,
)
from tests.store.kit import Backend, beat, database_now, entry, eventually, start

EVERYWHERE = tuple(range(PARTITIONS))


def event(number: int, *, topic: str = "orders", key: str | None = None, id: str = "") -> NewEvent:
    return NewEvent(topic, id or f"id-{number}", key, b"%d" % number)


async def emit(store: Store, *events: NewEvent) -> None:
    assert await store.commit([Emit(events)]) == [None]


async def everything(store: Store, topic: str = "orders") -> list[Event]:
    return (await store.events.read(topic, 0, EVERYWHERE, 10_000)).events


async def balance(
    store: Store, worker: str = "w", *, group: str = "g", latest: bool = False
) -> Assignment:
    [found] = await store.events.balance(worker, [Join("orders", group, latest)])
    return found


async def joined(store: Store, worker: str = "w", *, group: str = "g") -> Assignment:
    """A worker that lives and has its share."""
    await beat(store, worker)
    return await balance(store, worker, group=group)


def move(
    of: Assignment, part: int, cursor: int, *changes: Change, release: bool = False
) -> Progress:
    epoch = next(one.epoch for one in of.parts if one.part == part)
    return Progress(of.topic, of.group, part, epoch, cursor, changes, release)


async def test_events_are_numbered_in_order_and_kept(store: Store) -> None:
    before = await database_now(store)
    await emit(store, event(1), event(2, key="a"), event(1, topic="bills"), event(3, key="a"))
    await emit(store, event(4))
    found = await everything(store)
    assert [(one.seq, one.id, one.key, one.payload) for one in found] == [
        (1, "id-1", None, b"1"),
        (2, "id-2", "a", b"2"),
        (3, "id-3", "a", b"3"),
        (4, "id-4", None, b"4"),
    ]
    assert found[1].part == found[2].part == partition(event(2, key="a"))
    assert all(before - 0.01 <= one.at <= before + 60 for one in found)
    assert [one.seq for one in await everything(store, "bills")] == [1]
    assert await everything(store, "none") == []


async def test_an_id_is_one_event_of_its_topic(store: Store) -> None:
    await emit(store, event(1, id="x"), event(2, id="x"), event(3, id="x", topic="bills"))
    await emit(store, event(4, id="x"), event(5))
    assert [(one.seq, one.payload) for one in await everything(store)] == [(1, b"1"), (2, b"5")]
    assert [one.payload for one in await everything(store, "bills")] == [b"3"]


async def test_reading_takes_partitions_numbers_and_a_limit(store: Store) -> None:
    await emit(store, *(event(number) for number in range(1, 41)))
    page = await store.events.read("orders", 10, EVERYWHERE, 5)
    assert page.tail == 40
    assert [one.seq for one in page.events] == [11, 12, 13, 14, 15]
    some = (await store.events.read("orders", 0, (3, 5), 100)).events
    assert some
    assert {one.part for one in some} <= {3, 5}
    nothing = await store.events.read("orders", 40, EVERYWHERE, 5)
    assert (nothing.tail, nothing.events) == (40, [])
    assert [one.seq for one in await store.events.events("orders", (7, 2, 99))] == [2, 7]


async def test_an_event_and_its_entry_are_written_together(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w"), start("b", owner="w")])
    ours = Emit((event(1), event(2)), Append(1, entry("a", 1)))
    stale = Emit((event(3),), Append(7, entry("b", 1)))
    outcomes = await store.commit([stale, Append(1, entry("b", 1)), ours, Emit((event(4),))])
    assert isinstance(outcomes[0], LeaseLost)
    assert outcomes[1:] == [None, None, None]
    assert [one.payload for one in await everything(store)] == [b"1", b"2", b"4"]
    assert len(await store.journal("a")) == 1


async def test_a_commit_of_unknown_outcome_can_be_repeated(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w")])
    batch: list[Op] = [Emit((event(1),), Append(1, entry("a", 1))), Emit((event(2),))]
    assert await store.commit(batch) == [None, None]
    assert await store.commit(batch) == [None, None]
    assert [one.payload for one in await everything(store)] == [b"1", b"2"]


async def test_what_a_run_emits_last_is_written_before_it_is_settled(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w")])
    ops: list[Op] = [Emit((event(1),), Append(1, entry("a", 1))), Settle("a", 1, "completed", b"1")]
    assert await store.commit(ops) == [None, None]
    assert len(await everything(store)) == 1


async def test_events_of_a_lost_run_are_not_written(store: Store) -> None:
    await beat(store, "w")
    await store.commit([start("a", owner="w"), Settle("a", 1, "pending")])
    [lost] = await store.commit([Emit((event(1),), Append(1, entry("a", 1)))])
    assert isinstance(lost, LeaseLost)
    assert await everything(store) == []


async def test_processes_number_a_topic_without_gaps(shared: Backend) -> None:
    stores = [await shared.open() for _ in range(3)]

    async def many(at: int) -> None:
        for number in range(40):
            one = event(number, id=f"{at}-{number}")
            assert await stores[at].commit([Emit((one,))]) == [None]

    await asyncio.gather(*(many(at) for at in range(3)))
    found = await everything(stores[0])
    assert [one.seq for one in found] == list(range(1, 121))
    for at in range(3):
        mine = [one.id for one in found if one.id.startswith(f"{at}-")]
        assert mine == [f"{at}-{number}" for number in range(40)]


async def test_emitting_is_heard_everywhere(shared: Backend) -> None:
    here, there = await shared.open(), await shared.open()
    heard: list[list[str]] = [[], []]
    here.listen(heard[0].append)
    there.listen(heard[1].append)
    await emit(here, event(1), event(1, topic="50%"))

    async def both() -> bool:
        return all({"events:orders", "events:50%"} <= set(each) for each in heard)

    await eventually(both)


async def test_one_worker_gets_all_partitions(store: Store) -> None:
    await emit(store, event(1), event(2))
    found = await joined(store)
    assert [one.part for one in found.parts] == list(EVERYWHERE)
    assert {(one.epoch, one.cursor, one.takeovers) for one in found.parts} == {(1, 0, 0)}
    assert (found.quota, found.tail, found.joined, found.told) == (PARTITIONS, 2, True, [])
    again = await balance(store)
    assert again.parts == found.parts
    assert not again.joined


async def test_a_new_group_may_begin_with_what_comes(store: Store) -> None:
    await emit(store, event(1), event(2))
    found = await balance(store, latest=True)
    assert {one.cursor for one in found.parts} == {2}
    assert {one.cursor for one in (await balance(store, group="other")).parts} == {0}


async def test_partitions_are_shared_out_when_workers_come(store: Store) -> None:
    first = await joined(store, "a")
    second = await joined(store, "b")
    assert (second.parts, second.quota) == ([], PARTITIONS // 2)
    assert (await balance(store, "a")).quota == PARTITIONS // 2
    released = [move(first, part, 0, release=True) for part in EVERYWHERE[8:]]
    assert await store.commit(released) == [None] * 8
    assert [one.part for one in (await balance(store, "a")).parts] == list(EVERYWHERE[:8])
    taken = await balance(store, "b")
    assert [one.part for one in taken.parts] == list(EVERYWHERE[8:])
    assert {(one.epoch, one.takeovers) for one in taken.parts} == {(2, 0)}


@pytest.mark.parametrize("workers", [3, 5, 16, 17])
async def test_quotas_add_up(store: Store, workers: int) -> None:
    names = [f"w{at:02}" for at in range(workers)]
    for name in names:
        await joined(store, name)
    quotas = [(await balance(store, name)).quota for name in names]
    assert sum(quotas) == PARTITIONS
    assert max(quotas) - min(quotas) <= 1


async def test_a_dead_worker_is_followed_and_fenced(store: Store) -> None:
    mine = await joined(store, "a")
    await beat(store, "a", 0.0)
    theirs = await joined(store, "b")
    assert [one.part for one in theirs.parts] == list(EVERYWHERE)
    assert {(one.epoch, one.takeovers) for one in theirs.parts} == {(2, 1)}
    lost, kept = await store.commit([move(mine, 3, 9), move(theirs, 4, 5)])
    assert isinstance(lost, LeaseLost)
    assert kept is None
    now = (await balance(store, "b")).parts
    assert [(one.cursor, one.takeovers) for one in now[3:5]] == [(0, 1), (5, 0)]


async def test_a_cursor_does_not_go_back(store: Store) -> None:
    mine = await joined(store)
    await store.commit([move(mine, 0, 9)])
    await store.commit([move(mine, 0, 4)])
    assert (await balance(store)).parts[0].cursor == 9


async def test_who_leaves_frees_its_partitions(store: Store) -> None:
    await joined(store, "a")
    await store.events.leave("a")
    theirs = await joined(store, "b")
    assert {one.takeovers for one in theirs.parts} == {0}
    assert theirs.quota == PARTITIONS


async def test_deliveries_are_kept_changed_and_ended(store: Store) -> None:
    await emit(store, event(1, key="k"), event(2, key="k"))
    part = partition(event(1, key="k"))
    mine = await joined(store)
    waits = Change(1, "k", "waiting", 2, 12.5, b"[1]")
    late = Change(2, "k", "waiting")
    assert await store.commit([move(mine, part, 2, waits, late)]) == [None]
    first, second = await store.events.deliveries("orders", "g", EVERYWHERE)
    assert first[:10] == ("orders", "g", 1, part, "k", "waiting", 2, 12.5, b"[1]", None)
    assert (second.seq, second.attempts, second.due_at, second.history) == (2, 0, None, None)
    again = waits._replace(attempts=3, due_at=None, history=b"[1,2]")
    await store.commit([move(mine, part, 2, again, late._replace(state="gone"))])
    [left] = await store.events.deliveries("orders", "g", (part,))
    assert (left.attempts, left.due_at, left.history) == (3, None, b"[1,2]")
    assert await store.events.deliveries("orders", "g", ((part + 1) % PARTITIONS,)) == []


async def test_a_fenced_worker_changes_no_delivery(store: Store) -> None:
    await emit(store, event(1))
    mine = await joined(store, "a")
    await beat(store, "a", 0.0)
    await joined(store, "b")
    part = partition(event(1))
    [lost] = await store.commit([move(mine, part, 1, Change(1, None, "dead"))])
    assert isinstance(lost, LeaseLost)
    assert await store.events.dead_letters() == []


async def dead_one(store: Store) -> Assignment:
    """Event 1 of 2 is a dead letter of group g."""
    await emit(store, event(1), event(2))
    mine = await joined(store)
    dies = Change(1, None, "dead", 3, None, b'["why"]')
    await store.commit([move(mine, partition(event(1)), 2, dies)])
    return mine


async def test_dead_letters_are_listed_with_their_events(store: Store) -> None:
    await dead_one(store)
    [found] = await store.events.dead_letters()
    assert (found.delivery.state, found.delivery.attempts) == ("dead", 3)
    assert found.delivery.history == b'["why"]'
    assert (found.event.seq, found.event.payload) == (1, b"1")
    assert await store.events.dead_letter("orders", "g", 1) == found
    assert await store.events.dead_letter("orders", "g", 2) is None
    assert await store.events.dead_letters("orders", "g") == [found]
    assert await store.events.dead_letters("orders", "other") == []
    assert await store.events.dead_letters("bills") == []
    assert await store.events.deliveries("orders", "g", EVERYWHERE) == []
    assert len(await store.events.deliveries("orders", "g", EVERYWHERE, dead_after=0)) == 1


async def test_a_person_requeues_a_dead_letter_once(store: Store) -> None:
    await dead_one(store)
    assert await store.events.requeue("orders", "g", 1, "1.1.0")
    assert not await store.events.requeue("orders", "g", 1, None)
    assert not await store.events.drop("orders", "g", 1)
    assert not await store.events.requeue("orders", "g", 2, None)
    assert await store.events.dead_letters() == []
    [told] = await store.events.deliveries("orders", "g", EVERYWHERE)
    assert (told.state, told.version, told.history) == ("requeued", "1.1.0", b'["why"]')
    assert (await balance(store)).told == [1]


async def test_a_person_drops_a_dead_letter(store: Store) -> None:
    await dead_one(store)
    assert await store.events.drop("orders", "g", 1)
    [told] = await store.events.deliveries("orders", "g", EVERYWHERE)
    assert told.state == "dropped"
    assert (await balance(store)).told == [1]


async def test_a_replay_fences_and_sets_back(store: Store) -> None:
    mine = await dead_one(store)
    await store.commit([move(mine, one.part, 2) for one in mine.parts])
    since = (await everything(store))[0].at
    assert await store.events.replay("orders", "g", since) == 2
    assert await store.events.dead_letters() == []
    [lost] = await store.commit([move(mine, 0, 2)])
    assert isinstance(lost, LeaseLost)
    again = await balance(store)
    assert {(one.cursor, one.takeovers) for one in again.parts} == {(0, 0)}
    assert (again.generation, again.replayed_to) == (1, 2)
    assert await store.events.replay("orders", "nobody", since) is None


async def test_a_replay_begins_at_a_time(store: Store) -> None:
    for number in range(1, 8):
        await emit(store, event(number))
        await asyncio.sleep(0.002)
    at = {one.seq: one.at for one in await everything(store)}
    mine = await joined(store)
    await store.commit([move(mine, one.part, 7) for one in mine.parts])
    assert await store.events.replay("orders", "g", at[5]) == 3
    assert {one.cursor for one in (await balance(store)).parts} == {4}
    assert await store.events.replay("orders", "g", at[7] + 60) == 0
    assert await store.events.replay("orders", "g", 0.0) == 7


async def test_lag_and_sizes_are_measured(store: Store) -> None:
    assert await store.events.topics() == []
    await dead_one(store)
    await emit(store, event(345))
    [topic] = await store.events.topics()
    assert topic == ("orders", 3, 3, 5)
    mine = await balance(store)
    for one in mine.parts:
        await store.commit([move(mine, one.part, 2)])
    waits = Change(2, None, "waiting")
    await store.commit([move(mine, partition(event(2)), 2, waits)])
    [group] = await store.events.groups()
    assert group._replace(age=None) == ("orders", "g", 2, None, 1, 1, 1)
    assert group.age is not None
    assert 0 <= group.age < 60
    await store.commit([move(mine, one.part, 3) for one in mine.parts])
    await store.commit([move(mine, partition(event(2)), 3, waits._replace(state="gone"))])
    [group] = await store.events.groups("orders")
    assert (group.lag, group.age, group.waiting, group.dead) == (0, None, 0, 1)
    assert await store.events.groups("bills") == []


async def test_forgetting_a_group(store: Store) -> None:
    await dead_one(store)
    assert await store.events.forget("orders", "g")
    assert not await store.events.forget("orders", "g")
    assert await store.events.groups() == []
    assert await store.events.dead_letters() == []
    assert {one.cursor for one in (await balance(store)).parts} == {0}


async def sweep_all(store: Store, age: float = -60.0, unread: float | None = None) -> int:
    what = Sweep(age, unread=unread)
    countable = (await store.sweepable(what)).events
    swept = (await store.sweep(what)).events
    assert swept == min(countable, what.limit)
    return swept


async def test_events_without_groups_go_by_age(store: Store) -> None:
    await emit(store, event(1), event(2))
    assert await sweep_all(store, age=3_600) == 0
    assert await sweep_all(store) == 2
    assert await everything(store) == []
    assert (await store.events.topics())[0] == ("orders", 2, 0, 0)
    await emit(store, event(3))
    assert [one.seq for one in await everything(store)] == [3]


async def test_unread_events_stay_unless_told_otherwise(store: Store) -> None:
    await emit(store, *(event(number) for number in range(1, 7)))
    quick, slow = await joined(store, group="quick"), await joined(store, group="slow")
    await store.commit([move(quick, one.part, 6) for one in quick.parts])
    assert await sweep_all(store) == 0
    await store.commit([move(slow, one.part, 4) for one in slow.parts])
    assert await sweep_all(store) == 4
    assert [one.seq for one in await everything(store)] == [5, 6]
    assert await sweep_all(store, unread=3_600) == 0
    assert await sweep_all(store, unread=-60.0) == 2


async def test_dead_letters_keep_their_events(store: Store) -> None:
    mine = await dead_one(store)
    await store.commit([move(mine, one.part, 2) for one in mine.parts])
    assert await sweep_all(store, unread=-60.0) == 1
    [found] = await store.events.dead_letters()
    assert found.event.payload == b"1"


async def test_a_sweep_takes_no_more_than_its_limit(store: Store) -> None:
    await emit(store, *(event(number) for number in range(1, 21)))
    assert (await store.sweep(Sweep(-60.0, limit=8))).events == 8
    assert [one.seq for one in await everything(store)] == list(range(9, 21))


async def test_dead_letters_are_listed_page_by_page(store: Store) -> None:
    await emit(store, *(event(number) for number in range(1, 7)))
    mine = await joined(store)
    for number in (3, 1, 6, 2):
        part = partition(event(number))
        await store.commit([move(mine, part, 6, Change(number, None, "dead", 1, None, b"[]"))])
    whole = [one.delivery.seq for one in await store.events.dead_letters()]
    assert sorted(whole) == [1, 2, 3, 6]
    seen: list[int] = []
    before = None
    while page := await store.events.dead_letters("orders", None, 3, before):
        seen += [one.delivery.seq for one in page]
        last = page[-1].delivery
        before = LetterPlace(last.changed_at, last.seq, last.topic, last.group)
    assert seen == whole
