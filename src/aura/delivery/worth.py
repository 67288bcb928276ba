"""What another policy would have earned, from the log of a choice (`aura.stats.offpolicy`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aura.delivery.ledger import Line
from aura.errors import FlowError
from aura.stats.offpolicy import Logged, Worth, evaluate


def logged(lines: Iterable[Line]) -> list[Logged]:
    """The choices that have a reward; those whose time is over count as their policy said."""
    choices: dict[str, Line] = {}
    runs: dict[str, list[str]] = {}
    rewards: dict[str, float] = {}
    last = 0.0
    for line in lines:
        last = max(last, line.at)
        if line.kind == "choice":
            choices[line.id] = line
            runs.setdefault(line.run, []).append(line.id)
        elif line.kind == "reward":
            for id in [line.id] if line.id else runs.get(line.run, ()):
                if id in choices and line.at <= choices[id].until:
                    rewards.setdefault(id, line.value)
    found = []
    for id, choice in choices.items():
        value = rewards.get(id, choice.overdue if choice.until <= last else None)
        if value is not None:
            found.append(Logged(choice.arm, choice.value, value, choice.context))
    return found


def worth(log: Sequence[Logged], weights: Mapping[str, float], alpha: float = 0.05) -> Worth:
    """What fixed weights would have earned per choice. Raises FlowError for weights that name no
    arm of the log or do not add up to 1, and for a log without rewards."""
    arms = {one.arm for one in log}
    strange = set(weights) - arms
    if strange and log:
        raise FlowError(
            f"the log has no choice of {', '.join(sorted(strange))}",
            hint=f"It has {', '.join(sorted(arms))}",
        )
    try:
        return evaluate(log, lambda _: weights, alpha)
    except ValueError as error:
        raise FlowError(
            f"this policy cannot be evaluated: {error}", hint="Give weights that add up to 1"
        ) from error
