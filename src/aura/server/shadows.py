"""What the faces of Aura have in common about shadow reports: what copies have shown."""

from __future__ import annotations

from dataclasses import dataclass

from aura.app import Aura
from aura.delivery.shadow import Example, Thresholds, shown
from aura.errors import RolloutError, UnknownRollout
from aura.server.operations import storable


@dataclass(frozen=True, slots=True)
class FieldView:
    """One field of the answers. `noise_field`: its differences are noise; rates are 0.0 to 1.0;
    `evidence` is an e-value against "no more than the baseline differs from itself". Counts are of
    requests: `raw` the candidate differed, `noise` the baseline's second answer did."""

    field: str
    noise_field: bool
    raw_rate: float
    noise_rate: float | None
    evidence: float | None
    raw: int
    noise: int
    only_candidate: int
    only_baseline: int
    uncompared: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class ReportView:
    """What the copies for one arm have shown, the fields that really differ first. Times are epoch
    seconds; the counts are those of `aura.delivery.shadow.ShadowReport`."""

    split: str
    arm: str
    since: float
    until: float
    copies: int
    compared: int
    paired: int
    differing: int
    cost: float
    fields: tuple[FieldView, ...]
    reasons: dict[str, int]
    skipped: dict[str, int]
    effects: dict[str, int]
    violations: dict[str, int]
    dropped: int


@dataclass(frozen=True, slots=True)
class ReportList:
    """The reports of a split, by arm."""

    split: str
    reports: tuple[ReportView, ...]


@dataclass(frozen=True, slots=True)
class ShadowList:
    """The splits that have reports, by name."""

    splits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClearedView:
    """How many reports begin anew."""

    split: str
    cleared: int


async def list_shadows(app: Aura) -> ShadowList:
    """All of them."""
    return ShadowList(tuple(await app.rollouts.shadows.splits()))


async def show_shadows(app: Aura, name: str, limits: Thresholds = Thresholds()) -> ReportList:  # noqa: B008
    """What copies have shown of a split, or of that of a rollout. Raises UnknownRollout."""
    split = await split_of(app, name)
    found = [one for one in await app.rollouts.shadows.reports(split) if not one.empty]
    views = []
    for one in found:
        told = shown(one, limits)
        fields = tuple(
            FieldView(**{**each, "examples": tuple(Example(**x) for x in each["examples"])})
            for each in told.pop("fields")
        )
        views.append(ReportView(**told, fields=fields))
    return ReportList(split, tuple(views))


async def clear_shadows(app: Aura, name: str) -> ClearedView:
    """Begin the reports of a split anew, after its candidate was mended. Raises UnknownRollout."""
    split = await split_of(app, name)
    return ClearedView(split, await app.rollouts.shadows.clear(split))


async def split_of(app: Aura, name: str) -> str:
    """The split of that name, or of the rollout of that name. Raises UnknownRollout."""
    known = await app.rollouts.shadows.splits()
    if not storable(name):
        raise UnknownRollout("there is neither a split nor a rollout of that name")
    if name in known or await app.store.document("split", name) is not None:
        return name
    try:
        return (await app.rollouts.status(name)).split
    except RolloutError as error:
        raise UnknownRollout(
            f"there is neither a split nor a rollout {name}",
            hint=f"With reports: {', '.join(known) or 'none'}",
        ) from error
