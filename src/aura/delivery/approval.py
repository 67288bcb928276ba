"""Approvals: what people say about a stage, as the durable signal `approval` to a rollout's run.

    approval: {needed: 2, from: [ann, bob, cid], timeout: 2d, on_refusal: rollback}

The signal's payload is `{"stage": "50%", "by": "ann", "ok": true, "reason": "..."}`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aura.errors import PlanError
from aura.yamlnodes import Node

OnRefusal = Literal["rollback", "hold"]

SIGNAL = "approval"
"""The name of the signal."""


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """Who has to approve before a stage is passed. Raises PlanError for what nobody can fulfil.

    `needed`      so many different people
    `people`      who may; anybody when empty
    `timeout`     seconds after asking; then it is missing evidence (`on_not_enough`). None: waits
    `on_refusal`  what a single refusal does
    """

    needed: int = 1
    people: tuple[str, ...] = ()
    timeout: float | None = None
    on_refusal: OnRefusal = "rollback"

    def __post_init__(self) -> None:
        if self.needed < 1:
            raise PlanError("an approval is needed from nobody", hint="leave it out, or write 1")
        if self.people and len(set(self.people)) < self.needed:
            raise PlanError(
                f"{self.needed} approvals are needed from {len(set(self.people))} people",
                hint="name more people, or need fewer",
            )


@dataclass(frozen=True, slots=True)
class Said:
    """One approval (or refusal: `ok` is False) as it was received. `flaw` says why it is none."""

    stage: str = ""
    by: str = ""
    ok: bool = True
    reason: str = ""
    flaw: str = ""


def approval_of(node: Node) -> ApprovalRule:
    """The value of `approval:`. Raises PlanError with file and line."""
    found = node.fields({"needed", "from", "timeout", "on_refusal"})
    given: dict[str, Any] = {}
    if "needed" in found:
        given["needed"] = found["needed"].integer(least=1)
    if "from" in found:
        given["people"] = tuple(each.text() for each in found["from"].items("a person"))
    if "timeout" in found:
        given["timeout"] = found["timeout"].seconds(positive=True)
    if "on_refusal" in found:
        given["on_refusal"] = found["on_refusal"].choice("rollback", "hold")
    try:
        return ApprovalRule(**given)
    except PlanError as error:
        node.fail(error.message, error.hint)


def read_said(payload: object) -> Said:
    """What was received. Never raises: what is no approval says so in its `flaw`."""
    if not isinstance(payload, dict):
        return Said(flaw="an approval that cannot be read")
    words = {name: payload.get(name, "") for name in ("stage", "by", "reason")}
    ok = payload.get("ok", True)
    if not isinstance(ok, bool) or not all(isinstance(word, str) for word in words.values()):
        return Said(flaw="an approval that cannot be read")
    if not words["by"].strip():
        return Said(**words, ok=ok, flaw="an approval that does not say by whom it is")
    return Said(**words, ok=ok)


def write_said(said: Said) -> dict[str, Any]:
    """The signal's payload."""
    return {"stage": said.stage, "by": said.by, "ok": said.ok, "reason": said.reason}
