"""What the faces of Aura show of splits: who is sent where now, and by whose order."""

from __future__ import annotations

from dataclasses import dataclass

from aura.app import Aura
from aura.delivery.split import Split
from aura.errors import UnknownSplit
from aura.server.operations import storable


@dataclass(frozen=True, slots=True)
class ArmShare:
    """An arm and its share of the units that take part, 0.0 to 1.0."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class SplitView:
    """A split. `mirror` gets copies of the requests of the share `sample` of units ("": nobody);
    `taking_part` is the share of units that take part; `mover` the run that moves it, or did last;
    `forced` why everybody was sent to the baseline, "" when nobody was."""

    name: str
    epoch: int
    baseline: str
    arms: tuple[ArmShare, ...]
    mirror: str
    sample: float
    taking_part: float
    moving: bool
    mover: str
    forced: str


@dataclass(frozen=True, slots=True)
class SplitList:
    """All splits, by name."""

    splits: tuple[SplitView, ...]


async def list_splits(app: Aura) -> SplitList:
    """All of them."""
    documents = await app.store.documents("split")
    found = (Split.from_json(one.body) for one in documents)
    return SplitList(tuple(sorted(map(_view, found), key=lambda one: one.name)))


async def show_split(app: Aura, name: str) -> SplitView:
    """One of them. Raises UnknownSplit."""
    document = await app.store.document("split", name) if storable(name) else None
    if document is None:
        raise UnknownSplit(
            f"there is no split {name:.200}".encode("utf-8", "replace").decode(),
            hint="It is made when a rollout or an experiment of it starts",
        )
    return _view(Split.from_json(document.body))


def _view(split: Split) -> SplitView:
    return SplitView(
        name=split.name,
        epoch=split.epoch,
        baseline=split.baseline,
        arms=tuple(ArmShare(arm.name, split.share(arm.name)) for arm in split.arms),
        mirror=split.mirror,
        sample=split.sample,
        taking_part=1.0 if split.gate is None else split.gate.share,
        moving=split.moving,
        mover=split.mover,
        forced=split.forced,
    )
