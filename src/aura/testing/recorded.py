"""Recorded runs as regression tests: what happened once is replayed against the code of today."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

from aura.app import Aura
from aura.engine.arriving import histories
from aura.engine.definition import Registry, Workflow
from aura.engine.rehearsal import rehearse_all
from aura.engine.replaying import ReplayReport
from aura.errors import SandboxError
from aura.store.base import Claimed


async def replay(
    code: Aura | Workflow[..., Any] | Iterable[Workflow[..., Any]],
    histories: Claimed | Sequence[Claimed],
    *,
    version: str | None = None,
) -> ReplayReport:
    """Replay recorded runs against an app, or workflows. No step is executed and nothing written.

    Each meets the version that wrote it, or `version`. Use it in a test as
    `assert (await replay(app, load_histories("order.bundle"))).compatible`; the report tells where
    code and journal part. Raises SandboxError when there is nothing to replay.
    """
    found = [histories] if isinstance(histories, Claimed) else list(histories)
    if not found:
        raise SandboxError("there is no history to replay", hint="Give one run at least")
    report = await rehearse_all(_registry(code), _one_by_one(found), version=version)
    if report.skipped:
        first = report.skipped[0]
        raise SandboxError(
            f"run {first.run} of {first.workflow} {first.recorded_version} cannot be replayed: "
            f"{first.reason}",
            hint="Give the app that has this workflow, or version=",
        )
    return report


def load_histories(path: str | Path) -> list[Claimed]:
    """The runs in a bundle, as `aura runs export` or `Sandbox.export` has written it.

    Raises BundleDamaged, BundleError, SandboxError when there is no such file.
    """
    where = Path(path)
    if not where.is_file():
        raise SandboxError(
            f"there is no bundle {where}", hint="Write one with: aura runs export ID -o FILE"
        )
    return list(histories(where))


def _registry(code: Aura | Workflow[..., Any] | Iterable[Workflow[..., Any]]) -> Registry:
    if isinstance(code, Aura):
        return code.registry
    registry = Registry()
    for workflow in [code] if isinstance(code, Workflow) else code:
        registry.add(workflow)
    return registry


async def _one_by_one(histories: Sequence[Claimed]) -> AsyncIterator[Claimed]:
    for history in histories:
        yield history
