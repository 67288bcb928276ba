"""What a server tells of splits that learn and of choices inside workflows, as frozen values. Their
attributes are called as those of the values in process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ArmInfo:
    """What is known of an arm: how often it was taken, how many of these choices have their reward
    and the mean of these, and why it is not taken any more ("": it is)."""

    choices: int
    rewarded: int
    mean: float
    overdue: int
    good: int
    failed: int
    tripped: str


@dataclass(frozen=True, slots=True)
class FlowInfo:
    """A choice inside workflows (`aura.choose`): its arms by name, their probabilities now, choices
    that wait for their reward, and lines of the log that could not be used."""

    name: str
    arms: Mapping[str, ArmInfo]
    probabilities: Mapping[str, float]
    pending: int
    ignored: int


@dataclass(frozen=True, slots=True)
class LearningInfo:
    """A split that learns: the shares of units by arm (0.0 to 1.0) at an epoch, and who did what to
    it, when (epoch seconds) and why."""

    name: str
    split: str
    run: str
    state: str
    arms: tuple[str, ...]
    weights: Mapping[str, float]
    epoch: int
    history: tuple[Mapping[str, Any], ...]
