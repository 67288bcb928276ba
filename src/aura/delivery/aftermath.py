"""What a rollout does about its own decisions: it tells people, and sees to runs in flight.

Workflow code: called by the rollout's workflow when the traffic has been shifted already, so
nothing here can delay a rollback. What it does are steps, and runs of their own.
"""

from __future__ import annotations

from aura.delivery.alerts import Alert, Alerts
from aura.delivery.decide import NOT_ENOUGH
from aura.delivery.inflight import InFlightRuns
from aura.delivery.plan import Plan
from aura.delivery.turn import Turn

_KINDS = {
    "rollback": "rollback",
    "descend": "gradual",
    "hold": "hold",
    "advance": "advance",
    "complete": "complete",
    "ask": "approval",
}


class Aftermath:
    """What follows a turn. One per app."""

    def __init__(self, alerts: Alerts, runs: InFlightRuns) -> None:
        self._alerts = alerts
        self._runs = runs

    async def tell(self, plan: Plan, run: str, number: int, turn: Turn) -> None:
        """Tell of the turn of that number, if anybody wants to hear of it."""
        kind = _KINDS.get(turn.kind)
        if kind is None or not plan.alerts:
            return
        alert = Alert(
            id=f"{run}-{number}", kinds=(kind, *_causes(turn)), name=plan.name, at=turn.at,
            reason=turn.reason, by=turn.by, guard=turn.guard, split=plan.split, rollout=plan.name,
        )  # fmt: skip
        await self._alerts.tell(alert, plan.alerts)

    async def given_up(self, plan: Plan, run: str, reason: str) -> None:
        """The rollout cannot go on, and the traffic was taken back."""
        if plan.alerts:
            alert = Alert(
                id=f"{run}-given-up", kinds=("rollback",), name=plan.name,
                reason=f"given up: {reason}", split=plan.split, rollout=plan.name,
            )  # fmt: skip
            await self._alerts.tell(alert, plan.alerts)
        await self.over(plan, run)

    async def over(self, plan: Plan, run: str) -> None:
        """Everybody is back on the baseline: see to the candidate's runs."""
        for pair in plan.pairs:
            arms = (pair.baseline, pair.candidate)
            await self._runs.deal(plan.in_flight, arms, (plan.name, run))


def _causes(turn: Turn) -> tuple[str, ...]:
    """Why, when no person has said so."""
    if turn.order is not None or turn.kind not in ("rollback", "descend", "hold"):
        return ()
    missing = turn.guard == NOT_ENOUGH or turn.reason.startswith("not enough evidence")
    return ("not-enough",) if missing else ("trip",)
