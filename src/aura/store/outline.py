"""A journal without what is in it: long ones are drawn from that, and read where one looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from aura.store.base import Entry


class Glance(NamedTuple):
    """An entry of a journal without what was given and what came out, of which it has the sizes in
    bytes as they are stored (None: there is none); `failed` says that it has an error."""

    seq: int
    key: str
    kind: str
    fingerprint: str
    attempt: int
    started_at: float
    recorded_at: float
    failed: bool
    given: int | None
    gave: int | None


class Outlined(Protocol):
    """The verbs of a store that show parts of a run's present execution."""

    async def entries_of(self, run_id: str, keys: Sequence[str]) -> list[Entry]:
        """The entries that have one of these keys, in order."""

    async def outline(self, run_id: str, after: int, limit: int) -> list[Glance]:
        """At most so many entries, in order, above that seq."""
