"""What the faces of Aura have in common about emergencies: everybody to the baseline, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aura.app import Aura
from aura.delivery.channels import Channel
from aura.delivery.emergency import Done, Force, Record
from aura.delivery.split import Split
from aura.errors import RolloutError, UnknownRollout
from aura.server.operations import storable


@dataclass(frozen=True, slots=True)
class DoneView:
    """What became of each split."""

    splits: tuple[Done, ...]


@dataclass(frozen=True, slots=True)
class ForcedView:
    """A split that is forced to its baseline, why, and what was done to it before."""

    split: str
    baseline: str
    epoch: int
    reason: str
    history: tuple[Force, ...]


@dataclass(frozen=True, slots=True)
class ForcedList:
    """All of them, by name."""

    splits: tuple[ForcedView, ...]


@dataclass(frozen=True, slots=True)
class Which:
    """Splits or rollouts by name, or `everything`. Raises RolloutError for neither and both."""

    names: tuple[str, ...] = ()
    everything: bool = False

    def __post_init__(self) -> None:
        if bool(self.names) == self.everything:
            raise RolloutError(
                "names and everything do not fit" if self.names else "nothing is named",
                hint="Name splits or rollouts, or say that you mean all of them",
            )
        for name in self.names:
            if not storable(name):
                raise UnknownRollout("there is no split and no rollout of that name")

    @property
    def chosen(self) -> Sequence[str] | None:
        """The names; None for all."""
        return None if self.everything else self.names


async def force(
    app: Aura, which: Which, *, reason: str, by: str, channels: tuple[Channel, ...] = ()
) -> DoneView:
    """Send everybody of these splits to their baselines until they are released; durable when this
    returns. Raises RolloutError without a reason, UnknownRollout for a name that nothing has."""
    desk = app.rollouts.emergencies
    return DoneView(tuple(await desk.force(which.chosen, reason=reason, by=by, channels=channels)))


async def release(
    app: Aura,
    which: Which,
    *,
    reason: str,
    by: str,
    restore: bool = False,
    channels: tuple[Channel, ...] = (),
) -> DoneView:
    """Let these splits be moved again; with `restore` what nothing was moving serves again what it
    served before. Raises UnknownRollout."""
    done = await app.rollouts.emergencies.release(
        which.chosen, restore=restore, reason=reason, by=by, channels=channels
    )
    return DoneView(tuple(done))


async def forced(app: Aura) -> ForcedList:
    """What is forced now."""
    found = await app.rollouts.emergencies.forced()
    return ForcedList(tuple(_view(split, record) for split, record in found))


def _view(split: Split, record: Record | None) -> ForcedView:
    history = record.history if record else ()
    return ForcedView(split.name, split.baseline, split.epoch, split.forced, history)
