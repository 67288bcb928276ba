"""How long a run's journal may get: a warning on the way, and then an end that loses nothing.

A journal is read whole whenever its run comes back into memory. What goes on for ever begins anew
now and then (`aura.continue_as_new`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from aura.errors import HistoryTooLong
from aura.store.base import Entry

log = logging.getLogger("aura.worker")

MAX_ENTRIES = 50_000
MAX_BYTES = 64 * 1024 * 1024
WARN_AT = 0.5
"""The part of the limit at which the log says so."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """What the journal of one execution may have at the most. `bytes` are as they are stored."""

    entries: int = MAX_ENTRIES
    bytes: int = MAX_BYTES


class History:
    """The length of one execution's journal."""

    def __init__(self, run_id: str, limits: HistoryLimits) -> None:
        self._run_id = run_id
        self._limits = limits
        self._calm_entries = int(WARN_AT * limits.entries)
        self._calm_bytes = int(WARN_AT * limits.bytes)
        self._entries = 0
        self._bytes = 0
        self._warned = False

    def recorded(self, entries: Iterable[Entry]) -> None:
        """These are there already."""
        for entry in entries:
            self._entries += 1
            self._bytes += size(entry)
        self._warned = not self._is_calm()  # whoever wrote them has said so

    def add(self, entry: Entry) -> None:
        """One more. Raises HistoryTooLong when it would be one too many."""
        self._entries += 1
        self._bytes += len(entry.key) + len(entry.output or b"") + len(entry.input or b"")
        if entry.error is not None:
            self._bytes += len(entry.error)
        if self._bytes <= self._calm_bytes and self._entries <= self._calm_entries:
            return  # written out, because every step comes here
        limits = self._limits
        if self._entries > limits.entries or self._bytes > limits.bytes:
            raise HistoryTooLong(
                f"the journal of run {self._run_id} is full: {self._entries - 1:,} entries with "
                f"{self._bytes - size(entry):,} bytes",
                hint="Let it begin anew with aura.continue_as_new, or share the work among "
                "children; to let this run go on, raise Config.max_history or "
                "Config.max_history_bytes and requeue it",
            )
        if not self._warned:
            self._warned = True
            log.warning(
                "the journal of run %s has %d entries with %d bytes; at %d entries or %d bytes the "
                "run is parked. Let it begin anew with aura.continue_as_new",
                self._run_id, self._entries, self._bytes, limits.entries, limits.bytes,
            )  # fmt: skip

    def _is_calm(self) -> bool:
        return self._bytes <= self._calm_bytes and self._entries <= self._calm_entries


def size(entry: Entry) -> int:
    """Bytes that an entry takes, without what all entries have in common."""
    data = len(entry.input or b"") + len(entry.output or b"") + len(entry.error or b"")
    return len(entry.key) + data
