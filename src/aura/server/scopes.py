"""What tokens that are limited to some workflows see of things that belong to one workflow each."""

from __future__ import annotations

from aura.app import Aura
from aura.errors import UnknownSchedule
from aura.gateway.problems import Problem
from aura.server import letters, schedules
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


async def require_schedule(app: Aura, caller: Caller, name: str, *, new: bool = False) -> None:
    """Raises UnknownSchedule for one that the caller's token is not for; a `new` one need not be
    there."""
    if not caller.workflows:
        return
    try:
        workflow = await schedules.workflow_of_schedule(app, name)
    except UnknownSchedule:
        if new:
            return
        raise
    if not caller.may_see(workflow):
        raise schedules.no_schedule(name)


async def require_letter(app: Aura, caller: Caller, letter: str) -> None:
    """Raises NoSuchDeadLetter for one that the caller's token is not for."""
    if caller.workflows:
        workflow = await letters.workflow_of_letter(app, letter)
        if workflow is None or not caller.may_see(workflow):
            raise letters.no_letter(letter)
