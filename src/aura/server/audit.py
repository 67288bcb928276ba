"""The audit log: who changed what, when, why and from where.

A feed of its own that nothing rewrites and no sweep touches. An entry is durable before the change
is tried, so that no change is without one; when it then fails, a second one says of which entry
that is the outcome.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, cast

from aura.app import Aura
from aura.server.views import time_of
from aura.store.base import AppendFeed

FEED = "audit"
LONGEST = 500
"""Characters of a reason, or of a value, that are kept."""
MOST_READ = 5_000
"""So many entries are read for one question about the newest."""

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody wants to change: `what` as the command line calls it ("runs cancel"), `target`
    which one, `via` "http" or "cli", `address` the client's address or the host's name."""

    what: str
    by: str
    role: str
    via: str
    address: str
    why: str = ""
    target: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log, numbered from 1. `outcome` is "asked", or why entry `of` failed."""

    number: int
    at: datetime
    what: str
    by: str
    role: str
    via: str
    address: str
    why: str
    target: dict[str, str]
    outcome: str
    of: int | None


@dataclass(frozen=True, slots=True)
class AuditLog:
    """Entries in order; `next` is the `after` of the next question, None when there are no more."""

    entries: tuple[AuditEntry, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Entries of whom (`by` is in the name) and about what (`what` is in its words); "" is all."""

    by: str = ""
    what: str = ""

    def takes(self, entry: AuditEntry) -> bool:
        """Whether an entry is like that, whatever the case of its letters."""
        return (
            self.by.lower() in entry.by.lower()
            and self.what.lower() in f"{entry.what} {' '.join(entry.target.values())}".lower()
        )


async def record(app: Aura, change: Change) -> int:
    """Write an entry; its number. It is durable when this returns. Raises StoreUnavailable."""
    return await _append(app, change, "asked", None)


async def failed(app: Aura, change: Change, number: int, outcome: str) -> None:
    """Write that what entry `number` asks for was not done. Raises StoreUnavailable."""
    await _append(app, change, outcome, number)


async def read_log(app: Aura, after: int = 0, limit: int = 100) -> AuditLog:
    """At most `limit` entries after that number, the oldest first."""
    found = await app.store.feed(FEED, after, limit + 1)
    entries = tuple(
        AuditEntry(number=item.seq, at=time_of(item.at), **json.loads(item.payload))
        for item in found[:limit]
    )
    return AuditLog(entries, entries[-1].number if len(found) > limit else None)


async def newest(
    app: Aura, where: AuditFilter = AuditFilter(), *, before: int = 0, limit: int = 100
) -> AuditLog:
    """At most `limit` entries that are like that, the newest first: those with a smaller number
    than `before` (0: all). `next` is the `before` of the next question, None when there are no
    more; at most `MOST_READ` entries are read, so there may be fewer, and more behind them."""
    end = cast("int", await app.committer.submit(AppendFeed(FEED, ()))) + 1  # nothing is written
    end = least = min(before, end) if before > 0 else end
    found: list[AuditEntry] = []
    while least > max(1, end - MOST_READ) and len(found) < limit:
        begin = max(1, least - _PAGE)
        page = (await read_log(app, begin - 1, least - begin)).entries
        for entry in reversed(page):
            least = entry.number
            if where.takes(entry):
                found.append(entry)
            if len(found) == limit:
                break
        least = least if len(found) == limit else begin
    return AuditLog(tuple(found), least if least > 1 else None)


async def _append(app: Aura, change: Change, outcome: str, of: int | None) -> int:
    told: dict[str, Any] = {**asdict(change), "outcome": outcome, "of": of}
    told["why"] = _kept(change.why)
    told["target"] = {name: _kept(value) for name, value in change.target.items()}
    payload = json.dumps(told).encode()
    return cast("int", await app.committer.submit(AppendFeed(FEED, (payload,))))


def _kept(text: str) -> str:
    """Its beginning, without half characters, which no answer could have in it."""
    return text[:LONGEST].encode("utf-8", "backslashreplace").decode()
