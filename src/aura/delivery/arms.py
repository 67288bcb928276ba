"""Arms that are versions of workflows, and what becomes of their runs at a rollback. Pure."""

from __future__ import annotations

import re
from typing import Literal

from aura.delivery.versions import reference

Policy = Literal["pin", "fork", "compensate"]


def version_of(arm: str) -> tuple[str, str] | None:
    """(workflow, version) of an arm that is named so, as in research@2.0.0; None for others."""
    found = re.fullmatch(r"(.+)@(\d+\.\d+\.\d+[^@]*)", arm)
    return (found[1], found[2]) if found else None


def misfit(policy: Policy, baseline: str, candidate: str) -> str:
    """Why runs of these arms cannot be dealt with like that, "" when they can."""
    if policy == "pin":
        return ""
    old, new = reference(baseline), reference(candidate)  # a range stands for a version, too
    if new is None:
        return f"the candidate {candidate} is no version of a workflow, so Aura has no runs of it"
    if policy == "fork" and (old is None or old[0] != new[0]):
        return f"{baseline} is no version of {new[0]}, so runs of {candidate} cannot go on there"
    return ""
