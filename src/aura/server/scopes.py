"""What tokens that are limited to some workflows see of things that belong to one workflow each."""

from __future__ import annotations

from aura.gateway.problems import Problem
from aura.server.access import Caller
from aura.server.problems import Refused


def theirs(caller: Caller, workflow: str | None) -> str | None:
    """The workflow that is asked for, which a limited token must name unless it has one only.
    Raises Refused."""
    if workflow is None and len(caller.workflows) == 1:
        return caller.workflows[0]
    if workflow is None and caller.workflows:
        allowed = ", ".join(caller.workflows)
        raise Refused(
            Problem(403, "workflow-not-allowed", f"name one of your workflows: {allowed}")
        )
    if workflow is not None:
        caller.require(workflow)
    return workflow
