"""Queues as programs declare them, and the places in them that starts ask for.

A definition is stored in the database, and that one counts for everybody at any time. A worker
that starts stores what its program declares, in place of what was there, and says so; a client
only adds what is not there yet.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from aura.engine.definition import check_name
from aura.engine.shadow import LIMITS, is_shadow
from aura.errors import (
    ConfigError,
    DatabaseMoved,
    InvalidInput,
    RegistrationError,
    UnknownQueue,
)
from aura.store.base import Announce, Store, Writer
from aura.store.queues import Offer, Placement, QueueLimits

log = logging.getLogger("aura.queues")

PRIORITIES: Mapping[str, int] = {"critical": 100, "high": 10, "normal": 0, "low": -10}
"""Steps of priority by name; each is worth a minute of waiting."""

MOST_PRIORITY = 10_000
_LONGEST_WORD = 500
Wait = timedelta | float
Rate = tuple[int, Wait]
PriorityName = Literal["critical", "high", "normal", "low"]


class Queue:
    """Where runs wait; `limits` say how many of them run. Made by `app.queue(...)`."""

    def __init__(self, name: str, limits: QueueLimits) -> None:
        self.name = name
        self.limits = limits

    def __repr__(self) -> str:
        return f"<queue {self.name}>"

    def place(
        self,
        *,
        key: str | None = None,
        priority: int | PriorityName = "normal",
        delay: Wait | None = None,
        at: datetime | None = None,
        dedup: str | None = None,
        debounce: Wait | tuple[Wait, Wait] | None = None,
    ) -> Placement:
        """A place in this queue, for `app.start(..., queue=...)`; see `place` of this module."""
        return place(
            self.name, key=key, priority=priority, delay=delay, at=at, dedup=dedup,
            debounce=debounce,
        )  # fmt: skip


def place(
    queue: str | None = None,
    *,
    key: str | None = None,
    priority: int | PriorityName = "normal",
    delay: Wait | None = None,
    at: datetime | None = None,
    dedup: str | None = None,
    debounce: Wait | tuple[Wait, Wait] | None = None,
) -> Placement:
    """A place in a queue (None: the workflow's own, or the default one). Times are seconds or
    timedeltas.

    Runs of one `key` (a tenant, an account) have the limit per key in common, and keys take turns.
    `priority` is a name or a number of steps, each worth a minute of waiting. The run begins after
    `delay`, or `at` a time (an aware datetime). While a run of the workflow with the same `dedup`
    has not ended, a start gives that one. `debounce` (with a `dedup`) waits for so long after the
    last such start, and the run gets the input of that one; a pair (wait, most) bounds how long the
    first one may be put off in all.

    Raises InvalidInput.
    """
    if queue is not None:
        check_name(queue, "a queue")
    if at is not None and at.tzinfo is None:
        raise InvalidInput(f"at is {at!r}", hint="Give a datetime with a time zone")
    if sum(one is not None for one in (delay, at, debounce)) > 1:
        raise InvalidInput("a run has one time to wait for", hint="Give delay, at or debounce")
    if debounce is not None and dedup is None:
        raise InvalidInput(
            "debounce needs a dedup", hint='Say what is the same, as in dedup="doc-7"'
        )
    pair = debounce if isinstance(debounce, tuple) else (debounce, None)
    if len(pair) != 2:
        raise InvalidInput(f"debounce is {debounce!r}", hint="Give (wait, at most)")
    wait, most = pair
    return Placement(
        queue,
        "" if key is None else _word(key, "key"),
        _steps(priority),
        None if delay is None else _seconds(delay, "delay"),
        None if at is None else at.timestamp(),
        None if dedup is None else _word(dedup, "dedup"),
        None if wait is None else _seconds(wait, "debounce", above=True),
        None if most is None else _seconds(most, "debounce", above=True),
    )


def named(queue: str | Queue | Placement | None) -> Placement | None:
    """What was given as `queue=`, as a place; None for nothing."""
    if isinstance(queue, Placement):
        return queue
    name = queue.name if isinstance(queue, Queue) else queue
    return None if name is None else place(name)


def placed(queue: str | Queue | Placement | None, own: str | None) -> Placement | None:
    """Where a run waits whose workflow has `own` as its queue; None for the default queue and
    nothing else. Raises InvalidInput."""
    found = named(queue) or Placement()
    if found.queue is None and own is not None:
        found = replace(found, queue=own)
    if found.queue is None and (found.key or found.priority):
        raise InvalidInput(
            "the default queue has neither keys nor priorities",
            hint='Name a queue, as in app.place("gpu", key=...)',
        )
    return None if found == Placement() else found


class Queues:
    """The queues that one app has declared or heard of."""

    def __init__(self) -> None:
        self._declared: dict[str, Queue] = {}
        self._known: set[str] = set()

    def declare(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        per_worker: int | None = None,
        per_key: int | None = None,
        rate: Rate | None = None,
        requires: Iterable[str] = (),
        resources: Mapping[str, float] | None = None,
    ) -> Queue:
        """Raises RegistrationError."""
        check_name(name, "a queue")
        starts, window = (None, 0.0) if rate is None else _checked_rate(name, rate)
        amounts = {"concurrency": concurrency, "per_worker": per_worker, "per_key": per_key}
        for what, amount in amounts.items():
            _check_amount(name, what, amount)
        limits = QueueLimits(
            concurrency, per_worker, per_key, starts, window,
            checked_tags(requires), checked_resources(resources or {}),
        )  # fmt: skip
        known = self._declared.get(name)
        if known is not None and known.limits != limits:
            raise RegistrationError(
                f"queue {name} is declared twice, with other limits",
                hint="Declare it once and pass the object, or its name",
            )
        return self._declared.setdefault(name, Queue(name, limits))

    async def open(self, store: Store, writer: Writer, *, worker: bool) -> None:
        """Store what was declared; see the module's docstring. Raises StoreUnavailable."""
        self._store, self._writer, self._worker = store, writer, worker
        self._known = set()
        if self._declared:
            with suppress(DatabaseMoved):  # what was left can be looked at; starts are refused
                await self._look(set(self._declared))

    async def require(self, place: Placement | None) -> None:
        """Raises UnknownQueue for a queue that is neither declared here nor in the database."""
        name = None if place is None else place.queue
        if name is None or name in self._known:
            return
        await self._look({name} & self._declared.keys(), name)
        if name not in self._known:
            raise UnknownQueue(
                f"there is no queue {name}",
                hint=f"Declare it with app.queue({name!r}); known: "
                f"{', '.join(sorted(self._known)) or 'none'}",
            )

    async def _look(self, declared: set[str], wanted: str | None = None) -> None:
        """Which queues there are; these are stored, if need be, and that of shadows when it is the
        one that is wanted."""
        there = {one.name: one.limits for one in await self._store.queues()}
        for name in sorted(declared):
            await self._define(self._declared[name], there.get(name))
        if wanted is not None and is_shadow(wanted) and wanted not in {*there, *declared}:
            await self._store.put_queue(wanted, LIMITS, replace=False)
            declared = declared | {wanted}
        self._known |= {*there, *declared}

    async def _define(self, queue: Queue, before: QueueLimits | None) -> None:
        if before == queue.limits or (before is not None and not self._worker):
            return
        await self._store.put_queue(queue.name, queue.limits, replace=self._worker)
        if before is not None:
            log.warning(
                "queue %s has new limits for all: %s instead of %s",
                queue.name, queue.limits.dump(), before.dump(),
            )  # fmt: skip
            await self._writer.submit(Announce("ready"))


def checked_tags(tags: Iterable[str]) -> frozenset[str]:
    """Raises RegistrationError."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise RegistrationError(f"tags are {tags!r}", hint='Give a set, as in {"gpu", "eu"}')
    for tag in tags:
        check_name(tag, "a tag")
    return frozenset(tags)


def checked_resources(resources: Mapping[str, float]) -> dict[str, float]:
    """Raises RegistrationError."""
    if not isinstance(resources, Mapping):
        raise RegistrationError(f"resources are {resources!r}", hint='Write {"gpu": 2}')
    for name, amount in resources.items():
        check_name(name, "a resource")
        if not _is_number(amount) or not 0 < amount < math.inf:
            raise RegistrationError(f"the resource {name} is {amount!r}", hint="Give an amount")
    return {name: float(amount) for name, amount in resources.items()}


def read_resources(words: Iterable[str]) -> dict[str, float]:
    """Resources written as name=amount. Raises ConfigError."""
    found = {}
    for word in words:
        name, _, amount = word.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            raise ConfigError(
                f"the resource {word!r} has no amount", hint="Write name=amount, as in gpu=2"
            ) from None
    return found


def offer(tags: Iterable[str], resources: Mapping[str, float]) -> Offer:
    """What a worker has. Raises ConfigError."""
    try:
        return Offer(checked_tags(tags), checked_resources(resources))
    except RegistrationError as error:
        raise ConfigError(error.message, hint=error.hint) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_amount(queue: str, what: str, amount: Any) -> None:
    whole = isinstance(amount, int) and not isinstance(amount, bool)
    if amount is not None and (not whole or not 0 < amount < 2**31):
        raise RegistrationError(
            f"{what} of queue {queue} is {amount!r}", hint="Give a whole number above 0"
        )


def _checked_rate(queue: str, rate: Any) -> tuple[int, float]:
    """How many may begin in how many seconds."""
    pair: tuple[Any, Any] = (None, None)
    if isinstance(rate, tuple) and len(rate) == 2:
        pair = rate
    starts, given = pair
    per: Any = given.total_seconds() if isinstance(given, timedelta) else given
    if starts is None or not _is_number(per) or not 0 < per < math.inf:
        raise RegistrationError(
            f"the rate of queue {queue} is {rate!r}", hint="Write rate=(100, timedelta(minutes=1))"
        )
    _check_amount(queue, "the rate", starts)
    return starts, float(per)


def _seconds(wait: Any, what: str, *, above: bool = False) -> float:
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if not _is_number(seconds) or not 0 <= seconds < math.inf or (above and seconds == 0):
        raise InvalidInput(f"{what} is {wait!r}", hint="Give seconds or a timedelta")
    return float(seconds)


def _word(word: Any, what: str) -> str:
    if not isinstance(word, str) or not 0 < len(word) <= _LONGEST_WORD or not word.isprintable():
        raise InvalidInput(
            f"{what} is {word!r:.80}", hint=f"Give 1 to {_LONGEST_WORD} printable characters"
        )
    return word


def _steps(priority: Any) -> int:
    if isinstance(priority, str) and priority in PRIORITIES:
        return PRIORITIES[priority]
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if not whole or abs(priority) > MOST_PRIORITY:
        raise InvalidInput(
            f"there is no priority {priority!r}",
            hint=f"Use {', '.join(PRIORITIES)}, or -{MOST_PRIORITY} to {MOST_PRIORITY}",
        )
    return int(priority)
