"""Turns: the decisions of a rollout as they are journalled, and the orders that lead to some.

Pure values. `Leg` is where a rollout is between two turns; all of it comes from the journal, so a
worker that takes a rollout over stands exactly where the other one stood.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from aura.delivery import decide as rules
from aura.delivery.decide import (
    Advance,
    Complete,
    Continue,
    Decision,
    Hold,
    Order,
    Rollback,
    RolloutState,
)
from aura.delivery.guard import Judgement
from aura.delivery.plan import Plan
from aura.delivery.status import Event

ORDERS: tuple[Order, ...] = get_args(Order)

_MEANS: dict[Order, tuple[type[Decision], ...]] = {
    "advance": (Advance, Complete),
    "hold": (Hold,),
    "resume": (Continue, Advance, Complete),
    "rollback": (Rollback,),
}


@dataclass(frozen=True, slots=True)
class Given:
    """An order as it was read: number `seq` of its feed. `order` is None when there is none, or
    when it is none that this version knows; then `reason` says so."""

    seq: int
    order: Order | None = None
    by: str = ""
    reason: str = ""

    def too_late(self, now: float) -> Event:
        """For the history: it came when the end was decided already."""
        what = self.order or "order"
        return Event(now, what, "not carried out: it came after the end", self.by, order=self.seq)


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision as it is journalled. `at` is when it was taken, `since` the time (epoch seconds)
    of the observation that tripped a guard, 0.0 otherwise; `orders` how many orders were read,
    `order` the one that led to it."""

    kind: Literal["continue", "advance", "hold", "rollback", "complete"]
    reason: str
    at: float
    orders: int
    order: Order | None = None
    by: str = ""
    to: int = 0
    guard: str = ""
    since: float = 0.0

    def decision(self) -> Decision:
        match self.kind:
            case "advance":
                return Advance(self.to, self.reason)
            case "hold":
                return Hold(self.reason)
            case "rollback":
                return Rollback(self.reason, self.guard)
            case "complete":
                return Complete(self.reason)
            case "continue":
                return Continue(self.reason)

    def event(self, now: float, read: int) -> Event:
        """For the history, carried out `now`; so many orders had been `read` before."""
        what: str = self.kind
        if what == "continue":
            what = self.order or "void"
        seq = self.orders if self.orders > read else 0
        return Event(self.at, what, self.reason, self.by, now, self.since, seq)


@dataclass(frozen=True, slots=True)
class Mark:
    """When a rollout began (epoch seconds), and behind which observation of the feed."""

    at: float
    observations: int


@dataclass(frozen=True, slots=True)
class Leg:
    """Where a rollout is between two turns.

    `opened`   the split's epoch with which it began
    `since`    the epoch from which on observations are evidence: a later one after a hold
    `epoch`    the split's epoch now
    `turn`     how many turns were taken, `orders` how many orders were read
    """

    mark: Mark
    opened: int
    since: int
    epoch: int
    state: RolloutState
    turn: int = 0
    orders: int = 0

    def after(self, turn: Turn) -> RolloutState:
        """The state when the turn is carried out."""
        return rules.apply(replace(self.state, order=turn.order), turn.decision(), turn.at)

    def renews(self, turn: Turn) -> bool:
        """Whether the evidence begins anew: who goes on after a hold has judged the old one."""
        return self.state.status == "held" and self.after(turn).status == "running"

    def onward(self, turn: Turn, epoch: int) -> Leg:
        """The leg after the turn, with the split at `epoch`."""
        since = epoch if self.renews(turn) else self.since
        state = self.after(turn)
        return replace(
            self, since=since, epoch=epoch, state=state, turn=self.turn + 1, orders=turn.orders
        )


def read_order(seq: int, payload: bytes) -> Given:
    """What `write_order` wrote. Never raises: what cannot be read is an order to do nothing."""
    try:
        body: Any = json.loads(payload)
        order, by, reason = body["order"], str(body.get("by", "")), str(body.get("reason", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        order, by, reason = None, "", ""
    if order not in ORDERS:
        return Given(seq, None, by, f"order {seq} cannot be read")
    return Given(seq, order, by, reason)


def write_order(order: Order, by: str, reason: str, at: float) -> bytes:
    """An order for the feed; `at` in epoch seconds."""
    return json.dumps({"order": order, "by": by, "reason": reason, "at": at}).encode()


def judged_by_a_person(plan: Plan, state: RolloutState, order: Order | None) -> bool:
    """Whether the guards have no say: one that they only hold is advanced in spite of them."""
    return order == "advance" and state.status == "held" and plan.on_trip == "hold"


def taken(decision: Decision, given: Given, trip: Judgement | None, now: float) -> Turn:
    """The turn for a decision at `now` (epoch seconds). `trip` is the guards' first, if any."""
    kind = cast("Any", type(decision).__name__.lower())
    turn = Turn(kind, decision.reason, now, given.seq)
    if given.order is not None and isinstance(decision, _MEANS[given.order]):
        why = f": {given.reason}" if given.reason else ""
        turn = replace(turn, order=given.order, by=given.by, reason=f"{decision.reason}{why}")
    elif given.order is not None:
        turn = replace(turn, reason=f"{decision.reason} (the order to {given.order} is void)")
    elif given.reason:
        turn = replace(turn, reason=f"{given.reason}; {decision.reason}")
    if isinstance(decision, Advance):
        return replace(turn, to=decision.to)
    if isinstance(decision, Rollback):
        since = trip.at if trip is not None and decision.guard else 0.0
        return replace(turn, guard=decision.guard, since=since)
    return turn
