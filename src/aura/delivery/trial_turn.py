"""Turns of an experiment as they are journalled, and the orders that lead to some. Pure values."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from aura.delivery.conclude import (
    ORDERS,
    Decision,
    Drop,
    End,
    ExperimentState,
    Given,
    Status,
    after,
)
from aura.delivery.decide import Continue, Hold


@dataclass(frozen=True, slots=True)
class Mark:
    """When an experiment began (epoch seconds), and behind which items of its feeds."""

    at: float
    observations: int
    rewards: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision as it is journalled; `orders` were read, `order` is the one that led to it."""

    kind: Literal["continue", "hold", "drop", "end"]
    reason: str
    at: float
    orders: int
    arm: str = ""
    status: Status = "running"
    order: str = ""
    by: str = ""

    def decision(self) -> Decision:
        """The decision that it was."""
        match self.kind:
            case "hold":
                return Hold(self.reason)
            case "drop":
                return Drop(self.arm, self.reason)
            case "end":
                return End(self.status, self.reason, self.arm)
            case "continue":
                return Continue(self.reason)


@dataclass(frozen=True, slots=True)
class Leg:
    """Where an experiment is between two turns. `split` is the one with which it began, as JSON;
    `epoch` is the split's now."""

    mark: Mark
    split: str
    epoch: int
    state: ExperimentState
    turn: int = 0
    orders: int = 0

    def onward(self, turn: Turn, epoch: int) -> Leg:
        """The leg after the turn, with the split at `epoch`."""
        state = after(self.state, turn.decision(), epoch)
        return replace(self, epoch=epoch, state=state, turn=self.turn + 1, orders=turn.orders)


def read_order(seq: int, payload: bytes) -> Given:
    """What `write_order` wrote. Never raises: what cannot be read is an order to do nothing."""
    try:
        body: Any = json.loads(payload)
        order, texts = body["order"], [str(body.get(key, "")) for key in ("arm", "by", "reason")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Given(seq)
    return Given(seq, order, *texts) if order in ORDERS else Given(seq)


def write_order(given: Given, at: float) -> bytes:
    """An order for the feed; `at` in epoch seconds."""
    return json.dumps(
        {
            "order": given.order,
            "arm": given.arm,
            "by": given.by,
            "reason": given.reason,
            "at": at,
        }
    ).encode()


def taken(decision: Decision, given: Given, now: float) -> Turn:
    """The turn for a decision at `now` (epoch seconds)."""
    match decision:
        case Hold(reason=reason):
            turn = Turn("hold", reason, now, given.seq)
        case Drop(arm=arm, reason=reason):
            turn = Turn("drop", reason, now, given.seq, arm)
        case End(status=status, reason=reason, arm=arm):
            turn = Turn("end", reason, now, given.seq, arm, status)
        case Continue(reason=reason):
            turn = Turn("continue", reason, now, given.seq)
    if given.order is None:
        return turn
    return replace(turn, order=given.order, by=given.by)
