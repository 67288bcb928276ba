"""Events on disk: topics, consumer groups and what could not be handled.

    topics      one row per topic; its `tail` numbers the events without gaps, in commit order
    events      what was emitted, each in one of PARTITIONS by its key
    consumers   the groups of each topic
    partitions  how far each group has come in each partition, and who works on it
    deliveries  events of a group that wait out of turn, or are dead letters

A partition of a group belongs to one worker for as long as that worker's lease lives. Each change
of hands raises the partition's epoch, and progress is written under the epoch that it was made
under, so who was paused past its lease can wake up and move nothing.

All events of a partition up to its cursor are handled, except for those that `deliveries` has:

      ─▶ waiting ──────▶ (gone)         handled after all
          │   ▲  \
          │   │   └────▶ dead ─────▶ requeued ─▶ waiting      by a person
          └───┘           └────────▶ dropped ──▶ (gone)       by a person
        another try
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol
from zlib import crc32

from aura.errors import LeaseLost

if TYPE_CHECKING:
    from aura.store.base import Append

PARTITIONS = 16
"""Into how many parts a group's work can be cut; more processes than that find nothing to do."""

GROUPS = "groups"
"""The topic that listeners hear when work is to be shared out anew, or a person has intervened."""

DeliveryState = Literal["waiting", "dead", "requeued", "dropped"]


class NewEvent(NamedTuple):
    """An event to be emitted. `id` is unique within the topic; events of one `key` stay in order,
    those without one are independent."""

    topic: str
    id: str
    key: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Emit:
    """Add events to their topics, each id once. Outcome: None, or `LeaseLost`.

    With `append` the journal entry and the events are written together or not at all.
    """

    events: tuple[NewEvent, ...]
    append: Append | None = None


class Change(NamedTuple):
    """What is to become of a delivery: a row in that state, or none ("gone")."""

    seq: int
    key: str | None
    state: Literal["waiting", "dead", "gone"]
    attempts: int = 0
    due_at: float | None = None
    history: bytes | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a group has come in one partition. Outcome: None, or `LeaseLost`.

    Everything up to `cursor` is handled, or among the deliveries with `changes`. With `release`
    the partition is free for another worker. At most one of a partition is under way at a time.
    """

    topic: str
    group: str
    part: int
    epoch: int
    cursor: int
    changes: tuple[Change, ...] = ()
    release: bool = False


class Event(NamedTuple):
    """An event as it is stored. `at` is in epoch seconds."""

    topic: str
    seq: int
    id: str
    key: str | None
    part: int
    payload: bytes
    at: float


class Page(NamedTuple):
    """Events in order of seq; `tail` is the seq of the topic's last event."""

    tail: int
    events: list[Event]


class Join(NamedTuple):
    """A worker takes part in a group. A new group begins with the events that come from now on
    (`latest`), else with the oldest that are there."""

    topic: str
    group: str
    latest: bool = False


class Partition(NamedTuple):
    """A partition that is the worker's. `takeovers`: from how many dead workers it was taken
    without any progress since."""

    part: int
    epoch: int
    cursor: int
    takeovers: int


class Assignment(NamedTuple):
    """What a worker has of a group. It should have `quota` partitions; `joined` says that it is
    new in the group. `told` are deliveries that a person has requeued or dropped. Events up to
    `replayed_to` belong to the replay number `generation` (0: none yet)."""

    topic: str
    group: str
    parts: list[Partition]
    quota: int
    tail: int
    generation: int
    replayed_to: int
    joined: bool
    told: list[int]


class Delivery(NamedTuple):
    """An event that a group handles out of turn. `due_at` and `changed_at` are epoch seconds,
    `history` is JSON: one object for each try. `version` was chosen with a requeue."""

    topic: str
    group: str
    seq: int
    part: int
    key: str | None
    state: DeliveryState
    attempts: int
    due_at: float | None
    history: bytes | None
    version: str | None
    changed_at: float


class DeadLetter(NamedTuple):
    """A delivery and its event."""

    delivery: Delivery
    event: Event


class LetterPlace(NamedTuple):
    """Where a dead letter stands in the list of them, `changed_at` in epoch seconds."""

    changed_at: float
    seq: int
    topic: str
    group: str


class TopicInfo(NamedTuple):
    """How large a topic is: events that are kept, bytes of their payloads, and how many there have
    been (`tail`)."""

    topic: str
    tail: int
    events: int
    bytes: int


class GroupInfo(NamedTuple):
    """How far behind a group is: events that nobody has handled yet (`lag`), of those the seconds
    since the oldest (`age`, None: there are none), deliveries that wait for a retry or their key,
    dead letters, and how many workers take part."""

    topic: str
    group: str
    lag: int
    age: float | None
    waiting: int
    dead: int
    workers: int


class EventStore(Protocol):
    """The verbs of events. All raise `StoreUnavailable`."""

    async def balance(self, worker: str, joins: Sequence[Join]) -> list[Assignment]:
        """Take part in groups: free partitions are taken up to a fair share. In order of `joins`.

        A worker that has more than its share releases the rest with `Progress`.
        """
        ...

    async def leave(self, worker: str) -> None:
        """Free all partitions of a worker. Announce GROUPS after it."""
        ...

    async def read(self, topic: str, after: int, parts: Sequence[int], limit: int) -> Page:
        """The first events of these partitions whose seq is above `after`."""
        ...

    async def events(self, topic: str, seqs: Sequence[int]) -> list[Event]:
        """The events of a topic with these numbers, those that are there."""
        ...

    async def deliveries(
        self, topic: str, group: str, parts: Sequence[int], *, dead_after: int | None = None
    ) -> list[Delivery]:
        """What waits in these partitions, in order of seq; and the dead letters above that seq."""
        ...

    async def dead_letters(
        self,
        topic: str | None = None,
        group: str | None = None,
        limit: int = 50,
        before: LetterPlace | None = None,
    ) -> list[DeadLetter]:
        """Dead letters, the newest first; with `before` those that follow that place."""
        ...

    async def dead_letter(self, topic: str, group: str, seq: int) -> DeadLetter | None: ...

    async def requeue(self, topic: str, group: str, seq: int, version: str | None) -> bool:
        """Let a dead letter be handled again; whether it was one. Announce GROUPS after it."""
        ...

    async def drop(self, topic: str, group: str, seq: int) -> bool:
        """Give a dead letter up; whether it was one. Announce GROUPS after it."""
        ...

    async def replay(self, topic: str, group: str, since: float) -> int | None:
        """Let a group handle again what was emitted at or after that time (epoch seconds).

        Gives the number of events that are repeated; None when there is no such group. What the
        group had left of these events (retries, dead letters) is forgotten. Announce GROUPS after.
        """
        ...

    async def forget(self, topic: str, group: str) -> bool:
        """Delete a group, its progress and its dead letters; whether there was one."""
        ...

    async def topics(self) -> list[TopicInfo]: ...

    async def groups(self, topic: str | None = None) -> list[GroupInfo]:
        """How far behind each group is. It counts the events that are left."""
        ...


def partition(event: NewEvent) -> int:
    """The partition of an event: by its key, so that a key has one order."""
    return crc32((event.id if event.key is None else event.key).encode()) % PARTITIONS


def event_topics(op: Emit | Progress) -> tuple[str, ...]:
    """What listeners hear once the operation is written."""
    if isinstance(op, Emit):
        return tuple({f"events:{event.topic}": None for event in op.events})
    return (GROUPS,) if op.release else ()


def lost_partition(op: Progress) -> LeaseLost:
    """The refusal of progress under an old epoch."""
    return LeaseLost(
        f"partition {op.part} of group {op.group} of topic {op.topic} belongs to another worker now"
    )
