"""Consumers while the database is away, while nothing happens, with encryption and retention."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest

from aura import Aura, Config, Retry
from aura.codec import is_encrypted, plain
from aura.engine import Event
from aura.engine.retention import sweep
from aura.errors import ConfigError, StoreUnavailable
from aura.store.base import Outcome
from aura.store.events import Emit, Progress
from tests.engine.events_kit import Seen, caught_up, listening, stored
from tests.engine.kit import World, until

MARKER = "tell-nobody-4711"


class Outage:
    """A database that is away as long as `off` is set."""

    def __init__(self, app: Aura) -> None:
        self.off = False
        self.refused = 0
        self._guard(app.store, "commit")
        self._guard(app.store.events, "read", "balance", "deliveries")

    def _guard(self, store: Any, *verbs: str) -> None:
        for verb in verbs:
            setattr(store, verb, self._guarded(getattr(store, verb)))

    def _guarded(self, inner: Any) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            if self.off:
                self.refused += 1
                raise StoreUnavailable("away")
            return await inner(*arguments, **named)

        return call


async def test_an_outage_loses_nothing_and_makes_no_dead_letters(world: World) -> None:
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=Retry(attempts=3, first=0.01))
        async def handle(payload: int, event: Event) -> None:
            await asyncio.sleep(0.001)
            seen(payload, event)

    app = await listening(world, subscribe, lease=1.0)
    client = await world.open(worker=False)
    outage = Outage(app)
    for number in range(200):
        await client.emit("orders", number, key=f"k{number % 7}")
        if number in (50, 120):
            outage.off = True
            refused = outage.refused
        if number in (80, 170):
            await until(lambda before=refused: outage.refused > before, timeout=20)  # type: ignore[misc]
            outage.off = False
    await until(caught_up(client), timeout=40)
    assert await client.store.events.dead_letters() == []
    for key in range(7):
        assert list(dict.fromkeys(seen.of(f"k{key}"))) == list(range(key, 200, 7))


async def test_a_longer_outage_than_the_lease(world: World) -> None:
    """What was written last is unknown: all is let go of, and taken up again later."""
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g")
        async def handle(payload: int, event: Event) -> None:
            seen(payload, event)

    app = await listening(world, subscribe, lease=0.4)
    client = await world.open(worker=False)
    await client.emit("orders", 1, key="k")
    await until(caught_up(client), timeout=20)
    assert app._worker is not None
    before = app._worker.id
    outage = Outage(app)
    outage.off = True
    await client.emit("orders", 2, key="k")
    await until(lambda: app._worker is not None and app._worker.id != before, timeout=30)
    outage.off = False
    await client.emit("orders", 3, key="k")
    await until(caught_up(client), timeout=30)
    assert list(dict.fromkeys(seen.payloads)) == [1, 2, 3]


async def test_idle_cost_does_not_grow_with_subscriptions(world: World) -> None:
    def subscribe(app: Aura) -> None:
        for number in range(40):

            @app.subscribe(f"topic-{number}", group="g")
            async def handle(payload: int) -> None:
                """Nothing comes."""

    app = await listening(world, subscribe, lease=1.5)
    calls: list[str] = []
    committed: list[type] = []

    def counted(verb: str) -> None:
        inner = getattr(app.store.events, verb)

        async def call(*arguments: Any, **named: Any) -> Any:
            calls.append(verb)
            return await inner(*arguments, **named)

        setattr(app.store.events, verb, call)

    await until(lambda: app._bus is not None and _all_assigned(app), timeout=20)
    for verb in ("balance", "read", "deliveries", "events"):
        counted(verb)
    commit = app.store.commit

    async def watched(ops: Any) -> list[Outcome]:
        committed.extend(map(type, ops))
        return await commit(ops)

    app.store.commit = watched  # type: ignore[method-assign]
    await until(lambda: calls.count("balance") >= 2, timeout=20)
    calls.clear()
    committed.clear()
    await until(lambda: calls.count("balance") >= 3, timeout=20)
    assert set(calls) == {"balance"}
    assert not {Emit, Progress} & set(committed)


def _all_assigned(app: Aura) -> bool:
    assert app._bus is not None
    return all(len(one._parts) == 16 for one in app._bus.consumers)


async def test_payloads_and_histories_are_sealed(world: World) -> None:
    keys = (f"k1:{base64.b64encode(b'x' * 32).decode()}",)
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=0)
        async def handle(payload: str, event: Event) -> None:
            seen(payload, event)
            raise ValueError(payload)

    app = await listening(world, subscribe, encryption_keys=keys)
    await app.emit("orders", MARKER)

    async def dead() -> bool:
        return len(await app.store.events.dead_letters()) == 1

    await until(dead)
    assert seen.payloads == [MARKER]
    [letter] = await app.store.events.dead_letters()
    assert plain(letter.event.payload) == MARKER
    assert plain(letter.delivery.history)[0]["message"] == MARKER
    async with world.store() as bare:
        [closed] = await bare.events.dead_letters()
    assert is_encrypted(closed.event.payload)
    assert is_encrypted(closed.delivery.history)
    assert MARKER.encode() not in closed.event.payload
    [event] = await stored(world)
    assert is_encrypted(event.payload)


async def test_an_event_whose_key_is_missing_here_is_no_dead_letter(world: World) -> None:
    """A process that has not got the new key yet leaves its events for one that has."""
    old, new = (f"{name}:{base64.b64encode(name.encode() * 16).decode()}" for name in ("k1", "k2"))
    seen = Seen()

    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g", retries=0)
        async def handle(payload: str, event: Event) -> None:
            seen(payload, event)

    app = await listening(world, subscribe, encryption_keys=(old,))
    ahead = await world.open(worker=False, encryption_keys=(new, old))
    await ahead.emit("orders", "new", key="k")
    await app.emit("orders", "old", key="other")
    await until(lambda: seen.payloads == ["old"])

    async def waits() -> bool:
        [group] = await ahead.store.events.groups("orders")
        return (group.lag, group.waiting, group.dead) == (1, 1, 0)

    await until(waits, timeout=20)
    await app.close()
    world.apps.remove(app)
    await listening(world, subscribe, encryption_keys=(new, old))
    await until(lambda: seen.payloads == ["old", "new"])


async def test_retention_takes_what_everybody_has_handled(world: World) -> None:
    def subscribe(app: Aura) -> None:
        @app.subscribe("orders", group="g")
        async def handle(payload: int) -> None:
            """Handled."""

    app = await listening(world, subscribe, lease=0.6)
    await app.emit("orders", 1)
    await app.emit("nobody", 2)
    await until(caught_up(app))

    async def moved() -> bool:
        """Also the partitions without events have passed."""
        return (await app.store.sweepable(await app.sweep_plan(-60.0))).events == 2

    await until(moved, timeout=20)
    swept = await sweep(app.store, app.clock, lambda: app.sweep_plan(-60.0))
    assert swept.events == 2
    assert await stored(world) == []
    assert await stored(world, "nobody") == []


def test_how_long_unread_events_are_kept() -> None:
    assert Config().unread is None
    assert Config(unread_retention=timedelta(days=7)).unread == 7 * 86_400
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="unread_retention"):
            Config(unread_retention=wrong)
