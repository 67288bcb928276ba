"""What the desks of a client have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura.client.wire import Ask, Wire
from aura.codec import Slot

Plain = dict[str, Any]
Many = list[Plain]

BODY = Slot(Any, "what is sent")


class Desk:
    """Requests about one noun; `noun` is their path."""

    noun = ""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def _get(self, *path: str, **query: object) -> Plain:
        return await self._send(Ask("GET", (self.noun, *path), query))

    async def _post(self, *path: str, body: Mapping[str, Any], again: bool = False) -> Plain:
        given = {name: one for name, one in body.items() if one is not None}
        return await self._send(Ask("POST", (self.noun, *path), body=BODY.dump(given), again=again))

    async def _send(self, ask: Ask) -> Plain:
        found: Plain = await self._wire.send(ask)
        return found
