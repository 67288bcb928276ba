"""Turns: the decisions of a rollout as they are journalled, and the orders that lead to some.

Pure values. `Leg` is where a rollout is between two turns; all of it comes from the journal, so a
worker that takes a rollout over stands exactly where the other one stood.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from aura.delivery import decide as rules
from aura.delivery.approval import Said
from aura.delivery.decide import (
    ORDERS,
    Advance,
    Approve,
    Ask,
    Complete,
    Continue,
    Decision,
    Descend,
    Hold,
    Order,
    Pause,
    Restart,
    Rollback,
    RolloutState,
)
from aura.delivery.guard import Judgement
from aura.delivery.plan import Plan
from aura.delivery.status import Event
from aura.errors import StepFailed

_MEANS: dict[Order, tuple[type[Decision], ...]] = {
    "advance": (Advance, Complete),
    "hold": (Hold,),
    "resume": (Continue, Advance, Complete),
    "rollback": (Rollback,),
    "pause": (Pause,),
    "retry": (Restart, Advance),
    "skip": (Advance,),
}


@dataclass(frozen=True, slots=True)
class Given:
    """An order as it was read: number `seq` of its feed. `order` is None when there is none, or
    when it is none that this version knows; then `reason` says so. `to` is the stage it names."""

    seq: int
    order: Order | None = None
    by: str = ""
    reason: str = ""
    to: str = ""

    def is_in(self, history: Sequence[Event]) -> bool:
        """Whether it was noted: by its number, or as the emergency that wrote it noted it."""
        said = (self.order, self.by, self.reason)
        return any(
            one.order == self.seq or (one.what, one.by, one.reason) == said for one in history
        )

    def too_late(self, now: float) -> Event:
        """For the history: it came when the end was decided already."""
        what = self.order or "order"
        return Event(now, what, "not carried out: it came after the end", self.by, order=self.seq)


Kind = Literal[
    "continue",
    "advance",
    "hold",
    "rollback",
    "complete",
    "pause",
    "restart",
    "ask",
    "approve",
    "descend",
    "hear",
]

_PLAIN: dict[str, type[Hold | Complete | Pause | Restart | Ask]] = {
    "hold": Hold,
    "complete": Complete,
    "pause": Pause,
    "restart": Restart,
    "ask": Ask,
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision as it is journalled. `at` is when it was taken, `since` the time (epoch seconds)
    of the observation that tripped a guard, 0.0 otherwise; `orders` how many orders were read,
    `order` the one that led to it. `to` is the index of a stage or step, `target` the stage that
    the order named. "hear" only says that an approval has arrived: signal number `signal`."""

    kind: Kind
    reason: str
    at: float
    orders: int
    order: Order | None = None
    by: str = ""
    to: int = 0
    guard: str = ""
    since: float = 0.0
    target: str = ""
    signal: int = 0

    def decision(self) -> Decision:
        match self.kind:
            case "advance":
                return Advance(self.to, self.reason)
            case "descend":
                return Descend(self.to, self.reason, self.guard)
            case "rollback":
                return Rollback(self.reason, self.guard)
            case "approve":
                return Approve(self.by, self.reason)
            case "continue" | "hear":
                return Continue(self.reason)
            case _:
                return _PLAIN[self.kind](self.reason)

    def event(self, now: float, read: int) -> Event:
        """For the history, carried out `now`; so many orders had been `read` before."""
        what: str = self.kind
        if what in ("continue", "restart") or (what == "advance" and self.order == "skip"):
            what = self.order or "void"
        seq = self.orders if self.orders > read else 0
        return Event(self.at, what, self.reason, self.by, now, self.since, seq)


@dataclass(frozen=True, slots=True)
class Mark:
    """When a rollout began (epoch seconds), and behind which observation of each split's feed."""

    at: float
    observations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leg:
    """Where a rollout is between two turns. Of epochs there is one per split, in the plan's order.

    `opened`   the epochs with which it began
    `since`    those from which on observations are evidence: later ones after a hold
    `epochs`   those of now
    `turn`     how many turns were taken, `orders` how many orders were read, `signals` up to which
               signal approvals were received
    """

    mark: Mark
    opened: tuple[int, ...]
    since: tuple[int, ...]
    epochs: tuple[int, ...]
    state: RolloutState
    turn: int = 0
    orders: int = 0
    signals: int = 0

    def after(self, turn: Turn) -> RolloutState:
        """The state when the turn is carried out."""
        given = replace(self.state, order=turn.order, target=turn.target)
        return rules.apply(given, turn.decision(), turn.at)

    def renews(self, turn: Turn) -> bool:
        """Whether the evidence begins anew: at each step down, in a stage that is begun again, and
        after a hold, since who goes on then has judged the old one."""
        if turn.kind in ("descend", "restart"):
            return True
        return self.state.status == "held" and self.after(turn).status == "running"

    def onward(self, turn: Turn, epochs: tuple[int, ...]) -> Leg:
        """The leg after the turn, with the splits at these epochs."""
        return replace(
            self,
            since=epochs if self.renews(turn) else self.since,
            epochs=epochs,
            state=self.after(turn),
            turn=self.turn + 1,
            orders=turn.orders,
            signals=max(self.signals, turn.signal),
        )


def read_order(seq: int, payload: bytes) -> Given:
    """What `write_order` wrote. Never raises: what cannot be read is an order to do nothing."""
    try:
        body: Any = json.loads(payload)
        order, by, reason = body["order"], str(body.get("by", "")), str(body.get("reason", ""))
        to = str(body.get("to", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        order, by, reason, to = None, "", "", ""
    if order not in ORDERS:
        return Given(seq, None, by, f"order {seq} cannot be read")
    return Given(seq, order, by, reason, to)


def write_order(order: Order, by: str, reason: str, at: float, to: str = "") -> bytes:
    """An order for the feed; `at` in epoch seconds, `to` a stage's name."""
    body = {"order": order, "by": by, "reason": reason, "at": at}
    return json.dumps({**body, "to": to} if to else body).encode()


def judged_by_a_person(plan: Plan, state: RolloutState, order: Order | None) -> bool:
    """Whether the guards have no say: one that they only hold is advanced in spite of them."""
    return order in ("advance", "skip") and state.status == "held" and plan.on_trip == "hold"


def taken(decision: Decision, given: Given, trip: Judgement | None, now: float) -> Turn:
    """The turn for a decision at `now` (epoch seconds). `trip` is the guards' first, if any."""
    kind = cast("Kind", type(decision).__name__.lower())
    turn = Turn(kind, decision.reason, now, given.seq)
    void = isinstance(decision, Continue) and decision.void
    if given.order is not None and isinstance(decision, _MEANS[given.order]) and not void:
        why = f": {given.reason}" if given.reason else ""
        turn = replace(turn, order=given.order, by=given.by, reason=f"{decision.reason}{why}")
        turn = replace(turn, target=given.to)
    elif given.order is not None:
        reason = f"{decision.reason} (the order to {given.order} is void)"
        turn = replace(turn, reason=reason, by=given.by if void else "")
    elif given.reason:
        turn = replace(turn, reason=f"{given.reason}; {decision.reason}")
    if isinstance(decision, Advance | Descend):
        turn = replace(turn, to=decision.to)
    if isinstance(decision, Rollback | Descend):
        since = trip.at if trip is not None and decision.guard else 0.0
        return replace(turn, guard=decision.guard, since=since)
    return turn


def heard(decision: Decision, said: Said, heard: Turn) -> Turn:
    """The turn for what an approval led to; `heard` is the one that told of it."""
    kind = cast("Kind", type(decision).__name__.lower())
    turn = replace(heard, kind=kind, reason=decision.reason, by=said.by)
    return replace(turn, guard=decision.guard) if isinstance(decision, Rollback) else turn


def reason_of(error: Exception) -> str:
    """Why nobody can go on, for the history."""
    return error.reason if isinstance(error, StepFailed) else f"{type(error).__name__}: {error}"
