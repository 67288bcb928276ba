"""What the demo's parts tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aura.delivery.status import RolloutStatus

LEGACY = "legacy"
GOOD = "research@2.0.0"

Verdict = Literal["ok", "status", "invalid", "lost"]
State = Literal["starting", "ready", "killed"]
Mood = Literal["info", "good", "bad", "crash"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as its client saw it.

    `at` is when it was sent (epoch seconds), `seconds` until the answer was complete. `verdict`:
    "ok", "status" (not 2xx), "invalid" (not the legacy JSON) or "lost" (no complete answer);
    `why` says more. `arm` and `run` are the gateway's header fields, "" for none.
    """

    at: float
    unit: str
    query: int
    arm: str
    run: str
    status: int
    seconds: float
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened, at epoch seconds."""

    at: float
    text: str
    mood: Mood = "info"


@dataclass(slots=True)
class Process:
    """A child as it is shown."""

    name: str
    pid: int
    state: State = "starting"


@dataclass(slots=True)
class Scene:
    """Everything that the terminal shows. `phase` is what is going on now, in a few words."""

    began: float
    phase: str = "preparing"
    rate: float = 0.0
    processes: dict[str, Process] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    in_flight: int = 0
    status: RolloutStatus | None = None

    def note(self, at: float, text: str, mood: Mood = "info") -> None:
        """Something happened."""
        self.notes.append(Note(at, text, mood))
