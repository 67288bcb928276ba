"""Whether a plan may start: its arms exist, and its candidates can stand in for its baselines.

An arm that is named like a version of a workflow in the catalog, `research@2.0.0`, is that one.
What else a plan names (an HTTP service, another engine) says nothing about itself, and is not
refused. `research@^2` is replaced by the version that it stands for now, so a rollout that has
begun never changes its candidate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from aura.clock import Clock
from aura.delivery.catalog import Catalog, pick
from aura.delivery.catalog_values import (
    CatalogVersion,
    Cell,
    Compatibility,
    Override,
    compatibility,
)
from aura.delivery.plan import Pair, Plan
from aura.delivery.versions import is_exact, reference
from aura.errors import Incompatible

log = logging.getLogger("aura.catalog")

_SHOWN = 5  # reasons in one message


class Judged(NamedTuple):
    """What the catalog says of a plan. `plan` has versions in place of ranges; `refused` are pairs
    with the reasons, `unknown` sentences about what nobody can tell."""

    plan: Plan
    refused: tuple[tuple[Compatibility, tuple[str, ...]], ...]
    unknown: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the plan does not start, none when it may."""
        return tuple(f"{pair.new}: {one}" for pair, reasons in self.refused for one in reasons)


async def judge(catalog: Catalog, plan: Plan) -> Judged:
    """Look a plan up in the catalog. Raises CatalogError, PlanFlaw."""
    return judged(plan, await catalog.versions(), await catalog.cells())


def judged(
    plan: Plan, known: Iterable[CatalogVersion], cells: Mapping[tuple[str, str], Cell]
) -> Judged:
    """The same for a catalog that was read already. Pure."""
    by_name = {one.name: one for one in known}
    pinned = pin(plan, by_name.values())
    refused: list[tuple[Compatibility, tuple[str, ...]]] = []
    unknown: list[str] = []
    for pair in pinned.pairs:
        old, new = by_name.get(pair.baseline), by_name.get(pair.candidate)
        if old is None or new is None:
            continue
        found = compatibility(old, new, cells.get((old.name, new.name)))
        back = compatibility(new, old, cells.get((new.name, old.name)))
        forks = _forks_refused(back) if plan.in_flight == "fork" else ()
        if found.refused or forks:
            refused.append((found, (*found.refused, *forks)))
        unknown += _unknown(found)
    return Judged(pinned, tuple(refused), tuple(unknown))


def _forks_refused(back: Compatibility) -> tuple[str, ...]:
    """Why runs of the candidate could not go on as the baseline's, if they are to be forked."""
    if back.runs.verdict != "incompatible":
        return ()
    return (f"runs {back.runs.findings[0].reason} on {back.new}, and in_flight is `fork`",)


def _unknown(found: Compatibility) -> list[str]:
    return [
        f"whether {found.new} fits the {what} of {found.old} is unknown: {finding}"
        for what, one in (("input", found.inputs), ("output", found.outputs))
        for finding in one.findings
        if finding.level == "unknown"
    ]


def refuse(found: Judged, incompatible: str) -> None:
    """Raise Incompatible when the plan may not start; `incompatible` is why it may all the same."""
    if found.refused and not incompatible.strip():
        raise _incompatible(found)


async def admit(
    catalog: Catalog, clock: Clock, plan: Plan, incompatible: str = "", by: str = ""
) -> Plan:
    """The plan with versions in place of ranges, when it may start.

    `incompatible` is why it may although its versions do not fit; that is kept in the matrix, with
    who says so. Raises Incompatible, CatalogError, PlanFlaw.
    """
    found = await judge(catalog, plan)
    refuse(found, incompatible)
    for pair, _ in found.refused:
        said = Override(plan.name, incompatible.strip(), by, clock.now())
        await catalog.override(pair.old, pair.new, said)
        log.warning(
            "rollout %s starts although %s cannot stand in for %s: %s",
            plan.name, pair.new, pair.old, incompatible,
        )  # fmt: skip
    for sentence in found.unknown:
        log.info("rollout %s: %s", plan.name, sentence)
    return found.plan


def pin(plan: Plan, known: Iterable[CatalogVersion]) -> Plan:
    """The plan with versions in place of ranges. Raises CatalogError for a version of a workflow of
    the catalog that is not there, or a range in which nothing is. Pure."""
    known = tuple(known)
    own, *others = (
        Pair(pair.split, _pinned(pair.baseline, known), _pinned(pair.candidate, known))
        for pair in plan.pairs
    )
    if plan.pairs == (own, *others):
        return plan
    return replace(plan, baseline=own.baseline, candidate=own.candidate, together=tuple(others))


def _pinned(arm: str, known: tuple[CatalogVersion, ...]) -> str:
    named = reference(arm)
    if named is None:
        return arm
    if is_exact(named.wanted) and named.name not in {one.workflow for one in known}:
        return arm  # whatever that is, it is no workflow of ours
    return pick(known, arm).name


def _incompatible(found: Judged) -> Incompatible:
    every = found.reasons
    more = f"; and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    first = found.refused[0][0]
    return Incompatible(
        f"rollout {found.plan.name} does not start: {first.new} cannot stand in for {first.old}: "
        f"{'; '.join(every[:_SHOWN])}{more}",
        reasons=every,
        hint=f"See: aura catalog diff {first.old} {first.new}. If you know better: "
        "aura rollout start --incompatible REASON",
    )
