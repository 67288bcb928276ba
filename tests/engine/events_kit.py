"""Apps with handlers of events, and what these have seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aura import Aura
from aura.engine import Event
from aura.store.base import Heartbeat
from aura.store.events import PARTITIONS
from aura.store.events import Event as Stored
from tests.engine.kit import World, drop


class Seen:
    """The payloads that handlers have got, in order; with their keys and tries."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.events: list[Event] = []

    def __call__(self, payload: Any, event: Event) -> None:
        self.payloads.append(payload)
        self.events.append(event)

    def of(self, key: str) -> list[Any]:
        pairs = zip(self.payloads, self.events, strict=True)
        return [payload for payload, event in pairs if event.key == key]


async def stored(world: World, topic: str = "orders") -> list[Stored]:
    """All events of a topic."""
    async with world.store() as store:
        return (await store.events.read(topic, 0, tuple(range(PARTITIONS)), 10_000)).events


async def lag(app: Aura, topic: str = "orders") -> int:
    return sum(one.lag for one in await app.store.events.groups(topic))


def caught_up(app: Aura, topic: str = "orders") -> Callable[[], Any]:
    """Whether the groups of a topic have nothing left to do, as the database has it."""

    async def look() -> bool:
        groups = await app.store.events.groups(topic)
        return bool(groups) and all(one.lag == 0 for one in groups)

    return look


async def listening(
    world: World, declare: Callable[[Aura], object], *workflows: Any, **settings: Any
) -> Aura:
    """An open app; `declare` is given it before, to subscribe."""
    app = world.app(*workflows, **settings)
    declare(app)
    await app.open()
    world.apps.append(app)
    return app


async def crash(world: World, app: Aura) -> None:
    """End an app with its consumers as a kill would; its lease is over."""
    world.apps.remove(app)
    bus, worker = app._bus, app._worker
    assert bus is not None
    assert worker is not None
    assert bus._loop is not None
    bus._unlisten()
    bus._loop.cancel()
    for consumer in bus.consumers:
        tasks = consumer._tasks()
        consumer.abandon()
        rest = (*consumer._loops, *consumer._naps)
        for task in rest:
            task.cancel()
        await asyncio.gather(*tasks, *rest, return_exceptions=True)
    await drop(app)
    async with world.store() as store:
        await store.commit([Heartbeat(worker.id, 0.0)])
