"""What the faces of Aura have in common about the catalog: versions, and which fit which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aura.app import Aura
from aura.delivery.catalog_values import (
    CatalogVersion,
    Compatibility,
    Deprecation,
    Facts,
    Override,
)
from aura.delivery.compatibility import Comparison
from aura.errors import UnknownVersion
from aura.server.operations import live_workers, storable
from aura.store.base import SETTLED

MOST_COMPARED = 40
"""So many versions are in a matrix: the newest."""

Verdict = Literal["compatible", "incompatible", "unknown"]


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version of a workflow. `owner` to `output` are what is `declared` in code and `filed` in
    files together; `starts` counts runs that were started while it was deprecated. Times are epoch
    seconds, None: never; `live`: a worker has it now."""

    name: str
    workflow: str
    version: str
    declared: Facts | None
    filed: Facts | None
    deprecated: Deprecation | None
    starts: int
    first_seen: float | None
    last_seen: float | None
    owner: str
    changelog: str
    metadata: dict[str, Any]
    input: dict[str, Any] | bool | None
    output: dict[str, Any] | bool | None
    runs_in_flight: int
    live: bool


@dataclass(frozen=True, slots=True)
class FindingView:
    """Something that one side sends and the other may not take; `path` is the field."""

    level: str
    kind: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What came of a comparison."""

    verdict: Verdict
    findings: tuple[FindingView, ...]


@dataclass(frozen=True, slots=True)
class FitView:
    """Whether the new version may take the place of the old one: of its inputs, its outputs, and
    runs in flight. `refused` says why a rollout does not start, `overrides` which ones did."""

    old: str
    new: str
    inputs: ComparisonView
    outputs: ComparisonView
    runs: ComparisonView
    overrides: tuple[Override, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionList:
    """Versions by workflow, the newest first."""

    versions: tuple[VersionView, ...]


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A workflow's versions, the newest first, and every pair of the newest 40 of them: a row for
    each old one, and in it each new one."""

    workflow: str
    versions: tuple[VersionView, ...]
    matrix: tuple[FitView, ...]


async def list_versions(app: Aura, workflow: str | None = None) -> VersionList:
    """All versions, or those of one workflow; none when it has none."""
    return VersionList(tuple(await _with_runs(app, await app.catalog.versions(workflow))))


async def show_workflow(app: Aura, name: str) -> WorkflowView:
    """A workflow's versions with their matrix. Raises UnknownVersion."""
    versions = await app.catalog.versions(name)
    if not versions:
        shown = name.encode("utf-8", "replace").decode()
        raise UnknownVersion(
            f"the catalog has no workflow {shown:.200}", hint="See: aura catalog list"
        )
    matrix = await app.catalog.matrix(versions[:MOST_COMPARED])
    fits = tuple(fit_view(cell) for row in matrix for cell in row)
    return WorkflowView(name, tuple(await _with_runs(app, versions)), fits)


async def show_version(app: Aura, name: str) -> VersionView:
    """The version that `research@1.0.0` names, or a range stands for. Raises CatalogError."""
    found = await app.catalog.version(_known(name))
    return (await _with_runs(app, [found]))[0]


async def compare(app: Aura, old: str, new: str) -> FitView:
    """Whether the new version may take the place of the old one. Raises CatalogError."""
    return fit_view(await app.catalog.compare(_known(old), _known(new)))


async def deprecate(
    app: Aura, name: str, *, by: str, why: str, replacement: str = ""
) -> VersionView:
    """Ask everybody to start no more runs of a version. Raises CatalogError, InvalidInput."""
    await app.catalog.deprecate(_known(name), why=why, replacement=replacement, by=by)
    return await show_version(app, name)


async def restore(app: Aura, name: str) -> VersionView:
    """Take a deprecation back. Raises CatalogError."""
    await app.catalog.restore(_known(name))
    return await show_version(app, name)


def fit_view(cell: Compatibility) -> FitView:
    """A cell of the matrix for people and programs."""
    return FitView(
        cell.old, cell.new, _comparison(cell.inputs), _comparison(cell.outputs),
        _comparison(cell.runs), cell.overrides, cell.refused,
    )  # fmt: skip


def _comparison(found: Comparison) -> ComparisonView:
    return ComparisonView(found.verdict, tuple(FindingView(*one) for one in found.findings))


async def _with_runs(app: Aura, versions: Sequence[CatalogVersion]) -> list[VersionView]:
    counts: Counter[str] = Counter()
    for (workflow, version, state), count in (
        await app.store.count_runs(("workflow", "version", "state"))
    ).items():
        if state not in SETTLED:
            counts[f"{workflow}@{version}"] += count
    live = {name for worker in await live_workers(app) for name in worker.workflows}
    return [
        _view(one, counts[one.name], f"{one.workflow} {one.version}" in live) for one in versions
    ]


def _view(one: CatalogVersion, in_flight: int, live: bool) -> VersionView:
    facts = one.facts
    return VersionView(
        one.name, one.workflow, one.version, one.declared, one.filed, one.deprecated, one.starts,
        one.first_seen, one.last_seen, facts.owner, facts.changelog, facts.metadata, facts.input,
        facts.output, in_flight, live,
    )  # fmt: skip


def _known(name: str) -> str:
    if not storable(name):
        raise UnknownVersion("the catalog has no version of that name", hint="Use other characters")
    return name
