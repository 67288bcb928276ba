"""What a run tells those outside while it goes on: streams of items, written in batches.

A batch is one entry of the journal (kind "stream", the stream's name as fingerprint, the number of
items as input, a JSON array of them as output), so it is fenced like any entry and stands behind
all that it depends on. What workflow code writes is counted per lane: on replay, as many items as
the journal has are skipped. What a step has written is in the journal before its result is, as the
step will not run again then; a step that does run again writes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aura.codec import Limits, Slot, pack, plain
from aura.engine.calls import Call
from aura.errors import HistoryTooLong
from aura.store.base import Announce, Entry

if TYPE_CHECKING:
    from aura.engine.execution import Execution

_GATHER = 0.02  # seconds for which items are gathered before they are written
_BATCH_ITEMS = 256
_BATCH_BYTES = 64 * 1024

ITEM = Slot(object, "an item of a stream")


class Streams:
    """The pens of one run. `recorded` are the journal's entries of kind "stream"."""

    def __init__(self, execution: Execution, recorded: Iterable[Entry]) -> None:
        self._execution = execution
        self._loop = asyncio.get_running_loop()
        self._recorded: dict[str, int] = {}  # items by the key of the lane that wrote them
        self._written: dict[str, int] = {}  # the same, and by that of the step
        for entry in recorded:
            key = entry.key.rpartition("#")[0]
            found = self._written if _by_step(key) else self._recorded
            found[key] = found.get(key, 0) + int(plain(entry.input))
        self._buffers: dict[tuple[str, str], list[bytes]] = {}
        self._size = 0
        self._untold = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def behind(self) -> bool:
        """Whether the journal has items of a lane that the code has not written again yet."""
        return any(count > self._written.get(key, 0) for key, count in self._recorded.items())

    def write(self, place: str, name: str, item: bytes) -> None:
        """Add an item (JSON text) to a stream; `place` is the lane that writes, or the step.

        Of a lane, items that the journal has are passed over. May be called from any thread.
        """
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # a thread
            here = False
        if here:
            self._add(place, name, item)
        else:
            self._loop.call_soon_threadsafe(self._add, place, name, item)

    def _add(self, place: str, name: str, item: bytes) -> None:
        key = f"{place}/stream:{name}"
        written = self._written.get(key, 0)
        if self._recorded.get(key, 0) > written:
            self._written[key] = written + 1
            return
        self._buffers.setdefault((key, name), []).append(item)
        self._size += len(item)
        if self._size >= _BATCH_BYTES or len(self._buffers[key, name]) >= _BATCH_ITEMS:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_GATHER, self.flush)

    def step_over(self, step: str) -> None:
        """The code of the step with that key has ended: what it has written is submitted before its
        result, and what was gathered before it stays before it. It is told with the next flush."""
        if any(key.startswith(f"{step}/") for key, _ in self._buffers):
            self._submit(later=True)

    def flush(self) -> None:
        """Submit and tell what was gathered, unless the run has been stopped: then a replay writes
        it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._submit()
        if self._untold and not self._execution.stopped:
            self._untold = False
            self._execution.tell(Announce(f"stream:{self._execution.id}"))

    def _submit(self, *, later: bool = False) -> None:
        buffers, self._buffers, self._size = self._buffers, {}, 0
        execution = self._execution
        if not buffers or execution.stopped or execution.ended:
            return
        self._untold = True
        with contextlib.suppress(HistoryTooLong):  # which has parked the run
            self._record(buffers, later)

    def _record(self, buffers: dict[tuple[str, str], list[bytes]], later: bool) -> None:
        for (key, name), items in buffers.items():
            written = self._written.get(key, 0)
            call = Call(f"{key}#{written + 1}", name, b"%d" % len(items))
            self._written[key] = written + len(items)
            self._execution.recorder.record(call, "stream", output=self._packed(items), later=later)

    def _packed(self, items: list[bytes]) -> bytes:
        room = Limits(self._execution.limits.max_bytes + 2 * _BATCH_BYTES)  # each item was checked
        return pack(b"[" + b",".join(items) + b"]", room, "a batch of a stream")


def _by_step(key: str) -> bool:
    """Whether a step wrote it, and not the workflow's own code: only keys of calls have numbers."""
    return "#" in key
