"""What cannot be handled waits for a person: dead letters, poison, and handling again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import aura
from aura import Aura, NonRetryable, Retry, step
from aura.engine import Event
from aura.errors import InvalidInput, NoSuchDeadLetter, RunParked, UnknownTopic
from aura.server import letters, topics
from aura.server.letters import LetterFilter
from aura.server.letters_bulk import ChosenLetters, change_letters
from aura.store.base import Heartbeat, StartRun
from aura.store.events import Join, Progress
from tests.engine.events_kit import Seen, caught_up, crash, listening
from tests.engine.kit import World, declare, until

QUICK = Retry(attempts=2, first=0.005, longest=0.01)


class Mended:
    """A handler that fails on some payloads until it is mended."""

    def __init__(self, *bad: Any, **options: Any) -> None:
        self.bad = set(bad)
        self.options = {"retries": QUICK} | options
        self.seen = Seen()
        self.tries = Seen()

    def __call__(self, app: Aura) -> None:
        @app.subscribe("orders", group="g", **self.options)
        async def handle(payload: Any, event: Event) -> None:
            self.tries(payload, event)
            if payload in self.bad:
                raise ConnectionError(f"no answer to {payload}")
            self.seen(payload, event)


def dead(app: Aura, count: int) -> Callable[[], Any]:
    async def look() -> bool:
        return len((await letters.list_letters(app)).letters) == count

    return look


async def test_what_fails_too_often_is_a_dead_letter_with_its_history(world: World) -> None:
    handler = Mended("bad")
    app = await listening(world, handler)
    for payload in ("bad", "good"):
        await app.emit("orders", payload, key="k")
    await until(dead(app, 1))
    await until(lambda: handler.seen.payloads == ["good"])
    [one] = (await letters.list_letters(app)).letters
    assert (one.id, one.kind, one.key, one.tries) == ("event:orders/g/1", "event", "k", 3)
    assert one.error is not None
    assert (one.error.type, one.error.message) == ("ConnectionError", "no answer to bad")
    assert "test_dead_letters" in one.error.traceback
    shown = await letters.show_letter(app, one.id)
    assert shown.payload is not None
    assert shown.payload.value == "bad"
    assert [line["attempt"] for line in shown.history] == [1, 2, 3]
    assert len({event.idempotency_key for event in handler.tries.events}) == 2
    await until(caught_up(app))
    [group] = await app.store.events.groups()
    assert (group.lag, group.dead) == (0, 1)


async def test_what_can_never_be_handled_is_not_tried_again(world: World) -> None:
    tries: list[int] = []

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=50)
        async def handle(payload: int) -> None:
            tries.append(payload)
            raise NonRetryable("never")

    app = await listening(world, subscribe)
    await app.emit("orders", 1)
    await app.emit("orders", "no number")
    await until(dead(app, 2))
    assert tries == [1]
    types = {one.error.type for one in (await letters.list_letters(app)).letters if one.error}
    assert types == {"NonRetryable", "CodecError"}


async def test_a_try_takes_its_time_at_most(world: World) -> None:
    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=0, timeout=0.01)
        async def handle(payload: int) -> None:
            await asyncio.Event().wait()

    app = await listening(world, subscribe)
    await app.emit("orders", 1)
    await until(dead(app, 1))
    [one] = (await letters.list_letters(app)).letters
    assert one.error is not None
    assert one.error.type == "TimeoutError"


async def test_later_events_wait_for_a_person_when_they_are_held(world: World) -> None:
    handler = Mended("bad", after_dead="hold")
    app = await listening(world, handler)
    for payload in ("bad", "second", "third"):
        await app.emit("orders", payload, key="k")
    await app.emit("orders", "free", key="other")
    await until(dead(app, 1))
    await until(lambda: handler.seen.payloads == ["free"])

    async def two_wait() -> bool:
        [group] = await app.store.events.groups()
        return (group.lag, group.waiting, group.dead) == (2, 2, 1)

    await until(two_wait)
    # Another process holds them, too.
    await app.close()
    world.apps.remove(app)
    app = await listening(world, handler)
    await app.emit("orders", "fourth", key="k")
    await until(lambda: _behind(app, 3))
    handler.bad.clear()
    await letters.requeue_letter(app, "event:orders/g/1")
    await until(caught_up(app))
    assert handler.seen.of("k") == ["bad", "second", "third", "fourth"]


async def _behind(app: Aura, count: int) -> bool:
    [group] = await app.store.events.groups()
    return group.waiting == count


async def test_a_dropped_letter_lets_its_key_go_on(world: World) -> None:
    handler = Mended("bad", after_dead="hold")
    app = await listening(world, handler)
    for payload in ("bad", "second"):
        await app.emit("orders", payload, key="k")
    await until(dead(app, 1))
    await letters.drop_letter(app, "event:orders/g/1")
    await until(caught_up(app))
    assert handler.seen.payloads == ["second"]
    assert (await letters.list_letters(app)).letters == ()


async def test_a_requeued_letter_has_all_its_tries_again(world: World) -> None:
    handler = Mended("bad")
    app = await listening(world, handler)
    await app.emit("orders", "bad")
    await until(dead(app, 1))
    await letters.requeue_letter(app, "event:orders/g/1")
    await until(lambda: len(handler.tries.payloads) == 6)
    await until(dead(app, 1))
    shown = await letters.show_letter(app, "event:orders/g/1")
    kinds = [line["type"] for line in shown.history]
    assert kinds == ["ConnectionError"] * 3 + ["Requeued"] + ["ConnectionError"] * 3
    assert len({event.idempotency_key for event in handler.tries.events}) == 1
    handler.bad.clear()
    await letters.requeue_letter(app, "event:orders/g/1")
    await until(lambda: handler.seen.payloads == ["bad"])


async def test_a_letter_is_requeued_while_nobody_works(world: World) -> None:
    handler = Mended("bad")
    app = await listening(world, handler)
    await app.emit("orders", "bad")
    await until(dead(app, 1))
    await app.close()
    world.apps.remove(app)
    handler.bad.clear()
    client = await world.open(worker=False)
    await letters.requeue_letter(client, "event:orders/g/1")
    await listening(world, handler)
    await until(lambda: handler.seen.payloads == ["bad"])


async def _old(payload: int) -> str:
    return "old"


async def _new(payload: int) -> str:
    return "new"


async def test_a_letter_is_requeued_to_a_chosen_version(world: World) -> None:
    old, new = declare(_old, "1.0.0", "bill"), declare(_new, "1.1.0", "bill")
    app = await listening(
        world, lambda app: app.subscribe("orders", group="g", retries=0)(new), old
    )
    await app.emit("orders", "no number")
    await until(dead(app, 1))
    await letters.requeue_letter(app, "event:orders/g/1", "3.0.0")

    async def unknown() -> bool:
        found = (await letters.list_letters(app)).letters
        return [one.error.type for one in found if one.error] == ["UnknownWorkflow"]

    await until(unknown, timeout=20)
    await app.emit("orders", 2)
    await until(lambda: _has_run(app, "g:orders:2"))
    assert await app.run("g:orders:2").result(timeout=60) == "new"


async def test_a_letter_of_a_function_is_not_requeued_to_a_version(world: World) -> None:
    """Where the group is declared it is refused; where it is not, the letter says what to do."""
    handler = Mended("bad")
    app = await listening(world, handler)
    await app.emit("orders", "bad", key="k")
    await until(dead(app, 1))
    letter = "event:orders/g/1"
    with pytest.raises(InvalidInput, match=r"is a function.*Requeue the letter without a version"):
        await letters.requeue_letter(app, letter, "1.1.0")
    with pytest.raises(NoSuchDeadLetter):
        await letters.requeue_letter(app, "event:orders/g/2", "1.1.0")
    for dry_run in (True, False):
        done = await change_letters(
            app, "requeue", ChosenLetters((letter,)), version="1.1.0", dry_run=dry_run
        )
        assert [one.outcome for one in done.outcomes] == ["invalid-input"]
    assert (await letters.show_letter(app, letter)).letter.tries == 3
    handler.bad.clear()
    stranger = await world.open(worker=False)
    await letters.requeue_letter(stranger, letter, "1.1.0")

    async def says_what_to_do() -> bool:
        found = (await letters.list_letters(stranger)).letters
        errors = [one.error.message for one in found if one.error]
        return bool(errors) and "Requeue the letter without a version" in errors[0]

    await until(says_what_to_do)
    assert handler.seen.payloads == []
    [one] = (await letters.list_letters(stranger)).letters
    assert one.tries == 1  # it is not tried again and again
    await letters.requeue_letter(stranger, letter)
    await until(lambda: handler.seen.payloads == ["bad"])


async def _has_run(app: Aura, run_id: str) -> bool:
    return await app.store.run(run_id) is not None


async def test_what_is_no_dead_letter(world: World) -> None:
    app = await world.open(worker=False)
    for name in ("event:orders/g/1", "run:nobody", "run:"):
        with pytest.raises(NoSuchDeadLetter):
            await letters.show_letter(app, name)
        with pytest.raises(NoSuchDeadLetter):
            await letters.requeue_letter(app, name)
        with pytest.raises(NoSuchDeadLetter):
            await letters.drop_letter(app, name)
    for name in ("", "orders", "event:orders", "event:a/b/c", "event:a/b/1/2"):
        with pytest.raises(InvalidInput):
            await letters.show_letter(app, name)


# -- handling again ----------------------------------------------------------------------------


async def test_a_topic_is_replayed_from_a_time(world: World) -> None:
    handler = Mended("bad")
    app = await listening(world, handler)
    for payload in ("first", "bad", "third"):
        await app.emit("orders", payload, key="k")
        await asyncio.sleep(0.002)
    await until(caught_up(app))
    await until(dead(app, 1))
    handler.bad.clear()
    [second] = await app.store.events.events("orders", (2,))
    assert await topics.replay_topic(app, "orders", "g", second.at) == 2
    await until(lambda: handler.seen.payloads == ["first", "third", "bad", "third"], timeout=20)
    assert (await letters.list_letters(app)).letters == ()
    keys = [event.idempotency_key for event in handler.seen.events]
    assert keys == ["g:orders:1", "g:orders:3", "g:orders:2~1", "g:orders:3~1"]
    await app.emit("orders", "new")
    await until(lambda: handler.seen.payloads[-1] == "new")
    assert handler.seen.events[-1].idempotency_key == "g:orders:4"
    with pytest.raises(UnknownTopic, match="no group"):
        await topics.replay_topic(app, "orders", "nobody", 0.0)


async def test_topics_are_shown_and_groups_forgotten(world: World) -> None:
    handler = Mended()
    app = await listening(world, handler)
    await app.emit("orders", "x", key="k")
    await until(caught_up(app))
    [topic] = await topics.topics(app)
    assert (topic.topic, topic.emitted, topic.events, topic.bytes) == ("orders", 1, 1, 3)
    assert [one.group for one in topic.groups] == ["g"]
    with pytest.raises(UnknownTopic, match="no topic"):
        await topics.topics(app, "nothing")
    with pytest.raises(InvalidInput, match="take part"):
        await topics.forget_group(app, "orders", "g")
    await app.close()
    world.apps.remove(app)
    client = await world.open(worker=False)
    await topics.forget_group(client, "orders", "g")
    with pytest.raises(UnknownTopic, match="no group"):
        await topics.forget_group(client, "orders", "g")


# -- poison ------------------------------------------------------------------------------------


async def test_an_event_that_workers_die_of_is_buried(world: World) -> None:
    """Worker after worker dies over one event; the others of its partition are handled."""
    deadly = asyncio.Event()
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", concurrency=1)
        async def handle(payload: str, event: Event) -> None:
            if payload == "deadly":
                deadly.set()
                await asyncio.Event().wait()
            seen(payload, event)

    client = await world.open(worker=False)
    await client.emit("orders", "deadly", key="k")
    await client.emit("orders", "behind", key="k")
    for _ in range(12):
        app = await listening(world, subscribe)
        await until(lambda: deadly.is_set() or seen.payloads != [], timeout=20)
        if seen.payloads:
            break
        deadly.clear()
        await crash(world, app)
    assert seen.payloads == ["behind"]
    await until(dead(client, 1))
    [one] = (await letters.list_letters(client)).letters
    assert one.error is not None
    assert one.error.type == "PoisonEvent"


_began: list[str] = []


@step
async def kills() -> None:
    """Never returns: its worker dies meanwhile. What was written before is durable by now."""
    _began.append("it")
    await asyncio.Event().wait()


async def _poison() -> None:
    await kills()


async def test_a_run_that_workers_die_of_is_parked(world: World) -> None:
    poison = declare(_poison, name="poison")
    client = await world.open(poison, worker=False)
    run = await client.start(poison, id="p")
    crashes = 0
    _began.clear()
    app = await world.open(poison, max_recoveries=3)
    while await _is_taken_up(app, "p"):
        crashes += 1
        assert crashes < 10
        await world.crash(app)
        _began.clear()
        app = await world.open(poison, max_recoveries=3)
    assert crashes == 4
    with pytest.raises(RunParked, match="workers in a row died"):
        await run.result(timeout=60)
    [one] = (await letters.list_letters(client)).letters
    assert (one.id, one.kind, one.workflow) == ("run:p", "run", "poison")
    assert one.error is not None
    assert one.error.type == "PoisonRun"
    _began.clear()
    await letters.requeue_letter(client, "run:p", "1.0.0")
    assert await _is_taken_up(app, "p")
    await run.cancel()
    await until(lambda: not _executes(app))


def _executes(app: Aura) -> bool:
    return app._worker is not None and app._worker.executes("p")


async def _is_taken_up(app: Aura, run_id: str) -> bool:
    """Whether the app executes the run; False when it is parked."""

    async def either() -> bool:
        found = await app.store.run(run_id)
        return bool(_began) or (found is not None and found.state == "parked")

    await until(either, timeout=20)
    return bool(_began)


async def test_a_parked_run_is_dropped(world: World) -> None:
    async def parks() -> None:
        await aura.sleep(0.01)

    parking = declare(parks)
    app = await world.open(worker=False)
    await app.store.commit([StartRun("p", "parks", "1.0.0", b"{}", "", "o", "w")])
    from aura.engine.faults import dump_run_error
    from aura.store.base import Settle

    error = dump_run_error(ValueError("why"))
    assert await app.store.commit([Settle("p", 1, "parked", error=error)]) == [None]
    [one] = (await letters.list_letters(app)).letters
    assert one.id == "run:p"
    shown = await letters.show_letter(app, "run:p")
    assert shown.payload is not None
    assert (await letters.list_letters(app, LetterFilter(topic="orders"))).letters == ()
    await letters.drop_letter(app, "run:p")
    assert await app.run("p", parking).status() == "cancelled"
    assert (await letters.list_letters(app)).letters == ()


async def test_progress_of_an_old_epoch_is_refused_to_the_consumer(world: World) -> None:
    """A partition that another worker has taken is let go of, and nothing more is begun there."""
    handler = Mended()
    app = await listening(world, handler, lease=60.0)
    await app.emit("orders", 1)
    await until(caught_up(app))
    assert app._worker is not None
    assert app._bus is not None
    [consumer] = app._bus.consumers
    async with world.store() as store:
        await store.commit([Heartbeat(app._worker.id, 0.0), Heartbeat("other", 60.0)])
        await store.events.balance("other", [Join("orders", "g")])
        await app.emit("orders", 2)
        await until(lambda: not consumer._parts, timeout=20)
        found = await store.events.balance("other", [Join("orders", "g")])
        assert len(found[0].parts) == 16
        ops = [Progress("orders", "g", one.part, one.epoch, 2, release=True)
               for one in found[0].parts]  # fmt: skip
        assert await store.commit(ops) == [None] * 16
