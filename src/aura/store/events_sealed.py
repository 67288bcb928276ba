"""Events whose payloads are encrypted: see `aura.store.sealed`.

Sealed are payloads and the histories of deliveries. Topics, ids, keys and groups stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aura.store.events import (
    Assignment,
    DeadLetter,
    Delivery,
    Event,
    EventStore,
    GroupInfo,
    Join,
    LetterPlace,
    NewEvent,
    Page,
    Progress,
    TopicInfo,
)
from aura.store.keys import Keyring
from aura.store.sealed_rows import place


def seal_events(keys: Keyring, events: Sequence[NewEvent]) -> tuple[NewEvent, ...]:
    return tuple(
        event._replace(payload=keys.seal(event.payload, _event_place(event))) for event in events
    )


def seal_progress(keys: Keyring, op: Progress) -> Progress:
    def sealed(seq: int, history: bytes | None) -> bytes | None:
        where = _delivery_place(op.topic, op.group, seq)
        return None if history is None else keys.seal(history, where)

    changes = (one._replace(history=sealed(one.seq, one.history)) for one in op.changes)
    return replace(op, changes=tuple(changes))


class SealedEvents:
    """See `aura.store.events.EventStore`, whose verbs these are. What does not open is given as it
    is stored."""

    def __init__(self, inner: EventStore, keys: Keyring) -> None:
        self._inner = inner
        self._keys = keys

    async def balance(self, worker: str, joins: Sequence[Join]) -> list[Assignment]:
        return await self._inner.balance(worker, joins)

    async def leave(self, worker: str) -> None:
        await self._inner.leave(worker)

    async def read(self, topic: str, after: int, parts: Sequence[int], limit: int) -> Page:
        page = await self._inner.read(topic, after, parts, limit)
        return Page(page.tail, [self._open(event) for event in page.events])

    async def events(self, topic: str, seqs: Sequence[int]) -> list[Event]:
        return [self._open(event) for event in await self._inner.events(topic, seqs)]

    async def deliveries(
        self, topic: str, group: str, parts: Sequence[int], *, dead_after: int | None = None
    ) -> list[Delivery]:
        found = await self._inner.deliveries(topic, group, parts, dead_after=dead_after)
        return [self._open_delivery(one) for one in found]

    async def dead_letters(
        self,
        topic: str | None = None,
        group: str | None = None,
        limit: int = 50,
        before: LetterPlace | None = None,
    ) -> list[DeadLetter]:
        found = await self._inner.dead_letters(topic, group, limit, before)
        return [self._open_letter(one) for one in found]

    async def dead_letter(self, topic: str, group: str, seq: int) -> DeadLetter | None:
        found = await self._inner.dead_letter(topic, group, seq)
        return None if found is None else self._open_letter(found)

    async def requeue(self, topic: str, group: str, seq: int, version: str | None) -> bool:
        return await self._inner.requeue(topic, group, seq, version)

    async def drop(self, topic: str, group: str, seq: int) -> bool:
        return await self._inner.drop(topic, group, seq)

    async def replay(self, topic: str, group: str, since: float) -> int | None:
        return await self._inner.replay(topic, group, since)

    async def forget(self, topic: str, group: str) -> bool:
        return await self._inner.forget(topic, group)

    async def topics(self) -> list[TopicInfo]:
        return await self._inner.topics()

    async def groups(self, topic: str | None = None) -> list[GroupInfo]:
        return await self._inner.groups(topic)

    def _open(self, event: Event) -> Event:
        return event._replace(payload=self._keys.open(event.payload, _event_place(event)))

    def _open_delivery(self, one: Delivery) -> Delivery:
        where = _delivery_place(one.topic, one.group, one.seq)
        history = None if one.history is None else self._keys.open(one.history, where)
        return one._replace(history=history)

    def _open_letter(self, one: DeadLetter) -> DeadLetter:
        return DeadLetter(self._open_delivery(one.delivery), self._open(one.event))


def _event_place(event: NewEvent | Event) -> bytes:
    return place("event", event.topic, event.id)


def _delivery_place(topic: str, group: str, seq: int) -> bytes:
    return place("delivery", topic, group, str(seq))
