"""What the parts of a run know of it when it has left its worker.

While a run is in memory it and its parts refer to each other. When it leaves, this takes its place
in them: so its memory is free at once, and not when the garbage collector has found the circle.
"""

from __future__ import annotations

from typing import Any, Never

from aura.errors import LeaseLost


class Departed:
    """Stands for an `Execution` that is over; whatever still wants something of it is told so."""

    stopped = stopping = ended = True

    def __init__(self, run_id: str) -> None:
        self.id = run_id

    def lose(self, reason: BaseException) -> None:
        """A write of it was refused after its end; there is nothing left to stop."""

    def raise_if_stopped(self) -> Never:
        raise LeaseLost(f"run {self.id} has left this worker")

    def __getattr__(self, name: str) -> Any:
        self.raise_if_stopped()
