"""Whose turn it is: limits are never passed, nothing waits without a reason, keys are fair, and
nothing starves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from aura.store.queues import (
    MOST_HEADS,
    Head,
    Load,
    Offer,
    Placement,
    QueueLimits,
    choose,
    next_look,
    open_queues,
)

QUEUES, KEYS = ("p", "q"), ("", "a", "b", "c")
few = st.none() | st.integers(1, 4)
limits = st.builds(
    QueueLimits,
    concurrency=few,
    per_worker=few,
    per_key=few,
    rate=few,
    per=st.just(60.0),
    requires=st.sets(st.sampled_from(["gpu"]), max_size=1).map(frozenset),
    resources=st.dictionaries(st.sampled_from(["gpu", "ram"]), st.integers(1, 2), max_size=2),
)


@st.composite
def loads(draw: st.DrawFn) -> dict[str, Load]:
    found = {}
    for name in QUEUES:
        running = draw(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), max_size=4))
        mine = draw(st.integers(0, sum(running.values())))
        begun = draw(st.integers(0, 5))
        free = draw(st.booleans())
        found[name] = Load(draw(limits), running, mine, begun, 100.0 if begun else None, free)
    return found


heads = st.lists(
    st.builds(
        Head,
        id=st.uuids().map(str),
        epoch=st.just(1),
        state=st.sampled_from(["pending", "pending", "pending", "running"]),
        queue=st.sampled_from(QUEUES),
        key=st.sampled_from(KEYS),
        begun=st.booleans(),
        rank=st.integers(0, 9).map(float),
    ).map(lambda head: head._replace(begun=head.begun or head.state == "running")),
    max_size=25,
    unique_by=lambda head: head.id,
)
offers = st.builds(
    Offer,
    st.sets(st.sampled_from(["gpu", "eu"])).map(frozenset),
    st.dictionaries(st.sampled_from(["gpu", "ram"]), st.integers(0, 6), max_size=2),
)
rooms = st.integers(0, 12)


class After:
    """What would be under way after the choice."""

    def __init__(self, before: Mapping[str, Load], chosen: Sequence[Head]) -> None:
        self.before, self.chosen = before, chosen
        new = [head for head in chosen if head.state == "pending"]
        self.running = {
            name: Counter(load.running) + Counter(h.key for h in new if h.queue == name)
            for name, load in before.items()
        }
        self.mine = {
            name: load.mine + sum(head.queue == name for head in chosen)
            for name, load in before.items()
        }
        self.begun = {
            name: load.begun + sum(h.queue == name and not h.begun for h in new)
            for name, load in before.items()
        }

    def used(self, resource: str) -> float:
        return sum(
            load.limits.resources.get(resource, 0) * self.mine[name]
            for name, load in self.before.items()
        )

    def could_take(self, head: Head, offer: Offer) -> bool:
        """Whether all limits allow this run as well."""
        load, limits = self.before[head.queue], self.before[head.queue].limits
        used = self.running[head.queue]
        here = (
            limits.requires <= offer.tags
            and (limits.per_worker is None or self.mine[head.queue] < limits.per_worker)
            and all(
                self.used(name) + amount <= offer.resources.get(name, 0)
                for name, amount in limits.resources.items()
            )
        )
        if head.state == "running":
            return here
        return (
            here
            and load.free
            and (limits.concurrency is None or used.total() < limits.concurrency)
            and (limits.per_key is None or not head.key or used[head.key] < limits.per_key)
            and (head.begun or limits.rate is None or self.begun[head.queue] < limits.rate)
        )


@settings(max_examples=150)
@given(loads(), heads, rooms, offers)
def test_limits_hold_whatever_is_under_way(
    before: dict[str, Load], waiting: list[Head], room: int, offer: Offer
) -> None:
    """Each run in turn was allowed when it was taken, after those before it."""
    chosen = choose(before, waiting, room, offer)
    assert len(chosen) <= room
    assert len({head.id for head in chosen}) == len(chosen)
    for at, head in enumerate(chosen):
        assert After(before, chosen[:at]).could_take(head, offer)


@settings(max_examples=150)
@given(loads(), heads, rooms, offers)
def test_nothing_waits_without_a_reason(
    before: dict[str, Load], waiting: list[Head], room: int, offer: Offer
) -> None:
    chosen = choose(before, waiting, room, offer)
    if len(chosen) == room:
        return
    after = After(before, chosen)
    taken = {head.id for head in chosen}
    for head in first_of_each_key([head for head in waiting if head.id not in taken]):
        assert not after.could_take(head, offer)


@settings(max_examples=150)
@given(loads(), heads, rooms, offers)
def test_keys_take_turns_and_keep_their_order(
    before: dict[str, Load], waiting: list[Head], room: int, offer: Offer
) -> None:
    chosen = [one for one in choose(before, waiting, room, offer) if one.state == "pending"]
    for at, head in enumerate(chosen):
        left = [one for one in waiting if one.state == "pending" and one not in chosen[:at]]
        after = After(before, chosen[:at])
        for other in first_of_each_key(left):
            if other.queue == head.queue and after.could_take(other, offer):
                mine, its = (
                    after.running[head.queue][head.key],
                    after.running[head.queue][other.key],
                )
                assert (mine, turn(head)) <= (its, turn(other))


@given(loads(), heads, offers)
def test_what_is_not_open_would_take_nothing(
    before: dict[str, Load], waiting: list[Head], offer: Offer
) -> None:
    pending = [head for head in waiting if head.state == "pending"]
    taken = {head.queue for head in choose(before, pending, 10, offer)}
    assert taken <= set(open_queues(before, offer))


def first_of_each_key(found: Sequence[Head]) -> list[Head]:
    """Runs to take over stand for themselves: they keep their places."""
    first: dict[tuple[str, str], Head] = {}
    for head in sorted((one for one in found if one.state == "pending"), key=turn):
        first.setdefault((head.queue, head.key), head)
    return [*first.values(), *(one for one in found if one.state == "running")]


def turn(head: Head) -> tuple[bool, float, str]:
    return (not head.begun, head.rank, head.id)


def test_nothing_starves_under_a_flood_of_urgent_runs() -> None:
    """One place, a critical run every minute for a day, each a minute long: the low one goes when
    it has waited for as long as the difference is worth."""
    low = Placement("q", priority=-10)
    waiting = [Head("low", 0, "pending", "q", "", False, low.rank(0.0))]
    began_at = None
    for minute in range(24 * 60):
        now = minute * 60.0
        rank = Placement("q", priority=100).rank(now)
        waiting.append(Head(f"c{minute}", 0, "pending", "q", "", False, rank))
        [taken] = choose({"q": Load(QueueLimits(1))}, waiting, 1, Offer())
        waiting.remove(taken)
        if taken.id == "low":
            began_at = minute
            break
    assert began_at == 111, "a hundred and ten steps, a minute each, and then it is older"


def test_a_key_with_many_runs_is_looked_at_again() -> None:
    """A claim looks at a part of each key's runs; after all of those there may be more."""
    keys = MOST_HEADS // 10
    heads = [Head(f"{n}", 0, "pending", "q", f"k{n}", False, 0.0) for n in range(keys - 1)]
    heads += [Head(f"x{n}", 0, "pending", "q", "x", False, 0.0) for n in range(10)]
    loads = {"q": Load(QueueLimits())}
    assert next_look(loads, 0.0, heads, heads, 1000) == 0.0
    assert next_look(loads, 0.0, heads, heads[:-1], 1000) is None
    assert next_look(loads, 0.0, heads, heads, len(heads)) is None, "there is no room anyway"


def test_when_to_look_again() -> None:
    full = Load(QueueLimits(rate=2, per=60.0), begun=2, leaves_at=130.0)
    assert next_look({"q": full}, 100.0, [], [], 10) == 30.0
    busy = Load(QueueLimits(1), free=False)
    assert 0 < (next_look({"q": full, "p": busy}, 100.0, [], [], 10) or 0) < 1
    assert next_look({"q": Load(QueueLimits(1), {"": 1})}, 100.0, [], [], 10) is None


def test_definitions_come_back_as_they_were() -> None:
    limits = QueueLimits(1, 2, 3, 4, 5.5, frozenset({"b", "a"}), {"gpu": 2.0})
    assert QueueLimits.load(limits.dump()) == limits
    assert QueueLimits.load(None) == QueueLimits()
