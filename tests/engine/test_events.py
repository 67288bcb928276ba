"""Events: emitted exactly once with what they belong to, handled in order of their keys."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

import aura
from aura import Aura, NonRetryable, Retry, step
from aura.engine import Event
from aura.errors import (
    CodecError,
    ConfigError,
    InvalidInput,
    PayloadTooLarge,
    RegistrationError,
    RunFailed,
)
from aura.server import topics
from aura.store.base import Heartbeat, Outcome
from aura.store.events import Change, Join, NewEvent, Progress, partition
from tests.engine.events_kit import Seen, caught_up, crash, listening, stored
from tests.engine.kit import World, declare, replayed, until


@dataclass
class Order:
    number: int
    at: datetime


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# -- emitting ----------------------------------------------------------------------------------


async def _announces(count: int) -> int:
    for number in range(count):
        await aura.emit("orders", {"number": number}, key=f"k{number % 2}")
    return count


announces = declare(_announces, name="announces")


async def test_a_run_emits_in_its_order(world: World) -> None:
    app = await world.open(announces)
    run = await app.start(announces, 5, id="a")
    assert await run.result(timeout=60) == 5
    found = await stored(world)
    assert [one.payload for one in found] == [b'{"number":%d}' % at for at in range(5)]
    assert [one.key for one in found] == ["k0", "k1", "k0", "k1", "k0"]
    assert [one.id for one in found] == [f"a:0/emit:orders#{at}" for at in range(1, 6)]
    kinds = [(one.kind, one.key) for one in await world.journal("a")]
    assert kinds == [("event", f"0/emit:orders#{at}") for at in range(1, 6)]


async def test_a_replay_emits_nothing_again(world: World) -> None:
    app = await world.open(announces)
    await (await app.start(announces, 4, id="a")).result(timeout=60)
    journal = await world.journal("a")
    assert await replayed(app, announces, journal, 4) == 4
    assert len(await stored(world)) == 4
    assert await replayed(app, announces, journal[:3], 4) == 4
    assert len(await stored(world)) == 5


async def _two_events() -> None:
    await aura.emit("orders", 1)
    await aura.emit("bills", 2)


two_events = declare(_two_events)


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_the_commit_loses_and_doubles_nothing(world: World, after: bool) -> None:
    app = await world.open(two_events)
    commit = app.store.commit
    cut = asyncio.Event()

    async def breaks(ops: Any) -> list[Outcome]:
        if any(type(op).__name__ == "Emit" for op in ops):
            if after:
                await commit(ops)
            cut.set()
            await asyncio.Event().wait()
        return await commit(ops)

    app.store.commit = breaks  # type: ignore[method-assign]
    await app.start(two_events, id="a")
    await asyncio.wait_for(cut.wait(), 10)
    for topic in ("orders", "bills"):
        assert len(await stored(world, topic)) <= after
    assert app._worker is not None
    for task in app._worker._tasks.values():
        task.cancel()  # it may wait for a commit that never comes
    await world.crash(app)
    other = await world.open(two_events)
    await other.run("a").result(timeout=60)
    assert [one.payload for one in await stored(world, "orders")] == [b"1"]
    assert [one.payload for one in await stored(world, "bills")] == [b"2"]


_tries: list[int] = []


@step(retries=Retry(attempts=3, first=0.001))
async def charges(fails: int) -> str:
    await aura.emit("orders", len(_tries), key="a")
    _tries.append(1)
    if len(_tries) <= fails:
        raise OSError("the network")
    await aura.emit("orders", "last")
    return "charged"


@step
def charges_in_a_thread() -> None:
    aura.emit("orders", "from a thread")


@step
async def refuses() -> None:
    await aura.emit("orders", "never")
    raise NonRetryable("no")


async def _shop(fails: int) -> str:
    await charges_in_a_thread()
    return await charges(fails)


async def _refused() -> None:
    await refuses()


shop, refused = declare(_shop, name="shop"), declare(_refused, name="refused")


async def test_a_step_emits_with_its_result_only(world: World) -> None:
    app = await world.open(shop, refused)
    _tries.clear()
    assert await (await app.start(shop, 2, id="a")).result(timeout=60) == "charged"
    found = await stored(world)
    assert [one.payload for one in found] == [b'"from a thread"', b"2", b'"last"']
    assert [one.id for one in found][1:] == ["a:0/charges#1:1", "a:0/charges#1:2"]
    with pytest.raises(RunFailed):
        await (await app.start(refused)).result(timeout=60)
    assert len(await stored(world)) == 3
    assert await replayed(app, shop, await world.journal("a"), 2) == "charged"
    assert len(await stored(world)) == 3


async def test_emitting_from_outside(world: World) -> None:
    app = await world.open(worker=False)
    await app.emit("orders", Order(1, AT), key="a")
    await app.emit("orders", 2, id="second")
    await app.emit("orders", 3, id="second")
    found = await stored(world)
    assert [(one.payload, one.key) for one in found] == [
        (b'{"number":1,"at":"2026-01-02T03:04:05Z"}', "a"),
        (b"2", None),
    ]


async def test_what_cannot_be_emitted(world: World) -> None:
    app = await world.open(worker=False, max_payload=100)
    with pytest.raises(CodecError):
        await app.emit("orders", object())
    with pytest.raises(PayloadTooLarge):
        await app.emit("orders", "x" * 200)
    for topic in ("", "a/b", "a#b", "a\nb", 7, "x" * 300):
        with pytest.raises(RegistrationError):
            await app.emit(topic, 1)  # type: ignore[arg-type]
    for key in ("", "a\nb", 7, "x" * 600):
        with pytest.raises(InvalidInput):
            await app.emit("orders", 1, key=key)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await app.emit("orders", 1, id=key)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"app\.emit"):
        aura.emit("orders", 1)
    assert await stored(world) == []


async def _emits_what_it_cannot() -> str:
    try:
        await aura.emit("orders", object())
    except CodecError:
        return "told"
    return "not told"


async def _forgets() -> None:
    aura.emit("orders", 1)


async def test_a_workflow_is_told_what_cannot_be_emitted(world: World) -> None:
    telling, forgets = declare(_emits_what_it_cannot), declare(_forgets)
    app = await world.open(telling, forgets)
    assert await (await app.start(telling)).result(timeout=60) == "told"
    with pytest.raises(RunFailed, match="without awaiting"):
        await (await app.start(forgets)).result(timeout=60)


# -- handling ----------------------------------------------------------------------------------


async def test_handlers_get_typed_payloads_and_the_event(world: World) -> None:
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="billing")
        async def bill(order: Order, event: Event) -> None:
            seen(order, event)
            assert aura.idempotency_key() == event.idempotency_key

    app = await listening(world, subscribe)
    await app.emit("orders", Order(7, AT), key="k", id="seven")
    await until(lambda: seen.payloads != [])
    assert seen.payloads == [Order(7, AT)]
    [event] = seen.events
    assert (event.topic, event.seq, event.id, event.key) == ("orders", 1, "seven", "k")
    assert (event.attempt, event.idempotency_key) == (1, "billing:orders:1")


async def test_every_group_gets_every_event_once(world: World) -> None:
    one, other, threads = Seen(), Seen(), Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="one")
        async def first(payload: int, event: Event) -> None:
            one(payload, event)

        @app.subscribe("orders", group="other")
        async def second(event: Event) -> None:
            other(None, event)

        @app.subscribe("orders", group="threads")
        def third(payload: int, event: Event) -> None:
            threads(payload, event)

    app = await listening(world, subscribe)
    await asyncio.gather(*(app.emit("orders", number) for number in range(50)))
    await until(caught_up(app), timeout=20)
    assert sorted(one.payloads) == sorted(threads.payloads) == list(range(50))
    assert sorted(event.seq for event in other.events) == list(range(1, 51))


async def test_old_events_are_handled_unless_the_group_begins_later(world: World) -> None:
    early, late = Seen(), Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="early")
        async def first(payload: int, event: Event) -> None:
            early(payload, event)

        @app.subscribe("orders", group="late", begin="latest")
        async def second(payload: int, event: Event) -> None:
            late(payload, event)

    client = await world.open(worker=False)
    await client.emit("orders", 1)
    app = await listening(world, subscribe)
    await until(lambda: early.payloads == [1])
    await client.emit("orders", 2)
    await until(caught_up(app))
    assert early.payloads == [1, 2]
    assert late.payloads == [2]


async def test_events_of_a_key_are_in_order_over_retries(world: World) -> None:
    seen, tries = Seen(), Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe(
            "orders", group="g", concurrency=8, retries=Retry(attempts=4, first=0.01, longest=0.02)
        )
        async def handle(payload: int, event: Event) -> None:
            tries(payload, event)
            await asyncio.sleep(0)
            if payload % 7 == 0 and event.attempt <= 2:
                raise OSError("not yet")
            seen(payload, event)

    app = await listening(world, subscribe)
    for number in range(120):
        await app.emit("orders", number, key=f"k{number % 5}")
    await until(caught_up(app), timeout=30)
    for key in range(5):
        assert seen.of(f"k{key}") == list(range(key, 120, 5))
    tried = [event for payload, event in zip(tries.payloads, tries.events, strict=True)
             if payload == 35]  # fmt: skip
    assert [event.attempt for event in tried] == [1, 2, 3]
    assert len({event.idempotency_key for event in tried}) == 1


async def test_a_retry_stops_no_other_key(world: World) -> None:
    seen = Seen()
    gate = asyncio.Event()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", concurrency=2, retries=Retry(attempts=1, first=3_600))
        async def handle(payload: str, event: Event) -> None:
            if payload == "bad":
                raise OSError("later")
            if payload == "slow":
                await gate.wait()
            seen(payload, event)

    app = await listening(world, subscribe)
    await app.emit("orders", "bad", key="a")
    await app.emit("orders", "waits", key="a")
    await app.emit("orders", "slow", key="b")
    await app.emit("orders", "waits", key="b")
    for number in range(30):
        await app.emit("orders", f"free {number}", key=f"c{number}")
    await until(lambda: len(seen.payloads) == 30, timeout=20)
    assert "waits" not in seen.payloads
    gate.set()
    await until(lambda: seen.of("b") == ["slow", "waits"])

    async def two_wait() -> bool:
        [group] = await app.store.events.groups("orders")
        return (group.lag, group.waiting, group.dead) == (2, 2, 0)

    await until(two_wait)


async def test_a_flood_behind_one_key_is_kept_out_of_memory(world: World) -> None:
    """More events of one key than are read ahead wait for its retry; others go on meanwhile."""
    seen = Seen()
    tried: list[float] = []

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=Retry(attempts=9, first=3_600))
        async def handle(payload: int, event: Event) -> None:
            if event.key == "flood" and not tried:
                tried.append(1)
                raise OSError("later")
            seen(payload, event)

    app = await listening(world, subscribe)
    await app.emit("orders", 0, key="flood")
    await until(lambda: tried != [])
    await asyncio.gather(*(app.emit("orders", at, key="flood") for at in range(1, 3_000)))
    await app.emit("orders", -1, key="other")
    await until(lambda: seen.payloads == [-1], timeout=30)
    assert app._bus is not None
    [consumer] = app._bus.consumers
    await until(lambda: consumer._loaded <= 1, timeout=30)
    [line] = consumer._blocked
    line.waiting[0].due = 0.0
    consumer._due(line)
    await until(lambda: len(seen.payloads) == 3_001, timeout=60)
    assert seen.of("flood") == list(range(3_000))


async def test_handlers_emit_once_though_they_run_again(world: World) -> None:
    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=Retry(attempts=5, first=0.001))
        async def handle(payload: int, event: Event) -> None:
            await aura.emit("bills", payload * 10, key=event.key)
            if event.attempt < 3:
                raise OSError("after it")

    app = await listening(world, subscribe)
    await app.emit("orders", 4, key="k")
    await until(caught_up(app))
    assert [(one.payload, one.key) for one in await stored(world, "bills")] == [(b"40", "k")]


async def _bill(order: Order) -> int:
    return order.number * 2


async def test_a_workflow_gets_a_run_for_each_event(world: World) -> None:
    bill = declare(_bill, name="bill")
    app = await listening(world, lambda app: app.subscribe("orders", group="g")(bill))
    await app.emit("orders", Order(3, AT))
    await app.emit("orders", Order(4, AT))
    await until(caught_up(app))
    assert await app.run("g:orders:1", bill).result(timeout=60) == 6
    assert await app.run("g:orders:2", bill).result(timeout=60) == 8


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"timeout": 0},
        {"after_dead": "panic"},
        {"begin": "whenever"},
        {"group": "a/b"},
        {"group": ""},
    ],
)
def test_wrong_subscriptions(options: dict[str, Any]) -> None:
    app = Aura("test")
    with pytest.raises(RegistrationError):
        app.subscribe("orders", **({"group": "g"} | options))(_one)


async def test_wrong_handlers(world: World) -> None:
    app = world.app()
    app.subscribe("orders", group="g")(_one)
    with pytest.raises(RegistrationError, match="twice"):
        app.subscribe("orders", group="g")(_one)
    app.subscribe("orders", group="h")(_two)
    with pytest.raises(RegistrationError, match="'payload' and 'other'"):
        await app.open()
    await app.close()


async def test_a_thread_is_waited_for_before_its_key_goes_on(world: World) -> None:
    """A plain function cannot be stopped, so a replay does not begin beside it."""
    inside, most = 0, 0
    entered, gate = threading.Event(), threading.Event()
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g")
        def handle(payload: int, event: Event) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            entered.set()
            gate.wait(20)
            inside -= 1
            seen(payload, event)

    app = await listening(world, subscribe)
    await app.emit("orders", 1, key="k")
    await until(entered.is_set)
    await topics.replay_topic(app, "orders", "g", 0.0)
    assert app._bus is not None
    [consumer] = app._bus.consumers
    await until(lambda: consumer._fading != {})
    gate.set()
    await until(caught_up(app), timeout=20)
    keys = [event.idempotency_key for event in seen.events]
    assert keys == ["g:orders:1", "g:orders:1~1"]
    assert most == 1


# -- several processes -------------------------------------------------------------------------


def _one(payload: int) -> None:
    """Takes a payload."""


def _two(payload: int, other: int) -> None:
    """Takes more than there is."""


def in_order(seen: Seen, keys: int, total: int) -> None:
    for key in range(keys):
        mine = list(dict.fromkeys(seen.of(f"k{key}")))
        assert mine == list(range(key, total, keys)), key


async def test_two_consumers_share_the_work_and_keep_the_order(world: World) -> None:
    seen, who = Seen(), set()

    def subscribe_as(name: str) -> Any:
        def subscribe(app: Aura) -> None:
            @app.subscribe("orders", group="g", concurrency=4)
            async def handle(payload: int, event: Event) -> None:
                await asyncio.sleep(0.001)
                who.add(name)
                seen(payload, event)

        return subscribe

    one = await listening(world, subscribe_as("one"))
    two = await listening(world, subscribe_as("two"))
    await until(lambda: _shares(one) == _shares(two) == 8, timeout=20)
    for number in range(300):
        await one.emit("orders", number, key=f"k{number % 20}")
    await until(caught_up(one), timeout=30)
    assert who == {"one", "two"}
    in_order(seen, 20, 300)
    await two.close()
    world.apps.remove(two)
    await until(lambda: _shares(one) == 16, timeout=20)


def _shares(app: Aura) -> int:
    assert app._bus is not None
    return len(app._bus.consumers[0]._parts)


async def test_a_crashed_consumer_is_followed_without_a_loss(world: World) -> None:
    seen = Seen()
    stuck = asyncio.Event()

    def subscribe_first(app: Aura) -> None:
        @app.subscribe("orders", group="g", concurrency=4)
        async def handle(payload: int, event: Event) -> None:
            if payload >= 40:
                stuck.set()
                await asyncio.Event().wait()
            seen(payload, event)

    def subscribe_second(app: Aura) -> None:
        @app.subscribe("orders", group="g", concurrency=4)
        async def handle(payload: int, event: Event) -> None:
            seen(payload, event)

    first = await listening(world, subscribe_first, lease=0.6)
    for number in range(100):
        await first.emit("orders", number, key=f"k{number % 10}")
    await asyncio.wait_for(stuck.wait(), 20)
    await crash(world, first)
    second = await listening(world, subscribe_second, lease=0.6)
    await until(caught_up(second), timeout=30)
    assert set(seen.payloads) == set(range(100))
    in_order(seen, 10, 100)


async def test_what_is_delivered_again_is_in_order_too(world: World) -> None:
    """A worker died when 2 was handled and 3 waited for its retry, while 1, of another key, held
    the cursor: 2 comes once more, and before 3."""
    keys = ["k", next(k for k in map(str, range(1_000)) if _part(k) == _part("k"))]
    client = await world.open(worker=False)
    for number, key in ((1, keys[1]), (2, "k"), (3, "k")):
        await client.emit("orders", number, key=key)
    store = client.store
    await store.commit([Heartbeat("dead", 60.0)])
    [found] = await store.events.balance("dead", [Join("orders", "g")])
    epoch = next(one.epoch for one in found.parts if one.part == _part("k"))
    waits = Change(3, "k", "waiting", 1, None, None)
    op = Progress("orders", "g", _part("k"), epoch, 0, (waits,))
    assert await store.commit([op, Heartbeat("dead", 0.0)]) == [None, None]
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", concurrency=1)
        async def handle(payload: int, event: Event) -> None:
            seen(payload, event)

    app = await listening(world, subscribe)
    await until(caught_up(app), timeout=20)
    assert sorted(seen.payloads) == [1, 2, 3]
    assert seen.of("k") == [2, 3]
    assert [event.attempt for event in seen.events if event.seq == 3] == [2]


def _part(key: str) -> int:
    return partition(NewEvent("orders", "", key, b""))


async def test_a_fenced_consumer_moves_nothing(world: World) -> None:
    """A process that was paused past its lease wakes up: its progress is refused, and what it was
    busy with is handled by the other one."""
    began, gate = asyncio.Event(), asyncio.Event()
    seen = Seen()

    def subscribe_first(app: Aura) -> None:
        @app.subscribe("orders", group="g")
        async def handle(payload: int, event: Event) -> None:
            began.set()
            await gate.wait()

    def subscribe_second(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=0)
        async def handle(payload: int, event: Event) -> None:
            seen(payload, event)
            raise OSError("so it is a dead letter")

    first = await listening(world, subscribe_first, lease=60.0)
    await first.emit("orders", 1, key="k")
    await asyncio.wait_for(began.wait(), 10)
    assert first._worker is not None
    async with world.store() as store:
        await store.commit([Heartbeat(first._worker.id, 0.0)])
    second = await listening(world, subscribe_second, lease=60.0)

    async def dead() -> bool:
        return len(await second.store.events.dead_letters()) == 1

    await until(dead, timeout=20)
    gate.set()
    assert first._bus is not None
    [consumer] = first._bus.consumers
    await until(lambda: not consumer._tasks(), timeout=20)
    await asyncio.sleep(0.1)
    assert await dead()
    assert seen.payloads == [1]
