"""What changes on a server, as it changes: an async iterator that survives lost connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from aura.client.events import EventParser
from aura.client.wire import FIRST_PAUSE, LONGEST_PAUSE, Ask, Wire
from aura.errors import ServerUnavailable, StoreUnavailable

QUIET = 60.0
"""Seconds without a word, after which it is asked on a new connection."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Something is different now. `what` is what it is, as far as that was told."""

    name: str
    what: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """Changes of one `kind` that were told together; with `more` there were others of it, too.

    The kind "ready" says that from now on everything is heard, "reset" that changes were missed:
    then everything is read again. `id` is the `since` with which this place is gone on from.
    """

    id: str
    kind: str
    changes: tuple[Changed, ...] = ()
    more: bool = False


async def follow(
    wire: Wire, kinds: Sequence[str], run: str | None, since: str | None
) -> AsyncGenerator[News, None]:
    """What changes, without an end. A connection that breaks is made anew, behind what was told
    last. Raises AuraError; ServerUnavailable when the server stays away for the client's
    patience."""
    give_up, pause = wire.clock.monotonic() + wire.settings.patience, FIRST_PAUSE
    begun = False
    while True:
        try:
            async with aclosing(_once(wire, kinds, run, since)) as found:
                async for news in found:
                    give_up, pause = wire.clock.monotonic() + wire.settings.patience, FIRST_PAUSE
                    since = news.id or since
                    if not (begun and news.kind == "ready"):
                        yield news
                    begun = True
        except (ServerUnavailable, StoreUnavailable):
            if wire.clock.monotonic() + pause > give_up:
                raise
        await wire.clock.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _once(
    wire: Wire, kinds: Sequence[str], run: str | None, since: str | None
) -> AsyncGenerator[News, None]:
    """Those of one connection."""
    ask = Ask("GET", ("changes",), {"kind": list(kinds), "run": run, "since": since})
    parser = EventParser()
    async with aclosing(_pieces(wire, ask)) as pieces:
        async for piece in pieces:
            for event in parser.feed(piece):
                data = from_json(event.data)
                changes = tuple(
                    Changed(one["name"], {k: v for k, v in one.items() if k != "name"})
                    for one in data.get("changes", ())
                )
                yield News(event.id, event.name, changes, bool(data.get("more")))


async def _pieces(wire: Wire, ask: Ask) -> AsyncGenerator[bytes, None]:
    async with wire.listen(ask, QUIET) as pieces:
        async for piece in pieces:
            yield piece
