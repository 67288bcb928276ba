"""What a shell offers for a word that is begun: names that the database has.

Cheap or nothing: only of a database that is there, within half a second (AURA_COMPLETE_SECONDS says
another time), and whatever goes wrong means that nothing is offered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from aura.errors import AuraError

if TYPE_CHECKING:
    from aura.app import Aura

WITHIN = 0.5
"""Seconds."""

MOST = 50
"""Names that are offered."""

Source = Callable[["Aura"], Awaitable[Iterable[str]]]


def run_ids(ctx: Any, incomplete: str) -> list[str]:
    """Of the newest runs."""

    async def look(app: Aura) -> Iterable[str]:
        from aura.store.base import RunFilter

        return [run.id for run in await app.runs(RunFilter(limit=200))]

    return _offered(ctx, incomplete, look)


def rollout_names(ctx: Any, incomplete: str) -> list[str]:
    """Of all rollouts."""

    async def look(app: Aura) -> Iterable[str]:
        return [status.name for status in await app.rollouts.all()]

    return _offered(ctx, incomplete, look)


def versions(ctx: Any, incomplete: str) -> list[str]:
    """Versions of workflows, as in research@1.0.0."""

    async def look(app: Aura) -> Iterable[str]:
        return [f"{one.workflow}@{one.version}" for one in await app.catalog.versions()]

    return _offered(ctx, incomplete, look)


def _patience() -> float:
    try:
        return float(os.environ.get("AURA_COMPLETE_SECONDS", WITHIN))
    except ValueError:
        return WITHIN


def _offered(ctx: Any, incomplete: str, source: Source) -> list[str]:
    from aura.cli.loading import bare_app

    async def ask() -> list[str]:
        async with asyncio.timeout(_patience()):
            app = bare_app((ctx.params or {}).get("database"))
            async with app.client():
                return [one for one in await source(app) if one.startswith(incomplete)][:MOST]

    with contextlib.suppress(AuraError, OSError, TimeoutError):
        return asyncio.run(ask())
    return []
