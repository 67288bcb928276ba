"""Retirements: what gateways know of targets that are being taken out of service.

One document `retirement/<target>` says of each endpoint (a route's path, or `*` for all of them) in
which phase it is:

    on ──disable──▶ grace ──the grace is over──▶ off          undo: back to on, until it is archived

In grace the target still answers (`serve`, with the Sunset field of RFC 8594 and Deprecation of
RFC 9745) or it is gone already (410); when the endpoint is off, it is gone. Calls are counted in
the feed `callers/<target>`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from aura.errors import CodecError, DecommissionError
from aura.store.base import AppendFeed, Op, Store

Policy = Literal["gone", "serve"]
Phase = Literal["on", "grace", "off"]
State = Literal["gate", "backup", "disabling", "archived", "undone"]

EVERYWHERE = "*"
"""The endpoint that stands for all paths of a target."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path and its phase. `since` is when that began and `until` when the grace is over (epoch
    seconds)."""

    path: str
    phase: Phase = "on"
    since: float = 0.0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """Something that was done, for the history; `at` is in epoch seconds."""

    at: float
    what: str
    reason: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Retirement:
    """Where the decommission of a target is. `gates` are those that it waits for, in words;
    `backup` is the copy that was made and read back, `archive` the file that was left at the end.
    `link` is a page about it, for callers."""

    target: str
    run: str
    state: State
    policy: Policy
    endpoints: tuple[Endpoint, ...]
    link: str = ""
    gates: tuple[str, ...] = ()
    backup: dict[str, Any] = field(default_factory=dict)
    archive: str = ""
    history: tuple[Done, ...] = ()

    @property
    def gone(self) -> bool:
        """Whether the target can serve nobody any more."""
        return self.state == "archived"

    @property
    def ended(self) -> bool:
        return self.state in ("archived", "undone")

    def with_endpoint(self, changed: Endpoint) -> Retirement:
        """The same with one endpoint changed."""
        endpoints = tuple(changed if one.path == changed.path else one for one in self.endpoints)
        return replace(self, endpoints=endpoints)

    def noted(self, at: float, what: str, reason: str, by: str = "") -> Retirement:
        """The same with one more thing done."""
        return replace(self, history=(*self.history, Done(at, what, reason, by)))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Retirement:
        """Read what `to_json` wrote. Raises CodecError."""
        try:
            body: Any = json.loads(data)
            return cls(
                **{
                    **body,
                    "endpoints": tuple(Endpoint(**one) for one in body["endpoints"]),
                    "gates": tuple(body["gates"]),
                    "history": tuple(Done(**one) for one in body["history"]),
                }
            )
        except (ValueError, TypeError, KeyError) as error:
            raise CodecError(
                f"a stored retirement cannot be read: {error}",
                hint="It was not written by this version of Aura",
            ) from error

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        found: dict[str, Any] = json.loads(self.to_json())
        return found


@dataclass(frozen=True, slots=True)
class Notice:
    """What callers of an endpoint get: `served` or gone; when it ends (or ended), and a page."""

    target: str
    served: bool
    since: float
    until: float
    link: str


def notices(found: Iterable[Retirement]) -> Mapping[tuple[str, str], Notice]:
    """By (path, target); the path `*` stands for all. Endpoints that are on have none. Pure."""
    made = {}
    for one in found:
        for each in one.endpoints:
            if each.phase == "on" or one.state == "undone":
                continue
            served = each.phase == "grace" and one.policy == "serve"
            notice = Notice(one.target, served, each.since, each.until, one.link)
            made[each.path, one.target] = notice
    return made


def refuse_retired(found: Iterable[Retirement], names: Iterable[str]) -> None:
    """Raises DecommissionError for a target among them that is gone for good."""
    gone = {one.target for one in found if one.gone}
    for name in names:
        if name in gone:
            raise DecommissionError(
                f"the target {name} was decommissioned",
                hint="Give what serves in its place another name",
            )


async def retirements(store: Store) -> list[Retirement]:
    """All of them, by target. Raises CodecError, StoreUnavailable."""
    return [Retirement.from_json(one.body) for one in await store.documents("retirement")]


def called(counts: Counter[tuple[str, str]], now: float) -> list[Op]:
    """What is to be written about calls, counted by (path, target)."""
    targets = sorted({target for _, target in counts})
    return [
        AppendFeed(
            f"callers/{target}",
            (
                json.dumps(
                    {
                        "at": now,
                        "calls": {path: n for (path, of), n in counts.items() if of == target},
                    }
                ).encode(),
            ),
        )
        for target in targets
    ]


async def callers(store: Store, target: str) -> dict[str, int]:
    """How many calls each endpoint of a target has had since it began to be retired."""
    total: Counter[str] = Counter()
    after = 0
    while items := await store.feed(f"callers/{target}", after):
        after = items[-1].seq
        for item in items:
            try:
                total.update(json.loads(item.payload)["calls"])
            except (ValueError, TypeError, KeyError):
                total["(unreadable)"] += 1
    return dict(sorted(total.items()))
