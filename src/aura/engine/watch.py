"""Who counts what runs do; nobody does unless the process has metrics."""

from __future__ import annotations

from typing import Protocol

from aura.store.base import Entry, RunRecord


class Watch(Protocol):
    """Told on the event loop, in the middle of a run's work: it must be quick, and never raise."""

    def recorded(self, workflow: str, entry: Entry) -> None:
        """A run of that workflow has submitted an entry to its journal."""

    def settled(self, run: RunRecord) -> None:
        """A run has left this process: it ended, or waits."""

    def emitted(self, topic: str, seconds: float) -> None:
        """An event has become durable, so long after it was emitted."""
