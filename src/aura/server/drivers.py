"""Whether a worker is there that carries out what was asked for."""

from __future__ import annotations

from typing import Any

from aura.app import Aura
from aura.engine import Workflow
from aura.server.operations import live_workers

NOBODY = "Start one with: aura worker MODULE:APP, or aura serve MODULE:APP"
"""What to do when there is none."""


async def is_driven(app: Aura, workflow: Workflow[..., Any]) -> bool:
    """Whether a live worker can execute the workflow."""
    wanted = f"{workflow.name} {workflow.version}"
    return any(wanted in worker.workflows for worker in await live_workers(app))
