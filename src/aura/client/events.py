"""Server-sent events, from bytes as they arrive. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event; `id` is the last one that was told."""

    id: str
    data: bytes
    name: str = ""


@dataclass(slots=True)
class EventParser:
    """Puts events together, wherever the bytes are cut (the HTML standard, 9.2.6). One that is not
    followed by an empty line has not come."""

    _rest: bytearray = field(default_factory=bytearray)
    _seen: int = 0
    _data: list[bytes] = field(default_factory=list)
    _id: str = ""
    _name: str = ""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that end in this piece."""
        self._rest += piece
        found: list[ServerEvent] = []
        begin = 0
        while (end := self._rest.find(b"\n", max(begin, self._seen))) >= 0:
            event = self._line(bytes(self._rest[begin:end]).removesuffix(b"\r"))
            begin = end + 1
            if event is not None:
                found.append(event)
        del self._rest[:begin]
        self._seen = len(self._rest)  # no line ends in there: it is not searched again
        return found

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        return None  # comments and other fields say nothing here

    def _event(self) -> ServerEvent | None:
        data, name = self._data, self._name
        self._data, self._name = [], ""
        return ServerEvent(self._id, b"\n".join(data), name) if data else None
