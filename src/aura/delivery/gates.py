"""What must hold before a target is taken out of service. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aura.delivery.split import Split
from aura.delivery.status import RolloutStatus

_TROUBLE = ("rollback", "hold", "descend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`stable`: so many seconds what replaces the target has served everybody without a trip (0:
    not looked at). `drained`: no split sends it anybody any more. `idle`: no run of it is under
    way, when it is a version of a workflow."""

    stable: float = 48 * 3600.0
    drained: bool = True
    idle: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known: the splits that have the target as an arm, all rollouts, and how many runs of
    it have not ended."""

    splits: tuple[Split, ...]
    rollouts: tuple[RolloutStatus, ...]
    open_runs: int


def failing(gate: Gate, target: str, facts: Facts, now: float) -> tuple[str, ...]:
    """The gates that do not hold, in words; `now` is in epoch seconds."""
    return tuple(_failing(gate, target, facts, now))


def _failing(gate: Gate, target: str, facts: Facts, now: float) -> Iterator[str]:
    if gate.drained:
        for split in facts.splits:
            share = _share(split, target)
            if share > 0:
                yield f"drained: split {split.name} still sends {share:.2%} of its units to it"
    if gate.stable > 0:
        yield from _unstable(gate, target, facts, now)
    if gate.idle and facts.open_runs:
        yield f"idle: {facts.open_runs} runs of it have not ended"


def _unstable(gate: Gate, target: str, facts: Facts, now: float) -> Iterator[str]:
    replacing = [one for one in facts.rollouts if target in _baselines(one)]
    if not replacing:
        yield "stable: no rollout has replaced it"
    for one in replacing:
        if one.state != "completed":
            yield f"stable: rollout {one.name}, which replaces it, is {one.state}"
            continue
        since = max(
            [event.done or event.at for event in one.history if event.what != "start"] or [0.0]
        )
        trouble = [event.at for event in one.history if event.what in _TROUBLE]
        served = max(0.0, now - max([since, *trouble]))
        if served < gate.stable:
            yield (
                f"stable: rollout {one.name} has completed {_time(served)} ago, of "
                f"{_time(gate.stable)} that are asked for"
            )


def _share(split: Split, target: str) -> float:
    """Its exact share, also of those that a layer keeps out."""
    if split.gate is not None and split.baseline == target:
        return 1.0
    return split.share(target)


def _baselines(status: RolloutStatus) -> list[str]:
    return [status.baseline, *(pair.baseline for pair in status.together)]


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
