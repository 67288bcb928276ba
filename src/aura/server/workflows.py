"""What the faces of Aura show of workflows, their versions, and the workers that execute them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aura.app import Aura
from aura.delivery.catalog_values import CatalogVersion
from aura.delivery.versions import newest_first
from aura.errors import UnknownWorker, UnknownWorkflow
from aura.server.operations import live_workers, storable
from aura.server.views import RunView, WorkerView, run_view, time_of, worker_view
from aura.store.base import RunFilter

OWN = "aura."
"""Workflows of Aura itself begin so; they are not listed."""
MOST_HELD = 100
"""So many of a worker's runs are shown."""


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version of a workflow. `here`: this process has its code; `workers` that have it and live;
    `runs` counts them by state. `input` and `output` are JSON schemas, None when nobody has told.
    `deprecated` says why, and `replacement` what to take in its place."""

    version: str
    here: bool
    workers: int
    runs: dict[str, int]
    owner: str
    changelog: str
    deprecated: str | None
    replacement: str | None
    input: dict[str, Any] | None
    output: dict[str, Any] | None
    first_seen: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A workflow with its versions, the newest first; `runs` counts those of all, by state."""

    name: str
    versions: tuple[VersionView, ...]
    runs: dict[str, int]


@dataclass(frozen=True, slots=True)
class WorkerDetail:
    """A worker with the newest of the runs that it has now, and whether there are more."""

    worker: WorkerView
    runs: tuple[RunView, ...]
    more_runs: bool


async def list_workflows(app: Aura, allowed: Sequence[str] = ()) -> list[WorkflowView]:
    """The workflows that this process, the catalog or runs know of, by name; of those that are
    `allowed`, if that is said."""
    cataloged = {
        (one.workflow, one.version): one for one in await app.catalog.versions()
    }  # fmt: skip
    here = set(app.registry.versions())
    counts: dict[tuple[str, str], Counter[str]] = {}
    for (name, version, state), count in (
        await app.store.count_runs(("workflow", "version", "state"))
    ).items():
        counts.setdefault((str(name), str(version)), Counter())[str(state)] += count
    known = {pair for pair in {*cataloged, *here, *counts} if not pair[0].startswith(OWN)}
    busy = Counter(pair for worker in await live_workers(app) for pair in worker.workflows)
    names = sorted({name for name, _ in known if not allowed or name in allowed})
    return [_workflow(name, known, cataloged, here, counts, busy) for name in names]


async def show_workflow(app: Aura, name: str) -> WorkflowView:
    """One workflow. Raises UnknownWorkflow."""
    found = await list_workflows(app, (name,)) if storable(name) else []
    if not found:
        raise no_workflow(name)
    return found[0]


def no_workflow(name: str) -> UnknownWorkflow:
    """What to raise for a name that no workflow has."""
    shown = name[:200].encode("utf-8", "replace").decode()
    return UnknownWorkflow(f"there is no workflow {shown}", hint="List them: GET /workflows")


async def list_workers(app: Aura, *, gone: bool = False) -> list[WorkerView]:
    """The workers that live, the oldest first; with `gone` also those whose lease is over."""
    now = await app.store.moment()
    views = [worker_view(worker, now) for worker in await app.store.workers()]
    return [view for view in views if gone or view.live]


async def show_worker(app: Aura, worker_id: str) -> WorkerDetail:
    """A worker with its runs. Raises UnknownWorker."""
    found = [one for one in await list_workers(app, gone=True) if one.id == worker_id]
    if not found:
        shown = worker_id[:200].encode("utf-8", "replace").decode()
        raise UnknownWorker(f"there is no worker {shown}", hint="List them: GET /workers")
    runs = await app.store.runs(RunFilter(owner=worker_id, limit=MOST_HELD + 1))
    return WorkerDetail(found[0], tuple(map(run_view, runs[:MOST_HELD])), len(runs) > MOST_HELD)


def _workflow(
    name: str,
    known: set[tuple[str, str]],
    cataloged: dict[tuple[str, str], CatalogVersion],
    here: set[tuple[str, str]],
    counts: dict[tuple[str, str], Counter[str]],
    busy: Counter[str],
) -> WorkflowView:
    versions = newest_first(version for each, version in known if each == name)
    total: Counter[str] = Counter()
    views = []
    for version in versions:
        runs = counts.get((name, version), Counter())
        total += runs
        entry = cataloged.get((name, version)) or CatalogVersion(name, version)
        views.append(_version(entry, (name, version) in here, busy[f"{name} {version}"], runs))
    return WorkflowView(name, tuple(views), dict(total))


def _version(entry: CatalogVersion, here: bool, workers: int, runs: Counter[str]) -> VersionView:
    facts, seen = entry.facts, (entry.first_seen, entry.last_seen)
    first, last = (None if at is None else time_of(at) for at in seen)
    return VersionView(
        version=entry.version,
        here=here,
        workers=workers,
        runs=dict(runs),
        owner=facts.owner,
        changelog=facts.changelog,
        deprecated=entry.deprecated.why if entry.deprecated else None,
        replacement=entry.deprecated.replacement if entry.deprecated else None,
        input=facts.input,
        output=facts.output,
        first_seen=first,
        last_seen=last,
    )
